"""The litellm adapter against a real HTTP server that misbehaves: reasons, failover, deadline, limits, secrets."""

import asyncio
import json
from decimal import Decimal

import pytest
from model_server import Fault, ModelServer, Reply, Step, completion

from tasks.adapters.model import litellm_model
from tasks.adapters.model.litellm_model import BLOCK_VARIABLE, LiteLLMModel, litellm
from tasks.adapters.model.request_form import Form, Forms, bounded
from tasks.core.decision.actions import Unusable, parse_as, parse_reply, wire_schema
from tasks.core.decision.llm.planner import PLAN_SCHEMA, Plan
from tasks.core.decision.llm.portfolio import SCHEMA as ORDERS
from tasks.core.decision.llm.tools import TOOLS, functions
from tasks.core.ports import ModelRequest
from tasks.core.types.decision import Hold, ModelCall, PromptRef, Why

SYMBOL = "BTC/USDT:USDT"
HOLD = '{"symbol":"BTC/USDT:USDT","action":"HOLD","confidence":0.5}'
PROMPT = PromptRef(name="single", version="v001", sha256="0" * 64, temperature=0.1, seed=7, max_tokens=900)
MESSAGES = [{"role": "system", "content": "You trade."}, {"role": "user", "content": "BTC"}]


@pytest.fixture(autouse=True, scope="module")
def warm_client():
    """Pay the library's import and its first call once; a deadline here may be shorter than they take."""
    litellm()
    with ModelServer([Reply(HOLD)]) as server:
        asyncio.run(model_at(server, timeout_s=30, deadline_s=30).ask(REQUEST))


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.setattr(litellm_model, "PAUSE_S", 0.01)
    monkeypatch.setenv(BLOCK_VARIABLE, "1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


REQUEST = ModelRequest("single", PROMPT, MESSAGES, wire_schema())
SHORT = {"timeout_s": 3.0, "deadline_s": 5.0}  # only where running out of time is what is tested


def model_at(server: ModelServer, *models: str, timeout_s=60.0, deadline_s=120.0, max_bytes=200_000) -> LiteLLMModel:
    return LiteLLMModel(models or ("openai/test",), server.url, timeout_s, deadline_s, max_bytes)


async def ask(
    *script: Step, models: tuple[str, ...] = ("openai/test",), default: Step | None = None, **limits
) -> ModelCall:
    with ModelServer(script, default) as server:
        return await model_at(server, *models, **limits).ask(REQUEST)


async def test_a_good_reply_comes_back_with_its_tokens_and_latency():
    with ModelServer([Reply(HOLD, tokens_in=1200, tokens_out=34)]) as server:
        call = await model_at(server).ask(REQUEST)
    assert (call.raw_reply, call.error, call.attempts) == (HOLD, "", ())
    assert (call.model, call.tokens_in, call.tokens_out) == ("openai/test", 1200, 34)
    assert call.prompt == PROMPT
    assert call.latency_ms > 0
    request = server.requests[0]
    assert (request["model"], request["messages"]) == ("test", MESSAGES)
    assert (request["temperature"], request["seed"], request["max_tokens"]) == (0.1, 7, 900)
    asked = request["response_format"]["json_schema"]
    assert (asked["schema"], asked["strict"]) == (bounded(wire_schema()), True)
    assert server.headers[0]["authorization"] == "Bearer unset"


async def test_a_known_model_costs_what_the_price_list_says_and_an_unknown_one_nothing():
    known = await ask(Reply(HOLD, tokens_in=1_000_000, tokens_out=0), models=("openai/gpt-4o",))
    assert known.cost_usd == Decimal("2.5")
    assert (await ask(Reply(HOLD))).cost_usd == 0


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (HOLD, "HOLD"),
        (f"I hold because [1,2].\n```json\n{HOLD}\n```", "HOLD"),
        (HOLD[:40], "truncated_json"),
        (f"[{HOLD}]", "array"),
        ('{"signal":"buy","leverage":10}', "missing:action"),
        ('{"BTC":{"signal":"hold"}}', "keyed_by_symbol"),
        ("Sorry, I cannot help with that.", "no_json"),
    ],
)
async def test_what_the_model_wrote_reaches_the_parser_unchanged(reply, expected):
    call = await ask(Reply(reply))
    assert (call.raw_reply, call.error) == (reply, "")
    parsed = parse_reply(call.raw_reply, SYMBOL)
    assert (parsed.reason if isinstance(parsed, Unusable) else parsed.action) == expected


