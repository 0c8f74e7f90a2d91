"""The processes `up` runs: what each is started with, where it answers, and how it is started and stopped."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from deployments.servers import MLFLOW_ORIGINS, PREFECT_ORIGINS
from deployments.warm.daemon import ONE_THREAD
from deployments.warm.wire import VARIABLE as WARM_SOCKET
from deployments.warm.wire import endpoint, peer_uid, reachable
from infra.door import NEAR
from tasks.adapters import certificates, secret
from tasks.adapters.postgres import cluster, serve
from tasks.core.errors import InputError
from tasks.redaction import redacted
from tasks.settings import CLUSTER, Settings

NANNY = Path(__file__).with_name("nanny.py")
POOL = "quarterdeck"
GRACE_S = 10.0
PREFECT_HEALTH = "/api/health"
ATTACHED = {"QUARTERDECK_PREFECT_API_URL": "prefect_api_url", "QUARTERDECK_MLFLOW_URL": "mlflow_url"}
PASSED = ("PREFECT_LOGGING_", "PREFECT_API_AUTH_STRING", "PREFECT_API_SSL_CERT_FILE", "PREFECT_SERVER_")


@dataclass(frozen=True)
class Service:
    """One process. `health` is a URL that answers 200, or a kind, a colon and a path (see `answers`), once it works
    (a worker has none); `setting` moves its port."""

    name: str
    command: tuple[str, ...]
    url: str = ""
    health: str = ""
    setting: str = ""


def plan(settings: Settings) -> dict[str, Service]:
    """Return the services this profile needs, the worker last.

    Without a Prefect or MLflow on another machine, that must answer: raises InputError for any other such address.
    """
    prefect = pages(settings.prefect_api_url)
    servers = [("prefect", "PREFECT_API_URL", prefect, PREFECT_HEALTH, uvicorn("prefect_app"))]
    if settings.profile == "sandbox":
        options = ["--symbols", ",".join(settings.all_symbols), "--state", str(settings.home / "sandbox.json")]
        servers.append(("sandbox", "SANDBOX_URL", settings.sandbox_url, "/v5/market/time", ["infra.sandbox", *options]))
    if settings.mlflow_url:
        servers.append(("mlflow", "MLFLOW_URL", settings.mlflow_url, "/health", uvicorn("mlflow_alone")))
    services = {}
    for name, setting, address, health, module in servers:
        url, setting = pages(address), f"QUARTERDECK_{setting}"
        where, port = urlsplit(url), None
        with suppress(ValueError):  # no number
            port = where.port
        if where.hostname not in NEAR or not port:
            if where.hostname and setting in ATTACHED and answers(url + health):
                continue
            raise InputError(
                f"{setting}={redacted(url)}: no {name} answers there, and `up` starts its own on this machine; "
                f"give an address such as http://127.0.0.1:{port or 4210}"
            )
        command = (sys.executable, "-m", *module, "--host", where.hostname, "--port", str(port))
        services[name] = Service(name, command, url, url + health, setting)
    return services | working_plan(settings)


def runs_already(settings: Settings, service: Service) -> bool:
    """Return whether a Prefect or MLflow answers at an address that somebody set for it, so that none is started."""
    return ATTACHED.get(service.setting) in settings.model_fields_set and answers(service.health)


def uvicorn(app: str) -> list[str]:
    """Return how a server of ours is started, by its name in `deployments.servers`."""
    return ["uvicorn", "--factory", f"deployments.servers:{app}", "--log-level", "warning"]


def pages(url: str) -> str:
    """Return where the pages of a server are, by its own address or its API's."""
    return url.removesuffix("/").removesuffix("/api")


