"""The action space on the wire: the flat schema a model gets, and the parser that takes its reply apart.

`wire_schema` is generated from the DTOs, so the two cannot drift; `object_schema` and `parse_as` do the same for a
role whose reply is one DTO. The parsers never raise and never guess: one JSON object may stand in prose or code
fences; a list, two objects, an object keyed by symbol or a broken one is `Unusable` with a reason. What a model writes
between its marks for thinking is no reply. Each character is read a bounded number of times, so no reply can make them
slow.

What can mean one thing only is read so, and the decision names it (`read_as`, by `as_meant`). What only takes risk away
is not lost over a field that it does not need: one that nobody can read is left out, and named.
"""

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import cache
from typing import Literal, cast, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from tasks.core.types import ACTIONS, CLASSES, ENTRIES, MANAGES, AnyDto, Decision, Dto, JsonObject, Texts, first_error

MAX_REPLY_BYTES = 200_000
MAX_NUMBER_CHARS = 64
MAX_LISTS = 500  # a failed one costs a pass over the text: JSONDecodeError counts its lines
MAX_MAGNITUDE = 30  # powers of ten; no field needs more, and arithmetic on larger exponents is unbounded
# Thinking first: a model bound to the schema writes the fields in this order.
WIRE_FIELDS = (
    "reasoning", "key_factors", "risk_assessment", "symbol", "action", "size_pct", "entry", "stop_atr", "tp_atr", "to",
    "minutes", "scope", "followups", "confidence", "comment",
)  # fmt: skip

UNSURE = Decimal("0.5")  # the confidence of a reply that names none
PERCENT_FROM = 10  # up to here a confidence above 1 may be of one, of ten or percent
READ_AS = "read_as"  # ours: no reply may have it
_BOUNDS = {"gt": ">", "ge": ">=", "le": "<=", "max_length": "at most"}
_DECIMAL_LITERAL = re.compile(r"-?[0-9]+(\.[0-9]+)?")
_SYMBOL_LIKE = re.compile(r"[A-Z0-9]{2,}([/:_-][A-Z0-9]+)*")
_OPENING = re.compile(r"[{\[]")
_OBJECT_START = re.compile(r'\{\s*["}]')
_THINKS = re.compile(r"\s*(?:<(?:think|thinking|thought|reasoning)>|\[THINK\]|<\|channel\|>analysis)")
_THOUGHT = re.compile(r"</(?:think|thinking|thought|reasoning)>|\[/THINK\]|<\|channel\|>final<\|message\|>")
_STRING = r'\\.|"(?:[^"\\]|\\.)*"'  # what is in one is no comment; the first part keeps a broken one from taking long
_COMMENT = re.compile(rf"{_STRING}|(//[^\n]*|/\*.*?(?:\*/|\Z))", re.DOTALL)
_LAST_COMMA = re.compile(rf"{_STRING}|(,(?=\s*[}}\]]))", re.DOTALL)
_WRAPPERS = ("decision", "answer", "output", "result", "response")
_OTHER_WORDS = {  # of other systems; BUY may open, add to or close a position, and is none
    "CLOSE": "CLOSE_ALL", "CLOSE_POSITION": "CLOSE_ALL", "EXIT": "CLOSE_ALL", "WAIT": "HOLD", "NO_ACTION": "HOLD",
    "NO_TRADE": "HOLD",
}  # fmt: skip
_IN_A_WORD = {"entry": ("type", ("market", "limit")), "to": ("kind", ("breakeven",))}
_SCOPES = dict.fromkeys(("all", "portfolio", "global"), "account")
_UNITS = {
    "size_pct": "%", "stop_atr": "atr", "tp_atr": "atr", "x": "atr", "offset_bps": "bps", "minutes": "min(?:ute)?s?",
}  # fmt: skip
_ADDING = ("OPEN_LONG", "OPEN_SHORT", "ADD", "buy", "sell")  # or may


@dataclass(unsafe_hash=True)
class Unusable(ValueError):
    """Why a reply is not a decision: a reason for machines and what was seen, for people."""

    reason: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


Parsed = Decision | Unusable


def _unusable(reason: str, detail: str = "") -> Unusable:
    """Describe a failure; a model's own keys may stand in both: plain and short, whatever it wrote."""
    return Unusable(ascii(reason)[1:-1][:80], ascii(detail)[1:-1][:200])


# --- the schema ---------------------------------------------------------------------------------------------------


