"""The litellm adapter against a real HTTP server that misbehaves: reasons, failover, deadline, limits, secrets."""

import asyncio
import json
from decimal import Decimal

import pytest
from model_server import Fault, ModelServer, Reply, Step, completion

from tasks.adapters.model.litellm_model import BLOCK_VARIABLE, LiteLLMModel, litellm
from tasks.core.decision.actions import Unusable, parse_reply, wire_schema
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
    monkeypatch.setenv(BLOCK_VARIABLE, "1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


REQUEST = ModelRequest("single", PROMPT, MESSAGES, wire_schema())
SHORT = {"timeout_s": 3.0, "deadline_s": 5.0}  # only where running out of time is what is tested


def model_at(server: ModelServer, *models: str, timeout_s=60.0, deadline_s=120.0, max_bytes=200_000) -> LiteLLMModel:
    return LiteLLMModel(models or ("openai/test",), server.url, timeout_s, deadline_s, max_bytes)


async def ask(*script: Step, models: tuple[str, ...] = ("openai/test",), **limits) -> ModelCall:
    with ModelServer(script) as server:
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
    assert request["response_format"]["json_schema"]["schema"] == wire_schema()
    assert request["response_format"]["json_schema"]["strict"] is True
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
    call = await ask(fault, **(SHORT if unending else {}))
    assert (call.error, call.attempts) == (error, (f"openai/test: {error}",))
    assert kept in call.raw_reply
    assert len(call.raw_reply) <= 200_000
    assert "\x00" not in call.raw_reply


async def test_a_server_that_is_not_there_is_unavailable():
    with ModelServer() as server:
        model = model_at(server)
    assert (await model.ask(REQUEST)).error == "unavailable"


async def test_when_the_request_itself_is_refused_it_is_sent_once_more_without_options():
    with ModelServer([Fault("status", status=400), Reply(HOLD)]) as server:
        call = await model_at(server).ask(REQUEST)
    assert (call.raw_reply, call.attempts) == (HOLD, ())
    assert not {"response_format", "temperature", "seed"} & set(server.requests[1])
    assert (await ask(Fault("status", status=400), Fault("status", status=400))).error == "bad_request"


async def test_nothing_is_retried_behind_our_back():
    with ModelServer(default=Fault("status", status=500)) as server:
        await model_at(server).ask(REQUEST)
    assert len(server.requests) == 1


@pytest.mark.parametrize("fault", [Fault("status", status=500), Fault("hang"), Fault("drip"), Reply("")])
async def test_when_one_provider_fails_the_next_one_answers_and_the_failure_is_kept(fault):
    limits = {"timeout_s": 5.0} if isinstance(fault, Fault) and fault.kind != "status" else {}
    call = await ask(fault, Reply(HOLD), models=("openai/a", "anthropic/b"), **limits)
    assert (call.raw_reply, call.error, call.model) == (HOLD, "", "anthropic/b")
    assert len(call.attempts) == 1
    assert call.attempts[0].startswith("openai/a: ")
    first, second = call.tried()
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
