"""A market at given 5m closes: the snapshot's views, anchors and role inputs, read and rounded many closes at a time.

A replay knows where its events are and reads ahead; a live cycle asks for one close. Both go through the same columns,
so both see the same digits.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy import ndarray
from pydantic import TypeAdapter

from tasks.core.market.bars import SNAPSHOT_TIMEFRAMES
from tasks.core.market.features import ratio, windows
from tasks.core.market.tables import Table
from tasks.core.types import (
    COLUMNS,
    SECONDS,
    UNKNOWN,
    HtfAnchors,
    Json,
    JsonObject,
    RoleInput,
    RoleInputs,
    Swing,
    TimeframeView,
)

if TYPE_CHECKING:
    from tasks.core.market.market import Market

SWING_FIELDS = tuple(Swing.model_fields)
VIEW_FIELDS = tuple(name for name in TimeframeView.model_fields if name not in ("swing", "last3", "ma_stack"))
NUMBERS = (*VIEW_FIELDS, *SWING_FIELDS)
AVERAGES = ("sma20", "sma50", "sma200")
DAY_BARS = SECONDS["1d"] // SECONDS["5m"]
DISTANCES = ("prev_day_high", "prev_day_low", "prev_week_high", "prev_week_low")
MEANS = ("daily_open", "weekly_open", "session_vwap", "rolling_vwap_1d")
DIGITS = 6
POWERS = np.array([float(f"1e{n}") for n in range(23)])  # 10^22 is the last that a float holds exactly
VIEWS = TypeAdapter(list[TimeframeView])


class MarketMoment(NamedTuple):
    """What the market alone says at one close; `rows`: where it stands in each timeframe's table, -1 where not."""

    timeframes: Mapping[str, TimeframeView]
    anchors: HtfAnchors
    votes: Mapping[str, float | None]
    roles: RoleInputs
    rows: Mapping[str, int]


def significant(value: float | None) -> float | None:
    """Round to significant digits; None for what is not a finite number."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{DIGITS}g}") + 0.0  # + 0.0 turns -0.0 into 0.0


def rounded(values: ndarray) -> ndarray:
    """Round to DIGITS significant digits exactly as `significant` does; NaN for what is not a finite number.

    Scaling by an exact power of ten and rounding gives the same float as writing and reading it, but where the scaled
    value is too near a tie, or too small or large to scale: those are written and read.
    """
    size = np.where(np.isfinite(values), np.abs(values), np.nan)
    plain = (size >= 1e-15) & (size < 1e15)
    base = np.where(plain, size, 1.0)
    places = DIGITS - 1 - np.floor(np.log10(base)).astype(np.int64)
    up, down = POWERS[np.maximum(places, 0)], POWERS[np.maximum(-places, 0)]
    scaled = base * up / down
    whole = np.rint(scaled)
    out = np.where(plain, np.copysign(whole / up * down, values), size * 0.0)
    near_tie = np.abs(scaled - np.floor(scaled) - 0.5) < 1e-6
    sure = (plain & ~near_tie & (whole >= 10 ** (DIGITS - 1)) & (whole <= 10**DIGITS)) | (size == 0)
    for at in zip(*np.nonzero(~sure & ~np.isnan(size)), strict=True):
        out[at] = significant(float(values[at]))
    return out


def objects(values: ndarray) -> ndarray:
    """Return the same numbers as Python's floats, None for NaN."""
    out = values.astype(object)
    out[np.isnan(values)] = None
    return out


