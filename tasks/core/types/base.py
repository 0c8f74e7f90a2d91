"""The base of every DTO, and the exact and aware scalars they are made of."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, NewType

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict


class Dto(BaseModel):
    """A frozen value that rooms and tasks exchange; an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _no_float(value: object) -> object:
    if isinstance(value, float | bool):
        raise ValueError(f"{value!r} is not money; pass Decimal, int or str")
    return value


def _aware_utc(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError(f"{value.isoformat()} has no timezone; times are aware UTC")
    return value if value.tzinfo is UTC else value.astimezone(UTC)


Exact = Annotated[Decimal, BeforeValidator(_no_float)]
Utc = Annotated[datetime, AfterValidator(_aware_utc)]
Price = NewType("Price", Decimal)  # quote per base
Quantity = NewType("Quantity", Decimal)  # base, never negative
ZERO = Decimal(0)
