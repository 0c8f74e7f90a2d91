"""Run the sandbox: `python -m infra.sandbox [--candles SYMBOL=FILE ...] [--port N] [--speed X] [--stepped] ...`.

Binds 127.0.0.1 unless --host says otherwise (a container, whose network is its own). Wrong input is one line on
stderr and exit code 2; SIGINT and SIGTERM end it cleanly.
"""

import argparse
import os
import signal
import socket
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NoReturn

import uvicorn
from pydantic import ValidationError
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


class CommandLine(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(message)


def candle_file(text: str) -> tuple[str, str]:
    symbol, _, file = text.partition("=")
    if not file:
        raise InputError(f"--candles {text!r}: write SYMBOL=FILE, e.g. BTC/USDT:USDT=btc.parquet")
    return symbol, file


def symbol_list(text: str) -> list[str]:
    return text.replace(",", " ").split()


def utc_time(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(f"--start {text!r}: write a time such as 2025-03-01T00:00:00Z") from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def parse(arguments: Sequence[str] | None) -> SandboxConfig:
    """Read the command line; raises InputError naming the argument that is wrong."""
    parser = CommandLine("sandbox", argument_default=argparse.SUPPRESS)
    parser.description = "A local exchange in Bybit's V5 dialect"
    add = parser.add_argument
    add("--candles", action="append", type=candle_file, metavar="SYMBOL=FILE", help="parquet or CSV; repeat")
    add("--symbols", type=symbol_list, metavar="A,B", help="e.g. BTC/USDT:USDT,ETH/USDT")
    add("--port")
    add("--host", help="0.0.0.0 in a container: whoever reaches it may trade on it")
    add("--speed", help="market seconds per second")
    add("--stepped", action="store_true", help="time moves through POST /__admin/clock only")
    add("--start", type=utc_time, metavar="TIME", help="ISO 8601; without a zone it is UTC")
    add("--seed")
    add("--cash")
    add("--state", metavar="FILE", help="keep orders and positions there over a restart")
    add("--scenario", choices=["crash"], help="-40 %% within an hour, an hour after the start")
    options = vars(parser.parse_args(arguments))
    if options.pop("scenario", None):
        if "candles" in options and "start" not in options:
            raise InputError("--scenario crash on candle files needs --start, e.g. --start 2025-03-01T00:00:00Z")
        options["crash"] = Crash(options.get("start", datetime.now(UTC)) + timedelta(hours=1))
    for name in ("key", "secret"):
        options[name] = os.environ.get(f"QUARTERDECK_SANDBOX_{name.upper()}", "sandbox")
    try:
        return SandboxConfig.model_validate(options | {"candles": dict(options.get("candles", ()))})
    except ValidationError as e:
        wrong = e.errors()[0]
        raise InputError(f"--{wrong['loc'][0]} {wrong['input']}: {wrong['msg']}") from None


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
