"""What models were asked and answered, as examples that language models are trained on.

An example is a question as it was sent, masked or not, and a reply as it came, from which our parser reads the decision
again: calls of which that is not so (a panel's, one for several symbols, one that a fallback stood in for) are none.
What a reply was worth is its counterfactual net R: judged by the guard and followed for a day, as every answer is.

- **sft**: question and reply of each decision.
- **dpo**: of the replies to one moment, the champion's, challengers' and samples, the best and the worst, where
  `margin` R or more is between them.
- **kto**: each reply and whether it was a good one, by `margin` R or more: an action is where it beats doing nothing,
  doing nothing where it beats the mean of the other allowed actions.
- **grpo**: each question, with what every action would have been worth as its reward; one that was not allowed is
  denied, and so is worth what doing nothing is.
"""

from collections.abc import Callable, Iterator, Sequence
from statistics import fmean
from typing import NamedTuple

from tasks.core.decision.actions import Unusable, parse_reply
from tasks.core.lab.action_values import Foreseen
from tasks.core.lab.rl import CHOICES
from tasks.core.types import Answer, CycleRecord, Decision, Json, ModelCall

Worth = Callable[[Answer], float | None]  # net R


class Said(NamedTuple):
    """One reply to one moment, and what it came to."""

    call: ModelCall
    decider: str
    decided: Answer
    r: float | None = None


MARGIN_R = 0.2  # how far apart two values must be to be told apart


def said(record: CycleRecord, others: Sequence[tuple[str, Answer]] = (), worth: Worth = lambda _: None) -> list[Said]:
    """Return every reply to a record's moment that reads back, once, the decision's own first.

    others: what challengers answered, by name.
    """
    found: list[Said] = []
    for decider, decided in ((record.decider, record.decided), *others):
        if decided is None or decided.is_fallback:
            continue
        for number, vote in enumerate(decided.votes or (decided.decision,)):
            call = vote and _call(decided, vote, number)
            if vote and call and not any(_same(call, each.call) for each in found):
                answer = decided.replace(decision=vote)
                found.append(Said(call, decider, answer, worth(answer)))
    return found


def _call(decided: Answer, decision: Decision, sample: int) -> ModelCall | None:
    """Return the last call of a sample whose reply is this decision and nothing less."""
    calls = (call for call in reversed(decided.calls) if call.sample == sample and call.messages)
    return next((call for call in calls if reads_back(call.raw_reply, decision)), None)


def _same(one: ModelCall, other: ModelCall) -> bool:
    return (one.raw_reply, one.messages) == (other.raw_reply, other.messages)


def reads_back(reply: str, decision: Decision) -> bool:
    """Return whether the parser reads this very decision out of a reply, as it does now or as it did before rules 5."""
    for literal in (False, True):
        read = parse_reply(reply, decision.symbol, literal=literal)
        if not isinstance(read, Unusable) and _bare(read) == _bare(decision):
            return True
    return False


def _bare(decision: Decision) -> Decision:
    return decision.replace(source="", read_as=())


def sft(record: CycleRecord, replies: Sequence[Said]) -> Iterator[Json]:
    """Yield the decision's own question and reply, apart and as one conversation."""
    if replies and replies[0].decider == record.decider:
        prompt, completion = _prompt(replies[0]), _completion(replies[0])
        example = {"prompt": prompt, "completion": completion, "messages": [*prompt, *completion]}
        yield example | _told(record, replies[0])


def dpo(record: CycleRecord, replies: Sequence[Said], margin_r: float) -> Iterator[Json]:
    """Yield the best reply beside the worst, to the question that the best one answered."""
    known = [(each.r, -k) for k, each in enumerate(replies) if each.r is not None]
    if len(known) < 2:
        return
    (best, first), (worst, last) = max(known), min(known)
    if best - worst >= margin_r:
        chosen, rejected = replies[-first], replies[-last]
        yield {
            "prompt": _prompt(chosen), "chosen": _completion(chosen), "rejected": _completion(rejected),
            "margin": best - worst, "chosen_r": best, "rejected_r": worst,
            "rejected_decider": rejected.decider, **_told(record, chosen),
        }  # fmt: skip


def kto(record: CycleRecord, replies: Sequence[Said], foreseen: Foreseen, margin_r: float) -> Iterator[Json]:
    """Yield each reply with whether it was good, where that can be told."""
    values = {action: value.r for action, value in foreseen.by_action.items()}
    acting = [r for action, r in values.items() if action != "HOLD"]
    for each in replies:
        action = each.decided.decision.action
        if each.r is None or not acting:
            continue
        gain = each.r - (fmean(acting) if action == "HOLD" else values["HOLD"])
        if abs(gain) >= margin_r:
            example = {"prompt": _prompt(each), "completion": _completion(each), "label": gain > 0, "gain_r": gain}
            yield example | _told(record, each)


def grpo(record: CycleRecord, replies: Sequence[Said], foreseen: Foreseen) -> Iterator[Json]:
    """Yield the question with `reward_<ACTION>` of every action, in R, and which of them were allowed."""
    values = {action: value.r for action, value in foreseen.by_action.items()}
    if replies and values and replies[0].decider == record.decider:
        rewards = {f"reward_{action}": values.get(action, values["HOLD"]) for action in CHOICES}
        yield {"prompt": _prompt(replies[0]), "allowed": list(values), **rewards, **_told(record, replies[0])}


def _prompt(of: Said) -> list[dict[str, str]]:
    return [{"role": each["role"], "content": each["content"]} for each in of.call.messages]


def _completion(of: Said) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": of.call.raw_reply}]


def _told(record: CycleRecord, of: Said) -> Json:
    """Return where an example comes from; nothing of it is ever null, which loaders of JSON make a type of its own."""
    prompt = of.call.prompt
    return {
        "cycle_id": record.cycle_id, "symbol": record.symbol, "as_of": record.as_of.isoformat(),
        "action": of.decided.decision.action, "confidence": float(of.decided.decision.confidence),
        "status": record.status.value, "decider": of.decider, "model": of.call.model,
        "prompt_version": str(prompt) if prompt else "",
    }  # fmt: skip
