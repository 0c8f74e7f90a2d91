"""Statistics against known answers: published examples, theory, and simulated series of which the truth is known."""

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from tasks.core.lab import statistics
from tasks.core.lab.statistics import FEWEST, Moments, effective_n, interval, overfitting, sharpe_gap
from tests.benchmarks.coverage import WORLDS, coverage, mean, remembering
from tests.benchmarks.coverage import sharpe_gap as gap


# Bailey and López de Prado, The Sharpe Ratio Efficient Frontier (2012): a hedge fund of 24 monthly returns, Sharpe
# ratio 0.458 a month, skewness -2.448, kurtosis 10.164. Taken for normal it beats 0 with 98.2 %, in truth with 91.3 %.
@pytest.mark.parametrize(("skew", "kurtosis", "published"), [(0.0, 3.0, 0.982), (-2.448, 10.164, 0.913)])
def test_probabilistic_sharpe_is_the_published_one(skew, kurtosis, published):
    assert statistics.probabilistic_sharpe(Moments(0.458, 24, skew, kurtosis)) == pytest.approx(published, abs=5e-4)


# Bailey and López de Prado, The Deflated Sharpe Ratio (2014), numerical example: annual Sharpe ratio 2.5 from 1,250
# days (250 a year), skewness -3, kurtosis 10, variance over trials 1/2 a year. 100 trials: SR0 0.1132, DSR 0.9004;
# the same confidence of 95 % would have taken 46 trials, or 88 if returns were normal.
@pytest.mark.parametrize(
    ("trials", "skew", "kurtosis", "published"),
    [(100, -3.0, 10.0, 0.9004), (46, -3.0, 10.0, 0.9505), (88, 0.0, 3.0, 0.9505)],
)
def test_deflated_sharpe_is_the_published_one(trials, skew, kurtosis, published):
    seen = Moments(2.5 / np.sqrt(250), 1250, skew, kurtosis)
    luck = statistics.best_sharpe_by_luck(0.5 / 250, trials)
    assert statistics.probabilistic_sharpe(seen, luck) == pytest.approx(published, abs=1e-4)
    assert statistics.deflated_sharpe(seen, 0.5 / 250, trials) == pytest.approx(published, abs=1e-4)


def test_the_best_of_a_hundred_without_skill_is_expected_where_published():
    assert statistics.best_sharpe_by_luck(0.5 / 250, 100) == pytest.approx(0.1132, abs=5e-5)


def test_one_trial_is_not_deflated():
    assert statistics.best_sharpe_by_luck(0.01, 1) == 0


def test_moments_count_kurtosis_from_zero():
    seen = statistics.moments(np.random.default_rng(0).normal(0.1, 1, 200_000))
    assert seen == pytest.approx(Moments(0.1, 200_000, 0.0, 3.0), abs=0.03)


def test_overfitting_is_certain_where_every_variant_earns_the_same_in_all():
    """The full overfit of the paper's first test case: each column is moved to mean 0, so the halves are opposites."""
    returns = np.random.default_rng(1).normal(size=(1008, 100))
    found = overfitting(returns - returns.mean(axis=0))
    assert (found.pbo, found.loss, found.splits) == (1.0, 1.0, 12_870)


def test_overfitting_of_noise_and_of_skill_are_those_of_a_published_simulation():
    """E. Soloviov, How Overfit Is Your Search? (pbo.marketmaker.cc): T 1,000, N 200, S 16; noise has PBO 0.476 with a
    deviation of 0.137 between matrices, and a true 0.15 a period in 20 of them 0.001."""
    rng = np.random.default_rng(2)
    noise, skill = [], []
    for _ in range(3):
        returns = rng.normal(size=(1000, 200))
        noise.append(overfitting(returns).pbo)
        returns[:, :20] += 0.15
        skill.append(overfitting(returns).pbo)
    assert np.mean(noise) == pytest.approx(0.476, abs=3 * 0.137 / np.sqrt(3))
    assert np.mean(skill) == pytest.approx(0.001, abs=0.003)


def test_overfitting_by_hand():
    """Four blocks of two periods, two variants, six ways to choose: worked on paper with mean over deviation.

    A earns (1, 3) (1, 3) (-3, -1) (-3, -1), B 1 and -1 in turn: 0. A half with two good blocks picks A, its other half
    has two bad ones: last of two. A half with two bad blocks picks B, which is last when the other half is good. In
    the four mixed halves both have 0: the first is picked, a tie that counts half a loss each.
    """
    a = np.array([1, 3, 1, 3, -3, -1, -3, -1], dtype=float)
    found = overfitting(np.array([a, np.tile([1.0, -1.0], 4)]).T, blocks=4)
    assert found.splits == 6
    assert found.pbo == pytest.approx((2 + 4 / 2) / 6)


