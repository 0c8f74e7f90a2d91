"""great_expectations as the warm daemon imports it: without its plots and Amazon's client, which no run of ours uses.

They are 25 MB and a second of its start. Who imports them later gets them.
"""

import sys
from types import ModuleType

# it asks whether boto3 is there, and takes altair for granted
_ABSENT: dict[str, ModuleType | None] = {"altair": ModuleType("altair"), "boto3": None}
_absent = {name: stand_in for name, stand_in in _ABSENT.items() if name not in sys.modules}
sys.modules |= _absent  # type: ignore[arg-type]  # None is Python's own way to say that there is none
import great_expectations  # noqa: E402, F401

for _name in _absent:
    del sys.modules[_name]
