"""One request to an endpoint: its parameters, read as Bybit reads them."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import cached_property

from infra.sandbox.api.answers import BybitError, Json, bad_parameter
from infra.sandbox.clock import DAY_MS
from infra.sandbox.exchange import Exchange
from infra.sandbox.market.listing import Listing
from tasks.core.simulation.account import SimulatedAccount

WINDOW_MS = 7 * DAY_MS
CATEGORIES = ("spot", "linear", "inverse", "option")


def invalid(name: str, value: str) -> BybitError:
    return bad_parameter(f"params error: {name} invalid {value}")


@dataclass
class Query:
    """`quirks`: how the fault bench has ordered the venue to misbehave for this request. An absent parameter is ""."""

    ex: Exchange
    params: Mapping[str, str]
    quirks: Mapping[str, float]

    def __getitem__(self, name: str) -> str:
        return self.params.get(name, "")

    @cached_property
    def category(self) -> str:
        if self["category"] not in CATEGORIES:
            raise bad_parameter(f"Illegal category {self['category']!r}")
        return self["category"]

    @cached_property
    def markets(self) -> list[Listing]:
        """What is listed in the category, the symbol alone if there is one."""
        listed = (m for m in self.ex.markets.values() if m.category == self.category)
        return [m for m in listed if self["symbol"] in ("", m.id)]

    @property
    def market(self) -> Listing:
        """The market that category and symbol name."""
        if not self.markets or not self["symbol"]:
            raise invalid("symbol", self["symbol"])
        return self.markets[0]

    @property
    def account(self) -> SimulatedAccount:
        return self.ex.account

    @property
    def now_ms(self) -> int:
        """The venue's own time, which may be ahead."""
        return self.ex.now_ms + round(self.quirks.get("clock_skew", 0) * 1000)

    def number(self, name: str, default: int, most: int | None = None) -> int:
        """Return a whole number, clipped at `most` as Bybit clips limits."""
        raw = self[name] or str(default)
        if not raw.isdigit():
            raise invalid(name, raw)
        return int(raw) if most is None else max(1, min(int(raw), most))

    def amount(self, name: str) -> Decimal:
        """Return a decimal; 0 if it is absent or empty."""
        try:
            value = Decimal(self[name] or 0)
        except InvalidOperation:
            value = Decimal("NaN")
        if not value.is_finite() or value < 0:
            raise invalid(name, self[name])
        return value

    def times(self) -> tuple[int, int]:
        """Return [start, end] in ms as Bybit reads it: at most 7 days; one side given, the other is 7 days away."""
        start = self.number("startTime", 0)
        end = self.number("endTime", start + WINDOW_MS if start else self.ex.now_ms)
        start = start or end - WINDOW_MS
        if end - start > WINDOW_MS:
            raise bad_parameter("The time range between startTime and endTime cannot exceed 7 days")
        return start, end

    def page(self, listed: list[Json], default: int, most: int) -> Json:
        """Return one page; the cursor is where the next one begins."""
        begin, size = self.number("cursor", 0), self.number("limit", default, most)
        cursor = str(begin + size) if begin + size < len(listed) else ""
        return {"category": self.category, "list": listed[begin : begin + size], "nextPageCursor": cursor}
