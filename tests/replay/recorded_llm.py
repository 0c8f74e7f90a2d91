"""What language models really asked for, in November 2025, put through the cycle with the guard and without it.

`python -m tests.replay.recorded_llm` prints the table. One account takes the BTC and ETH openings of all recorded
traders, each at the first 5m close after it; their stops and targets are told by side in ATRs of the real candles, so
that one on the wrong side of the price is a negative distance, which the parser refuses. Without the guard means:
every limit as wide as the fill engine can carry, beyond what settings accept.
"""

import asyncio
import gzip
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory

from tasks.adapters.deciders import build
from tasks.adapters.files.candles import read_candles
from tasks.core.market.calendar import CalendarEvent, _next_close
from tasks.core.market.market import Market
from tasks.core.simulation.backtest import Backtest
from tasks.core.simulation.backtest_inputs import World
from tasks.core.types.limits import Limits
from tasks.core.types.record import CycleRecord
from tasks.settings import ROOT, settings
from tests.core.replayed import strategy

SHARED = Path(os.environ.get("QUARTERDECK_SHARED") or ROOT.parent / "shared") / "data"
REPLIES = SHARED / "llm/decisions.jsonl.gz"
CANDLES = {
    f"{base}/USDT:USDT": SHARED / f"ohlcv/{base}-USDT-PERP_5m_binanceusdm_2024-12_2026-02.parquet"
    for base in ("BTC", "ETH")
}
NO_GUARD = {
    "max_trade_risk_pct": Decimal(10_000), "max_total_risk_pct": Decimal(100_000), "max_symbol_pct": Decimal(100_000),
    "leverage": Decimal(100), "max_gross_pct": Decimal(100_000), "max_net_pct": Decimal(100_000), "max_positions": 100,
    "min_reward_risk": Decimal(0), "min_confidence": Decimal(0), "min_stop_atr": Decimal("0.0001"),
    "max_stop_pct": Decimal(100), "daily_loss_halt_pct": Decimal(100), "drawdown_halt_pct": Decimal(100),
    "opens_per_hour": 10_000, "opens_per_day": 10_000, "reentry_cooldown_min": 0, "max_correlation": 1.0,
    "target_atr_pct": Decimal(1000), "stack_min_r": Decimal(0), "chase_rsi": 100.0, "chase_z": 1000.0,
    "cool_off_losses": 10_000, "max_slippage_bps": Decimal(10_000), "liquidation_buffer_pct": Decimal(0),
    "kelly_min_outcomes": 1_000_000,
}  # fmt: skip
TIME = re.compile(r"([0-9-]{10})[ T]([0-9:]{8})[0-9.]* ?([+-]\d\d):?(\d\d)")


def openings() -> Iterator[tuple[datetime, dict, dict]]:
    """Yield (when, entry, document) of every BTC and ETH opening, oldest first."""
    found = []
    with gzip.open(REPLIES, "rt", encoding="utf-8") as lines:
        for document in map(json.loads, lines):
            day, clock, hours, minutes = TIME.match(document["timestamp"]).groups()
            at = datetime.fromisoformat(f"{day}T{clock}{hours}:{minutes}").astimezone(UTC)
            for entry in json.loads(document["decision_json"] or "[]", parse_float=Decimal):
                if entry["action"] in ("open_long", "open_short") and our_symbol(entry) in CANDLES:
                    found.append((at, entry, document))
    yield from sorted(found, key=lambda each: each[0])


def our_symbol(entry: dict) -> str:
    return re.sub(r"^(\w+)USDT$", r"\1/USDT:USDT", entry["symbol"])


