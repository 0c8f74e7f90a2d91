"""What stops new entries: a halt in the database, a file HOME/HALT, a Prefect variable. Protection goes on under all.

A file or variable that is seen becomes a halt in the database, with its text as the reason: it reaches every machine
and holds until someone lifts it. So a file that is gone, a variable that is unset and a Prefect server that does not
answer never let trading go on by themselves, and never stop it either.
"""

import json
from pathlib import Path

import httpx

from tasks import clock
from tasks.adapters import certificates, secret
from tasks.connections import log, store
from tasks.core.types import Halt
from tasks.settings import settings

FILE, VARIABLE = "HALT", "quarterdeck_halt"
CACHE_S, TIMEOUT_S = 5.0, 1.0
OFF = ("", "false", "off", "no", "0", "null", "none")
_asked: dict[str, tuple[float, str | None]] = {}  # by server: when it was asked, and what for


def active_halt() -> Halt | None:
    """Return the newest halt in force, wherever it came from; None: entries are allowed."""
    return next(reversed(active_halts()), None)


def halt(why: str, who: str = "ledger") -> None:
    """Stop new entries unless they are stopped already."""
    if active_halt() is None:
        store().halts.add(why, who, clock.now())


def lift(who: str) -> list[Halt]:
    """Lift what `who` halted, and return it: what stood against trading is gone by itself."""
    return store().halts.resume(who, clock.now(), whose=who)


def active_halts() -> list[Halt]:
    """Return every halt in force, oldest first."""
    active = store().halts.active()
    known = {halt.who for halt in active}
    for who, reason in switches().items():
        if who not in known:
            active.append(store().halts.add(reason, who, clock.now()))
            log().error("halt who=%s reason=%s", who, reason)
    return active


def switches(fresh: bool = False) -> dict[str, str]:
    """Return the reasons of the file and the variable that are set now, by what they are."""
    file, url = settings().home / FILE, settings().prefect_api_url
    reasons = {f"file {file}": _file(file), f"Prefect variable {VARIABLE}": _variable(url, fresh)}
    return {who: reason for who, reason in reasons.items() if reason is not None}


def _file(path: Path) -> str | None:
    try:
        return " ".join(path.read_text(errors="replace").split())[:200] or "no reason given"
    except OSError as e:
        if isinstance(e, FileNotFoundError) and not path.is_symlink():
            return None
        return f"it is there and cannot be read: {e.strerror}"


def _variable(url: str, fresh: bool) -> str | None:
    asked, value = _asked.get(url, (float("-inf"), None))
    if fresh or clock.monotonic() - asked > CACHE_S:
        value = _ask(url)
        _asked[url] = (clock.monotonic(), value)
    return value


def _ask(url: str) -> str | None:
    """Return the variable's text; None where it is unset or off, or where no server answers."""
    try:
        login, trusted = secret.login(settings().home), certificates.prefects()
        asked = f"{url}/variables/name/{VARIABLE}"
        answer = httpx.get(asked, timeout=TIMEOUT_S, trust_env=False, verify=trusted, auth=login)
        value = answer.json()["value"] if answer.status_code == httpx.codes.OK else None
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as e:
        log().info("halt variable %s not read: %s", VARIABLE, type(e).__name__)
        return None
    text = value if isinstance(value, str) else json.dumps(value)
    text = " ".join(text.split())[:200]
    return None if text.lower() in OFF else text
