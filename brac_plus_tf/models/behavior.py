"""Models of the behaviour policy pi_b(a|s): conditional variational auto-encoders, and a plain Gaussian.

BRAC+'s is an ensemble of auto-encoders on the pre-tanh action:

    encoder q(z|s,u) = N(z; ., diag .), decoder p(u|s,z) = sum_k w_k(s,z) N(u; ., diag .), prior p(z) = N(0, I).

A regular VAE (beta = 1, a likelihood with its own scale): with a beta-VAE the bound of Eq. 7 would not hold.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Protocol

import gin
import tensorflow as tf

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.randomness import Purpose, fold, standard_normal
from brac_plus_tf.core.settings import HyperParameters
from brac_plus_tf.core.types import Dimensions, Metrics, check_shapes
from brac_plus_tf.models.distributions import (
    Distribution,
    diagonal_gaussian,
    draw_gaussian,
    gaussian_mixture,
    split_gaussian,
)
from brac_plus_tf.models.networks import EnsembleMLP
from brac_plus_tf.models.optimization import gradient_step


class BehaviorModel(Protocol):
    """What a divergence may ask of a behaviour policy; actions are pre-tanh."""

    def log_prob(self, observation: tf.Tensor, pre_tanh_action: tf.Tensor, samples: int, seed: tf.Tensor) -> tf.Tensor:
        """log pi_b(u|s) [B], nats; `samples` latents where it must be estimated."""

    def draws(self, observation: tf.Tensor, samples: int, latent_clip: float, seed: tf.Tensor) -> tf.Tensor:
        """u ~ pi_b(.|s) [samples, B, A]; latents, where there are any, clipped to +-latent_clip."""


@dataclasses.dataclass(frozen=True)
class GaussianBehavior:
    """A Gaussian policy in the place of a behaviour model; distribution: observation [B, O] -> of u, event [A]."""

    distribution: Callable[[tf.Tensor], Distribution]

    def log_prob(self, observation: tf.Tensor, pre_tanh_action: tf.Tensor, samples: int, seed: tf.Tensor) -> tf.Tensor:
        """log pi_b(u|s) [B], exact."""
        del samples, seed
        return self.distribution(observation).log_prob(pre_tanh_action)

    def draws(self, observation: tf.Tensor, samples: int, latent_clip: float, seed: tf.Tensor) -> tf.Tensor:
        """u ~ pi_b(.|s) [samples, B, A]."""
        del latent_clip
        return draw_gaussian(self.distribution(observation), fold(seed, Purpose.BEHAVIOR_LATENT), samples)


@dataclasses.dataclass(frozen=True)
class ConditionalVAE:
    """One trained or training member: callables on tensors, no weights of its own.

    posterior(observation [B, O], pre_tanh_action [B, A]) -> q(z|s,u), batch [B], event [Z]
    decoder(observation [B, O], latent [.., B, Z]) -> p(u|s,z), a mixture with batch [.., B], event [A]
    """

    posterior: Callable[[tf.Tensor, tf.Tensor], Distribution]
    decoder: Callable[[tf.Tensor, tf.Tensor], Distribution]
    latent_size: int

    def prior(self) -> Distribution:
        """p(z) = N(0, I), event [Z]."""
        return diagonal_gaussian(tf.zeros([self.latent_size]), tf.ones([self.latent_size]))

    def negative_elbo(self, observation: tf.Tensor, pre_tanh_action: tf.Tensor, seed: tf.Tensor) -> Metrics:
        """Per-state pieces [B], nats, of -(E_q log p(u|s,z) - KL(q || p(z))) with one latent sample (Eq. 12).

        Keys: negative_elbo, latent_kl, and active_units: the latents whose posterior mean varies over the batch
        (variance above 0.01; Burda et al. 2016), a scalar.
        """
        check_shapes((observation, "BO"), (pre_tanh_action, "BA"))
        posterior = self.posterior(observation, pre_tanh_action)
        latent = draw_gaussian(posterior, fold(seed, Purpose.LATENT))
        # in closed form: the one sample's noise is in the reconstruction alone
        latent_kl = posterior.kl_divergence(self.prior())
        log_likelihood = self.decoder(observation, latent).log_prob(pre_tanh_action)
        # a latent that encoder and decoder have given up has the prior's mean in every state
        spread = tf.math.reduce_variance(posterior.mean(), axis=0)
        return {
            "negative_elbo": latent_kl - log_likelihood,
            "latent_kl": latent_kl,
            "active_units": tf.reduce_sum(tf.cast(spread > 0.01, tf.float32)),
        }

    def slack(self, observation: tf.Tensor, pre_tanh_action: tf.Tensor, free_nats: float) -> tf.Tensor:
        """sum_j max(free_nats - E_B[KL_j], 0), nats: added to a loss, it makes the first free_nats of each latent's
        divergence cost nothing, and none is given up to save them (Kingma et al. 2016, App. C.8: free bits).
        """
        posterior = self.posterior(observation, pre_tanh_action)
        mean, deviation = posterior.mean(), posterior.stddev()
        entries = 0.5 * (tf.square(mean) + tf.square(deviation) - 1.0) - tf.math.log(deviation)
        return tf.reduce_sum(tf.nn.relu(free_nats - tf.reduce_mean(entries, axis=0)))

    def log_prob(self, observation: tf.Tensor, pre_tanh_action: tf.Tensor, samples: int, seed: tf.Tensor) -> tf.Tensor:
        """Importance-sampled log pi_b(u|s) [B] in nats, u-space: log mean_n p(u|s,z_n) p(z_n) / q(z_n|s,u)."""
        posterior = self.posterior(observation, pre_tanh_action)
        latent = draw_gaussian(posterior, fold(seed, Purpose.LATENT), samples)
        # The weights' mean is pi_b(u|s) without bias, for any q; its logarithm is too low on average (Jensen), the less
        # the more samples. Weights of one state may lie hundreds of nats apart, so they are added as logarithms.
        log_weight = self.prior().log_prob(latent) - posterior.log_prob(latent)
        log_joint = self.decoder(observation, latent).log_prob(pre_tanh_action) + log_weight
        return tf.reduce_logsumexp(log_joint, axis=0) - math.log(samples)

    def prior_decoder(self, observation: tf.Tensor, samples: int, latent_clip: float, seed: tf.Tensor) -> Distribution:
        """p(u|s,z) for z drawn from the prior, each entry clipped to +-latent_clip: batch [samples, B], event [A]."""
        shape = [samples, observation.shape[0] or tf.shape(observation)[0], self.latent_size]
        latent = standard_normal(shape, fold(seed, Purpose.BEHAVIOR_LATENT))
        # far out in the prior the decoder has seen next to no data, and what it makes of such latents is in none
        return self.decoder(observation, tf.clip_by_value(latent, -latent_clip, latent_clip))

    def draws(self, observation: tf.Tensor, samples: int, latent_clip: float, seed: tf.Tensor) -> tf.Tensor:
        """The decoder's mean at clipped prior latents, as BEAR and BCQ take it: [samples, B, A]."""
        return self.prior_decoder(observation, samples, latent_clip, seed).mean()

    def sample(self, observation: tf.Tensor, samples: int, seed: tf.Tensor) -> tf.Tensor:
        """u ~ pi_b(.|s), ancestral: [samples, B, A]."""
        decoder = self.prior_decoder(observation, samples, math.inf, seed)
        return decoder.sample(seed=fold(seed, Purpose.POLICY_SAMPLES))


