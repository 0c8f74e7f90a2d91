"""Instrument files: JSON or TOML, symbol -> terms, such as {"BTC/USDT:USDT": {"tick": 0.1, "step": 0.001}}.

Numbers are read as they are written, never through a float. What an entry leaves out comes from elsewhere, see
`core.market.instruments`; what contradicts the symbol's form (a short on spot) is an error, not a wish.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import ValidationError

from tasks.adapters.files.document import read_document
from tasks.core.market.instruments import Resolved, kind_of, resolve, warm_up
from tasks.core.types import InputError, Instrument, InstrumentTerms

FORM = re.compile(r"[^\s/:]+/[^\s/:]+(:[^\s/:]+)?")
GRID, ABOVE, LEAST = "a number from 1e-18 to 1e18", "a number above 0, up to 1e18", "a number from 0 to 1e18"
MEANT = {
    "tick": GRID, "step": GRID, "min_quantity": LEAST, "min_notional": LEAST, "max_leverage": ABOVE,
    "max_quantity": ABOVE,
    "shorting": "true or false", "kind": "spot or linear",
    "maintenance": 'tiers from 0 up, such as [{"above": 0, "rate": 0.005}, {"above": 2000000, "rate": 0.01}]',
}  # fmt: skip


def resolved(
    bars: Mapping[str, pd.DataFrame],
    decisions: Mapping[str, datetime],
    file: Path | None,
    stored: Callable[[str], Instrument | None],
) -> dict[str, Resolved]:
    """Return every symbol's instrument and where it comes from, see `resolve`; decisions: the first one of each."""
    named = read_instruments(file, tuple(bars)) if file else {}
    return {
        symbol: resolve(symbol, warm_up(frame, decisions[symbol]), named.get(symbol), stored(symbol))
        for symbol, frame in sorted(bars.items())
    }


def read_instruments(path: Path, symbols: Sequence[str]) -> dict[str, InstrumentTerms]:
    """Read what a file names of instruments, by symbol.

    symbols: those that are traded. More may be named, unless one that is traded is missing: that looks like a typo.
    Raises InputError naming file, symbol, key and value.
    """
    document = read_document(path, "--instruments", '{"BTC/USDT:USDT": {"tick": 0.1, "step": 0.001}}')
    found = {symbol: _terms(path, symbol, entry) for symbol, entry in document.items()}
    missing = [symbol for symbol in symbols if symbol not in found]
    others = [symbol for symbol in found if symbol not in symbols]
    if missing and others:
        raise InputError(
            f"--instruments {path}: {others[0]}: is not traded, but {missing[0]} is: rename it or leave it out"
        )
    return found


def _terms(path: Path, symbol: str, entry: Any) -> InstrumentTerms:
    where = f"--instruments {path}: {symbol}"
    if not FORM.fullmatch(symbol):
        raise InputError(f"{where}: not a symbol such as BTC/USDT:USDT or BTC/USDT (in TOML within quotes)")
    if not isinstance(entry, dict):
        raise InputError(f"{where}: is {entry!r}: give a table of {', '.join(MEANT)}")
    if "leverage" in entry and "max_leverage" not in entry:
        entry = {"max_leverage": entry["leverage"]} | {key: entry[key] for key in entry if key != "leverage"}
    try:
        terms = InstrumentTerms.model_validate(entry)
    except ValidationError as e:
        first = e.errors()[0]
        key, value = first["loc"][0], first["input"]
        value = str(value) if isinstance(value, Decimal) else json.dumps(value, default=str)[:60]
        if key not in MEANT:
            raise InputError(f"{where}: {key} is {value}: no such key; there are {', '.join(MEANT)}") from e
        raise InputError(f"{where}: {key} is {value}: give {MEANT[str(key)]}") from e
    _check_form(where, symbol, terms)
    return terms


def _check_form(where: str, symbol: str, terms: InstrumentTerms) -> None:
    """Raise InputError where the terms contradict what the symbol's form says."""
    kind = kind_of(symbol)
    if terms.kind not in (None, kind):
        raise InputError(f"{where}: kind is {terms.kind}: by its form it is {kind}; BASE/QUOTE:SETTLE is linear")
    if kind == "spot" and terms.shorting:
        raise InputError(f"{where}: shorting is true: spot is never sold short; leave it out")
    if kind == "spot" and terms.max_leverage not in (None, 1):
        raise InputError(f"{where}: max_leverage is {terms.max_leverage}: spot has 1; leave it out")