@pytest.mark.parametrize(
    ("fault", "error", "kept"),
    [
        (Fault("status", status=429), "rate_limited", "scripted"),
        (Fault("status", status=500), "unavailable", "scripted"),
        (Fault("status", status=503), "unavailable", "scripted"),
        (Fault("status", status=401), "auth", "scripted"),
        (Fault("status", status=403), "auth", "scripted"),
        (Fault("reset"), "unavailable", ""),
        (Fault("cut", cut_after=40), "unavailable", '{"id": "chatcmpl-test"'),
        (Fault("hang"), "timeout", ""),
        (Fault("drip", every_s=0.03), "timeout", '{"'),
        (Fault("endless"), "too_long", '{"choices":[{"message":{"content":"xxx'),
        (Fault("raw", body=b""), "malformed", ""),
        (Fault("raw", body=b"<html>not json</html>"), "malformed", "<html>"),
        (Fault("raw", body=b'{"error":{"message":"in a 200"}}'), "malformed", "in a 200"),
        (Fault("raw", body=b"[1,2]"), "malformed", "[1,2]"),
        (Fault("raw", body=b'{"choices":[{"message":{"content":{"a":1}}}]}'), "malformed", '{"a":1}'),
        (Fault("raw", body=completion(Reply(HOLD), "t").replace(b"HOLD", b"HO\xff\xfe")), "malformed", "HO��"),
        (Fault("raw", body=b"\x00\x01"), "malformed", "�"),
        (Reply(""), "empty", "chatcmpl-test"),
        (Reply(None), "empty", "chatcmpl-test"),
        (Reply(" \n"), "empty", "chatcmpl-test"),
        (Reply(None, refusal="I will not"), "refused", "I will not"),
        (Reply(HOLD, finish_reason="content_filter"), "refused", "content_filter"),
        (Reply("x" * 200_001), "too_long", "xxx"),
        (Reply("x" * 10_000_000), "too_long", "xxx"),
    ],
    ids=lambda value: f"{value.kind}-{value.status}" if isinstance(value, Fault) else None,
)
async def test_a_fault_becomes_a_short_reason_and_what_arrived_is_kept(fault, error, kept):
    unending = isinstance(fault, Fault) and fault.kind in ("hang", "drip")
    call = await ask(default=fault, **(SHORT if unending else {}))
    assert (call.error, call.attempts[-1]) == (error, f"openai/test: {error}")
    assert len(call.attempts) <= 4
    assert kept in call.raw_reply
    assert len(call.raw_reply) <= 200_000
    assert "\x00" not in call.raw_reply


async def test_a_server_that_is_not_there_is_unavailable():
    with ModelServer() as server:
        model = model_at(server)
    call = await model.ask(REQUEST)
    assert (call.error, call.attempts) == ("unavailable", ("openai/test: unavailable",) * 3)


def refused(status: int = 400, message: str = "", **error: str) -> Fault:
    return Fault("status", status=status, body=json.dumps({"error": {"message": message, **error}}).encode())


async def test_a_refusal_that_says_nothing_is_answered_without_options():
    with ModelServer([Fault("status", status=400), Reply(HOLD)]) as server:
        call = await model_at(server).ask(REQUEST)
    assert (call.raw_reply, call.attempts) == (HOLD, ("openai/test: bad_request -> no options",))
    assert not {"response_format", "temperature", "seed"} & set(server.requests[1])
    assert (await ask(Fault("status", status=400), Fault("status", status=400))).error == "bad_request"


OTHER_NAME = refused(
    message="'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
    param="max_tokens", code="unsupported_parameter",
)  # fmt: skip
STRICT = {"type": "json_schema", "json_schema": {"name": "reply", "strict": True, "schema": wire_schema()}}
NO_SYSTEM = refused(message="System role not supported")


