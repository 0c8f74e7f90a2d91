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
from decimal import Decimal, InvalidOperation
from pathlib import Path

import uvicorn

from infra.sandbox.app import SandboxApp, create_app
from infra.sandbox.config import SandboxConfig
from infra.sandbox.scenario import Crash
from tasks.core.errors import InputError

HOST = "127.0.0.1"
PORT = 8891


def serve(config: SandboxConfig, port: int = PORT, host: str = HOST) -> None:
    """Serve until a signal ends it; raises InputError for a wrong configuration or a port in use."""
    app = create_app(config)
    listener = _listen(port, host)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    ex = app.venue.exchange
    where = f"http://{host}:{listener.getsockname()[1]}"
    print(f"sandbox url={where} clock={ex.now.isoformat()} symbols={','.join(ex.markets)}", file=sys.stderr, flush=True)
    uvicorn_server(app).run(sockets=[listener])


def uvicorn_server(app: SandboxApp) -> uvicorn.Server:
    """Return a quiet server that does not wait long for clients when it is told to stop."""
    options = uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=1, timeout_keep_alive=75
    )
    return uvicorn.Server(options)


def _listen(port: int, host: str = HOST) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)  # from here on clients are answered, if a moment later
    except (OSError, OverflowError) as e:
        listener.close()
        raise InputError(f"port {port} of {host} cannot be used ({e}): choose another with --port") from e
    return listener


def _leave(_number: int, _frame: object) -> None:
    """End with code 0: uvicorn has shut down and raises the signal it was stopped by once more."""
    sys.exit(0)


def parse(arguments: Sequence[str] | None) -> tuple[SandboxConfig, int, str]:
    """Read the command line; raises InputError naming the argument that is wrong."""
    parser = argparse.ArgumentParser(prog="sandbox", description="A local exchange in Bybit's V5 dialect")
    parser.add_argument("--candles", action="append", default=[], metavar="SYMBOL=FILE", help="parquet or CSV; repeat")
    parser.add_argument("--symbols", default="", metavar="A,B", help="e.g. BTC/USDT:USDT,ETH/USDT")
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--host", default=HOST, help="0.0.0.0 in a container: whoever reaches it may trade on it")
    parser.add_argument("--speed", type=float, default=1.0, help="market seconds per second")
    parser.add_argument("--stepped", action="store_true", help="time moves through POST /__admin/clock only")
    parser.add_argument("--start", default="", metavar="TIME", help="ISO 8601; without a zone it is UTC")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--cash", default="10000")
    parser.add_argument("--state", metavar="FILE", help="keep orders and positions there over a restart")
    parser.add_argument("--scenario", choices=["crash"], help="-40 %% within an hour, an hour after the start")
    given = parser.parse_args(arguments)
    start = _time(given.start)
    config = SandboxConfig(
        candles=dict(_candle_file(text) for text in given.candles),
        symbols=tuple(s.strip() for s in given.symbols.split(",") if s.strip()),
        seed=_seed(given.seed),
        cash=_cash(given.cash),
        start=start,
        speed=given.speed,
        stepped=given.stepped,
        key=os.environ.get("QUARTERDECK_SANDBOX_KEY", "sandbox"),
        state=Path(given.state) if given.state else None,
        crash=_crash(start, bool(given.candles)) if given.scenario else None,
        secret=os.environ.get("QUARTERDECK_SANDBOX_SECRET", "sandbox"),
    )
    return config, given.port, given.host


def _candle_file(text: str) -> tuple[str, Path]:
    symbol, equals, file = text.partition("=")
    if not equals or not file:
        raise InputError(f"--candles {text!r}: write SYMBOL=FILE, e.g. BTC/USDT:USDT=btc.parquet")
    return symbol, Path(file)


def _crash(start: datetime | None, candles: bool) -> Crash:
    if start is None and candles:
        raise InputError("--scenario crash on candle files needs --start, e.g. --start 2025-03-01T00:00:00Z")
    return Crash((start or datetime.now(UTC)) + timedelta(hours=1))


def _seed(seed: int) -> int:
    if seed < 0:
        raise InputError(f"--seed {seed}: give 0 or more")
    return seed


def _cash(text: str) -> Decimal:
    try:
        cash = Decimal(text)
    except InvalidOperation:
        raise InputError(f"--cash {text!r}: give a number of USDT") from None
    if not cash.is_finite() or cash <= 0:
        raise InputError(f"--cash {text}: give more than 0 USDT")
    return cash


def _time(text: str) -> datetime | None:
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(f"--start {text!r}: write a time such as 2025-03-01T00:00:00Z") from None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        config, port, host = parse(arguments)
        serve(config, port, host)
    except InputError as e:
        print(f"sandbox: {e}", file=sys.stderr)
        return 2
    return 0
