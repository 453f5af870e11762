"""The conditional auto-encoder of actions that BEAR and BCQ clone the data with: squared error, one Gaussian latent."""

import dataclasses
from collections.abc import Sequence

import gin
import tensorflow as tf

from brac_plus_tf.core.randomness import Purpose, fold, standard_normal
from brac_plus_tf.core.settings import HyperParameters
from brac_plus_tf.core.types import Dimensions, Metrics, Transition, check_shapes
from brac_plus_tf.models.distributions import (
    Distribution,
    diagonal_gaussian,
    draw_gaussian,
)
from brac_plus_tf.models.networks import EnsembleMLP, repeat
from brac_plus_tf.models.optimization import build_adam, gradient_step


@gin.register
@dataclasses.dataclass(frozen=True)
class ActionAutoEncoder(HyperParameters):
    """BCQ's and BEAR's conditional auto-encoder of actions: mean squared error, half the latent KL.

    Not a density model: its loss is no likelihood bound, so no KL can be measured from it. latent_size: None stands
    for 2 A.
    """

    hidden_sizes: tuple[int, ...] = (750, 750)
    latent_size: int | None = None
    learning_rate: float = 1e-3
    log_std_range: tuple[float, float] = (-4.0, 15.0)  # as in BCQ's code

    def build(self, dimensions: Dimensions, seed: int) -> "ActionAutoEncoderNetwork":
        return ActionAutoEncoderNetwork(self, dimensions, seed)


class ActionAutoEncoderNetwork(tf.keras.layers.Layer):
    """Encoder (s, a) -> q(z|s,a), decoder (s, z) -> tanh of a pre-tanh action, and the optimiser they learn by."""

    def __init__(self, shape: ActionAutoEncoder, dimensions: Dimensions, seed: int) -> None:
        super().__init__(name="behavior")
        self._shape, latent = shape, shape.latent_size or 2 * dimensions.action
        observation, action = dimensions
        self.encoder = EnsembleMLP(1, observation + action, shape.hidden_sizes, 2 * latent, seed, "encoder")
        self.decoder = EnsembleMLP(1, observation + latent, shape.hidden_sizes, action, seed, "decoder")
        self.latent_size = latent
        self.built = True
        self._optimizer = build_adam(shape.learning_rate, self.trainable_variables)

    def components(self) -> dict[str, Sequence[tf.Variable]]:
        """All variables under stable names."""
        return {"behavior": self.variables, "behavior_optimizer": self._optimizer.variables}

    def fit(self, batch: Transition, seed: tf.Tensor) -> Metrics:
        """One step on the mean of `loss`."""

        def loss() -> tuple[tf.Tensor, Metrics]:
            return tf.reduce_mean(self.loss(batch.observation, batch.action, seed)), {}

        return {"behavior_loss": gradient_step(loss, self.trainable_variables, self._optimizer)[0]}

    def posterior(self, observation: tf.Tensor, action: tf.Tensor) -> Distribution:
        """q(z|s,a), batch [B], event [Z]; log standard deviations are cut off at log_std_range."""
        mean, log_std = tf.split(self.encoder.member(0)(tf.concat([observation, action], axis=-1)), 2, axis=-1)
        return diagonal_gaussian(mean, tf.exp(tf.clip_by_value(log_std, *self._shape.log_std_range)))

    def loss(self, observation: tf.Tensor, action: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """mean_i (a_i - a~_i)^2 + 1/2 mean_k KL(q(z_k|s,a) || N(0, 1)), per state [B]: means over A and Z entries."""
        check_shapes((observation, "BO"), (action, "BA"))
        posterior = self.posterior(observation, action)
        latent = draw_gaussian(posterior, fold(seed, Purpose.LATENT))
        # means over A and Z, not sums: with sums their ratio, and so the trade-off, would hang on the sizes
        error = tf.reduce_mean(tf.square(action - tf.tanh(self.decode(observation, latent))), axis=-1)
        prior = diagonal_gaussian(tf.zeros([self.latent_size]), tf.ones([self.latent_size]))
        return error + 0.5 * posterior.kl_divergence(prior) / self.latent_size

    def decode(self, observation: tf.Tensor, latent: tf.Tensor) -> tf.Tensor:
        """Pre-tanh actions [.., A] of latents [.., Z]."""
        return self.decoder.member(0)(tf.concat([observation, latent], axis=-1))

    def draws(self, observation: tf.Tensor, samples: int, latent_clip: float, seed: tf.Tensor) -> tf.Tensor:
        """Pre-tanh actions [samples, B, A] of prior latents clipped to +-latent_clip."""
        shape = tf.concat([[samples], tf.shape(observation)[:-1], [self.latent_size]], axis=0)
        noise = standard_normal(shape, fold(seed, Purpose.BEHAVIOR_LATENT))
        latent = tf.clip_by_value(noise, -latent_clip, latent_clip)
        # a shape made in the graph has no static size, and the decoder's first layer needs the last one
        return self.decode(repeat(observation, samples), tf.ensure_shape(latent, [None, None, self.latent_size]))

    def decode_noise(self, observation: tf.Tensor, noise: tf.Tensor, latent_clip: float) -> tf.Tensor:
        """Pre-tanh actions [N, B, A] at observations [B, O], of latents cut out of noise [N, B or 1, Z] at +-clip."""
        observation = repeat(observation, noise.shape[0])
        # a sum with zeros, not broadcast_to: that one loses the static sizes that the decoder's first layer needs
        latent = tf.clip_by_value(noise, -latent_clip, latent_clip) + tf.zeros_like(observation[..., :1])
        return self.decode(observation, latent)
