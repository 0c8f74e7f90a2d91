"""What the guard looks back on: correlations, Kelly, refusals in a row, liquidations."""

from datetime import timedelta
from decimal import Decimal as D

import numpy as np
import pandas as pd
import pytest
from guard_cases import BTC, ETH, NOON, ago
from instrument_cases import linear

from tasks.core.trading.guard import track_record
from tasks.core.trading.guard.cases import Account
from tasks.core.types.limits import Limits
from tasks.core.types.portfolio import AccountState
from tasks.core.types.record import Outcome
from tasks.core.types.strategy import Strategy

MIDNIGHT = NOON.replace(hour=0)
SOL = "SOL/USDT:USDT"


def walk(seed, shared=None, share=0.0, n=track_record.BARS):
    """Closes of the 5m bars up to midnight; `share` of each return is the shared walk's."""
    noise = np.random.default_rng(seed).normal(0, 0.001, n)
    noise = noise if shared is None else share * np.r_[0, np.diff(np.log(shared.to_numpy()))] + (1 - share) * noise
    times = pd.date_range(end=MIDNIGHT - timedelta(minutes=5), periods=n, freq="5min")
    return pd.Series(100 * np.exp(np.cumsum(noise)), index=times)


def outcome(r, fees=0, minutes=0):
    return Outcome(
        cycle_id="c", position_id="p", symbol=BTC, entry_price=D(100), exit_price=D(100), pnl=D(r) * 10 - D(fees),
        pnl_pct=D(0), outcome_r=D(r) - D(fees) / 10, fees=D(fees), hold_seconds=60, closed_at=ago(minutes=minutes),
    )  # fmt: skip


def test_returns_that_go_together_correlate_and_others_do_not():
    btc = walk(1)
    closes = {BTC: btc, ETH: walk(2, btc, 0.8), SOL: walk(3)}
    found = track_record.correlations(BTC, closes, NOON)
    expected = np.corrcoef(*(np.diff(np.log(closes[s].to_numpy())) for s in (BTC, ETH)))[0, 1]
    assert found[ETH] == pytest.approx(expected, abs=1e-4)
    assert found[ETH] > 0.9
    assert abs(found[SOL]) < 0.1


def test_a_days_cycles_share_one_answer_and_none_sees_the_day_itself():
    btc = walk(1)
    closes = {BTC: btc, ETH: walk(2, btc, 0.8)}
    later = pd.date_range(MIDNIGHT, periods=200, freq="5min")
    more = {s: pd.concat([c, pd.Series(np.linspace(1, 9, 200), index=later)]) for s, c in closes.items()}
    first = track_record.correlations(BTC, closes, MIDNIGHT)
    assert first == track_record.correlations(BTC, more, NOON)


def test_bars_that_one_of_them_lacks_are_not_compared():
    btc = walk(1)
    holed = walk(2, btc, 0.8).drop(btc.index[100:200])
    assert track_record.correlations(BTC, {BTC: btc, ETH: holed}, NOON)[ETH] > 0.9


@pytest.mark.parametrize("other", [walk(2, n=200), walk(2) * 0 + 5.0, walk(2).iloc[:0]], ids=["few", "still", "none"])
def test_a_correlation_that_cannot_be_told_is_left_out(other):
    assert track_record.correlations(BTC, {BTC: walk(1), ETH: other}, NOON) == {}


def test_kelly_is_by_hand():
    # 18 of 30 won at 2 R, 12 lost at 1 R: 0.6 / 1 - 0.4 / 2
    outcomes = [outcome(2)] * 18 + [outcome(-1)] * 12
    assert track_record.kelly(outcomes, 30) == D("0.4")
    assert track_record.kelly(outcomes[1:], 30) is None


def test_kelly_reckons_after_fees_and_by_the_newest_outcomes():
    fair = [outcome(1)] * 15 + [outcome(-1)] * 15
    assert track_record.kelly(fair, 30) == 0
    assert track_record.kelly([outcome(1, fees=1)] * 15 + [outcome(-1, fees=1)] * 15, 30) < 0
    old = [outcome(-1, minutes=500)] * track_record.KEPT
    assert track_record.kelly([*[outcome(1), outcome(-1)] * (track_record.KEPT // 2), *old], 30) == 0


def test_kelly_without_losses_says_nothing_and_without_wins_the_worst():
    assert track_record.kelly([outcome(1)] * 40, 30) is None
    assert track_record.kelly([outcome(-1)] * 40, 30) == -1


def test_refusals_count_from_the_newest_back_to_the_last_entry_that_was_taken():
    sent = [(ago(minutes=m), refused) for m, refused in ((5, True), (50, True), (30, True), (55, False), (58, True))]
    assert track_record.rejections(sent, ago(hours=1)) == 3
    assert track_record.rejections(sent, ago(minutes=40)) == 2
    assert track_record.rejections([], ago(hours=1)) == 0


@pytest.mark.parametrize("way", [1, -1], ids=["oldest first", "newest first"])
def test_of_closed_trades_the_day_the_looks_back_and_those_since_the_last_decision_matter(way):
    """At noon the day's and the one before it; just after midnight what the cool-offs look back on."""
    at = [ago(hours=h) for h in (60, 40, 13, 11.5, 3)]  # 13: yesterday at 23
    closed = [outcome(1).replace(closed_at=each) for each in at][::way]

    def kept(as_of, decided_at=None):
        found = track_record.recent_trades(closed, as_of, Limits(), decided_at)
        return sorted(at.index(trade.closed_at) for trade in found)

    assert kept(NOON) == [2, 3, 4]
    assert kept(NOON, decided_at=ago(hours=1)) == [2, 3, 4]
    assert kept(NOON, decided_at=ago(hours=41)) == [0, 1, 2, 3, 4]
    assert kept(MIDNIGHT + timedelta(minutes=10)) == [2, 3, 4]
    assert kept(MIDNIGHT - timedelta(minutes=10)) == [1, 2, 3, 4]
    assert track_record.recent_trades([], NOON, Limits(), None) == ()


def test_the_guard_says_the_same_of_the_trades_that_matter_as_of_all():
    closed = [outcome(m % 7 - 3, minutes=m).replace(symbol=(BTC, ETH)[m % 2]) for m in range(1, 3000, 7)]
    for minutes in (0, 59, 700, 719, 721, 722, 780):
        as_of, limits = ago(minutes=minutes), Limits(cool_off_min=90)
        known = [each for each in closed if each.closed_at <= as_of]
        few = track_record.recent_trades(known, as_of, limits, None)
        assert len(few) < len(known)
        for late in (-limits.max_lateness_s, 0, limits.max_lateness_s):
            at = as_of + timedelta(seconds=late)
            one, other = (AccountState(closed_trades=trades) for trades in (tuple(each.trade for each in known), few))
            one, other = (
                Account(state, linear(), BTC, Strategy(limits=limits), at, "normal") for state in (one, other)
            )
            assert one.pnl_today == other.pnl_today
            assert (one.last_exit, one.losses) == (other.last_exit, other.losses)