def test_a_variant_that_never_trades_is_no_candidate_for_the_best():
    """With one that holds among them a bad lot looks less overfit: whatever loses, holding is above the median."""
    returns = np.random.default_rng(5).normal(-0.1, 1, (600, 3))
    apart = overfitting(returns)
    assert apart.variants == 3
    assert overfitting(np.c_[returns, np.zeros(600)]) == apart
    assert overfitting(np.c_[returns[:, :1], np.zeros(600)]) is None


def test_overfitting_of_one_variant_or_too_few_periods_is_unknown():
    assert overfitting(np.zeros((100, 1))) is None
    assert overfitting(np.zeros((31, 3))) is None


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("kind", [mean, gap])
def test_an_interval_covers_what_it_claims_in_every_world(world, kind):
    """`make bench ARGS=coverage` has the table; a percentile bootstrap covers 92 % of 30 independent days, 73 % of
    AR(0.6)."""
    for n in (30, 120):
        given, held = coverage(kind, WORLDS[world], n, 1500)
        assert (given > 0.97, held >= 0.93) == (True, True), f"n = {n}: given {given:.3f}, held {held:.3f}"


def test_an_interval_of_independent_days_is_about_that_of_student_and_its_p_value_agrees():
    """Fewer degrees of freedom make it wider than Student's: 1.96 becomes 2.12 with 17 cosines of 600 days."""
    values = np.random.default_rng(9).normal(0.1, 1, 600)
    found, known = interval(values), ttest_1samp(values, 0)
    low, high = known.confidence_interval()
    assert (found.high - found.low) / (high - low) == pytest.approx(2.11 / 1.96, rel=0.2)
    assert found.p_value == pytest.approx(known.pvalue, abs=0.05)
    edge = interval(values - found.low)
    assert (edge.low, edge.p_value) == (pytest.approx(0, abs=1e-12), pytest.approx(0.05))
    assert interval(values, level=0.8).low == pytest.approx(0.1, abs=0.1)
    assert interval(values - values.mean()).p_value == pytest.approx(1)


@pytest.mark.parametrize(("rho", "days"), [(0.0, 4000), (0.6, 1000), (0.9, 210.5)])
def test_effective_n_is_that_of_theory(rho, days):
    """n (1 - rho) / (1 + rho): what is left of 4,000 days."""
    found = [effective_n(remembering(rho)(np.random.default_rng(seed), 4000)) for seed in range(20)]
    assert np.mean(found) == pytest.approx(days, rel=0.08)


def test_too_few_or_too_much_alike_has_no_interval_and_says_how_many_days_it_is_worth():
    rng = np.random.default_rng(3)
    few, alike = interval(rng.normal(size=FEWEST - 1)), interval(np.cumsum(rng.normal(size=600)))
    assert (few.low, few.p_value, alike.low, alike.p_value) == (None,) * 4
    assert FEWEST / 2 < few.effective_n < FEWEST
    assert alike.effective_n < 10
    assert interval(np.array([0.5])).effective_n == 1


def test_a_sharpe_ratio_is_compared_only_where_both_have_one():
    rng = np.random.default_rng(4)
    mine, theirs = rng.normal(0.1, 1, (2, 100))
    found = sharpe_gap(mine, theirs)
    assert found.estimate == pytest.approx(statistics.sharpe_of(mine) - statistics.sharpe_of(theirs))
    assert found.low < found.estimate < found.high
    assert sharpe_gap(mine, np.zeros(100)).estimate is None
    assert sharpe_gap(mine[:29], theirs[:29]).estimate is None
    scaled = found.scaled(-2)
    assert (scaled.low, scaled.high, scaled.p_value) == (-2 * found.high, -2 * found.low, found.p_value)


def test_pairing_takes_what_both_share_out_of_the_interval():
    rng = np.random.default_rng(7)
    market, one, other = rng.normal(size=300) * 10, rng.normal(size=300), rng.normal(size=300)
    together = interval(one - other)
    apart = interval(market + one - rng.permutation(market + other))
    assert together.high - together.low < (apart.high - apart.low) / 5


def test_an_interval_turns_around_with_its_sides():
    a, b = np.random.default_rng(8).normal(size=(2, 100))
    forth, back = interval(a - b), interval(b - a)
    assert (forth.low, forth.high) == (pytest.approx(-back.high), pytest.approx(-back.low))
    assert forth.scaled(-1).low == pytest.approx(back.low)


@pytest.mark.parametrize("values", [np.zeros(50), np.arange(5.0)])
def test_no_interval_without_variation_or_days(values):
    found = interval(values)
    assert (found.low, found.high, found.p_value) == (None, None, None)
    assert found.estimate == values.mean()
