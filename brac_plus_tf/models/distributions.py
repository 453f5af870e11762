"""The tanh-Gaussian policy's densities and the Kullback-Leibler divergences the bound is made of.

A policy is handled through the distribution of its pre-tanh action u, a diagonal Gaussian; a = tanh(u).
"""

import math
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from brac_plus_tf.core.randomness import standard_normal

tfd: Any = tfp.distributions
tfb: Any = tfp.bijectors
Distribution = Any  # a TFP distribution; TFP carries no types


def diagonal_gaussian(mean: tf.Tensor, standard_deviation: tf.Tensor) -> Distribution:
    """N(mean, diag standard_deviation^2) with the last axis as its event."""
    return tfd.Independent(tfd.Normal(mean, standard_deviation), reinterpreted_batch_ndims=1)


def draw_gaussian(gaussian: Distribution, seed: tf.Tensor, samples: int | None = None) -> tf.Tensor:
    """Reparameterised draws mean + deviation * noise of a `diagonal_gaussian`; the same eagerly and under XLA.

    Returns:
      [.., A], or [samples, .., A] if `samples` is given.
    """
    # not by TFP, whose floats differ between eager and XLA from the same seed
    mean = gaussian.mean()
    shape = tf.shape(mean) if samples is None else tf.concat([[samples], tf.shape(mean)], axis=0)
    return mean + gaussian.stddev() * tf.cast(standard_normal(shape, seed), mean.dtype)


def gaussian_mixture(logits: tf.Tensor, mean: tf.Tensor, standard_deviation: tf.Tensor) -> Distribution:
    """sum_k softmax(logits)_k N(mean_k, diag standard_deviation_k^2).

    Args:
      logits: [.., K]. mean, standard_deviation: [.., K, A].
    """
    return tfd.MixtureSameFamily(tfd.Categorical(logits=logits), diagonal_gaussian(mean, standard_deviation))


def split_gaussian(parameters: tf.Tensor, log_std_range: tuple[float, float]) -> tuple[tf.Tensor, tf.Tensor]:
    """Splits [.., 2 A] network outputs into mean and standard deviation, each [.., A].

    log std = low + (high - low) (tanh(x) + 1) / 2: smooth, so that a saturated scale still has a gradient back.
    """
    mean, raw = tf.split(parameters, 2, axis=-1)
    low, high = log_std_range
    return mean, tf.exp(low + 0.5 * (high - low) * (tf.tanh(raw) + 1.0))


def inverse_tanh(action: tf.Tensor, margin: float) -> tf.Tensor:
    """u = atanh(a) with a first clipped to +-(1 - margin), since logged actions reach +-1 where u is infinite."""
    # atanh(0.999) = 3.8 is how far out a margin of 1e-3 lets an action at the bound lie
    return tf.atanh(tf.clip_by_value(action, margin - 1.0, 1.0 - margin))


def tanh_log_prob(distribution: Distribution, pre_tanh_action: tf.Tensor) -> tf.Tensor:
    """log pi(a|s) in nats of a = tanh(u), given u [.., A]: log p(u) - sum_i log(1 - tanh(u_i)^2).

    The Jacobian is evaluated at u in its stable form, 2 (log 2 - u - softplus(-2u)); it never sees a = +-1.
    """
    # 1 - tanh(u)^2 = 4 / (e^u + e^-u)^2. As it stands it rounds to 0 in float32 from |u| = 9 on, its logarithm to -inf.
    jacobian = tfb.Tanh().forward_log_det_jacobian(pre_tanh_action, event_ndims=1)
    return distribution.log_prob(pre_tanh_action) - jacobian


def gaussian_deviation(entropy: tf.Tensor, pre_tanh_mean: tf.Tensor) -> tf.Tensor:
    """The pre-tanh deviation, one for all entries, at which tanh-Gaussians around these means [.., A] have `entropy` on
    average, nats of the squashed action; scalar. Exact while it is small, too small where it is not.
    """
    # H = sum_i log(deviation sqrt(2 pi e)) + E log(1 - tanh(u_i)^2), whose last term is concave in u: its value at the
    # mean is the most that it can be
    jacobian = tf.reduce_mean(tfb.Tanh().forward_log_det_jacobian(pre_tanh_mean, event_ndims=1))
    return tf.exp((entropy - jacobian) / pre_tanh_mean.shape[-1] - 0.5 * math.log(2.0 * math.pi * math.e))


def gaussian_to_mixture_kl_bound(gaussian: Distribution, mixture: Distribution) -> tf.Tensor:
    """Closed-form upper bound on KL(f || sum_k w_k g_k) in nats, f and g_k diagonal Gaussians.

        KL(f || g) <= -log sum_k w_k exp(-KL(f || g_k));  equality for K = 1.

    Args:
      gaussian: batch [B], event [A]. mixture: `gaussian_mixture` with batch [.., B].
    Returns:
      [.., B].
    Reference: Hershey and Olsen (2007), variational approximation, for a single-component f.
    """
    normal = gaussian.distribution
    broadcast = diagonal_gaussian(normal.loc[..., None, :], normal.scale[..., None, :])
    component_kl = broadcast.kl_divergence(mixture.components_distribution)
    # For any weights v: KL(f || g) <= sum_k v_k (KL(f || g_k) + log(v_k / w_k)), by the convexity of the KL. The v that
    # make it smallest are in proportion to w_k exp(-KL(f || g_k)), which leaves the logarithm below. Of a policy that
    # lies 100 nats from every component all exponentials are 0 in float32: only as logarithms do they have a gradient.
    log_weights = tf.nn.log_softmax(mixture.mixture_distribution.logits)
    return -tf.reduce_logsumexp(log_weights - component_kl, axis=-1)
