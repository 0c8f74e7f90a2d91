"""What language models really answered another trading program, and what our parser makes of it.

Their schema is not ours (a list for all symbols, absolute prices, confidence 0 to 100): raw replies must be rejected
whole, and single entries, translated here field by field with nothing repaired, parsed or rejected with a reason.
"""

import json
from collections import Counter

import pytest
from real_replies import FILE, documents, entries, translated

from tasks.core.decision.actions import Unusable, parse_reply
from tasks.core.types.decision import DECISION

RAW = {"array": 43}
WHOLE = {"array": 436, "no_json": 53}
OTHERS = {
    ("wait", "HOLD"): 467, ("hold", "HOLD"): 167, ("close_long", "CLOSE_ALL"): 80, ("close_short", "CLOSE_ALL"): 125,
    ("close", "CLOSE_ALL"): 4, ("close_position", "CLOSE_ALL"): 1, ("hold_long", "unknown_action"): 2,
    ("hold_short", "unknown_action"): 4,
}  # fmt: skip
OPENINGS = {
    ("open_long", "OPEN_LONG"): 40, ("open_long", "invalid:size_pct"): 3, ("open_long", "invalid:stop_atr"): 46,
    ("open_long", "missing:size_pct"): 5, ("open_short", "OPEN_SHORT"): 60, ("open_short", "invalid:size_pct"): 3,
    ("open_short", "invalid:stop_atr"): 19, ("open_short", "missing:size_pct"): 5,
}  # fmt: skip
SIDED_OPENINGS = {
    ("open_long", "OPEN_LONG"): 24, ("open_long", "invalid:size_pct"): 3, ("open_long", "invalid:stop_atr"): 46,
    ("open_long", "invalid:tp_atr"): 16, ("open_long", "missing:size_pct"): 5, ("open_short", "OPEN_SHORT"): 31,
    ("open_short", "invalid:size_pct"): 3, ("open_short", "invalid:stop_atr"): 48,
    ("open_short", "missing:size_pct"): 5,
}  # fmt: skip

pytestmark = pytest.mark.skipif(not FILE.exists(), reason=f"needs the recorded replies in {FILE}")


def word(text: str, symbol: str = "BTC/USDT:USDT") -> str:
    """Parse, and name the action or the reason; a decision must validate and be about the symbol that was asked."""
    parsed = parse_reply(text, symbol)
    if isinstance(parsed, Unusable):
        assert parsed.reason
        return parsed.reason
    assert DECISION.validate_python(parsed.model_dump()) == parsed
    assert parsed.symbol == symbol
    return parsed.action


def test_every_raw_reply_is_rejected_for_what_it_is():
    raw = [document["raw_response"] for document in documents() if document["raw_response"]]
    counts = Counter(word(reply) for reply in raw)
    assert sum(counts.values()) == len(raw) == 43
    assert counts == RAW


def test_every_decision_document_as_it_stands_is_a_list_or_empty():
    counts = Counter(word(document["decision_json"]) for document in documents())
    assert sum(counts.values()) == len(documents()) == 489
    assert counts == WHOLE


def counted(sided: bool) -> dict[tuple[str, str], int]:
    counts: Counter[tuple[str, str]] = Counter()
    for entry, document in entries():
        reply = translated(entry, document, sided)
        counts[entry["action"], word(json.dumps(reply, default=float), str(reply["symbol"]))] += 1
    return counts


def test_each_translated_entry_is_parsed_or_rejected_with_a_reason():
    counts = counted(sided=False)
    assert sum(counts.values()) == 1031
    assert counts == OTHERS | OPENINGS


def test_an_entry_with_its_confidence_in_percent_as_they_wrote_it_is_the_same_decision():
    read = Counter[str]()
    for entry, document in entries():
        ours = translated(entry, document)
        theirs = ours | ({"confidence": entry["confidence"]} if "confidence" in entry else {})
        share, percent = (parse_reply(json.dumps(each, default=float), str(ours["symbol"])) for each in (ours, theirs))
        if isinstance(percent, Unusable):
            assert isinstance(share, Unusable) or percent.reason == "ambiguous:confidence"
            continue
        read.update(note.split()[0] for note in percent.read_as)
        assert percent.replace(read_as=()) == share.replace(read_as=())
    assert read == {"confidence": 944, "action": 5}


def test_an_opening_whose_stop_or_target_is_on_the_wrong_side_is_rejected_when_the_side_is_told():
    counts = counted(sided=True)
    assert sum(counts.values()) == 1031
    assert counts == OTHERS | SIDED_OPENINGS


def test_an_entry_about_another_symbol_than_the_asked_one_is_never_parsed():
    for entry, document in entries():
        reply = json.dumps(translated(entry, document), default=float)
        assert isinstance(parse_reply(reply, "NONE/USDT:USDT"), Unusable)
