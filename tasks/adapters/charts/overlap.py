"""How far a policy and the behaviour that was logged overlap."""

import numpy as np
from numpy import ndarray

from tasks.adapters.charts import canvas
from tasks.adapters.charts.canvas import DOWN, INK, UP
from tasks.core.lab.ope import Overlap

BINS = 40


def picture(found: Overlap, weights: ndarray, least_ess: float) -> bytes:
    """Draw how the episodes' weights are spread, beside how many effective ones are left after each step.

    weights: of whole episodes. A wide spread, or few effective episodes: the answer would hang on a few of them.
    """
    figure = canvas.figure(1000, 340)
    spread, left = figure.subplots(1, 2)
    some = weights[weights > 0]
    none = 1 - len(some) / max(1, len(weights))
    if len(some):
        spread.hist(np.log10(some), bins=BINS, color=UP)
    spread.axvline(0, color=INK, linewidth=0.8, linestyle=":")
    spread.set(xlabel="weight of an episode, log10 (0: as likely under both)", ylabel="episodes")
    spread.set_title(f"{none:.0%} have none: the policy would not have gone that way", fontsize=9, loc="left")
    steps = np.arange(1, len(found.by_step) + 1)
    left.plot(steps, found.by_step, "o-", color=UP, linewidth=1.2)
    left.axhline(least_ess, color=DOWN, linewidth=1.0, linestyle="--")
    left.set(xlabel="decisions into an episode", ylabel="effective episodes", ylim=(0, None), xticks=steps)
    title = f"{found.effective_n:.0f} of {found.episodes} at the end; below {least_ess:g} there is no answer"
    left.set_title(title, fontsize=9, loc="left")
    return canvas.png(figure)
