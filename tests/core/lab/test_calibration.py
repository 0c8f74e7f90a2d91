"""Calibration of confidence, by hand and where the truth is known."""

import numpy as np
import pytest

from tasks.core.lab.calibration import Promise, calibration


def test_brier_score_and_groups_by_hand():
    """Four entries: 0.9 won, 0.9 lost, 0.6 won, 0.3 lost: (0.01 + 0.81 + 0.16 + 0.09) / 4; of the share 0.5, 0.25."""
    found = calibration([
        Promise(0.9, True, 2.0), Promise(0.9, False, -1.0), Promise(0.6, True, None), Promise(0.3, False, -1.0)
    ])  # fmt: skip
    assert (found.entries, found.brier, found.brier_of_share) == (4, pytest.approx(0.2675), 0.25)
    assert [(g.low, g.high, g.entries, g.won, g.expectancy_r) for g in found.bins] == [
        (0.3, 0.3, 1, 0.0, -1.0), (0.6, 0.6, 1, 1.0, None), (0.9, 0.9, 2, 0.5, 0.5),
    ]  # fmt: skip
    assert found.bins == found.deciles


def test_who_knows_the_odds_lies_on_the_line_and_one_who_brags_scores_worse_than_the_share():
    rng = np.random.default_rng(1)
    odds = rng.uniform(0.2, 0.8, 20_000)
    won = rng.random(20_000) < odds
    honest = calibration([Promise(p, w, 1.0 if w else -1.0) for p, w in zip(odds, won, strict=True)])
    bragging = calibration([Promise(0.95, w, 1.0 if w else -1.0) for w in won])
    assert honest.brier < honest.brier_of_share < bragging.brier
    assert all(group.won == pytest.approx(group.confidence, abs=0.05) for group in honest.bins)
    assert [group.entries for group in honest.deciles] == [2000] * 10
    assert all(g.expectancy_r == pytest.approx(2 * g.confidence - 1, abs=0.08) for g in honest.deciles)
    assert len(bragging.deciles) == len(bragging.bins) == 1


def test_equal_confidence_is_never_parted():
    found = calibration([Promise(c, True, 1.0) for c in [0.6] * 30 + [0.7] * 40 + [0.8] * 30])
    assert [(g.confidence, g.entries) for g in found.deciles] == [
        (pytest.approx(0.6), 30), (pytest.approx(0.7), 40), (pytest.approx(0.8), 30),
    ]  # fmt: skip


def test_a_tenth_begins_at_its_number_and_one_is_in_the_last():
    found = calibration([Promise(c, True, 1.0) for c in (0.3, 0.35, 0.7, 1.0, 0.95)])
    assert [g.entries for g in found.bins] == [2, 1, 2]


def test_nothing_that_ended_is_no_calibration():
    assert calibration([]) is None