def working_plan(settings: Settings) -> dict[str, Service]:
    """Return what carries out runs: one warm daemon and the workers, wherever the servers are."""
    path, without = warm_socket(settings), () if any(each.model for each in settings.every()) else ("litellm",)
    command = (sys.executable, "-m", "deployments.warm.daemon", path, *without)
    warm = Service("warm", command, health=f"unix:{path}")
    names = ["worker", *(f"worker-{n}" for n in range(2, settings.workers + 1))]
    options = ("--pool", POOL, "--type", "process", "--name")
    start = (sys.executable, "-m", "deployments.worker", "worker", "start", *options)
    return {"warm": warm} | {name: Service(name, (*start, prefect_name(name))) for name in names}


def database_plan(settings: Settings) -> dict[str, Service]:
    """Return the server of HOME's PostgreSQL, where it has one."""
    if not (folder := settings.home / CLUSTER).exists():
        return {}
    return {CLUSTER: Service(CLUSTER, cluster.command(settings.home), health=f"{CLUSTER}:{folder}")}


def warm_socket(settings: Settings) -> str:
    """Return where the warm daemon of this HOME listens."""
    return str(settings.home / "warm.sock")


def prefect_name(worker: str) -> str:
    """Return what Prefect calls a worker of this machine: names are one machine's each."""
    return f"{worker}@{socket.gethostname()}"


# A day has some 3,000 runs of ours. Prefect keeps their events for a week, and runs, tasks, logs and pages for ever
# unless told otherwise. What was decided is in the ledger and MLflow; a task's events only repeat its states.
SERVER = {
    "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW": "9",
    "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": "1",  # each of its stores keeps so many processes of PostgreSQL
    "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "5",  # 30: half of what a run of a minute has
    # both 5 s: a third of what the server does where two runs are due each minute
    "PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY": "PT30S",
    "PREFECT_SERVER_SERVICES_SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS": "15",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(14 * 86_400),
    "PREFECT_SERVER_SERVICES_DB_VACUUM_EVENT_RETENTION_OVERRIDES": json.dumps(
        {f"prefect.task-run.{state}": 3600 for state in ("Pending", "Running", "Completed")}
    ),
}


# glibc keeps an arena for each thread, and what a Prefect worker frees after a run stays in them
MALLOC = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}


def environment(settings: Settings) -> dict[str, str]:
    """Return what every child is started with.

    Of the caller's own Prefect settings only those of logging, authentication and the server pass: our runs must not
    end up in another account. Paths are made absolute, since a run may be started in another directory.
    """
    own = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_") or k.startswith(PASSED)}
    for name in ("QUARTERDECK_ALERT_URLS", "PREFECT_SERVER_ENCRYPTION_KEY"):  # of the supervisor and Prefect alone
        own.pop(name, None)
    toml = Path(own.get("QUARTERDECK_TOML", "quarterdeck.toml")).resolve()
    scheme, _, file = settings.store_url.partition(":///")  # a relative SQLite file is of the caller's directory
    stored = f"{scheme}:///{Path(file).resolve()}" if scheme.startswith("sqlite") and file else settings.store_url
    local = ",".join(filter(None, (own.get("NO_PROXY") or own.get("no_proxy"), *NEAR)))
    known = secret.read(settings.home)
    mine = {PREFECT_ORIGINS: pages(settings.prefect_api_url), MLFLOW_ORIGINS: pages(settings.mlflow_url)}
    return {
        **SERVER,
        **MALLOC,
        **mine,
        **own,
        **(dict.fromkeys(secret.VARIABLES, known) if known else {}),
        **ONE_THREAD,  # runs, too: what a worker has differently, a run may not
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), own.get("PATH", os.defpath))),
        **dict.fromkeys(("NO_PROXY", "no_proxy"), local),
        "QUARTERDECK_HOME": str(settings.home),
        "QUARTERDECK_PROFILE": settings.profile,
        "QUARTERDECK_TOML": str(toml),
        "QUARTERDECK_DATABASE_URL": stored,
        WARM_SOCKET: warm_socket(settings),
        "PREFECT_HOME": str(settings.home / "prefect"),
        "PREFECT_API_URL": settings.prefect_api_url,
        **_unread_certificates(settings),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": through(settings.databases["prefect"], "asyncpg", "+aiosqlite"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_COLORS": "false",
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "PREFECT_WORKER_PREFETCH_SECONDS": "1",
        # not among the server's arguments, where every user of the machine could read a password
        "MLFLOW_BACKEND_STORE_URI": through(settings.databases["mlflow"], "psycopg"),
        "MLFLOW_ARTIFACTS_DESTINATION": str(settings.home / "mlartifacts"),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "GX_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PYTHONUNBUFFERED": "1",
    }


