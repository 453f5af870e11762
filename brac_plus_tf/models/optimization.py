"""Moving parameters: one optimiser step, target networks, the learning-rate schedule of pre-training."""

import dataclasses
from collections.abc import Callable, Sequence

import gin
import tensorflow as tf

from brac_plus_tf.core.settings import HyperParameters

Loss = Callable[[], tuple[tf.Tensor, dict[str, tf.Tensor]]]


def gradient_step(
    loss: Loss, variables: Sequence[tf.Variable], optimizer: tf.keras.optimizers.Optimizer
) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """Evaluates `loss` -> (scalar, auxiliary tensors) and steps `variables` down its gradient.

    Only `variables` are watched, so no other network can receive a gradient by accident.
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        watch(tape, variables)
        value, auxiliary = loss()
    # after the loss: what `auxiliary` holds was measured at the variables before this step
    optimizer.apply(tape.gradient(value, raw(variables)), list(variables))
    return value, auxiliary


def raw(variables: Sequence[tf.Variable]) -> list[tf.Variable]:
    """TensorFlow's own variables behind Keras' wrappers."""
    return [variable if isinstance(variable, tf.Variable) else variable.value for variable in variables]


def watch(tape: tf.GradientTape, variables: Sequence[tf.Variable]) -> None:
    """Makes `tape` record what follows from `variables`."""
    for variable in raw(variables):
        tape.watch(variable)


def build_adam(learning_rate: float | object, variables: Sequence[tf.Variable]) -> tf.keras.optimizers.Adam:
    """Adam with its slots made now, so that a checkpoint taken before the first step is complete."""
    optimizer = tf.keras.optimizers.Adam(learning_rate)
    optimizer.build(list(variables))
    return optimizer


def decayed(learning_rate: float, factors: Sequence[float], steps: int, first: int = 0) -> float | object:
    """A rate, or a Keras schedule of rates, that is `learning_rate` times each factor for equal parts of `steps`.

    first: steps before those, at the rate of the first part.
    """
    parts = len(factors)
    if parts == 1:  # without a schedule there is nothing to look up at each step
        return learning_rate * factors[0]
    # Keras keeps a value up to its boundary and on it: each drop comes one step late
    boundaries = [first + steps * part // parts for part in range(1, parts)]
    return tf.keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, [learning_rate * f for f in factors])


def copy_variables(source: Sequence[tf.Variable], target: Sequence[tf.Variable]) -> None:
    """target <- source, exactly."""
    for from_variable, to_variable in zip(source, target, strict=True):
        to_variable.assign(from_variable)


def soft_update(source: Sequence[tf.Variable], target: Sequence[tf.Variable], tau: float) -> None:
    """target <- tau source + (1 - tau) target (Algorithm 1, line 10)."""
    for from_variable, to_variable in zip(source, target, strict=True):
        to_variable.assign(tau * from_variable + (1.0 - tau) * to_variable)


@gin.register
@dataclasses.dataclass(frozen=True)
class Fit(HyperParameters):
    """One pre-training stage: gradient steps, batch size and learning rate.

    decay: factors on the learning rate for equal parts of the stage; the default drops it four times, as the
    authors' code does. most_passes: over the data, which shorten the stage where they are few; None for any number.
    """

    steps: int = 400_000
    batch_size: int = 100
    learning_rate: float = 1e-3
    decay: tuple[float, ...] = (1.0, 0.5, 0.1, 0.05, 0.01)
    most_passes: float | None = None

    def for_data(self, transitions: int | None) -> "Fit":
        """The stage on so many transitions; None where their number is not known."""
        if self.most_passes is None or transitions is None:
            return self
        most = max(1, round(self.most_passes * transitions / self.batch_size))
        return dataclasses.replace(self, steps=min(self.steps, most))

    def adam(self, variables: Sequence[tf.Variable]) -> tf.keras.optimizers.Adam:
        return build_adam(decayed(self.learning_rate, self.decay, self.steps), variables)
