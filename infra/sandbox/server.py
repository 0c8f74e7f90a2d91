"""Run the sandbox: `python -m infra.sandbox [--candles SYMBOL=FILE ...] [--port N] [--speed X] [--stepped] ...`.

Binds 127.0.0.1 unless --host says otherwise (a container, whose network is its own). Wrong input is one line on
stderr and exit code 2; SIGINT and SIGTERM end it cleanly.
"""

import signal
import socket
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import uvicorn
from pydantic import ValidationError
from pydantic_settings import CliApp, SettingsError
from starlette.types import ASGIApp

from infra.door import NEAR, Door
from infra.sandbox.app import SandboxApp
from infra.sandbox.config import SandboxConfig
from infra.sandbox.market.crash import Crash
from tasks.core.errors import InputError


def uvicorn_server(app: ASGIApp) -> uvicorn.Server:
    """Return a quiet server that does not wait long for clients when it is told to stop."""
    options = uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=1, timeout_keep_alive=75
    )
    return uvicorn.Server(options)


def listen(port: int, host: str = "127.0.0.1") -> socket.socket:
    """Open the port: from here on clients are answered, if a moment later."""
    try:
        return socket.create_server((host, port), backlog=128)
    except (OSError, OverflowError) as e:
        raise InputError(f"port {port} of {host} cannot be used ({e}): choose another with --port") from e


def parse(arguments: Sequence[str] | None) -> SandboxConfig:
    """Read the command line; raises InputError naming the argument that is wrong."""
    try:
        config = CliApp.run(SandboxConfig, list(sys.argv[1:] if arguments is None else arguments))
    except SettingsError as e:
        raise InputError(f"{e}; --help says how each is written") from None
    except ValidationError as e:
        wrong = e.errors()[0]
        raise InputError(f"--{wrong['loc'][0]} {wrong['input']}: {wrong['msg']}") from None
    if not config.scenario:
        return config
    if config.candles and not config.start:
        raise InputError("--scenario crash on candle files needs --start, e.g. --start 2025-03-01T00:00:00Z")
    return config.model_copy(update={"crash": Crash((config.start or datetime.now(UTC)) + timedelta(hours=1))})


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        config = parse(arguments)
        app, listener = SandboxApp(config), listen(config.port, config.host)
    except InputError as e:
        print(f"sandbox: {e}", file=sys.stderr)
        return 2
    for number in (signal.SIGINT, signal.SIGTERM):
        # uvicorn has shut down and raises the signal it was stopped by once more
        signal.signal(number, lambda *_: sys.exit(0))
    ex, where = app.exchange, f"http://{config.host}:{listener.getsockname()[1]}"
    print(f"sandbox url={where} clock={ex.now.isoformat()} symbols={','.join(ex.markets)}", file=sys.stderr, flush=True)
    uvicorn_server(Door(app, any_name=config.host not in NEAR)).run(sockets=[listener])
    return 0