def _unread_certificates(settings: Settings) -> dict[str, str]:
    """Keep Prefect from reading every certificate for each of a run's ten clients, where none is asked for https."""
    plain = settings.prefect_api_url.startswith("http:")
    return {"PREFECT_API_SSL_CERT_FILE": str(certificates.first_alone(settings.home))} if plain else {}


def through(url: str, postgres: str, sqlite: str = "") -> str:
    """Return a database's URL with the driver of its kind, where it names none."""
    return re.sub("^sqlite:", f"sqlite{sqlite}:", re.sub("^postgres(ql)?:", f"postgresql+{postgres}:", url))


def require_free(service: Service) -> str:
    """Check that the port of `service` is free; raises InputError if something listens there."""
    where = urlsplit(service.url)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((where.hostname, where.port))
        except OSError as e:
            raise InputError(
                f"port {where.port} ({service.name}) is taken by another program ({e.strerror}): "
                f"end that program, or give another port with {service.setting}"
            ) from e
    return f"not running; port {where.port} is free"


def answers(url: str) -> bool:
    """Return whether `url` answers 200, a process of ours takes connections at the socket after `unix:`, or PostgreSQL
    in the folder after `postgresql:`."""
    if url.startswith(f"{CLUSTER}:"):
        return serve.answers(Path(url.removeprefix(f"{CLUSTER}:")))
    if url.startswith("unix:"):
        with suppress(OSError), endpoint() as probe, reachable(url.removeprefix("unix:")) as short:
            probe.connect(short)
            return peer_uid(probe) == os.getuid()
        return False
    try:
        trusted = certificates.prefects() if url.endswith(PREFECT_HEALTH) else certificates.trusted()
        return httpx.get(url, timeout=2.0, trust_env=False, verify=trusted).status_code == 200
    except (httpx.HTTPError, httpx.InvalidURL):
        return False


class Child:
    """A running service under its nanny, its output appended to a log."""

    def __init__(self, service: Service, env: Mapping[str, str], logs: Path) -> None:
        self.service, self.log, self._env = service, logs / f"{service.name}.log", env
        self._start()

    def restart(self) -> None:
        """Start it again, once it has ended; from the main thread only, as in `_start`."""
        self.wait()
        self._start()

    def _start(self) -> None:
        """Start it; from the main thread only, since Linux ends a child with the thread that started it."""
        command = (sys.executable, "-I", str(NANNY), str(os.getpid()), str(GRACE_S), *self.service.command)
        self.started = time.monotonic()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  (our own list, no shell)
                command, env=self._env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """Return how it ended; None while it runs."""
        return self._process.poll()

    def stop(self) -> None:
        """Ask it to end; `wait` then says when everything of it has."""
        self._process.terminate()

    def wait(self) -> None:
        """Return once it and its descendants are gone; the nanny kills what does not go within `GRACE_S`."""
        try:
            self._process.wait(timeout=GRACE_S + 5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        with suppress(ProcessLookupError, PermissionError):  # a nanny that was itself killed left it behind
            os.killpg(self.pid, signal.SIGKILL)

    def last_line(self) -> str:
        """Return the log's last line that says something."""
        lines = self.log.read_bytes()[-4000:].decode(errors="replace").splitlines()
        return next(filter(None, map(str.strip, reversed(lines))), "no output")