@pytest.mark.parametrize(
    ("fault", "gone", "there", "named"),
    [
        (OTHER_NAME, "max_tokens", {"max_completion_tokens": 900}, "max_tokens unsupported_parameter -> max_comple"),
        (
            refused(message="does not support 0.1", param="temperature", code="unsupported_value"),
            "temperature", {"seed": 7}, "temperature unsupported_value -> no temperature",
        ),
        (refused(message="extra field: seed"), "seed", {"temperature": 0.1}, "bad_request -> no seed"),
        (
            refused(message="In context=('properties', 'reasoning'), 'maxLength' is not permitted: invalid schema"),
            "", {"response_format": STRICT}, "bad_request -> response_format json_schema",
        ),
        (
            NO_SYSTEM, "", {"messages": [{"role": "user", "content": "You trade.\n\nBTC"}]},
            "bad_request -> system merged into user",
        ),
    ],
    ids=["max_tokens", "temperature", "seed", "response_format", "system"],
)  # fmt: skip
async def test_what_was_refused_is_put_another_way_and_named(fault, gone, there, named):
    with ModelServer([fault, Reply(HOLD), Reply(HOLD)]) as server:
        model = model_at(server)
        call, again = await model.ask(REQUEST), await model.ask(REQUEST)
    assert (call.raw_reply, call.error, [rung.rung for rung in call.tried()]) == (HOLD, "", ["primary"] * 2)
    assert named in call.attempts[0]
    for sent in server.requests[1:]:
        assert gone not in sent
        assert there.items() <= sent.items()
    assert again.attempts == ()  # what worked is kept


def test_every_text_of_a_schema_ends_and_nothing_else_of_it_is_other():
    longest = {"reasoning": 600, "comment": 240, "symbol": 240, "risk_assessment": 240}
    whole, schema = wire_schema()["properties"], bounded(wire_schema())["properties"]
    assert {name: sub.get("maxLength") for name, sub in schema.items() if "maxLength" in sub} == longest
    for name in ("key_factors", "followups"):
        assert (schema[name]["maxItems"], schema[name]["items"]["maxLength"]) == (4, 80)
    assert list(schema) == list(whole)
    assert (schema["action"], schema["entry"], schema["size_pct"]) == (
        whole["action"], whole["entry"], whole["size_pct"],
    )  # fmt: skip
    orders = bounded(ORDERS)["properties"]["decisions"]
    assert "maxItems" not in orders
    assert orders["items"]["properties"]["rationale"]["maxLength"] == 240


async def test_structured_output_goes_down_to_what_the_engine_takes_and_the_next_process_knows(tmp_path):
    refuses = [refused(500, "literal_error in body.response_format")] * 4
    with ModelServer([*refuses, Reply(HOLD), Reply(HOLD)]) as server:
        for _ in range(2):
            model = model_at(server)
            model.forms = Forms(tmp_path / "forms.json")
            call = await model.ask(REQUEST)
    asked = [request.get("response_format", {}) for request in server.requests]
    with_schema = {"type": "json_object", "schema": wire_schema()}
    assert asked[1:] == [STRICT, with_schema, {"type": "json_object"}, {}, {}]
    assert (call.raw_reply, call.attempts) == (HOLD, ())


async def test_a_form_that_cannot_be_read_or_is_old_is_found_out_anew(tmp_path):
    file = tmp_path / "forms.json"
    for text in ("", "[]", '{"m": {"form": {"output": "telepathy"}, "at": "2026-01-01T00:00:00Z"}}'):
        file.write_text(text)
        assert Forms(file).find("m") is None
    file.write_text('{"m": {"form": {"output": "none"}, "at": "2001-01-01T00:00:00Z"}}')
    assert Forms(file).find("m") is None
    Forms(file).keep("m", Form(merged=True))
    assert Forms(file).find("m") == Form(merged=True)


