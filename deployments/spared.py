"""What our servers and runs would do for nothing, Prefect and MLflow among them; before these are imported."""

import gc
import sys
import zoneinfo
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType


def spare_prefect() -> None:
    """Let Prefect find no Dask, and read the time zones once.

    It imports every package that names itself an extension, and for every schedule it reads, several times a minute,
    it opens each file of the zones: 7 ms.
    """
    sys.modules.setdefault("prefect_dask", ModuleType("prefect_dask"))
    zoneinfo.available_timezones = cache(zoneinfo.available_timezones)


def spare_mlflow() -> None:
    """Let the pandas of MLflow's server find no Arrow, which nothing there uses: 40 MB."""
    sys.modules.setdefault("pyarrow", None)  # type: ignore[arg-type]  # Python's own way to say that there is none


@contextmanager
def importing() -> Iterator[None]:
    """Look for garbage seldom meanwhile, and in what was imported never more: a quarter of the time that it takes."""
    before = gc.get_threshold()
    gc.set_threshold(50_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.freeze()
