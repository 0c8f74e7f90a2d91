"""Bybit's answers: HTTP 200 with a retCode, also when it refuses."""

import json
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from starlette.responses import JSONResponse

Json = dict[str, Any]


class BybitError(Exception):
    """The request is refused with this code and message."""


OK = BybitError(0, "OK")


class BybitAnswer(JSONResponse):
    """The envelope; numbers and times in a result become text, as on the wire."""

    def __init__(self, outcome: BybitError, now_ms: int, result: object = None, status: int = 200) -> None:
        code, message = outcome.args
        body = {"retCode": code, "retMsg": message, "result": result or {}, "retExtInfo": {}, "time": now_ms}
        super().__init__(body, status)

    def render(self, content: object) -> bytes:
        return json.dumps(content, default=text, separators=(",", ":")).encode()


def text(value: Decimal | datetime | None) -> str:
    """Return a number without exponent, a time in ms, nothing as ""."""
    if isinstance(value, datetime):
        return str(round(value.timestamp() * 1000))
    return "" if value is None else f"{value:f}"


def bad_parameter(message: str) -> BybitError:
    return BybitError(10001, message)


# what the fill engine says -> what Bybit says, on perpetuals, and on spot where that is something else
REFUSALS = json.loads(Path(__file__).with_name("refusals.json").read_text(encoding="utf-8"))


def refusal(reason: str, category: str) -> BybitError:
    return BybitError(*(REFUSALS["linear"] | REFUSALS[category])[reason])
