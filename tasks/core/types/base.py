"""The base of every DTO, and the exact and aware scalars they are made of."""

import operator
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from functools import cache
from typing import Annotated, Any, NewType, Self, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from tasks.core.errors import InputError


class Dto(BaseModel):
    """A frozen value that rooms and tasks exchange; an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def trusted(cls, **values: Any) -> Self:
        """Build one of values that our own typed code has computed: none is validated, at a tenth of the cost.

        `model_construct` looks at every field of every instance; here the defaults are looked up once. Raises TypeError
        where a field is missing or unknown, as a call would.
        """
        defaults, required = _defaults(cls)
        if not required <= values.keys() <= defaults.keys():
            raise TypeError(f"{cls.__name__}: {sorted(required - values.keys() or values.keys() - defaults.keys())}")
        made, write = cls.__new__(cls), object.__setattr__
        write(made, "__dict__", defaults | values)
        write(made, "__pydantic_fields_set__", set(values))
        write(made, "__pydantic_extra__", None)
        write(made, "__pydantic_private__", None)
        return made

    @classmethod
    def of(cls, other: object, **more: Any) -> Self:
        """Make one of `more` and, of the other fields, those that `other` has by the same names."""
        return cls(**{name: getattr(other, name) for name in cls.model_fields if hasattr(other, name)} | more)

    def replace(self, **changes: Any) -> Self:
        """Return a copy with these changes, unvalidated; raises TypeError where a field is unknown."""
        if unknown := changes.keys() - _defaults(type(self))[0].keys():
            raise TypeError(f"{type(self).__name__}: {sorted(unknown)}")
        return self.model_copy(update=changes)


class Described(Dto):
    """A DTO whose fields have what describes them beneath; reading that takes a while, so that others do without."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class Explained(StrEnum):
    """Names that people read, each with its meaning in a sentence."""

    meaning: str

    def __new__(cls, value: str, meaning: str = "") -> Self:
        member = str.__new__(cls, value)
        member._value_, member.meaning = value, meaning
        return member


@cache
def _defaults(dto: type[Dto]) -> tuple[dict[str, Any], frozenset[str]]:
    """Return every field's default in order, as JSON is written in it, and which fields have none."""
    fields = dto.model_fields.items()
    required = frozenset(name for name, field in fields if field.is_required())
    return {name: ... if name in required else f.get_default(call_default_factory=True) for name, f in fields}, required


def _no_float(value: object) -> object:
    if isinstance(value, float | bool):
        raise ValueError(f"{value!r} is not money; pass Decimal, int or str")
    return value


def fits(value: Decimal) -> bool:
    exponent = value.as_tuple().exponent
    return isinstance(exponent, int) and abs(exponent) <= FINEST and value.adjusted() <= MOST


def bounded(value: Decimal) -> Decimal:
    """Return a number of at most 30 digits before the point and 100 behind it; raises ValueError for any other.

    Arithmetic on larger exponents overflows, and to write such a number out takes all memory.
    """
    if not fits(value):
        raise ValueError(f"{value!s:.40} is no number of up to {MOST} digits")
    return value


def aware_utc(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError(f"{value.isoformat()} has no timezone; times are aware UTC")
    return value if value.tzinfo is UTC else value.astimezone(UTC)


def first_error(error: ValidationError) -> tuple[str, str]:
    """Return where the first wrong value stands, and what is wrong with it."""
    first = error.errors()[0]
    return ".".join(map(str, first["loc"])), first["msg"]


MOST, FINEST = 30, 100  # digits before the point, and behind it
JsonObject = dict[str, object]
Json = dict[str, Any]  # whose values are taken as they are
Texts = tuple[str, ...]
Exact = Annotated[Decimal, BeforeValidator(_no_float), AfterValidator(bounded)]
Positive = Annotated[Exact, Field(gt=0)]
NonNegative = Annotated[Exact, Field(ge=0)]
Probability = Annotated[Exact, Field(ge=0, le=1)]
Utc = Annotated[datetime, AfterValidator(aware_utc)]
Price = NewType("Price", Decimal)  # quote per base
Quantity = NewType("Quantity", Decimal)  # base, never negative
ZERO = Decimal(0)
T = TypeVar("T")
AnyDto = TypeVar("AnyDto", bound=Dto)
Sparse = Annotated[T, Field(exclude_if=operator.not_)]  # empty it is left out: documents of before lack it


def exact_sum(values: Iterable[Decimal]) -> Decimal:
    """Add up exact numbers; of none the exact zero."""
    return sum(values, ZERO)


M = TypeVar("M", bound=BaseModel)


def read_dto(dto: type[M], document: Any, where: str) -> M:
    """Read a DTO from JSON, as text or parsed; raises InputError naming the place and the first thing wrong."""
    try:
        as_text = isinstance(document, str | bytes)
        return dto.model_validate_json(document) if as_text else dto.model_validate(document)
    except ValidationError as e:
        raise InputError(": ".join(filter(None, (where, *first_error(e))))) from e
