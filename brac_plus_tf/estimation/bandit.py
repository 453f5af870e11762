"""Choosing between policies by few episodes: an upper-confidence bandit that begins with what the data let expect."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

_ALPHA = 2.0  # of the alpha-UCB rule [Bubeck and Cesa-Bianchi 2012, section 2.2]


class Pulled(NamedTuple):
    """What the episodes told of K policies. counts: episodes of each [K]. means: their mean returns [K].

    best: the policy that was played most often, of equals the one that earned more.
    """

    counts: np.ndarray
    means: np.ndarray
    best: int


def upper_bound(mean: float, count: float, total: float, spread: float) -> float:
    """mean + spread sqrt(alpha ln(total) / (2 count)): what a policy may yet be worth after `count` of `total`."""
    return mean + spread * math.sqrt(_ALPHA * math.log(total) / (2.0 * count))


def choose_by_episodes(play: Callable[[int, int], float], prior: Sequence[float], episodes: int) -> Pulled:
    """Plays each of K policies once and then, `episodes` in all, always the one whose return may be the highest.

    The estimates count as one episode more of each policy, in returns' units: as far from the mean of all estimates as
    from the mean of the first K returns, in standard deviations.

    Args:
      play: (policy, how many episodes of it there were before) -> its return. prior: estimates [K] in any unit.
        episodes: at least K.
    """
    estimates = np.asarray(prior, np.float64)
    arms = len(estimates)
    returns: list[list[float]] = [[] for _ in range(arms)]
    for arm in np.argsort(-estimates, kind="stable"):
        returns[arm].append(play(int(arm), 0))
    first = np.array([some[0] for some in returns])
    deviation = float(estimates.std()) or 1.0
    expected = first.mean() + first.std() * (estimates - estimates.mean()) / deviation
    for pulled in range(arms, episodes):
        seen = [value for some in returns for value in some]
        spread = max(seen) - min(seen)
        bounds = [
            upper_bound(float(np.mean([*some, expected[arm]])), len(some) + 1.0, pulled + arms, spread)
            for arm, some in enumerate(returns)
        ]
        arm = int(np.argmax(bounds))
        returns[arm].append(play(arm, len(returns[arm])))
    counts, means = np.array([len(some) for some in returns]), np.array([np.mean(some) for some in returns])
    return Pulled(counts, means, max(range(arms), key=lambda arm: (counts[arm], means[arm])))
