"""The state and action spaces of the RL dataset: a named, versioned spec, the same for the export and for a policy.

Each of `COMPONENTS` is tanh((x - centre) / scale) of a number of the snapshot; unknown is 0, with its mask set.
Names and numbers are the spec `SPEC`, `SPEC_SHA256` its hash: data and models of another spec are refused.
"""

import hashlib
import json
import math
from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.core.decision import memory
from tasks.core.types.decision import ACTIONS, Decision
from tasks.core.types.snapshot import Snapshot

SPEC = "state-v1"
_UNIT, _Z, _ATR, _BARS = (0, 1), (0, 2), (0, 5), (0, 96)
COMPONENTS: dict[str, tuple[float, float]] = memory.COMPONENTS | {
    "5m.delta20": (0, 0.3), "5m.vwap_z": _Z, "5m.range_ratio": _UNIT, "15m.rsi_slope": (0, 5), "15m.macd_cross": _UNIT,
    "15m.obv_dir": _UNIT, "15m.swing.to_last_high_atr": _ATR, "15m.swing.to_last_low_atr": _ATR,
    "1h.vwap_z": _Z, "1h.rsi_slope": (0, 5), "4h.price_z20": _Z, "1d.price_z20": _Z, "1d.cloud_atr": _ATR,
    "htf_anchors.dist_to_prev_week_high_atr": _ATR, "htf_anchors.dist_to_prev_week_low_atr": _ATR,
    "htf_anchors.daily_open_z": _Z, "htf_anchors.weekly_open_z": _Z, "htf_anchors.rolling_vwap_1d_z": _Z,
    "orderbook.imbalance": (0, 0.5), "orderbook.spread_bps": (0, 5),
    "position.size_pct": (0, 50), "position.age_bars_5m": _BARS, "position.stop_atr": _ATR, "position.tp_atr": _ATR,
    "risk.daily_pnl_pct": _Z, "risk.max_drawdown_today_pct": _Z,
    "confluence.alignment": _UNIT, "confluence.momentum": _UNIT, "confluence.volume": _UNIT, "confluence.vwap": _UNIT,
    "confluence.book": _UNIT,
}  # fmt: skip
ACTION_IDS = {action: number for number, action in enumerate(ACTIONS)}
Row = dict[str, Any]


def spec_document() -> dict[str, object]:
    """Return the spec in full: what one must know to compute the same state elsewhere."""
    return {
        "name": SPEC,
        "transform": "round(tanh((x - centre) / scale), 4); unknown: 0 and its mask 1; side: flat 0, long 1, short -1",
        "features": [{"name": n, "centre": float(c), "scale": float(s)} for n, (c, s) in COMPONENTS.items()],
        "actions": list(ACTIONS),
    }


SPEC_SHA256 = hashlib.sha256(json.dumps(spec_document(), separators=(",", ":")).encode()).hexdigest()


def state(snapshot: Snapshot) -> tuple[list[float], list[bool]]:
    """Return the state's values and, for each, whether it is unknown."""
    values = [_component(snapshot, *each) for each in _PLAN]
    return [0.0 if value is None else value for value in values], [value is None for value in values]


_PLAN = [(*name.partition(".")[::2], *numbers) for name, numbers in COMPONENTS.items()]


def _component(snapshot: Snapshot, part: str, path: str, centre: float, scale: float) -> float | None:
    owner: object = snapshot.timeframes.get(part) or getattr(snapshot, part, None)
    if owner is None:
        return None
    value = attrgetter(path)(owner)
    value = memory.SIDES.get(value, value)
    return round(math.tanh((value - centre) / scale), 4) if isinstance(value, int | float) else None


def policy_input(values: npt.ArrayLike, unknown: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Return what a policy reads: the values, then the mask of the unknown, (rows, 2 x features)."""
    parts = (np.atleast_2d(np.asarray(part, dtype=np.float32)) for part in (values, unknown))
    return np.concatenate(tuple(parts), axis=1)


def allowed_mask(snapshot: Snapshot) -> list[bool]:
    """Return, for each of ACTIONS, whether it was open; doing nothing always is."""
    return [action == "HOLD" or action in snapshot.constraints.allowed_actions for action in ACTIONS]


def parameters(decision: Decision) -> Row:
    """Return an action's id, name and numbers as columns; what the action does not have is null."""
    numbers = {name: getattr(decision, name, None) for name in ("size_pct", "stop_atr", "tp_atr", "minutes")}
    entry, to = getattr(decision, "entry", None), getattr(decision, "to", None)
    numbers |= {"offset_bps": entry.offset_bps if entry else None, "stop_to_atr": to.x if to else None}
    return {
        "action_id": ACTION_IDS[decision.action],
        "action": decision.action,
        **{name: None if value is None else float(value) for name, value in numbers.items()},
        "entry_type": entry.type if entry else None,
        "stop_to": to.kind if to else None,
        "followups": list(getattr(decision, "followups", ())),
    }
