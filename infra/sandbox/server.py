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

from infra.sandbox.app import SandboxApp
from infra.sandbox.config import SandboxConfig
from infra.sandbox.crash import Crash
from tasks.core.errors import InputError

HOST = "127.0.0.1"
PORT = 8891


def uvicorn_server(app: SandboxApp) -> uvicorn.Server:
    """Return a quiet server that does not wait long for clients when it is told to stop."""
    options = uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=1, timeout_keep_alive=75
    )
    return uvicorn.Server(options)


def listen(port: int, host: str = HOST) -> socket.socket:
    """Open the port: from here on clients are answered, if a moment later."""
    try:
        return socket.create_server((host, port), backlog=128)
    except (OSError, OverflowError) as e:
        raise InputError(f"port {port} of {host} cannot be used ({e}): choose another with --port") from e


class CommandLine(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(message)


def parse(arguments: Sequence[str] | None) -> tuple[SandboxConfig, int, str]:
    """Read the command line; raises InputError naming the argument that is wrong."""
    parser = CommandLine(
        prog="sandbox", description="A local exchange in Bybit's V5 dialect", argument_default=argparse.SUPPRESS
    )
    parser.add_argument("--candles", action="append", metavar="SYMBOL=FILE", help="parquet or CSV; repeat")
    parser.add_argument("--symbols", metavar="A,B", help="e.g. BTC/USDT:USDT,ETH/USDT")
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--host", default=HOST, help="0.0.0.0 in a container: whoever reaches it may trade on it")
    parser.add_argument("--speed", help="market seconds per second")
    parser.add_argument("--stepped", action="store_true", help="time moves through POST /__admin/clock only")
    parser.add_argument(
        "--start", metavar="TIME", type=datetime.fromisoformat, help="ISO 8601; without a zone it is UTC"
    )
    parser.add_argument("--seed")
    parser.add_argument("--cash")
    parser.add_argument("--state", metavar="FILE", help="keep orders and positions there over a restart")
    parser.add_argument("--scenario", choices=["crash"], help="-40 %% within an hour, an hour after the start")
    options = vars(parser.parse_args(arguments))
    for name in ("key", "secret"):
        options[name] = os.environ.get(f"QUARTERDECK_SANDBOX_{name.upper()}", "sandbox")
    pairs = [text.partition("=") for text in options.pop("candles", ())]
    for symbol, _, file in pairs:
        if not file:
            raise InputError(f"--candles {symbol!r}: write SYMBOL=FILE, e.g. BTC/USDT:USDT=btc.parquet")
    symbols = [symbol.strip() for symbol in options.pop("symbols", "").split(",") if symbol.strip()]
    options |= {"candles": {symbol: file for symbol, _, file in pairs}, "symbols": symbols}
    scenario, port, host = options.pop("scenario", ""), options.pop("port"), options.pop("host")
    try:
        config = SandboxConfig.model_validate(options)
    except ValidationError as e:
        wrong = e.errors()[0]
        raise InputError(f"--{wrong['loc'][0]} {wrong['input']}: {wrong['msg']}") from None
    if scenario:
        if config.candles and not config.start:
            raise InputError("--scenario crash on candle files needs --start, e.g. --start 2025-03-01T00:00:00Z")
        crash = Crash((config.start or datetime.now(UTC)) + timedelta(hours=1))
        config = config.model_copy(update={"crash": crash})
    return config, port, host


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        config, port, host = parse(arguments)
        app, listener = SandboxApp(config), listen(port, host)
    except InputError as e:
        print(f"sandbox: {e}", file=sys.stderr)
        return 2
    for number in (signal.SIGINT, signal.SIGTERM):
        # uvicorn has shut down and raises the signal it was stopped by once more
        signal.signal(number, lambda *_: sys.exit(0))
    ex, where = app.exchange, f"http://{host}:{listener.getsockname()[1]}"
    print(f"sandbox url={where} clock={ex.now.isoformat()} symbols={','.join(ex.markets)}", file=sys.stderr, flush=True)
    uvicorn_server(app).run(sockets=[listener])
    return 0
