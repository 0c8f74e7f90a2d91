"""`llm:portfolio`: one call for all symbols, answered with target positions, normalised to the same actions.

An order is target minus current, so an answer says where to be and not what to do. What does not add up is not
guessed at: a second entry for an instrument, an entry without a stop, a `sell` that would open a long: that
instrument holds and says why. Through zero takes two cycles: now the close, the opening when asked again.

The one ModelCall stands in every decision, so that each record explains itself; its cost and tokens count in the
first alone, the others are flagged `shared_call`.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from decimal import ROUND_CEILING, Context, Decimal
from functools import partial
from typing import Literal

from tasks.core.decision.actions import (
    Parsed,
    Unusable,
    as_meant,
    object_schema,
    parse_as,
    parse_reply,
    strict_object,
)
from tasks.core.decision.decider import (
    FRAME_BYTES,
    MAX_USER_BYTES,
    AskingDecider,
    decided_as,
    room_left,
    variables_of,
)
from tasks.core.decision.echo import echo_of, echoed
from tasks.core.decision.kinds import KINDS
from tasks.core.decision.llm.prompt import Prompt, render
from tasks.core.decision.masked_question import as_shown
from tasks.core.decision.memory import joined, memory_text
from tasks.core.market import lean
from tasks.core.ports import Schema
from tasks.core.types import (
    ENTRIES,
    ZERO,
    Answer,
    Described,
    Dto,
    Exact,
    JsonObject,
    ModelCall,
    Question,
    Snapshot,
    Texts,
    hold,
    known,
)

LEFT_OVER = 700  # bytes of a message that markets leave to memory and to the symbols nothing is asked about
BRIEF_REASONS = 120  # characters of why each is asked about, where that many are
MAX_NAMED = 10  # entries about instruments that were not asked about
# Up: the guard floors to the step, and a share cut off at its last digit would lose a whole one.
_SHARE = Context(prec=15, rounding=ROUND_CEILING)


TARGETS = ("buy", "sell", "flat", "noop")


class Target(Described):
    """One entry of the reply. A distance left out is 0, which no entry may have."""

    instrument: str
    """exactly as asked"""
    action: Literal["buy", "sell", "flat", "noop"]
    target_qty: Exact
    """base to hold afterwards, negative = short; not what to trade"""
    stop_atr: Exact = ZERO
    """stop distance in ATR(14) of 15m, > 0, to open or add"""
    tp_atr: Exact = ZERO
    """target distance in ATR(14) of 15m, > 0, to open or add"""
    confidence: Exact = ZERO
    """0 to 1"""
    rationale: str = ""
    """why, one or two sentences"""
    read_as: Texts = ()


class PortfolioReply(Dto):
    decisions: tuple[JsonObject, ...]  # read one by one: a bad entry spoils its instrument alone


SCHEMA = strict_object({"decisions": {"type": "array", "items": object_schema(Target)}})
Answers = dict[str, Target | Unusable | None]  # None: the reply does not mention the instrument


VARIABLES = frozenset(
    {"as_of", "equity", "max_trade_risk_pct", "max_total_risk_pct", "instruments"}
    | {"asked", "portfolio", "memory", "others"}
)


class PortfolioDecider(AskingDecider):
    """Asks the model once about all questions; whatever is not a usable reply, or entry, becomes HOLD."""

    name, kind = "llm:portfolio", KINDS["llm:portfolio"]
    variables = {"portfolio": VARIABLES}

    @classmethod
    def schema_of(cls, _: Prompt, /) -> Schema:
        return SCHEMA

    async def decide(self, questions: Sequence[Question]) -> list[Answer]:
        """Return one decision per question, in order."""
        if not questions:
            return []
        prompt, questions = self.texts["portfolio"], list(map(as_shown, questions))
        messages = render(prompt, portfolio_variables(questions))
        literal = self.means.literal
        call, reply = await self.ask(prompt, messages, partial(parse_as, cls=PortfolioReply, literal=literal))
        answers, ignored = read_targets(reply, [question.snapshot.pair for question in questions], literal)
        decided = list[Answer]()
        for question in questions:
            flags = ("shared_call",) if decided else ()
            answer, flags = answers[question.snapshot.pair], (*flags, "portfolio", *ignored)
            decided.append(_decided(question, answer, call, flags, None if literal else prompt))
            free = tuple(rung.replace(cost_usd=ZERO, tokens=0) for rung in call.trail)
            call = call.replace(pricing="shared", cost_usd=ZERO, tokens_in=0, tokens_out=0, trail=free)
        return decided


def portfolio_variables(questions: Sequence[Question]) -> dict[str, str]:
    """Return what the prompt may put into its user part; the account's limits are the same in all questions.

    Those that are asked about have as much of their markets as fits; the others may take half of what is left, memory
    has the rest.
    """
    told, equity = variables_of(questions[0]), known(questions[0].equity)
    room = MAX_USER_BYTES - FRAME_BYTES - LEFT_OVER - _size(told["portfolio"])
    fuller = (_blocks(questions, form) for form in (lean.encode, lean.short))
    asked = next((text for text in fuller if _size(text) <= room), "") or _blocks(questions, lean.brief, BRIEF_REASONS)
    others = _others(questions[0].others, (MAX_USER_BYTES - FRAME_BYTES - _size(told["portfolio"] + asked)) // 2)
    remembered = joined({question.snapshot.pair: question.memory for question in questions})
    return told | {
        "equity": "unknown" if equity is None else f"{equity:.2f}",
        "instruments": _blocks(questions, lean.encode_first),
        "asked": asked,
        "others": others,
        "memory": memory_text(remembered, room_left(told["portfolio"], asked, others)),
    }


def _blocks(questions: Sequence[Question], encode: Callable[[Snapshot], str], chars: int | None = None) -> str:
    """Write what each instrument is asked for, where it stands, and its market."""
    blocks = []
    for question in questions:
        snapshot, last, held = question.snapshot, _last(question), _held(question)
        quantity = "unknown" if held is None else f"{held:f}"
        reasons, allowed = "; ".join(snapshot.reason_for_call)[:chars], ", ".join(snapshot.constraints.allowed_actions)
        blocks.append(
            f"### {snapshot.pair}\nWhy you are asked: {reasons or 'review'}\nAllowed now: {allowed}\n"
            f"Last price: {'unknown' if last is None else last}\nCurrent quantity: {quantity}\n{encode(snapshot)}"
        )
    return "\n\n".join(blocks)


def _others(others: Sequence[Question], room: int) -> str:
    """Write a line for each symbol that nothing is asked about, as many as fit, and count the rest."""
    lines = [lean.brief(each.snapshot) for each in others]
    for kept in reversed(range(len(lines) + 1)):
        text = "\n".join(lines[:kept] + [f"and {len(lines) - kept} more"] * (kept < len(lines)))
        if _size(text) <= room:
            return text or "none"
    return "none"


def _size(text: str) -> int:
    return len(text.encode())


# --- the reply


def read_targets(
    reply: PortfolioReply | Unusable, asked: Sequence[str], literal: bool = False
) -> tuple[Answers, Texts]:
    """Return each asked instrument's answer, and a flag for each other one that the reply has an entry about.

    literal: as in `parse_reply`.
    """
    if isinstance(reply, Unusable):
        return dict.fromkeys(asked, reply), ()
    answers = dict.fromkeys(asked)
    names = Counter(_name(entry) for entry in reply.decisions)
    for entry in reply.decisions:
        if (name := _name(entry)) in answers:
            answers[name] = _target(entry, literal) if names[name] == 1 else Unusable("duplicate", name)
    strangers = [name for name in names if name not in answers][:MAX_NAMED]
    return answers, tuple(f"not_asked:{ascii(name)[1:-1][:40]}" for name in strangers)


def _name(entry: JsonObject) -> str:
    name = entry.get("instrument")
    return name if isinstance(name, str) else ""


def _target(entry: JsonObject, literal: bool) -> Target | Unusable:
    """Read one entry; `flat` and `noop` need no quantity, for `buy` and `sell` a missing one is not 0."""
    try:
        entry, notes = (entry, ()) if literal else as_meant(entry, words=TARGETS)
    except Unusable as e:
        return e.with_traceback(None)
    if entry.get("action") in ("flat", "noop"):
        entry = entry | {"target_qty": ZERO}
    target = parse_as(entry, Target)
    return target if isinstance(target, Unusable) else target.replace(read_as=notes)


# --- from targets to actions


def _decided(
    question: Question, answer: Target | Unusable | None, call: ModelCall, flags: Texts, prompt: Prompt | None
) -> Answer:
    """Return the answer about one symbol; prompt: whose examples are nobody's orders."""
    symbol = question.snapshot.pair
    made: Parsed
    if answer is None:
        flags, made = ("not_mentioned", *flags), hold(symbol, "the portfolio reply does not mention it")
    else:
        made = answer if isinstance(answer, Unusable) else to_action(answer, question)
        if prompt and isinstance(made, ENTRIES) and echoed(answer, prompt):
            made = echo_of(prompt)
    return decided_as(made, call, symbol).replace(flags=flags)


