"""A whole step of BEAR against losses in NumPy and finite differences."""

import functools

import numpy as np
import pytest
import tiny
from agents import reference as ref

from brac_plus_tf.agents.actor_critic import Training
from brac_plus_tf.agents.base import Problem
from brac_plus_tf.agents.bear import BEAR
from brac_plus_tf.core.randomness import Purpose, base_seed
from brac_plus_tf.models.action_auto_encoder import ActionAutoEncoder
from brac_plus_tf.models.networks import Actor
from brac_plus_tf.objectives.divergences import MMD
from brac_plus_tf.objectives.multipliers import Multiplier

SEED, GAMMA, TAU, RANGE, SHARE, Z = base_seed(9), 0.9, 0.25, (-2.0, 0.5), 0.75, 4
NEXT, DRAWS, SIGMA, CLIP, ALPHA = 3, 4, 1.3, 0.5, 1.6
RATES = {"critic": 0.05, "policy": 0.04, "behavior": 0.03, "alpha": 0.06}
BATCH, DATA = ref.batch(), ref.arrays(ref.batch())


def make(threshold: float = -1.0) -> BEAR:
    agent = BEAR(
        Problem(ref.DIMENSIONS),
        0,
        actor=Actor((5,), RANGE),
        critic=tiny.critic((5,), RATES["critic"], TAU, gamma=GAMMA, target_samples=NEXT, minimum_weight=SHARE),
        training=Training(policy_learning_rate=RATES["policy"], warm_start=1),
        behavior=ActionAutoEncoder((5,), Z, RATES["behavior"]),
        divergence=MMD(samples=DRAWS, sigma=SIGMA, latent_clip=CLIP),
        threshold=threshold,
        multiplier=Multiplier(ALPHA, RATES["alpha"], minimum=0.1, maximum=10.0, logarithmic=True),
    )
    networks = (agent.actor, agent.critic, agent.target_critic, agent.behavior)
    for seed, network in zip((0, 3, 32, 5), networks, strict=True):
        ref.randomize(network.trainable_variables, seed)
    return agent


class Reader:
    """BEAR's losses of the numbers before a step."""

    def __init__(self, agent: BEAR) -> None:
        self.actor, self.critic, self.target = map(ref.weights_of, (agent.actor, agent.critic, agent.target_critic))
        self.behavior = ref.weights_of(agent.behavior)
        self.layers = len(ref.weights_of(agent.behavior.encoder))

    def behavior_loss(self, weights) -> float:
        """Mean squared error after tanh, and half the latents' KL, each a mean over its entries."""
        encoder, decoder = weights[: self.layers], weights[self.layers :]
        parameters = ref.mlp(encoder, np.concatenate([DATA.observation, DATA.action], axis=-1))
        mean, log_std = np.split(parameters, 2, axis=-1)
        deviation = np.exp(np.clip(log_std, -4.0, 15.0))
        latent = mean + deviation * ref.noise(mean.shape, SEED, Purpose.BEHAVIOR_UPDATE, Purpose.LATENT)
        again = np.tanh(ref.mlp(decoder, np.concatenate([DATA.observation, latent], axis=-1)))
        error = ((again - DATA.action) ** 2).mean(axis=-1)
        return float((error + 0.5 * ref.kl(mean, deviation, 0.0, np.ones(Z)) / Z).mean())

    @functools.cached_property
    def expected(self) -> np.ndarray:
        """y: the best of three next actions, by 3/4 of the smaller critic and 1/4 of the larger."""
        observation = np.concatenate([DATA.next_observation] * NEXT)
        epsilon = ref.noise((NEXT * ref.ROWS, 2), SEED, Purpose.TARGET_ACTION)
        values = ref.q_values(self.target, observation, ref.Drawn(self.actor, observation, epsilon, RANGE).action)
        ref.assert_either_is_smaller(values)
        best = ref.mixed_value(values, SHARE).reshape(NEXT, -1).max(axis=0)
        return ref.td_target(DATA.reward, DATA.discount, best, GAMMA)

    def critic_loss(self, critic) -> float:
        return float(((ref.q_values(critic, DATA.observation, DATA.action) - self.expected) ** 2).sum(axis=0).mean())

    def divergence(self, actor, new_behavior) -> np.ndarray:
        """MMD of four pre-tanh draws each, Laplacian kernel, to the model that has just stepped."""
        seeds = (SEED, Purpose.POLICY_ACTION)
        mean, deviation = ref.gaussian(ref.mlp(actor, DATA.observation), RANGE)
        y = mean + deviation * ref.noise((DRAWS, ref.ROWS, 2), *seeds, Purpose.POLICY_SAMPLES)
        noise = ref.noise((DRAWS, ref.ROWS, Z), *seeds, Purpose.BEHAVIOR_LATENT)
        assert 0.2 < (np.abs(noise) > CLIP).mean() < 0.8
        observation = np.broadcast_to(DATA.observation, (DRAWS, *DATA.observation.shape))
        latent = np.clip(noise, -CLIP, CLIP)
        x = ref.mlp(new_behavior[self.layers :], np.concatenate([observation, latent], axis=-1))

        def kernel(first, second):
            distance = np.abs(first[:, None] - second[None]).sum(axis=-1)
            return np.exp(-distance / (2.0 * SIGMA)).mean(axis=(0, 1))

        return np.sqrt(np.maximum(kernel(x, x) + kernel(y, y) - 2.0 * kernel(x, y), 0.0) + 1e-6)

    def policy_loss(self, new_critic, new_behavior, value_weight: float, actor) -> float:
        epsilon = ref.noise((ref.ROWS, 2), SEED, Purpose.POLICY_ACTION)
        action = ref.Drawn(actor, DATA.observation, epsilon, RANGE).action
        value = ref.q_values(new_critic, DATA.observation, action).min(axis=0)
        return float((-value_weight * value + ALPHA * self.divergence(actor, new_behavior)).mean())


