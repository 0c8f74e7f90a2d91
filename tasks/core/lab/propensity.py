"""How likely the behaviour policy was to do what it did: its odds over the actions, and those of a single one."""

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from tasks.core.decision.actions import parse_as
from tasks.core.decision.baselines import HOLD_SHARE
from tasks.core.decision.kinds import kind_of
from tasks.core.decision.llm import roles
from tasks.core.lab.action_values import Foreseen
from tasks.core.types import Answer, CycleRecord


class Odds(NamedTuple):
    """How likely each action was to be asked for; the others were not at all.

    kind: `deterministic`, one action for certain; `random`, the baseline's own odds; `vote_share`, of so many samples
    of the same question (`Answer.votes`) the share that asked for it: what came of one that could not be read is none.
    """

    kind: str
    by_action: Mapping[str, float]


def odds_of(record: CycleRecord, decided: Answer) -> Odds | None:
    """Return the behaviour policy's odds; None where they are not known, as below the primary rungs."""
    if decided.is_fallback:
        return None
    if decided.votes:
        named = Counter(vote.action for vote in decided.votes if vote is not None)
        return Odds("vote_share", {action: count / len(decided.votes) for action, count in named.items()})
    odds = kind_of(decided.source).odds
    if odds == "certain":
        return Odds("deterministic", {decided.decision.action: 1.0})
    if odds == "random" and record.snapshot is not None:
        others = sorted(set(record.snapshot.constraints.allowed_actions) - {"HOLD"})
        if not others:
            return Odds("random", {"HOLD": 1.0})
        each = (1 - HOLD_SHARE) / len(others)
        return Odds("random", {"HOLD": HOLD_SHARE} | dict.fromkeys(others, each))
    return None


def carried_share(odds: Odds, foreseen: Foreseen, asked: str, carried: str) -> float | None:
    """Return how likely it was that `carried` came of it; None where it is not known what else would have led there.

    Where the guard's word on every vote, or on every action on offer, is known, it is the sum over those that lead to
    it. Else what was carried out as asked is as likely as it was to be asked for; HOLD also comes of what is denied.
    """
    if odds.kind == "deterministic":
        return 1.0
    if odds.kind == "vote_share" and foreseen.votes:
        return sum(odds.by_action.values()) * foreseen.votes.count(carried) / len(foreseen.votes)
    if odds.kind == "random" and odds.by_action.keys() <= foreseen.by_action.keys():
        return sum(odds for action, odds in odds.by_action.items() if foreseen.by_action[action].carried == carried)
    return odds.by_action.get(asked) if asked == carried != "HOLD" else None


def analyst_share(record: CycleRecord, decided: Answer) -> float | None:
    """Return the share of a panel's analysts that answered whose vote was for the way that it took.

    No probability, but what there is; None where it did not go by votes.
    """
    if decided.is_fallback or kind_of(decided.source).odds != "votes":
        return None
    side = record.snapshot.position.side if record.snapshot else "flat"
    ways = {"OPEN_LONG": "bullish", "OPEN_SHORT": "bearish", "CLOSE_ALL": "bearish" if side == "long" else "bullish"}
    analyses = [parse_as(call.raw_reply, roles.Analysis) for call in decided.calls if call.role in roles.ANALYSTS]
    votes: list[str] = [vote.signal for vote in analyses if isinstance(vote, roles.Analysis)]
    way = ways.get(decided.decision.action)
    share = votes.count(way) / len(votes) if way and votes else None
    return share or None  # what no analyst wanted was not chosen by votes
