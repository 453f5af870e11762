"""Steps on Lagrange multipliers: the state-dependent one of Eq. 8 and the entropy constraint's scalar.

Divergences and entropies are in nats; a violation is (constrained quantity - threshold), positive when violated.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import ClassVar, Protocol, runtime_checkable

import gin
import tensorflow as tf

from brac_plus_tf.core.settings import HyperParameters
from brac_plus_tf.core.types import Dimensions, Metrics, check_shapes
from brac_plus_tf.models.networks import EnsembleMLP
from brac_plus_tf.models.optimization import build_adam, gradient_step

DualLoss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def softplus_inverse(value: float) -> float:
    """x with softplus(x) = value > 0, without overflow for large values."""
    # log(e^v - 1) = v + log(1 - e^-v): e^v overflows from v = 710 on; expm1 keeps the digits of a small v
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

    target: the bound H0. None stands for (behaviour's negative log-likelihood) - A margin, measured once the behaviour
    policy is trained (the authors' later code).
    margin: nats for each of the A entries of an action; at log 4 a policy is a quarter as wide as the data.
    initial, learning_rate: beta's start and the size of its projected ascent step.
    """

    target: float | None = None
    margin: float = math.log(4.0)
    initial: float = 10.0
    learning_rate: float = 1e-3
    sign: ClassVar[float]

    def penalty(self, multiplier: tf.Tensor, entropy: tf.Tensor) -> tf.Tensor:
        """What the policy loss gains, per state: sign * stopgrad(beta) * H."""
        return self.sign * tf.stop_gradient(multiplier) * entropy

    def least(self, target: tf.Tensor) -> tf.Tensor:
        """What E[H] may not fall below, nats: nothing, unless the constraint is one from below."""
        return tf.fill(tf.shape(target), -math.inf)

    def next_multiplier(self, multiplier: tf.Tensor, mean_entropy: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
        """beta <- max(0, beta + sign * learning_rate * (E[H] - target)) (Algorithm 1, line 9)."""
        # projected: the multiplier of an inequality is never negative, else it would pay for violating it
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

    def least(self, target: tf.Tensor) -> tf.Tensor:
        """The target."""
        return target


@runtime_checkable
class MultiplierRule(Protocol):
    """How alpha(s) is represented and what it descends: one of the two below, or a class of one's own."""

    @property
    def learning_rate(self) -> float:
        """Adam's."""

    def build(self, dimensions: Dimensions, seed: int) -> tf.keras.layers.Layer:
        """x: observation [B, O] -> [B]; alpha(s) = softplus(x(s))."""

    def loss(self, raw_multiplier: tf.Tensor, violation: tf.Tensor) -> tf.Tensor:
        """x [B] and D(s) - eps [B] -> dual loss [B]."""


@gin.register
@dataclasses.dataclass(frozen=True)
class StateMultiplier(HyperParameters):
    """alpha(s) = softplus(x(s)), one Lagrange multiplier per state (Eq. 8; App. F: hidden 256).

    learning_rate: Adam's. initial: alpha at the start. dual_loss: (x [B], violation [B]) -> [B].
    """

    hidden_sizes: tuple[int, ...] = (256, 256)
    learning_rate: float = 1e-5
    initial: float = 10.0
    dual_loss: DualLoss = StraightThrough()

    def build(self, dimensions: Dimensions, seed: int) -> "MultiplierNetwork":
        return MultiplierNetwork(self.hidden_sizes, self.initial, dimensions, seed)

    def loss(self, raw_multiplier: tf.Tensor, violation: tf.Tensor) -> tf.Tensor:
        """Dual loss of each state's own violation, [B]."""
        return self.dual_loss(raw_multiplier, violation)


@gin.register
@dataclasses.dataclass(frozen=True)
class GlobalMultiplier(HyperParameters):
    """One multiplier alpha = softplus(x) for all states, holding the mean of D (the ablation of Fig. 2b)."""

    learning_rate: float = 1e-3
    initial: float = 10.0
    dual_loss: DualLoss = StraightThrough()

    def build(self, dimensions: Dimensions, seed: int) -> "ScalarMultiplier":
        del dimensions, seed
        return ScalarMultiplier(self.initial)

    def loss(self, raw_multiplier: tf.Tensor, violation: tf.Tensor) -> tf.Tensor:
        """Dual loss of the batch's mean violation, [B]."""
        # the mean in every entry, so that the dual loss rests by the constraint on the mean and not by single states
        return self.dual_loss(raw_multiplier, tf.fill(tf.shape(violation), tf.reduce_mean(violation)))


class MultiplierNetwork(EnsembleMLP):
    """x(s): observation [B, O] -> [B]; starts near the same value for all states."""

    def __init__(self, hidden_sizes: tuple[int, ...], initial: float, dimensions: Dimensions, seed: int) -> None:
        super().__init__(1, dimensions.observation, hidden_sizes, 1, seed, "multiplier")
        # the kernel before it stays random: from the first step on, states may part ways
        self._biases[-1].assign(tf.fill(self._biases[-1].shape, softplus_inverse(initial)))

    def call(self, observation: tf.Tensor) -> tf.Tensor:
        return tf.squeeze(self.member(0)(observation), axis=-1)


class ScalarMultiplier(tf.keras.layers.Layer):
    """x, one scalar repeated for each state: observation [B, O] -> [B]."""

    def __init__(self, initial: float) -> None:
        super().__init__(name="multiplier")
        initializer = tf.keras.initializers.Constant(softplus_inverse(initial))
        self._value = self.add_weight(name="value", shape=(), initializer=initializer)
        self.built = True

    def call(self, observation: tf.Tensor) -> tf.Tensor:
        return tf.fill(tf.shape(observation)[:1], tf.convert_to_tensor(self._value))


@gin.register
@dataclasses.dataclass(frozen=True)
class Multiplier(HyperParameters):
    """A scalar multiplier learned by Adam: it rises while its constraint is violated and falls while it is slack.

    initial: its value at the start. learning_rate: Adam's; at 0 it stays fixed. minimum, maximum: its range.
    logarithmic: what is stepped is its logarithm, along the derivative of multiplier * violation.
    """

    initial: float = 1.0
    learning_rate: float = 1e-3
    minimum: float = 0.0
    maximum: float = 1e6
    logarithmic: bool = False

    def build(self) -> "LearnedMultiplier":
        return LearnedMultiplier(self)


class LearnedMultiplier:
    """The state of a `Multiplier`."""

    def __init__(self, rule: Multiplier) -> None:
        self._to_value = tf.exp if rule.logarithmic else tf.identity
        # 0 has no logarithm; a multiplier of 1e-30 is none
        from_value = (lambda value: math.log(max(value, 1e-30))) if rule.logarithmic else float
        self._range = from_value(rule.minimum), from_value(rule.maximum)
        self._parameter = tf.Variable(from_value(rule.initial), trainable=True, dtype=tf.float32)
        self._optimizer = build_adam(rule.learning_rate, [self._parameter])

    def __call__(self) -> tf.Tensor:
        """The multiplier, scalar; no gradient flows into it from a loss that holds it."""
        return tf.stop_gradient(self._to_value(self._parameter))

    def ascend(self, violation: tf.Tensor) -> None:
        """One step up multiplier * violation, projected onto the range. violation: scalar, positive if violated."""
        violation = tf.stop_gradient(violation)
        gradient_step(lambda: (-self._to_value(self._parameter) * violation, {}), [self._parameter], self._optimizer)
        # the parameter itself: clipped only when used, it would run far beyond its range and be long in coming back
        self._parameter.assign(tf.clip_by_value(self._parameter, *self._range))

    @property
    def variables(self) -> list[tf.Variable]:
        return [self._parameter, *self._optimizer.variables]


class LearnedStateMultiplier:
    """alpha(s) of a `MultiplierRule`: its network and the optimiser that it learns by."""

    def __init__(self, rule: MultiplierRule, dimensions: Dimensions, seed: int) -> None:
        self._rule, self.network = rule, rule.build(dimensions, seed)
        self._optimizer = build_adam(rule.learning_rate, self.network.trainable_variables)

    def __call__(self, observation: tf.Tensor) -> tf.Tensor:
        """alpha(s): observation [B, O] -> [B], at least 0."""
        return tf.nn.softplus(self.network(observation))

    def ascend(self, observation: tf.Tensor, violation: tf.Tensor) -> None:
        """alpha(s) rises where its constraint is violated and falls where it is slack; violation: D(s) - eps [B]."""
        violation = tf.stop_gradient(violation)

        def loss() -> tuple[tf.Tensor, Metrics]:
            return tf.reduce_mean(self._rule.loss(self.network(observation), violation)), {}

        gradient_step(loss, self.network.trainable_variables, self._optimizer)

    def components(self) -> dict[str, Sequence[tf.Variable]]:
        """All variables under stable names."""
        return {"multiplier": self.network.variables, "multiplier_optimizer": self._optimizer.variables}


class LearnedEntropyMultiplier:
    """beta of an `EntropyConstraint` (`value`), and the bound H0 that it holds (`target`), nats."""

    def __init__(self, rule: EntropyConstraint) -> None:
        self._rule = rule
        self.value = tf.Variable(rule.initial, trainable=False, dtype=tf.float32)
        # a variable, since without a target in the settings it is measured on the way and has to be in the checkpoints
        self.target = tf.Variable(rule.target or 0.0, trainable=False, dtype=tf.float32)

    @property
    def variables(self) -> list[tf.Variable]:
        return [self.value, self.target]

    def least(self) -> tf.Tensor:
        """What the constraint does not let E[H] fall below, scalar, nats; -inf where it does not care."""
        return self._rule.least(tf.convert_to_tensor(self.target))

    def penalty(self, entropy: tf.Tensor) -> tf.Tensor:
        """What the policy loss gains, per state; entropy: H(pi(.|s)) [B]."""
        return self._rule.penalty(self.value, entropy)

    def ascend(self, mean_entropy: tf.Tensor) -> None:
        """A plain projected step on beta, in proportion to the violation, where Adam's would hardly depend on it."""
        self.value.assign(self._rule.next_multiplier(self.value, mean_entropy, self.target))
