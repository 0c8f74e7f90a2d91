"""Five parts that each vote -1, 0 or +1; score = |sum|, direction = its sign."""

from collections.abc import Mapping

import numpy as np
from numpy import ndarray

from tasks.core.types import Confluence

VWAP_Z = 0.5  # nearer to VWAP than this is no opinion
IMBALANCE = 0.2  # as a share of the top levels


def parts(c: Mapping[str, ndarray]) -> dict[str, ndarray]:
    """Compute the four parts that bars alone give, per bar; NaN where unknown."""
    side = np.sign(c["rsi"] - 50)
    agree = np.where(side == np.sign(c["macd_hist"]), side, 0.0)
    return {
        "alignment": np.sign(c["sma50"] - c["sma200"]),
        "momentum": np.where(np.isfinite(c["rsi"] + c["macd_hist"]), agree, np.nan),
        "volume": c["obv_dir"],
        "vwap": np.where(np.isfinite(c["vwap_z"]), np.sign(c["vwap_z"]) * (np.abs(c["vwap_z"]) >= VWAP_Z), np.nan),
    }


def signed(features: Mapping[str, ndarray]) -> ndarray:
    """Compute the signed score of the four bar parts; NaN until all of them are known."""
    return np.sum(list(parts(features).values()), axis=0)


def confluence(row: Mapping[str, float | None], imbalance: float | None) -> Confluence:
    """Combine one bar's four parts with the book's vote; an unknown part is null and votes nothing."""
    votes = {name: None if value is None else int(value) for name, value in row.items()}
    votes["book"] = None if imbalance is None else int(np.sign(imbalance)) * (abs(imbalance) >= IMBALANCE)
    total = sum(vote or 0 for vote in votes.values())
    return Confluence.trusted(score=abs(total), direction=(total > 0) - (total < 0), **votes)
