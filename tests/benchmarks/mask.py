"""How often the market behind a masked question is found in a table of candles: symbol and date, within a day.

The attacker knows the code and has five whole histories, the right one among them. He makes every event's question of
them as the mask would show it, takes every number and word of the text a model gets, or of its JSON, and names the
nearest of the table: by the sum of differences, each at most one deviation, or by the count of values that differ,
whichever finds more. Equally near ones share the guess. Then he tries what was found to work alone: the last three
daily or 5m bars as ratios, turnover, the anchors. The old mask is the new one without what it withholds.
"""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from tasks.adapters.files.candles import read_candles
from tasks.core.decision.decider import variables_of
from tasks.core.decision.llm.role_texts import variables_of_roles
from tasks.core.decision.masked_question import as_shown
from tasks.core.lab.masking import Mask, mask_bars, perturbed
from tasks.core.lab.moments import flat_account, flat_question
from tasks.core.market.bars import epoch_s
from tasks.core.market.market import Market
from tasks.core.market.snapshot import to_json
from tasks.core.simulation.backtest_inputs import World
from tasks.core.types.question import Question
from tasks.core.types.strategy import Strategy, Told
from tests.benchmarks.tapes import walk
from tests.core.instrument_cases import linear, spot
from tests.core.replayed import strategy
from tests.core.shared_data import SHARED

HISTORIES = {
    "BTC/USDT:USDT": "BTC-USDT-PERP_5m_binanceusdm_2024-12_2026-02",
    "ETH/USDT:USDT": "ETH-USDT-PERP_5m_binanceusdm_2024-12_2026-02",
    "BTC/USDT": "BTC-USDT_5m_binance_2022-01_2023-09",
    "DOGE/USDT": "DOGE-USDT_5m_binance_2022-01_2023-09",
    "BTC/USD": "BTC-USDT_1h_binance_2017-08_2024-04",
}
WARM_UP = 40 * 86_400  # of the slowest number that is shown under a mask
QUESTIONS = 75  # of each 5m history
DAY = 86_400
Leaves = dict[str, Any]
Texts = Callable[[Question], Leaves]


class Asked(NamedTuple):
    """Questions at the events of histories, with the base currency and the time each is truly of."""

    bases: np.ndarray
    at_s: np.ndarray
    questions: list[Question]


def histories() -> tuple[str, dict[str, pd.DataFrame]]:
    """Return what the histories are, and them."""
    paths = {symbol: SHARED / "ohlcv" / f"{name}.parquet" for symbol, name in HISTORIES.items()}
    if missing := [path.name for path in paths.values() if not path.exists()]:
        walks = {f"{base}/USDT:USDT": walk(60_000, seed) for seed, base in enumerate(("A", "B", "C", "D", "E"))}
        return f"five generated histories of 60,000 bars, as {missing[0]} is not here", walks
    return "five recorded histories", {symbol: read_candles(path) for symbol, path in paths.items()}


# --- the questions


def ask(symbol: str, bars: pd.DataFrame, masked: bool, shift: timedelta = timedelta(0), name: str = "") -> Asked:
    """Ask at every event of `symbol`; where there are no 5m bars at every fourth hour."""
    name = name or symbol
    market = Market.from_base(name, bars)
    at_s = np.unique(market.event_closes) if "5m" in market.bars else epoch_s(market.bars["1h"].index)[3::4] + 3600
    at_s = at_s[at_s > at_s[0] + WARM_UP]
    terms = linear(name) if ":" in symbol else spot(name)
    plan = strategy(name, instruments={name: terms}, told=Told(memory=True, masked=masked))
    questions = list(_questions(market, plan, at_s))
    return Asked(np.full(len(at_s), symbol.split("/")[0]), at_s - round(shift.total_seconds()), questions)


