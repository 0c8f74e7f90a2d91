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
            current = ledger.apply_fill(current, fill)
        elif ours is not None:
            cycle_id, intent = ours
            current = _carry_over(ledger.open_position(intent, [fill], strategy, cycle_id), kept)
        if current is not None and current.closed_at is not None:
            positions.append(current)
            current = None
    return (positions if current is None else [*positions, current]), foreign


def _carry_over(fresh: Position, kept: Mapping[str, Position]) -> Position:
    stored = kept.get(fresh.position_id)
    if stored is None:
        return fresh
    changed = ("stop", "target", "followups", "followups_done", "peak_r")
    return fresh.model_copy(update={name: getattr(stored, name) for name in changed})
