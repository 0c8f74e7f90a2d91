"""What a strategy was worth, as a line of blocks in the leaderboard."""

import pytest

from tasks.core.pages.desk import SPARKS, Ranked


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
