"""Scores over runs of several tasks: aggregates, their bootstrap intervals, profiles, and one agent against another.

Reference: Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice"; the tests
compare with the authors' library. Scores are given as a sequence of tasks, each an array of its runs, whose numbers may
differ.
"""

from collections.abc import Callable, Sequence

import numpy as np

from brac_plus_tf.core.randomness import initializer_seed

Scores = Sequence[np.ndarray]  # of each task: scores of its runs [n], or of many resamples of them [.., n]
Values = np.ndarray | float  # one for each resample: [..]
Aggregate = Callable[[Scores], Values]
_RESAMPLES = 2000  # of the bootstrap: the ends of a 95 % interval are then good to about a twentieth of its width


def mean(scores: Scores) -> Values:
    """Mean over tasks of the mean of each."""
    return np.mean(_means(scores), axis=0)


def median(scores: Scores) -> Values:
    """Median over tasks of the mean of each."""
    return np.median(_means(scores), axis=0)


def _means(scores: Scores) -> list[np.ndarray]:
    return [np.mean(task, axis=-1) for task in scores]


def interquartile_mean(scores: Scores) -> Values:
    """Mean of the middle half of all runs: of n, the n / 4 (rounded down) lowest and highest are left out."""
    runs = np.sort(_pooled(scores), axis=-1)
    count = runs.shape[-1]
    cut = count // 4
    return np.mean(runs[..., cut : count - cut], axis=-1)


def optimality_gap(scores: Scores, target: float = 100.0) -> Values:
    """By how much all runs miss the target on average; what is above it makes good for nothing."""
    return np.mean(np.maximum(target - _pooled(scores), 0.0), axis=-1)


def performance_profile(scores: Scores, thresholds: np.ndarray) -> np.ndarray:
    """Share of all runs that score more than each threshold [T]: [.., T]."""
    return np.asarray(np.mean(_pooled(scores)[..., None, :] > np.asarray(thresholds)[:, None], axis=-1))


def _pooled(scores: Scores) -> np.ndarray:
    return np.concatenate(scores, axis=-1)


def probability_of_improvement(scores: Scores, others: Scores) -> Values:
    """Mean over tasks of P(a run scores more than a run of the other agent), draws counted as one half.

    Raises:
      ValueError: if they are not of the same number of tasks.
    """
    differences = [own[..., :, None] - other[..., None, :] for own, other in zip(scores, others, strict=True)]
    return np.mean([np.mean((task > 0) + 0.5 * (task == 0), axis=(-2, -1)) for task in differences], axis=0)


def interval(statistic: Callable[..., Values], *agents: Scores) -> tuple[float, float]:
    """95 % percentile bootstrap interval of a statistic of one agent's scores, or of several agents'.

    Runs are drawn with replacement within each task of each agent; always the same draws for the same numbers of runs.
    """
    low, high = _bounds(statistic, *agents)
    return float(low), float(high)


def profile_band(scores: Scores, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % percentile bootstrap intervals of `performance_profile` at each threshold, as `interval`: [T], [T]."""
    low, high = _bounds(lambda resampled: performance_profile(resampled, thresholds), scores)
    return low, high


def _bounds(statistic: Callable[..., Values], *agents: Scores) -> np.ndarray:
    generator = np.random.default_rng(initializer_seed(0, "bootstrap of scores"))
    sizes = [len(task) for scores in agents for task in scores]
    # for each run of a resample: which of its task's takes the place
    drawn = generator.integers(np.repeat(sizes, sizes), size=(_RESAMPLES, sum(sizes)))
    of_tasks = iter(np.split(drawn, np.cumsum(sizes)[:-1], axis=1))
    resampled = [[task[next(of_tasks)] for task in scores] for scores in agents]
    return np.percentile(statistic(*resampled), [2.5, 97.5], axis=0)
