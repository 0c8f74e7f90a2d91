"""The rules that decide when a decider is asked: frames in, one column of directions out.

Each rule returns int8 per bar: 0 = silent, +1/-1 = fired, up or down, at the close of that bar. Live and
backtest run the same functions. A rule fires on a change, not on a state; unknown (NaN) never fires, and a bar
without volume never fires. Thresholds are `EventThresholds`; rules about our own position are in `position_events`.
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pandas as pd
from numpy import ndarray

from tasks.core.market import confluence
from tasks.core.market.bars import Columns, columns_of, epoch_s, lookup, segments
from tasks.core.market.features import lag, realized_vol_pctile
from tasks.core.types import SECONDS, EventThresholds, Texts

Directions = ndarray  # int8, one per bar
Event = tuple[int, str, str, str]  # close time in s, rule, timeframe, up|down
MIDDLE = 50.0  # percentile
LEVELS = ("prev_day_high", "prev_day_low", "weekly_open")


def trend_flip(x: Columns, t: EventThresholds) -> Directions:
    """SMA20 crossed SMA50 at most n bars ago; fires on the bar that confirms it, once per cross."""
    side = np.sign(x["sma20"] - x["sma50"])
    crossed = (side != lag(side)) & (side != 0) & np.isfinite(lag(side))
    since = _bars_since(crossed)
    stretched = (x["close"] - x["vwap20"]) * side > t.flip_vwap_std * x["std20"]
    confirmed = (np.sign(x["macd_hist"]) == side) & stretched & (since <= t.flip_confirm_bars)
    return _first_since(confirmed, np.cumsum(crossed)) * _int(side)


def vol_regime(x: Columns, t: EventThresholds) -> Directions:
    """ATR or realized-volatility percentile crosses up with volume, or down, and the other one agrees.

    Armed again once both are back across the level by the hysteresis.
    """
    both = (x["atr_pctile"], realized_vol_pctile(x["close"]))
    lower, upper = np.minimum(*both), np.maximum(*both)
    rose = np.logical_or(*((level >= t.vol_high) & (lag(level) < t.vol_high) for level in both))
    fell = np.logical_or(*((level <= t.vol_low) & (lag(level) > t.vol_low) for level in both))
    up = rose & (lower >= MIDDLE + t.vol_agree) & (x["vol_z20"] > t.vol_z)
    down = fell & (upper <= MIDDLE - t.vol_agree)
    calm, awake = upper < t.vol_high - t.vol_hysteresis, lower > t.vol_low + t.vol_hysteresis
    return _armed(up, calm) - _armed(down, awake)


def range_break(x: Columns, t: EventThresholds) -> Directions:
    """Close beyond n times the recent swing distance, measured from the far swing, with a volume spike."""
    high, low = lag(x["last_high"]), lag(x["last_low"])
    reach = t.break_swings * (high - low)
    up = (x["close"] - low > reach) & (reach > 0)
    down = (high - x["close"] > reach) & (reach > 0)
    return _starts(up, x["vol_spike"] == 1) - _starts(down, x["vol_spike"] == 1)


def confluence_shift(x: Columns, t: EventThresholds) -> Directions:
    """The signed score moved by at least n since it last fired, either way, and has stayed there; the move's direction.

    The score is the snapshot's own, without the book. Asking it to stay keeps out the flicker of its parts: bare,
    it moved by 2 some 20 times a day. Before the first time the reference is 0. Where a least score is set, the move
    must be to that side, as strategies of before have it: 3 -> 1 is none then.
    """
    scores = confluence.signed(x)
    out = np.zeros(len(scores), dtype=np.int8)
    reference, side, closes = 0.0, 0, 0
    for i, score in enumerate(scores.tolist()):
        moved = score - reference
        takes_side = not t.confluence_score or (abs(score) >= t.confluence_score and moved * score > 0)
        now = (1 if moved > 0 else -1) if takes_side and abs(moved) >= t.confluence_delta else 0  # unknown (NaN): 0
        closes = closes + 1 if now == side else 1
        side = now
        if side and closes >= t.confluence_bars:
            out[i], reference, side = side, score, 0
    return out


def sweep_reclaim(x: Columns, t: EventThresholds) -> Directions:
    """A wick far beyond a prior swing, the close back inside, with volume; the direction is the reclaim's."""
    atr, loud = lag(x["atr"]), x["vol_z20"] > t.sweep_vol_z
    up, down = np.zeros(len(atr), dtype=bool), np.zeros(len(atr), dtype=bool)
    for swing in ("last", "prev"):
        low, high = lag(x[f"{swing}_low"]), lag(x[f"{swing}_high"])
        up |= (low - x["low"] > t.sweep_atr * atr) & (x["close"] > low)
        down |= (x["high"] - high > t.sweep_atr * atr) & (x["close"] < high)
    return _int((up & ~down & loud) * 1 - (down & ~up & loud))


def break_hold(x: Columns, t: EventThresholds) -> Directions:
    """A close beyond a level, then 1-n bars none of which closes back inside.

    Fires on the first of them that comes back to within the same distance of the level and holds (the retest), else
    on the last, never on the breakout bar itself. After a break the level counts as fresh again when a bar has closed
    as far inside it, so that chop around a level is not a series of breaks.
    """
    out = np.zeros(len(x["close"]), dtype=np.int8)
    for name in LEVELS:
        for sign in (1, -1):
            out = np.where(out != 0, out, sign * _holds(x, x[name], sign, t))
    return out


