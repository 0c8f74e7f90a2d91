"""Follow-ups: what a decision wants done with its trade at a given R, or age, without being asked again.

The grammar, in any case and spacing, with "at", "on", "from", "after", "once" or "when" and an optional plus:
    MOVE_STOP: breakeven on +1.0R     MOVE_STOP: +0.5R on +1.5R     TRIM 30% at +1.5R
    CLOSE_PARTIAL 50% at 2R           CLOSE_ALL at +3R
    TRAIL 2.0 ATR from +1.0R          CLOSE after 96 bars below +0.5R
Anything else is rejected with a reason and carried out never. R is `r`, fixed by the first entry and its stop; what is
due is judged at 5m closes since the position opened. Each rule runs once per position, but for TRAIL.

A stop is moved to a price of the same scale: +0.5R is where `r` is 0.5, also after an ADD. Breakeven is the average
price of what is open, before fees: with it an ADD loses nothing either. TRAIL keeps the stop n ATR(14) of 15m behind
the best close once one has reached its R, as long as the position is open; it only tightens, and never to where the
price is already. CLOSE ends the trade at the first close at which it has seen at least that many closes of 5m and `r`
is below; the bar of the opening counts, wherever in it the fill came.
"""

import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from decimal import Decimal
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from tasks.core.market.position_events import STEP, Closes
from tasks.core.trading.guard import sizing
from tasks.core.trading.orders import protect_order_id, reducing
from tasks.core.types import (
    ENTRIES,
    HUNDRED,
    MANAGES,
    ZERO,
    Decision,
    Dto,
    Exact,
    Instrument,
    OrderIntent,
    OrderType,
    Position,
    RejectedFollowup,
    direction,
    exact,
    known,
    r_at,
    r_scale,
)

_N = r"\d{1,3}(?:\.\d{1,6})?"
_R = rf"[+-]?\s*{_N}"
_WHEN = r"\s*,?\s*(?:at|on|from|after|once|when)\s*"
_AT = rf"{_WHEN}(?P<at>{_R})\s*r"
_MOVE = re.compile(rf"move[_ ]?stop\s*:?\s*(?:to\s+)?(?:break[- _]?even|(?P<to>{_R})\s*r){_AT}")
_TRIM = re.compile(rf"(?:trim|close(?:[_ ]?partial)?)\s*:?\s*(?P<pct>{_N})\s*%{_AT}")
_CLOSE = re.compile(rf"close[_ ]?all\s*:?{_AT}")
_TRAIL = re.compile(rf"trail(?:[_ ]?stop)?\s*:?\s*(?:by\s+)?(?P<atr>{_N})\s*x?\s*atr{_AT}")
_AGE = re.compile(rf"close(?:[_ ]?all)?\s*:?\s*after\s*(?P<bars>\d{{1,5}})\s*bars?\s*,?\s*below\s*(?P<at>{_R})\s*r")


EXAMPLES = (
    '"MOVE_STOP: breakeven on +1.0R", "TRIM 30% at +1.5R", "TRAIL 2.0 ATR from +1.0R" or '
    '"CLOSE after 96 bars below +0.5R"'
)
FARTHEST = 20  # ATR, as of any stop
NEARLY = 1e-6  # of R: a float may lie beside the R that a close is at exactly


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


class TrailRule(Dto):
    """Keep the stop `atr` ATR behind the best close, once that has reached `at_r`."""

    at_r: Exact
    atr: Exact

    def __str__(self) -> str:
        return f"TRAIL {self.atr.normalize():f} ATR from {_plain(self.at_r)}R"


class AgeRule(Dto):
    """Close all once `bars` 5m bars have passed since the position opened and `r` is below `at_r`."""

    at_r: Exact
    bars: int

    def __str__(self) -> str:
        return f"CLOSE after {self.bars} bars below {_plain(self.at_r)}R"


class Look(NamedTuple):
    """What is known of a position's market at a 5m close: when, the price, its best since the position opened, and
    ATR(14) of 15m, None where unknown."""

    at: datetime
    price: Decimal
    best: Decimal
    atr: Decimal | None = None