def check_step(agent: BEAR, before: Reader, value_weight: float = 1.0) -> None:
    new_behavior, new_critic = ref.weights_of(agent.behavior), ref.weights_of(agent.critic)
    gradient = ref.finite_difference(before.behavior_loss, ref.copies(before.behavior))
    ref.assert_gradient(agent.behavior._optimizer, agent.behavior.trainable_variables, gradient)
    ref.assert_rate(before.behavior, new_behavior, gradient, RATES["behavior"])
    gradient = ref.finite_difference(before.critic_loss, ref.copies(before.critic))
    ref.assert_gradient(agent.critic_optimizer, agent.critic.trainable_variables, gradient)
    ref.assert_rate(before.critic, new_critic, gradient, RATES["critic"])
    policy_loss = functools.partial(before.policy_loss, new_critic, new_behavior, value_weight)
    gradient = ref.finite_difference(policy_loss, ref.copies(before.actor))
    ref.assert_gradient(agent.policy_optimizer, agent.actor.trainable_variables, gradient)
    ref.assert_rate(before.actor, ref.weights_of(agent.actor), gradient, RATES["policy"])
    ref.assert_followed(before.target, agent.critic, agent.target_critic, TAU)


def test_a_whole_step():
    agent = make()
    before = Reader(agent)
    metrics = agent.update(BATCH, SEED)
    check_step(agent, before)
    divergence = before.divergence(before.actor, ref.weights_of(agent.behavior)).mean()
    assert float(metrics["divergence_mean"]) == pytest.approx(divergence, rel=1e-3)


@pytest.mark.parametrize("above", [0.01, -0.01])
def test_the_multipliers_logarithm_follows_the_threshold(above):
    trial = make()
    before = Reader(trial)
    trial.update(BATCH, SEED)
    divergence = before.divergence(before.actor, ref.weights_of(trial.behavior)).mean()
    agent = make(threshold=float(divergence) - above)
    agent.update(BATCH, SEED)
    expected = ref.stepped(ALPHA, above, RATES["alpha"], logarithmic=True)
    assert float(agent.multiplier()) == pytest.approx(expected, rel=1e-4)


def test_the_warm_start_leaves_the_critic_out_of_the_policys_loss():
    agent = make()
    before = Reader(agent)
    warm_start, main = agent.stages()
    assert (warm_start.name, main.name) == ("warm_start", "main")
    warm_start.update(BATCH, SEED)
    check_step(agent, before, value_weight=0.0)
