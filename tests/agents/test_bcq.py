"""BCQ: the perturbation and the targets by hand, its limits, and a bandit that leaves the data by no more than Phi."""

import numpy as np
import pytest
import tensorflow as tf
import tiny
from fakes import linear_critic

from brac_plus_tf.agents.actor_critic import Training
from brac_plus_tf.agents.base import Problem
from brac_plus_tf.agents.bcq import BCQ, PerturbationNetwork
from brac_plus_tf.core.randomness import base_seed
from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.models.action_auto_encoder import ActionAutoEncoder
from brac_plus_tf.runs.compiled_stage import compile_stage

SEED, DIMENSIONS = base_seed(7), Dimensions(observation=3, action=2)


def linear_agent(**settings) -> BCQ:
    """The model's action is tanh(0.5), tanh(-1) whatever the latent; Q' = (o1 + a0, 2 a1 + 3)."""
    critic = tiny.critic((), gamma=0.5, minimum_weight=0.75)
    agent = BCQ(
        Problem(DIMENSIONS),
        0,
        hidden_sizes=(),
        critic=critic,
        behavior=ActionAutoEncoder((), learning_rate=0.0),
        **settings,
    )
    agent.behavior.decoder.set_weights([np.zeros([1, 7, 2], np.float32), np.array([[0.5, -1.0]], np.float32)])
    weights = linear_critic([[0, 1, 0, 1, 0], [0, 0, 0, 0, 2]], [0.0, 3.0]).get_weights()
    for network in (agent.critic, agent.target_critic):
        network.set_weights(weights)
    return agent


def test_perturbation_by_hand_and_clipped():
    network = PerturbationNetwork((), 0.5, DIMENSIONS, 0)
    kernel = np.zeros([1, 5, 2], np.float32)
    kernel[0, 0, 0], kernel[0, 4, 1] = 1.0, 2.0  # h = (o0, 2 a1)
    network.set_weights([kernel, np.zeros([1, 2], np.float32)])
    observation, action = tf.constant([[1.0, 0, 0], [-3.0, 0, 0]]), tf.constant([[0.2, -0.4], [-0.9, 0.8]])
    expected = np.array(
        [[0.2 + 0.5 * np.tanh(1.0), -0.4 + 0.5 * np.tanh(-0.8)], [-1.0, 1.0]]
    )  # the rest leaves [-1, 1]
    np.testing.assert_allclose(network(observation, action), expected, rtol=1e-6)


def test_target_uses_the_target_perturbation_and_mixes_the_critics():
    agent = linear_agent(perturbation_limit=0.2)
    for network, bias in ((agent.perturbation, -9.0), (agent.target_perturbation, 9.0)):  # tanh(9) = 1: +-Phi
        network.set_weights([np.zeros([1, 5, 2], np.float32), np.full([1, 2], bias, np.float32)])
    rows = tiny.make_dataset(30, DIMENSIONS).sample((30,), SEED)
    metrics = agent.update(rows, SEED)
    action = np.tanh([0.5, -1.0]) + 0.2
    values = np.stack([rows.next_observation.numpy()[:, 1] + action[0], np.full(30, 2.0 * action[1] + 3.0)])
    value = 0.75 * values.min(axis=0) + 0.25 * values.max(axis=0)
    expected = rows.reward.numpy() + 0.5 * rows.discount.numpy() * value
    assert float(metrics["target_mean"]) == pytest.approx(expected.mean(), rel=1e-5)


def test_without_perturbation_it_acts_as_the_model_says():
    agent = linear_agent(perturbation_limit=0.0)
    observation = tf.constant(np.random.default_rng(0).normal(size=(6, 3)), tf.float32)
    for policy in agent.policies().values():
        action, _ = policy.draw(observation, (), SEED)
        np.testing.assert_allclose(action, np.tile(np.tanh([0.5, -1.0]), (6, 1)), rtol=1e-6)


def test_best_action_is_the_best_of_its_own_samples():
    """Model action tanh(z0) in [-tanh 0.5, tanh 0.5], Q = a0: the best of many samples is close to the upper end."""
    agent = linear_agent(perturbation_limit=0.0, action_samples=60)
    kernel = np.zeros([1, 7, 2], np.float32)
    kernel[0, 3, 0] = 1.0
    agent.behavior.decoder.set_weights([kernel, np.zeros([1, 2], np.float32)])
    agent.critic.set_weights(linear_critic([[0, 0, 0, 1, 0], [0, 0, 0, 1, 0]]).get_weights())
    best = agent.policies()["max_q"].draw(tf.zeros([5, 3]), (), SEED)[0].numpy()
    np.testing.assert_allclose(best[:, 0], np.tanh(0.5), atol=1e-6)  # P(z0 > 0.5) = 0.31: some of 60 are clipped there
    seeds = tf.stack([tf.range(500), tf.zeros([500], tf.int32)], axis=1)
    one = agent.policies()["sample"].draw(tf.zeros([500, 3]), (), seeds)[0].numpy()[:, 0]
    assert one.min() == pytest.approx(-np.tanh(0.5), abs=1e-6) and abs(one.mean()) < 0.07


def test_bandit_moves_the_datas_action_uphill_by_its_limit():
    limit, action = 0.25, np.random.default_rng(0).uniform(-0.05, 0.05, size=(2000, 1))
    dataset = tiny.one_state_dataset(action, action[:, 0])
    agent = BCQ(
        Problem(dataset.dimensions),
        0,
        hidden_sizes=(16,),
        perturbation_limit=limit,
        critic=tiny.critic((), learning_rate=1e-2),  # linear, so that it extrapolates the slope of 1
        behavior=ActionAutoEncoder((16,), learning_rate=3e-3),
        training=Training(epochs=1, steps_per_epoch=2500, batch_size=100, policy_learning_rate=3e-3),
    )
    compile_stage(agent.stages()[-1], dataset, SEED)(0, 2500)
    best = agent.policies()["max_q"].draw(tf.zeros([3, 1]), (), SEED)[0].numpy()
    np.testing.assert_allclose(best, limit, atol=0.08)
