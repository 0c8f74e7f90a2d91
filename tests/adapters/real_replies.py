"""What language models really answered another trading program, and its entries as our replies.

Their schema is not ours (a list for all symbols, absolute prices, confidence 0 to 100): single entries are translated
field by field with nothing repaired.
"""

import gzip
import json
import re
from collections.abc import Iterator
from decimal import Decimal
from functools import cache

from shared_data import SHARED

FILE = SHARED / "llm/decisions.jsonl.gz"
ATR_PCT = Decimal("0.5")  # assumed, of the price
OURS = {
    "open_long": "OPEN_LONG", "open_short": "OPEN_SHORT", "hold": "HOLD", "wait": "HOLD", "close_long": "CLOSE_ALL",
    "close_short": "CLOSE_ALL",
}  # fmt: skip  # what they call otherwise goes in as it is
PRICE = re.compile(r"current_price = ([0-9.]+)")
HEAD_PRICE = re.compile(r"\*\*BTC\*\*: ([0-9.]+)")


@cache
def documents() -> tuple[dict, ...]:
    with gzip.open(FILE, "rt", encoding="utf-8") as lines:
        return tuple(json.loads(line, parse_float=Decimal) for line in lines)


def our_symbol(theirs: str) -> str:
    return re.sub(r"^(\w+)USDT$", r"\1/USDT:USDT", theirs)


def price_of(symbol: str, prompt: str) -> Decimal | None:
    """Return the price their model was shown for `symbol`: the first after its name, and BTC's in the head line."""
    named = re.search(rf"\b{symbol}\b", prompt)
    found = PRICE.search(prompt, named.end()) if named else None
    found = found or (HEAD_PRICE.search(prompt) if symbol == "BTCUSDT" else None)
    return Decimal(found[1]) if found else None


def translated(entry: dict, document: dict, sided: bool = False) -> dict[str, object]:
    """Return one entry as our reply; what cannot be worked out is left out. Sided: a level on the wrong side of the
    price is a negative distance; else the distance alone counts, which makes sense of entries that had none."""
    reply: dict[str, object] = {"symbol": our_symbol(entry["symbol"]), "reasoning": entry["reasoning"]}
    reply["action"] = OURS.get(entry["action"], entry["action"])
    if "confidence" in entry:
        reply["confidence"] = Decimal(entry["confidence"]) / 100
    if not entry["action"].startswith("open"):
        return reply
    balance, price = Decimal(document["account_total_balance"]), price_of(entry["symbol"], document["input_prompt"])
    if "position_size_usd" in entry and balance:
        reply["size_pct"] = round(Decimal(entry["position_size_usd"]) / balance * 100, 6)
    way = 1 if entry["action"] == "open_long" else -1
    for ours, theirs, side in (("stop_atr", "stop_loss", -way), ("tp_atr", "take_profit", way)):
        if theirs in entry and price:
            distance = side * (Decimal(entry[theirs]) - price) / (price * ATR_PCT / 100)
            reply[ours] = round(distance if sided else abs(distance), 6)
    return reply


def entries() -> Iterator[tuple[dict, dict]]:
    for document in documents():
        if document["decision_json"]:
            yield from ((entry, document) for entry in json.loads(document["decision_json"], parse_float=Decimal))