Rule = MoveStopRule | TrimRule | TrailRule | AgeRule


def _plain(r: Decimal) -> str:
    return f"{r.normalize():+f}"


def parse(texts: Iterable[str]) -> tuple[Rule, ...]:
    """Parse follow-ups into rules, a repeated one once; what is none is left out."""
    rules = {str(rule): rule for text in texts if not isinstance(rule := parse_one(text), RejectedFollowup)}
    return tuple(rules.values())


def unread(texts: Iterable[str]) -> tuple[RejectedFollowup, ...]:
    """Return those follow-ups that nobody will carry out, each with the reason."""
    return tuple(rule for rule in map(parse_one, texts) if isinstance(rule, RejectedFollowup))


def parse_one(text: str) -> Rule | RejectedFollowup:
    """Parse one follow-up; `str` of the rule is its one canonical spelling."""
    plain = text.strip().rstrip(".").lower()
    match = next(filter(None, (form.fullmatch(plain) for form in (_MOVE, _TRIM, _CLOSE, _TRAIL, _AGE))), None)
    if match is None:
        return RejectedFollowup(text=text, reason=f"not understood; say {EXAMPLES}")
    group = {name: Decimal("".join(value.split())) for name, value in match.groupdict().items() if value}
    at_r, to_r, size_pct = group["at"], group.get("to", ZERO), group.get("pct", HUNDRED)
    if match.re is _AGE:
        if at_r > -1 and group["bars"]:
            return AgeRule(at_r=at_r, bars=int(group["bars"]))
        reason = f"after {group['bars']} bars below {at_r}R: must be at least 1 bar, and above -1R, where the stop is"
    elif at_r <= 0:
        reason = f"trigger {at_r}R must be a profit, above 0R; the stop takes losses"
    elif match.re is _TRAIL:
        if 0 < group["atr"] <= FARTHEST:
            return TrailRule(at_r=at_r, atr=group["atr"])
        reason = f"{group['atr']} ATR must be above 0 and at most {FARTHEST}"
    elif match.re is _MOVE and not -1 < to_r < at_r:
        reason = f"stop at {to_r}R must be above -1R and below its trigger {at_r}R"
    elif not 0 < size_pct <= 100:
        reason = f"{size_pct}% must be above 0 and at most 100"
    else:
        return MoveStopRule(at_r=at_r, to_r=to_r) if match.re is _MOVE else TrimRule(at_r=at_r, size_pct=size_pct)
    return RejectedFollowup(text=text, reason=reason)


def pending(position: Position) -> tuple[Rule, ...]:
    """Return the position's rules that were not carried out yet, nearest R first."""
    done = {str(rule) for rule in parse(position.followups_done)}
    rules = [rule for rule in parse(position.followups) if str(rule) not in done]
    return tuple(sorted(rules, key=lambda rule: rule.at_r))


def look(position: Position, closes: Closes, atr: Callable[[ndarray], ndarray]) -> Look | None:
    """Return what is known at the last of `closes`, prices of 5m since the position opened; None without any.

    atr: gives ATR(14) of 15m by a close; asked where a TRAIL waits for it.
    """
    if not len(closes.at_s):
        return None
    trails = any(isinstance(rule, TrailRule) for rule in pending(position))
    return Look(
        datetime.fromtimestamp(int(closes.at_s[-1]), UTC),
        exact(closes.level[-1]),
        exact(closes.level.max() if position.side == "long" else closes.level.min()),
        known(float(atr(closes.at_s[-1:])[0])) if trails else None,
    )


def due(position: Position, seen: Look) -> tuple[Rule, ...]:
    """Return the pending rules that are to be carried out by now; none for a position that never had a stop."""
    if r_scale(position) is None or position.closed_at is not None:
        return ()
    return tuple(rule for rule in pending(position) if _is_due(rule, position, seen))