def read(market: "Market", closes: ndarray) -> list[MarketMoment]:
    """Read the market at each of `closes` (s since 1970, multiples of 5 min)."""
    rows = {tf: due(table, tf, closes) for tf, table in market.tables.items()}
    views = _views(market, rows, np.full(len(closes), -1))
    places = np.array(list(rows.values()), dtype=int).reshape(len(rows), len(closes)).T.tolist()
    at = [dict(zip(rows, place, strict=True)) for place in places]
    by_time = zip(*views.values(), strict=True)
    anchors, roles = [HtfAnchors()] * len(closes), _roles(market, rows, len(closes))
    votes = [dict.fromkeys(("alignment", "momentum", "volume", "vwap"))] * len(closes)
    if "15m" in rows:
        votes = _dicts({name: np.where(rows["15m"] >= 0, of[rows["15m"]], np.nan) for name, of in market.votes.items()})
    if "5m" in rows:
        anchors = _anchors(market, rows, closes)
    return [
        MarketMoment(_known(dict(zip(views, of, strict=True)), i, market), anchor, vote, role, i)
        for of, anchor, vote, role, i in zip(by_time, anchors, votes, roles, at, strict=True)
    ]


def _known(views: dict[str, TimeframeView], rows: Mapping[str, int], market: "Market") -> Mapping[str, TimeframeView]:
    """Leave out the 1m view where such bars come only now and then, and this one did not."""
    if not market.base and rows.get("1m", 0) < 0:
        del views["1m"]
    return views


def _dicts(columns: Mapping[str, ndarray]) -> list[Json]:
    """Return the rows of `columns`, rounded, unknown numbers as None."""
    rows = objects(rounded(np.array(list(columns.values())))).T.tolist()
    return [dict(zip(columns, of, strict=True)) for of in rows]


def due(table: Table, timeframe: str, closes: ndarray) -> ndarray:
    """Return the row of the newest bar due at each close; -1 where it is not there: what is there is of the past."""
    rows = table.at(closes)
    due = closes // SECONDS[timeframe] * SECONDS[timeframe]
    return np.where((rows >= 0) & (table.closes[rows] == due), rows, -1)


def _views(market: "Market", rows: Mapping[str, ndarray], nowhere: ndarray) -> dict[str, list[TimeframeView]]:
    """Return each timeframe's view at each close, one object for as often as its bar is asked for."""
    shown = ("1m", *SNAPSHOT_TIMEFRAMES) if "1m" in rows else SNAPSHOT_TIMEFRAMES
    distinct = {tf: np.unique(rows.get(tf, nowhere), return_inverse=True) for tf in shown}
    known = [(market.tables[tf], at[at >= 0]) for tf, (at, _) in distinct.items() if at[-1:] >= 0]
    views_in_turn = iter(VIEWS.validate_python(_fields(known)) if known else ())
    views: dict[str, list[TimeframeView]] = {}
    for timeframe, (at, inverse) in distinct.items():
        of_each = [UNKNOWN if i < 0 else next(views_in_turn) for i in at.tolist()]
        if timeframe == "1m":
            of_each = [view.replace(swing=Swing(), last3=()) for view in of_each]
        views[timeframe] = [of_each[i] for i in inverse.tolist()]
    return views


def _fields(known: Sequence[tuple[Table, ndarray]]) -> list[JsonObject]:
    """Return the fields of each row's view, of one table after the other."""
    raw = np.concatenate([[table.columns[name][at] for name in NUMBERS] for table, at in known], axis=1)
    numbers = objects(rounded(raw))
    stacks = ma_stacks([np.concatenate([table.columns[name][at] for table, at in known]) for name in AVERAGES])
    before = np.concatenate([table.run[at] for table, at in known]).tolist()
    bars = zip(before, rounded(np.concatenate([_last3(table, at) for table, at in known])).tolist(), strict=True)
    cut = len(VIEW_FIELDS)
    return [
        dict(zip(VIEW_FIELDS, of[:cut], strict=True))
        | {"swing": dict(zip(SWING_FIELDS, of[cut:], strict=True)), "ma_stack": stack, "last3": last[max(0, 2 - n) :]}
        for of, stack, (n, last) in zip(numbers.T.tolist(), stacks, bars, strict=True)
    ]


def _last3(table: Table, rows: ndarray) -> ndarray:
    """Return the last three bars up to each row, whatever lies between them; the first one repeated before it."""
    at = np.maximum(rows[:, None] + np.array([-2, -1, 0]), 0)
    return np.stack([table.columns[name][at] for name in COLUMNS], axis=2)


