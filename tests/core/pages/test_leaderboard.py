"""What a strategy was worth, as a line of blocks in the leaderboard; and what a position is, in any currency."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from tasks.core.pages.desk import SPARKS, MarkedPosition, Ranked, positions_table
from tasks.core.types import Opening, Position


@pytest.mark.parametrize(
    ("series", "line"),
    [((), ""), ((9_500.0,), "▁"), ((1.0, 2.0, 1.5), "▁█▄"), ((7.0, 7.0), "▁▁"), ((-1.0, -3.0), "█▁")],
)
def test_the_series_goes_from_the_lowest_to_the_highest_block(series, line):
    assert Ranked("trend", "rules", "", "paper", "trading", None, None, None, series).sparkline == line


def test_a_long_series_is_thinned_out():
    ranked = Ranked("trend", "rules", "", "paper", "trading", None, None, None, [float(n) for n in range(1000)])
    assert len(ranked.sparkline) <= SPARKS
    assert ranked.sparkline == "".join(sorted(ranked.sparkline))


def test_what_a_position_has_made_in_bitcoin_is_seen():
    at, one = datetime(2026, 3, 2, 10, 5, tzinfo=UTC), Decimal(1)
    position = Position(
        position_id="p", strategy="s", cycle_id="c", symbol="ETH/BTC", side="long", quantity=one, entry_quantity=one,
        avg_price=Decimal("0.035"), opened_at=at,
    )  # fmt: skip
    held = MarkedPosition(position, Opening(symbol="ETH/BTC", opened_at=at), mark=Decimal("0.0353"))
    [row] = positions_table([held], at).rows
    assert (row[5], row[6]) == ("+0.00030", "+0.86")
