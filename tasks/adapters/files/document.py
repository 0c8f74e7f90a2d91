"""A JSON or TOML file with one table in it; numbers are read as they are written, never through a float."""

import json
import tomllib
from decimal import Decimal
from pathlib import Path

from tasks.core.types import InputError, JsonObject

READERS = {".json": json.loads, ".toml": tomllib.loads}


def read_document(path: Path, option: str, example: str) -> JsonObject:
    """Read a file by its ending; raises InputError naming option, file and what would be right."""
    where, ending = f"{option} {path}", path.suffix.lower()
    if ending not in READERS:
        raise InputError(f"{where}: give a file that ends in {' or '.join(READERS)}")
    try:
        document = READERS[ending](path.read_text(encoding="utf-8-sig"), parse_float=Decimal)
    except OSError as e:
        raise InputError(f"{where}: cannot be read ({e.strerror})") from e
    except (ValueError, RecursionError) as e:
        raise InputError(f"{where}: not {ending[1:].upper()} ({str(e).splitlines()[0]})") from e
    if not isinstance(document, dict):
        raise InputError(f"{where}: write {example}")
    return document
