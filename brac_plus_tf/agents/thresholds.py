"""Where BRAC+'s two thresholds on D(s) come from: eps_KL, fixed once, and eps_GP, renewed before every epoch."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

import gin
import numpy as np
import tensorflow as tf

from brac_plus_tf.core.randomness import fold
from brac_plus_tf.core.settings import HyperParameters

_CHUNK = 250  # states measured at a time, by the models drawn for them: enough draws that the models' shares are even
_FLOOR = (
    "its floor: so far apart are two sets of the behaviour policy's own samples, one with the least entropy allowed"
)


@runtime_checkable
class Threshold(Protocol):
    """A rule for the bound on D(s): one of the two below, or a class of one's own."""

    def resolve(self, achieved: float) -> float:
        """The bound, nats (or the divergence's own unit); `achieved`: mean divergence of the initial policy."""


@gin.register
@dataclasses.dataclass(frozen=True)
class AbsoluteThreshold(HyperParameters):
    """eps_KL or eps_MMD as Tables 5 and 6 give it; belongs to D4RL's own files."""

    value: float

    def resolve(self, achieved: float) -> float:
        """The bound on D(s); `achieved` is the mean divergence of the initial policy."""
        del achieved
        return self.value


@gin.register
@dataclasses.dataclass(frozen=True)
class RelativeThreshold(HyperParameters):
    """The initial policy's mean divergence plus a margin, for any dataset."""

    margin: float

    def resolve(self, achieved: float) -> float:
        """The bound on D(s); `achieved` is the mean divergence of the initial policy."""
        return achieved + self.margin


def watch_constraint(metrics: Mapping[str, float]) -> dict[str, str]:
    """Warns if the multipliers do not hold the constraint on most states; metrics: of BRAC+'s main stage."""
    if metrics["violated_share"] <= 0.5:
        return {}
    text = (
        f"{metrics['violated_share']:.0%} of the states lie beyond the divergence threshold "
        f"{metrics['divergence_threshold']:.4g} (mean {metrics['divergence_mean']:.4g}); the multipliers do "
        "not hold it: raise their learning rate or the threshold"
    )
    return {"constraint": text}


Measure = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


class DivergenceThresholds:
    """eps_KL (`divergence`), which the multipliers hold, and eps_GP (`penalty`), beyond which Q is penalised; nats."""

    def __init__(self, rule: Threshold, measure: Measure, floor: Measure | None = None) -> None:
        """Args: rule: gives eps_KL. measure: (observation [B, O], seed [2]) -> the current policy's D(s) [B].
        floor: the same for the least that any policy's could be, where something is known of that.
        """
        self.rule = rule
        self._measure = tf.function(measure, reduce_retracing=True, autograph=False)
        self._floor = None if floor is None else tf.function(floor, reduce_retracing=True, autograph=False)
        self.divergence = tf.Variable(0.0, trainable=False)
        self.penalty = tf.Variable(0.0, trainable=False)

    @property
    def variables(self) -> list[tf.Variable]:
        return [self.divergence, self.penalty]

    def measured(self, observation: tf.Tensor, seed: tf.Tensor) -> np.ndarray:
        """The current policy's D at each of the observations [M, O], in network units: [M] nats."""
        return _in_chunks(self._measure, observation, seed)

    def renew_penalty(self, observation: tf.Tensor, seed: tf.Tensor) -> float:
        """eps_GP <- mean + standard deviation of the current policy's D over observations [M, O]; returns the mean."""
        divergence = self.measured(observation, seed)
        self.penalty.assign(divergence.mean() + divergence.std())
        return float(divergence.mean())

    def fix_divergence(self, achieved: float, observation: tf.Tensor, seed: tf.Tensor) -> list[str]:
        """eps_KL by the rule, from the mean of the initial policy's D; a warning if it can hardly be met."""
        threshold = self.rule.resolve(achieved)
        self.divergence.assign(threshold)
        initial = (achieved, "the mean divergence of the initial policy")
        nearest, what = min([initial, *self._known_floor(observation, seed)])
        # where no policy lies within the bound alpha rises for ever
        if threshold >= nearest:
            return []
        return [
            f"the divergence threshold {threshold:.4g} lies below {nearest:.4g}, {what}: the constraint can hardly be "
            "met; use a larger value or RelativeThreshold"
        ]

    def _known_floor(self, observation: tf.Tensor, seed: tf.Tensor) -> list[tuple[float, str]]:
        if self._floor is None:
            return []
        # the initial policy has come as near as it could only where it had this divergence to minimise
        return [(float(_in_chunks(self._floor, observation, seed).mean()), _FLOOR)]


def _in_chunks(measure: Measure, observation: tf.Tensor, seed: tf.Tensor) -> np.ndarray:
    """What is measured of observations [M, O], [M] float64."""
    # chunks of one size compile once; all states at once would need gigabytes
    starts = enumerate(range(0, observation.shape[0], _CHUNK))
    found = [measure(observation[start : start + _CHUNK], fold(seed, index)).numpy() for index, start in starts]
    return np.concatenate(found).astype(np.float64)
