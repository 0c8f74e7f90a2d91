"""Cycles on the sandbox of the fixture `exchange`: recorded replies in, records out, each run as a process would."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flows.protect import reconcile
from flows.trade import Request, run_cycles
from tasks import crash_points
from tasks.connections import venue
from tasks.core.types.record import CycleRecord

SYMBOL = "BTC/USDT:USDT"
START = datetime(2025, 3, 10, 12, 0, tzinfo=UTC)
OPEN = {
    "symbol": SYMBOL, "action": "OPEN_LONG", "size_pct": 20, "entry": {"type": "market"}, "stop_atr": 1.5,
    "tp_atr": 3, "confidence": 0.8, "comment": "a test opens", "followups": ["MOVE_STOP: breakeven on +1.0R"],
}  # fmt: skip
CLOSE = {"symbol": SYMBOL, "action": "CLOSE_ALL", "confidence": 0.9, "comment": "a test closes"}


def recorded(home: Path, *replies: tuple[datetime, object]) -> str:
    """Return the decider that gives these replies at their times."""
    lines = [
        json.dumps({"as_of": at.isoformat(), "symbol": SYMBOL, "reply": r if isinstance(r, str) else json.dumps(r)})
        for at, r in replies
    ]
    (home / "replies.jsonl").write_text("\n".join(lines))
    return f"recorded:{home / 'replies.jsonl'}"


async def run(decider: str, **options: object) -> CycleRecord:
    """Run one cycle for somebody who asks, and close the connections as a run does."""
    request = Request(symbols=(SYMBOL,), decider=decider, reason="a test asks", **options)
    try:
        return (await run_cycles(request))[0]
    finally:
        await venue().close()


async def protect_once() -> dict[str, object]:
    try:
        return await reconcile()
    finally:
        await venue().close()


async def killed_after_the_intents_were_written(home: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Leave a cycle as a process does that dies between writing its intents and sending them, its lease run out."""
    decider = recorded(home, (START, OPEN))
    with monkeypatch.context() as patch:
        patch.setattr(crash_points, "hook", die_at("before_look_up"))
        with pytest.raises(KeyboardInterrupt):
            await run(decider)
    return decider


def die_at(step: str) -> Callable[[str], None]:
    def die(reached: str) -> None:
        if reached == step:
            raise KeyboardInterrupt

    return die