def _holds(x: Columns, level: ndarray, sign: int, t: EventThresholds) -> Directions:
    beyond = (x["close"] - level) * sign
    margin = t.hold_atr * x["atr"]
    same_level = level == lag(level)
    broke = _armed((beyond > margin) & (lag(beyond) <= 0) & same_level, (beyond < -margin) | ~same_level) == 1
    since = _bars_since(broke)
    inside = ~(beyond > 0) | ~same_level
    stayed = np.cumsum(inside) == np.cumsum(inside)[np.clip(np.arange(len(level)) - since, 0, None)]
    toward = x["low"] if sign > 0 else x["high"]
    came_back = (toward - level) * sign <= margin
    done = came_back if t.hold_retest else came_back | (since == t.hold_bars)
    return _first_since(done & (since >= 1) & (since <= t.hold_bars) & stayed & (beyond > 0), np.cumsum(broke))


def stop_run(x: Columns, t: EventThresholds) -> Directions:
    """Huge volume and range through a level, closing in the opposite third of the range: stops were taken."""
    big = (x["vol_z20"] > t.run_vol_z) & (x["range_ratio"] > t.run_range)
    high, low, close = x["high"], x["low"], x["close"]
    third = (high - low) / 3
    up, down = np.zeros(len(high), dtype=bool), np.zeros(len(high), dtype=bool)
    for level in (lag(x["last_low"]), x["prev_day_low"], x["prev_week_low"]):
        up |= (low < level) & (close > level)
    for level in (lag(x["last_high"]), x["prev_day_high"], x["prev_week_high"]):
        down |= (high > level) & (close < level)
    return _int((big & up & (close >= high - third)) * 1 - (big & down & (close <= low + third)))


Rule = Callable[[Columns, EventThresholds], Directions]
RULES: tuple[tuple[str, Rule, Texts], ...] = (
    ("TrendFlip", trend_flip, ("15m", "1h")),
    ("VolRegime", vol_regime, ("15m",)),
    ("RangeBreak", range_break, ("15m",)),
    ("Confluence", confluence_shift, ("15m",)),
    ("SweepReclaim", sweep_reclaim, ("15m",)),
    ("BreakHold", break_hold, ("15m", "30m")),
    ("StopRun", stop_run, ("5m",)),
)


def detect(features: Mapping[str, pd.DataFrame], anchors: pd.DataFrame, thresholds: EventThresholds) -> list[Event]:
    """Run every rule; return (close time in s, rule, timeframe, up|down), ascending.

    Of one move only the first tells: what fires the same way within `same_way_min` minutes of an event is none.
    """
    events = []
    for timeframe in {tf: None for _, _, tfs in RULES for tf in tfs}:
        frame = features.get(timeframe)
        if frame is None or frame.empty:
            continue
        closes = epoch_s(frame.index) + SECONDS[timeframe]
        columns = columns_of(frame) | _at_closes(closes, features.get("5m"), anchors)
        for run in segments(frame.index, timeframe):
            part = {name: column[run] for name, column in columns.items()}
            events += _fired(timeframe, closes[run], part, thresholds)
    return list(_news(sorted(events), 60 * thresholds.same_way_min))


def _news(events: list[Event], quiet_s: int) -> Iterator[Event]:
    """Yield the events, ascending, that come at the close of one going the same way, or more than quiet_s after it."""
    last: dict[str, int] = {}
    for event in events:
        at_s, *_, way = event
        if not 0 < at_s - last.get(way, -quiet_s - 1) <= quiet_s:
            last[way] = at_s
            yield event


def _fired(timeframe: str, closes: ndarray, x: Columns, t: EventThresholds) -> list[tuple[int, str, str, str]]:
    """Run the rules of one timeframe on one gapless run of bars, each with its anchors."""
    traded = (x["volume"] > 0) & (x["last_5m_volume"] > 0)
    events = []
    for name, rule, timeframes in RULES:
        if timeframe in timeframes:
            directions = rule(x, t) * traded
            fired = np.flatnonzero(directions)
            events += [(int(closes[i]), name, timeframe, "up" if directions[i] > 0 else "down") for i in fired]
    return events


def _at_closes(closes: ndarray, five: pd.DataFrame | None, anchors: pd.DataFrame) -> Columns:
    """Return the anchors and volume of the 5m bar that closes with each bar: unknown where there is none.

    Where a higher bar's last minutes did not trade, or did not reach us, nothing is news; a market without 5m
    bars has no anchors, and its own volume must do.
    """
    keys = epoch_s(anchors.index) + SECONDS["5m"]
    columns = {name: lookup(keys, column, closes) for name, column in columns_of(anchors).items()}
    volume = np.ones(len(closes)) if five is None else lookup(keys, five["volume"].to_numpy(), closes)
    return columns | {"last_5m_volume": volume}


def _int(values: ndarray) -> Directions:
    return np.nan_to_num(values).astype(np.int8)


def _bars_since(condition: ndarray) -> ndarray:
    """Return how many bars ago the condition last held (0 = now); huge before it ever did."""
    at = np.where(condition, np.arange(len(condition)), -(10**9))
    return np.arange(len(condition)) - np.maximum.accumulate(at) if len(at) else at


def _first_since(condition: ndarray, group: ndarray) -> Directions:
    """Return 1 where the condition holds for the first time within its group (groups ascend; group 0 is none)."""
    out = np.zeros(len(condition), dtype=np.int8)
    at = np.flatnonzero(condition & (group > 0))
    _, first = np.unique(group[at], return_index=True)
    out[at[first]] = 1
    return out


def _starts(condition: ndarray, also: ndarray) -> Directions:
    """Return 1 on the first bar of each run of `condition` on which `also` holds too."""
    entered = condition & ~np.r_[False, condition[:-1]]
    return _first_since(condition & also, np.cumsum(entered))


def _armed(fire: ndarray, rearm: ndarray) -> Directions:
    """Return 1 where `fire` turns true for the first time since `rearm` last held."""
    return _first_since(fire, np.cumsum(rearm))