@cache
def wire_schema() -> JsonObject:
    """Return the flat JSON schema of one decision: every field required and nullable, nothing else allowed."""
    fields = {"action": _one_of(ACTIONS)}
    for name in WIRE_FIELDS:
        owners = {action: c.model_fields[name] for action, c in CLASSES.items() if name in c.model_fields}
        if name != "action":
            fields[name] = _nullable(next(iter(owners.values())).annotation) | _described(owners)
    return strict_object({name: fields[name] for name in WIRE_FIELDS})


@cache
def object_schema(cls: type[Dto]) -> JsonObject:
    """Return the flat JSON schema of `cls` in the same strict form."""
    return strict_object({n: _nullable(f.annotation) | _described({"": f}) for n, f in wire_fields(cls).items()})


def wire_fields(cls: type[Dto]) -> dict[str, FieldInfo]:
    """Return the fields of `cls` that a model writes."""
    return {name: field for name, field in cls.model_fields.items() if name != READ_AS}


def strict_object(properties: Mapping[str, object]) -> JsonObject:
    """Return the schema of an object that has all of these properties and no other."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def _nullable(annotation: object) -> JsonObject:
    if isinstance(annotation, type) and issubclass(annotation, Dto):
        return {"anyOf": [object_schema(annotation), {"type": "null"}]}
    if get_origin(annotation) is Literal:
        return _one_of(get_args(annotation))
    if get_origin(annotation) is tuple:
        return {"type": ["array", "null"], "items": {"type": "string"}}
    if annotation is bool:
        return {"type": ["boolean", "null"]}
    return {"type": ["number" if annotation is Decimal else "string", "null"]}


def _one_of(words: Sequence[str]) -> JsonObject:
    """Return the form that every engine honours: an enum beside a list of types is dropped by llama-cpp-python's."""
    return {"anyOf": [{"type": "string", "enum": list(words)}, {"type": "null"}]}


def _described(owners: dict[str, FieldInfo]) -> JsonObject:
    """Describe a field and its bounds, which strict structured output does not allow as keywords."""
    meanings: dict[str, list[str]] = {}
    for action, field in owners.items():
        text = ", ".join(part for part in (field.description or "", *_bounds(field)) if part)
        meanings.setdefault(text, []).append(action)
    if len(owners) == len(CLASSES) or owners.keys() == {""}:
        text = next(iter(meanings))
    else:
        text = "; ".join(f"{'/'.join(actions)}: {meaning}".rstrip(": ") for meaning, actions in meanings.items())
    return {"description": text} if text else {}


def _bounds(field: FieldInfo) -> Iterator[str]:
    unit = " characters" if field.annotation is str else ""
    for bound in field.metadata:
        yield from (f"{words} {getattr(bound, name)}{unit}" for name, words in _BOUNDS.items() if hasattr(bound, name))


# --- the parser ---------------------------------------------------------------------------------------------------


def parse_reply(
    reply: str | JsonObject, symbol: str, *, max_bytes: int = MAX_REPLY_BYTES, literal: bool = False
) -> Parsed:
    """Return the one decision in a model's reply, or why there is none; never raises, whatever the reply is.

    literal: read it as a strategy of before did, nothing but what stands there.
    """

    def read() -> Decision:
        if literal:
            decision = _decision(_only_object(reply, max_bytes), symbol)
            return decision.replace(followups=()) if isinstance(decision, MANAGES) and decision.followups else decision
        said, mended = _mended(reply, max_bytes)
        said, notes = as_meant(said, symbol)
        try:
            decision, left_out = _decision(said, symbol), Texts()
        except Unusable:
            said, left_out = _readable(said, symbol)
            decision = _decision(said, symbol)
        return decision.replace(read_as=all_notes) if (all_notes := (*mended, *notes, *left_out)) else decision

    return _returned(read)


def parse_as(reply: str | JsonObject, cls: type[AnyDto], literal: bool = False) -> AnyDto | Unusable:
    """Return the one `cls` in a reply, or in an object found inside one, or why there is none.

    Never raises, and refuses any other field. A `cls` with `read_as` names there what was read as it was meant.
    literal: nothing is, and what a model thinks is read like the rest, as it was before.
    """

    def read() -> AnyDto:
        said = _only_object(reply if literal else _after_thinking(reply))
        if literal or READ_AS not in cls.model_fields:
            return _filled(cls, said, wire_fields(cls))
        said, notes = _role_as_meant(said)
        filled = _filled(cls, said, wire_fields(cls))
        return filled.replace(read_as=notes) if notes else filled

    return _returned(read)


