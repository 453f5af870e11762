"""Keras networks: they map tensors to parameters or values; distributions are built around them elsewhere."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import gin
import tensorflow as tf

from brac_plus_tf.core.randomness import initializer_seed
from brac_plus_tf.core.settings import HyperParameters
from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.models.distributions import Distribution, diagonal_gaussian, split_gaussian

Function = Callable[[tf.Tensor], tf.Tensor]
Initializer = Callable[[int, int], Callable[[tuple[int, ...], str], tf.Tensor]]


def glorot_uniform(seed: int, fan_in: int) -> Callable[[tuple[int, ...], str], tf.Tensor]:
    """Uniform with variance 2 / (fan_in + fan_out)."""
    del fan_in
    return tf.keras.initializers.GlorotUniform(seed=seed)


def truncated_normal(seed: int, fan_in: int) -> Callable[[tuple[int, ...], str], tf.Tensor]:
    """Normal with deviation 1 / (2 sqrt(fan_in)), cut at two of them: PETS' and MBPO's dynamics."""
    return tf.keras.initializers.TruncatedNormal(stddev=0.5 / math.sqrt(fan_in), seed=seed)


@gin.register
def normalized_relu(inputs: tf.Tensor) -> tf.Tensor:
    """relu((x - mean) / deviation) [.., H]: layer normalisation [Ba et al. 2016] over the H units, then ReLU.

    It has no scale and offset of its own: the next layer's weights make up for them. A critic of it grows with its
    last weights alone, not with the size of its inputs: far from the data its values stay of the data's size.
    """
    return tf.nn.relu(_normalized(inputs))


@gin.register
def relu_then_normalized(inputs: tf.Tensor) -> tf.Tensor:
    """The same the other way round, as ReBRAC's critics have it: ReLU, then layer normalisation."""
    return _normalized(tf.nn.relu(inputs))


def _normalized(inputs: tf.Tensor) -> tf.Tensor:
    mean, variance = tf.nn.moments(inputs, axes=[-1], keepdims=True)
    return (inputs - mean) * tf.math.rsqrt(variance + 1e-5)


class Layers(NamedTuple):
    """activation: of the hidden layers. initializer: (seed, fan_in) -> how a kernel starts; biases start at 0."""

    activation: Function = tf.nn.relu
    initializer: Initializer = glorot_uniform


class EnsembleMLP(tf.keras.layers.Layer):
    """E independent networks of equal shape, their weights stacked as [E, in, out].

    Stacking lets a member be drawn inside a compiled step with one gather. The members run one after another:
    XLA's batched matrix product on CPU loses half its speed in the backward pass.
    """

    def __init__(
        self,
        members: int,
        input_size: int,
        hidden_sizes: tuple[int, ...],
        output_size: int,
        seed: int,
        name: str,
        layers: Layers = Layers(),
    ) -> None:
        super().__init__(name=name)
        self.members, self._activation = members, layers.activation
        self._kernels, self._biases = [], []
        sizes = (input_size, *hidden_sizes, output_size)
        for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
            # a seed for each member and layer: members that began alike would remain one
            starts = [
                layers.initializer(initializer_seed(seed, f"{name}/{member}/{layer}"), fan_in)
                for member in range(members)
            ]
            self._kernels.append(
                self.add_weight(
                    name=f"kernel_{layer}",
                    shape=(members, fan_in, fan_out),
                    initializer=lambda shape, dtype, starts=starts: tf.stack([s(shape[1:], dtype) for s in starts]),
                )
            )
            self._biases.append(self.add_weight(name=f"bias_{layer}", shape=(members, fan_out), initializer="zeros"))
        self.built = True

    @property
    def kernels(self) -> list[tf.Variable]:
        """Those of the layers in order, [E, in, out] each."""
        return self._kernels

    def member(self, index: int | tf.Tensor, compute_dtype: str = "float32") -> Function:
        """One member as a function [.., in] -> [.., out]; `index` may be a tensor drawn inside the graph.

        compute_dtype: of the layers between the float32 inputs and outputs.
        """

        def take(weight: tf.Tensor) -> tf.Tensor:
            return tf.cast(weight[index] if isinstance(index, int) else tf.gather(weight, index), compute_dtype)

        kernels, biases = ([take(weight) for weight in weights] for weights in (self._kernels, self._biases))
        return _forward(kernels, biases, self._activation)

    def every_member(self) -> list[Function]:
        """All members as functions, for learning them: the gradient of unstacking is one stack, where that of each
        member's slice is as large as all of them together.
        """
        kernels, biases = (zip(*map(tf.unstack, weights), strict=True) for weights in (self._kernels, self._biases))
        return [_forward(kernel, bias, self._activation) for kernel, bias in zip(kernels, biases, strict=True)]

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """All members on the same inputs: [B, in] -> [E, B, out]."""
        return tf.stack([member(inputs) for member in self.every_member()])


def _forward(kernels: Sequence[tf.Tensor], biases: Sequence[tf.Tensor], activation: Function) -> Function:
    """[.., in] -> [.., out] through the layers, computed in the weights' type between float32 inputs and outputs."""

    def forward(inputs: tf.Tensor) -> tf.Tensor:
        # as one matrix, whatever the leading axes: one large product is faster than a batch of small ones
        leading = tf.shape(inputs)[:-1]
        hidden = tf.cast(tf.reshape(inputs, [-1, inputs.shape[-1]]), kernels[0].dtype)
        for kernel, bias in zip(kernels[:-1], biases[:-1], strict=True):
            hidden = activation(tf.matmul(hidden, kernel) + bias)
        outputs = tf.cast(tf.matmul(hidden, kernels[-1]) + biases[-1], tf.float32)
        if inputs.shape.rank == 2:
            return outputs
        return tf.reshape(outputs, tf.concat([leading, [outputs.shape[-1]]], axis=0))

    return forward


