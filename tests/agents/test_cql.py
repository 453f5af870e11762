"""CQL: its three soft maxima against integrals and pencils, its critic loss by hand, its limits."""

import dataclasses
import math

import numpy as np
import pytest
import tensorflow as tf
import tiny
from fakes import linear_critic
from scipy.special import logsumexp

from brac_plus_tf.agents.actor_critic import Training
from brac_plus_tf.agents.base import Problem
from brac_plus_tf.agents.cql import CQL, ActionValues, entropy_regularized, policy_weighted, unweighted
from brac_plus_tf.agents.sac import SAC
from brac_plus_tf.core.randomness import base_seed
from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.models.networks import Actor
from brac_plus_tf.objectives.multipliers import Multiplier
from brac_plus_tf.runs.compiled_stage import compile_stage, take_step

SEED, DIMENSIONS = base_seed(2), Dimensions(observation=3, action=2)
TRAINING = Training(epochs=1, steps_per_epoch=10, batch_size=20, policy_learning_rate=1e-3, warm_start=5)
#  K = 2, N = 3, B = 1
VALUES = ActionValues(
    uniform=tf.constant([[[1.0], [2.0], [0.0]], [[0.5], [0.0], [-1.0]]]),
    following=tf.constant([[[0.0], [1.0], [3.0]], [[1.0], [1.0], [1.0]]]),
    current=tf.constant([[[2.0], [2.0], [-1.0]], [[0.0], [2.0], [4.0]]]),
    data=tf.constant([[1.5], [-0.5]]),
    log_uniform=-2.0 * math.log(2.0),
    log_following=tf.constant([[-1.0], [0.5], [0.0]]),
    log_current=tf.constant([[0.25], [-2.0], [1.0]]),
)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_soft_maxima_by_hand(temperature):
    uniform, following, current, data = (np.array(value)[..., 0] for value in VALUES[:4])
    log_following, log_current = np.array([-1.0, 0.5, 0.0]), np.array([0.25, -2.0, 1.0])
    t = temperature
    terms = [uniform / t + 2.0 * np.log(2.0), following / t - log_following, current / t - log_current]
    expected = t * logsumexp(np.concatenate(terms, axis=1), axis=1)
    np.testing.assert_allclose(entropy_regularized(VALUES, t)[:, 0], expected, rtol=1e-5)
    everything = np.concatenate([uniform, following, current, data[:, None]], axis=1)
    np.testing.assert_allclose(unweighted(VALUES, t)[:, 0], t * logsumexp(everything / t, axis=1), rtol=1e-5)
    weight = np.exp(current / t)
    expected = (weight * current).sum(axis=1) / weight.sum(axis=1)
    np.testing.assert_allclose(policy_weighted(VALUES, t)[:, 0], expected, rtol=1e-5)


def test_entropy_regularised_value_is_the_log_integral_of_exp_q():
    """Q = 2 a0 - a1 over [-1, 1]^2: the integral of exp Q is 4 sinh(2) / 2 * sinh(1); all three sources estimate it."""
    generator, count = np.random.default_rng(0), 40_000
    uniform = generator.uniform(-1.0, 1.0, size=(count, 2))
    u = generator.normal([0.5, -0.2], 0.9, size=(2, count, 2))
    log_density = -0.5 * (((u - [0.5, -0.2]) / 0.9) ** 2 + np.log(2 * np.pi * 0.9**2)) - np.log(1 - np.tanh(u) ** 2)
    value = lambda a: tf.constant((2.0 * a[..., 0] - a[..., 1])[None, :, None], tf.float32)  # noqa: E731
    logs = [tf.constant(part.sum(axis=-1)[:, None], tf.float32) for part in log_density]
    values = ActionValues(value(uniform), *map(value, np.tanh(u)), tf.zeros([1, 1]), -2.0 * math.log(2.0), *logs)
    estimate = float(entropy_regularized(values, 1.0)[0, 0]) - math.log(3 * count)
    assert estimate == pytest.approx(math.log(2.0 * math.sinh(2.0) * math.sinh(1.0)), abs=0.02)


def test_policy_weights_carry_no_gradient():
    current = tf.constant([[[2.0], [0.0]]])
    with tf.GradientTape() as tape:
        tape.watch(current)
        total = tf.reduce_sum(policy_weighted(VALUES._replace(current=current), 1.0))
    weight = np.exp(2.0) / (np.exp(2.0) + 1.0)
    np.testing.assert_allclose(tape.gradient(total, current)[0, :, 0], [weight, 1.0 - weight], rtol=1e-5)


