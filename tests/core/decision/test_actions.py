"""The wire schema, and every way a model's reply can be wrong."""

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.decision.actions import WIRE_FIELDS, Unusable, parse_reply, reply_of, wire_schema
from tasks.core.types.decision import (
    ACTIONS,
    DECISION,
    Add,
    CancelTarget,
    CloseAll,
    ClosePartial,
    Decision,
    Entry,
    Hold,
    MoveStop,
    OpenLong,
    OpenShort,
    Pause,
    SetTarget,
    StopTarget,
    Trim,
)

SYMBOL = "BTC/USDT:USDT"
OPEN = '{"symbol":"BTC/USDT:USDT","action":"OPEN_LONG","size_pct":20,"stop_atr":1.5,"tp_atr":3,"confidence":0.6}'


def reason(text: str) -> str:
    parsed = parse_reply(text, SYMBOL)
    assert isinstance(parsed, Unusable), parsed
    return str(parsed)


def accepted(text: str) -> Decision:
    parsed = parse_reply(text, SYMBOL)
    assert not isinstance(parsed, Unusable), str(parsed)
    return parsed


def nodes(schema: object) -> list[dict]:
    if isinstance(schema, dict):
        return [schema] + [n for value in schema.values() for n in nodes(value)]
    return [n for item in schema for n in nodes(item)] if isinstance(schema, list) else []


def test_wire_schema_is_flat_with_every_field_required_and_nullable():
    schema = wire_schema()
    assert schema["type"] == "object"
    assert tuple(schema["properties"]) == WIRE_FIELDS == tuple(schema["required"])
    for field in schema["properties"].values():
        assert "null" in field.get("type", []) or {"type": "null"} in field["anyOf"]
    assert schema["properties"]["action"] == {"anyOf": [{"type": "string", "enum": [*ACTIONS]}, {"type": "null"}]}


def test_wire_schema_uses_only_what_strict_structured_output_accepts():
    allowed = {"type", "properties", "required", "additionalProperties", "enum", "items", "anyOf", "description"}
    schema = wire_schema()
    json.dumps(schema)
    for node in nodes(schema):
        if "type" in node or "anyOf" in node:
            assert set(node) <= allowed or set(node) <= set(WIRE_FIELDS) | {"type", "offset_bps", "kind", "x"}
        if node.get("type") == "object":
            assert node["additionalProperties"] is False
            assert node["required"] == list(node["properties"])


def test_wire_schema_says_the_bounds_in_words():
    fields = wire_schema()["properties"]
    assert fields["stop_atr"]["description"].endswith("> 0, <= 20")
    assert "TRIM/CLOSE_PARTIAL: share of the position, percent, > 0, <= 100" in fields["size_pct"]["description"]


def test_every_field_of_every_action_is_on_the_wire():
    on_the_wire = {name for action in EXAMPLES for name in type(action).model_fields} - {"source", "read_as"}
    assert on_the_wire == set(WIRE_FIELDS)


EXAMPLES: list[Decision] = [
    Hold(symbol=SYMBOL),
    OpenLong(symbol=SYMBOL, size_pct=Decimal(20), stop_atr=Decimal("1.5"), tp_atr=Decimal(3)),
    OpenShort(
        symbol=SYMBOL, size_pct=Decimal(5), stop_atr=Decimal(2), tp_atr=Decimal(4),
        entry=Entry(type="limit", offset_bps=Decimal("2.5")), followups=("TRIM 30% at +1.5R",), key_factors=("a",),
    ),
    Add(symbol=SYMBOL, size_pct=Decimal(5), stop_atr=Decimal(2), tp_atr=Decimal(4)),
    Trim(symbol=SYMBOL, size_pct=Decimal(30)),
    ClosePartial(symbol=SYMBOL, size_pct=Decimal(50)),
    CloseAll(symbol=SYMBOL, confidence=Decimal("0.9")),
    MoveStop(symbol=SYMBOL, to=StopTarget(kind="atr", x=Decimal("-0.5"))),
    SetTarget(symbol=SYMBOL, tp_atr=Decimal(3)),
    CancelTarget(symbol=SYMBOL),
    Pause(symbol=SYMBOL, minutes=Decimal(60)),
    Pause(symbol=SYMBOL, minutes=Decimal(60), scope="account"),
]  # fmt: skip


@pytest.mark.parametrize("decision", EXAMPLES, ids=lambda d: d.action)
def test_each_action_survives_the_round_trip(decision):
    assert accepted(json.dumps(reply_of(decision), default=str)) == decision


