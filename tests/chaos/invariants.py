"""What must hold whatever dies: read from the exchange's own state, and the ledger held against it."""

from collections import Counter
from collections.abc import Collection, Iterator
from decimal import Decimal
from typing import Any

WATCHDOG_S = 60.0  # how often `protect` runs
RISK_PCT, GROSS_PCT = Decimal("1.5"), Decimal(100)
SLACK = Decimal("1.02")  # prices and equity move between the decision and the look
FINAL = ("done", "rejected")
State = dict[str, Any]


def ours(order: dict[str, Any]) -> bool:
    return bool(order["orderLinkId"])


def at_the_venue(state: State) -> Iterator[str]:
    """Breaches that the exchange's state alone shows, at any moment: limits, and ids used twice."""
    ids = Counter(order["orderLinkId"] for order in state["orders"] if ours(order))
    yield from (f"duplicate: {name} was ordered {n} times" for name, n in ids.items() if n > 1)
    equity = Decimal(state["equity"])
    gross = sum((_notional(p, state) for p in state["positions"]), Decimal(0))
    if gross > equity * GROSS_PCT / 100 * SLACK:
        yield f"limit: gross {gross:.0f} of equity {equity:.0f}"
    if (risk := risk_pct(state)) > RISK_PCT * SLACK:
        yield f"limit: risk {risk:.2f} % of equity {equity:.0f}"


def risk_pct(state: State) -> Decimal:
    """Return what is lost at the stops, in percent of equity; positions without one are counted as naked instead."""
    held = [p for p in state["positions"] if p["stopLoss"]]
    risk = [(Decimal(p["avg_price"]) - Decimal(p["stopLoss"])) * _sign(p) * Decimal(p["size"]) for p in held]
    return sum((max(r, Decimal(0)) for r in risk), Decimal(0)) / Decimal(state["equity"]) * 100


def naked_s(state: State, bared: Collection[str] = (), attached: bool = False) -> float:
    """Return how long the position that is naked for the longest has been so.

    attached: only of those whose every entry the venue took with its stop, and whose stop nobody took away (`bared`).
    """
    bare = {o["symbol"] for o in state["orders"] if _entered(o) and o["stop"] is None} if attached else set()
    bare |= set(bared) if attached else set()
    naked = [p for p in state["positions"] if not p["stopLoss"] and p["symbol"] not in bare]
    return max((p["unprotected_s"] for p in naked), default=0.0)


def rests_without_a_stop(state: State) -> bool:
    return any(_entered(o) and o["stop"] is None and o["status"] == "open" for o in state["orders"])


def _entered(order: dict[str, Any]) -> bool:
    return ours(order) and not order["reduce_only"] and not order["protection"]


def _notional(position: dict[str, Any], state: State) -> Decimal:
    return Decimal(position["size"]) * Decimal(state["prices"][position["symbol"]])


def _sign(position: dict[str, Any]) -> int:
    return 1 if position["side"] == "long" else -1


def reconciled(state: State, ledger: State) -> Iterator[str]:
    """Breaches after `protect` has looked with nothing in the way: venue and ledger must agree, nothing be lost."""
    yield from at_the_venue(state)
    for order in filter(ours, state["orders"]):
        if order["orderLinkId"] not in ledger["states"]:
            yield f"lost: {order['orderLinkId']} at the venue has no intent"
    yield from _twice_in_a_cycle(state, ledger)
    yield from _positions(state, ledger)
    yield from _intents(state, ledger)
    # what a person trades where we never did, nobody books
    of_ours = [fill for fill in state["fills"] if fill["orderLinkId"] or fill["reason"] not in ("entry", "exit")]
    unknown = {fill["fill_id"] for fill in of_ours} - set(ledger["fills"])
    if unknown:
        yield f"lost: {len(unknown)} fills are not in the ledger"
    if ledger["halt"]:
        yield f"halt: {ledger['halt']}"


def _twice_in_a_cycle(state: State, ledger: State) -> Iterator[str]:
    """A decision has one entry; another id for the same leg would be a duplicate in all but name."""
    entries = [o["orderLinkId"] for o in state["orders"] if ours(o) and not o["reduce_only"]]
    per_cycle = Counter(ledger["cycles"].get(name) for name in entries)
    yield from (f"duplicate: cycle {cycle} has {n} entries" for cycle, n in per_cycle.items() if cycle and n > 1)


def _positions(state: State, ledger: State) -> Iterator[str]:
    venue = {p["symbol"]: (p["side"], Decimal(p["size"])) for p in state["positions"]}
    books = {symbol: (side, Decimal(quantity)) for symbol, (side, quantity, _) in ledger["positions"].items()}
    if venue != books:
        yield f"mismatch: venue {_told(venue)}, ledger {_told(books)}"
    for position in state["positions"]:
        if not position["stopLoss"]:
            yield f"naked: {position['symbol']} has no stop after `protect`"


def _told(positions: dict[str, tuple[str, Decimal]]) -> str:
    return " ".join(f"{s} {side} {quantity}" for s, (side, quantity) in sorted(positions.items())) or "flat"


def _intents(state: State, ledger: State) -> Iterator[str]:
    """An intent is final, or its order still works, or it may yet be sent."""
    at_venue = {order["orderLinkId"]: order for order in filter(ours, state["orders"])}
    for name, status in ledger["states"].items():
        order = at_venue.get(name)
        if status == "rejected" and order is not None and Decimal(order["filled"]) > 0:
            yield f"lost: {name} filled {order['filled']} and is rejected in the ledger"
        if status not in FINAL and order is not None and order["status"] != "open":
            yield f"lost: {name} is {order['status']} at the venue and {status} in the ledger"
