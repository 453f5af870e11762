"""Models whose every value can be worked out with a pencil, and small shared measuring tools."""

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.models.behavior import ConditionalVAE, VAEEnsemble, VAEEnsembleNetwork
from brac_plus_tf.models.distributions import diagonal_gaussian, gaussian_mixture
from brac_plus_tf.models.networks import Actor, ActorNetwork, CriticNetwork


def linear_critic(weights, biases=(0.0, 0.0), target=False) -> CriticNetwork:
    """Q_j(s, a) = weights_j . (s, a) + biases_j for O = 3, A = 2; weights [K, 5]."""
    weights = np.asarray(weights, np.float32)
    critic = CriticNetwork((), len(weights), Dimensions(3, 2), 0, "target" if target else "critic")
    critic.set_weights([weights[:, :, None], np.asarray(biases, np.float32)[:, None]])
    return critic


def linear_actor(mean_kernel, mean_bias, standard_deviation) -> ActorNetwork:
    """u ~ N(s mean_kernel + mean_bias, diag standard_deviation^2), deviations within [e^-5, e^2]."""
    mean_kernel, mean_bias = np.asarray(mean_kernel, np.float32), np.asarray(mean_bias, np.float32)
    low, high = -5.0, 2.0
    raw = np.arctanh(2.0 * (np.log(standard_deviation) - low) / (high - low) - 1.0)
    actor = Actor(hidden_sizes=(), log_std_range=(low, high)).build(Dimensions(*mean_kernel.shape), 0)
    actor.set_weights([np.concatenate([mean_kernel, 0 * mean_kernel], 1)[None], np.concatenate([mean_bias, raw])[None]])
    return actor


def independent_vae(weights, mean, standard_deviation, latent_size: int) -> ConditionalVAE:
    """A VAE whose latent is idle: q(z|s,u) = p(z), p(u|s,z) = sum_k weights_k N(mean_k, standard_deviation_k^2).

    weights [K], mean and standard_deviation [K, A].
    """

    def posterior(observation, pre_tanh_action):
        shape = [observation.shape[0], latent_size]
        return diagonal_gaussian(tf.zeros(shape) + 0.0 * tf.reduce_sum(pre_tanh_action), tf.ones(shape))

    def decoder(observation, latent):
        leading = tf.concat([tf.shape(latent)[:-1], tf.shape(mean)], axis=0)
        logits = tf.broadcast_to(tf.math.log(tf.constant(weights, tf.float32)), leading[:-1])
        loc = tf.broadcast_to(tf.constant(mean, tf.float32), leading)
        return gaussian_mixture(logits, loc, tf.broadcast_to(tf.constant(standard_deviation, tf.float32), leading))

    return ConditionalVAE(posterior, decoder, latent_size)


@dataclasses.dataclass(frozen=True)
class LinearGaussian:
    """z ~ N(0, I), u | z ~ N(offset + gain z, diag noise^2), gain diagonal so Z = A; its posterior is exact.

    Hence pi_b(u) = N(offset, diag(gain^2 + noise^2)) and p(z|u) = N(slope (u - offset), diag posterior_std^2).
    """

    offset: np.ndarray
    gain: np.ndarray
    noise: np.ndarray

    @property
    def marginal_std(self) -> np.ndarray:
        return np.sqrt(self.gain**2 + self.noise**2)

    @property
    def slope(self) -> np.ndarray:
        return self.gain / self.marginal_std**2

    @property
    def posterior_std(self) -> np.ndarray:
        return self.noise / self.marginal_std

    def vae(self) -> ConditionalVAE:
        offset, gain, noise, slope, std = (
            tf.constant(value, tf.float32)
            for value in (self.offset, self.gain, self.noise, self.slope, self.posterior_std)
        )

        def posterior(observation, pre_tanh_action):
            mean = slope * (pre_tanh_action - offset)
            return diagonal_gaussian(mean, tf.broadcast_to(std, tf.shape(mean)))

        def decoder(observation, latent):
            mean = (offset + gain * latent)[..., None, :]
            return gaussian_mixture(tf.zeros_like(mean[..., 0]), mean, tf.broadcast_to(noise, tf.shape(mean)))

        return ConditionalVAE(posterior, decoder, len(self.offset))


def random_behavior(
    dimensions: Dimensions, components: int, latent_size: int, weights_seed: int, members: int = 2
) -> VAEEnsembleNetwork:
    """A real network with random weights.

    The decoder's are scaled up so that the latent matters; the encoder's are scaled down and its deviation made wide,
    so that importance sampling works although it was never trained.
    """
    shape = VAEEnsemble(
        members=members,
        hidden_sizes=(16,),
        latent_size=latent_size,
        mixture_components=components,
        log_std_range=(-1.0, 0.5),
    )
    network = shape.build(dimensions, weights_seed)
    encoder = [0.6 * weight for weight in network.encoder.get_weights()]
    encoder[-1][:, latent_size:] = 0.8
    network.encoder.set_weights(encoder)
    network.decoder.set_weights([2.0 * weight for weight in network.decoder.get_weights()])
    return network


def gaussian_kl(mean, std, other_mean, other_std) -> np.ndarray:
    """Textbook KL(N(mean, diag std^2) || N(other_mean, diag other_std^2)) over the last axis."""
    ratio, shift = np.asarray(std) / other_std, (np.asarray(mean) - other_mean) / other_std
    return 0.5 * np.sum(ratio**2 + shift**2 - 1.0 - 2.0 * np.log(ratio), axis=-1)


def central_difference(function: Callable[[np.ndarray], np.ndarray], at: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """d function / d at, in float64: shape of the result [.., size of at]; `function` may return any shape."""
    columns = []
    for index in range(at.size):
        shift = np.zeros(at.size)
        shift[index] = step
        shift = shift.reshape(at.shape)
        columns.append((np.asarray(function(at + shift)) - np.asarray(function(at - shift))) / (2.0 * step))
    return np.stack(columns, axis=-1)


def seeds(count: int, start: int = 0) -> list[tf.Tensor]:
    """`count` different [2] seeds."""
    return [tf.constant([index, 12345], tf.int32) for index in range(start, start + count)]


def assert_mean(samples: np.ndarray, expected, errors: float = 4.5) -> None:
    """The mean over axis 0 lies within `errors` standard errors of `expected`, which are not hidden by a tolerance."""
    samples = np.asarray(samples, np.float64)
    standard_error = samples.std(axis=0, ddof=1) / np.sqrt(len(samples))
    np.testing.assert_array_less(np.abs(samples.mean(axis=0) - expected), errors * standard_error + 1e-6)