@given(
    size=st.decimals("0.01", "1000", places=2),
    stop=st.decimals("0.01", "20", places=4),
    confidence=st.decimals(0, 1, places=3),
    reasoning=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=200),
    followups=st.lists(st.text("abcdR+%0123 .:", max_size=20), max_size=4),
)
def test_round_trip_is_exact_for_any_numbers_and_text(size, stop, confidence, reasoning, followups):
    opened = OpenLong(
        symbol=SYMBOL, size_pct=size, stop_atr=stop, tp_atr=stop, confidence=confidence, reasoning=reasoning,
        followups=tuple(followups),
    )  # fmt: skip
    assert accepted(json.dumps(reply_of(opened), default=str)) == opened
    with_numbers = json.dumps(reply_of(opened), default=float)
    assert accepted(f"Thinking first.\n```json\n{with_numbers}\n```") == opened


def test_numbers_are_read_from_the_text_without_passing_through_a_float():
    tenth = accepted(OPEN.replace("1.5", "0.1000000000000000000000001"))
    assert tenth.stop_atr == Decimal("0.1000000000000000000000001")


@pytest.mark.parametrize(
    "text",
    [
        OPEN,
        f"\n\n{OPEN}\n",
        f"I would buy.\n```json\n{OPEN}\n```\nGood luck!",
        f"```\n{OPEN}\n```",
        f"MACD is [1, 2, 3], RSI [[55.1, NaN]] and levels [a, b]; see [this](x). {OPEN} Risk: [0.5].",
        f"Set {{entry, stop}} first, then: {OPEN}",
        f"[note] {OPEN}",
        OPEN.replace("{", '{"reasoning":"macd [1,2] and {\\"action\\":\\"CLOSE_ALL\\"}",', 1),
        OPEN.replace("{", '{"reasoning":"two\nlines",', 1),
        OPEN.replace('"symbol":"BTC/USDT:USDT",', ""),
        OPEN.replace('"symbol":"BTC/USDT:USDT"', '"symbol":null'),
        OPEN.replace("20", '"20"').replace("1.5", '"1.5"'),
        OPEN.replace("}", ',"to":null,"minutes":null,"entry":{"type":null,"offset_bps":null},"followups":null}'),
        OPEN.replace("}", ',"minutes":45,"to":{"kind":"breakeven","x":0}}'),
        OPEN.replace("3,", "3e0,"),
    ],
)
def test_one_object_is_taken_out_of_whatever_surrounds_it(text):
    decision = accepted(text)
    assert isinstance(decision, OpenLong)
    assert (decision.symbol, decision.size_pct, decision.stop_atr) == (SYMBOL, Decimal(20), Decimal("1.5"))


@pytest.mark.parametrize(
    ("text", "read", "notes"),
    [
        (OPEN, ("0.6", "0"), ()),
        (OPEN.replace("0.6", "1"), ("1", "0"), ()),
        (OPEN.replace("0.6", "62"), ("0.62", "0"), ("confidence 62 as 0.62",)),
        (OPEN.replace("0.6", '"62 %"'), ("0.62", "0"), ("confidence 62 % as 0.62",)),
        (OPEN.replace("0.6", '"1%"'), ("0.01", "0"), ("confidence 1% as 0.01",)),
        (OPEN.replace("0.6", "100"), ("1", "0"), ("confidence 100 as 1",)),
        (OPEN.replace("0.6", "null"), ("0.5", "0"), ("confidence missing as 0.5",)),
        (
            OPEN.replace(',"confidence":0.6}', ',"entry":{"type":"limit","offset_bps":-8}}'),
            ("0.5", "8"),
            ("confidence missing as 0.5", "offset_bps -8 as 8"),
        ),
        (
            OPEN.replace("}", ',"entry":{"type":"limit","offset_bps":"-8.5"}}'),
            ("0.6", "8.5"),
            ("offset_bps -8.5 as 8.5",),
        ),
    ],
)
def test_what_can_mean_one_thing_only_is_read_so_and_named(text, read, notes):
    decision = accepted(text)
    assert (decision.confidence, decision.entry.offset_bps) == tuple(map(Decimal, read))
    assert decision.read_as == notes
    assert "read_as" not in reply_of(decision)
    assert DECISION.validate_json(decision.model_dump_json()) == decision
    literal = parse_reply(text, SYMBOL, literal=True)
    assert isinstance(literal, Unusable) or not literal.read_as


