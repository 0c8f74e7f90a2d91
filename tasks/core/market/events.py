"""The rules that decide when a decider is asked: frames in, one column of directions out.

Each rule returns int8 per bar: 0 = silent, +1/-1 = fired, up or down, at the close of that bar. Live and
backtest run the same functions. A rule fires on a change, not on a state; unknown (NaN) never fires, and a bar
without volume never fires. Thresholds are `EventThresholds`; rules about our own position are in `position_events`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tasks.core.market import confluence
from tasks.core.market.bars import epoch_s
from tasks.core.market.features import lag
from tasks.core.types.bars import SECONDS
from tasks.core.types.limits import EventThresholds

Directions = np.ndarray  # int8, one per bar
LEVELS = ("prev_day_high", "prev_day_low", "weekly_open")


@dataclass(frozen=True)
class RuleInput:
    """One timeframe's features, and the anchors known at each of its closes (same rows); columns by name."""

    features: pd.DataFrame
    anchors: pd.DataFrame

    def __getitem__(self, name: str) -> np.ndarray:
        frame = self.features if name in self.features.columns else self.anchors
        return frame[name].to_numpy()


def trend_flip(x: RuleInput, t: EventThresholds) -> Directions:
    """SMA20 crossed SMA50 at most n bars ago; fires on the bar that confirms it, once per cross."""
    side = np.sign(x["sma20"] - x["sma50"])
    crossed = (side != lag(side)) & (side != 0) & np.isfinite(lag(side))
    since = _bars_since(crossed)
    stretched = (x["close"] - x["vwap20"]) * side > t.flip_vwap_std * x["std20"]
    confirmed = (np.sign(x["macd_hist"]) == side) & stretched & (since <= t.flip_confirm_bars)
    return np.asarray(_first_since(confirmed, np.cumsum(crossed)) * _int(side))


def vol_regime(x: RuleInput, t: EventThresholds) -> Directions:
    """ATR or realized-volatility percentile crosses up with volume, or down; armed again after the hysteresis."""
    out = np.zeros(len(x.features), dtype=np.int8)
    for name in ("atr_pctile", "realized_vol_pctile"):
        level = x[name]
        up = _armed(level >= t.vol_high, level < t.vol_high - t.vol_hysteresis) & (x["vol_z20"] > t.vol_z)
        down = _armed(level <= t.vol_low, level > t.vol_low + t.vol_hysteresis)
        out = np.where(out != 0, out, up.astype(np.int8) - down.astype(np.int8))
    return out


def range_break(x: RuleInput, t: EventThresholds) -> Directions:
    """Close beyond n times the recent swing distance, measured from the far swing, with a volume spike."""
    high, low = lag(x["last_high"]), lag(x["last_low"])
    reach = t.break_swings * (high - low)
    up = (x["close"] - low > reach) & (reach > 0)
    down = (high - x["close"] > reach) & (reach > 0)
    return np.asarray(_starts(up, x["vol_spike"] == 1) - _starts(down, x["vol_spike"] == 1))


def confluence_shift(x: RuleInput, t: EventThresholds) -> Directions:
    """The signed score moved by at least n since it last fired; direction of the move."""
    scores = confluence.signed(x.features)
    out = np.zeros(len(scores), dtype=np.int8)
    reference: float | None = None
    for i, score in enumerate(scores.tolist()):
        if score != score:  # unknown: after a gap the next known score is the new reference
            reference = None
        elif reference is None:
            reference = score
        elif abs(score - reference) >= t.confluence_delta:
            out[i] = 1 if score > reference else -1
            reference = score
    return out


def sweep_reclaim(x: RuleInput, t: EventThresholds) -> Directions:
    """A wick far beyond a prior swing, the close back inside, with volume; the direction is the reclaim's."""
    atr, loud = lag(x["atr"]), x["vol_z20"] > t.sweep_vol_z
    up, down = np.zeros(len(atr), dtype=bool), np.zeros(len(atr), dtype=bool)
    for swing in ("last", "prev"):
        low, high = lag(x[f"{swing}_low"]), lag(x[f"{swing}_high"])
        up |= (low - x["low"] > t.sweep_atr * atr) & (x["close"] > low)
        down |= (x["high"] - high > t.sweep_atr * atr) & (x["close"] < high)
    return np.asarray((up & ~down & loud).astype(np.int8) - (down & ~up & loud).astype(np.int8))


def break_hold(x: RuleInput, t: EventThresholds) -> Directions:
    """A close beyond a level, then 1-n bars none of which closes back inside.

    Fires on the first of them that comes back to within the same distance of the level and holds (the retest),
    never on the breakout bar itself.
    """
    out = np.zeros(len(x.features), dtype=np.int8)
    for name in LEVELS:
        for sign in (1, -1):
            out = np.where(out != 0, out, sign * _retests(x, x[name], sign, t))
    return out


