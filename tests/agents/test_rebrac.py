"""ReBRAC: whole steps against losses in NumPy and finite differences, its two penalties, and which rows it sees."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import tiny
from agents import reference as ref

from brac_plus_tf.agents.actor_critic import Training
from brac_plus_tf.agents.base import Problem
from brac_plus_tf.agents.rebrac import ReBRAC, rows_with_a_next_action
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.randomness import base_seed
from brac_plus_tf.data.loading import dataset_from_arrays
from brac_plus_tf.models.networks import DeterministicActor
from brac_plus_tf.runs.compiled_stage import compile_stage

SEED, GAMMA, TAU, NOISE, CLIP = base_seed(11), 0.9, 0.25, 0.4, 0.3
RATES = {"critic": 0.05, "policy": 0.04}
BATCH, DATA = ref.batch(), ref.arrays(ref.batch())
POLICY_PENALTY, VALUE_PENALTY = 0.7, 0.3


def make_agent(**settings):
    """With a ReLU alone in the critics: NumPy's reference has it, and the normalised one has a test of its own."""
    agent = ReBRAC(
        Problem(ref.DIMENSIONS),
        0,
        actor=DeterministicActor((5,)),
        critic=tiny.critic((5,), RATES["critic"], TAU, gamma=GAMMA),
        training=Training(policy_learning_rate=RATES["policy"]),
        **{"policy_penalty": POLICY_PENALTY, "value_penalty": VALUE_PENALTY, **settings},
        target_noise=NOISE,
        noise_clip=CLIP,
    )
    networks = (agent.actor, agent.target_actor, agent.critic, agent.target_critic)
    for seed, network in zip((0, 1, 3, 32), networks, strict=True):
        ref.randomize(network.trainable_variables, seed)
    return agent, [ref.weights_of(network) for network in networks]


def test_a_whole_step():
    """The second of two steps: the policy's turn, too. Both squares are sums over the entries of an action."""
    agent, (actor, target_actor, critic, target) = make_agent()
    metrics = agent.update(BATCH, SEED, tf.constant(1))
    following = ref.smoothed_action(target_actor, DATA.next_observation, SEED, NOISE, CLIP)
    values = ref.q_values(target, DATA.next_observation, following)
    distance = ((following - DATA.next_action) ** 2).sum(axis=-1)
    expected = ref.td_target(DATA.reward, DATA.discount, values.min(axis=0) - VALUE_PENALTY * distance, GAMMA)
    new_critic = ref.assert_critic_step(agent, critic, DATA, expected, RATES["critic"])

    q_values = ref.q_values(new_critic, DATA.observation, np.tanh(ref.mlp(actor, DATA.observation)))
    ref.assert_either_is_smaller(q_values)
    scale = np.abs(q_values.min(axis=0)).mean()  # without gradient

    def policy_loss(weights):
        action = np.tanh(ref.mlp(weights, DATA.observation))
        value = ref.q_values(new_critic, DATA.observation, action).min(axis=0)
        error = ((action - DATA.action) ** 2).sum(axis=-1)
        return float((POLICY_PENALTY * error - value / scale).mean())

    gradient = ref.finite_difference(policy_loss, ref.copies(actor))
    ref.assert_gradient(agent.policy_optimizer, agent.actor.trainable_variables, gradient)
    ref.assert_rate(actor, ref.weights_of(agent.actor), gradient, RATES["policy"])
    ref.assert_followed(target, agent.critic, agent.target_critic, TAU)
    ref.assert_followed(target_actor, agent.actor, agent.target_actor, TAU)
    assert float(metrics["policy_loss"]) == pytest.approx(2.0 * policy_loss(ref.copies(actor)), rel=1e-3)


def test_without_its_value_penalty_targets_are_td3s():
    agent, (_, target_actor, _, target) = make_agent(value_penalty=0.0)
    action = np.tanh(ref.mlp(target_actor, DATA.next_observation)).astype(np.float32)
    found = agent.next_value(BATCH, tf.constant(action))
    np.testing.assert_allclose(found, ref.q_values(target, DATA.next_observation, action).min(axis=0), rtol=1e-4)


def test_rows_whose_next_action_is_not_known_are_not_learned_from():
    """Episodes of four rows: one ends in a terminal, one is cut, one is cut by the end of the recording."""
    rows = 12
    arrays = {
        "observations": np.arange(rows, dtype=float)[:, None],
        "actions": np.linspace(-0.9, 0.9, rows)[:, None],
        "rewards": np.arange(rows, dtype=float),
        "terminals": np.arange(rows) == 3,
        "timeouts": np.arange(rows) == 7,
        "next_observations": np.arange(rows, dtype=float)[:, None] + 0.5,
    }
    arrays["next_observations"][:-1][~(arrays["terminals"] | arrays["timeouts"])[:-1]] += 0.5
    data = dataset_from_arrays(arrays, rewards=None, action_low=-1.0, action_high=1.0)
    np.testing.assert_array_equal(rows_with_a_next_action(data), [0, 1, 2, 3, 4, 5, 6, 8, 9, 10])
    agent, _ = make_agent()
    batch = agent.draw(4000)(data, SEED)
    np.testing.assert_array_equal(np.unique(batch.observation), [0, 1, 2, 3, 4, 5, 6, 8, 9, 10])
    counts = np.unique(batch.observation, return_counts=True)[1]
    assert (np.abs(counts - 400) < 5 * np.sqrt(4000 * 0.1 * 0.9)).all()
    # what is drawn is what the data did next, but where the episode had ended
    following = {float(o): float(a) for o, a in zip(batch.observation[:, 0], batch.next_action[:, 0], strict=True)}
    assert all(
        following[row] == pytest.approx(arrays["actions"][row + 1, 0], abs=1e-6) for row in (0, 1, 2, 4, 6, 8, 10)
    )


def test_data_that_never_go_on_are_refused():
    data = tiny.make_dataset(6)
    lonely = data.places._replace(episode=np.arange(6, dtype=np.int32))
    alone = dataclasses.replace(tiny.with_columns(data, discount=np.ones(6)), places=lonely)
    with pytest.raises(UserError, match="no row of the data says what was done next"):
        rows_with_a_next_action(alone)


@pytest.mark.parametrize(("policy_penalty", "expected"), [(1e3, -0.3), (1e-4, 0.6)])
def test_between_the_datas_mean_action_and_the_best_one(policy_penalty, expected):
    """A bandit, reward -(a - 0.6)^2, data around -0.3: a large b1 alone is cloning, a small one finds the best."""
    generator = np.random.default_rng(0)
    action = np.clip(-0.3 + 0.5 * generator.normal(size=(2000, 1)), -0.99, 0.99)
    data = tiny.one_state_dataset(action, -np.square(action[:, 0] - 0.6))
    training = Training(epochs=1, steps_per_epoch=4000, batch_size=100, policy_learning_rate=1e-3)
    critic = tiny.critic((32, 32), learning_rate=1e-3)
    agent = ReBRAC(
        Problem(data.dimensions),
        0,
        actor=DeterministicActor(()),
        critic=critic,
        training=training,
        policy_penalty=policy_penalty,
    )
    compile_stage(agent.stages()[0], data, SEED)(0, 4000)
    chosen = float(agent.policies()["mean"].draw(tf.zeros([1, 1]), (), SEED)[0][0, 0])
    assert chosen == pytest.approx(action.mean() if policy_penalty > 1.0 else expected, abs=0.07)