def test_critic_loss_by_hand():
    """Critics constant in the action: every C_j is Q_j + log of the importance weights' sum, the gap the latter."""
    agent = CQL(
        Problem(DIMENSIONS), 0, actor=Actor(()), critic=tiny.critic(()), weight=0.5, conservative_value=unweighted
    )
    agent.critic.set_weights(linear_critic([[1, 0, 0, 0, 0], [0, 2, 0, 0, 0]], [0.0, 1.0]).get_weights())
    batch = tiny.make_dataset(50, DIMENSIONS).sample((20,), SEED)._replace(discount=tf.zeros([20]))
    metrics = agent._fit_conservative_critic(batch, SEED)
    observation, reward = batch.observation.numpy(), batch.reward.numpy()
    errors = [(observation[:, 0] - reward) ** 2, (2.0 * observation[:, 1] + 1.0 - reward) ** 2]
    gap = math.log(31)  # logsumexp of 31 equal values lies log 31 above them, whatever they are
    assert float(metrics["conservative_gap"]) == pytest.approx(gap, rel=1e-5)
    expected = np.mean(errors[0] + errors[1]) + 0.5 * 2.0 * gap
    assert float(metrics["critic_loss"]) == pytest.approx(expected, rel=1e-5)


def test_without_weight_and_temperature_it_is_plain_actor_critic():
    """Weight 0: the same bits as SAC, whose soft target is the plain one at temperature 0."""
    shared = {
        "actor": Actor((16,)),
        "critic": tiny.critic((16,)),
        "training": dataclasses.replace(TRAINING, warm_start=0),
        "entropy": Multiplier(initial=0.0, learning_rate=0.0),
    }
    cql, sac = CQL(Problem(DIMENSIONS), 0, weight=0.0, **shared), SAC(Problem(DIMENSIONS), 0, **shared)
    dataset = tiny.make_dataset(100, DIMENSIONS)
    for step in range(3):
        for agent in (cql, sac):
            take_step(agent.stages()[-1], dataset, SEED, tf.constant(step))
    for name in ("actor", "critic", "target_critic"):
        for first, second in zip(cql.components()[name], sac.components()[name], strict=True):
            np.testing.assert_allclose(first.numpy(), second.numpy(), atol=1e-6, err_msg=name)


def test_warm_start_clones_and_never_looks_at_q():
    agents = [
        CQL(Problem(DIMENSIONS), 0, actor=Actor((16,)), critic=tiny.critic((16,)), training=TRAINING) for _ in range(2)
    ]
    agents[1].critic.set_weights([weight + 5.0 for weight in agents[1].critic.get_weights()])
    dataset = tiny.make_dataset(100, DIMENSIONS)
    for agent in agents:
        take_step(agent.stages()[0], dataset, SEED, tf.constant(0))
    for first, second in zip(*(agent.actor.get_weights() for agent in agents), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(("target", "rises"), [(1.0, True), (20.0, False)])
def test_lagrange_form_moves_its_multiplier_towards_the_target_gap(target, rises):
    """Untrained critics are nearly flat, so CQL(H)'s gap is near log(30 * 4 / ..) > 1 and weight * gap < 20."""
    multiplier = Multiplier(initial=1.0, learning_rate=0.1)
    agent = CQL(
        Problem(DIMENSIONS),
        0,
        actor=Actor((16,)),
        critic=tiny.critic((16,)),
        weight=1.0,
        gap_multiplier=multiplier,
        target_gap=target,
    )
    metrics = agent.update(tiny.make_dataset(50, DIMENSIONS).sample((20,), SEED), SEED)
    assert 1.0 < float(metrics["conservative_gap"]) < 20.0
    assert float(metrics["gap_multiplier"]) == pytest.approx(1.1 if rises else 0.9, rel=1e-4)


def test_bandit_values_unseen_actions_below_the_datas():
    """One state, reward 0 for all: the plain critic knows no better than 0; with CQL unseen a < 0 fall below a > 0."""
    action = np.random.default_rng(0).uniform(0.3, 0.7, size=(1000, 1))
    dataset = tiny.one_state_dataset(action, np.zeros(1000))
    training = Training(epochs=1, steps_per_epoch=1500, batch_size=100, policy_learning_rate=1e-3)
    agent = CQL(
        Problem(dataset.dimensions),
        0,
        actor=Actor((16,)),
        critic=tiny.critic((32, 32), learning_rate=3e-3),
        training=training,
    )
    compile_stage(agent.stages()[-1], dataset, SEED)(0, 1500)
    grid = tf.constant(np.linspace(-1.0, 1.0, 41)[:, None], tf.float32)
    values = agent.critic.minimum(tf.zeros([41, 1]), grid).numpy()
    seen = (grid.numpy()[:, 0] > 0.35) & (grid.numpy()[:, 0] < 0.65)
    assert values[seen].min() > values[~seen & (np.abs(grid.numpy()[:, 0] - 0.5) > 0.4)].max() + 0.5
