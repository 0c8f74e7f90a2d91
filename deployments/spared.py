"""What Prefect does for nothing, kept from it before it is imported."""

import sys
import zoneinfo
from functools import cache
from types import ModuleType


def spare_prefect() -> None:
    """Let Prefect find no Dask, and read the time zones once.

    It imports every package that names itself an extension, and for every schedule it reads, several times a minute,
    it opens each file of the zones: 7 ms.
    """
    sys.modules.setdefault("prefect_dask", ModuleType("prefect_dask"))
    zoneinfo.available_timezones = cache(zoneinfo.available_timezones)
