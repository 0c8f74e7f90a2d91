"""What an exchange's answer means, judged by its code and its words: one table per dialect, in `codes/`.

A table maps meanings to the venue's codes, and to patterns of its words, which come first: some codes say two things,
and some venues only speak. What is in no table is unknown. `http` is for answers that the venue's own software did
not write. Each code is judged by what a wrong meaning costs: a stop that is "refused" for good lets the position be
sold, so what may be taken later is busy, and what may have been done is unknown.
"""

import json
import re
from collections.abc import Iterator
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

TABLES = Path(__file__).parent / "codes"
NOTHING = ("", "0", "00000")  # codes of a row, or of an envelope, that is no error
_STATUS = re.compile(r"\w+ (?:[A-Z]+ \S+ )?([1-5]\d\d) ")


class Meaning(StrEnum):
    """What was done, and so what to do next."""

    ACCEPTED = "accepted"
    REFUSED = "refused"  # nothing was done, and asking again gets the same answer
    GONE = "gone"  # the order or position is there no more: filled, cancelled, closed, or never there
    DUPLICATE = "duplicate"  # the venue has this client id: look it up
    NOT_MODIFIED = "not_modified"  # it is so already
    BUSY = "busy"  # nothing was done: ask later
    UNKNOWN = "unknown"  # it may have been done: look it up


class ErrorAnswer(NamedTuple):
    """The code and the words of an error; empty where there are none.

    spoken: by the venue, else it is an HTTP status and ccxt's text. mixed: another row of the answer was taken.
    """

    code: str
    words: str
    spoken: bool = False
    mixed: bool = False


class CodeTable(NamedTuple):
    code_fields: tuple[str, ...]
    word_fields: tuple[str, ...]
    codes: dict[str, Meaning]
    words: list[tuple[re.Pattern[str], Meaning]]


@cache
def table(dialect: str) -> CodeTable | None:
    """Return a dialect's table, None where there is none."""
    path = TABLES / f"{dialect}.json"
    if not path.exists():
        return None
    raw, http = (json.loads(each.read_text(encoding="utf-8")) for each in (path, TABLES / "http.json"))
    kinds = [*http["codes"].items(), *raw["codes"].items()]
    return CodeTable(
        tuple(raw["code_fields"]),
        tuple(raw["word_fields"]),
        {code: Meaning(kind) for kind, codes in kinds for code in codes},
        [(re.compile(each, re.IGNORECASE), Meaning(kind)) for kind, words in raw["words"].items() for each in words],
    )


def answer_in(dialect: str, text: str) -> ErrorAnswer:
    """Read the text of a ccxt error: what the venue said, row before envelope, else the HTTP status and the text."""
    known, start = table(dialect), min((at for at in map(text.find, "{[") if at >= 0), default=-1)
    if known and start >= 0:
        try:
            body = json.JSONDecoder().raw_decode(text, start)[0]
        except ValueError:
            body = {}
        code = next((str(v) for v in _fields(body, known.code_fields) if str(v) not in NOTHING), "")
        words = next((v for v in _fields(body, known.word_fields) if isinstance(v, str) and v), "")
        if code or words:
            rows = refused_rows(dialect, body)
            return ErrorAnswer(code, words, True, any(rows) and not all(rows))
    status = _STATUS.match(text)
    return ErrorAnswer(f"HTTP {status[1]}", text[status.end() :]) if status else ErrorAnswer("", text.partition(" ")[2])


def meaning_of(dialect: str, answer: ErrorAnswer) -> Meaning:
    """Return what an answer means; one that is in no table is unknown."""
    known = table(dialect)
    if answer.mixed or known is None:
        return Meaning.UNKNOWN
    said = f"{answer.code} {answer.words}".strip()
    by_words = (meaning for pattern, meaning in known.words if pattern.search(said))
    by_code = known.codes.get(answer.code) or known.codes.get(answer.words)
    return next(by_words, by_code or Meaning.UNKNOWN)


def refused_rows(dialect: str, body: Any) -> list[bool]:
    """Return for each row of a body's lists whether it carries an error of its own."""
    names = (*known.code_fields, "error", "errorMsg") if (known := table(dialect)) else ()
    lists = (part for each in _objects({"": body}) for part in each.values() if isinstance(part, list))
    return [
        isinstance(row, dict) and any(str(row.get(name, "")) not in NOTHING for name in names)
        for rows in lists
        for row in rows
    ]


def _fields(value: Any, names: tuple[str, ...]) -> Iterator[Any]:
    """Yield what stands under the first of `names` anywhere in a body, then under the second."""
    for name in names:
        yield from (each[name] for each in _objects(value) if each.get(name) is not None)


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _objects(each)
