"""What the estimates of values say, and whether they may be believed."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow_probability as tfp

from brac_plus_tf.data.dataset import OfflineDataset, ends_episode

_FEWEST_EPISODES = 10
UNRELIABLE = "not reliable on this data"


class Interval(NamedTuple):
    """A mean and the half width of its 95 % interval, discounted reward units of the environment."""

    mean: float
    half_width: float

    @property
    def low(self) -> float:
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        return self.mean + self.half_width

    def __str__(self) -> str:
        return f"{self.mean:.4g} +- {self.half_width:.2g}"

    def overlaps(self, other: "Interval") -> bool:
        """Whether a value may be in both."""
        return self.low <= other.high and other.low <= self.high


def of_members(estimates: Sequence[float] | np.ndarray) -> Interval:
    """Of K estimates on bootstrap samples, whose spread is that of the estimate: mean +- t sd."""
    values = np.asarray(estimates, np.float64)
    t = float(tfp.distributions.StudentT(np.float64(len(values) - 1), 0.0, 1.0).quantile(0.975))
    return Interval(float(values.mean()), float(t * values.std(ddof=1)))


def of_sample(values: Sequence[float] | np.ndarray) -> Interval:
    """Of the mean of P independent values: mean +- 1.96 sd / sqrt(P)."""
    values = np.asarray(values, np.float64)
    if len(values) < 2:
        return Interval(float(values.mean()), float("inf"))
    return Interval(float(values.mean()), float(1.96 * values.std(ddof=1) / np.sqrt(len(values))))


def discounted_returns(dataset: OfflineDataset, gamma: float, tail: np.ndarray) -> np.ndarray:
    """Of every episode that begins in the data: sum of gamma^t r_t and, where it was cut, gamma^T tail of its last row.

    Args:
      tail: [M], what is to come after each row were it the last of its episode, in the environment's units.
    """
    reward = np.asarray(dataset.scaling.to_environment_reward(dataset.transitions.reward), np.float64)
    episode, step = dataset.places.episode, dataset.places.step
    earned = gamma**step * reward
    last = ends_episode(dataset.places)
    earned = earned + np.where(last & (dataset.transitions.discount > 0.0), gamma ** (step + 1.0) * tail, 0.0)
    begun = np.unique(episode[step == 0])
    return np.bincount(episode, earned, minlength=int(episode.max()) + 1)[begun]


class Judgement(NamedTuple):
    """reliable: whether an estimate on these data may be believed; why: the reasons where not. verdict: one line."""

    reliable: bool
    why: tuple[str, ...]
    verdict: str


def judge(
    policy: Interval,
    drift: float,
    clone: Interval,
    data: Interval,
    returns: np.ndarray,
    limits: tuple[float, float],
) -> Judgement:
    """The calibration gate, and the comparison with the data.

    Args:
      policy, clone: values of the policy and of a cloned one; data: of what was recorded. drift: how far the policy's
      estimate has moved in the last tenth of the steps. returns: discounted, of the episodes that begin in the data.
    limits: of any value.
    """
    why = []
    if len(returns) < _FEWEST_EPISODES:
        why.append(f"{len(returns)} episodes begin in the data, fewer than {_FEWEST_EPISODES}")
    if not clone.overlaps(data):
        why.append(f"a cloned policy is estimated at {clone} where the data earned {data}")
    # where all episodes earn the same, the size of what they earn is what there is to measure by
    if 2.0 * policy.half_width > (scale := max(float(np.ptp(returns)), abs(data.mean))):
        why.append(
            f"the interval is {2.0 * policy.half_width:.3g} wide, wider than all that the data tell of, {scale:.3g}"
        )
    if abs(drift) > max(policy.half_width, 1e-9):
        why.append(f"the estimate still drifts: by {drift:+.3g} in the last tenth of the steps")
    if not limits[0] <= policy.mean <= limits[1]:
        why.append(f"the estimate leaves what rewards can sum to, {limits[0]:.4g} to {limits[1]:.4g}")
    if why:
        return Judgement(False, tuple(why), UNRELIABLE)
    if policy.low > data.high:
        return Judgement(True, (), "better than the data")
    if policy.high < data.low:
        return Judgement(True, (), "worse than the data")
    return Judgement(True, (), "not told apart from the data")


def contradicts(policy: Interval, clone: Interval, difference: Interval) -> bool:
    """Whether one estimate sees the policy above the cloned one and the other, their difference, below it."""
    above, below = policy.low > clone.high, policy.high < clone.low
    return (above and difference.high < 0.0) or (below and difference.low > 0.0)