Network = Callable[[tf.Tensor], tf.Tensor]
Selection = Callable[["VAEEnsembleNetwork", tf.Tensor], list[ConditionalVAE]]


@gin.register
def draw_one_member(ensemble: "VAEEnsembleNetwork", seed: tf.Tensor) -> list[ConditionalVAE]:
    """One member drawn per gradient step ("randomly select one model", App. F)."""
    # one for the whole batch: its weights are gathered once, where one for each state would need them B times
    seed = fold(seed, Purpose.BEHAVIOR_MEMBER)
    return [ensemble.fixed_member(tf.random.stateless_uniform([], seed, 0, ensemble.members, tf.int32, alg="philox"))]


@gin.register
def all_members(ensemble: "VAEEnsembleNetwork", seed: tf.Tensor) -> list[ConditionalVAE]:
    """Every member, their divergences averaged: E times dearer (the authors' later code)."""
    del seed
    return [ensemble.fixed_member(index) for index in range(ensemble.members)]


@gin.register
@dataclasses.dataclass(frozen=True)
class VAEEnsemble(HyperParameters):
    """Shape of the behaviour policy (App. F: 3 models, "3-layer", hidden 512).

    latent_size: None stands for 2 A. mixture_components: K Gaussians in the decoder; the experiments use 1.
    action_margin: logged actions are clipped to +-(1 - margin) before atanh.
    select: which members one gradient step of the policy sees.
    compute_dtype: "float32" or "bfloat16", of the networks' products where a policy is measured against them; they are
    trained in float32. free_nats: of each latent's divergence from its prior that cost nothing; the paper has none.
    """

    members: int = 3
    hidden_sizes: tuple[int, ...] = (512, 512)
    latent_size: int | None = None
    mixture_components: int = 1
    log_std_range: tuple[float, float] = (-5.0, 2.0)
    action_margin: float = 1e-3
    select: Selection = draw_one_member
    compute_dtype: str = "float32"
    free_nats: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.compute_dtype not in ("float32", "bfloat16"):
            raise UserError(f"VAEEnsemble.compute_dtype is {self.compute_dtype!r}: it must be 'float32' or 'bfloat16'")

    def build(self, dimensions: Dimensions, seed: int) -> "VAEEnsembleNetwork":
        return VAEEnsembleNetwork(self, dimensions, seed)


