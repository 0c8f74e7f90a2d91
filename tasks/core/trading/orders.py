"""Order ids and intents: what a verdict becomes on its way to the venue.

Every id derives from the decision, so that running twice orders once. A client order id is "qd", the 32 hex digits
of a uuid and a leg of two characters: 36, the venues' limit. Which legs this module sends: e0 entry, x0 exit, s0
stop, t0 target, c0 cancel target, p0 sent by protect.
"""

import re
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid5

from tasks.core.types.decision import (
    Add,
    CancelTarget,
    CloseAll,
    ClosePartial,
    MoveStop,
    OpenLong,
    OpenShort,
    SetTarget,
    Trim,
)
from tasks.core.types.limits import Limits
from tasks.core.types.orders import OrderIntent, OrderType, PositionSide, Side
from tasks.core.types.portfolio import AccountState
from tasks.core.types.verdict import Verdict

NAMESPACE = UUID("6f1f9e0c-6c1e-5c0e-9b7a-2d1f4a7c9e55")  # fixed for ever: every id ever sent derives from it
PREFIX = "qd"
PROTECT_LEG = "p0"
_LEG = re.compile(r"[a-z0-9]{2}")
_OURS = re.compile(rf"{PREFIX}([0-9a-f]{{32}})[a-z0-9]{{2}}")


def cycle_id(strategy: str, symbol: str, as_of: datetime) -> str:
    """Return the id of the one cycle of `strategy` on `symbol` at `as_of`, in whatever zone that time is given."""
    if as_of.tzinfo is None:
        raise ValueError(f"as_of {as_of.isoformat()} has no timezone; give aware UTC")
    return str(uuid5(NAMESPACE, "|".join((strategy, symbol, as_of.astimezone(UTC).isoformat()))))


def client_order_id(cycle_id: str, leg: str) -> str:
    """Return the client order id of a leg; `cycle_id` may be any uuid an order derives from."""
    if not _LEG.fullmatch(leg):
        raise ValueError(f"leg {leg!r} must be two characters of a-z and 0-9")
    return f"{PREFIX}{UUID(cycle_id).hex}{leg}"


def protect_order_id(position_id: str, kind: str, sequence: int) -> str:
    """Return the client order id of an order `protect` sends for a position; persist `sequence` before sending."""
    return client_order_id(str(uuid5(NAMESPACE, f"{position_id}|{kind}|{sequence}")), PROTECT_LEG)


def is_ours(client_order_id: str) -> bool:
    """Say whether an order the venue reports was sent by this system."""
    return _OURS.fullmatch(client_order_id) is not None


def cycle_of(client_order_id: str) -> str | None:
    """Return the uuid an order of ours derives from; None when it is not ours."""
    match = _OURS.fullmatch(client_order_id)
    return str(UUID(match[1])) if match else None


def plan(
    verdict: Verdict, cycle_id: str, state: AccountState, as_of: datetime, limits: Limits
) -> tuple[OrderIntent, ...]:
    """Return the orders that carry out a verdict; none when it is denied or asks for nothing of the venue."""
    decision = verdict.decision
    if not verdict.allowed:
        return ()
    if isinstance(decision, OpenLong | OpenShort | Add):
        return (_entry(verdict, decision, cycle_id, state, as_of, limits),)
    held = state.position(decision.symbol)
    if held is None:
        return ()
    if isinstance(decision, Trim | ClosePartial | CloseAll):
        return (_reduce(verdict, cycle_id, "x0", OrderType.MARKET, held.side),)
    if isinstance(decision, MoveStop):
        return (_reduce(verdict, cycle_id, "s0", OrderType.STOP, held.side),)
    if isinstance(decision, SetTarget):
        return (_reduce(verdict, cycle_id, "t0", OrderType.TARGET, held.side),)
    if isinstance(decision, CancelTarget):
        return (_reduce(verdict, cycle_id, "c0", OrderType.CANCEL_TARGET, held.side),)
    return ()


def _entry(
    verdict: Verdict,
    decision: OpenLong | OpenShort | Add,
    cycle_id: str,
    state: AccountState,
    as_of: datetime,
    limits: Limits,
) -> OrderIntent:
    """Build the one order of an entry: its stop and target go with it, so that it is never naked."""
    limit = decision.entry.type == "limit"
    return OrderIntent(
        client_order_id=client_order_id(cycle_id, "e0"),
        symbol=decision.symbol,
        side=_entry_side(decision, state),
        type=OrderType.LIMIT if limit else OrderType.MARKET,
        quantity=verdict.quantity,
        price=verdict.price if limit else None,
        stop=verdict.stop,
        target=verdict.target,
        expires_at=as_of + timedelta(minutes=limits.limit_entry_minutes) if limit else None,
    )


def _entry_side(decision: OpenLong | OpenShort | Add, state: AccountState) -> Side:
    if isinstance(decision, Add):
        held = state.position(decision.symbol)
        if held is None:
            raise ValueError(
                f"ADD on {decision.symbol} was allowed without a position; pass the state it was judged on"
            )
        return "buy" if held.side == "long" else "sell"
    return "buy" if isinstance(decision, OpenLong) else "sell"


def _reduce(verdict: Verdict, cycle_id: str, leg: str, kind: OrderType, held: PositionSide) -> OrderIntent:
    """Build an order that can only reduce: an exit at market, or the position's stop or target at its trigger."""
    triggers = {OrderType.STOP: verdict.stop, OrderType.TARGET: verdict.target}
    return OrderIntent(
        client_order_id=client_order_id(cycle_id, leg),
        symbol=verdict.decision.symbol,
        side="sell" if held == "long" else "buy",
        type=kind,
        quantity=verdict.quantity,
        price=triggers.get(kind),
        reduce_only=True,
    )
