"""What a model is shown of a question under a mask: too little to look the market up by.

Other names, dates and prices hide nothing from whoever has candles: three daily bars, an RSI of six digits or the time
of day find the moment again. So of the market a model is told one reason, which way the averages of 1h and 4h stand,
and of 15m the RSI to 25, the ATR in percent to a factor of four and whether volume spiked; a panel also the 1h ADX and
the side of a swing. Of our own account it sees one digit. The last close is 100, the time is always the same, and
the rest is unknown. Replies are in ATR and percent, or in these same prices, so they need no translation.

Deciders that compute see the question as it is. `lab.masking` says how often the look-up still works.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from tasks.core.types import (
    AnyDto,
    Confluence,
    Portfolio,
    Question,
    Reason,
    RoleInput,
    RoleInputs,
    Snapshot,
    TimeframeView,
)

LAST = 100.0  # every price is told as if this were the last close
AT = datetime(2000, 1, 1, tzinfo=UTC)
SIDES, ATRS, ADX = (-2.0, 2.0), (0.125, 0.5, 2.0), (20.0, 30.0)
SHOWN: Mapping[str, Mapping[str, tuple[float, ...]]] = {  # of each known value the nearest of these
    "5m": {"close": (LAST,)},
    "15m": {"rsi": (25.0, 50.0, 75.0), "atr": ATRS, "atr_pct": ATRS, "vol_spike": (False, True)},
    "1h": {"cloud_atr": SIDES},
    "4h": {"cloud_atr": SIDES},
}


def as_shown(question: Question) -> Question:
    """Return what a model is shown: the question itself, or under a mask the little that is told then."""
    if not question.masked:
        return question
    last, held, memory = question.last_price, question.quantity, question.memory
    snapshot = _snapshot(question.snapshot, question.reasons)
    if memory is not None:
        # what was decided and what came of it alone: a few times or reasons in a row name the day
        recent, similar = (
            tuple(_short(past, as_of=AT, reasons=(), price=None, thesis="", unread=()) for past in pasts)
            for pasts in (memory.recent, memory.similar)
        )
        memory = _short(memory, recent=recent, similar=similar, statistics=tuple(map(_short, memory.statistics)))
    return Question(
        snapshot=snapshot,
        role_inputs=_roles(question.role_inputs, last, snapshot.timeframes),
        memory=memory,
        portfolio=question.portfolio and _portfolio(question.portfolio),
        others=tuple(map(as_shown, question.others)),
        equity=question.equity,
        last_price=last and LAST,
        quantity=held and last and float(f"{held * last / LAST:.3g}"),
    )


def _snapshot(snapshot: Snapshot, reasons: Sequence[Reason]) -> Snapshot:
    views = {timeframe: _view(view, SHOWN.get(timeframe, {})) for timeframe, view in snapshot.timeframes.items()}
    together = round(sum(view.cloud_atr or 0 for view in views.values()) / 2)
    # a calendar's detail, which has no timeframe, is an event that has a date
    named = [str(each if each.timeframe else each.replace(detail="")) for each in reasons if not each.context]
    return Snapshot(
        pair=snapshot.pair,
        as_of=AT,
        reason_for_call=tuple(named[:1]),
        timeframes=views,
        position=_short(snapshot.position, avg_price=None),
        risk=_short(snapshot.risk),
        constraints=snapshot.constraints,
        confluence=Confluence(score=abs(together), direction=(together > 0) - (together < 0)),
        digest=_short(snapshot.digest, avg_entry_price=None, last_trade_ts=None),
    )


def _portfolio(portfolio: Portfolio) -> Portfolio:
    """Return what is open and what was refused, without prices, times or anybody's words."""
    rows = (
        tuple(_short(each, avg_price=None, stop=None, target=None, thesis="", unread=()) for each in some)
        for some in (portfolio.positions, portfolio.pending)
    )
    positions, pending = rows
    refusals = tuple(each.replace(as_of=AT) for each in portfolio.refusals)
    return _short(portfolio, positions=positions, pending=pending, refusals=refusals, correlations={})


def _view(view: TimeframeView, shown: Mapping[str, tuple[float, ...]]) -> TimeframeView:
    """Return the nearest of what may be shown; in percent the ATR is that of a price of 100."""
    known = vars(view) | {"atr": view.atr_pct}
    return TimeframeView().replace(**{name: _near(known[name], of) for name, of in shown.items()})


def _roles(inputs: RoleInputs, last: float | None, views: Mapping[str, TimeframeView]) -> RoleInputs:
    """Return the 1h averages as the table has them, the ADX as below or above the line, the swing behind the trend."""
    hour, atr, trend = inputs.timeframes.get("1h"), views["15m"].atr, views["1h"].cloud_atr
    if not (hour and last and atr and trend):
        return RoleInputs()
    behind = "swing_low" if trend > 0 else "swing_high"
    swing = getattr(hour, behind)
    side = _near(swing and swing - last, SIDES)
    levels = {"ema50": LAST + trend * atr, "ema200": LAST, behind: side and LAST + side * atr}
    return RoleInputs(timeframes={"1h": RoleInput(adx=_near(hour.adx, ADX), **levels)})


def _short(view: AnyDto, **changes: object) -> AnyDto:
    """Return the view with one digit to each number, and with `changes`."""
    numbers = {name: type(v)(float(f"{v:.1g}")) for name, v in vars(view).items() if type(v) in (int, float)}
    return view.replace(**numbers | changes)


def _near(value: float | None, of: Sequence[float]) -> float | None:
    return None if value is None else min(of, key=lambda each: abs(each - value))