def _retests(x: RuleInput, level: np.ndarray, sign: int, t: EventThresholds) -> Directions:
    beyond = (x["close"] - level) * sign
    margin = t.hold_atr * x["atr"]
    same_level = level == lag(level)
    broke = (beyond > margin) & ~(lag(beyond) > 0) & same_level
    since = _bars_since(broke)
    inside = ~(beyond > 0) | ~same_level
    held = np.cumsum(inside) == np.cumsum(inside)[np.clip(np.arange(len(level)) - since, 0, None)]
    toward = x["low"] if sign > 0 else x["high"]
    retest = (since >= 1) & (since <= t.hold_bars) & held & ((toward - level) * sign <= margin) & (beyond > 0)
    return _first_since(retest, np.cumsum(broke))


def stop_run(x: RuleInput, t: EventThresholds) -> Directions:
    """Huge volume and range through a level, closing in the opposite third of the range: stops were taken."""
    big = (x["vol_z20"] > t.run_vol_z) & (x["range_ratio"] > t.run_range)
    high, low, close = x["high"], x["low"], x["close"]
    third = (high - low) / 3
    up, down = np.zeros(len(high), dtype=bool), np.zeros(len(high), dtype=bool)
    for level in (lag(x["last_low"]), x["prev_day_low"], x["prev_week_low"]):
        up |= (low < level) & (close > level)
    for level in (lag(x["last_high"]), x["prev_day_high"], x["prev_week_high"]):
        down |= (high > level) & (close < level)
    fired_up, fired_down = big & up & (close >= high - third), big & down & (close <= low + third)
    return np.asarray(fired_up.astype(np.int8) - fired_down.astype(np.int8))


Rule = Callable[[RuleInput, EventThresholds], Directions]
RULES: tuple[tuple[str, Rule, tuple[str, ...]], ...] = (
    ("TrendFlip", trend_flip, ("15m", "1h")),
    ("VolRegime", vol_regime, ("15m",)),
    ("RangeBreak", range_break, ("15m",)),
    ("Confluence", confluence_shift, ("15m",)),
    ("SweepReclaim", sweep_reclaim, ("15m",)),
    ("BreakHold", break_hold, ("15m", "30m")),
    ("StopRun", stop_run, ("5m",)),
)


def detect(
    features: Mapping[str, pd.DataFrame], anchors: pd.DataFrame, thresholds: EventThresholds
) -> list[tuple[int, str, str, str]]:
    """Run every rule; return (close time in s, rule, timeframe, up|down), ascending."""
    found: list[tuple[int, str, str, str]] = []
    for timeframe in {tf: None for _, _, tfs in RULES for tf in tfs}:
        if timeframe not in features or features[timeframe].empty:
            continue
        x = RuleInput(features[timeframe], _anchors_at_closes(anchors, features[timeframe], timeframe))
        closes = epoch_s(x.features.index) + SECONDS[timeframe]
        traded = x["volume"] > 0
        for name, rule, timeframes in RULES:
            if timeframe in timeframes:
                fired = np.flatnonzero((directions := rule(x, thresholds)) * traded)
                found += [(int(closes[i]), name, timeframe, "up" if directions[i] > 0 else "down") for i in fired]
    return sorted(found)


def _anchors_at_closes(anchors: pd.DataFrame, features: pd.DataFrame, timeframe: str) -> pd.DataFrame:
    """Return the anchors of the 5m bar that closes together with each bar; unknown where there is none."""
    wanted = pd.DatetimeIndex(features.index) + pd.Timedelta(seconds=SECONDS[timeframe] - SECONDS["5m"])
    return anchors.reindex(wanted)


def _int(values: np.ndarray) -> Directions:
    return np.asarray(np.nan_to_num(values).astype(np.int8))


def _bars_since(condition: np.ndarray) -> np.ndarray:
    """Return how many bars ago the condition last held (0 = now); huge before it ever did."""
    at = np.where(condition, np.arange(len(condition)), -(10**9))
    return np.asarray(np.arange(len(condition)) - np.maximum.accumulate(at)) if len(at) else at


def _first_since(condition: np.ndarray, group: np.ndarray) -> Directions:
    """Return 1 where the condition holds for the first time within its group (groups ascend; group 0 is none)."""
    out = np.zeros(len(condition), dtype=np.int8)
    at = np.flatnonzero(condition & (group > 0))
    _, first = np.unique(group[at], return_index=True)
    out[at[first]] = 1
    return out


def _starts(condition: np.ndarray, also: np.ndarray) -> Directions:
    """Return 1 on the first bar of each run of `condition` on which `also` holds too."""
    entered = condition & ~np.r_[False, condition[:-1]]
    return _first_since(condition & also, np.cumsum(entered))


def _armed(fire: np.ndarray, rearm: np.ndarray) -> np.ndarray:
    """Return where `fire` turns true for the first time since `rearm` last held."""
    return _first_since(fire, np.cumsum(rearm & ~np.r_[False, rearm[:-1]])).astype(bool)
