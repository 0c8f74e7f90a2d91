"""The adapters a run uses, opened once per process from the settings; and a logger that works outside a run too."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger

from tasks import clock
from tasks.adapters.files.prompts import CHAMPION
from tasks.adapters.store.store import Store, opened
from tasks.core.ports import Decider, Venue
from tasks.core.types import POLICY, InputError, Instrument, Strategy, T, TrackingUnavailable, VenueUnavailable
from tasks.redaction import guard_logs
from tasks.settings import Settings, settings, strategy_of

if TYPE_CHECKING:
    from tasks.adapters.mlflow.tracking import Tracker

guard_logs()
Logger = logging.Logger | logging.LoggerAdapter[logging.Logger]


def log() -> Logger:
    """Return the run's logger, or a plain one when there is no run (`quarterdeck cycle`, tests)."""
    try:
        return get_run_logger()
    except MissingContextError:
        return logging.getLogger("quarterdeck")


def store() -> Store:
    """Return the process's store, migrated."""
    return opened(settings().store_url)


def venue(chosen: Settings | None = None) -> Venue:
    """Return the venue's client of this event loop; on paper with its account in the store."""
    from tasks.adapters.venue.ccxt_venue import connect
    from tasks.adapters.venue.paper import PaperVenue

    s = chosen or settings.account  # one account, whatever the strategy
    return PaperVenue(connect(s), opened(s.store_url).paper_books, s) if s.profile == "paper" else connect(s)


async def answered(
    question: Callable[[], Awaitable[T]],
    what: str,
    pauses: Iterable[float],
    trouble: tuple[type[Exception], ...] = (VenueUnavailable,),
) -> T:
    """Ask the venue, and again after each pause while it gives no answer; raises what came of the last try."""
    for pause in pauses:
        try:
            return await question()
        except trouble as e:
            log().warning("%s not answered, asking again: %s", what, e)
            await asyncio.sleep(pause)
    return await question()


async def close_venues() -> None:
    """Close every client that `venue` opened in this event loop; the next `venue` opens another."""
    from tasks.adapters.venue.ccxt_venue import close_all

    await close_all()


def strategy(decider: str, instruments: Mapping[str, Instrument]) -> Strategy:
    """Return what is in force now, as the settings and the venue say."""
    from tasks.adapters.model.toolbox import limits_of

    s = settings()
    return strategy_of(
        s, decider, symbols=s.symbols, instruments=dict(instruments), venue=venue().name,
        history_bars=s.history_bars, tools=limits_of(s), tool_rates=s.tool_rates,
    )  # fmt: skip


@contextmanager
def alone(name: str) -> Iterator[None]:
    """Hold a lease over something short; raises TrackingUnavailable if others keep it for half a minute."""
    holder = clock.new_name()
    for _ in range(300):
        if lease := store().leases.acquire(name, holder, timedelta(seconds=60)):
            break
        clock.sleep(0.1)
    else:
        raise TrackingUnavailable(f"{name} is held by another machine for 30 s")
    try:
        yield
    finally:
        store().leases.release(lease)


def artifacts_url() -> str:
    """Return where browsers find Prefect's artifacts, for links."""
    return f"{_prefect()}/artifacts/artifact"


def run_url(run_id: object) -> str:
    """Return where browsers find a run, in the pages that Prefect opens by default."""
    return f"{_prefect()}/v2/runs/flow-run/{run_id}"


def _prefect() -> str:
    from tasks.adapters.mlflow.server import without_login

    s = settings()
    return without_login(s.prefect_ui_url or s.prefect_api_url.removesuffix("/").removesuffix("/api"))


def tracker() -> "Tracker | None":
    """Return the MLflow mirror; None when tracking is off."""
    from tasks.adapters.deciders import parameters_of
    from tasks.adapters.mlflow.tracking import Tracker

    s = settings()
    if not s.mlflow_url:
        return None
    parameters = partial(parameters_of, s)
    return Tracker(s.mlflow_url, pages=s.mlflow_ui_url, alone=alone, models=", ".join(s.model), parameters=parameters)


def decider(name: str, shadow: bool = False, samples: Sequence[int] = (0,)) -> Decider:
    """Build the decider called `name`; raises InputError listing those there are. A shadow has a purse of its own.

    samples: which askings of each question.
    """
    from tasks.adapters.deciders import build

    s = settings()
    if shadow:
        apart = s.shadow_budget.replace(purse=s.shadow_budget.purse or "shadow")
        if apart.usd_per_1k_tokens is None:  # a model costs its shadow what it costs the champion
            apart = apart.replace(usd_per_1k_tokens=s.budget.usd_per_1k_tokens)
        s = s.replace(budget=apart, strategy=f"{s.strategy}/shadow")
    made = build(name, s, store(), samples=samples)
    if not (shadow or s.profile == "sandbox"):
        _check_promoted(made)
    return made


def _check_promoted(decider: Decider) -> None:
    """Raise InputError for one with a trained policy that is not the champion: it has to pass the gate of prompts."""
    champion = store().prompts.aliases().get(POLICY, {}).get(CHAMPION)
    for ref in decider.prompts:
        if ref.name == POLICY and (champion is None or champion.sha256 != ref.sha256):
            raise InputError(
                f"{decider.name}: {ref.version} is not promoted, so it trades in no profile but the sandbox: let it "
                "answer beside (QUARTERDECK_SHADOW), then `quarterdeck prompts promote model FILE --alias champion`"
            )