def as_meant(reply: JsonObject, symbol: str = "", words: Collection[str] = ACTIONS) -> tuple[JsonObject, Texts]:
    """Return the reply with what can mean one thing only read so, and a note of each reading.

    A reply in a wrapper; an action in other letters, or by another system's word for it; the asked symbol as others
    write it; a number with the unit that it is in; an entry limit's offset below 0, which is as far in the trade's
    favour; a rule that is not in a list; a confidence in percent. None is 0.5, and so is one that nobody can read;
    where risk may be added that raises Unusable, or is left for the bounds to refuse.
    """
    reading = _Reading(*_unwrapped(reply))
    reading.words(symbol, words)
    reading.parts()
    reading.numbers()
    for name in ("followups", "key_factors"):
        if isinstance(rule := reading.said.get(name), str):
            reading.read(reading.said, name, [rule] if rule.strip() else [])
    return reading.said, tuple(reading.notes)


def _role_as_meant(reply: JsonObject) -> tuple[JsonObject, Texts]:
    """Read a signal in other letters, numbers with their unit, a confidence in percent; an unclear one is refused."""
    reading = _Reading(dict(reply), [])
    said = reading.said
    if isinstance(signal := said.get("signal"), str):
        reading.read(said, "signal", re.sub(r"[\s-]+", "_", signal.strip()).lower())
    for name in [name for name in _UNITS if name in said]:
        reading.read(said, name, _in_its_unit(name, said[name]))
    if (confidence := said.get("confidence")) is not None:
        reading.read(said, "confidence", _share(confidence, adds=True))
    return said, tuple(reading.notes)


def _unwrapped(reply: JsonObject) -> tuple[JsonObject, list[str]]:
    name, inner = next(iter(reply.items()), ("", None))
    if len(reply) == 1 and name.lower() in _WRAPPERS and isinstance(inner, dict) and "action" in inner:
        return dict(inner), [f"{name} as the reply"]
    return dict(reply), []


@dataclass
class _Reading:
    """A reply as it is being read, and what was read otherwise than it stood there."""

    said: JsonObject
    notes: list[str]

    def read(self, part: JsonObject, name: str, now: object) -> None:
        if (was := part.get(name)) != now:
            part[name] = now
            self.notes.append(f"{name} {'missing' if was is None else ascii(str(was))[1:-1][:40]} as {now}")

    def words(self, symbol: str, actions: Collection[str]) -> None:
        said = self.said
        if isinstance(action := said.get("action"), str):
            self.read(said, "action", _action_meant(action, said, actions))
        if isinstance(named := said.get("symbol"), str) and _bare(named) in _names(symbol):
            self.read(said, "symbol", symbol)
        if isinstance(scope := said.get("scope"), str):
            word = scope.strip().lower()
            self.read(said, "scope", "symbol" if _bare(scope) in _names(symbol) else _SCOPES.get(word, word))

    def parts(self) -> None:
        """Read entry and to, objects of a word and a number."""
        for name, (first, alone) in _IN_A_WORD.items():
            part = self.said.get(name)
            if isinstance(part, str) and part.strip().lower() in alone:
                self.read(self.said, name, {first: part.strip().lower()})
            elif isinstance(part, dict):
                self.said[name] = part = dict(part)
                if isinstance(word := part.get(first), str):
                    self.read(part, first, word.strip().lower())

    def numbers(self) -> None:
        self.read(self.said, "confidence", _share(self.said.get("confidence"), self.said.get("action") in _ADDING))
        entry = self.said.get("entry")
        parts = [part for part in (self.said, entry, self.said.get("to")) if isinstance(part, dict)]
        for part, name in [(part, name) for part in parts for name in _UNITS if name in part]:
            self.read(part, name, _in_its_unit(name, part[name]))
        if isinstance(entry, dict) and (bps := _plain_number(entry.get("offset_bps"))) and bps < 0:
            self.read(entry, "offset_bps", -bps)


def _action_meant(action: str, said: JsonObject, words: Collection[str]) -> str:
    plain = re.sub(r"[\s-]+", "_", action.strip()).upper()
    if same := next((word for word in words if word.upper() == plain), ""):
        return same
    meant = _OTHER_WORDS.get(plain, action)
    if meant == "CLOSE_ALL" and said.get("size_pct"):
        meant = "CLOSE_PARTIAL"
    return meant if meant in words else action


def _bare(name: str) -> str:
    return re.sub("[^A-Z0-9]", "", name.upper())


def _names(symbol: str) -> tuple[str, ...]:
    """Return how others write a market: all of it, base and quote, the base alone."""
    pair = symbol.partition(":")[0]
    return tuple(filter(None, map(_bare, (symbol, pair, pair.partition("/")[0]))))


