"""Everything that can be wrong before anything runs, each with its remedy."""

import asyncio
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from importlib.metadata import distributions
from urllib.parse import urlsplit

from packaging.specifiers import SpecifierSet
from rich.text import Text

from deployments import services, up_state
from deployments.silence import silent
from infra.door import NEAR
from tasks.adapters.heartbeat import BEATS, SAID
from tasks.adapters.store import exists
from tasks.core.decision.kinds import kind_of, members, read
from tasks.core.pages import inert
from tasks.core.ports import Decider
from tasks.core.types import Dto, InputError, TradingError
from tasks.redaction import redacted
from tasks.settings import Settings

PINS = {"sqlalchemy": ">=2.0,<2.1", "fastapi": ">=0.139,<0.151", "prefect": ">=3.8,<3.9"}
FREE_GB = 2.0
SKEW_S = 5.0


class Health(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


COLOURS = {Health.OK: "", Health.WARN: "yellow", Health.FAIL: "red"}


class Diagnosis(Dto):
    """One thing looked at: how it is, and what to do about it."""

    name: str
    result: Health
    detail: str
    remedy: str

    def __rich__(self) -> Text:
        text = f"{self.result:<5} {self.name:<14} {self.detail}" + (f"; {self.remedy}" if self.remedy else "")
        return Text(inert.line(text), COLOURS[self.result])


def diagnose(settings: Settings) -> list[Diagnosis]:
    """Look at everything; what cannot be looked at fails with its error, and the rest is still looked at."""
    looks = (_installation, _services, _passwords, _database, _venue, _model, _policy)
    return [diagnosis for look in looks for diagnosis in look(settings)]


def trial(settings: Settings, tell: Callable[[Diagnosis], None]) -> list[Diagnosis]:
    """Try the venue's demo out in the smallest size, telling each step; see `adapters.venue.trial`."""
    from tasks.adapters.venue import trial as trying

    if settings.profile != "sandbox" and up_state.state(settings.home):
        raise InputError("`quarterdeck up` runs with this HOME and would take part: `quarterdeck down` first")
    up_state.make_home(settings.home)
    done = []

    def step(name: str, good: bool, detail: str) -> None:
        done.append(_diagnosis(name, good, detail, "correct it and try again: live stays unarmed"))
        tell(done[-1])

    asyncio.run(trying.run(settings, step))
    return done


def _diagnosis(name: str, good: bool, detail: str, remedy: str = "", otherwise: Health = Health.FAIL) -> Diagnosis:
    result, remedy = (Health.OK, "") if good else (otherwise, remedy)
    return Diagnosis(name=name, result=result, detail=redacted(detail), remedy=redacted(remedy))


def _tried(name: str, remedy: str, look: Callable[[], str]) -> Diagnosis:
    try:
        return _diagnosis(name, True, look())
    except (TradingError, OSError) as e:
        return _diagnosis(name, False, str(e), remedy)


def _installation(settings: Settings) -> Iterator[Diagnosis]:
    python = (3, 11) <= sys.version_info < (3, 14)
    yield _diagnosis("python", python, platform.python_version(), "use Python 3.11-3.13")
    for name, wanted in PINS.items():
        version = next((each.version for each in distributions(name=name)), "")
        remedy = "run `make setup`: other versions stop Prefect's server or its scheduler"
        good = bool(version) and version in SpecifierSet(wanted)
        yield _diagnosis(name, good, f"{version or 'not installed'} ({wanted})", remedy)
    detail = f"profile {settings.profile}, strategy {settings.strategy}, decider {settings.decider_name}, "
    armed = settings.profile != "live" or bool(settings.live_account)
    remedy = "live is not armed: set QUARTERDECK_LIVE_ACCOUNT to the account's id"
    yield _diagnosis("settings", armed, detail + ", ".join(settings.symbols), remedy)
    for each in settings.every()[1:]:
        detail = f"decider {each.decider_name}, {', '.join(each.symbols)}"
        yield _diagnosis(f"strategy {each.strategy}", True, detail)
    place = next(folder for folder in (settings.home, *settings.home.parents) if folder.exists())
    remedy = "make it writable or set QUARTERDECK_HOME"
    yield _diagnosis("home", place.is_dir() and os.access(place, os.W_OK), str(settings.home), remedy)
    free = shutil.disk_usage(place).free / 1e9
    yield _diagnosis("disk", free >= FREE_GB, f"{free:.1f} GB free", f"free {FREE_GB:.0f} GB", Health.WARN)


def _services(settings: Settings) -> Iterator[Diagnosis]:
    """Running: every service answers. Not running: their ports are free."""
    try:
        plan = services.plan(settings)
    except TradingError as e:
        yield _diagnosis("addresses", False, str(e), "correct the setting")
        return
    if now := up_state.state(settings.home):
        for name, service in now.services.items():
            if service.health:
                yield _diagnosis(name, services.answers(service.health), service.url, f"see {service.log}")
        still, (often, long) = silent(settings), SAID[settings.watch_every_s]
        for name in BEATS:
            remedy = "look at its runs in Prefect: one never ends, or the deployment, its pool or queue is paused"
            detail = f"no completed run for {long}" if name in still else f"a run completes {often}"
            yield _diagnosis(name, name not in still, detail, remedy)
    else:
        for service in filter(lambda each: each.url, plan.values()):
            if services.runs_already(settings, service):
                yield _diagnosis(service.name, True, f"runs already at {service.url}; `up` uses it")
                continue
            yield _tried(service.name, f"set {service.setting}", partial(services.require_free, service))


def _passwords(settings: Settings) -> Iterator[Diagnosis]:
    """Look at servers that are not this machine's own: whoever reaches one without a password may trade or lie."""
    for name, url, variables, otherwise in (
        ("prefect", settings.prefect_api_url, ("PREFECT_API_AUTH_STRING", "PREFECT_API_KEY"), Health.FAIL),
        ("mlflow", settings.mlflow_url, ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_TOKEN"), Health.WARN),
    ):
        if url and (urlsplit(url).hostname or "") not in NEAR:
            known = any(map(os.environ.get, variables))
            remedy = f"set {variables[0]} here and a password there"
            yield _diagnosis(f"{name} password", known, f"{name} is at {url}", remedy, otherwise)


def _database(settings: Settings) -> Iterator[Diagnosis]:
    from tasks.adapters.store.store import Store

    def look() -> str:
        if not exists(settings.store_url):
            return "none yet; `quarterdeck up` makes it"
        with closing(Store(settings.store_url)) as store:
            return f"{store.place}: {store.counts()['cycles']} cycles"

    yield _tried("database", "correct QUARTERDECK_DATABASE_URL", look)


def _venue(settings: Settings) -> Iterator[Diagnosis]:
    """The sandbox is asked only while it runs; any other venue, and whose account it is and how it is set, always."""
    from tasks.adapters.venue import arming

    sandbox = settings.profile == "sandbox"
    if sandbox and up_state.state(settings.home) is None:
        yield _diagnosis("venue", True, "the sandbox, which `quarterdeck up` starts")
        return
    remedy = "check the network and the keys' permissions, or choose another QUARTERDECK_VENUE"
    try:
        skew, took = asyncio.run(_clock_skew(settings))
        name = "sandbox" if sandbox else settings.venue_url or settings.venue
        detail = f"{name} answers in {took:.2f} s, its clock is {skew:+.1f} s from ours"
        yield _diagnosis("venue", sandbox or abs(skew) <= SKEW_S, detail, "set this machine's clock (NTP)")
    except (TradingError, OSError) as e:
        yield _diagnosis("venue", False, str(e), remedy)
    if settings.profile != "paper":
        remedy = "correct the key, QUARTERDECK_LIVE_ACCOUNT or the account's settings at the venue"
        yield _tried("account", remedy, lambda: str(asyncio.run(arming.examine(settings))))


async def _clock_skew(settings: Settings) -> tuple[float, float]:
    from tasks.adapters.venue.ccxt_venue import connect

    venue = connect(settings)
    try:
        await venue.now()  # the first call opens the connection
        start, before = time.monotonic(), datetime.now(UTC)
        theirs = await venue.now()
        took = time.monotonic() - start
        return (theirs - before).total_seconds() - took / 2, took
    finally:
        await venue.close()


def _model(settings: Settings) -> Iterator[Diagnosis]:
    """Ask each model for one word: a few tokens, so that a wrong key or name is found before money is at stake."""
    from tasks.adapters.deciders import failover_of
    from tasks.core.ports import ModelRequest
    from tasks.core.types import PromptRef

    if not settings.model:
        detail = f"none configured; the decider is {settings.decider_name}"
        needless = not kind_of(settings.decider_name).asks_model
        yield _diagnosis("model", needless, detail, "set QUARTERDECK_MODEL, such as openai/gpt-4o")
    prompt = PromptRef(name="doctor", version="v000", sha256="", max_tokens=16)
    answer = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    message = {"role": "user", "content": 'Answer with the JSON object {"ok": true}.'}
    for model in settings.model:
        asked = failover_of((model,), settings)
        request = ModelRequest("doctor", prompt, [message], answer | {"additionalProperties": False})
        call = asyncio.run(asked.ask(request))
        good = call.error.partition(":")[0] in ("", "empty")  # an empty answer came from a model that was reached
        detail = f" answered in {call.latency_ms / 1000:.1f} s for {call.cost_usd} USD" if good else f": {call.error}"
        key = f"{model.partition('/')[0] if '/' in model else 'openai'}_API_KEY".upper()
        remedy = f"check its name, its key in the environment (by the usual form {key}), and the network"
        yield _diagnosis(f"model {model}", good, model + detail, remedy)


def _policy(settings: Settings) -> Iterator[Diagnosis]:
    """Build each decider with a trained policy, which refuses one that may not trade."""
    for name in dict.fromkeys(each.decider_name for each in settings.every()):
        if any(read(each).kind == "model" for each in [member for member, _ in members(name)] or [name]):
            from tasks.connections import decider

            remedy = "promote it (docs/learning.md), or take another decider"
            yield _tried("policy", remedy, partial(_built, decider, name))


def _built(decider: Callable[[str], Decider], name: str) -> str:
    return decider(name).name