@pytest.mark.parametrize(
    ("fault", "error", "requests"),
    [
        (
            refused(message="This model's maximum context length is 4096 tokens. You requested max_tokens 900"),
            "bad_request:context_length_exceeded", 1,
        ),
        (refused(404, "no such model", code="model_not_found"), "bad_request:model_not_found", 1),
        (refused(429, "check your plan", code="insufficient_quota"), "rate_limited:insufficient_quota", 1),
        (refused(429, "slow down", code="rate_limit_exceeded"), "rate_limited:rate_limit_exceeded", 3),
        (refused(message="no", param="logit_bias", code="unsupported_parameter"), "bad_request", 2),
        (refused(401, "", code="invalid_api_key"), "auth", 1),
        (refused(200, "upstream overloaded"), "malformed", 1),
        (Fault("raw", body=b'{"error":{"message":"upstream overloaded","code":502}}'), "unavailable:502", 3),
    ],
)  # fmt: skip
async def test_the_providers_own_words_are_told_and_what_cannot_pass_is_not_asked_again(fault, error, requests):
    with ModelServer(default=fault) as server:
        call = await model_at(server).ask(REQUEST)
    assert call.error.startswith(error)
    assert len(server.requests) == requests


async def test_what_may_pass_is_asked_twice_more_of_the_same_model_before_the_next_one():
    busy = Fault("status", status=503)
    call = await ask(busy, Fault("status", status=429), Reply(HOLD), models=("openai/a", "openai/b"))
    assert (call.model, call.error) == ("openai/a", "")
    assert call.attempts == ("openai/a: unavailable", "openai/a: rate_limited")
    assert [(rung.rung, rung.retry) for rung in call.tried()] == [("primary", 0), ("primary", 1), ("primary", 2)]
    call = await ask(busy, busy, busy, busy, Reply(HOLD), models=("openai/a", "openai/b"))
    assert (call.model, call.tried()[-1].rung) == ("openai/b", "failover")


async def test_an_engine_that_breaks_without_a_word_is_asked_once_without_options():
    with ModelServer([Fault("status", status=500)] * 3 + [Reply(HOLD)]) as server:
        call = await model_at(server).ask(REQUEST)
    assert (call.error, call.attempts[-1]) == ("", "openai/test: unavailable -> no options")
    assert "response_format" not in server.requests[-1]


async def test_a_model_that_was_late_is_asked_again_where_time_is_left_for_the_others_too():
    slow = {"timeout_s": 2.0, "deadline_s": 30.0}
    call = await ask(Fault("hang"), Reply(HOLD), **slow)
    assert (call.error, call.attempts, call.unmetered) == ("", ("openai/test: timeout",), 1)
    short = {"timeout_s": 2.0, "deadline_s": 4.0}
    call = await ask(Fault("hang"), Reply(HOLD), models=("openai/a", "openai/b"), **short)
    assert (call.model, call.attempts) == ("openai/b", ("openai/a: timeout",))
    with ModelServer([Fault("hang"), Reply(HOLD)]) as server:
        model = model_at(server, **slow)
        model.patient = False
        assert (await model.ask(REQUEST)).error == "timeout"


# --- thinking


def thought(content: str | None, thinking: str, finish: str = "stop", **usage: object) -> Fault:
    message = {"role": "assistant", "content": content, "reasoning_content": thinking}
    usage = {"prompt_tokens": 2000, "completion_tokens": 1200, "total_tokens": 3200} | usage
    head = {"id": "x", "object": "chat.completion", "created": 1, "model": "test", "usage": usage}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return Fault("raw", body=json.dumps(head | {"choices": [choice]}).encode())


async def test_a_budget_spent_on_thinking_is_named_and_larger_next_time():
    details = {"completion_tokens_details": {"reasoning_tokens": 1180}}
    with ModelServer([thought(None, "hm", "length", **details), Reply(HOLD)]) as server:
        model = model_at(server)
        call = await model.ask(REQUEST)
        await model.ask(REQUEST)
    assert call.error == "empty:length 1200 tokens, 1180 of them thinking"
    assert (call.thinking, call.thinking_tokens) == ("hm", 1180)
    assert [request["max_tokens"] for request in server.requests] == [900, 900 + model.thinking_tokens]


