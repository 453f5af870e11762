"""Prints how far the closed-form bound of Eq. 7 lies above the true KL(pi || pi_b), as a Markdown table.

usage: python scripts/kl_bound_gap.py [--components=1,3] [--seeds=4] [--draws=1000] [--encoder_steps=1000]

Each row is one conditional VAE and one random policy in one state. The decoder's weights are random, scaled up so that
the latent matters; the encoder is fitted to it by maximum ELBO on its own samples (--encoder_steps=0: left random, the
bound holds but is loose). All in nats:
  true KL     mean of log pi(u|s) - log pi_b(u|s) over draws u ~ pi, log pi_b by importance sampling of the latent;
              too few latents bias it upwards, so the gap downwards;
  bound       mean of D(s) over the same draws;
  gap         bound - true KL, paired by draw;
  latent KL   mean of KL(q(z|s,u) || p(z)), a part of the bound: near 0 the latent would be idle.
"+-" is one standard error over the draws.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from absl import app, flags

from brac_plus_tf.core.randomness import Purpose, base_seed, fold, standard_normal
from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.models.behavior import VAEEnsemble, VAEEnsembleNetwork
from brac_plus_tf.models.distributions import diagonal_gaussian, draw_gaussian
from brac_plus_tf.models.optimization import build_adam, gradient_step
from brac_plus_tf.objectives.divergences import KLUpperBound

_COMPONENTS = flags.DEFINE_list("components", ["1", "3"], "Numbers K of mixture components in the decoder.")
_SEEDS = flags.DEFINE_integer("seeds", 4, "Random VAEs and policies for each K.", lower_bound=1)
_DRAWS = flags.DEFINE_integer("draws", 1000, "Actions drawn from each policy.", lower_bound=2)
_IMPORTANCE_SAMPLES = flags.DEFINE_integer("importance_samples", 2048, "Latents per log pi_b(u|s).", lower_bound=1)
_LATENT_SAMPLES = flags.DEFINE_integer("latent_samples", 5, "L of the bound.", lower_bound=1)

_ENCODER_STEPS = flags.DEFINE_integer("encoder_steps", 1000, "Gradient steps of the encoder.", lower_bound=0)

_DIMENSIONS = Dimensions(observation=3, action=2)
_CHUNK = 100  # draws whose importance weights are held at once


def random_behavior(components: int, seed: int) -> VAEEnsembleNetwork:
    """A VAE with a strong random decoder and an encoder that starts wide, so that importance sampling works."""
    shape = VAEEnsemble(members=1, hidden_sizes=(16,), mixture_components=components, log_std_range=(-1.0, 0.5))
    behavior = shape.build(_DIMENSIONS, seed)
    encoder = [0.6 * weight for weight in behavior.encoder.get_weights()]
    encoder[-1][:, encoder[-1].shape[1] // 2 :] = 0.8  # the raw scales' bias
    behavior.encoder.set_weights(encoder)
    behavior.decoder.set_weights([2.0 * weight for weight in behavior.decoder.get_weights()])
    return behavior


def fit_encoder(behavior: VAEEnsembleNetwork, seed: tf.Tensor) -> None:
    """Maximises the ELBO over the encoder alone, on the decoder's own samples in states from N(0, I)."""
    variables = behavior.encoder.trainable_variables
    optimizer = build_adam(3e-3, variables)

    @tf.function
    def step(index: tf.Tensor) -> None:
        step_seed = fold(seed, Purpose.UPDATE, index)
        observation = standard_normal([_CHUNK, _DIMENSIONS.observation], fold(step_seed, Purpose.BEHAVIOR_BATCH))
        action = behavior.member(0).sample(observation, 1, step_seed)[0]

        def loss() -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
            # the member is taken here, where the gradient tape sees its weights
            return tf.reduce_mean(behavior.member(0).negative_elbo(observation, action, step_seed)["negative_elbo"]), {}

        gradient_step(loss, variables, optimizer)

    for index in range(_ENCODER_STEPS.value):
        step(tf.constant(index))


def measure(components: int, seed: int) -> dict[str, np.ndarray]:
    """Per-draw values [draws] of true KL, bound and latent KL for one random VAE and policy."""
    behavior = random_behavior(components, seed)
    fit_encoder(behavior, base_seed(seed))
    vae = behavior.member(0)
    generator, draws = np.random.default_rng(seed), _DRAWS.value
    observation, mean = generator.normal(size=_DIMENSIONS.observation), generator.normal(size=_DIMENSIONS.action)
    deviation = generator.uniform(0.3, 1.0, size=_DIMENSIONS.action)
    observation, mean, deviation = (
        tf.tile(tf.constant(row[None], tf.float32), [draws, 1]) for row in (observation, mean, deviation)
    )
    policy, run_seed = diagonal_gaussian(mean, deviation), base_seed(seed)
    action = draw_gaussian(policy, fold(run_seed, Purpose.POLICY_ACTION))
    log_behavior = [
        vae.log_prob(
            observation[start : start + _CHUNK],
            action[start : start + _CHUNK],
            _IMPORTANCE_SAMPLES.value,
            fold(run_seed, start),
        )
        for start in range(0, draws, _CHUNK)
    ]
    return {
        "true KL": (policy.log_prob(action) - tf.concat(log_behavior, axis=0)).numpy(),
        "bound": KLUpperBound(_LATENT_SAMPLES.value)(policy, action, vae, observation, run_seed).numpy(),
        "latent KL": vae.posterior(observation, action).kl_divergence(vae.prior()).numpy(),
    }


def main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError("unexpected arguments: " + " ".join(argv[1:]))
    print("| K | seed | true KL | bound | gap | latent KL |")
    print("|---|---|---|---|---|---|")
    for components in map(int, _COMPONENTS.value):
        for seed in range(_SEEDS.value):
            values = measure(components, seed)
            columns = [values["true KL"], values["bound"], values["bound"] - values["true KL"], values["latent KL"]]
            cells = [f"{x.mean():.3f} +- {x.std(ddof=1) / np.sqrt(len(x)):.3f}" for x in columns]
            print(f"| {components} | {seed} | {' | '.join(cells)} |")


if __name__ == "__main__":
    app.run(main)
