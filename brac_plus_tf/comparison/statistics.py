"""Scores over runs: their mean, interquartile mean and bootstrap intervals, by rliable."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from brac_plus_tf.core.extras import import_extra

Aggregate = Callable[[np.ndarray], float]  # of scores [seeds, tasks]
_RESAMPLES = 2000  # of the bootstrap: the ends of a 95 % interval are then good to about a twentieth of its width


def mean(scores: np.ndarray) -> float:
    """Of all scores."""
    return float(np.mean(scores))


def rliable(module: str) -> Any:
    """One of rliable's modules. Raises MissingPackageError if it is not installed."""
    return import_extra(f"rliable.{module}", "compare")


def interval(scores: np.ndarray, aggregate: Aggregate) -> tuple[float, float]:
    """95 % bootstrap interval of `aggregate` over runs, stratified by task. scores: [seeds, tasks]."""

    def function(sample: np.ndarray) -> np.ndarray:
        return np.array([aggregate(sample)])

    state = np.random.RandomState(0)  # the same table from the same runs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # rliable passes `random_state` on by a name that arch changed
        estimates = rliable("library").get_interval_estimates
        bounds = estimates({"": scores}, function, reps=_RESAMPLES, random_state=state)[1][""]
    return float(bounds[0, 0]), float(bounds[1, 0])


def interquartile_mean(scores: np.ndarray) -> float:
    """Mean of the middle half of all scores [seeds, tasks] (Agarwal et al. 2021)."""
    return float(rliable("metrics").aggregate_iqm(scores))
