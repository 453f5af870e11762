"""Steps on Lagrange multipliers: the state-dependent one of Eq. 8 and the entropy constraint's scalar.

Divergences and entropies are in nats; a violation is (constrained quantity - threshold), positive when violated.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import ClassVar

import gin
import tensorflow as tf

from brac_plus_tf.types import HyperParameters, check_shapes

DualLoss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def softplus_inverse(value: float) -> float:
    """x with softplus(x) = value > 0, without overflow for large values."""
    return value + math.log(-math.expm1(-value))


@gin.register
@dataclasses.dataclass(frozen=True)
class StraightThrough(HyperParameters):
    """Dual loss per state whose descent is a step in alpha(s) itself (Algorithm 1, line 8).

        loss = -x stopgrad(D - eps),  alpha = softplus(x)

    Its gradient does not carry softplus'(x), which vanishes for very negative x: the multiplier comes back after a
    long slack phase. A state with x below `floor` contributes nothing while slack, so x cannot run away downwards.
    """

    floor: float = -5.0

    def __call__(self, raw_multiplier: tf.Tensor, violation: tf.Tensor) -> tf.Tensor:
        """raw_multiplier: x(s) [B]; violation: D(s) - eps [B], nats -> [B]."""
        check_shapes((raw_multiplier, "B"), (violation, "B"))
        violation = tf.stop_gradient(violation)
        resting = tf.stop_gradient((raw_multiplier < self.floor) & (violation < 0.0))
        return tf.where(resting, 0.0, -raw_multiplier * violation)


@gin.register
def through_softplus(raw_multiplier: tf.Tensor, violation: tf.Tensor) -> tf.Tensor:
    """The literal dual loss per state, -softplus(x) stopgrad(D - eps) [B]; kept for comparison.

    Its gradient is scaled by softplus'(x): after a slack phase the multiplier stays at zero however violated.
    """
    check_shapes((raw_multiplier, "B"), (violation, "B"))
    return -tf.nn.softplus(raw_multiplier) * tf.stop_gradient(violation)


@dataclasses.dataclass(frozen=True)
class EntropyConstraint(HyperParameters):
    """A bound on E[H(pi(.|s))] held by a scalar multiplier beta >= 0; entropies in nats, of the squashed action.

    target: the bound H0. None stands for (behaviour's negative log-likelihood) - A log 4, measured once the
    behaviour policy is trained (the authors' later code).
    initial_multiplier, learning_rate: beta's start and the size of its projected ascent step.
    """

    target: float | None = None
    initial_multiplier: float = 10.0
    learning_rate: float = 1e-3
    sign: ClassVar[float]

    def penalty(self, multiplier: tf.Tensor, entropy: tf.Tensor) -> tf.Tensor:
        """What the policy loss gains, per state: sign * stopgrad(beta) * H."""
        return self.sign * tf.stop_gradient(multiplier) * entropy

    def next_multiplier(self, multiplier: tf.Tensor, mean_entropy: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
        """beta <- max(0, beta + sign * learning_rate * (E[H] - target)) (Algorithm 1, line 9)."""
        return tf.maximum(0.0, multiplier + self.sign * self.learning_rate * (mean_entropy - target))


@gin.register
@dataclasses.dataclass(frozen=True)
class MaximumEntropy(EntropyConstraint):
    """E[H] <= target, for the KL-constrained case (App. F): beta grows while the policy is too random."""

    sign: ClassVar[float] = 1.0


@gin.register
@dataclasses.dataclass(frozen=True)
class MinimumEntropy(EntropyConstraint):
    """E[H] >= target, for the MMD-constrained case (Table 6): beta grows while the policy is too narrow."""

    sign: ClassVar[float] = -1.0


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


Threshold = AbsoluteThreshold | RelativeThreshold
