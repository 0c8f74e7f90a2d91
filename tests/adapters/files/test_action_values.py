"""What every allowed action would have been worth: by the guard and the fill engine, never from too far ahead."""

from datetime import timedelta
from decimal import Decimal
from functools import cache

import pandas as pd
import pytest
from records_sample import BTC, bars, future, records

from tasks.core.lab.action_values import HORIZON, Future
from tasks.core.lab.recorded_replies import NotReplayable
from tasks.core.lab.replay import Replayer
from tasks.core.types.decision import OpenLong, answered, hold
from tasks.core.types.record import CycleRecord

END = records()[-1].as_of


@cache
def flat() -> CycleRecord:
    """The first decision about Bitcoin without a position, with the room to enter."""
    return next(
        r for r in records() if r.symbol == BTC and "OPEN_SHORT" in r.snapshot.constraints.allowed_actions
    )  # fmt: skip


def after(record: CycleRecord, step_pct: float) -> dict[str, pd.DataFrame]:
    """Return candles that move by so many percent of the last price with every bar from the decision on."""
    frame = bars()[BTC].copy()
    later = frame.index >= record.as_of
    start = frame.loc[frame.index < record.as_of, "close"].iloc[-1]
    path = start * (1 + step_pct / 100 * pd.RangeIndex(1, later.sum() + 1).to_numpy())
    for name in ("open", "high", "low", "close"):
        frame.loc[later, name] = path
    return {BTC: frame}


def test_a_rise_is_worth_two_r_less_costs_to_who_bought_and_minus_one_to_who_sold():
    """The usual entry has its stop 1.5 ATR away and its target 3 ATR; R counts the costs at the stop."""
    values = future(after(flat(), 0.05))(flat()).by_action
    assert values.keys() == set(flat().snapshot.constraints.allowed_actions)
    assert values["HOLD"].r == values["PAUSE"].r == 0.0
    assert 1.3 < values["OPEN_LONG"].r < 2.0
    assert values["OPEN_SHORT"].r == pytest.approx(-1.0, abs=0.15)
    assert {action: each.carried for action, each in values.items()} == {action: action for action in values}


def test_what_the_guard_denies_is_worth_what_doing_nothing_is():
    told = flat().replace(decided=answered(flat_buy(Decimal("0.1")), "rules"))
    values = future(after(flat(), 0.05))(told).by_action
    assert (values["OPEN_LONG"].carried, values["OPEN_LONG"].r) == ("HOLD", 0.0)


def test_what_is_done_to_a_position_is_in_r_of_what_it_risked_at_first():
    """Moving the stop leaves next to nothing at risk; what was earned is no hundredfold of that."""
    held = next(r for r in records() if r.symbol == BTC and "MOVE_STOP" in r.snapshot.constraints.allowed_actions)
    position = held.state.position(BTC)
    way = 1 if position.side == "long" else -1
    worth = future(after(held, 0.05 * way))(held).by_action
    first_pct = abs(position.first_price - position.initial_stop) * position.quantity / held.state.equity * 100
    for action in ("HOLD", "MOVE_STOP", "TRIM", "CLOSE_ALL"):
        assert worth[action].r == pytest.approx(worth[action].pct / float(first_pct)), action
    assert worth["CLOSE_ALL"].r < worth["TRIM"].r < worth["HOLD"].r


def test_nothing_is_read_of_after_the_day_that_followed():
    frames = after(flat(), 0.002)
    later = frames[BTC].index >= flat().as_of + HORIZON
    crash = frames[BTC].copy()
    crash.loc[later, ["open", "high", "low", "close"]] = 1.0
    assert future(frames)(flat()) == future({BTC: crash})(flat())


@pytest.mark.parametrize("short_by", [timedelta(0), timedelta(minutes=5)])
def test_no_value_is_known_before_its_day_is_over(short_by):
    end = flat().as_of + HORIZON
    frames = {BTC: bars()[BTC].loc[: end - timedelta(minutes=5) - short_by]}
    known = not short_by
    assert bool(future(frames)(flat()).by_action) == known
    assert bool(future(bars(), end - short_by)(flat()).by_action) == known


def test_each_vote_is_judged_as_the_answer_is():
    votes = (hold(BTC, ""), None, flat_buy(Decimal(1)), flat_buy(Decimal("0.1")))
    voted = flat().replace(decided=answered(votes[0], "llm:m").replace(votes=votes))
    assert future(bars(), flat().as_of)(flat()).votes == ()
    assert future(bars())(voted).votes == ("HOLD", "OPEN_LONG", "HOLD")


def flat_buy(confidence: Decimal) -> OpenLong:
    return OpenLong(symbol=BTC, confidence=confidence, size_pct=Decimal(5), stop_atr=Decimal(2), tp_atr=Decimal(4))


def test_a_record_whose_strategy_is_not_known_has_none():
    def unknown(_: str):
        raise NotReplayable("its strategy")

    lost = Future(Replayer(lambda *_: None, unknown, lambda *_: None, lambda _: None), END)
    assert lost(flat()).by_action == {}
