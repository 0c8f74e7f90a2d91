"""What the model server answers as a panel and as a planner."""

import json
import re
from typing import Any

from model_server import Reply

ANALYSIS = {"signal": "bullish", "confidence": 0.8, "reasoning": "up", "key_factors": ["trend"], "risk_level": "low"}


def role(request: Any) -> str:
    """Tell the role of the panel by the reply it is asked for."""
    asked = json.dumps(request.get("response_format", {}))
    return next((name for name in ("approved", "trend_phase", "risk_reward", "risk_level") if name in asked), "")


def panel(request: Any) -> Reply:
    text = request["messages"][-1]["content"]
    match role(request):
        case "approved":
            content = {"approved": True, "adjusted_size": 5, "risk_score": 0.3, "warnings": ["thin"],
                       "reasoning": "small", "key_factors": ["size"], "confidence": 0.8}  # fmt: skip
        case "trend_phase":
            low = float(re.search(r"swing_low[ =:]+([\d.]+)", text)[1])
            stop = round(low * 0.975, 1)
            target = round(low + 2 * (low - stop), 1)
            content = {"signal": "long", "trend_phase": "ESTABLISHED", "stop": stop, "target": target, "risk_reward": 2,
                       "size_pct": 20, "confidence": 0.7, "reasoning": "with the trend",
                       "key_factors": ["EMA50 above EMA200"]}  # fmt: skip
        case "risk_reward":
            content = {"signal": "none", "stop": None, "target": None, "risk_reward": None, "size_pct": None,
                       "confidence": 0.1, "reasoning": "trending", "key_factors": ["ADX"]}  # fmt: skip
        case _:
            content = ANALYSIS
    return Reply(json.dumps(content))


def plan(*requests: dict[str, object], done: bool = False) -> Reply:
    return Reply("I need more.\n" + json.dumps({"reasoning": "to see", "requests": requests, "done": done}))


def asks(tool: str, symbol: str = "BTC/USDT:USDT", **parameters: object) -> dict[str, object]:
    nothing = dict.fromkeys(("venue", "timeframe", "limit", "until"))
    return {"tool": tool, "symbol": symbol, **nothing, **parameters}
