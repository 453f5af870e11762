"""Where the noise of D(s) comes from, of finished runs of BRAC+, as a Markdown table.

usage: python scripts/divergence_noise.py RUN [RUN..]

D(s) is estimated from one action u of the policy, L latents z and one behaviour model. For 256 states of the data it is
measured at 40 actions with 8 latents each, L = 1. Mean variances within a state, nats squared:
  action      of what is left when the mean over latents is taken: no number of latents helps against it
  latent      between latents at one action: L divides it
  model       between the behaviour models' own means over actions and latents, if there are several
  state       between states: what a batch's D differ by anyway
  L = 1 / 5   standard deviation of the D of a batch with one latent against that with five
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from absl import app

from brac_plus_tf.agents.actor_critic import draw_policy
from brac_plus_tf.core.randomness import fold
from brac_plus_tf.objectives.divergences import KLUpperBound
from brac_plus_tf.paper.probes import Probed, probe

_STATES, _ACTIONS, _LATENTS = 256, 40, 8


def components(values: np.ndarray) -> tuple[float, float]:
    """Variances between actions and between latents at one action, mean over states; unbiased (one-way ANOVA).

    Args:
      values: [U, Z, N], of each of U actions with each of Z latents drawn for it, in N states.
    """
    within = values.var(axis=1, ddof=1).mean(axis=0)
    between = values.mean(axis=1).var(axis=0, ddof=1) - within / values.shape[1]
    return float(between.mean()), float(within.mean())


def measured(one: Probed, member: int) -> np.ndarray:
    """D with one latent, by one of the run's behaviour models: [U, Z, N]."""
    observation, bound = one.states()[:_STATES], KLUpperBound(latent_samples=1)

    @tf.function
    def at(action_seed: tf.Tensor, latent_seed: tf.Tensor) -> tf.Tensor:
        draw = draw_policy(one.agent.actor, observation, 1, action_seed)
        model = one.agent.behavior.member(member)  # type: ignore[attr-defined]
        return bound(draw.distribution, draw.pre_tanh_action, model, observation, latent_seed)

    return np.array(
        [[at(fold(one.seed, 1, u), fold(one.seed, 2, u, z)).numpy() for z in range(_LATENTS)] for u in range(_ACTIONS)]
    )


def main(argv: Sequence[str]) -> None:
    """Prints the table."""
    print("| run | D | action | latent | model | state | L = 1 / 5 |\n|---|---|---|---|---|---|---|")
    for name in argv[1:]:
        one = probe(Path(name))
        members = one.agent.behavior.members  # type: ignore[attr-defined]
        values = [measured(one, member) for member in range(members)]
        actions, latents = np.mean([components(of_one) for of_one in values], axis=0)
        means = np.array([of_one.mean(axis=(0, 1)) for of_one in values])
        models = f"{means.var(axis=0, ddof=1).mean():.3g}" if members > 1 else "one"
        states = float(means.mean(axis=0).var(ddof=1))
        ratio = np.sqrt((states + actions + latents) / (states + actions + latents / 5.0))
        cells = (f"{number:.3g}" for number in (np.mean(values), max(0.0, actions), latents))
        print(f"| {one.label} | {' | '.join(cells)} | {models} | {states:.3g} | {ratio:.4f} |")


if __name__ == "__main__":
    app.run(main)
