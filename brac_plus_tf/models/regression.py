"""Plain regression by an ensemble: K networks, squared error, inputs and outputs standardised by the data."""

import dataclasses

import gin
import numpy as np
import tensorflow as tf

from brac_plus_tf.core.settings import HyperParameters
from brac_plus_tf.models.networks import EnsembleMLP, Function


@gin.register
@dataclasses.dataclass(frozen=True)
class Regression(HyperParameters):
    """Shape of the K networks."""

    members: int = 3
    hidden_sizes: tuple[int, ...] = (500, 500)

    def build(self, inputs: int, outputs: int, seed: int, name: str) -> "RegressionNetwork":
        return RegressionNetwork(self, inputs, outputs, seed, name)


class RegressionNetwork(tf.keras.layers.Layer):
    """x [.., I] -> y [.., D] in the data's units."""

    def __init__(self, shape: Regression, inputs: int, outputs: int, seed: int, name: str) -> None:
        super().__init__(name=name)
        self.members = shape.members
        self.network = EnsembleMLP(shape.members, inputs, shape.hidden_sizes, outputs, seed, name)
        self._input_shift, self._output_shift = (self._constant(f"{name}_shift", n, "zeros") for n in (inputs, outputs))
        self._input_scale, self._output_scale = (self._constant(f"{name}_scale", n, "ones") for n in (inputs, outputs))
        self.built = True

    def _constant(self, name: str, size: int, initializer: str) -> tf.Variable:
        return self.add_weight(name=name, shape=(size,), initializer=initializer, trainable=False)

    def fit_scales(self, inputs: np.ndarray, outputs: np.ndarray) -> None:
        """Standardises by the mean and deviation of these, [M, I] and [M, D]; entries that hardly vary are kept."""
        for array, shift, scale in (
            (inputs, self._input_shift, self._input_scale),
            (outputs, self._output_shift, self._output_scale),
        ):
            shift.assign(array.mean(axis=0, dtype=np.float64))
            scale.assign(np.maximum(array.std(axis=0, dtype=np.float64), 1e-6))

    def every_member(self) -> list[Function]:
        """All members as functions [.., I] -> [.., D]."""

        def in_units(member: Function) -> Function:
            def predict(inputs: tf.Tensor) -> tf.Tensor:
                return self._output_shift + self._output_scale * member(
                    (inputs - self._input_shift) / self._input_scale
                )

            return predict

        return [in_units(member) for member in self.network.every_member()]

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Every member on the same inputs [B, I], or each on its own [K, B, I]: [K, B, D]."""
        own = tf.unstack(inputs) if inputs.shape.rank == 3 else [inputs] * self.members
        return tf.stack([member(rows) for member, rows in zip(self.every_member(), own, strict=True)])

    def squared_error(self, inputs: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
        """Of each member on its own rows, in standard deviations of the outputs: [K, B, I], [K, B, D] -> [K]."""
        error = (self(inputs) - outputs) / self._output_scale
        return tf.reduce_mean(tf.square(error), axis=(1, 2))