ALSO = [
    (OPEN.replace("OPEN_LONG", "Open long"), "OPEN_LONG", "action Open long as OPEN_LONG"),
    (OPEN.replace('"BTC/USDT:USDT"', '"btcusdt"'), "OPEN_LONG", "symbol btcusdt as BTC/USDT:USDT"),
    (OPEN.replace("20", '"20 %"'), "OPEN_LONG", "size_pct 20 % as 20"),
    (OPEN.replace("1.5", '"+1.5 ATR"'), "OPEN_LONG", "stop_atr +1.5 ATR as 1.5"),
    (OPEN.replace("}", ',"entry":"market"}'), "OPEN_LONG", "entry market as {'type': 'market'}"),
    (OPEN.replace("}", ',"followups":"TRIM 30% at +1.5R"}'), "OPEN_LONG", "['TRIM 30% at +1.5R']"),
    (OPEN.replace("20,", "20, // of {equity}\n").replace("}", ",}"), "OPEN_LONG", "comments and last commas left out"),
    (f'{{"decision": {OPEN}}}', "OPEN_LONG", "decision as the reply"),
    ('{"action":"close"}', "CLOSE_ALL", "action close as CLOSE_ALL"),
    ('{"action":"CLOSE","size_pct":50}', "CLOSE_PARTIAL", "action CLOSE as CLOSE_PARTIAL"),
    ('{"action":"wait","symbol":"BTC"}', "HOLD", "symbol BTC as BTC/USDT:USDT"),
    ('{"action":"MOVE_STOP","to":"Breakeven"}', "MOVE_STOP", "to Breakeven as {'kind': 'breakeven'}"),
    ('{"action":"MOVE_STOP","to":{"kind":"ATR","x":"\u22120.5"}}', "MOVE_STOP", "x \\u22120.5 as -0.5"),
    ('{"action":"PAUSE","minutes":"60 minutes","scope":"All"}', "PAUSE", "scope All as account"),
    ('{"action":"PAUSE","minutes":60,"scope":"today"}', "PAUSE", "scope left out"),
    ('{"action":"CLOSE_ALL","confidence":"high","comment":5}', "CLOSE_ALL", "confidence high as 0.5"),
    ('{"action":"CLOSE_ALL","confidence":8}', "CLOSE_ALL", "confidence 8 as 0.5"),
    ('{"action":"TRIM","size_pct":50,"followups":["a","b","c","d","e"]}', "TRIM", "followups left out"),
    (
        '{"action":"CLOSE_ALL","leverage":3,"source":"me","read_as":[]}',
        "CLOSE_ALL",
        "leverage, source, read_as left out",
    ),
]


@pytest.mark.parametrize(("text", "action", "note"), ALSO)
def test_no_word_of_another_system_loses_a_decision(text, action, note):
    decision = accepted(text)
    assert decision.action == action
    assert any(note in each for each in decision.read_as)
    literal = parse_reply(text, SYMBOL, literal=True)
    assert isinstance(literal, Unusable) or not literal.read_as


NUMBER = st.integers(-200, 200) | st.decimals(-200, 200, places=2).map(float)
SAID = NUMBER | NUMBER.map(str) | NUMBER.map("{}%".format) | st.none() | st.booleans() | st.sampled_from(["high", ""])
REPLY = st.fixed_dictionaries(
    {"action": st.sampled_from(ACTIONS)},
    optional=dict.fromkeys(("size_pct", "stop_atr", "tp_atr", "minutes", "confidence"), SAID)
    | {
        "entry": st.fixed_dictionaries(
            {"type": st.sampled_from(["market", "limit", None])}, optional={"offset_bps": SAID}
        )
    },
)


def plain(said: object) -> Decimal:
    return Decimal(str(said).removesuffix("%"))