async def test_a_reply_that_was_cut_off_says_so():
    call = await ask(Reply(HOLD[:30], finish_reason="length", tokens_out=900))
    assert (call.error, call.raw_reply, call.attempts) == ("", HOLD[:30], ("openai/test: cut off after 900 tokens",))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (f"A long would do: {HOLD} but the 4h trend", "unfinished:length 900 tokens"),  # its thinking, leaked
        ("I think that", "unfinished:length 900 tokens"),
        (f"{HOLD} That is because", ""),
        (f"```json\n{HOLD[:30]}", ""),
        (f"Well then:\n```json\n{HOLD}\n```\n", ""),
    ],
)
async def test_what_was_cut_off_in_the_midst_of_its_words_may_be_a_draft(text, error):
    call = await ask(Reply(text, finish_reason="length", tokens_out=900))
    assert (call.error, call.raw_reply) == (error, text)


async def test_thinking_is_kept_apart_from_the_reply():
    call = await ask(thought(HOLD, "rather not"))
    assert (call.raw_reply, call.thinking, call.error) == (HOLD, "rather not", "")


async def test_a_reply_that_stands_in_the_thinking_is_used_only_if_it_is_nothing_else():
    call = await ask(thought(None, HOLD))
    assert (call.raw_reply, call.error) == (HOLD, "")
    assert call.attempts == ("openai/test: the reply stood in reasoning_content",)
    assert (await ask(thought(None, f"maybe {HOLD} or not"))).error == "empty"
    assert (await ask(thought(None, HOLD, "length"))).error.startswith("empty:length 1200 tokens, ")


async def test_an_effort_is_sent_with_room_to_think_and_left_out_where_it_is_refused():
    no_effort = refused(message="unsupported", param="reasoning_effort", code="unsupported_parameter")
    with ModelServer([Reply(HOLD), no_effort, Reply(HOLD)]) as server:
        model = model_at(server)
        model.effort = "low"
        await model.ask(REQUEST)
        call = await model.ask(REQUEST)
    first, _, last = server.requests
    assert (first["reasoning_effort"], first["max_tokens"]) == ("low", 4900)
    assert "reasoning_effort" not in last
    assert "no reasoning_effort" in call.attempts[0]


# --- usage


async def test_cached_tokens_are_told_and_priced_as_such():
    usage = {"prompt_tokens": 1_000_000, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 800_000}}
    call = await ask(thought(HOLD, "", **usage), models=("openai/gpt-4o",))
    assert (call.tokens_in, call.cached_tokens) == (1_000_000, 800_000)
    assert Decimal("1.5") <= call.cost_usd < Decimal("1.51")  # 0.2 M at 2.50, 0.8 M at 1.25


@pytest.mark.parametrize("tokens", [{"tokens_in": 0, "tokens_out": 0}, None])
async def test_an_answer_without_usage_has_no_known_cost(tokens):
    step = Reply(HOLD, **tokens) if tokens else thought(HOLD, "", usage=None)
    if tokens is None:
        body = json.loads(step.body)
        del body["usage"]
        step = Fault("raw", body=json.dumps(body).encode())
    assert (await ask(step)).unmetered == 1
    assert (await ask(Reply(HOLD))).unmetered == 0
    assert (await ask(default=Fault("status", status=503))).unmetered == 0


async def test_thinking_that_only_the_total_counts_is_counted():
    assert (await ask(thought(HOLD, "", completion_tokens=300, total_tokens=12_300))).tokens_out == 10_300


@pytest.mark.parametrize("fault", [Fault("status", status=500), Fault("hang"), Fault("drip"), Reply("")])
async def test_when_one_provider_fails_the_next_one_answers_and_the_failure_is_kept(fault):
    limits = {"timeout_s": 3.0, "deadline_s": 6.0} if isinstance(fault, Fault) and fault.kind != "status" else {}
    tries = 4 if isinstance(fault, Fault) and fault.kind == "status" else 1
    call = await ask(*[fault] * tries, Reply(HOLD), models=("openai/a", "anthropic/b"), **limits)
    assert (call.raw_reply, call.error, call.model) == (HOLD, "", "anthropic/b")
    assert len(call.attempts) == tries
    assert call.attempts[0].startswith("openai/a: ")
    first, *_, second = call.tried()
    assert (first.rung, first.source, first.why is Why.ANSWERED) == ("primary", "llm:openai/a", False)
    assert (second.rung, second.source, second.why) == ("failover", "llm:anthropic/b", Why.ANSWERED)


