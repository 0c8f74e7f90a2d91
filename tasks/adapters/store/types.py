"""Column types that mean the same on SQLite and PostgreSQL, and the way DTOs become rows and come back.

SQLite has neither exact numbers nor times: money is kept there as the Decimal's own text, times as UTC text of one
width, so that order is kept. PostgreSQL gets NUMERIC, TIMESTAMPTZ and JSONB.
"""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, TypeVar

from sqlalchemy import JSON, ColumnElement, DateTime, Dialect, Numeric, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeDecorator, TypeEngine

from tasks.core.types.base import Dto

D = TypeVar("D", bound=Dto)
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
    plain = str(text) if isinstance(text, StrEnum) else text
    if not plain.isascii():
        plain = plain.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return plain.replace("\0", REPLACEMENT)


def document_of(dto: Dto) -> Any:
    """Return the JSON document that `dto` is stored as."""
    return storable(dto.model_dump(mode="json"))


def row_of(dto: Dto) -> dict[str, Any]:
    """Return the fields of a flat DTO as column values."""
    return {name: storable(value) for name, value in dto.model_dump().items()}


def columns_of(table: Any, dto: type[Dto]) -> list[ColumnElement[Any]]:
    """Return the columns of `table` that make up a `dto`, to select them."""
    return [getattr(table, name) for name in dto.model_fields]


def dto_of(dto: type[D], row: Any) -> D:
    """Build a DTO from a row selected with `columns_of`, and maybe more."""
    return dto.model_validate({name: getattr(row, name) for name in dto.model_fields})
