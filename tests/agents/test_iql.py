"""IQL: a whole step against losses in NumPy and finite differences, and its limits in a bandit."""

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
import tiny
from agents import reference as ref
from scipy.optimize import brentq

from brac_plus_tf.agents.actor_critic import Training
from brac_plus_tf.agents.base import Problem
from brac_plus_tf.agents.iql import IQL
from brac_plus_tf.core.randomness import base_seed
from brac_plus_tf.models.networks import CommonSpreadActor
from brac_plus_tf.objectives.losses import advantage_weight, expectile_loss
from brac_plus_tf.runs.compiled_stage import compile_stage

SEED, GAMMA, TAU, EXPECTILE, SHARPNESS, LARGEST = base_seed(11), 0.9, 0.25, 0.8, 1.3, 2.0
RATES = {"critic": 0.05, "policy": 0.04, "value": 0.03}
BATCH, DATA = ref.batch(), ref.arrays(ref.batch())
LOG_STD = np.array([-0.4, 0.3])


def make_agent(**settings) -> IQL:
    agent = IQL(
        Problem(ref.DIMENSIONS),
        0,
        actor=CommonSpreadActor((5,)),
        critic=tiny.critic((5,), RATES["critic"], TAU, gamma=GAMMA),
        training=Training(policy_learning_rate=RATES["policy"]),
        value_sizes=(5,),
        value_learning_rate=RATES["value"],
        **{"expectile": EXPECTILE, "sharpness": SHARPNESS, "largest_weight": LARGEST, **settings},
    )
    networks = (agent.actor, agent.value, agent.critic, agent.target_critic)
    for seed, network in zip((0, 1, 3, 32), networks, strict=True):
        ref.randomize(network.trainable_variables, seed)
    agent.actor.log_std.assign(LOG_STD)
    return agent


def test_a_whole_step():
    """V by the targets' Q, the policy by the new V and the targets' Q, Q by the new V."""
    agent = make_agent()
    value, actor, critic, target = map(ref.weights_of, (agent.value, agent.actor, agent.critic, agent.target_critic))
    agent.update(BATCH, SEED)
    q_values = ref.q_values(target, DATA.observation, DATA.action)
    ref.assert_either_is_smaller(q_values)
    smallest = q_values.min(axis=0)

    def value_loss(weights):
        difference = smallest - ref.mlp(weights, DATA.observation)[:, 0]
        return float((np.where(difference < 0.0, 1.0 - EXPECTILE, EXPECTILE) * difference**2).mean())

    signs = np.sign(smallest - ref.mlp(value, DATA.observation)[:, 0])
    assert set(signs) == {-1.0, 1.0}
    gradient = ref.finite_difference(value_loss, ref.copies(value))
    ref.assert_gradient(agent.value_optimizer, agent.value.trainable_variables, gradient)
    new_value = ref.weights_of(agent.value)
    ref.assert_rate(value, new_value, gradient, RATES["value"])

    advantage = smallest - ref.mlp(new_value, DATA.observation)[:, 0]
    weight = np.minimum(np.exp(SHARPNESS * advantage), LARGEST)
    assert 0 < (weight == LARGEST).sum() < len(weight)

    def policy_loss(weights):
        mean = np.tanh(ref.mlp(weights[:-1], DATA.observation))
        likelihood = scipy.stats.norm.logpdf(DATA.action, mean, np.exp(weights[-1])).sum(axis=-1)
        return float(-(weight * likelihood).mean())

    gradient = ref.finite_difference(policy_loss, ref.copies(actor))
    ref.assert_gradient(agent.policy_optimizer, agent.actor.trainable_variables, gradient)
    ref.assert_rate(actor, ref.weights_of(agent.actor), gradient, RATES["policy"])

    following = ref.mlp(new_value, DATA.next_observation)[:, 0]
    expected = ref.td_target(DATA.reward, DATA.discount, following, GAMMA)
    ref.assert_critic_step(agent, critic, DATA, expected, RATES["critic"])
    ref.assert_followed(target, agent.critic, agent.target_critic, TAU)


def test_the_policys_rate_falls_to_nothing_by_the_last_step():
    """rate (1 + cos(pi t / T)) / 2 at t = 0, T / 3, T / 2 and T, where T is the number of steps of all epochs."""
    training = Training(epochs=4, steps_per_epoch=3, policy_learning_rate=0.04)
    agent = IQL(Problem(ref.DIMENSIONS), 0, training=training)
    rates = []
    for step in (0, 4, 6, 12):
        agent.policy_optimizer.iterations.assign(step)
        rates.append(float(agent.policy_optimizer.learning_rate))
    np.testing.assert_allclose(rates, [0.04, 0.03, 0.02, 0.0], atol=1e-8)
    assert float(agent.value_optimizer.learning_rate) == np.float32(3e-4)