async def test_what_a_failed_attempt_cost_is_counted():
    call = await ask(Reply("", tokens_in=10), Reply(HOLD, tokens_in=20), models=("openai/a", "openai/b"))
    assert call.tokens_in == 30
    assert sum(rung.tokens for rung in call.tried()) == call.tokens_in + call.tokens_out
    assert call.tried()[0].tokens >= 10


async def test_the_same_model_asked_again_is_a_retry():
    call = await ask(Reply(""), Reply(""), Reply(HOLD), models=("openai/a", "openai/a", "openai/b"))
    assert [(rung.rung, rung.retry) for rung in call.tried()] == [("primary", 0), ("failover", 1), ("failover", 0)]


async def test_all_providers_together_get_one_deadline():
    call = await ask(Fault("hang"), Fault("drip"), models=("openai/a", "openai/b"), timeout_s=3.0, deadline_s=5.0)
    assert (call.error, call.model) == ("timeout", "openai/b")
    assert call.attempts == ("openai/a: timeout", "openai/b: timeout")
    assert [rung.why for rung in call.tried()] == [Why.LATE, Why.LATE]
    assert call.raw_reply.startswith('{"')


async def test_the_deadline_holds_even_against_code_that_cannot_be_cancelled():
    given_up = asyncio.Event()

    class Stubborn(LiteLLMModel):
        async def _send(self, *_):
            while not given_up.is_set():
                try:
                    await given_up.wait()
                except asyncio.CancelledError:
                    continue
            return HOLD

    call = await Stubborn(("openai/a",), "http://127.0.0.1:1", 60, 0.2).ask(
        ModelRequest("single", PROMPT, MESSAGES, {})
    )
    given_up.set()
    assert call.error == "timeout"


async def test_a_cancelled_ask_does_not_leave_its_request_behind():
    with ModelServer([Fault("hang")]) as server:
        asking = asyncio.create_task(model_at(server).ask(REQUEST))
        while not server.requests:
            await asyncio.sleep(0.01)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        left = [task for task in asyncio.all_tasks() if "_failover" in repr(task.get_coro())]
        await asyncio.wait_for(asyncio.gather(*left, return_exceptions=True), 30)


async def test_parallel_asks_do_not_share_their_tapes():
    with ModelServer(default=lambda request: Reply(request["messages"][1]["content"] * 200)) as server:
        model = model_at(server)
        asked = [[MESSAGES[0], {"role": "user", "content": str(n)}] for n in range(5)]
        calls = await asyncio.gather(*(model.ask(ModelRequest("single", PROMPT, m, wire_schema())) for m in asked))
    assert [call.raw_reply for call in calls] == [str(n) * 200 for n in range(5)]


async def test_a_smaller_limit_cuts_a_smaller_reply():
    call = await ask(Reply("y" * 1001), max_bytes=1000)
    assert (call.error, call.raw_reply) == ("too_long", "y" * 1000)