def _in_its_unit(name: str, said: object) -> object:
    """Return the number of a text that is one with a sign, or with the unit of its field; anything else as it is."""
    if not isinstance(said, str) or _DECIMAL_LITERAL.fullmatch(said):
        return said
    number = rf"\s*\+?([-\u2212]?[0-9]+(?:\.[0-9]+)?)\s*(?:{_UNITS[name]})?\s*"
    match = re.fullmatch(number, said, re.IGNORECASE)
    return said if match is None else _number(match[1].replace("\u2212", "-"))


def _share(said: object, adds: bool) -> object:
    """Return a confidence as a share; adds: whether what nobody can read must not pass for one."""
    if said is None:
        return UNSURE
    marked = isinstance(said, str) and said.rstrip().endswith("%")
    number = _plain_number(said.rstrip().removesuffix("%").rstrip() if isinstance(said, str) else said)
    if number is not None and not marked and 1 < number <= PERCENT_FROM:
        if adds:
            raise _unusable("ambiguous:confidence", f"{number} is more than 1, and little for percent")
        number = None
    elif number is not None and (marked or number > 1):
        number /= 100
    if number is None or not 0 <= number <= 1:
        return said if adds else UNSURE
    return said if str(number) == str(said) else number


def _plain_number(said: object) -> Decimal | None:
    if isinstance(said, str) and _DECIMAL_LITERAL.fullmatch(said):
        return _number(said)
    return said if isinstance(said, Decimal) else None


def _returned(read: Callable[[], AnyDto]) -> AnyDto | Unusable:
    try:
        return read()
    except Unusable as e:
        return e.with_traceback(None)
    except RecursionError:
        return Unusable("too_deep", "nested deeper than any decision")


def reply_of(decision: Decision) -> JsonObject:
    """Return the reply a model would have sent for `decision`; numbers are Decimal, other actions' fields absent."""
    return decision.model_dump(exclude={"source", READ_AS})


def _mended(reply: str | JsonObject, max_bytes: int) -> tuple[JsonObject, Texts]:
    """Return the one object of a reply, without comments and last commas where those are what breaks it."""
    text = _after_thinking(reply)
    try:
        return _only_object(text, max_bytes), ()
    except Unusable as e:
        if e.reason != "invalid_json" or not isinstance(text, str):
            raise
        bare = _LAST_COMMA.sub(_kept, _COMMENT.sub(_kept, text))
        if bare == text:
            raise
        return _only_object(bare, max_bytes), ("comments and last commas left out",)


def _kept(match: re.Match[str]) -> str:
    return "" if match[1] else match[0]


def _after_thinking(reply: str | JsonObject) -> str | JsonObject:
    """Return what comes after a model's thinking; raises where it never came to an end, or nothing came after it."""
    if not isinstance(reply, str):
        return reply
    end = max((mark.end() for mark in _THOUGHT.finditer(reply)), default=0)
    if end and "{" in reply[end:]:
        return reply[end:]
    if _THINKS.match(reply) or (end and not reply.rstrip("` \t\r\n").endswith("}")):
        raise _unusable("thinking_only", reply.strip()[:80])
    return reply


def _readable(said: JsonObject, symbol: str) -> tuple[JsonObject, Texts]:
    """Return a decision that adds no risk without those fields that it can do without and nobody can read."""
    cls = CLASSES.get(str(said.get("action")))
    if cls is None or issubclass(cls, ENTRIES):
        return said, ()
    needed = {"action", "symbol", *(name for name, field in cls.model_fields.items() if field.is_required())}
    core = {name: value for name, value in said.items() if name in needed}

    def reads(name: str) -> bool:
        try:
            _decision(core | {name: said[name]}, symbol)
        except Unusable:
            return False
        return True

    kept = {name: value for name, value in said.items() if name in needed or (name in WIRE_FIELDS and reads(name))}
    names = [ascii(name)[1:-1][:40] for name in said if name not in kept]
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return kept, (f"{', '.join(names[:5])}{more} left out",) if names else ()


def _only_object(text: str | JsonObject, max_bytes: int = MAX_REPLY_BYTES) -> JsonObject:
    """Return the single top-level JSON object of `text`, skipping prose and lists without objects in it."""
    if isinstance(text, dict):
        return text
    if len(text) > max_bytes or len(text.encode("utf-8", "surrogatepass")) > max_bytes:
        raise _unusable("too_long", f"{len(text)} characters, at most {max_bytes} bytes are read")
    found = None
    at = lists = 0
    while opening := _OPENING.search(text, at):
        if opening[0] == "[":
            lists += 1
            if lists > MAX_LISTS:
                raise _unusable("invalid_json", f"more than {MAX_LISTS} brackets")
            at = _after_list(text, opening.start())
        elif _OBJECT_START.match(text, opening.start()):
            value, at = _object_at(text, opening.start())
            if found is not None:
                raise _unusable("two_objects", "the reply must be exactly one JSON object")
            found = value
        else:
            at = opening.end()  # a brace in prose
    if found is None:
        raise _unusable("no_json", text.strip()[:80])
    return found