@given(REPLY)
def test_no_reply_leads_to_more_risk_than_its_plainest_reading(reply):
    """Every number of a decision is the one that stands there; its confidence may be less, its limit is as far away."""
    decision = parse_reply(json.dumps(reply), SYMBOL)
    if isinstance(decision, Unusable):
        return
    assert decision.action == reply["action"]
    for name in ("size_pct", "stop_atr", "tp_atr", "minutes"):
        if hasattr(decision, name):
            assert getattr(decision, name) == plain(reply[name])
    said = reply.get("confidence")
    adds = isinstance(decision, Add | OpenLong | OpenShort)
    if said is None or (not adds and decision.confidence == Decimal("0.5")):
        assert decision.confidence == Decimal("0.5")
    else:
        number = plain(said)
        assert decision.confidence == (number / 100 if "%" in str(said) or number > 1 else number)
        assert decision.confidence <= number
    if adds:
        entry = reply.get("entry") or {}
        assert decision.entry.type == (entry.get("type") or "market")
        assert decision.entry.offset_bps == abs(plain(entry.get("offset_bps") or 0))
    literal = parse_reply(json.dumps(reply), SYMBOL, literal=True)
    assert bool(decision.read_as) == (literal != decision)


GOOD = json.dumps(
    json.loads(OPEN) | {"reasoning": "r", "key_factors": ["k"], "entry": {"type": "market", "offset_bps": 0}}
)
FULL_WIDTH = str.maketrans({"{": "\uff5b", "}": "\uff5d", ":": "\uff1a", ",": "\uff0c", '"': "\u201c"})


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (f'<think>RSI is {{high}} and {{"a": 1}} [1,2] maybe hold</think>\n{GOOD}', "OPEN_LONG"),
        (f'<think>First idea: {{"action":"HOLD"}} no, rather open.</think>\n{GOOD}', "OPEN_LONG"),
        (f"{GOOD} no, the trend is spent</think>\n" + '{"action":"CLOSE_ALL"}', "CLOSE_ALL"),
        (f"[THINK]{GOOD} or not?[/THINK]" + '{"action":"HOLD"}', "HOLD"),
        (f"<|channel|>analysis<|message|>{GOOD}<|end|><|channel|>final<|message|>" + '{"action":"HOLD"}', "HOLD"),
        (f"<think>maybe {GOOD}", "thinking_only"),  # cut off: this is a draft
        (f"<think>maybe {GOOD}</think> I would rather wait.", "thinking_only"),
        (f"maybe {GOOD}</think>", "thinking_only"),
        (f"<|channel|>analysis<|message|>{GOOD} but", "thinking_only"),
        (GOOD.replace('"r"', '"so </think> it is"'), "missing:action"),  # what follows is the entry alone
        (f"reasoning without opening tag {{x}}</think>\n{GOOD}", "OPEN_LONG"),
        (f"Here:\n```json\n{GOOD}\n```\nGood luck!", "OPEN_LONG"),
        (GOOD.translate(FULL_WIDTH), "no_json"),
        (GOOD.replace('"', "\u201c"), "no_json"),
        (json.dumps(json.loads(GOOD) | {"size_pct": "10", "stop_atr": "2", "confidence": "0.7"}), "OPEN_LONG"),
        (json.dumps(json.loads(GOOD) | {"confidence": 70}), "OPEN_LONG"),
        (json.dumps(json.loads(GOOD) | {"symbol": "BTCUSDT"}), "OPEN_LONG"),
        (json.dumps(json.loads(GOOD) | {"action": "open_long"}), "OPEN_LONG"),
        (GOOD.replace('"r"', '"\\ud83d lone"'), "OPEN_LONG"),
        ("", "no_json"),
    ],
)
def test_replies_as_models_misbehave(text, word):
    parsed = parse_reply(text, SYMBOL)
    assert (parsed.reason if isinstance(parsed, Unusable) else parsed.action) == word