def repeat(tensor: tf.Tensor, samples: int) -> tf.Tensor:
    """[B, ..] -> [samples, B, ..]."""
    return tf.broadcast_to(tensor, tf.concat([[samples], tf.shape(tensor)], axis=0))


@gin.register
@dataclasses.dataclass(frozen=True)
class Actor(HyperParameters):
    """Shape of the tanh-Gaussian policy (App. F: "3-layer", hidden 512, read as two hidden layers).

    log_std_range bounds the logarithm of the pre-tanh standard deviation.
    """

    hidden_sizes: tuple[int, ...] = (512, 512)
    log_std_range: tuple[float, float] = (-5.0, 2.0)  # deviations of 0.007 to 7.4

    def build(self, dimensions: Dimensions, seed: int, name: str = "actor") -> "ActorNetwork":
        return ActorNetwork(self, dimensions, seed, name)


class ActorNetwork(EnsembleMLP):
    """pi(.|s): observation [B, O] -> mean and standard deviation of the pre-tanh action, each [B, A]."""

    def __init__(self, shape: Actor, dimensions: Dimensions, seed: int, name: str) -> None:
        super().__init__(1, dimensions.observation, shape.hidden_sizes, 2 * dimensions.action, seed, name)
        self.action_size, self._log_std_range = dimensions.action, shape.log_std_range

    def call(self, observation: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return split_gaussian(self.member(0)(observation), self._log_std_range)

    def distribution(self, observation: tf.Tensor) -> Distribution:
        """The pre-tanh action's distribution, batch [B], event [A]."""
        return diagonal_gaussian(*self(observation))


@gin.register
@dataclasses.dataclass(frozen=True)
class DeterministicActor(HyperParameters):
    """Shape of a policy that gives one action for each state."""

    hidden_sizes: tuple[int, ...] = (256, 256)

    def build(self, dimensions: Dimensions, seed: int, name: str = "actor") -> "DeterministicActorNetwork":
        return DeterministicActorNetwork(self, dimensions, seed, name)


class DeterministicActorNetwork(EnsembleMLP):
    """pi(s) = tanh(h(s)): observation [.., O] -> action [.., A] in [-1, 1]."""

    def __init__(self, shape: DeterministicActor, dimensions: Dimensions, seed: int, name: str) -> None:
        super().__init__(1, dimensions.observation, shape.hidden_sizes, dimensions.action, seed, name)

    def call(self, observation: tf.Tensor) -> tf.Tensor:
        return tf.tanh(self.member(0)(observation))


@gin.register
@dataclasses.dataclass(frozen=True)
class CommonSpreadActor(HyperParameters):
    """Shape of a Gaussian over actions whose mean is within [-1, 1] and whose deviations are the same in every state.

    log_std_range: bounds of their logarithms, which start at 0.
    """

    hidden_sizes: tuple[int, ...] = (256, 256)
    log_std_range: tuple[float, float] = (-5.0, 2.0)

    def build(self, dimensions: Dimensions, seed: int, name: str = "actor") -> "CommonSpreadActorNetwork":
        return CommonSpreadActorNetwork(self, dimensions, seed, name)


class CommonSpreadActorNetwork(EnsembleMLP):
    """pi(.|s): observation [.., O] -> mean tanh(h(s)) and standard deviation of the action, each [.., A]."""

    def __init__(self, shape: CommonSpreadActor, dimensions: Dimensions, seed: int, name: str) -> None:
        super().__init__(1, dimensions.observation, shape.hidden_sizes, dimensions.action, seed, name)
        self.log_std = self.add_weight(name="log_std", shape=(dimensions.action,), initializer="zeros")
        self.action_size, self._log_std_range = dimensions.action, shape.log_std_range

    def call(self, observation: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        mean = tf.tanh(self.member(0)(observation))
        deviation = tf.exp(tf.clip_by_value(self.log_std, *self._log_std_range))
        return mean, tf.broadcast_to(deviation, tf.shape(mean))


class CriticNetwork(EnsembleMLP):
    """Q_j(s, a): observation [.., O] and action [.., A] in [-1, 1] -> [K, ..] in units of the rescaled reward."""

    def __init__(
        self,
        hidden_sizes: tuple[int, ...],
        members: int,
        dimensions: Dimensions,
        seed: int,
        name: str = "critic",
        activation: Function = tf.nn.relu,
    ) -> None:
        inputs = dimensions.observation + dimensions.action
        super().__init__(members, inputs, hidden_sizes, 1, seed, name, Layers(activation))

    def call(self, observation: tf.Tensor, action: tf.Tensor) -> tf.Tensor:  # type: ignore[override]
        inputs = tf.concat([observation, action], axis=-1)
        return tf.squeeze(super().call(inputs), axis=-1)

    def minimum(self, observation: tf.Tensor, action: tf.Tensor) -> tf.Tensor:
        """min_j Q_j(s, a), the clipped double Q of Eq. 14."""
        # the policy seeks out what a critic overestimates; where the other one does not, nothing is gained
        return tf.reduce_min(self(observation, action), axis=0)


class ValueNetwork(EnsembleMLP):
    """V(s): observation [.., O] -> [..] in units of the rescaled reward."""

    def __init__(self, hidden_sizes: tuple[int, ...], dimensions: Dimensions, seed: int, name: str = "value") -> None:
        super().__init__(1, dimensions.observation, hidden_sizes, 1, seed, name)

    def call(self, observation: tf.Tensor) -> tf.Tensor:
        return tf.squeeze(self.member(0)(observation), axis=-1)
