"""A moment of the market to vary: flat, every number of its vector known."""

from datetime import UTC, datetime

from tasks.core.types.snapshot import Confluence, Constraints, HtfAnchors, PositionView, Snapshot, TimeframeView

AT = datetime(2026, 1, 2, 3, 5, tzinfo=UTC)
LIMITS = Constraints(max_trade_risk_pct=0.75, max_total_risk_pct=1.5, allowed_actions=("HOLD",))


def moment(rsi: float | None = 50.0, side: str = "flat", **fields) -> Snapshot:
    view = TimeframeView(rsi=rsi, price_z20=0.5, vwap_z=1.0, atr_pctile=80.0, range_ratio=1.0, vol_z20=0.1,
                         cloud_atr=2.0, delta20=0.1)  # fmt: skip
    views = dict.fromkeys(("5m", "15m", "1h", "4h", "1d"), view)
    return Snapshot(
        pair="BTC/USDT:USDT", as_of=AT, timeframes=views, constraints=LIMITS, position=PositionView(side=side),
        htf_anchors=HtfAnchors(dist_to_prev_day_high_atr=3, dist_to_prev_day_low_atr=-2, session_vwap_z=0.3),
        confluence=Confluence(score=3, direction=-1), **fields,
    )  # fmt: skip
