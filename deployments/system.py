"""Which system a Prefect's work pool serves: one database, profile and account; workers of another are turned away.

The pool's description says it, for people too. A worker that took another system's runs would trade, protect and halt
by another ledger.
"""

import re
from contextlib import closing
from datetime import timedelta

from tasks.core.types import InputError
from tasks.settings import Settings

SYSTEM = "QUARTERDECK_SYSTEM"  # what the supervisor tells its workers
NAMED = re.compile(r"\(system (\S+)\)")
NAME, FOR_EVER = "this database", timedelta(days=36_500)


def system_of(settings: Settings) -> str:
    """Return what names the system of these settings; its store is brought up to this release.

    A database has an id from its first use on, and keeps it in a backup.
    """
    from tasks import clock
    from tasks.adapters.store.store import Store

    with closing(Store(settings.store_url)) as store:
        store.migrate()
        known = store.leases.get(NAME) or store.leases.acquire(NAME, clock.new_name(), FOR_EVER)
        known = known or store.leases.get(NAME)  # another process was quicker
    return f"{known.holder if known else 'unknown'}/{settings.profile}/{settings.strategy}"


def described(system: str) -> str:
    """Return what a pool of the system says."""
    return f"Runs of one Quarterdeck and of no other (system {system})"


def refuse_another(description: str | None, system: str) -> None:
    """Raise InputError for a pool that says it is another system's."""
    if (named := NAMED.search(description or "")) and named[1] != system:
        raise InputError(
            f"this Prefect carries out the runs of another system, {named[1]}, and this one is {system} "
            "(database/profile/strategy): give it a Prefect of its own with QUARTERDECK_PREFECT_API_URL, or hand that "
            "one over with `quarterdeck deploy --reset`"
        )