def test_what_no_database_keeps_is_taken_out_of_the_texts():
    assert accepted('{"action":"HOLD","comment":"\\ud800"}').comment == "?"
    assert accepted('{"action":"HOLD","comment":"a\\u0000b","key_factors":["\\u0000c"]}').comment == "ab"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "no_json"),
        ("HOLD", "no_json"),
        ("null", "no_json"),
        ("I hold. [1,2] {a, b}", "no_json"),
        ("{'action': 'HOLD'}", "no_json"),
        ("{}", "missing:action"),
        ('{"action":null}', "missing:action"),
        ('{"signal":"buy","leverage":10}', "missing:action"),
        (OPEN[:-1], "truncated_json"),
        (OPEN[:30], "truncated_json"),
        ("```json\n" + OPEN[:-10] + "\n```", "truncated_json"),
        ('{"action":"HO', "truncated_json"),
        ('{"action":"HOLD" "comment":"x"}', "invalid_json"),
        (OPEN + OPEN, "two_objects"),
        (f"Draft: {OPEN} but better: " + '{"action":"HOLD"}', "two_objects"),
        ('{"rsi": 60}' + OPEN, "two_objects"),
        (f"[{OPEN}]", "array"),
        (f"[{OPEN},{OPEN}]", "array"),
        (f"[{OPEN},", "array"),
        (f"Decisions:\n```json\n[1, {OPEN}]\n```", "array"),
        (f'["x", {OPEN}', "array"),
        ('{"BTC/USDT:USDT":{"action":"HOLD"}}', "keyed_by_symbol"),
        ('{"BTC":{"signal":"hold"},"ETH":{"signal":"buy"}}', "keyed_by_symbol"),
        ('{"action":"HOLD","confidence":NaN}', "not_finite"),
        ('{"action":"HOLD","confidence":-Infinity}', "not_finite"),
        (OPEN.replace("20", "1e999"), "not_finite"),
        (OPEN.replace("20", "1e-999"), "not_finite"),
        (OPEN.replace("20", "1e99999999999999999999"), "not_finite"),
        (OPEN.replace("20", "2" * 100_000), "not_finite"),
        (OPEN.replace("20", '"1e5"'), "invalid:size_pct"),
        (OPEN.replace("20", '"NaN"'), "invalid:size_pct"),
        (OPEN.replace("20", "true"), "invalid:size_pct"),
        (OPEN.replace("20", "[20]"), "invalid:size_pct"),
        (OPEN.replace("20", "-20"), "invalid:size_pct"),
        (OPEN.replace("20", "0"), "invalid:size_pct"),
        (OPEN.replace("20", "1000.01"), "invalid:size_pct"),
        (OPEN.replace("0.6", "1.5"), "ambiguous:confidence"),
        (OPEN.replace("0.6", '"2"'), "ambiguous:confidence"),
        (OPEN.replace("0.6", "7.5"), "ambiguous:confidence"),  # of ten, or percent
        (OPEN.replace("0.6", '"8/10"'), "invalid:confidence"),
        (OPEN.replace("0.6", "101"), "invalid:confidence"),
        (OPEN.replace("0.6", "-60"), "invalid:confidence"),
        (OPEN.replace("0.6", '"-60%"'), "invalid:confidence"),
        (OPEN.replace("0.6", '"160%"'), "invalid:confidence"),
        (OPEN.replace("0.6", '"%"'), "invalid:confidence"),
        (OPEN.replace("0.6", '"high"'), "invalid:confidence"),
        (OPEN.replace("0.6", "true"), "invalid:confidence"),
        (OPEN.replace("}", ',"entry":{"type":"limit","offset_bps":-1001}}'), "invalid:entry.offset_bps"),
        (OPEN.replace("}", ',"read_as":[]}'), "invalid: unknown field read_as"),
        (OPEN.replace("1.5", "-1.5"), "invalid:stop_atr"),  # a stop on the wrong side, as models ask for them
        (OPEN.replace('"tp_atr":3', '"tp_atr":-3'), "invalid:tp_atr"),
        (OPEN.replace('"size_pct":20,', ""), "missing:size_pct"),
        (OPEN.replace("20", "null"), "missing:size_pct"),
        ('{"action":"MOVE_STOP"}', "missing:to"),
        ('{"action":"MOVE_STOP","to":{"kind":null,"x":1}}', "missing:to.kind"),
        ('{"action":"MOVE_STOP","to":{"kind":"trail","x":1}}', "invalid:to.kind"),
        ('{"action":"MOVE_STOP","to":{"kind":"atr","x":"1","y":2}}', "invalid:to.y"),
        ('{"action":"PAUSE","minutes":"soon"}', "invalid:minutes"),
        ('{"action":"BUY"}', "unknown_action"),  # opens, adds or closes a short
        ('{"action":"LONG"}', "unknown_action"),
        ('{"action":"OPEN_LONG|ADD"}', "unknown_action"),
        (OPEN.replace("20", '"1,000"'), "invalid:size_pct"),
        (OPEN.replace("1.5", '"1,5"'), "invalid:stop_atr"),
        (OPEN.replace("1.5", '"1-2 ATR"'), "invalid:stop_atr"),
        (OPEN.replace("1.5", '"1.5%"'), "invalid:stop_atr"),  # of the price
        (OPEN.replace("1.5", '"\u22121.5"'), "invalid:stop_atr"),
        (OPEN.replace("}", ',"leverage":10}'), "invalid: unknown field leverage"),
        (OPEN.replace("}", ',"\\ud800":1}'), "invalid: unknown field"),
        (OPEN.replace("}", ',"comment":5}'), "invalid:comment"),
        ('{"action":"TRIM","size_pct":"half"}', "invalid:size_pct"),
        ('{"trade":{"action":"HOLD"}}', "missing:action"),
        ('{"decision":{"action":"HOLD"},"alternative":{"action":"TRIM"}}', "missing:action"),
        ('{"action" /* or */ "HOLD",}', "invalid_json"),
        ('{"action":["HOLD"]}', "unknown_action"),
        ('{"action":"HOLD","symbol":"ETH/USDT:USDT"}', "symbol_mismatch"),
        ('{"action":"HOLD","symbol":""}', "symbol_mismatch"),
        ('{"action":"HOLD","symbol":["BTC/USDT:USDT"]}', "symbol_mismatch"),
        ('{"action":"HOLD","action":"OPEN_LONG"}', "duplicate_key: action"),
        (OPEN.replace("}", ',"followups":["a","b","c","d","e"]}'), "invalid:followups"),
        ("[" * 100_000, "too_deep"),
        ('{"a":' * 30_000, "too_deep"),
        ('{"key_factors":' + "[" * 100_000, "too_deep"),
        ("x" * 200_001, "too_long"),
        ("é" * 100_001, "too_long"),
    ],
)  # fmt: skip
def test_a_reply_that_is_not_one_decision_is_rejected_with_its_reason(text, expected):
    assert reason(text).startswith(expected)
    reason(text).encode()  # a reason can always be stored


