"""`quarterdeck mcp` as an MCP client sees it: a process of its own, spoken to over stdio with the official SDK."""

import json
import os
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import numpy as np
import pytest
from mcp import Client, StdioServerParameters

from tasks.connections import store
from tasks.core.decision.llm.tools import TOOLS
from tasks.core.market.bars import bar_frame
from tasks.core.types.portfolio import Position
from tasks.core.types.record import Outcome
from tasks.settings import ROOT

BTC = "BTC/USDT:USDT"
AT = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)

pytestmark = pytest.mark.slow


def save_history() -> None:
    """Keep 300 hours of candles and one closed trade."""
    hours = np.array([int((AT - timedelta(hours=n)).timestamp() * 1000) for n in range(300, 0, -1)], dtype="int64")
    values = {name: np.arange(300.0, 0.0, -1.0) for name in ("open", "high", "low", "close", "volume")}
    store().candles.save("bybit-sandbox", {(BTC, "1h"): bar_frame(hours, values)}, AT)
    closed = AT - timedelta(hours=2)
    store().positions.save(
        Position(
            position_id="p1", strategy="default", cycle_id="c1", symbol=BTC, side="long", quantity=Decimal(0),
            entry_quantity=Decimal(1), avg_price=Decimal(100), opened_at=closed, closed_at=closed,
        )
    )  # fmt: skip
    store().outcomes.save(
        Outcome(
            cycle_id="c1", position_id="p1", symbol=BTC, entry_price=Decimal(100), exit_price=Decimal(110),
            pnl=Decimal("9.5"), pnl_pct=Decimal("9.5"), fees=Decimal("0.5"), hold_seconds=60, closed_at=closed,
        )
    )  # fmt: skip


def server() -> Client:
    """Start the command on the store of this test; no venue answers."""
    save_history()
    env = {name: value for name, value in os.environ.items() if name.startswith(("QUARTERDECK_", "LITELLM_"))}
    env |= {"QUARTERDECK_SYMBOLS": BTC, "QUARTERDECK_SANDBOX_URL": "http://127.0.0.1:1"}
    env |= {"QUARTERDECK_TOOL_RATES__TRADES": "0"}
    command = StdioServerParameters(
        command=sys.executable, args=["-m", "deployments.cli", "-v", "mcp"], env=env, cwd=ROOT
    )
    return Client(command, read_timeout_seconds=60)


async def told(client: Client, tool: str, **parameters: object) -> tuple[bool, dict]:
    result = await client.call_tool(tool, {"symbol": BTC, **parameters})
    return bool(result.is_error), json.loads(result.content[0].text)


async def test_an_mcp_client_gets_the_same_tools_under_the_same_limits_and_writes_nothing(home):
    async with server() as client:
        before = store().counts()
        listed = {tool.name: tool for tool in (await client.list_tools()).tools}
        failed, candles = await told(client, "candles", timeframe="1h", limit=9999)
        digest = await told(client, "digest")
        refused = await told(client, "digest", symbol="DOGE/USDT:USDT")
        dropped = await told(client, "trades")
        down = await told(client, "order_book")
        assert store().counts() == before
    assert set(listed) == set(TOOLS)
    assert all(tool.annotations.read_only_hint for tool in listed.values())
    assert listed["candles"].input_schema["additionalProperties"] is False
    assert not failed
    assert candles["flags"] == ["clamped:candles", "truncated"]
    assert candles["response"]["rows"][0] == ["2026-01-02T11:00:00Z", 1.0, 1.0, 1.0, 1.0, 1.0]
    assert len(json.dumps(candles["response"], separators=(",", ":"))) <= 4000
    assert (digest[0], digest[1]["response"]["trade_count"], digest[1]["response"]["realized_pnl"]) == (False, 1, 9.5)
    assert refused[0]
    assert refused[1]["error"] == f"symbol 'DOGE/USDT:USDT' is not allowed; allowed: {BTC}"
    assert (dropped[0], dropped[1]["flags"]) == (True, ["dropped:trades"])
    assert down[0]
    assert "gave no usable answer" in down[1]["error"]
