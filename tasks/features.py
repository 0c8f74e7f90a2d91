"""Stored candles -> markets with features."""

from datetime import datetime

from tasks.connections import log, store, venue
from tasks.core.market.bars import WORKING_TIMEFRAMES, Frames
from tasks.core.market.market import Market
from tasks.core.types import EventThresholds, Texts
from tasks.stage import apart, stage

TOGETHER = 25  # symbols whose features are in memory at once


@stage
def load_candles(symbols: Texts, as_of: datetime, limit: int) -> dict[str, Frames]:
    """Load the last `limit` bars that had closed at as_of, per symbol and timeframe."""
    kept, name = store(), venue().name
    series = {tf: kept.candles.load_frames(name, symbols, tf, as_of, limit) for tf in WORKING_TIMEFRAMES}
    return {symbol: {tf: series[tf][symbol] for tf in WORKING_TIMEFRAMES} for symbol in symbols}


@stage
def build_markets(frames: dict[str, Frames], thresholds: EventThresholds) -> dict[str, Market | Exception]:
    """Compute features, anchors and events of each symbol."""
    return apart(lambda symbol, its: build_market(symbol, its, thresholds), frames)


def build_market(symbol: str, frames: Frames, thresholds: EventThresholds) -> Market:
    """Compute features, anchors and events of one symbol."""
    market = Market(symbol, frames, thresholds)
    rows = {tf: len(frame) for tf, frame in market.features.items()}
    log().info("features symbol=%s rows=%s events=%d", symbol, rows, len(market.events))
    return market
