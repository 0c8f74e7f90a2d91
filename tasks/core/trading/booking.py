"""Fills -> positions, as a projection: the same fills always give the same positions, however often it is run."""

from collections.abc import Mapping, Sequence

from tasks.core.trading import ledger
from tasks.core.types.orders import Fill, OrderIntent
from tasks.core.types.portfolio import Position

ATTACHED = ("stop", "target", "liquidation", "funding")  # what the venue does to our position by itself


def project(
    fills: Sequence[Fill],
    entries: Mapping[str, tuple[str, OrderIntent]],
    kept: Mapping[str, Position],
    strategy: str,
) -> tuple[list[Position], list[Fill]]:
    """Fold one symbol's fills, oldest first, starting flat.

    entries: our intents by client order id, with their cycle_id; kept: positions as stored, whose moved stops and
    follow-ups are carried over. Returns every position in order (the last may be open) and the fills not ours.
    """
    positions: list[Position] = []
    foreign: list[Fill] = []
    current: Position | None = None
    for fill in fills:
        ours = entries.get(fill.client_order_id)
        if ours is None and (fill.client_order_id or fill.reason not in ATTACHED or current is None):
            foreign.append(fill)
        elif current is not None:
            current = add_protection(ledger.apply_fill(current, fill), None if ours is None else ours[1])
        elif ours is not None:
            current = ledger.open_position(ours[1], [fill], strategy, ours[0])
        if current is not None and current.closed_at is not None:
            positions.append(_carry_over(current, kept))
            current = None
    return (positions if current is None else [*positions, _carry_over(current, kept)]), foreign


def add_protection(position: Position, intent: OrderIntent | None) -> Position:
    """Take over the stop and target that an entry brought with it: an ADD replaces those of the whole position."""
    if intent is None or intent.reduce_only or intent.stop is None:
        return position
    return position.model_copy(update={"stop": intent.stop, "target": intent.target})


def with_protection(position: Position, intent: OrderIntent) -> Position:
    """Take over what a stop, target or cancel_target order has set at the venue: no fill ever tells of it."""
    changes: dict[str, dict[str, object]] = {
        "stop": {"stop": intent.price},
        "target": {"target": intent.price},
        "cancel_target": {"target": None},
    }
    return position.model_copy(update=changes.get(intent.type.value, {}))


def _carry_over(fresh: Position, kept: Mapping[str, Position]) -> Position:
    """Keep what fills do not tell: follow-ups, and a stop that was moved since the last entry."""
    stored = kept.get(fresh.position_id)
    if stored is None:
        return fresh
    changed = ["followups", "followups_done", "peak_r"]
    if stored.entry_quantity == fresh.entry_quantity:
        changed += ["stop", "target"]
    return fresh.model_copy(update={name: getattr(stored, name) for name in changed})