WORDS = ["{", "}", "[", "]", '"', "\\", ",", ":", "null", "NaN", "1e999", "-", "0.5", "```json\n", "\x00", "\ud800"]
FRAGMENTS = [*WORDS, OPEN, '"action"', '"HOLD"', '"symbol"', '"to"', '"entry"', '"size_pct"', '{"action":"HOLD"}']


@given(st.one_of(st.text(), st.lists(st.sampled_from(FRAGMENTS), max_size=30).map("".join)))
def test_no_text_makes_the_parser_raise(text):
    parsed = parse_reply(text, SYMBOL)
    if isinstance(parsed, Unusable):
        str(parsed).encode()
    else:
        assert parsed.symbol == SYMBOL
        parsed.model_dump_json().encode()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WIRE_FIELDS) | st.text(), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(WIRE_FIELDS), JSON), st.sampled_from(ACTIONS))
def test_no_object_makes_the_parser_raise_and_what_it_accepts_is_what_was_said(fields, action):
    parsed = parse_reply(json.dumps(fields | {"action": action}), SYMBOL)
    assert isinstance(parsed, Unusable) or (parsed.action, parsed.symbol) == (action, SYMBOL)


@pytest.mark.parametrize(
    "text",
    [
        "x" * 10_000_000,
        '{"a":"' + "x" * 10_000_000 + '"}',
        "[" * 10_000_000,
        "[0," * 900 + "0," * 90_000,
        "[" * 900 + "0," * 90_000,
        '["' * 90_000,
        '[["[' * 40_000,
        "{ " * 90_000,
        "{" + " " * 190_000,
        '{"' * 90_000,
        "[1] " * 45_000,
        '{"a":"\\' * 25_000,
        '{"a":,"' + '\\"' * 90_000,
        '{"a":,' + "/*" * 90_000,
        '{"a":,' + "//" * 90_000,
        '{"a":' + ", " * 90_000 + "," + " " * 10_000,
        "</think>" * 20_000,
        '{"action":"HOLD",' + ",".join(f'"k{i}":1' for i in range(9_000)) + "",
    ],
    ids=lambda t: t[:10],
)
def test_a_reply_made_to_be_slow_is_refused(text):
    assert isinstance(parse_reply(text, SYMBOL), Unusable)


@pytest.mark.parametrize("action", ["HOLD", "TRIM", "CLOSE_PARTIAL", "MOVE_STOP"])
def test_follow_ups_may_come_with_a_decision_about_what_is_held_and_a_record_of_before_has_none(action):
    reply = {"action": action, "size_pct": Decimal(5), "to": {"kind": "breakeven"}, "followups": ["TRIM 30% at +2R"]}
    assert parse_reply(reply, "BTC/USDT:USDT").followups == ("TRIM 30% at +2R",)
    before = parse_reply(reply, "BTC/USDT:USDT", literal=True)
    assert before.followups == ()
    assert "followups" not in before.model_dump_json()
