"""Models of the dynamics: probabilistic ensembles p_k(r, s' - s | s, a), as MBPO and MOPO learn them.

Reference: Chua et al. 2018 (PETS), Janner et al. 2019 (MBPO), Yu et al. 2020 (MOPO).
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import gin
import numpy as np
import tensorflow as tf

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.settings import HyperParameters
from brac_plus_tf.core.types import Dimensions, Metrics, check_shapes
from brac_plus_tf.models.networks import EnsembleMLP, Layers, truncated_normal


class Prediction(NamedTuple):
    """Of K members for B steps: mean and log_variance [K, B, 1 + O] of (reward, next observation - observation)."""

    mean: tf.Tensor
    log_variance: tf.Tensor


@gin.register
@dataclasses.dataclass(frozen=True)
class Dynamics(HyperParameters):
    """K networks (s, a) -> a diagonal Gaussian over (r, s' - s), and what their loss is made of.

    weight_decay: of each layer's kernel, added to the loss as weight_decay / 2 sum W^2.
    log_variance_range: where the bounds of each output's log variance start. learn_bounds: whether they move; each
    member has its own. bound_weight: what draws them together, of max - min, summed over the outputs; the K members
    share it, so that the fixed point is that of one pair for all of them.
    Networks, decay and bounds: MOPO's code.
    """

    members: int = 7
    hidden_sizes: tuple[int, ...] = (200, 200, 200, 200)
    weight_decay: tuple[float, ...] = (2.5e-5, 5e-5, 7.5e-5, 7.5e-5, 1e-4)
    log_variance_range: tuple[float, float] = (-10.0, 0.5)
    learn_bounds: bool = True
    bound_weight: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        layers = len(self.hidden_sizes) + 1
        if len(self.weight_decay) != layers:
            raise UserError(
                f"Dynamics.weight_decay has {len(self.weight_decay)} entries, the network {layers} layers: one for each"
            )
        if self.members < 1 or self.log_variance_range[0] >= self.log_variance_range[1]:
            raise UserError("Dynamics: members must be at least 1, and log_variance_range (low, high) with low < high")

    def build(self, dimensions: Dimensions, seed: int) -> "DynamicsNetwork":
        return DynamicsNetwork(self, dimensions, seed)


class DynamicsNetwork(tf.keras.layers.Layer):
    """The K networks, the bounds of their variances, and the scaling of their inputs."""

    def __init__(self, shape: Dynamics, dimensions: Dimensions, seed: int) -> None:
        super().__init__(name="dynamics")
        self._shape, inputs, outputs = shape, sum(dimensions), 1 + dimensions.observation
        self.network = EnsembleMLP(
            shape.members,
            inputs,
            shape.hidden_sizes,
            2 * outputs,
            seed,
            "dynamics",
            Layers(tf.nn.silu, truncated_normal),
        )
        self.min_log_variance, self.max_log_variance = (
            self.add_weight(
                name=name,
                shape=(shape.members, outputs),
                initializer=tf.keras.initializers.Constant(bound),
                trainable=shape.learn_bounds,
            )
            for name, bound in zip(("min_log_variance", "max_log_variance"), shape.log_variance_range, strict=True)
        )
        self.input_shift = self.add_weight(name="input_shift", shape=(inputs,), initializer="zeros", trainable=False)
        self.input_scale = self.add_weight(name="input_scale", shape=(inputs,), initializer="ones", trainable=False)
        self.built = True

    @property
    def members(self) -> int:
        """K."""
        return self._shape.members

    @property
    def min_max(self) -> list[tf.Variable]:
        """The bounds of the log variances, [K, 1 + O] each."""
        return [self.min_log_variance, self.max_log_variance]

    def fit_inputs(self, observation: np.ndarray, action: np.ndarray) -> None:
        """Standardises inputs by the mean and standard deviation of these, [M, O] and [M, A]; constant entries stay."""
        inputs = np.concatenate([observation, action], axis=1).astype(np.float64)
        deviation = inputs.std(axis=0)
        self.input_shift.assign(inputs.mean(axis=0))
        self.input_scale.assign(np.where(deviation < 1e-12, 1.0, deviation))

    def call(self, observation: tf.Tensor, action: tf.Tensor) -> Prediction:
        """Every member on the same steps [B, O], [B, A], or each on its own [K, B, O], [K, B, A]."""
        inputs = (tf.concat([observation, action], axis=-1) - self.input_shift) / self.input_scale
        own = tf.unstack(inputs) if inputs.shape.rank == 3 else [inputs] * self.members
        outputs = [member(steps) for member, steps in zip(self.network.every_member(), own, strict=True)]
        mean, raw = tf.split(tf.stack(outputs), 2, axis=-1)
        bounds = self.min_log_variance[:, None], self.max_log_variance[:, None]
        return Prediction(mean, soft_clamp(raw, *bounds))

    def mean_of(self, member: tf.Tensor) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
        """(observation [.., O], action [.., A]) -> mean [.., 1 + O] of the member of that number, a scalar."""
        network = self.network.member(member)

        def mean(observation: tf.Tensor, action: tf.Tensor) -> tf.Tensor:
            inputs = (tf.concat([observation, action], axis=-1) - self.input_shift) / self.input_scale
            return network(inputs)[..., : self.max_log_variance.shape[1]]

        return mean

    def loss(self, prediction: Prediction, target: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
        """Sum over the members of their mean `gaussian_error`, weight decay, and what draws the bounds together.

        Args:
          target: [K, B, 1 + O]. weight: the same shape, 0 where a target is not known and 1 elsewhere.
        """
        errors = gaussian_error(prediction, target) * weight
        decay = [
            0.5 * rate * tf.reduce_sum(tf.square(kernel))
            for rate, kernel in zip(self._shape.weight_decay, self.network.kernels, strict=True)
        ]
        width = tf.reduce_sum(self.max_log_variance - self.min_log_variance) / self.members
        # a sum over members: each learns as if it were alone
        return tf.reduce_sum(tf.reduce_mean(errors, axis=(1, 2))) + tf.add_n(decay) + self._shape.bound_weight * width

    def bound_metrics(self) -> Metrics:
        """The least and the mean distance of the upper from the lower bound, nats; crossed where it is negative."""
        width = self.max_log_variance - self.min_log_variance
        return {"bound_width_least": tf.reduce_min(width), "bound_width_mean": tf.reduce_mean(width)}


def gaussian_error(prediction: Prediction, target: tf.Tensor) -> tf.Tensor:
    """(mean - y)^2 exp(-log_variance) + log_variance, elementwise: twice the negative log-likelihood less log 2 pi."""
    check_shapes((prediction.mean, "KBD"), (prediction.log_variance, "KBD"), (target, "KBD"))
    return tf.square(prediction.mean - target) * tf.exp(-prediction.log_variance) + prediction.log_variance


def soft_clamp(value: tf.Tensor, low: tf.Tensor, high: tf.Tensor) -> tf.Tensor:
    """`value` kept above `low` and below high + log(1 + exp(low - high)), with a gradient everywhere."""
    # the upper bound first, as MBPO's code: the lower one then lifts what it is given a little, also at the top
    value = high - tf.nn.softplus(high - value)
    return low + tf.nn.softplus(value - low)