def reply(entry: dict, document: dict, close: float, atr: float) -> str:
    """Return an entry in our words; what it did not say stays unsaid."""
    way = 1 if entry["action"] == "open_long" else -1
    told: dict[str, object] = {
        "symbol": our_symbol(entry), "action": "OPEN_LONG" if way > 0 else "OPEN_SHORT",
        "confidence": float(entry.get("confidence", 0)) / 100,
    }  # fmt: skip
    balance = float(document["account_total_balance"])
    if "position_size_usd" in entry and balance:
        told["size_pct"] = round(float(entry["position_size_usd"]) / balance * 100, 4)
    for ours, theirs, side in (("stop_atr", "stop_loss", -way), ("tp_atr", "take_profit", way)):
        if theirs in entry:
            told[ours] = round(side * (float(entry[theirs]) - close) / atr, 4)
    return json.dumps(told)


def adapt(markets: dict[str, Market], folder: Path) -> tuple[Path, tuple[CalendarEvent, ...]]:
    """Write the recording that `recorded:FILE` reads, and the times at which it must be asked."""
    lines: dict[tuple[str, datetime], str] = {}
    for at, entry, document in openings():
        symbol, as_of = our_symbol(entry), _next_close(at)
        market = markets[symbol]
        close, atr = market.value("5m", "close", as_of), market.value("15m", "atr", as_of)
        if close and atr and (symbol, as_of) not in lines:
            lines[symbol, as_of] = reply(entry, document, close, atr)
    path = folder / "replies.jsonl"
    rows = ({"as_of": at.isoformat(), "symbol": symbol, "reply": text} for (symbol, at), text in lines.items())
    path.write_text("\n".join(map(json.dumps, rows)))
    return path, tuple(CalendarEvent(at=at, title="recorded") for at in sorted({at for _, at in lines}))


def run(guarded: bool) -> dict[str, object]:
    """Replay the recording; returns what is compared."""
    bars = {symbol: read_candles(path).loc["2025-10-15":"2025-12-31"] for symbol, path in CANDLES.items()}
    markets = {symbol: Market.from_base(symbol, frame) for symbol, frame in bars.items()}
    with TemporaryDirectory() as folder:
        return compared(markets, *adapt(markets, Path(folder)), guarded)


def compared(
    markets: dict[str, Market], path: Path, calendar: tuple[CalendarEvent, ...], guarded: bool
) -> dict[str, object]:
    """Replay the replies in `path`, asked for at the times of `calendar`, with the guard or with none to speak of."""
    records: list[CycleRecord] = []
    limits = Limits() if guarded else Limits().model_copy(update=NO_GUARD)
    start = calendar[0].at - timedelta(hours=1)
    chosen, world = strategy(*sorted(markets), limits=limits), World(calendar=calendar, start=start)
    done = Backtest(markets, build(f"recorded:{path}", settings()), chosen, world, on_record=records.append)
    result = asyncio.run(done.run())
    answered = [record for record in records if record.decided.calls]
    summary = result.summary()
    return {
        "recorded": len(answered),
        "parsed": sum(not record.decided.errors for record in answered),
        "sent": sum(bool(record.intents) for record in answered),
        "trades": summary["trades"],
        "return_pct": round(summary["return_pct"], 2),
        "max_drawdown_pct": round(summary["max_drawdown_pct"], 2),
        "worst_trade": min((outcome.pnl for outcome in result.outcomes), default=Decimal(0)).quantize(Decimal("0.01")),
        "fees": summary["fees_quote"].quantize(Decimal("0.01")),
        "codes": Counter(code.value for record in answered for code in record.verdict.codes),
        "unusable": Counter(record.decided.errors[0].split(" ")[0] for record in answered if record.decided.errors),
        "records": answered,
    }  # fmt: skip


def main() -> None:
    """Print both sides."""
    if not REPLIES.exists():
        sys.exit(f"needs the recorded replies in {REPLIES}")
    with_guard, without = run(guarded=True), run(guarded=False)
    for key in with_guard:
        if key != "records":
            print(f"{key:<17} with guard {with_guard[key]!s:<60} without {without[key]}")


if __name__ == "__main__":
    main()
