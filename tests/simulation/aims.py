"""What two worlds in five aim at: steps that others seldom come to, and what brings a process there.

By the seed's last digits, so that they share their aims evenly.
"""

from collections.abc import Mapping
from typing import NamedTuple

RATE = 0.5  # how often the events of an aim happen at a visit
DEADLY = 0.9  # how often a process dies at one of its steps
GAPS_S = {900: 3.0, 3600: 3.0, 4 * 3600: 1.0}  # from a visit to the next, by weight


class Aim(NamedTuple):
    """steps: where processes die. events: what leads there. says: the answers for what is held. rests: entries wait.

    kills: how often a process dies at any other step, by weight. days: so long such a world lives at most.
    """

    steps: tuple[str, ...] = ()
    events: tuple[str, ...] = ()
    says: Mapping[str, float] = {}
    rests: bool = False
    kills: Mapping[float, float] = {0.0: 3.0, 0.02: 2.0, 0.1: 1.0}
    days: float = 2.5


NONE = Aim(kills={}, days=float("inf"))
AIMS = {
    0: Aim(("adopted",), ("restored",), {"ADD": 3.0, "CLOSE_ALL": 1.0}),
    4: Aim(("before_cancel", "cancelled"), rests=True, says={"CLOSE_ALL": 3.0, "HOLD": 1.0}),
    5: Aim(("protection_noted", "executed", "sent"), says={"MOVE_STOP": 3.0, "SET_TP": 3.0, "CLOSE_ALL": 0.5}),
    7: Aim(("followup_sent", "followup_noted", "protect_intent_saved"), says={"HOLD": 4.0, "CLOSE_ALL": 1.0}),
    8: Aim(("before_stop", "stop_set"), ("stop taken away",), {"HOLD": 3.0, "ADD": 1.0}),
    14: Aim(("order_saved",), ("symbols changed",)),
    15: Aim(("protection_noted",), ("venue away",), {"MOVE_STOP": 3.0, "SET_TP": 3.0}),
    17: Aim(("followup_sent", "followup_noted"), ("limits changed", "liquidated"), {"HOLD": 4.0, "CLOSE_ALL": 1.0}),
}


def of(seed: int) -> Aim:
    return AIMS.get(seed % 20, NONE)
