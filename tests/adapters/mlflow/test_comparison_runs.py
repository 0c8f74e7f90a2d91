"""What a comparison leaves in MLflow: figures where there are any, calibration by deciles as steps."""

from collections import defaultdict
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from tasks.adapters.mlflow.comparison import log_comparison
from tasks.core.lab.calibration import Promise, calibration
from tasks.core.lab.compare import Comparison, Row, Variant
from tasks.core.lab.statistics import Interval


class Runs:
    """Keeps what is logged, by run and step."""

    def __init__(self) -> None:
        self.client, self.logged = MagicMock(), defaultdict[tuple[str, int], dict[str, Any]](dict)

    def translated(self) -> nullcontext[None]:
        return nullcontext()

    def create_run(self, name: str, tags: dict[str, str]) -> SimpleNamespace:
        return SimpleNamespace(info=SimpleNamespace(run_id=name))

    def log(self, run: str, metrics: dict[str, Any], params: object = None, at_ms: int = 0, step: int = 0) -> None:
        self.logged[run, step] |= metrics


def test_a_variants_calibration_is_logged_and_what_is_unknown_is_not_made_up(tmp_path: Path):
    said = [Promise(0.9, True, 2.0), Promise(0.9, False, -1.0), Promise(0.6, False, -1.0)]
    row = Row(
        label="v", baseline=False, return_pct=1.0, sharpe=None, max_drawdown_pct=1.0, trades=3, win_rate=1 / 3,
        expectancy_r=None, daily_bps=Interval(estimate=1.0, n=20, effective_n=20), psr=None, dsr=None, chance=None,
        calibration=calibration(said), decisions=3, model_calls=0, invalid=0, fees_quote=1.0, llm_cost_usd=0.0,
        cost_per_decision_usd=0.0, complete=True, windows=(),
    )  # fmt: skip
    found = Comparison(
        symbols=("BTC/USDT",), asset_pct={}, data_sha256="", windows=(), rows=(row,), pairs=(), overfit=None, tried=1,
        leakage=(), gate=(), complete=True, funding="unknown", funding_coverage=0.0,
    )  # fmt: skip
    runs = Runs()
    log_comparison(runs, found, "nothing shown", [Variant(label="v", decider="rules")], "title", {}, {}, tmp_path)
    first, second = runs.logged["v", 0], runs.logged["v", 1]
    assert (first["brier"], first["brier_of_share"]) == (pytest.approx((0.01 + 0.81 + 0.36) / 3), pytest.approx(2 / 9))
    assert (first.get("sharpe"), first["daily_bps_low"], first["daily_bps_effective_n"]) == (None, None, 20)
    deciles = [(each["decile.confidence"], each["decile.won"], each["decile.expectancy_r"]) for each in (first, second)]
    assert deciles == [(0.6, 0.0, -1.0), (0.9, 0.5, 0.5)]