def to_action(target: Target, question: Question) -> Parsed:
    """Return the action that takes the position to `target`, or why there is none."""
    symbol, held = question.snapshot.pair, _held(question)
    wanted = ZERO if target.action == "flat" else target.target_qty
    if target.action == "noop" or wanted == held:
        return _act(target, symbol, action="HOLD")
    if wanted == 0:
        return _act(target, symbol, action="CLOSE_ALL")
    if held is None:
        return Unusable("unknown_quantity", "the question does not say what is held now")
    if held * wanted < 0:
        note = f"through zero to {wanted}: closes now, the opening waits for the next cycle"
        return _act(target, symbol, note, action="CLOSE_ALL")
    if abs(wanted) < abs(held):
        return _act(target, symbol, action="TRIM", size_pct=_share(held - wanted, held))
    return _enter(target, question, wanted, held)


def _enter(target: Target, question: Question, wanted: Decimal, held: Decimal) -> Parsed:
    """Size an entry as a share of equity, at the price that the guard sizes at; it adds risk: both words must agree."""
    last, equity = _last(question), known(question.equity)
    if (wanted > held) != (target.action == "buy"):
        return Unusable("contradiction", f"{target.action} from {held} to {wanted}")
    if last is None or equity is None or last <= 0 or equity <= 0:
        return Unusable("unknown_size", f"last price {last}, equity {equity}")
    opening = "OPEN_LONG" if wanted > 0 else "OPEN_SHORT"
    return _act(
        target, question.snapshot.pair, action="ADD" if held else opening,
        size_pct=_share((wanted - held) * last, equity), stop_atr=target.stop_atr, tp_atr=target.tp_atr,
    )  # fmt: skip


def _act(target: Target, symbol: str, note: str = "", **fields: object) -> Parsed:
    """Build the action; its own bounds refuse what no decision may have."""
    told = {
        "confidence": target.confidence, "comment": note or target.rationale,
        "reasoning": f"{target.rationale} [{note}]" if note else target.rationale,
    }  # fmt: skip
    made = parse_reply(told | fields, symbol, literal=True)
    return made.replace(read_as=target.read_as) if target.read_as and not isinstance(made, Unusable) else made


def _share(part: Decimal, whole: Decimal) -> Decimal:
    """Return |part / whole| in percent, rounded up in the 15th digit."""
    return _SHARE.divide(abs(part) * 100, abs(whole))


def _held(question: Question) -> Decimal | None:
    """Return the signed quantity held; None where the question says that there is some, not how much."""
    return ZERO if question.snapshot.position.side == "flat" else known(question.quantity)


def _last(question: Question) -> Decimal | None:
    return known(question.last_price) or question.snapshot.last_price
