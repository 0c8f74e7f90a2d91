"""Follow-ups: what a decision wants done once its trade has earned a given R.

The grammar, in any case and spacing, with "at" or "on" and an optional plus:
    MOVE_STOP: breakeven on +1.0R     MOVE_STOP: +0.5R on +1.5R     TRIM 30% at +1.5R
    CLOSE_PARTIAL 50% at 2R           CLOSE_ALL at +3R
Anything else is rejected with a reason and carried out never. R is measured against the initial stop, so a rule
needs no indicator and `protect` can carry it out between bars. Each rule runs once per position.
"""

import re
from collections.abc import Iterable
from decimal import Decimal
from typing import Literal, NamedTuple

from pydantic import Field

from tasks.core.trading.guard import sizing
from tasks.core.trading.money import floor_to_step
from tasks.core.trading.orders import protect_order_id
from tasks.core.types.base import Dto, Exact, Quantity
from tasks.core.types.orders import Instrument, OrderIntent, OrderType
from tasks.core.types.portfolio import Position

_R = r"[+-]?\s*\d{1,3}(?:\.\d{1,6})?"
_AT = rf"\s*,?\s*(?:at|on)\s*(?P<at>{_R})\s*r"
_MOVE = re.compile(rf"move[_ ]?stop\s*:?\s*(?:to\s+)?(?:break[- _]?even|(?P<to>{_R})\s*r){_AT}")
_TRIM = re.compile(rf"(?:trim|close[_ ]?partial)\s*:?\s*(?P<pct>\d{{1,3}}(?:\.\d{{1,6}})?)\s*%{_AT}")
_CLOSE = re.compile(rf"close[_ ]?all\s*:?{_AT}")


class MoveStopRule(Dto):
    """Move the stop to the entry plus `to_r` times the initial risk (0: breakeven)."""

    kind: Literal["MOVE_STOP"] = "MOVE_STOP"
    at_r: Exact = Field(gt=0)
    to_r: Exact = Decimal(0)

    def __str__(self) -> str:
        where = "breakeven" if self.to_r == 0 else f"{_plain(self.to_r)}R"
        return f"MOVE_STOP: {where} on {_plain(self.at_r)}R"


class TrimRule(Dto):
    """Close `size_pct` percent of what is open then."""

    kind: Literal["TRIM"] = "TRIM"
    at_r: Exact = Field(gt=0)
    size_pct: Exact = Field(gt=0, le=100)

    def __str__(self) -> str:
        return f"TRIM {self.size_pct.normalize():f}% at {_plain(self.at_r)}R"


Rule = MoveStopRule | TrimRule


class Rejected(Dto):
    """A follow-up nobody will carry out, and why."""

    text: str
    reason: str


class Parsed(NamedTuple):
    rules: tuple[Rule, ...]
    rejected: tuple[Rejected, ...]


def _plain(r: Decimal) -> str:
    return f"{r.normalize():+f}"


def parse(texts: Iterable[str]) -> Parsed:
    """Parse follow-ups into rules, a repeated one once, and those that are none."""
    found = [parse_one(text) for text in texts]
    rules = {str(rule): rule for rule in found if not isinstance(rule, Rejected)}
    return Parsed(tuple(rules.values()), tuple(r for r in found if isinstance(r, Rejected)))


def parse_one(text: str) -> Rule | Rejected:
    """Parse one follow-up; `str` of the rule is its one canonical spelling."""
    said = text.strip().rstrip(".").lower()
    match = _MOVE.fullmatch(said) or _TRIM.fullmatch(said) or _CLOSE.fullmatch(said)
    if match is None:
        return Rejected(text=text, reason='not understood; say "MOVE_STOP: breakeven on +1.0R" or "TRIM 30% at +1.5R"')
    at_r = _number(match["at"])
    if at_r <= 0:
        return Rejected(text=text, reason=f"trigger {at_r}R must be a profit, above 0R; the stop takes losses")
    if match.re is _MOVE:
        return _move_rule(text, at_r, _number(match["to"] or "0"))
    size_pct = Decimal(match["pct"]) if match.re is _TRIM else Decimal(100)
    if not 0 < size_pct <= 100:
        return Rejected(text=text, reason=f"{size_pct}% must be above 0 and at most 100")
    return TrimRule(at_r=at_r, size_pct=size_pct)


def _number(text: str) -> Decimal:
    return Decimal("".join(text.split()))


def _move_rule(text: str, at_r: Decimal, to_r: Decimal) -> Rule | Rejected:
    if not -1 < to_r < at_r:
        return Rejected(text=text, reason=f"stop at {to_r}R must be above -1R and below its trigger {at_r}R")
    return MoveStopRule(at_r=at_r, to_r=to_r)


def pending(position: Position) -> tuple[Rule, ...]:
    """Return the position's rules that were not carried out yet, nearest trigger first."""
    done = {str(parse_one(text)) for text in position.followups_done}
    rules = [rule for rule in parse(position.followups).rules if str(rule) not in done]
    return tuple(sorted(rules, key=lambda rule: rule.at_r))


def due(position: Position, price: Decimal) -> tuple[Rule, ...]:
    """Return the pending rules whose R `price` has reached; none for a position that never had a stop."""
    earned = position.unrealized_r(price)
    if earned is None or position.closed_at is not None:
        return ()
    return tuple(rule for rule in pending(position) if earned >= rule.at_r)


def mark_done(position: Position, rule: Rule) -> Position:
    """Return the position with `rule` noted as carried out."""
    return position.model_copy(update={"followups_done": (*position.followups_done, str(rule))})


def intent(rule: Rule, position: Position, instrument: Instrument) -> OrderIntent | None:
    """Return the reduce-only order that carries out `rule`; None when nothing is left to do.

    Its id derives from position and rule, so carrying a rule out twice orders once.
    """
    if isinstance(rule, MoveStopRule):
        stop = _stop(rule, position, instrument)
        return None if stop is None else _order(rule, position, OrderType.STOP, Quantity(position.quantity), stop)
    quantity = _trim(rule, position, instrument)
    return _order(rule, position, OrderType.MARKET, quantity, None) if quantity else None


def _order(rule: Rule, position: Position, kind: OrderType, quantity: Quantity, price: Decimal | None) -> OrderIntent:
    return OrderIntent(
        client_order_id=protect_order_id(position.position_id, str(rule), 0),
        symbol=position.symbol,
        side="sell" if position.side == "long" else "buy",
        type=kind,
        quantity=quantity,
        price=price,
        reduce_only=True,
    )


def _stop(rule: MoveStopRule, position: Position, instrument: Instrument) -> Decimal | None:
    """Return the new stop; None when the stop is as tight already: follow-ups only tighten."""
    if position.risk_per_unit is None:
        return None
    way = sizing.direction(position.side)
    stop = sizing.protective_price(
        position.side, position.avg_price + way * rule.to_r * position.risk_per_unit, instrument.tick
    )
    return None if position.stop is not None and way * (stop - position.stop) <= 0 else stop


def _trim(rule: TrimRule, position: Position, instrument: Instrument) -> Quantity:
    """Return how much to sell: nothing below the venue's minimum, all where the rest would be below it."""
    quantity = floor_to_step(position.quantity * rule.size_pct / sizing.HUNDRED, instrument.step)
    rest = position.quantity - quantity
    if sizing.too_small(instrument, quantity, None):
        return Quantity(Decimal(0))
    return sizing.sellable(instrument, position.quantity) if sizing.too_small(instrument, rest, None) else quantity
