"""Start the sandbox exchange inside the test process, on a free port."""

import json
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from starlette.types import ASGIApp

from infra.sandbox.app import SandboxApp
from infra.sandbox.config import SandboxConfig
from infra.sandbox.server import listen, uvicorn_server


@contextmanager
def running_sandbox(config: SandboxConfig | None = None, **options: Any) -> Iterator[str]:
    """Serve a sandbox built from `config`, or from SandboxConfig's fields given by name, and yield its URL."""
    with served(SandboxApp(config or SandboxConfig(**options))) as url:
        yield url


@contextmanager
def served(app: ASGIApp) -> Iterator[str]:
    """Serve any app in a thread and yield its URL."""
    server, listener = uvicorn_server(app), listen(0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = server.force_exit = True
        thread.join(timeout=10)
        listener.close()


def admin(url: str, path: str, body: object = None, method: str = "") -> dict[str, Any]:
    """Call an admin endpoint: a GET without a body, a POST with one."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{url}/__admin/{path}", data=data, headers={"Content-Type": "application/json"})
    request.method = method or ("GET" if data is None else "POST")
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def advance(url: str, seconds: float) -> dict[str, Any]:
    """Let a stepped sandbox's market run."""
    return admin(url, "clock", {"advance_s": seconds})


def state(url: str) -> dict[str, Any]:
    return admin(url, "state")


def fault(url: str, kind: str, path: str = "", times: int = 1, **details: Any) -> None:
    admin(url, "faults", {"kind": kind, "path": path, "times": times, **details})
