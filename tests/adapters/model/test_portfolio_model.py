"""`llm:portfolio` over HTTP: one request for all symbols to a real OpenAI-compatible server."""

import asyncio
import json
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from model_server import Fault, ModelServer, Reply

from tasks.adapters.deciders import build
from tasks.adapters.files.prompts import load_prompt
from tasks.adapters.model.litellm_model import LiteLLMModel
from tasks.adapters.model.request_form import bounded
from tasks.core.decision.kinds import Means
from tasks.core.decision.llm.portfolio import SCHEMA, PortfolioDecider
from tasks.core.types.question import Question
from tasks.core.types.snapshot import Constraints, Snapshot, TimeframeView
from tasks.settings import load

BTC, ETH = "BTC/USDT:USDT", "ETH/USDT:USDT"
PRICES = {BTC: 64_000.0, ETH: 3_200.0}


def question(pair: str) -> Question:
    views = {tf: TimeframeView(close=PRICES[pair], atr=PRICES[pair] / 300) for tf in ("5m", "15m", "1h")}
    limits = Constraints(max_trade_risk_pct=0.75, max_total_risk_pct=1.5, allowed_actions=("HOLD", "OPEN_LONG"))
    at = datetime(2026, 1, 2, 3, 5, tzinfo=UTC)
    snapshot = Snapshot(pair=pair, as_of=at, reason_for_call=("TrendFlip(1h)",), timeframes=views, constraints=limits)
    return Question(snapshot=snapshot, equity=10_000.0, last_price=PRICES[pair], quantity=0.0)


def decide(server: ModelServer, *pairs: str):
    model = LiteLLMModel(("openai/test",), server.url, provider_timeout_s=60, deadline_s=120)
    decider = PortfolioDecider(model, {"portfolio": load_prompt("portfolio", "v001")}, Means())
    return asyncio.run(decider.decide([question(pair) for pair in pairs]))


def entry(instrument: str, action: str, target_qty: float | None) -> dict[str, object]:
    told = {"instrument": instrument, "action": action, "target_qty": target_qty, "stop_atr": 1.5, "tp_atr": 3}
    return told | {"confidence": 0.7, "rationale": "trend up"}


def test_one_request_carries_every_symbol_and_the_strict_schema():
    reply = json.dumps({"decisions": [entry(BTC, "buy", 0.025), entry(ETH, "noop", None)]})
    with ModelServer([Reply(reply)]) as server:
        btc, eth = decide(server, BTC, ETH)
    [request] = server.requests
    system, user = (message["content"] for message in request["messages"])
    assert "target minus current" in system
    assert user.count("### ") == 2
    assert (f"### {BTC}" in user, f"### {ETH}" in user, "Equity: 10000.00" in user) == (True, True, True)
    assert request["response_format"]["json_schema"] == {"name": "reply", "strict": True, "schema": bounded(SCHEMA)}
    assert request["max_tokens"] == 3000
    assert (btc.decision.action, btc.decision.size_pct, btc.rung) == ("OPEN_LONG", Decimal(16), "primary")
    assert (eth.decision.action, eth.rung, eth.flags) == ("HOLD", "primary", ("shared_call", "portfolio"))
    assert (btc.tokens, eth.tokens) == (120, 0)
    assert btc.calls[0].raw_reply == eth.calls[0].raw_reply == reply
    assert btc.calls[0].prompt.name == "portfolio"


def test_by_its_name_it_is_built_so_that_all_symbols_are_still_one_request(tmp_path):
    reply = json.dumps({"decisions": [entry(BTC, "buy", 0.025), entry(ETH, "buy", 0.5)]})
    with ModelServer([Reply(reply)]) as server:
        settings = load(home=tmp_path, model=("openai/test",), model_base_url=server.url)
        both = asyncio.run(build("llm:portfolio", settings).decide([question(BTC), question(ETH)]))
    assert len(server.requests) == 1
    assert [(d.decision.action, d.decision.size_pct) for d in both] == [("OPEN_LONG", 16)] * 2


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (Reply("I would rather not."), "no_json"),
        (Reply('{"decisions": [{"instrument": "BTC/USDT:USDT", "action": "buy", "tar', "length"), "truncated_json"),
        (Reply(None, refusal="no"), "refused"),
        (Fault("status", status=429), "rate_limited"),
        (Fault("cut"), ""),
    ],
)
def test_whatever_the_provider_does_both_symbols_hold(step, said):
    with ModelServer(default=step) as server:
        both = decide(server, BTC, ETH)
    assert [(d.decision.action, d.rung) for d in both] == [("HOLD", "hold")] * 2
    assert all(d.errors[-1].startswith(said) for d in both)
