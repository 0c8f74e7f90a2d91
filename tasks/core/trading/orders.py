"""Order ids and intents: what a verdict becomes on its way to the venue.

Every id derives from the decision, so that running twice orders once. A client order id is 32 hexadecimal digits,
which every venue takes: our mark, the first 24 of the uuid it derives from, and its leg. Ids of before (a prefix, the
whole uuid, a leg of two characters: 36) stay ours.
"""

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID, uuid5

from tasks.core.types import ENTRIES, AccountState, HeldPosition, OrderIntent, OrderType, Position, Strategy, Verdict

NAMESPACE = UUID("6f1f9e0c-6c1e-5c0e-9b7a-2d1f4a7c9e55")  # fixed for ever: every id ever sent derives from it
MARK, PREFIX = "dec0", "qd"
HEX_IDS = 4  # the first rules of a strategy by which its orders have the shorter ids
DIGITS = 24
PROTECT_LEG = "p0"
_LEGS = {"e0": "0001", "x0": "0002", "s0": "0003", "t0": "0004", "c0": "0005", PROTECT_LEG: "0006"}
_REDUCING = {
    "TRIM": ("x0", OrderType.MARKET),
    "CLOSE_PARTIAL": ("x0", OrderType.MARKET),
    "CLOSE_ALL": ("x0", OrderType.MARKET),
    "MOVE_STOP": ("s0", OrderType.STOP),
    "SET_TP": ("t0", OrderType.TARGET),
    "CANCEL_TP": ("c0", OrderType.CANCEL_TARGET),
}
_OURS = re.compile(
    rf"(?:{MARK}(?P<id>[0-9a-f]{{{DIGITS}}})(?P<leg>{'|'.join(_LEGS.values())})"
    rf"|{PREFIX}(?P<old_id>[0-9a-f]{{32}})(?P<old_leg>[a-z0-9]{{2}}))"
)


def cycle_id(strategy: str, symbol: str, as_of: datetime) -> str:
    """Return the id of the one cycle of `strategy` on `symbol` at `as_of`, in whatever zone that time is given."""
    if as_of.tzinfo is None:
        raise ValueError(f"as_of {as_of.isoformat()} has no timezone; give aware UTC")
    return str(uuid5(NAMESPACE, "|".join((strategy, symbol, as_of.astimezone(UTC).isoformat()))))


def client_order_id(cycle_id: str, leg: str, rules: int = HEX_IDS) -> str:
    """Return the client order id of a leg; `cycle_id` may be any uuid an order derives from."""
    digits = UUID(cycle_id).hex
    return f"{PREFIX}{digits}{leg}" if rules < HEX_IDS else f"{MARK}{digits[:DIGITS]}{_LEGS[leg]}"


def protect_order_id(position_id: str, kind: str, sequence: int) -> str:
    """Return the client order id of an order `protect` sends for a position; persist `sequence` before sending."""
    return client_order_id(str(uuid5(NAMESPACE, f"{position_id}|{kind}|{sequence}")), PROTECT_LEG)


def is_ours(client_order_id: str) -> bool:
    """Return whether an order the venue reports was sent by this system."""
    return _OURS.fullmatch(client_order_id) is not None


def is_protects(client_order_id: str) -> bool:
    """Return whether `protect` sent an order of ours."""
    match = _OURS.fullmatch(client_order_id)
    return match is not None and (match["leg"] or match["old_leg"]) in (PROTECT_LEG, _LEGS[PROTECT_LEG])


def derives_from(client_order_id: str, cycle_id: str) -> bool:
    """Return whether an order of ours is a leg of that cycle."""
    match = _OURS.fullmatch(client_order_id)
    return match is not None and UUID(cycle_id).hex.startswith(match["id"] or match["old_id"])


def reducing(
    position: Position | HeldPosition,
    name: str,
    kind: OrderType,
    quantity: Decimal,
    price: Decimal | None = None,
    asked_by: str = "",
) -> OrderIntent:
    """Return an order that can only reduce `position`; name: its client order id, price: a trigger."""
    return OrderIntent(
        client_order_id=name,
        symbol=position.symbol,
        side="sell" if position.side == "long" else "buy",
        type=kind,
        quantity=quantity,
        price=price,
        reduce_only=True,
        asked_by=asked_by,
    )


def plan(
    verdict: Verdict, cycle_id: str, state: AccountState, as_of: datetime, strategy: Strategy
) -> tuple[OrderIntent, ...]:
    """Return the orders that carry out a verdict; none when it is denied or asks for nothing of the venue.

    An entry is one order: its stop and target go with it, so that it is never naked. The others can only reduce: an
    exit at market, or the position's stop or target at its trigger.
    """
    decision = verdict.decision
    position = state.position(decision.symbol)
    if not verdict.allowed:
        return ()
    if isinstance(decision, ENTRIES) and (side := decision.side or (position.side if position else None)):
        limit = decision.entry.type == "limit"
        intent = OrderIntent.of(
            verdict,
            client_order_id=client_order_id(cycle_id, "e0", strategy.rules),
            symbol=decision.symbol,
            side="buy" if side == "long" else "sell",
            type=OrderType.LIMIT if limit else OrderType.MARKET,
            price=verdict.price if limit else None,
            expires_at=as_of + timedelta(minutes=strategy.limits.limit_entry_minutes) if limit else None,
        )
    elif position is not None and decision.action in _REDUCING:
        leg, kind = _REDUCING[decision.action]
        triggers = {OrderType.STOP: verdict.stop, OrderType.TARGET: verdict.target}
        name = client_order_id(cycle_id, leg, strategy.rules)
        intent = reducing(position, name, kind, verdict.quantity, triggers.get(kind))
    else:
        return ()
    return (intent,)
