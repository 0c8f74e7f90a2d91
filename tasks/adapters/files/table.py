"""Files of tables as people bring them: parquet, feather, or text, packed or not, with a header or without.

pandas reads them. Looked for here are only the line a text's table begins on, the columns by their names, and the unit
of times by their size. What is wrong is said in one line, with the place in the file that a person would look at.
"""

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy import ndarray

from tasks.core.errors import InputError

BINARY: dict[str, Callable[[Path], pd.DataFrame]] = {".parquet": pd.read_parquet, ".feather": pd.read_feather}
TEXT = (".csv", ".tsv", ".txt", ".gz", ".zip", ".bz2", ".xz", ".zst")
HEAD = 40  # lines among which a text's table begins
DATA = re.compile(r"\s*([-+]?[\d.,]+(e[-+]?\d+)?|\d{4}\D\d.*)\s*", re.IGNORECASE)  # a number or a date
BELOW = (1e11, 1e14, 1e17)  # a time since 1970 is in s below the first of these, in ms, us, and ns above the last
YEARS = 946_684_800_000, 4_102_444_800_000  # in ms: 2000 to 2100
TIME = (
    "(candle)?(open|start)(time|at|timestamp)(utc|ms)?|time(period)?(open|start)|start",
    "unix(time)?(stamp)?(ms)?",
    "ts|t|mts|timestamp(utc|ms)?",
    "(date)?time(utc)?",
    "date(utc)?",
    "index",
)  # what a column of times is called, letters and digits only, the best first


class TableFile(NamedTuple):
    """The named columns of a file, a row each. `at`: the line of a text, or the row, that a person finds it in."""

    path: Path
    unit: str
    at: ndarray
    bare: bool  # without a header: its columns are in the order in which they were asked for
    times: ndarray  # UTC, ms
    numbers: dict[str, ndarray]

    def refuse(self, bad: ndarray, what: Callable[[int], str]) -> None:
        """Raise InputError about the first bad row, if there is one."""
        if bad.any():
            first = int(bad.argmax())
            raise InputError(f"{self.path}: {self.unit} {self.at[first]}: {what(first)}")

    def ascending(self) -> "TableFile":
        """Return the rows by time, those that say the same twice once; raises InputError where two differ."""
        if (np.diff(self.times) > 0).all():
            return self
        order = np.argsort(self.times, kind="stable")
        again = np.r_[False, np.diff(self.times[order]) == 0]
        for second in np.flatnonzero(again).tolist():
            one, other = order[[second - 1, second]].tolist()
            if self.shown(one) != self.shown(other):
                raise InputError(
                    f"{self.path}: {self.unit} {self.at[other]}: {self.time(other)} has {self.shown(other)}, but "
                    f"{self.unit} {self.at[one]} has {self.shown(one)}: keep the one that is final"
                )
        kept = order[~again]
        numbers = {name: column[kept] for name, column in self.numbers.items()}
        return self._replace(at=self.at[kept], times=self.times[kept], numbers=numbers)

    def shown(self, i: int) -> str:
        return " ".join(f"{name} {column[i]:.15g}" for name, column in self.numbers.items())

    def time(self, i: int) -> str:
        return f"{pd.Timestamp(self.times[i], unit='ms'):%Y-%m-%d %H:%M:%S}"


def read_table(path: Path, what: str, columns: Mapping[str, Sequence[str]], time: Sequence[str] = TIME) -> TableFile:
    """Read a time and columns of numbers; raises InputError naming the file and what is wrong with it.

    time, columns: patterns of what each is called, letters and digits only, the best first. A float32 is read as the
    shortest decimal that it is: 45000.1, and not 45000.1015625.
    """
    wanted, binary = {"time": time, **columns}, BINARY.get(path.suffix.lower())
    if not path.is_file() or not (binary or path.suffix.lower() in TEXT):
        raise InputError(f"{path}: no such {what} that ends in {', '.join((*BINARY, *TEXT))}")
    try:
        names, raw = _binary(binary(path)) if binary else _text(path)
    except (OSError, ValueError, csv.Error) as e:
        reason = str(e).strip().split("\n", 1)[0][:120]
        raise InputError(f"{path}: cannot be read as a table ({reason})") from e
    width = range(raw.shape[1])
    place = {name: _position(names, wanted[name]) if names else i for i, name in enumerate(wanted)}
    if lacking := [name for name, i in place.items() if i not in width]:
        there = ", ".join(names) or f"{len(width)} without names"
        raise InputError(f"{path}: a {what} needs {','.join(wanted)}, it lacks {','.join(lacking)}; it has {there}")
    found = {name: raw.iloc[:, i] for name, i in place.items()}
    table = TableFile(
        path,
        "row" if binary else "line",
        raw.index.to_numpy(),
        not names,
        _times(found["time"]),
        {name: _numbers(found[name]) for name in columns},
    )
    table.refuse((table.times < YEARS[0]) | (table.times >= YEARS[1]), partial(_unusable, "time", found["time"]))
    for name, values in table.numbers.items():
        table.refuse(~np.isfinite(values), partial(_unusable, name, found[name]))
    return table