def _is_due(rule: Rule, position: Position, seen: Look) -> bool:
    earned, best = r_at(position, seen.price), r_at(position, seen.best)
    if earned is None or best is None:
        return False
    if isinstance(rule, AgeRule):
        return seen.at.timestamp() >= _old_at(rule, position) and earned < rule.at_r
    if not isinstance(rule, TrailRule):
        return earned >= rule.at_r
    aim, way = _aim(rule, position, seen), direction(position.side)
    return (
        best >= rule.at_r
        and aim is not None
        and way * (seen.price - aim) > 0
        and (position.stop is None or way * (aim - position.stop) > 0)
    )


def _old_at(rule: AgeRule, position: Position) -> int:
    """Return at which close the position has seen as many as `rule` waits for, in seconds since 1970."""
    return int(position.opened_at.timestamp()) // STEP * STEP + rule.bars * STEP


def _aim(rule: MoveStopRule | TrailRule, position: Position, seen: Look) -> Decimal | None:
    """Return where the rule wants the stop, not yet on a tick; None where that is unknown."""
    if isinstance(rule, TrailRule):
        return None if seen.atr is None else seen.best - direction(position.side) * rule.atr * seen.atr
    scale = r_scale(position)
    if scale is None or not rule.to_r:
        return None if scale is None else position.avg_price
    return scale[0] + rule.to_r * scale[1]


def reached(rule: Rule, position: Position, path: Closes, atr: ndarray) -> ndarray:
    """Return at which of the closes since its opening `rule` may be due; `due` has the last word.

    path: `r` at each; atr: ATR(14) of 15m in price at each.
    """
    r = path.level
    if isinstance(rule, AgeRule):
        return (path.at_s >= _old_at(rule, position)) & (r < float(rule.at_r) + NEARLY)
    scale = r_scale(position)
    if not isinstance(rule, TrailRule) or scale is None:
        return r >= float(rule.at_r) - NEARLY
    best = np.maximum.accumulate(r)
    aim = best - float(rule.atr) * atr / abs(float(scale[1]))
    stop = -np.inf if position.stop is None else float((position.stop - scale[0]) / scale[1])
    return (best >= float(rule.at_r) - NEARLY) & (r > aim - NEARLY) & (aim > stop - NEARLY)


def joined(position: Position, decision: Decision) -> Position:
    """Return the position with the follow-ups of a decision about it, those that it has once."""
    asked = decision.followups if isinstance(decision, ENTRIES + MANAGES) else ()
    return position.replace(followups=tuple(dict.fromkeys((*position.followups, *asked)))) if asked else position


def mark_done(position: Position, rule: Rule) -> Position:
    """Return the position with `rule` noted as carried out; a TRAIL goes on."""
    if isinstance(rule, TrailRule):
        return position
    return position.replace(followups_done=(*position.followups_done, str(rule)))


def intent(rule: Rule, position: Position, instrument: Instrument, seen: Look) -> OrderIntent | None:
    """Return the reduce-only order that carries out `rule`; None when nothing is left to do.

    Its id derives from position and rule, so carrying a rule out twice orders once; each stop of a TRAIL has its own. A
    stop only tightens. A trim sells nothing below the venue's minimum, and all where the rest would be below it.
    """
    kind, quantity = str(rule), position.quantity
    if isinstance(rule, MoveStopRule | TrailRule):
        if (aim := _aim(rule, position, seen)) is None:
            return None
        stop = sizing.protective_price(position.side, aim, instrument.tick)
        if position.stop is not None and direction(position.side) * (stop - position.stop) <= 0:
            return None
        kind += f" {stop}" if isinstance(rule, TrailRule) else ""
        return reducing(position, protect_order_id(position.position_id, kind, 0), OrderType.STOP, quantity, stop)
    size_pct = rule.size_pct if isinstance(rule, TrimRule) else HUNDRED
    if (part := sizing.part_of(instrument, quantity, size_pct)) is None:
        return None
    return reducing(position, protect_order_id(position.position_id, kind, 0), OrderType.MARKET, part)
