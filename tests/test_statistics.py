"""Statistics of scores: by hand, and against the library of those who proposed them."""

import numpy as np
import pytest
from rliable import library, metrics

from brac_plus_tf.comparison.statistics import (
    interquartile_mean,
    interval,
    mean,
    median,
    optimality_gap,
    performance_profile,
    probability_of_improvement,
    profile_band,
)

# three tasks whose sizes of scores differ: what is pooled and what is averaged by task shows
TASKS = [np.array([10.0, 20.0, 60.0, 90.0, 130.0]), np.array([-5.0, 0.0, 2.0, 2.0, 4.0]), np.array([50.0] * 5)]
OTHER = [np.array([15.0, 20.0, 25.0, 30.0, 95.0]), np.array([2.0, 2.0, 2.0, 3.0, 9.0]), np.array([40.0] * 5)]
MATRIX, OTHER_MATRIX = np.transpose(TASKS), np.transpose(OTHER)  # [runs, tasks], as the library has them
UNEVEN = [np.array([1.0, 3.0]), np.array([10.0, 20.0, 60.0, 90.0])]


def test_aggregates_by_hand():
    """Means 62, 0.6 and 50. Of the 15 runs floor(15 / 4) = 3 are left out at either end."""
    assert mean(TASKS) == pytest.approx((62 + 0.6 + 50) / 3)
    assert median(TASKS) == 50.0
    assert interquartile_mean(TASKS) == pytest.approx(np.mean([2, 4, 10, 20, 50, 50, 50, 50, 50]))
    assert optimality_gap(TASKS, 60.0) == pytest.approx((50 + 40 + 65 + 60 + 58 + 58 + 56 + 5 * 10) / 15)


def test_tasks_of_different_numbers_of_runs_by_hand():
    """Means 2 and 45; of the six runs one is left out at either end."""
    assert mean(UNEVEN) == 23.5 and median(UNEVEN) == 23.5
    assert interquartile_mean(UNEVEN) == pytest.approx((3 + 10 + 20 + 60) / 4)
    assert optimality_gap(UNEVEN) == pytest.approx((99 + 97 + 90 + 80 + 40 + 10) / 6)
    # 3 against 2 and 0: better than both; 1: better than one, and as good as none
    assert probability_of_improvement([np.array([1.0, 3.0])], [np.array([2.0, 0.0])]) == 0.75


def test_aggregates_are_the_librarys():
    assert mean(TASKS) == pytest.approx(metrics.aggregate_mean(MATRIX))
    assert median(TASKS) == pytest.approx(metrics.aggregate_median(MATRIX))
    assert interquartile_mean(TASKS) == pytest.approx(metrics.aggregate_iqm(MATRIX))
    assert optimality_gap(TASKS, 40.0) == pytest.approx(metrics.aggregate_optimality_gap(MATRIX, 40.0))


def test_the_profile_is_the_librarys():
    thresholds = np.array([-10.0, 2.0, 3.0, 50.0, 129.0, 130.0])
    expected = library.score_distributions(MATRIX, thresholds)
    np.testing.assert_allclose(performance_profile(TASKS, thresholds), expected)
    assert expected[0] == 1.0 and expected[-1] == 0.0  # and a score counts as above its equal nowhere


def test_the_probability_of_improvement_is_the_librarys():
    """By Mann and Whitney's statistic there; draws count one half in both."""
    own, back = probability_of_improvement(TASKS, OTHER), probability_of_improvement(OTHER, TASKS)
    assert own == pytest.approx(metrics.probability_of_improvement(MATRIX, OTHER_MATRIX))
    assert own + back == pytest.approx(1.0) and own != pytest.approx(0.5)


def test_agents_on_different_tasks_are_not_compared():
    with pytest.raises(ValueError, match=r"zip\(\)"):
        probability_of_improvement(TASKS, OTHER[:2])


def test_the_interval_of_two_runs_by_hand():
    """A quarter of the resamples of (2, 6) have either end's mean."""
    assert interval(mean, [np.array([2.0, 6.0])]) == (2.0, 6.0)


def test_runs_are_drawn_within_their_task_and_independently_in_each():
    """Where each task's runs agree nothing varies; of six tasks of (0, 1) all means are 0 at once in 1 of 4,096."""
    assert interval(mean, [np.array([1.0, 1.0]), np.array([9.0, 9.0])]) == (5.0, 5.0)
    together = [np.array([0.0, 1.0])] * 6  # in a quarter, if they were drawn together
    assert interval(mean, together)[0] > 0.0


def test_the_interval_is_that_of_the_normal_distribution_for_many_runs():
    """1.96 standard errors to either side, of 400 runs whose standard deviation is 10."""
    runs = np.random.default_rng(0).normal(50.0, 10.0, 400)
    low, high = interval(mean, [runs])
    assert (high - low) / 2 == pytest.approx(1.96 * runs.std() / 20.0, rel=0.06)
    assert (low + high) / 2 == pytest.approx(runs.mean(), abs=0.1)


@pytest.mark.parametrize("ours", [mean, interquartile_mean])
def test_intervals_are_the_librarys_but_for_its_draws(ours):
    """Whose state it does not pass on: both ends within a tenth of the width."""
    theirs = {mean: metrics.aggregate_mean, interquartile_mean: metrics.aggregate_iqm}[ours]
    np.random.seed(0)
    _, bounds = library.get_interval_estimates({"": MATRIX}, lambda scores: np.array([theirs(scores)]), reps=2000)
    low, high = interval(ours, TASKS)
    np.testing.assert_allclose([low, high], bounds[""][:, 0], atol=0.1 * (high - low))


def test_an_interval_of_two_agents_resamples_both_and_is_always_the_same():
    low, high = interval(probability_of_improvement, TASKS, OTHER)
    assert low < probability_of_improvement(TASKS, OTHER) < high
    assert interval(probability_of_improvement, TASKS, OTHER) == (low, high)
    # one agent's runs are certain: all that is left is the other's
    certain = [np.array([0.0])]
    assert interval(probability_of_improvement, certain, [np.array([-1.0, 1.0])]) == (0.0, 1.0)


def test_the_band_of_a_profile_by_hand():
    """Of two runs, 2 and 6, a quarter of the resamples has neither above 4; all are above 1 and none above 6."""
    low, high = profile_band([np.array([2.0, 6.0])], np.array([1.0, 4.0, 6.0]))
    assert (low.tolist(), high.tolist()) == ([1.0, 0.0, 0.0], [1.0, 1.0, 0.0])
    # of 100 runs, half of them above: 1.96 standard errors of a share, sqrt(0.5 * 0.5 / 100)
    low, high = profile_band([np.arange(100.0)], np.array([49.5]))
    assert high[0] - low[0] == pytest.approx(2 * 1.96 * 0.05, rel=0.1)