def _unusable(name: str, column: pd.Series, i: int) -> str:
    value = "missing" if pd.isna(column.iloc[i]) else repr(str(column.iloc[i]))
    remedy = "write s, ms, us or ns since 1970, or 2024-01-31T00:05Z" if name == "time" else "mend or leave out the row"
    return f"{name} is {value}: {remedy}"


def _binary(frame: pd.DataFrame) -> tuple[list[str], pd.DataFrame]:
    """Return the names of each column and the rows, counted from 1; times may be the index."""
    frame = frame if isinstance(frame.index, pd.RangeIndex) else frame.reset_index()
    frame.index = pd.RangeIndex(1, len(frame) + 1)
    return list(map(str, frame.columns)), frame


def _text(path: Path) -> tuple[list[str], pd.DataFrame]:
    """Return the names of each column, none without a header, and the rows by their line.

    What stands above the table is as wide as it only where it is its header, which may take several lines.
    """
    read: Any = partial(pd.read_csv, path, header=None, encoding="utf-8-sig", skip_blank_lines=False)
    head = read(sep="\1", nrows=HEAD, dtype=str, keep_default_na=False, quoting=csv.QUOTE_NONE)
    lines = head[0].tolist()
    last = next((line for line in reversed(lines) if line.strip()), "")
    separator = max(";\t|,", key=last.count)  # the last one is in decimals too
    rows = list(csv.reader(lines, delimiter=separator))
    width = len(rows[lines.index(last)])
    begins = next((i for i, row in enumerate(rows) if len(row) == width and any(map(DATA.fullmatch, row))), None)
    if begins is None:
        raise ValueError(f"no row of numbers in its first {len(lines)} lines")
    header = zip(*(row for row in rows[:begins] if len(row) == width), strict=True)
    names = [",".join(of) or "index" for of in header]
    comma = separator == ";" and "," in "".join(rows[begins])
    exact = {"decimal": "," if comma else ".", "float_precision": "round_trip", "low_memory": False}
    table: pd.DataFrame = read(sep=separator, skiprows=begins, skipinitialspace=True, **exact)
    table.index += begins + 1
    return names, table.dropna(how="all")


def _position(names: Sequence[str], patterns: Sequence[str]) -> int:
    """Return which column goes by the best of the patterns, -1 for none."""
    plain = [re.sub("[^a-z0-9,]", "", name.lower()) for name in names]
    return next((i for p in patterns for i, name in enumerate(plain) if re.search(rf"\b({p})\b", name)), -1)


def _numbers(column: pd.Series) -> ndarray:
    """Return a column as floats, NaN where it is no number."""
    exact = column.astype(str) if column.dtype == np.float32 else column
    return np.asarray(pd.to_numeric(exact, errors="coerce"), dtype=float)


def _times(column: pd.Series) -> ndarray:
    """Return times as UTC ms, each by its type or by its own size, 0 where it is none; what has no zone is UTC."""
    numbers = pd.to_numeric(column, errors="coerce") if column.dtype in ("object", "str") else column
    if pd.api.types.is_numeric_dtype(numbers) and 2 * numbers.notna().sum() > len(numbers):
        since = np.nan_to_num(numbers.to_numpy())
        s, ms, us = (since < limit for limit in BELOW)
        whole = np.where(s, since * 1000, np.where(ms, since, since // np.where(us, 1000, 1_000_000)))
        return np.asarray(whole, dtype="int64")
    times = pd.to_datetime(column, utc=True, format="ISO8601", errors="coerce")
    return times.fillna(pd.Timestamp(0, tz="UTC")).dt.as_unit("ms").astype("int64").to_numpy()
