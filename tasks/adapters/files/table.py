"""Table files: parquet or CSV with named numeric columns. What is wrong with one is said in one line."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd

from tasks.core.errors import InputError

READERS: dict[str, Callable[[Path], pd.DataFrame]] = {".parquet": pd.read_parquet, ".csv": pd.read_csv}


def read_table(path: Path, what: str, columns: Mapping[str, str]) -> pd.DataFrame:
    """Read columns (name -> type) of a file, by the first of them: ascending, without duplicates.

    A float32 is read as the shortest decimal that it is: 45000.1, and not 45000.1015625.
    Raises InputError naming the file and what is wrong with it.
    """
    reader, key = READERS.get(path.suffix.lower()), next(iter(columns))
    if reader is None or not path.is_file():
        raise InputError(f"{path}: no such {what} that ends in {' or '.join(READERS)}")
    try:
        raw = reader(path)[list(columns)]
        exact = raw.astype({name: "str" for name, kind in raw.dtypes.items() if kind == "float32"})
        return exact.astype(dict(columns)).drop_duplicates(key).sort_values(key)
    except (OSError, KeyError, TypeError, ValueError, pd.errors.ParserError) as e:
        reason = str(e).strip().split("\n", 1)[0][:120]
        raise InputError(f"{path}: a {what} needs numeric columns {','.join(columns)} ({reason})") from e
