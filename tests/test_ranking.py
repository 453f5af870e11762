"""Measures of a ranking, by scipy and by hand."""

import numpy as np
import pytest
import scipy.stats

from brac_plus_tf.estimation.ranking import mean_absolute_error, rank_correlation, regret


@pytest.mark.parametrize("seed", range(5))
def test_spearmans_correlation_by_scipy_with_ties(seed):
    generator = np.random.default_rng(seed)
    first, second = generator.integers(0, 6, 12), generator.integers(0, 6, 12)
    assert rank_correlation(first, second) == pytest.approx(scipy.stats.spearmanr(first, second).statistic)


def test_orders():
    assert rank_correlation([1.0, 5.0, 20.0], [0.1, 0.2, 7.0]) == pytest.approx(1.0)
    assert rank_correlation([1.0, 5.0, 20.0], [3.0, 2.0, 1.0]) == pytest.approx(-1.0)
    assert rank_correlation([1.0, 1.0], [3.0, 2.0]) == 0.0


def test_regret_by_hand():
    """True 10, 20, 40, 30; estimates put the second first, then the fourth: (40 - 20) / 30 and (40 - 30) / 30."""
    estimates, truths = [1.0, 9.0, 2.0, 8.0], [10.0, 20.0, 40.0, 30.0]
    assert [regret(estimates, truths, k) for k in (1, 2, 3)] == pytest.approx([2.0 / 3.0, 1.0 / 3.0, 0.0])
    assert regret([3.0, 1.0], [5.0, 5.0]) == 0.0


def test_mean_absolute_error_by_hand():
    assert mean_absolute_error([1.0, 5.0], [2.0, 2.0]) == 2.0