def ma_stacks(averages: list[ndarray]) -> list[str | None]:
    """Return the order of SMA20, 50 and 200 from high to low, such as "20>50>200"; None until all are known."""
    values = np.array(averages)
    order = np.argsort(-values, axis=0, kind="stable").T.tolist()
    known = np.isfinite(values).all(axis=0).tolist()
    names = [name.removeprefix("sma") for name in AVERAGES]
    return [">".join(names[i] for i in of) if is_known else None for of, is_known in zip(order, known, strict=True)]


def _anchors(market: "Market", rows: Mapping[str, ndarray], closes: ndarray) -> list[HtfAnchors]:
    def column(timeframe: str, name: str) -> ndarray:
        at = rows.get(timeframe, unknown)
        return np.where(at >= 0, market.tables[timeframe].columns[name][at], np.nan) if at is not unknown else unknown

    unknown = np.full(len(closes), np.nan)
    close, atr, std = column("5m", "close"), column("15m", "atr"), column("15m", "std20")
    at = market.anchor_table.at(closes)
    level = {name: column[at] for name, column in market.anchor_table.columns.items()}
    values = {f"dist_to_{n}_atr": ratio(level[n] - close, atr) for n in DISTANCES}
    values |= {f"{n}_z": ratio(close - level[n], std) for n in MEANS}
    return [HtfAnchors.trusted(**of) for of in _dicts(values)]


def _roles(market: "Market", rows: Mapping[str, ndarray], n: int) -> list[RoleInputs]:
    views = {tf: _role_views(market, tf, rows[tf]) for tf in market.roles}
    last, volumes, recent = rows.get("5m"), [None] * n, [()] * n
    if last is not None:
        volumes, recent = _day_volumes(market.tables["5m"], last), _recent(market.tables["5m"], last)
    day = rows.get("1d", np.full(n, -1))
    month = np.where(day >= 0, market.month_volatility[day], np.nan) if (day >= 0).any() else np.full(n, np.nan)
    volatility = objects(rounded(month))
    return [
        RoleInputs.trusted(
            timeframes={tf: view for tf, of in views.items() if (view := of[i]) is not None},
            volume_24h=volumes[i],
            recent_closes=recent[i],
            volatility_30d=volatility[i],
        )
        for i in range(n)
    ]


def _role_views(market: "Market", timeframe: str, rows: ndarray) -> list[RoleInput | None]:
    table = market.tables[timeframe].columns
    columns = market.roles[timeframe] | {f"swing_{side}": table[f"last_{side}"] for side in ("low", "high")}
    values = _dicts({name: column[rows] for name, column in columns.items()})
    return [RoleInput.trusted(**of) if i >= 0 else None for i, of in zip(rows.tolist(), values, strict=True)]


def _day_volumes(table: Table, last: ndarray) -> list[Any]:
    """Return the volume of the last 24 h; unknown unless every 5m bar of them is there."""
    first = last + 1 - DAY_BARS
    whole = (first >= 0) & (table.closes[last] - table.closes[np.maximum(first, 0)] == SECONDS["1d"] - SECONDS["5m"])
    sums = np.full(len(last), np.nan)
    sums[whole] = windows(table.columns["volume"], DAY_BARS)[first[whole]].sum(axis=1)
    return list(objects(rounded(sums)))


def _recent(table: Table, last: ndarray) -> list[Any]:
    """Return the last ten 5m closes since a gap, oldest first; none where the newest is unknown."""
    ten = rounded(table.columns["close"][np.maximum(last[:, None] + np.arange(-9, 1), 0)]).tolist()
    return [
        tuple(x for x in of[max(0, 9 - n) :] if not math.isnan(x)) if i >= 0 else ()
        for of, i, n in zip(ten, last.tolist(), table.run[last].tolist(), strict=True)
    ]