async def test_a_key_that_a_provider_echoes_is_not_recorded(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret-1")
    body = b'{"error":{"message":"Incorrect API key provided: sk-very-secret-1"}}'
    with ModelServer([Fault("status", status=401, body=body)]) as server:
        call = await model_at(server).ask(REQUEST)
    assert server.headers[0]["authorization"] == "Bearer sk-very-secret-1"
    assert call.error == "auth"
    assert "very-secret" not in call.model_dump_json()
    assert "***" in call.raw_reply


@pytest.mark.parametrize("base_url", ["", "http://10.0.0.1/v1", "http://127.0.0.1.example.com/v1"])
async def test_with_model_calls_switched_off_only_this_machine_is_asked(base_url):
    call = await LiteLLMModel(("openai/gpt-4o",), base_url).ask(REQUEST)
    assert (call.error, call.raw_reply) == ("blocked", "")


@pytest.mark.parametrize(
    ("name", "error"), [("openai/gpt-4o", "auth"), ("anthropic/claude-sonnet-4-5", "auth"), ("foo", "bad_request")]
)
async def test_a_model_without_a_key_or_provider_says_so_and_nothing_on_stdout(name, error, monkeypatch, capfd):
    monkeypatch.delenv(BLOCK_VARIABLE)
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    call = await LiteLLMModel((name,)).ask(REQUEST)
    assert call.error == error
    assert capfd.readouterr().out == ""


async def test_anthropic_is_spoken_to_in_its_own_dialect_and_cut_off_like_the_rest(monkeypatch):
    monkeypatch.delenv(BLOCK_VARIABLE)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-secret-1")
    head = {"id": "m", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5", "stop_reason": "end_turn"}
    usage = {"input_tokens": 10, "output_tokens": 5}
    body = json.dumps(head | {"content": [{"type": "text", "text": HOLD}], "usage": usage}).encode()
    with ModelServer([Fault("raw", body=body), Fault("endless"), Fault("drip", body=body)]) as server:
        monkeypatch.setenv("ANTHROPIC_API_BASE", server.url.removesuffix("/v1"))
        model = LiteLLMModel(("anthropic/claude-sonnet-4-5",), "", 5.0, 5.0)
        good, endless, drip = [await model.ask(REQUEST) for _ in range(3)]
    assert isinstance(parse_reply(good.raw_reply, SYMBOL), Hold)
    assert (good.tokens_in, good.tokens_out) == (10, 5)
    assert good.cost_usd > 0
    assert "output_format" in server.requests[0] or "tools" in server.requests[0]
    assert (endless.error, drip.error) == ("too_long", "timeout")
    assert drip.raw_reply.startswith('{"')


def test_the_client_may_be_used_from_one_event_loop_after_another():
    with ModelServer([Reply(HOLD)] * 3) as server:
        model = model_at(server)
        calls = [asyncio.run(model.ask(REQUEST)) for _ in range(3)]
    assert [call.error for call in calls] == ["", "", ""]


# --- functions


def called(*functions: tuple[str, str]) -> Fault:
    calls = [
        {"id": f"c{i}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for i, (name, arguments) in enumerate(functions)
    ]
    message = {"role": "assistant", "content": None, "tool_calls": calls}
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    head = {"id": "x", "object": "chat.completion", "created": 1, "model": "test", "usage": usage}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    return Fault("raw", body=json.dumps(head | {"choices": [choice]}).encode())


PLANNING = REQUEST._replace(functions=functions(), schema=PLAN_SCHEMA)


async def test_a_model_that_calls_functions_may_call_the_tools_and_its_calls_are_requests():
    step = called(
        ("candles", '{"symbol":"BTC/USDT:USDT","timeframe":"1h"}'),
        ("digest", "[1]"),
        ("digest", "{bro"),
        ("candles", json.dumps('{"timeframe":"4h"}')),
    )
    with ModelServer([step]) as server:
        call = await model_at(server, "openai/gpt-4o").ask(PLANNING)
    assert [each["function"]["name"] for each in server.requests[0]["tools"]] == list(TOOLS)
    plan = parse_as(call.raw_reply, Plan)
    assert plan.requests == (
        {"symbol": "BTC/USDT:USDT", "timeframe": "1h", "tool": "candles"},
        {"arguments": "[1]", "tool": "digest"},
        {"arguments": "{bro", "tool": "digest"},
        {"timeframe": "4h", "tool": "candles"},
    )
    assert not plan.done


async def test_functions_are_offered_only_to_models_that_have_them_and_not_again_where_they_are_refused():
    with ModelServer([Reply("{}")]) as server:
        await model_at(server).ask(PLANNING)
    assert "tools" not in server.requests[0]
    no_tools = refused(message="Cannot use custom grammar constraints with tools.")
    with ModelServer([no_tools, Reply("{}"), Reply("{}")]) as server:
        model = model_at(server, "openai/gpt-4o")
        call, _ = await model.ask(PLANNING), await model.ask(PLANNING)
    assert call.attempts == ("openai/gpt-4o: bad_request -> no tools",)
    assert ["tools" in request for request in server.requests] == [True, False, False]


async def test_a_function_call_that_nobody_offered_is_no_reply():
    assert (await ask(called(("reply", HOLD)))).error.startswith("empty:tool_calls 5 tokens")
