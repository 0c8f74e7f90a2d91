"""The recorded replies' openings of BTC and ETH, put through parser and guard on the market and account they were for.

Snapshots are rebuilt from candles at the close before each document; the account is what its prompt says. Their
stops and targets are prices and become distances in the ATR of that moment, negative on the wrong side. What the
prompts do not say stays unknown: the stops of open positions (a position without one counts with all it is worth),
and correlations with symbols there are no candles of (they count as close).
"""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from typing import NamedTuple

import real_replies as replies
from instrument_cases import linear
from shared_data import SHARED

from tasks.adapters.files.candles import read_candles
from tasks.core.decision.actions import Unusable, parse_reply
from tasks.core.market.market import Market
from tasks.core.trading.guard import track_record
from tasks.core.trading.judge import judged
from tasks.core.trading.question import question
from tasks.core.types import exact
from tasks.core.types.bars import floor_time
from tasks.core.types.decision import Answer, Decision
from tasks.core.types.limits import Costs, Limits
from tasks.core.types.orders import OrderIntent
from tasks.core.types.portfolio import AccountState, HeldPosition
from tasks.core.types.snapshot import Snapshot
from tasks.core.types.strategy import Strategy
from tasks.core.types.verdict import Verdict

CANDLES = "BTC-USDT-PERP_5m_binanceusdm_2024-12_2026-02.parquet"
FOLDER = SHARED / "ohlcv"
SYMBOLS = ("BTC/USDT:USDT", "ETH/USDT:USDT")
GRIDS = dict(zip(SYMBOLS, (("0.1", "0.001"), ("0.01", "0.01")), strict=True))
LIMITS, COSTS = Limits(), Costs()
POSITION = re.compile(
    r"\d+\. (\w+) (LONG|SHORT) \| Entry ([0-9.]+) Current ([0-9.]+) .*?Leverage (\d+)x \| Margin ([0-9.]+)"
)
HISTORY = timedelta(days=60)


class RealOpen(NamedTuple):
    """One opening: what was asked, and either why it was no decision or what the guard said."""

    reply: dict[str, object]
    refused: str
    decision: Decision | None = None
    snapshot: Snapshot | None = None
    state: AccountState | None = None
    verdict: Verdict | None = None
    intents: tuple[OrderIntent, ...] = ()


def there() -> bool:
    return replies.FILE.exists() and (FOLDER / CANDLES).exists()


@cache
def markets() -> dict[str, Market]:
    since, until = (min(times()) - HISTORY, max(times()))
    bars = {s: read_candles(FOLDER / CANDLES.replace("BTC", s[:3])).loc[since:until] for s in SYMBOLS}
    return {symbol: Market.from_base(symbol, frame) for symbol, frame in bars.items()}


def times() -> list[datetime]:
    return [at(document) for _, document in replies.entries()]


def at(document: dict) -> datetime:
    """Return the document's time; some carry Go's monotonic clock, and digits beyond the microsecond."""
    day, clock, zone = re.match(r"(\S{10})[ T]([0-9:]{8})\S*?\s*(\+\d\d:?\d\d)", document["timestamp"]).groups()
    return datetime.fromisoformat(f"{day}T{clock}{zone[:3]}:{zone[-2:]}").astimezone(UTC)


def stated(document: dict, symbol: str, as_of: datetime, flat: bool) -> AccountState:
    """Return the account the prompt describes; flat: the same equity with nothing open."""
    prompt, market = document["input_prompt"], markets()[symbol]
    balance = re.search(r"Equity ([0-9.]+) \| Balance ([0-9.]+)", prompt)
    equity = Decimal(document["account_total_balance"])
    held = () if flat else tuple(_positions(prompt))
    tick, step = GRIDS[symbol]
    compared = {symbol, *(p.symbol for p in held)}.intersection(SYMBOLS)
    closes = {each: markets()[each].bars["5m"]["close"] for each in compared}
    return AccountState(
        equity=equity, available=min(Decimal(balance[2]), equity) if balance and not flat else None, positions=held,
        instrument=linear(symbol, tick=Decimal(tick), step=Decimal(step)),
        last_price=exact(market.value("5m", "close", as_of)),
        correlations=track_record.correlations(symbol, closes, as_of),
    )  # fmt: skip


def _positions(prompt: str) -> Iterator[HeldPosition]:
    for name, side, entry, current, leverage, margin in POSITION.findall(prompt):
        mark, worth = Decimal(current), Decimal(margin) * Decimal(leverage)
        if worth and mark:
            yield HeldPosition(
                symbol=replies.our_symbol(name), side=side.lower(), quantity=worth / mark, avg_price=Decimal(entry),
                mark_price=mark,
            )  # fmt: skip


def opens(flat: bool, sided: bool = True) -> list[RealOpen]:
    """Judge every opening of a symbol that has candles. Not sided: the distance alone counts, whichever side."""
    mine = [(e, d) for e, d in replies.entries() if e["action"].startswith("open")]
    return [_judged(e, d, flat, sided) for e, d in mine if replies.our_symbol(e["symbol"]) in SYMBOLS]


def _judged(entry: dict, document: dict, flat: bool, sided: bool) -> RealOpen:
    symbol, as_of = replies.our_symbol(entry["symbol"]), floor_time(at(document), "5m")
    state, market = stated(document, symbol, as_of, flat), markets()[symbol]
    reply = replies.translated(entry, document)
    way = 1 if entry["action"] == "open_long" else -1
    for ours, theirs, side in (("stop_atr", "stop_loss", -way), ("tp_atr", "take_profit", way)):
        if theirs in entry:
            distance = side * (Decimal(entry[theirs]) - state.last_price) / exact(market.value("15m", "atr", as_of))
            reply[ours] = round(distance if sided else abs(distance), 6)
    decision = parse_reply(json.dumps(reply, default=float), symbol)
    if isinstance(decision, Unusable):
        return RealOpen(reply, decision.reason)
    strategy = Strategy(name="real", symbols=SYMBOLS, limits=LIMITS, costs=COSTS)
    asked = question(strategy, market, state, None, None, None, (), as_of)
    answer = Answer(decision=decision, source="recorded", rung="primary")
    _, verdict, intents = judged(asked, answer, state, strategy, as_of)
    return RealOpen(reply, "", decision, asked.snapshot, state, verdict, intents)
