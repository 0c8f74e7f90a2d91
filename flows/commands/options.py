"""Options that several commands take, and what becomes of their values."""

from collections.abc import Callable, Mapping
from functools import wraps
from math import isfinite
from pathlib import Path
from typing import Any

import click

from flows.commands.output import echo, utc_time
from tasks.core.errors import InputError
from tasks.settings import settings

json_option = click.option("--json", "as_json", is_flag=True, help="one JSON document on stdout")
PLACE = click.Path(path_type=Path)
GAPS = (
    "{missing_bars} bars of {timeframe} missing in {gaps} gaps, the longest {longest_bars} from "
    "{longest_from:%Y-%m-%d %H:%M}: nothing is computed across them"
)
lines_option = click.option(
    "--json", "as_json", is_flag=True, expose_value=False, help="JSON lines; it prints nothing else anyway"
)
decider_option = click.option(
    "--decider",
    default="",
    callback=lambda _, __, name: name or settings().decider_name,
    help="rules, hold, llm:single, llm:single@v002, recorded:FILE",
)
mask_option = click.option(
    "--mask",
    is_flag=False,
    flag_value="mask",
    help="hide names, dates, prices and most of the question; =strong perturbs the candles too, =KEY hides otherwise",
)
news_option = click.option("--news", default="", help='JSON lines {"at","title","source"}; without it news are unknown')


class Finite(click.FloatRange):
    """A number from 0 on; NaN and infinity are none."""

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        number: float = super().convert(value, param, ctx)
        return number if isfinite(number) else self.fail(f"{value} is no finite number", param, ctx)


def time_option(name: str, **more: Any) -> Callable[[Any], Any]:
    """Take a time, None where it is empty."""
    return click.option(name, callback=lambda _, option, text: utc_time(text, option.opts[0]), **more)


def span_options(command: Any) -> Any:
    """Take --start and --end."""
    return time_option("--start", help="ISO time, UTC")(time_option("--end", help="ISO time, UTC")(command))


def candle_options(required: bool = True, stored: bool = False) -> Callable[[Any], Any]:
    """Take --candles and --symbol; the command gets `files`, symbol -> path.

    stored: it also gets `symbols`, where it has no files.
    """

    def decorated(command: Any) -> Any:
        @click.option("--candles", multiple=True, required=required, help="FILE, or SYMBOL=FILE, repeatable")
        @click.option("--symbol", "symbols", multiple=True, help="ccxt unified, e.g. BTC/USDT:USDT")
        @wraps(command)
        def with_files(candles: tuple[str, ...], symbols: tuple[str, ...], **options: Any) -> Any:
            from tasks.adapters.files.candles import parse_candle_options

            for symbol in symbols:
                base, slash, rest = symbol.partition("/")
                if not (base and slash and rest):
                    raise InputError(
                        f"--symbol {symbol!r}: not a ccxt unified symbol such as BTC/USDT:USDT or BTC/USDT"
                    )
            files = parse_candle_options(candles, symbols) if candles else {}
            options |= {"symbols": () if files else symbols} if stored else {}
            return command(files={symbol: str(path.resolve()) for symbol, path in files.items()}, **options)

        return with_files

    return decorated


def one_market(files: dict[str, str], command: str) -> Any:
    """Return the market of the one symbol that a command is about."""
    if len(files) != 1:
        raise InputError(f"{command} needs exactly one --symbol")
    [market] = markets(files).values()
    return market


def markets(files: dict[str, str]) -> dict[str, Any]:
    """Read candle files into markets, by symbol."""
    from tasks.adapters.files.candles import read_candles
    from tasks.core.market.market import Market

    read = {s: Market.from_base(s, read_candles(Path(path)), settings().events) for s, path in files.items()}
    name_gaps(read)
    return read


def name_gaps(markets: Mapping[str, Any]) -> dict[str, Any]:
    """Say on stderr which candles are missing; returns it by symbol, for --json."""
    gaps = {symbol: found for symbol, market in markets.items() if (found := market.gaps)}
    for symbol, each in gaps.items():
        echo(f"{symbol}: {GAPS.format_map(each)}", err=True)
    return gaps


def replay_options(command: Any, required: bool = True) -> Any:
    """Take what a replay reads, and its span; the command gets `files` and `funding`, symbol -> path."""

    @candle_options(required)
    @span_options
    @click.option(
        "--funding",
        "fundings",
        multiple=True,
        help="SYMBOL=FILE of funding times and rates; without it funding is unknown",
    )
    @click.option(
        "--instruments", default="", help="JSON or TOML, symbol -> tick, step, ...; else as stored or inferred"
    )
    @news_option
    @wraps(command)
    def with_funding(files: dict[str, str], fundings: tuple[str, ...], **options: Any) -> Any:
        funding = {}
        for option in fundings:
            symbol, sep, path = option.partition("=")
            if not sep or symbol not in files:
                raise InputError(f"--funding {option}: write SYMBOL=FILE with a symbol of {', '.join(files)}")
            funding[symbol] = str(Path(path).resolve())
        return command(files=files, funding=funding, **options)

    return with_funding