def test_losses_by_hand():
    np.testing.assert_allclose(expectile_loss(tf.constant([2.0, -2.0, 0.0]), 0.7), [2.8, 1.2, 0.0], rtol=1e-6)
    found = advantage_weight(tf.constant([0.0, 1.0, -1.0, 1e4]), 2.0, 100.0)
    np.testing.assert_allclose(found, [1.0, np.exp(2.0), np.exp(-2.0), 100.0], rtol=1e-5)
    with tf.GradientTape() as tape:
        advantage = tf.constant([0.5])
        tape.watch(advantage)
        weight = advantage_weight(advantage, 2.0, 100.0)
    assert tape.gradient(weight, advantage) is None


def test_the_actors_spread_is_one_for_all_states_and_bounded():
    agent = make_agent()
    mean, deviation = agent.actor(BATCH.observation)
    np.testing.assert_allclose(deviation, np.tile(np.exp(LOG_STD), (ref.ROWS, 1)), rtol=1e-5)
    np.testing.assert_allclose(mean, np.tanh(ref.mlp(ref.weights_of(agent.actor)[:-1], DATA.observation)), atol=1e-5)
    agent.actor.log_std.assign([-9.0, 7.0])
    np.testing.assert_allclose(agent.actor(BATCH.observation)[1][0], np.exp([-5.0, 2.0]), rtol=1e-5)


def test_it_acts_by_the_mean_or_by_draws_within_the_range():
    agent, policies = make_agent(), make_agent().policies()
    mean, _ = policies["mean"].draw(BATCH.observation, (), SEED)
    np.testing.assert_allclose(mean, agent.actor(BATCH.observation)[0])
    rows = tf.repeat(BATCH.observation[:1], 4000, axis=0)
    own = tf.stack([tf.range(4000), tf.range(4000) * 7 + 3], axis=1)
    drawn = policies["sample"].draw(rows, (), own)[0].numpy()
    assert np.abs(drawn).max() == 1.0
    # the median of what is clipped is the mean of what is not
    np.testing.assert_allclose(np.median(drawn, axis=0), mean[0], atol=5 * 1.25 * np.exp(0.3) / np.sqrt(4000))


def bandit(**settings):
    """One state; data around -0.3 with deviation 0.5, reward -(a - 0.6)^2; what is learned after 4,000 steps."""
    generator = np.random.default_rng(0)
    action = np.clip(-0.3 + 0.5 * generator.normal(size=(2000, 1)), -0.99, 0.99)
    reward = -np.square(action[:, 0] - 0.6)
    data = tiny.one_state_dataset(action, reward)
    training = Training(epochs=1, steps_per_epoch=4000, batch_size=100, policy_learning_rate=1e-2)
    agent = IQL(
        Problem(data.dimensions),
        0,
        actor=CommonSpreadActor(()),
        critic=tiny.critic((32, 32), learning_rate=2e-3, tau=0.05),
        training=training,
        value_sizes=(),
        value_learning_rate=5e-3,
        **settings,
    )
    compile_stage(agent.stages()[0], data, SEED)(0, 4000)
    chosen = float(agent.policies()["mean"].draw(tf.zeros([1, 1]), (), SEED)[0][0, 0])
    return action[:, 0], reward, float(agent.value(tf.zeros([1, 1]))[0]), chosen


@pytest.mark.parametrize("expectile", [0.5, 0.9])
def test_v_is_the_expectile_of_the_datas_rewards(expectile):
    """Where tau E[(r - v)+] = (1 - tau) E[(v - r)+]; for 0.5 the mean."""
    _, reward, value, _ = bandit(expectile=expectile)
    expected = brentq(
        lambda v: expectile * np.maximum(reward - v, 0).mean() - (1 - expectile) * np.maximum(v - reward, 0).mean(),
        reward.min(),
        reward.max(),
    )
    assert value == pytest.approx(expected, abs=0.05)
    if expectile == 0.5:
        assert expected == pytest.approx(reward.mean(), abs=1e-6)


def test_an_expectile_near_one_is_the_best_of_the_data():
    _, reward, value, _ = bandit(expectile=0.999)
    assert value == pytest.approx(reward.max(), abs=0.06)


@pytest.mark.parametrize("sharpness", [0.0, 3.0])
def test_the_policy_is_the_weighted_mean_of_the_datas_actions(sharpness):
    """exp(beta A) weights; with 0 the data's mean, which is cloning."""
    action, reward, value, chosen = bandit(sharpness=sharpness)
    weight = np.minimum(np.exp(sharpness * (reward - value)), 100.0)
    assert chosen == pytest.approx((weight * action).sum() / weight.sum(), abs=0.05)
    assert (chosen > 0.0) == (sharpness > 0.0)
