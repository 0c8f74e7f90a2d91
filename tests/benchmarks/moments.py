"""What many moments cost: to choose, to keep in MLflow, to put to a decider, to log as an evaluation, to read again.

`make bench ARGS=moments` takes COUNT of them; the server is a real one on SQLite.
"""

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tasks.adapters.mlflow import datasets, evaluation
from tasks.adapters.mlflow.comparison import server_of
from tasks.core.decision.rules import RulesDecider
from tasks.core.lab import moments
from tasks.core.market.market import Market
from tasks.core.simulation.backtest_inputs import World
from tests.adapters.mlflow_server import running_mlflow
from tests.benchmarks.tapes import walk
from tests.core.replayed import strategy

COUNT = int(os.environ.get("QUARTERDECK_BENCH_MOMENTS", "10000"))
SYMBOL = "X/USDT:USDT"


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print how long it took, in all and a moment."""
    began, cpu = time.perf_counter(), time.process_time()
    yield
    took = time.perf_counter() - began
    each = f"{took / COUNT * 1000:.1f} ms a moment"
    print(f"{what:<34} {took:8.1f} s  {time.process_time() - cpu:8.1f} CPU s here  {each}", flush=True)


def main() -> None:
    """Print a line for each part."""
    mine = strategy(SYMBOL)
    market = Market.from_base(SYMBOL, walk(288 * 80, seed=3))
    with timed("choose"):
        chosen = moments.of_candles(market, mine, World(), COUNT, COUNT // 100)[:COUNT]
    with timed("put to rules, score"):
        found = asyncio.run(moments.evaluate(chosen, RulesDecider(), mine))
    with TemporaryDirectory() as folder, running_mlflow(Path(folder)) as url:
        server = server_of(url)
        _ = server.mlflow
        with timed("keep as a dataset"):
            dataset = datasets.create(server, "bench", chosen, {})
        with timed("read the dataset"):
            datasets.read(server, "bench")
        with timed("log an evaluation"):
            run_id = evaluation.log_evaluation(server, "rules", {}, dataset, found, lambda _: None)
        where = {"locations": [server.experiment_id], "run_id": run_id, "include_spans": False, "return_type": "list"}
        with timed("its first page of traces"):
            page = server.mlflow.search_traces(max_results=100, **where)
        size = sum(path.stat().st_size for path in Path(folder).glob("mlflow.db*")) / 1e6
        print(f"{len(chosen)} moments, {len(page)} traces on the first page, MLflow's database {size:.0f} MB")
