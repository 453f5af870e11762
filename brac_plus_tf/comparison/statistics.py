"""Scores over runs of several tasks: aggregates, their bootstrap intervals, profiles, and one agent against another.

Reference: Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice"; the tests
compare with the authors' library. Scores are given as a sequence of tasks, each an array of its runs, whose numbers may
differ.
"""

from collections.abc import Callable, Sequence

import numpy as np

from brac_plus_tf.core.randomness import initializer_seed

Scores = Sequence[np.ndarray]  # of each task: scores of its runs [n]
Aggregate = Callable[[Scores], float]
_RESAMPLES = 2000  # of the bootstrap: the ends of a 95 % interval are then good to about a twentieth of its width


def mean(scores: Scores) -> float:
    """Mean over tasks of the mean of each."""
    return float(np.mean([np.mean(task) for task in scores]))


def median(scores: Scores) -> float:
    """Median over tasks of the mean of each."""
    return float(np.median([np.mean(task) for task in scores]))


def interquartile_mean(scores: Scores) -> float:
    """Mean of the middle half of all runs: of n, the n / 4 (rounded down) lowest and highest are left out."""
    runs = np.sort(np.concatenate(scores))
    cut = len(runs) // 4
    return float(runs[cut : len(runs) - cut].mean())


def optimality_gap(scores: Scores, target: float = 100.0) -> float:
    """By how much all runs miss the target on average; what is above it makes good for nothing."""
    return float(np.mean(np.maximum(target - np.concatenate(scores), 0.0)))


def performance_profile(scores: Scores, thresholds: np.ndarray) -> np.ndarray:
    """Share of all runs that score more than each threshold [T]: [T]."""
    runs = np.concatenate(scores)
    return np.asarray((runs[:, None] > np.asarray(thresholds)[None]).mean(axis=0))


def probability_of_improvement(scores: Scores, others: Scores) -> float:
    """Mean over tasks of P(a run scores more than a run of the other agent), draws counted as one half.

    Raises:
      ValueError: if they are not of the same number of tasks.
    """
    differences = [np.subtract.outer(own, other) for own, other in zip(scores, others, strict=True)]
    return float(np.mean([np.mean((task > 0) + 0.5 * (task == 0)) for task in differences]))


def interval(statistic: Callable[..., float], *agents: Scores) -> tuple[float, float]:
    """95 % percentile bootstrap interval of a statistic of one agent's scores, or of several agents'.

    Runs are drawn with replacement within each task of each agent; always the same draws for the same numbers of runs.
    """
    low, high = _bounds(statistic, *agents)
    return float(low), float(high)


def profile_band(scores: Scores, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % percentile bootstrap intervals of `performance_profile` at each threshold, as `interval`: [T], [T]."""
    low, high = _bounds(lambda resampled: performance_profile(resampled, thresholds), scores)
    return low, high


def _bounds(statistic: Callable[..., float | np.ndarray], *agents: Scores) -> np.ndarray:
    generator = np.random.default_rng(initializer_seed(0, "bootstrap of scores"))

    def resampled(scores: Scores) -> list[np.ndarray]:
        return [task[generator.integers(len(task), size=len(task))] for task in scores]

    values = [statistic(*map(resampled, agents)) for _ in range(_RESAMPLES)]
    return np.percentile(np.array(values), [2.5, 97.5], axis=0)
