"""What a decision costs besides the model, and 10,000 fuzzed replies through the parser, in CPU seconds.

The model answers at once in two ways: in this process (a `Model` that returns a ready call: what is left is ours), and
from a server over HTTP in a process of its own (litellm's client, the ladder and the store are in it). A network's and
a model's time is in neither; wall seconds over HTTP hold the server's few milliseconds, CPU seconds do not.
"""

import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from statistics import median

from tasks.adapters.deciders import build
from tasks.adapters.files.prompts import load_prompt
from tasks.adapters.store.store import Store
from tasks.core.decision.actions import Unusable, parse_reply
from tasks.core.decision.kinds import Means
from tasks.core.decision.llm.panel import PanelDecider
from tasks.core.decision.llm.single import SingleDecider
from tasks.core.ports import Decider
from tasks.core.types.decision import DECISION, ModelCall
from tasks.core.types.limits import Budget
from tasks.settings import ROOT, load

sys.path[:0] = [str(ROOT / "tests" / part) for part in ("core", "adapters")]

import panel_cases  # noqa: E402  (the tests' modules stand on no path but this)
from model_server import ModelServer, Reply  # noqa: E402

IN_PROCESS, OVER_HTTP, WARM = 300, 40, 3
FUZZED, SEED = 10_000, 7
SYMBOL = panel_cases.SYMBOL
OPEN: dict[str, object] = {
    "reasoning": 'Trend up; "clean" retest, {no} divergence. 67\u202f% of closes above VWAP.',
    "key_factors": ["1h", "VWAP"],
    "symbol": SYMBOL, "action": "OPEN_LONG", "size_pct": 20, "entry": {"type": "limit", "offset_bps": 2.5},
    "stop_atr": 1.5, "tp_atr": 3, "followups": ["MOVE_STOP: breakeven on +1.0R"], "confidence": 0.62,
}  # fmt: skip
STOP: dict[str, object] = {"action": "MOVE_STOP", "to": {"kind": "atr", "x": 0.5}, "confidence": 0.7}
GOOD = [json.dumps(OPEN), json.dumps(STOP), json.dumps({"action": "HOLD", "comment": "no edge"}),
        f"I see.\n```json\n{json.dumps(OPEN, indent=2)}\n```"]  # fmt: skip
ROLE_OF = {load_prompt(role).system: role for role in ("single", *panel_cases.PROMPTS)}
NUMBERS = ("-1", "1e30", "1e-400", "0x1F", "01", '"7"', "null", "true", "1_000")
ANSWERS = panel_cases.ANSWERS | {"single": GOOD[0]}


# --- overhead


class AtOnce:
    """A `Model` that has the answer ready."""

    async def ask(self, request) -> ModelCall:
        role, prompt, messages, *_ = request
        return ModelCall(role=role, model="at once", prompt=prompt, messages=tuple(messages), raw_reply=ANSWERS[role])


def _serve(urls: object) -> None:
    """Answer each role in a process of its own, so that its CPU seconds are not counted."""

    def answer(request: dict[str, object]) -> Reply:
        return Reply(ANSWERS[ROLE_OF[request["messages"][0]["content"]]])

    with ModelServer(default=answer) as server:
        urls.put(server.url)
        time.sleep(3600)


@contextmanager
def serving() -> Iterator[str]:
    """Yield the URL of a model server in another process."""
    context = get_context("spawn")
    urls = context.Queue()
    process = context.Process(target=_serve, args=(urls,), daemon=True)
    process.start()
    try:
        yield urls.get(timeout=60)
    finally:
        process.terminate()
        process.join()


async def _timed(decide: Callable[[], Awaitable[object]], count: int) -> tuple[float, float]:
    """Return the mean CPU milliseconds and the median wall milliseconds of a call."""
    for _ in range(WARM):
        await decide()
    walls, cpu = [], time.process_time()
    for _ in range(count):
        started = time.perf_counter()
        await decide()
        walls.append(time.perf_counter() - started)
    return (time.process_time() - cpu) / count * 1000, median(walls) * 1000


async def _overhead(name: str, how: str, decider: Decider, count: int) -> None:
    question = panel_cases.question()

    async def decide() -> None:
        [decided] = await decider.decide([question])
        if (decided.decision.action, decided.rung) != ("OPEN_LONG", "primary"):
            sys.exit(f"{name}: {decided.rung} {decided.errors}: not what is to be measured")

    cpu_ms, wall_ms = await _timed(decide, count)
    calls = len((await decider.decide([question]))[0].calls)
    print(f"{name:10} {how:34} calls={calls} n={count} cpu_ms={cpu_ms:.2f} wall_ms={wall_ms:.2f}")