def _after_list(text: str, start: int) -> int:
    """Return where to read on after a `[`; raises when objects stand in that list, complete or not."""
    try:
        _, end = _LIST.raw_decode(text, start)
    except json.JSONDecodeError as e:
        end = max(e.pos, start + 1)
    if "{" in text[start:end]:
        raise _unusable("array", "a list where one object was asked for")
    return end


def _object_at(text: str, start: int) -> tuple[JsonObject, int]:
    try:
        return cast("tuple[JsonObject, int]", _OBJECT.raw_decode(text, start))
    except json.JSONDecodeError as e:
        at_end = e.msg.startswith("Unterminated string") or e.pos >= len(text.rstrip("` \t\r\n"))
        raise _unusable("truncated_json" if at_end else "invalid_json", f"{e.msg} at {e.pos}") from e


def _number(literal: str) -> Decimal:
    if len(literal) > MAX_NUMBER_CHARS:
        raise _unusable("not_finite", f"a number of {len(literal)} characters")
    try:
        value = Decimal(literal)
    except InvalidOperation:
        raise _unusable("not_finite", literal) from None
    if not value.is_finite() or abs(value.adjusted()) > MAX_MAGNITUDE:
        raise _unusable("not_finite", literal)
    return value


def _unique(pairs: list[tuple[str, object]]) -> JsonObject:
    result = {}
    for key, value in pairs:
        if key in result:
            raise _unusable("duplicate_key", key[:80])
        result[key] = value
    return result


# strict=False: models put raw line breaks into their reasoning; that is not ambiguous.
_OBJECT = json.JSONDecoder(
    parse_float=_number, parse_int=_number, parse_constant=_number, object_pairs_hook=_unique, strict=False
)
_LIST = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=str, strict=False)


def _decision(reply: JsonObject, symbol: str) -> Decision:
    cls = CLASSES[_action_of(reply)]
    if reply.get("symbol") not in (None, symbol):
        raise _unusable("symbol_mismatch", f"asked about {symbol}, answered about {reply['symbol']!s:.40}")
    return cast("Decision", _filled(cls, {**reply, "symbol": symbol}, WIRE_FIELDS))


def _filled(cls: type[AnyDto], reply: JsonObject, known: Collection[str]) -> AnyDto:
    """Read the fields of `cls`; other `known` ones are another action's and left out, any other is refused."""
    unknown = next((key for key in reply if key not in known), None)
    if unknown is not None:
        raise _unusable("invalid", f"unknown field {unknown[:80]}")
    given = {n: _clean(reply[n], f.annotation, n) for n, f in cls.model_fields.items() if reply.get(n) is not None}
    try:
        return cls.model_validate({name: value for name, value in given.items() if value != {}})
    except ValidationError as e:
        first, (name, why) = e.errors()[0], first_error(e)
        if first["type"] == "missing":
            raise _unusable(f"missing:{name}") from e
        raise _unusable(f"invalid:{name}", f"{why}, was {first['input']!s:.60}") from e


def _action_of(reply: JsonObject) -> str:
    action = reply.get("action")
    if action is None:
        if any(isinstance(value, dict) and _SYMBOL_LIKE.fullmatch(key) for key, value in reply.items()):
            raise _unusable("keyed_by_symbol", ", ".join(reply)[:80])
        raise _unusable("missing:action", ", ".join(reply)[:80])
    if not isinstance(action, str) or action not in ACTIONS:
        raise _unusable("unknown_action", f"{action!s:.40}")
    return action


def _clean(value: object, annotation: object, name: str) -> object:
    """Drop nulls, read decimal literals in strings, take out NUL and lone surrogates (no database keeps them)."""
    if isinstance(value, dict) and isinstance(annotation, type) and issubclass(annotation, Dto):
        types = {n: f.annotation for n, f in annotation.model_fields.items()}
        return {k: _clean(v, types.get(k), f"{name}.{k}") for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_clean(item, None, name) for item in value]
    if not isinstance(value, str):
        return value
    if annotation is Decimal:
        if not _DECIMAL_LITERAL.fullmatch(value):
            raise _unusable(f"invalid:{name}", f"{value[:40]!r} is not a number")
        return _number(value)
    return value.encode("utf-8", "replace").decode().replace("\x00", "")
