"""Follow-ups: what a decision wants done once its trade has earned a given R.

The grammar, in any case and spacing, with "at" or "on" and an optional plus:
    MOVE_STOP: breakeven on +1.0R     MOVE_STOP: +0.5R on +1.5R     TRIM 30% at +1.5R
    CLOSE_PARTIAL 50% at 2R           CLOSE_ALL at +3R
Anything else is rejected with a reason and carried out never. R is `r`, fixed by the first entry and its stop, so a
rule needs no indicator and `protect` can carry it out between bars. Each rule runs once per position.

A stop is moved to a price of the same scale: +0.5R is where `r` is 0.5, also after an ADD. Breakeven is the average
price of what is open, before fees: with it an ADD loses nothing either.
"""

import re
from collections.abc import Iterable
from decimal import Decimal

from tasks.core.trading.guard import sizing
from tasks.core.trading.money import floor_to_step
from tasks.core.trading.orders import protect_order_id, reducing
from tasks.core.types import ZERO, Dto, Exact, Instrument, OrderIntent, OrderType, Position, r_at, r_scale

_R = r"[+-]?\s*\d{1,3}(?:\.\d{1,6})?"
_AT = rf"\s*,?\s*(?:at|on)\s*(?P<at>{_R})\s*r"
_MOVE = re.compile(rf"move[_ ]?stop\s*:?\s*(?:to\s+)?(?:break[- _]?even|(?P<to>{_R})\s*r){_AT}")
_TRIM = re.compile(rf"(?:trim|close[_ ]?partial)\s*:?\s*(?P<pct>\d{{1,3}}(?:\.\d{{1,6}})?)\s*%{_AT}")
_CLOSE = re.compile(rf"close[_ ]?all\s*:?{_AT}")


class MoveStopRule(Dto):
    """Move the stop to where `r` is `to_r` (0: breakeven)."""

    at_r: Exact
    to_r: Exact = ZERO

    def __str__(self) -> str:
        where = "breakeven" if self.to_r == 0 else f"{_plain(self.to_r)}R"
        return f"MOVE_STOP: {where} on {_plain(self.at_r)}R"


class TrimRule(Dto):
    """Close `size_pct` percent of what is open then."""

    at_r: Exact
    size_pct: Exact

    def __str__(self) -> str:
        return f"TRIM {self.size_pct.normalize():f}% at {_plain(self.at_r)}R"


class RejectedFollowup(Dto):
    """A follow-up nobody will carry out, and why."""

    text: str
    reason: str


Rule = MoveStopRule | TrimRule


def _plain(r: Decimal) -> str:
    return f"{r.normalize():+f}"


def parse(texts: Iterable[str]) -> tuple[Rule, ...]:
    """Parse follow-ups into rules, a repeated one once; what is none is left out."""
    rules = {str(rule): rule for text in texts if not isinstance(rule := parse_one(text), RejectedFollowup)}
    return tuple(rules.values())


def parse_one(text: str) -> Rule | RejectedFollowup:
    """Parse one follow-up; `str` of the rule is its one canonical spelling."""
    plain = text.strip().rstrip(".").lower()
    match = _MOVE.fullmatch(plain) or _TRIM.fullmatch(plain) or _CLOSE.fullmatch(plain)
    if match is None:
        reason = 'not understood; say "MOVE_STOP: breakeven on +1.0R" or "TRIM 30% at +1.5R"'
        return RejectedFollowup(text=text, reason=reason)
    group = {name: Decimal("".join(value.split())) for name, value in match.groupdict().items() if value}
    at_r, to_r, size_pct = group["at"], group.get("to", ZERO), group.get("pct", sizing.HUNDRED)
    if at_r <= 0:
        reason = f"trigger {at_r}R must be a profit, above 0R; the stop takes losses"
    elif match.re is _MOVE and not -1 < to_r < at_r:
        reason = f"stop at {to_r}R must be above -1R and below its trigger {at_r}R"
    elif not 0 < size_pct <= 100:
        reason = f"{size_pct}% must be above 0 and at most 100"
    else:
        return MoveStopRule(at_r=at_r, to_r=to_r) if match.re is _MOVE else TrimRule(at_r=at_r, size_pct=size_pct)
    return RejectedFollowup(text=text, reason=reason)


def pending(position: Position) -> tuple[Rule, ...]:
    """Return the position's rules that were not carried out yet, nearest trigger first."""
    done = {str(rule) for rule in parse(position.followups_done)}
    rules = [rule for rule in parse(position.followups) if str(rule) not in done]
    return tuple(sorted(rules, key=lambda rule: rule.at_r))


def due(position: Position, price: Decimal) -> tuple[Rule, ...]:
    """Return the pending rules whose R `price` has reached; none for a position that never had a stop."""
    earned = r_at(position, price)
    if earned is None or position.closed_at is not None:
        return ()
    return tuple(rule for rule in pending(position) if earned >= rule.at_r)


def mark_done(position: Position, rule: Rule) -> Position:
    """Return the position with `rule` noted as carried out."""
    return position.replace(followups_done=(*position.followups_done, str(rule)))


def intent(rule: Rule, position: Position, instrument: Instrument) -> OrderIntent | None:
    """Return the reduce-only order that carries out `rule`; None when nothing is left to do.

    Its id derives from position and rule, so carrying a rule out twice orders once. A stop only tightens. A trim sells
    nothing below the venue's minimum, and all where the rest would be below it.
    """
    name, quantity = protect_order_id(position.position_id, str(rule), 0), position.quantity
    if isinstance(rule, MoveStopRule):
        if (scale := r_scale(position)) is None:
            return None
        way = sizing.direction(position.side)
        aim = scale[0] + rule.to_r * scale[1] if rule.to_r else position.avg_price
        stop = sizing.protective_price(position.side, aim, instrument.tick)
        tighter = position.stop is None or way * (stop - position.stop) > 0
        return reducing(position, name, OrderType.STOP, quantity, stop) if tighter else None
    part = floor_to_step(quantity * rule.size_pct / sizing.HUNDRED, instrument.step)
    if sizing.too_small(instrument, part, None):
        return None
    if sizing.too_small(instrument, quantity - part, None):
        part = sizing.sellable(instrument, quantity)
    return reducing(position, name, OrderType.MARKET, part)
