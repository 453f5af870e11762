"""A whole step of BCQ against losses in NumPy and finite differences."""

import functools

import numpy as np
import tiny
from agents import reference as ref

from brac_plus_tf.agents.actor_critic import Training
from brac_plus_tf.agents.base import Problem
from brac_plus_tf.agents.bcq import BCQ
from brac_plus_tf.core.randomness import Purpose, base_seed
from brac_plus_tf.models.action_auto_encoder import ActionAutoEncoder

SEED, GAMMA, TAU, SHARE, Z, SAMPLES, CLIP, LIMIT = base_seed(10), 0.9, 0.25, 0.75, 4, 3, 0.5, 0.3
RATES = {"critic": 0.05, "policy": 0.04, "behavior": 0.03}
BATCH, DATA = ref.batch(), ref.arrays(ref.batch())


def make() -> BCQ:
    agent = BCQ(
        Problem(ref.DIMENSIONS),
        0,
        hidden_sizes=(5,),
        perturbation_limit=LIMIT,
        action_samples=SAMPLES,
        latent_clip=CLIP,
        critic=tiny.critic((5,), RATES["critic"], TAU, gamma=GAMMA, minimum_weight=SHARE),
        behavior=ActionAutoEncoder((5,), Z, RATES["behavior"]),
        training=Training(policy_learning_rate=RATES["policy"]),
    )
    networks = (agent.critic, agent.target_critic, agent.behavior, agent.perturbation, agent.target_perturbation)
    for seed, network in zip((3, 32, 5, 6, 7), networks, strict=True):
        ref.randomize(network.trainable_variables, seed)
    return agent


class Reader:
    """BCQ's losses of the numbers before a step."""

    def __init__(self, agent: BCQ) -> None:
        self.critic, self.target = ref.weights_of(agent.critic), ref.weights_of(agent.target_critic)
        self.policy, self.target_policy = map(ref.weights_of, (agent.perturbation, agent.target_perturbation))
        self.behavior = ref.weights_of(agent.behavior)
        self.layers = len(ref.weights_of(agent.behavior.encoder))

    def behavior_loss(self, weights) -> float:
        encoder, decoder = weights[: self.layers], weights[self.layers :]
        parameters = ref.mlp(encoder, np.concatenate([DATA.observation, DATA.action], axis=-1))
        mean, log_std = np.split(parameters, 2, axis=-1)
        deviation = np.exp(np.clip(log_std, -4.0, 15.0))
        latent = mean + deviation * ref.noise(mean.shape, SEED, Purpose.BEHAVIOR_UPDATE, Purpose.LATENT)
        again = np.tanh(ref.mlp(decoder, np.concatenate([DATA.observation, latent], axis=-1)))
        error = ((again - DATA.action) ** 2).mean(axis=-1)
        return float((error + 0.5 * ref.kl(mean, deviation, 0.0, np.ones(Z)) / Z).mean())

    def model_actions(self, behavior, observation: np.ndarray, samples: int, purpose: int) -> np.ndarray:
        noise = ref.noise((samples, ref.ROWS, Z), SEED, purpose, Purpose.BEHAVIOR_LATENT)
        assert 0.2 < (np.abs(noise) > CLIP).mean() < 0.8
        repeated = np.broadcast_to(observation, (samples, *observation.shape))
        inputs = np.concatenate([repeated, np.clip(noise, -CLIP, CLIP)], axis=-1)
        return np.tanh(ref.mlp(behavior[self.layers :], inputs))

    def perturbed(self, weights, observation: np.ndarray, action: np.ndarray) -> np.ndarray:
        """The action and at most LIMIT in each entry, within the box."""
        shift = LIMIT * np.tanh(ref.mlp(weights, np.concatenate([observation, action], axis=-1)))
        moved = action + shift
        return np.clip(moved, -1.0, 1.0)

    def critic_loss(self, new_behavior, critic) -> float:
        """Next actions of the model that has just stepped, moved by the target perturbation."""
        observation = np.broadcast_to(DATA.next_observation, (SAMPLES, *DATA.next_observation.shape))
        action = self.model_actions(new_behavior, DATA.next_observation, SAMPLES, Purpose.TARGET_ACTION)
        values = ref.q_values(self.target, observation, self.perturbed(self.target_policy, observation, action))
        ref.assert_either_is_smaller(values.reshape(2, -1))
        best = ref.mixed_value(values, SHARE).max(axis=0)
        target = ref.td_target(DATA.reward, DATA.discount, best, GAMMA)
        return float(((ref.q_values(critic, DATA.observation, DATA.action) - target) ** 2).sum(axis=0).mean())

    def policy_loss(self, new_behavior, new_critic, weights) -> float:
        """The first critic at one moved action of the model."""
        action = self.model_actions(new_behavior, DATA.observation, 1, Purpose.POLICY_ACTION)[0]
        return float(
            -ref.q_values(new_critic, DATA.observation, self.perturbed(weights, DATA.observation, action))[0].mean()
        )


def test_a_whole_step():
    agent = make()
    before = Reader(agent)
    agent.update(BATCH, SEED)
    new_behavior, new_critic = ref.weights_of(agent.behavior), ref.weights_of(agent.critic)
    gradient = ref.finite_difference(before.behavior_loss, ref.copies(before.behavior))
    ref.assert_gradient(agent.behavior._optimizer, agent.behavior.trainable_variables, gradient)
    ref.assert_rate(before.behavior, new_behavior, gradient, RATES["behavior"])
    critic_loss = functools.partial(before.critic_loss, new_behavior)
    gradient = ref.finite_difference(critic_loss, ref.copies(before.critic))
    ref.assert_gradient(agent.critic_optimizer, agent.critic.trainable_variables, gradient)
    ref.assert_rate(before.critic, new_critic, gradient, RATES["critic"])
    policy_loss = functools.partial(before.policy_loss, new_behavior, new_critic)
    gradient = ref.finite_difference(policy_loss, ref.copies(before.policy))
    ref.assert_gradient(agent._policy_optimizer, agent.perturbation.trainable_variables, gradient)
    ref.assert_rate(before.policy, ref.weights_of(agent.perturbation), gradient, RATES["policy"])
    ref.assert_followed(before.target, agent.critic, agent.target_critic, TAU)
    ref.assert_followed(before.target_policy, agent.perturbation, agent.target_perturbation, TAU)


def test_a_shift_out_of_the_box_ends_at_its_edge():
    """At the edge the clip is active in some entries and not in others, and what it cuts has no gradient."""
    agent = make()
    before = Reader(agent)
    action = np.where(np.arange(ref.ROWS)[:, None] % 2 == 0, 0.95, -0.2) * np.ones((1, 2))
    expected = before.perturbed(before.policy, DATA.observation, action)
    assert 0 < (expected == 1.0).sum() < expected.size
    found = agent.perturbation(BATCH.observation, action.astype(np.float32))
    np.testing.assert_allclose(found, expected, atol=1e-6)