def overhead() -> None:
    """Print what single and panel cost, without litellm and with all that is built by name."""
    single = SingleDecider(AtOnce(), {"single": load_prompt("single")}, Means())
    panel = PanelDecider(AtOnce(), panel_cases.PROMPTS, Means())
    for decider in (single, panel):
        asyncio.run(_overhead(decider.name, "in process, decider alone", decider, IN_PROCESS))
    with serving() as url, tempfile.TemporaryDirectory() as home:
        budget = Budget(usd_per_day=None, calls_per_day=None)
        settings = load(model=("openai/gpt-4o",), model_base_url=url, home=Path(home), cache_ttl_s=0, budget=budget)
        store = Store(settings.store_url)
        store.migrate()
        for name in ("llm:single", "llm:panel"):
            asyncio.run(_overhead(name, "HTTP, with litellm, ladder, SQLite", build(name, settings, store), OVER_HTTP))
        store.close()


# --- fuzz


def _cut(text: str, rng: random.Random) -> str:
    start, end = sorted(rng.choices(range(len(text) + 1), k=2))
    return text[:start] + text[end:]


def _insert(text: str, rng: random.Random) -> str:
    at = rng.randrange(len(text) + 1)
    noise = rng.choice((
        bytes(rng.randrange(256) for _ in range(rng.randint(1, 8))).decode("latin-1"),
        rng.choice("{}[]\",:\\`'"), "\ud800", "\x00", "\u202e", "NaN", "1e999", "-Infinity", '{"a":', "9" * 80,
    ))  # fmt: skip
    return text[:at] + noise + text[at:]


def _quotes(text: str, rng: random.Random) -> str:
    return "".join(rng.choice("'\u201c\u201d`\"") if c == '"' and rng.random() < 0.1 else c for c in text)


def _nest(text: str, rng: random.Random) -> str:
    deep = rng.choice((1, 2, 50, 3000))
    opening, closing = rng.choice((("{", "}"), ("[", "]"), ('{"a":', "}"), ('[{"action":', "}]")))
    return opening * deep + text + closing * rng.choice((deep, deep - 1))


def _twice(text: str, rng: random.Random) -> str:
    at = rng.randrange(len(text) + 1)
    return text[:at] + rng.choice(GOOD) + text[at:]


def _number(text: str, rng: random.Random) -> str:
    """Put another number in the place of one digit."""
    digits = [i for i, c in enumerate(text) if c.isdigit()]
    at = rng.choice(digits) if digits else 0
    return text[:at] + rng.choice(NUMBERS) + text[at + 1 :]


MUTATIONS = (_cut, _insert, _quotes, _nest, _twice, _number)


def replies(count: int, seed: int) -> Iterator[str]:
    """Make `count` replies, each a good one changed one to three times; the same for the same seed."""
    rng = random.Random(seed)
    for _ in range(count):
        text = rng.choice(GOOD)
        for _ in range(rng.randint(1, 3)):
            text = rng.choice(MUTATIONS)(text, rng)
        yield text


def fuzz() -> None:
    """Print how the fuzzed replies ended; stop at the first that raises, or whose decision breaks the schema."""
    texts = list(replies(FUZZED, SEED))
    cpu, wall, slowest = time.process_time(), time.perf_counter(), 0.0
    parsed = []
    for text in texts:
        started = time.perf_counter()
        parsed.append(parse_reply(text, SYMBOL))
        slowest = max(slowest, time.perf_counter() - started)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    for text, each in zip(texts, parsed, strict=True):
        if not isinstance(each, Unusable) and DECISION.validate_json(DECISION.dump_json(each)) != each:
            sys.exit(f"outside the schema: {each!r} from {text!r}")
    size = sum(map(len, texts)) / len(texts)
    print(f"fuzz: {len(texts)} replies of {size:.0f} characters on average, cpu_s={cpu:.2f} wall_s={wall:.2f} "
          f"slowest_ms={slowest * 1000:.1f} raised=0 outside_schema=0")  # fmt: skip
    ends = Counter(
        each.reason.partition(":")[0] if isinstance(each, Unusable) else f"parsed {each.action}" for each in parsed
    )
    for end, times in ends.most_common():
        print(f"  {end:18} {times:5}")


def main() -> None:
    """Print the overhead, then the fuzzed replies."""
    overhead()
    fuzz()


if __name__ == "__main__":
    main()
