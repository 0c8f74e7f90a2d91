"""Column types that mean the same on SQLite and PostgreSQL.

SQLite has neither exact numbers nor times: money is kept there as the Decimal's own text, times as UTC text of one
width, so that order is kept. PostgreSQL gets NUMERIC, TIMESTAMPTZ and JSONB.
"""

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import JSON, DateTime, Dialect, Numeric, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeDecorator, TypeEngine

REPLACEMENT = "\ufffd"


class Money(TypeDecorator[Decimal]):
    """An exact number: NUMERIC without a scale, on SQLite its text. A float is refused."""

    impl = Numeric
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(Text() if dialect.name == "sqlite" else Numeric())

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        if not isinstance(value, Decimal):
            raise TypeError(f"{value!r} is not money; pass Decimal")
        return str(value) if dialect.name == "sqlite" else value

    def process_result_value(self, value: Any, _dialect: Dialect) -> Decimal | None:
        return None if value is None else Decimal(value)


class UtcTime(TypeDecorator[datetime]):
    """An aware time, always UTC when read. A naive one is refused."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value.isoformat()} has no timezone; times are aware UTC")
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class SafeText(TypeDecorator[str]):
    """Text without what PostgreSQL refuses, see `storable`."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, _dialect: Dialect) -> str | None:
        return None if value is None else _storable_text(value)


Document = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
# Replay reads this one byte for byte: JSONB would sort the keys of every object in it.
VerbatimDocument = JSON(none_as_null=True)


def storable(value: Any) -> Any:
    """Return `value` without what PostgreSQL refuses: NUL and lone surrogates in text, NaN and infinite floats.

    A model's reply may hold any of them; a record that cannot be written would cost more than one odd character.
    """
    if isinstance(value, str):
        return _storable_text(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {storable(key): storable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [storable(item) for item in value]
    return value


def _storable_text(text: str) -> str:
    plain = str(text)  # an enum's member too
    if not plain.isascii():
        plain = plain.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return plain.replace("\0", REPLACEMENT)


def storable_json(document: Any) -> str:
    """Write `document` as every JSON column holds it."""
    return json.dumps(storable(document))
