"""How well estimates rank policies whose true values are known: DOPE's measures [Fu et al. 2021, section 4.2]."""

from collections.abc import Sequence

import numpy as np


def _ranks(values: np.ndarray) -> np.ndarray:
    """1 for the least; equal values share the mean of their ranks."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return (last - (count - 1) / 2.0)[place]


def rank_correlation(estimates: Sequence[float] | np.ndarray, truths: Sequence[float] | np.ndarray) -> float:
    """Spearman's: 1 where the order is the same, -1 where it is reversed; 0 where one of them orders nothing."""
    first, second = _ranks(np.asarray(estimates, np.float64)), _ranks(np.asarray(truths, np.float64))
    if first.std() == 0.0 or second.std() == 0.0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def regret(estimates: Sequence[float] | np.ndarray, truths: Sequence[float] | np.ndarray, chosen: int = 1) -> float:
    """regret@k = (best - best of the k of highest estimate) / (best - worst), in true values; 0 if all are the same."""
    truth = np.asarray(truths, np.float64)
    spread = truth.max() - truth.min()
    first = np.argsort(-np.asarray(estimates, np.float64), kind="stable")[:chosen]
    return float((truth.max() - truth[first].max()) / spread) if spread > 0.0 else 0.0


def mean_absolute_error(estimates: Sequence[float] | np.ndarray, truths: Sequence[float] | np.ndarray) -> float:
    """In the values' own unit."""
    return float(np.mean(np.abs(np.asarray(estimates, np.float64) - np.asarray(truths, np.float64))))
