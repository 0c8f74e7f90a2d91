"""Everything that can be wrong before anything runs, each with its remedy."""

import asyncio
import os
import shutil
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from urllib.parse import urlsplit

from deployments import services, state
from deployments.status import has_store
from tasks.core.decision.kinds import kind_of
from tasks.core.errors import InputError, StoreError, TradingError
from tasks.core.types.base import Dto
from tasks.settings import Settings

PINS = {"sqlalchemy": ((2, 0), (2, 1)), "fastapi": ((0, 139), (0, 151)), "prefect": ((3, 8), (3, 9))}
FREE_GB = 2.0
SKEW_S = 5.0
# Whose key a model's name asks for; other providers follow the same form.
KEY_FORM = "{provider}_API_KEY"
KEYLESS = ("ollama", "ollama_chat", "lm_studio", "llamafile")


class Result(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Check(Dto):
    """One thing looked at: what was found, and what to do about it."""

    name: str
    result: Result
    detail: str
    remedy: str = ""

    @property
    def failed(self) -> bool:
        return self.result is Result.FAIL


def examine(settings: Settings) -> list[Check]:
    """Look at everything; what cannot be looked at fails with its error, and the rest is still looked at."""
    looks: tuple[Callable[[Settings], list[Check]], ...] = (
        _python, _pins, _settings, _home, _disk, _services, _passwords, _database, _venue, _account, _model,
    )  # fmt: skip
    return [check for look in looks for check in look(settings)]


def _check(name: str, good: bool, detail: str, remedy: str, *, otherwise: Result = Result.FAIL) -> list[Check]:
    return [Check(name=name, result=Result.OK if good else otherwise, detail=detail, remedy="" if good else remedy)]


def _python(_: Settings) -> list[Check]:
    found = sys.version_info
    return _check("python", (3, 11) <= found[:2] < (3, 14), f"{found[0]}.{found[1]}.{found[2]}", "use Python 3.11-3.13")


def _pins(_: Settings) -> list[Check]:
    return [_pin(name, low, high) for name, (low, high) in PINS.items()]


def _pin(name: str, low: tuple[int, int], high: tuple[int, int]) -> Check:
    wanted = f">={low[0]}.{low[1]},<{high[0]}.{high[1]}"
    try:
        found = version(name)
    except PackageNotFoundError:
        return Check(name=name, result=Result.FAIL, detail="not installed", remedy="run `make setup`")
    good = low <= tuple(int(part) for part in found.split(".")[:2]) < high
    remedy = "" if good else "run `make setup`: other versions stop Prefect's server or its scheduler"
    return Check(name=name, result=Result.OK if good else Result.FAIL, detail=f"{found} ({wanted})", remedy=remedy)


def _settings(settings: Settings) -> list[Check]:
    detail = (
        f"profile {settings.profile}, strategy {settings.strategy}, decider {settings.decider_name}, "
        f"{', '.join(settings.symbols)}"
    )
    armed = settings.profile != "live" or bool(settings.live_account)
    return _check("settings", armed, detail, "live is not armed: set QUARTERDECK_LIVE_ACCOUNT to the account's id")


def _home(settings: Settings) -> list[Check]:
    place = settings.home
    while not place.exists():
        place = place.parent
    return _check("home", os.access(place, os.W_OK), str(settings.home), "make it writable or set QUARTERDECK_HOME")


def _disk(settings: Settings) -> list[Check]:
    place = settings.home
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / 1e9
    return _check("disk", free >= FREE_GB, f"{free:.1f} GB free", f"free {FREE_GB:.0f} GB", otherwise=Result.WARN)


def _services(settings: Settings) -> list[Check]:
    """Running: every service answers. Not running: their ports are free."""
    now = state.running(settings.home)
    try:
        plan = services.plan(settings)
    except InputError as e:
        return [Check(name="addresses", result=Result.FAIL, detail=str(e), remedy="correct the setting")]
    if now is None:
        return [_free(service) for service in plan.values() if service.url]
    return [
        check
        for name, service in now.services.items()
        if service.health
        for check in _check(name, services.answers(service.health), service.url, f"see {service.log}")
    ]


def _passwords(settings: Settings) -> list[Check]:
    """Look at servers that are not this machine's own: whoever reaches one without a password may trade or lie."""
    asked = (
        ("prefect", settings.prefect_api_url, ("PREFECT_API_AUTH_STRING", "PREFECT_API_KEY"), Result.FAIL),
        ("mlflow", settings.mlflow_url, ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_TOKEN"), Result.WARN),
    )
    return [
        check
        for name, url, names, otherwise in asked
        if url and (urlsplit(url).hostname or "") not in services.LOOPBACK
        for check in _check(
            f"{name} password", any(os.environ.get(variable) for variable in names), f"{name} is at {url}",
            f"set {names[0]} here and a password there", otherwise=otherwise,
        )
    ]  # fmt: skip


def _free(service: services.Service) -> Check:
    try:
        services.require_free(service)
    except InputError as e:
        return Check(name=service.name, result=Result.FAIL, detail=str(e), remedy=f"set {service.setting}")
    return Check(name=service.name, result=Result.OK, detail=f"not running; port {service.port} is free")


def _database(settings: Settings) -> list[Check]:
    from tasks.adapters.store.store import Store

    if not has_store(settings):
        return [Check(name="database", result=Result.OK, detail="none yet; `quarterdeck up` makes it")]
    try:
        store = Store(settings.store_url)
        try:
            cycles = store.counts()["cycles"]
        finally:
            store.close()
    except (StoreError, InputError) as e:
        return [Check(name="database", result=Result.FAIL, detail=str(e), remedy="correct QUARTERDECK_DATABASE_URL")]
    return [Check(name="database", result=Result.OK, detail=f"{store.place}: {cycles} cycles")]


def _venue(settings: Settings) -> list[Check]:
    """The sandbox is asked only while it runs; any other venue always."""
    if settings.profile == "sandbox" and state.running(settings.home) is None:
        return [Check(name="venue", result=Result.OK, detail="the sandbox, which `quarterdeck up` starts")]
    try:
        skew, took = asyncio.run(_clock_skew(settings))
    except (TradingError, OSError) as e:
        remedy = "check the network and the keys' permissions, or choose another QUARTERDECK_VENUE"
        return [Check(name="venue", result=Result.FAIL, detail=str(e), remedy=remedy)]
    name = "sandbox" if settings.profile == "sandbox" else settings.venue_url or settings.venue
    detail = f"{name} answers in {took:.2f} s, its clock is {skew:+.1f} s from ours"
    good = abs(skew) <= SKEW_S or settings.profile == "sandbox"
    return _check("venue", good, detail, "set this machine's clock (NTP)")


def _account(settings: Settings) -> list[Check]:
    """Ask whose account it is and how it is set, where there is one at a venue."""
    from tasks.adapters.venue.arming import examine

    if settings.profile == "paper" or (settings.profile == "sandbox" and state.running(settings.home) is None):
        return []
    try:
        return [Check(name="account", result=Result.OK, detail=str(asyncio.run(examine(settings))))]
    except (TradingError, OSError) as e:
        remedy = "correct the key, QUARTERDECK_LIVE_ACCOUNT or the account's settings at the venue"
        return [Check(name="account", result=Result.FAIL, detail=str(e), remedy=remedy)]


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


def _model(settings: Settings) -> list[Check]:
    """Only the names of keys are looked at and shown, never a value."""
    if not settings.model:
        needs = kind_of(settings.decider_name).asks_model
        detail = f"none configured; the decider is {settings.decider_name}"
        return _check("model", not needs, detail, "set QUARTERDECK_MODEL, such as openai/gpt-4o")
    missing = sorted({name for name in map(_key_name, settings.model) if name and not os.environ.get(name)})
    if missing and not settings.model_base_url:
        return _check("model", False, ", ".join(settings.model), f"no key in the environment: {', '.join(missing)}")
    return [check for model in settings.model for check in _answers(settings, model)]


def _answers(settings: Settings, model: str) -> list[Check]:
    """Ask one model for one word: a few tokens, so that a wrong key or name is found before money is at stake."""
    from tasks.adapters.model.litellm_model import LiteLLMModel
    from tasks.core.types.decision import PromptRef

    asked = LiteLLMModel((model,), settings.model_base_url, settings.provider_timeout_s, settings.decision_deadline_s)
    prompt = PromptRef(name="doctor", version="v000", sha256="", max_tokens=16)
    schema: dict[str, object] = {
        "type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": False,
    }  # fmt: skip
    message = {"role": "user", "content": 'Answer with the JSON object {"ok": true}.'}
    call = asyncio.run(asked.ask("doctor", prompt, [message], schema))
    good = call.error in ("", "empty")  # an empty answer came from a model that was reached
    detail = (
        f"{model} answered in {call.latency_ms / 1000:.1f} s for {call.cost_usd} USD"
        if good
        else f"{model}: {call.error}"
    )
    return _check(f"model {model}", good, detail, "check its name, its key in the environment, and the network")


def _key_name(model: str) -> str:
    """Return the variable that holds a model's key by the providers' usual form; empty if it needs none."""
    provider, slash, _ = model.partition("/")
    provider = provider if slash else "openai"
    return "" if provider in KEYLESS else KEY_FORM.format(provider=provider.upper())
