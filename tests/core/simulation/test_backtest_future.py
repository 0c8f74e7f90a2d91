"""Nothing a decider is handed leads to the future, and a feature that looks ahead is caught."""

import asyncio
import gc
import types
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from market_data import replace_after, told, walk
from replayed import backtest

from tasks.core.decision.rules import RulesDecider
from tasks.core.market import features
from tasks.core.market.bars import closed_by
from tasks.core.market.market import Market
from tasks.core.types.decision import Answer
from tasks.core.types.question import Question

SYMBOL = "X/USDT"
BARS = walk(2_400, seed=11)
BARS[["open", "high", "low", "close"]] *= np.pi / 3  # so that no rounded average is a later price by chance
OF_THE_PROGRAM = (type, types.ModuleType, types.BuiltinFunctionType, types.CodeType)  # the same whatever the time is


def reachable(root: object) -> Iterator[object]:
    """Yield everything that can be got from `root`: attributes, items, closures, what a method is bound to."""
    seen, waiting = {id(root)}, [root]
    while waiting:
        found = waiting.pop()
        yield found
        if isinstance(found, types.FunctionType):
            parts = [cell.cell_contents for cell in found.__closure__ or ()] + [found.__defaults__]
        else:
            parts = gc.get_referents(found) + list(getattr(found, "__dict__", {}).values())
        for part in parts:
            if id(part) not in seen and not isinstance(part, OF_THE_PROGRAM):
                seen.add(id(part))
                waiting.append(part)


def time_of(found: object) -> datetime | None:
    """Read `found` as a time where it is one, also as text or as seconds or milliseconds since 1970."""
    if isinstance(found, str):
        try:
            found = datetime.fromisoformat(found)
        except ValueError:
            return None
    if isinstance(found, int | float) and not isinstance(found, bool):
        for seconds in (found, found / 1000):
            if 1.6e9 < seconds < 2.0e9:
                return datetime.fromtimestamp(seconds, tz=UTC)
    return found if isinstance(found, datetime) and found.tzinfo else None


class Seeker:
    """Decides as `rules` does, after turning over every object it was given."""

    name = "seeker"

    def __init__(self, later_prices: dict[datetime, set[float]]) -> None:
        self.rules, self.later, self.found, self.turned = RulesDecider(), later_prices, [], 0

    async def decide(self, questions: Sequence[Question]) -> list[Answer]:
        for question in questions:
            as_of = question.snapshot.as_of
            for each in reachable(question):
                self.turned += 1
                later = (at := time_of(each)) is not None and at > as_of
                frame = isinstance(each, np.ndarray | pd.DataFrame | pd.Series | Market)
                if later or frame or (isinstance(each, float) and each in self.later[as_of]):
                    self.found.append((as_of, each))
        return await self.rules.decide(questions)


class Unheard(dict):
    """For each close, the prices that are heard of only later."""

    def __missing__(self, as_of: datetime) -> set[float]:
        past = BARS.index < as_of
        prices = BARS[["open", "high", "low", "close"]]
        self[as_of] = set(prices[~past].to_numpy().ravel()) - set(prices[past].to_numpy().ravel())
        return self[as_of]


def test_a_decider_that_goes_looking_for_the_future_finds_nothing() -> None:
    seeker = Seeker(Unheard())
    result = asyncio.run(backtest({SYMBOL: Market.from_base(SYMBOL, BARS)}, seeker).run())
    assert seeker.found == []
    assert len(result.outcomes) > 3
    assert seeker.turned > 300 * result.summary()["calls"]


def test_the_seeker_finds_what_is_hidden_in_a_closure_or_an_attribute() -> None:
    as_of = BARS.index[500].to_pydatetime()
    hidden = BARS.index[600].to_pydatetime()
    question = types.SimpleNamespace(ask=lambda: hidden)
    assert hidden in list(reachable(question))
    assert time_of(int(hidden.timestamp() * 1000)) == time_of(hidden.isoformat()) == hidden > as_of
    assert next(iter(Unheard()[as_of])) in BARS.to_numpy()[500:]


@pytest.mark.parametrize("bars_ahead", [1, 12])
def test_a_feature_that_looks_ahead_breaks_the_property(bars_ahead: int, monkeypatch: pytest.MonkeyPatch) -> None:
    compute = features.compute

    def leaky(bars: pd.DataFrame, timeframe: str) -> pd.DataFrame:
        frame = compute(bars, timeframe)
        ahead = frame["close"].shift(-bars_ahead)
        return frame.assign(rsi=frame["rsi"].where(ahead > frame["close"], frame["rsi"] + 1))

    def same(as_of: datetime) -> bool:
        cut = Market.from_base(SYMBOL, closed_by(BARS, "5m", as_of))
        noisy = Market.from_base(SYMBOL, replace_after(BARS, as_of, 1))
        return told(cut, as_of) == told(noisy, as_of) == told(Market.from_base(SYMBOL, BARS), as_of)

    times = [BARS.index[i].to_pydatetime() for i in (800, 1_200, 1_600)]
    assert all(map(same, times))
    monkeypatch.setattr(features, "compute", leaky)
    assert not all(map(same, times))
