"""Divergences D(pi(.|s), pi_b(.|s)) per state -> [B], on pre-tanh actions.

Each is a small frozen object: its fields are its hyper-parameters, calling it is the pure computation.
The Kullback-Leibler divergence is the same before and after tanh; all KL values are in nats.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import gin
import tensorflow as tf

from brac_plus_tf.core.randomness import Purpose, fold, standard_normal
from brac_plus_tf.core.settings import HyperParameters
from brac_plus_tf.core.types import check_shapes
from brac_plus_tf.models.behavior import BehaviorModel, ConditionalVAE
from brac_plus_tf.models.distributions import (
    Distribution,
    draw_gaussian,
    gaussian_deviation,
    gaussian_to_mixture_kl_bound,
)

Kernel = Callable[[tf.Tensor, float], tf.Tensor]


@runtime_checkable
class Divergence(Protocol):
    """D(s) of a policy from one behaviour model: one of the classes below, or one of one's own.

    behavior: what the agent measures from; BRAC+ gives a `ConditionalVAE`, others what `BehaviorModel` promises.
    """

    def __call__(
        self,
        policy: Distribution,
        pre_tanh_action: tf.Tensor,
        behavior: Any,
        observation: tf.Tensor,
        seed: tf.Tensor,
    ) -> tf.Tensor:
        """Args: policy with batch [B], event [A]; pre_tanh_action [B, A], one draw of it; observation [B, O].

        Returns [B]. Gradients reach the policy's parameters, also through the draw.
        """


@runtime_checkable
class Floored(Protocol):
    """A divergence that, being made of samples, leaves something between a policy and itself: a bound below it is vain.

    Beside `Divergence` for those that know how much; BRAC+ asks for it before the main stage.
    """

    def floor(
        self,
        behavior: Any,
        observation: tf.Tensor,
        minimum_entropy: tf.Tensor,
        minimum_deviation: float,
        seed: tf.Tensor,
    ) -> tf.Tensor:
        """About the least D(s) [B] of any policy that has E[H] >= minimum_entropy, nats of the squashed action (-inf
        for none), and pre-tanh deviations of at least minimum_deviation.
        """


@gin.register
@dataclasses.dataclass(frozen=True)
class KLUpperBound(HyperParameters):
    """Closed-form upper bound on KL(pi || pi_b) through the VAE (Eq. 7).

        D(s) = 1/L sum_l KL(pi(.|s) || p(.|s, z_l)) + KL(q(z|s,u') || p(z)),   z_l ~ q(z|s,u'),  u' ~ pi(.|s)

    With K > 1 decoder components the inner KL is replaced by its own upper bound, so the chain holds.
    latent_samples: L.
    """

    latent_samples: int = 5

    def __call__(
        self,
        policy: Distribution,
        pre_tanh_action: tf.Tensor,
        behavior: ConditionalVAE,
        observation: tf.Tensor,
        seed: tf.Tensor,
    ) -> tf.Tensor:
        check_shapes((pre_tanh_action, "BA"), (observation, "BO"))
        # For any q(z), log pi_b(u|s) >= E_q log p(u|s,z) - KL(q || p(z)). Taken from log pi(u|s) and averaged over the
        # policy's u, the first term becomes a KL to the decoder. A good q explains what the policy does, hence the
        # posterior at one of its draws. Through that draw the policy also learns where the encoder needs few nats.
        posterior = behavior.posterior(observation, pre_tanh_action)
        latent = draw_gaussian(posterior, fold(seed, Purpose.LATENT), self.latent_samples)
        decoder_kl = gaussian_to_mixture_kl_bound(policy, behavior.decoder(observation, latent))
        return tf.reduce_mean(decoder_kl, axis=0) + posterior.kl_divergence(behavior.prior())


@gin.register
@dataclasses.dataclass(frozen=True)
class SampledKL(HyperParameters):
    """KL(pi || pi_b) from samples, as BRAC estimates it: 1/N sum_n log pi(u_n|s) - log pi_b(u_n|s).

    Unbiased up to the importance-sampled log pi_b, of high variance, possibly negative. `samples`: N;
    `latent_samples`: latents per log pi_b.
    """

    samples: int = 4
    latent_samples: int = 16

    def __call__(
        self,
        policy: Distribution,
        pre_tanh_action: tf.Tensor,
        behavior: BehaviorModel,
        observation: tf.Tensor,
        seed: tf.Tensor,
    ) -> tf.Tensor:
        check_shapes((pre_tanh_action, "BA"), (observation, "BO"))
        actions = draw_gaussian(policy, fold(seed, Purpose.POLICY_SAMPLES), self.samples)
        # row n B + b of both is draw n in state b
        flat = tf.reshape(actions, [-1, actions.shape[-1]])
        tiled = tf.tile(observation, [self.samples, 1])
        log_behavior = behavior.log_prob(tiled, flat, self.latent_samples, seed)
        log_behavior = tf.reshape(log_behavior, [self.samples, -1])
        return tf.reduce_mean(policy.log_prob(actions) - log_behavior, axis=0)


@gin.register
def laplacian_kernel(difference: tf.Tensor, sigma: float) -> tf.Tensor:
    """exp(-||x - y||_1 / (2 sigma)) over the last axis, with BEAR's factor 2."""
    return tf.exp(-tf.reduce_sum(tf.abs(difference), axis=-1) / (2.0 * sigma))


@gin.register
def gaussian_kernel(difference: tf.Tensor, sigma: float) -> tf.Tensor:
    """exp(-||x - y||_2^2 / (2 sigma)) over the last axis; sigma is not squared, as in BEAR."""
    return tf.exp(-tf.reduce_sum(tf.square(difference), axis=-1) / (2.0 * sigma))


@gin.register
def squared_discrepancy(x: tf.Tensor, y: tf.Tensor, kernel: Kernel, sigma: float) -> tf.Tensor:
    """mean k(x,x') + mean k(y,y') - 2 mean k(x,y), the diagonal included: Google's BRAC takes it as it is.

    Args:
      x, y: samples [N, B, A].
    Returns:
      [B], dimensionless.
    """
    check_shapes((x, "NBA"), (y, "MBA"))

    # With the diagonal, where k = 1, it is never negative but for rounding; between N samples each of one distribution
    # it is 2 (1 - E k(x,x')) / N on average instead of 0. A threshold below that floor cannot be met.
    def mean_kernel(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
        # every pair of samples: [N, M, B, A]
        return tf.reduce_mean(kernel(first[:, None] - second[None, :], sigma), axis=(0, 1))

    return mean_kernel(x, x) + mean_kernel(y, y) - 2.0 * mean_kernel(x, y)


@gin.register
def maximum_mean_discrepancy(x: tf.Tensor, y: tf.Tensor, kernel: Kernel, sigma: float) -> tf.Tensor:
    """sqrt(max(MMD^2, 0) + 1e-6) (Eq. 5) of samples [N, B, A], per state [B], dimensionless.

    The 1e-6 keeps the square root's gradient finite at equal samples, as BEAR does.
    """
    return tf.sqrt(tf.maximum(squared_discrepancy(x, y, kernel, sigma), 0.0) + 1e-6)


@gin.register
@dataclasses.dataclass(frozen=True)
class MMD(HyperParameters):
    """Kernel maximum mean discrepancy between policy and behaviour samples (Eq. 5; Adroit, ablation of Fig. 2a).

    samples: N of each. sigma: kernel width. latent_clip: prior latents are clipped to +-this and the decoder's mean
    taken, as BEAR and BCQ do. squashed: compare tanh(u) instead of u. measure: the discrepancy or its square.
    """

    samples: int = 10
    sigma: float = 20.0
    kernel: Kernel = laplacian_kernel
    latent_clip: float = 0.5
    squashed: bool = False
    measure: Callable[[tf.Tensor, tf.Tensor, Kernel, float], tf.Tensor] = maximum_mean_discrepancy

    def __call__(
        self,
        policy: Distribution,
        pre_tanh_action: tf.Tensor,
        behavior: BehaviorModel,
        observation: tf.Tensor,
        seed: tf.Tensor,
    ) -> tf.Tensor:
        check_shapes((pre_tanh_action, "BA"), (observation, "BO"))
        x = draw_gaussian(policy, fold(seed, Purpose.POLICY_SAMPLES), self.samples)
        y = behavior.draws(observation, self.samples, self.latent_clip, seed)
        return self._compare(x, y)

    def floor(
        self,
        behavior: BehaviorModel,
        observation: tf.Tensor,
        minimum_entropy: tf.Tensor,
        minimum_deviation: float,
        seed: tf.Tensor,
    ) -> tf.Tensor:
        """[B]: between two sets of the behaviour model's samples, one with as much noise as the bounds ask for."""
        x = behavior.draws(observation, self.samples, self.latent_clip, fold(seed, Purpose.POLICY_SAMPLES))
        y = behavior.draws(observation, self.samples, self.latent_clip, seed)
        # the noise does least where it is alike in all entries and states, for a kernel's slope is steepest at 0
        needed = tf.maximum(gaussian_deviation(minimum_entropy, x), minimum_deviation)
        lacking = tf.sqrt(tf.maximum(needed**2 - tf.math.reduce_variance(x, axis=0), 0.0))
        noise = standard_normal(tf.shape(x), fold(seed, Purpose.POLICY_SAMPLES))
        return self._compare(x + lacking * noise, y)

    def _compare(self, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        if self.squashed:
            x, y = tf.tanh(x), tf.tanh(y)
        return self.measure(x, y, self.kernel, self.sigma)


@gin.register
def dual_kl(policy_value: tf.Tensor, behavior_value: tf.Tensor) -> tf.Tensor:
    """A lower bound on KL(pi || pi_b) from a critic c of actions, per state [B], nats; tight at the best c.

        D(s) = log g(c(s, a_p)) - g(c(s, a_b)) + 1,  g = softplus,  a_p ~ pi, a_b ~ pi_b

    Args:
      policy_value: c(s, a_p) [B]. behavior_value: c(s, a_b) [B].
    Reference: Nowozin et al. (2016), as in Google's BRAC; one pair per state, so single values may be negative.
    """
    check_shapes((policy_value, "B"), (behavior_value, "B"))
    # KL(p || q) = max_t E_p t - E_q exp(t - 1), where exp(t - 1) is the conjugate of u log u; here t = 1 + log g.
    # softplus underflows to 0 far below 0: without 1e-8 the logarithm and its gradient would be infinite there.
    return tf.math.log(tf.nn.softplus(policy_value) + 1e-8) - tf.nn.softplus(behavior_value) + 1.0


@gin.register
def dual_wasserstein(policy_value: tf.Tensor, behavior_value: tf.Tensor) -> tf.Tensor:
    """c(s, a_p) - c(s, a_b), per state [B]: at the best 1-Lipschitz c the Wasserstein-1 distance, in action units."""
    check_shapes((policy_value, "B"), (behavior_value, "B"))
    return policy_value - behavior_value