class VAEEnsembleNetwork(tf.keras.layers.Layer):
    """Weights of E conditional VAEs; `member` and `select` give them as `ConditionalVAE` functions."""

    def __init__(self, shape: VAEEnsemble, dimensions: Dimensions, seed: int) -> None:
        super().__init__(name="behavior")
        self._shape, self._action_size = shape, dimensions.action
        self._latent_size = shape.latent_size or 2 * dimensions.action
        outputs = shape.mixture_components * (1 + 2 * dimensions.action)
        self.encoder = EnsembleMLP(
            shape.members,
            dimensions.observation + dimensions.action,
            shape.hidden_sizes,
            2 * self._latent_size,
            seed,
            "encoder",
        )
        self.decoder = EnsembleMLP(
            shape.members, dimensions.observation + self._latent_size, shape.hidden_sizes, outputs, seed, "decoder"
        )
        self.built = True

    @property
    def members(self) -> int:
        return self._shape.members

    @property
    def free_nats(self) -> float:
        """Of each latent's divergence that cost nothing."""
        return self._shape.free_nats

    def fixed_member(self, index: int | tf.Tensor) -> ConditionalVAE:
        """The same as `member`, for measuring a policy: computed in `VAEEnsemble.compute_dtype`."""
        return self.member(index, self._shape.compute_dtype)

    def member(self, index: int | tf.Tensor, compute_dtype: str = "float32") -> ConditionalVAE:
        """Member `index`, an integer or a scalar tensor drawn inside the graph."""
        return self._model(*(network.member(index, compute_dtype) for network in (self.encoder, self.decoder)))

    def every_member(self) -> list[ConditionalVAE]:
        """All members, for learning them; see `EnsembleMLP.every_member`."""
        pairs = zip(self.encoder.every_member(), self.decoder.every_member(), strict=True)
        return [self._model(encode, decode) for encode, decode in pairs]

    def _model(self, encode: Network, decode: Network) -> ConditionalVAE:
        components, log_std_range = self._shape.mixture_components, self._shape.log_std_range

        def posterior(observation: tf.Tensor, pre_tanh_action: tf.Tensor) -> Distribution:
            parameters = encode(tf.concat([observation, pre_tanh_action], axis=-1))
            return diagonal_gaussian(*split_gaussian(parameters, log_std_range))

        def decoder(observation: tf.Tensor, latent: tf.Tensor) -> Distribution:
            observation = tf.broadcast_to(
                observation, tf.concat([tf.shape(latent)[:-1], tf.shape(observation)[-1:]], axis=0)
            )
            parameters = decode(tf.concat([observation, latent], axis=-1))
            # K logits, then a mean and a deviation of A entries for each component
            logits, parameters = parameters[..., :components], parameters[..., components:]
            shape = tf.concat([tf.shape(parameters)[:-1], [components, 2 * self._action_size]], axis=0)
            return gaussian_mixture(logits, *split_gaussian(tf.reshape(parameters, shape), log_std_range))

        return ConditionalVAE(posterior, decoder, self._latent_size)

    def select(self, seed: tf.Tensor) -> list[ConditionalVAE]:
        """The members that one gradient step sees."""
        return self._shape.select(self, seed)


def fit_ensemble(
    ensemble: "VAEEnsembleNetwork",
    optimizer: tf.keras.optimizers.Optimizer,
    observation: tf.Tensor,
    pre_tanh_action: tf.Tensor,
    seed: tf.Tensor,
) -> Metrics:
    """One step of every member up the ELBO of its own minibatch: observation [E, B, O], pre_tanh_action [E, B, A].

    With `VAEEnsemble.free_nats` less the latents' part that costs nothing: see `ConditionalVAE.slack`.
    """

    def loss() -> tuple[tf.Tensor, Metrics]:
        members = ensemble.every_member()
        terms = [
            member.negative_elbo(observation[index], pre_tanh_action[index], fold(seed, Purpose.UPDATE, index))
            for index, member in enumerate(members)
        ]
        means = {key: tf.reduce_mean([tf.reduce_mean(term[key]) for term in terms]) for key in terms[0]}
        slacks = [
            member.slack(observation[index], pre_tanh_action[index], ensemble.free_nats)
            for index, member in enumerate(members if ensemble.free_nats else ())
        ]
        # the sum over members, not their mean: each learns as if it were alone
        return tf.add_n([means["negative_elbo"] * ensemble.members, *slacks]), means

    return gradient_step(loss, ensemble.trainable_variables, optimizer)[1]
