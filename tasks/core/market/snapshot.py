"""The snapshot of a market at a moment: the Snapshot contract, rounded, and its JSON.

Distances are level - close: positive = the level is above the price. The z of an anchor is close - level: positive
= the price is above it. Unknown is None, never 0.
"""

import json
import math
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache

from tasks.core.market import confluence
from tasks.core.market.market import Market
from tasks.core.market.moments import significant
from tasks.core.types import (
    AnyDto,
    Constraints,
    OrderBookView,
    PositionView,
    Reason,
    RiskView,
    Snapshot,
    Texts,
    TradeDigest,
    aware_utc,
)

MAX_BYTES = 6144
REASON_BYTES = 480


def build(
    market: Market,
    as_of: datetime,
    *,
    constraints: Constraints,
    reasons: Sequence[Reason] = (),
    book: OrderBookView = OrderBookView(),
    position: PositionView = PositionView(),
    risk: RiskView = RiskView(),
    digest: TradeDigest | None = None,
) -> Snapshot:
    """Build the snapshot of `market` at as_of: rounded to 6 significant digits, unknown is None."""
    moment = market.moment(as_of)
    book = _rounded(book)
    return Snapshot.trusted(
        pair=market.symbol,
        as_of=aware_utc(as_of),
        reason_for_call=_texts(reasons),
        timeframes=moment.timeframes,
        htf_anchors=moment.anchors,
        orderbook=book,
        position=_rounded(position),
        risk=_rounded(risk),
        constraints=constraints,
        confluence=confluence.confluence(moment.votes, book.imbalance),
        digest=_rounded(digest or TradeDigest()),
    )


def _texts(reasons: Sequence[Reason]) -> Texts:
    """List the reasons, newest last, within their share of the snapshot's bytes: the oldest are left out first.

    The record keeps them all; more than a dozen at once happen only after a long silence.
    """
    texts, room = [], REASON_BYTES
    for text in map(str, reversed(reasons)):
        size = len(_json(text).encode()) + 1
        if size <= room:
            texts.append(text)
            room -= size
    return tuple(reversed(texts))


@lru_cache(maxsize=64)  # a digest and a flat position stay what they are for many closes
def _rounded(view: AnyDto) -> AnyDto:
    return type(view).trusted(**{k: significant(v) if isinstance(v, float) else v for k, v in vars(view).items()})


def to_json(snapshot: Snapshot) -> str:
    """Encode as compact JSON, at most MAX_BYTES.

    The 1m view goes without swings and bars, and goes altogether where the numbers of the others are so long that
    it does not fit: without it the limit holds whatever they are (two-digit exponents).
    """
    document = snapshot.model_dump(mode="json")
    for part in ("swing", "last3"):
        document["timeframes"].get("1m", {}).pop(part, None)
    text = _json(document)
    if len(text.encode()) > MAX_BYTES and document["timeframes"].pop("1m", None):
        return _json(document)
    return text


def _json(value: object) -> str:
    """Write one value with its numbers as short as they go: 25811 for 25811.0, 1.2e+15 for 1200000000000000.0."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{_json(key)}:{_json(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_json, value)) + "]"
    if isinstance(value, float) and math.isfinite(value):
        exact, short = repr(value).removesuffix(".0"), f"{value:.6g}"
        return short if len(short) < len(exact) and float(short) == value else exact
    return "null" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)