def _questions(market: Market, plan: Strategy, at_s: np.ndarray) -> Iterator[Question]:
    for part in np.array_split(at_s, len(at_s) // 1024 + 1):
        market.read_ahead(part)
        for at in (datetime.fromtimestamp(each, UTC) for each in part.tolist()):
            reasons = market.reasons(at - timedelta(seconds=1), at)
            yield flat_question(market, flat_account(market, plan, at), plan, World(), at, reasons)


def joined(parts: list[Asked]) -> Asked:
    """Put histories together."""
    bases, at_s, questions = zip(*parts, strict=True)
    return Asked(np.concatenate(bases), np.concatenate(at_s), [each for some in questions for each in some])


def hidden(symbol: str, bars: pd.DataFrame, masked: bool) -> Asked:
    """Ask some questions behind a mask whose key the attacker does not know."""
    mask = Mask(f"of the benchmark, {symbol}")
    name, disguised = mask_bars(bars, symbol, mask)
    asked = ask(symbol, disguised, masked, -mask.shift, name)
    chosen = np.random.default_rng(1).choice(len(asked.at_s), min(QUESTIONS, len(asked.at_s)), replace=False)
    return Asked(asked.bases[chosen], asked.at_s[chosen], [asked.questions[i] for i in chosen])


# --- what they say


def in_json(question: Question) -> Leaves:
    """Return every value of the snapshot's JSON."""
    return dict(_flat("", json.loads(to_json(as_shown(question).snapshot))))


def _flat(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict | list):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _flat(f"{path}.{key}", each)
    else:
        yield path, value


def in_text(variables: Callable[[Question], dict[str, str]]) -> Texts:
    """Return what reads every number and word of a prompt's variables, named by their row and place."""

    def read(question: Question) -> Leaves:
        leaves = {}
        for variable, text in variables(as_shown(question)).items():
            if "\n" not in text and "=" not in text:
                leaves[variable] = text
                continue
            for head, *tokens in (line.split(" ") for line in text.splitlines()):
                for i, token in enumerate([head, *tokens] if "=" in head else tokens):
                    name, sign, value = token.partition("=")
                    leaves[f"{variable}|{'' if '=' in head else head}|{name if sign else i}"] = value if sign else token
        return leaves

    return read


VIEWS: dict[str, Texts] = {
    "snapshot JSON": in_json,
    "llm:single": in_text(variables_of),
    "llm:panel": in_text(variables_of_roles),
}


def columns(leaves: list[Leaves]) -> dict[str, np.ndarray]:
    """Return each value's column: numbers, unknown as NaN, and words as whole codes; of the pair its contract."""
    names = sorted({name for each in leaves for name in each})
    return {name: _column([each.get(name) for each in leaves]) for name in names}


def _column(values: list[Any]) -> np.ndarray:
    parts = [str(value).partition("/")[2] if "/USD" in str(value) else value for value in values]
    parts = [None if value in ("-", "") else value for value in parts]
    try:
        return np.array(parts, dtype=float)
    except ValueError:
        return pd.factorize(np.array([None if x is None else str(x) for x in parts], dtype=object))[0]


# --- the look-up


def found(table: Asked, those: Asked, known: dict[str, np.ndarray]) -> float:
    """Return the share of `those` questions whose nearest in the table is theirs; `known`: columns of both."""
    kept = [_scaled(column) for column in known.values() if len(np.unique(column)) > 1]
    if not kept:
        return 0.0
    values = np.array(kept, dtype=np.float32)
    whole, asked, hits = values[:, : len(table.at_s)], values[:, len(table.at_s) :].T, np.zeros(2)
    for base, at, row in zip(those.bases, those.at_s, asked, strict=True):
        right = (table.bases == base) & (np.abs(table.at_s - at) <= DAY)
        apart = np.minimum(np.abs(whole - row[:, None]), 1)
        for metric, far in enumerate((apart.sum(axis=0), (apart > 1e-5).sum(axis=0))):
            hits[metric] += right[far <= far.min() + 1e-4].mean()
    return float(hits.max() / len(asked))


def _scaled(column: np.ndarray) -> np.ndarray:
    """Measure numbers in deviations, with unknown far from all; two words are one deviation apart or more."""
    if column.dtype.kind == "i":
        return column
    deviation = float(np.nanstd(column)) or 1.0
    return np.nan_to_num(column / deviation, nan=1e6)


def chance(table: Asked, those: Asked) -> float:
    """Return the share that a guess among the table finds."""
    pairs = zip(those.bases, those.at_s, strict=True)
    return float(np.mean([((table.bases == b) & (np.abs(table.at_s - at) <= DAY)).mean() for b, at in pairs]))


def ratios(known: dict[str, np.ndarray], timeframe: str) -> dict[str, np.ndarray]:
    """Return the last three bars over the first one's open, which no factor changes."""
    bars = {name: column for name, column in known.items() if f".timeframes.{timeframe}.last3." in name}
    first = bars.get(f".timeframes.{timeframe}.last3.0.0")
    return {name: np.log(bars[name] / first) for name in bars if name[-1] in "0123"} if first is not None else {}


def turnovers(known: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return price times volume of the last three daily bars."""
    bars = (f".timeframes.1d.last3.{i}" for i in range(3))
    return {bar: np.log(known[f"{bar}.3"] * known[f"{bar}.4"]) for bar in bars if f"{bar}.4" in known}


def anchors(known: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: column for name, column in known.items() if ".htf_anchors." in name}


ALONE: dict[str, Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]] = {
    "daily bars": lambda known: ratios(known, "1d"),
    "5m bars": lambda known: ratios(known, "5m"),
    "turnover": turnovers,
    "anchors": anchors,
}


def attack(label: str, table: Asked, those: Asked) -> None:
    """Print what each way of looking finds."""
    both = [*table.questions, *those.questions]
    n, weekday = len(those.at_s), [datetime.fromtimestamp(at, UTC).weekday() for at in those.at_s.tolist()]
    for name, read in VIEWS.items() if label != "old" else list(VIEWS.items())[:1]:
        known = columns([read(question) for question in both])
        rates = {"everything": found(table, those, known)}
        if name == "snapshot JSON":
            rates |= {way: found(table, those, alone(known)) for way, alone in ALONE.items()}
            said = [as_shown(question).snapshot.as_of.weekday() for question in those.questions]
            rates["weekday is told"] = float(np.mean(np.array(said) == weekday))
        told = (f"{way} {rate:.1%} ({rate * n:.0f} of {n})" for way, rate in rates.items())
        print(f"{label:8} {name:14} {', '.join(told)}", flush=True)


def main() -> None:
    """Print the rates before, under the default mask and under the strong one, and what a guess finds."""
    what, tapes = histories()
    asked = {symbol: bars for symbol, bars in tapes.items() if symbol != "BTC/USD"}
    tables = {masked: joined([ask(symbol, bars, masked) for symbol, bars in tapes.items()]) for masked in (False, True)}
    for label, masked in (("old", False), ("default", True), ("strong", True)):
        table = tables[masked]
        shown = {symbol: perturbed(bars, 1) if label == "strong" else bars for symbol, bars in asked.items()}
        those = joined([hidden(symbol, bars, masked) for symbol, bars in shown.items()])
        if label == "old":
            print(f"{what}: {len(table.at_s):,} questions in the table; a guess finds {chance(table, those):.2%}")
        attack(label, table, those)


if __name__ == "__main__":
    main()
