"""BEAR: its target, its constraint by hand and on a bandit, active and inactive."""

import numpy as np
import pytest
import tensorflow as tf
import tiny
from fakes import linear_actor, linear_critic

from brac_plus_tf.agents.actor_critic import Training
from brac_plus_tf.agents.base import Problem
from brac_plus_tf.agents.bear import BEAR
from brac_plus_tf.core.randomness import base_seed
from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.models.action_auto_encoder import ActionAutoEncoder
from brac_plus_tf.models.networks import Actor
from brac_plus_tf.objectives.divergences import MMD, gaussian_kernel
from brac_plus_tf.objectives.multipliers import Multiplier
from brac_plus_tf.runs.compiled_stage import compile_stage, take_step

SEED, DIMENSIONS = base_seed(6), Dimensions(observation=3, action=2)
LINEAR = Actor((), (-5.0, 2.0))
TRAINING = Training(epochs=1, steps_per_epoch=10, batch_size=20, policy_learning_rate=1e-3, warm_start=5)
NARROW = [0.0068, 0.0068]


def linear_agent(**settings) -> BEAR:
    """Policy tanh of (o0, o1); the model's action tanh(0.5), tanh(-1) whatever the latent; Q = min(a0, 3)."""
    critic = tiny.critic((), gamma=0.5, target_samples=4, minimum_weight=0.75)
    agent = BEAR(
        Problem(DIMENSIONS),
        0,
        actor=LINEAR,
        critic=critic,
        training=TRAINING,
        behavior=ActionAutoEncoder(()),
        **settings,
    )
    agent.actor.set_weights(linear_actor([[1, 0], [0, 1], [0, 0]], [0, 0], NARROW).get_weights())
    agent.behavior.decoder.set_weights([np.zeros([1, 7, 2], np.float32), np.array([[0.5, -1.0]], np.float32)])
    weights = linear_critic([[0, 0, 0, 1, 0], [0, 0, 0, 0, 0]], [0.0, 3.0]).get_weights()
    for network in (agent.critic, agent.target_critic):
        network.set_weights(weights)
    return agent


def batch(count=30):
    return tiny.make_dataset(count, DIMENSIONS).sample((count,), SEED)


def test_target_is_three_quarters_minimum_and_one_quarter_maximum():
    rows = batch()
    metrics = linear_agent().update(rows, SEED)
    value = 0.75 * np.tanh(rows.next_observation.numpy()[:, 0]) + 0.25 * 3.0
    expected = rows.reward.numpy() + 0.5 * rows.discount.numpy() * value
    assert float(metrics["target_mean"]) == pytest.approx(expected.mean(), abs=0.75 * 0.5 * 4 * NARROW[0])


@pytest.mark.parametrize(("threshold", "expected"), [(0.01, np.exp(0.1)), (5.0, np.exp(-0.1))])
def test_loss_divergence_and_multiplier_by_hand(threshold, expected):
    """All samples of a state coincide: MMD^2 = 2 - 2 exp(-|u - (0.5, -1)|_1 / (2 sigma))."""
    rule = Multiplier(initial=1.0, learning_rate=0.1, minimum=0.01, maximum=100.0, logarithmic=True)
    agent = linear_agent(divergence=MMD(samples=4, sigma=2.0), threshold=threshold, multiplier=rule)
    rows = batch()
    metrics = agent.update(rows, SEED)
    distance = np.abs(rows.observation.numpy()[:, :2] - [0.5, -1.0]).sum(axis=1)
    divergence = np.sqrt(2.0 - 2.0 * np.exp(-distance / 4.0) + 1e-6)
    assert float(metrics["divergence_mean"]) == pytest.approx(divergence.mean(), abs=0.01)
    q_value = np.tanh(rows.observation.numpy()[:, 0])
    assert float(metrics["policy_loss"]) == pytest.approx((divergence - q_value).mean(), abs=0.02)
    assert float(metrics["multiplier"]) == pytest.approx(expected, rel=1e-4)


def test_warm_start_never_looks_at_q():
    agents = [linear_agent() for _ in range(2)]
    agents[1].critic.set_weights([weight + 5.0 for weight in agents[1].critic.get_weights()])
    for agent in agents:
        take_step(agent.stages()[0], tiny.make_dataset(100, DIMENSIONS), SEED, tf.constant(0))
    for first, second in zip(*(agent.actor.get_weights() for agent in agents), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(("threshold", "active"), [(0.15, True), (2.0, False)])
def test_bandit_goes_as_far_as_the_constraint_allows(threshold, active):
    """One state, reward a, data around 0 with deviation 0.1. Slack: a goes to 1. Active: MMD at the threshold."""
    u = np.random.default_rng(0).normal(0.0, 0.1, size=(2000, 1))
    dataset = tiny.one_state_dataset(np.tanh(u), np.tanh(u[:, 0]))
    agent = BEAR(
        Problem(dataset.dimensions),
        0,
        actor=Actor((16,), (-5.0, 2.0)),
        critic=tiny.critic((), learning_rate=1e-2),  # linear, so that it extrapolates the slope of 1
        training=Training(epochs=1, steps_per_epoch=4000, batch_size=100, policy_learning_rate=3e-3),
        behavior=ActionAutoEncoder((16,), learning_rate=3e-3),
        divergence=MMD(
            samples=4, sigma=10.0, kernel=gaussian_kernel
        ),  # nearly linear in the distance: an optimum inside
        threshold=threshold,
        multiplier=Multiplier(initial=1.0, learning_rate=1e-2, minimum=0.01, maximum=100.0, logarithmic=True),
    )
    run = compile_stage(agent.stages()[-1], dataset, SEED)
    run(0, 3000)
    last = {name: value / 1000 for name, value in run(3000, 1000).items()}
    action = float(np.tanh(agent.actor(tf.zeros([1, 1]))[0][0, 0]))
    if active:
        assert last["divergence_mean"] == pytest.approx(threshold, rel=0.1)
        assert 0.0 < action < 0.8 and last["multiplier"] > 0.02
    else:
        assert action > 0.95 and last["multiplier"] == pytest.approx(0.01, rel=0.05)
