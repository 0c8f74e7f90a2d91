"""Where a process may die: a name for every boundary between two steps of a cycle and of `protect`.

`reached` does nothing in service. A test puts a function into `hook`, which may kill the process at exactly that
point; a process of its own is told by QUARTERDECK_KILL_AT="step:n" to send itself SIGKILL when it comes to a step for
the n-th time, on the sandbox only.
"""

import os
import signal
from collections import Counter
from collections.abc import Callable

from tasks.core.errors import InputError
from tasks.settings import settings

KILL_AT = "QUARTERDECK_KILL_AT"
STEPS = (
    # one cycle, in its order
    "cycle_leased", "cycle_begun", "prepared", "decided", "guard_leased", "judged", "cycle_saved", "intents_saved",
    "guard_released", "lease_proven", "before_look_up", "before_send", "sent", "order_saved", "protection_noted",
    "intent_marked", "executed", "cycle_ended",
    # booking, in a cycle and in protect
    "fills_fetched", "fills_saved", "position_saved", "booked",
    # protect, in its order
    "protect_begun", "stops_watched", "before_stop", "stop_set", "before_cancel", "cancelled", "working_settled",
    "adopted", "compared", "protect_intent_saved", "followup_sent", "followup_noted", "cycles_ended", "protect_ended",
)  # fmt: skip

hook: Callable[[str], None] | None = None
_seen: Counter[str] = Counter()


def reached(step: str) -> None:
    """Mark that everything before `step` is done and nothing after it has begun."""
    if hook is not None:
        hook(step)
    wanted = os.environ.get(KILL_AT)
    if wanted and settings().profile == "sandbox":
        _die_at(wanted, step)


def _die_at(wanted: str, step: str) -> None:
    name, _, times = wanted.partition(":")
    if name not in STEPS or not (times or "1").isdigit():
        raise InputError(f"{KILL_AT}={wanted!r}: say STEP:N, the step one of {', '.join(STEPS)}")
    _seen[step] += 1
    if step == name and _seen[step] == int(times or "1"):
        os.kill(os.getpid(), signal.SIGKILL)
