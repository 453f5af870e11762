"""Fitted Q against values that are known: closed forms of chains, geometric sums, a linear-quadratic system."""

import dataclasses

import numpy as np
import pytest
import scipy.linalg
import tensorflow as tf
import tiny

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.randomness import base_seed
from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.data.episodes import Places
from brac_plus_tf.data.loading import dataset_from_arrays
from brac_plus_tf.data.scaling import Scaling
from brac_plus_tf.estimation.fitted_q import (
    FittedQ,
    FittedQLearner,
    bootstrap_weights,
    fitted_q_target,
    in_tenths,
    reward_units,
)
from brac_plus_tf.runs.compiled_stage import compile_stage

SEED = base_seed(4)
SMALL = FittedQ(2000, 64, (64,), 3e-3, 0.0, tau=0.05, gamma=0.9, members=3, looks=20)


def learner(dataset, policy, settings=SMALL, seed=0) -> FittedQLearner:
    """policy: observation [N, O] -> action [N, A]."""
    return FittedQLearner(
        "value", settings, dataset, lambda row, state, seed: policy(state), lambda state, seed: policy(state), seed
    )


def learned(dataset, policy, settings=SMALL, seed=0) -> FittedQLearner:
    """After all its steps."""
    found = learner(dataset, policy, settings, seed)
    compile_stage(found.stage(False), dataset, SEED, False)(0, settings.steps)
    return found


def in_episodes(data, length: int):
    """The dataset cut into episodes of that many rows."""
    row = np.arange(data.number_of_transitions, dtype=np.int32)
    return dataclasses.replace(data, places=Places(row // length, row % length, np.ones(len(row), bool)))


# Closed forms ---------------------------------------------------------------------------------------------------------


def chain(episodes: int, seed: int = 0):
    """Three states in a row, from the first on; an action above 0 goes right with 0.8, another one stays; the third
    state pays 1 and ends. Logged actions are uniform. Returns the data and the value of always going right.
    """
    generator, rows = np.random.default_rng(seed), []
    for _ in range(episodes):
        state = 0
        for step in range(12):
            action = generator.uniform(-1.0, 1.0)
            following = state + int(action > 0.0 and generator.uniform() < 0.8)
            rows.append((state, action, float(following == 2), following, following == 2, step))
            if following == 2:
                break
            state = following
    state, action, reward, following, ends, step = (np.array(column) for column in zip(*rows, strict=True))
    data = tiny.make_dataset(len(rows), Dimensions(3, 1))
    hot = np.eye(3)
    data = tiny.with_columns(
        data,
        observation=hot[state],
        action=action[:, None],
        reward=reward,
        next_observation=hot[following],
        discount=~ends,
    )
    episode = np.cumsum(step == 0) - 1
    places = Places(episode.astype(np.int32), step.astype(np.int32), np.ones(len(rows), bool))
    last = 0.8 / (1.0 - 0.9 * 0.2)  # v1 = 0.8 + 0.9 0.2 v1
    return dataclasses.replace(data, places=places), 0.9 * 0.8 * last / (1.0 - 0.9 * 0.2)


def always(value: float):
    return lambda observation: tf.zeros_like(observation[:, :1]) + value


def test_a_chain_whose_value_is_known():
    data, expected = chain(600)
    found = learned(data, always(0.7))
    np.testing.assert_allclose(found.estimates(SEED), expected, atol=0.05)
    # and of the policy that stays: nothing
    np.testing.assert_allclose(learned(data, always(-0.7)).estimates(SEED), 0.0, atol=0.1)


def test_intervals_cover_the_truth():
    """Mean +- t sd of the members, over data sets that are drawn anew."""
    from brac_plus_tf.estimation.verdict import of_members

    settings, covered = dataclasses.replace(SMALL, steps=600, members=4), []
    for seed in range(10):
        data, expected = chain(60, seed)
        interval = of_members(learned(data, always(0.7), settings, seed).estimates(SEED))
        covered.append(interval.low <= expected <= interval.high)
    assert np.mean(covered) >= 0.8


@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_a_constant_reward_sums_geometrically(rate):
    """r / (1 - gamma) without ends; r / (1 - gamma (1 - rate)) where each step ends with a rate of its own."""
    rows = 2000
    ends = np.random.default_rng(0).uniform(size=rows) < rate
    data = tiny.make_dataset(rows, Dimensions(2, 1))
    data = tiny.with_columns(data, reward=np.full(rows, 3.0), discount=~ends, observation=np.ones((rows, 2)))
    data = tiny.with_columns(data, next_observation=np.ones((rows, 2)))
    expected = 3.0 / (1.0 - 0.9 * (1.0 - ends.mean()))
    assert learned(in_episodes(data, 20), always(0.0)).estimates(SEED).mean() == pytest.approx(expected, rel=0.1)


def alternating(length: int) -> dict[str, np.ndarray]:
    """A state that changes its sign at each step and pays 1 where it is positive; 60 episodes cut at `length`."""
    state = np.where(np.arange(60 * length) % length % 2 == 0, 1.0, -1.0)
    return {
        "observations": state[:, None],
        "actions": np.random.default_rng(0).uniform(-0.9, 0.9, (60 * length, 1)),
        "rewards": (state > 0.0).astype(float),
        "terminals": np.zeros(60 * length, bool),
        "timeouts": np.arange(60 * length) % length == length - 1,
    }


def test_a_timeout_is_no_end():
    """1 + 0.9^2 + 0.9^4 + ..: as ends, cuts after 5 steps would leave less than half of it."""
    data = dataset_from_arrays(alternating(5), rewards=None, action_low=-1.0, action_high=1.0)
    found = learned(data, always(0.0)).estimates(SEED)
    np.testing.assert_allclose(found, 1.0 / (1.0 - 0.81), rtol=0.03)


def test_a_linear_policy_in_a_linear_quadratic_system():
    """s' = 0.9 s + 0.5 a, r = -s^2 - 0.1 a^2, a = -0.4 s: -P s^2 with P = q + gamma f^2 P; scaled data throughout."""
    rows, gain = 4000, 0.4
    generator = np.random.default_rng(0)
    state, action = generator.uniform(-1.0, 1.0, (2, rows, 1)) * np.array([1.0, 0.5])[:, None, None]
    following, reward = 0.9 * state + 0.5 * action, -(state**2 + 0.1 * action**2)[:, 0]
    data = tiny.make_dataset(rows, Dimensions(1, 1))
    scaling = Scaling(
        np.array([0.1], np.float32),
        np.array([0.5], np.float32),
        np.array([0.0], np.float32),
        np.array([1.0], np.float32),
        reward_shift=-0.5,
        reward_scale=4.0,
    )
    data = dataclasses.replace(data, scaling=scaling)
    data = tiny.with_columns(
        data,
        observation=(state - 0.1) / 0.5,
        next_observation=(following - 0.1) / 0.5,
        action=action,
        reward=scaling.rescale_reward(reward),
        discount=np.ones(rows),
    )
    closed = 0.9 - 0.5 * gain
    cost = scipy.linalg.solve_discrete_lyapunov(np.array([[np.sqrt(0.9) * closed]]), np.array([[1.0 + 0.1 * gain**2]]))
    settings = dataclasses.replace(SMALL, steps=6000, batch_size=128, learning_rate=1e-3, hidden_sizes=(64, 64))
    found = learned(in_episodes(data, 10), lambda observation: -gain * (0.5 * observation + 0.1), settings)
    probe = np.linspace(-0.8, 0.8, 9)[:, None]
    values = found.values((probe - 0.1) / 0.5, -gain * probe)
    np.testing.assert_allclose(values.mean(axis=0), -cost[0, 0] * probe[:, 0] ** 2, atol=0.06)


# Parts ----------------------------------------------------------------------------------------------------------------


def test_targets_by_hand():
    reward, discount = tf.constant([1.0, 2.0, 0.0]), tf.constant([1.0, 0.0, 1.0])
    following = tf.constant([[10.0, 10.0, 100.0], [-20.0, 5.0, 1.0]])
    found = fitted_q_target(reward, discount, following, 0.5, -8.0, 30.0)
    np.testing.assert_allclose(found, [[6.0, 2.0, 30.0], [-8.0, 2.0, 0.5]])


def test_no_gradient_through_the_target():
    following = tf.Variable([[1.0]])
    with tf.GradientTape() as tape:
        target = fitted_q_target(tf.constant([1.0]), tf.constant([1.0]), following, 0.5, -9.0, 9.0)
    assert tape.gradient(target, following) is None


def test_units_of_rewards_by_hand():
    """Of 1, 2, 3: standard deviation sqrt(2 / 3). With ends the mean stays and 0 may be a value, without it goes."""
    scale = np.sqrt(2.0 / 3.0)
    with_ends, without = (reward_units(np.array([1.0, 2.0, 3.0]), ends, 0.9) for ends in (True, False))
    np.testing.assert_allclose(with_ends, (0.0, scale, 0.0, 30.0 / scale))
    np.testing.assert_allclose(without, (2.0, scale, -10.0 / scale, 10.0 / scale))
    np.testing.assert_allclose(reward_units(np.array([-2.0, -2.0]), True, 0.5), (0.0, 1.0, -4.0, 0.0))


def test_bootstrap_samples_have_as_many_episodes_as_the_data():
    weights = bootstrap_weights(500, 6, 0)
    assert weights.shape == (6, 500) and (weights.sum(axis=1) == 500).all()
    assert len({tuple(row) for row in weights}) == 6
    assert (weights == 0).mean() == pytest.approx(np.exp(-1.0), abs=0.02)  # what a sample leaves out
    assert not np.array_equal(weights, bootstrap_weights(500, 6, 1))


def test_a_member_learns_from_its_own_episodes_alone():
    """Two episodes that pay 0 and 1 everywhere: a sample of the second one twice knows of nothing else."""
    data = in_episodes(tiny.make_dataset(200, Dimensions(2, 1)), 100)
    data = tiny.with_columns(data, reward=np.arange(200) >= 100, discount=np.zeros(200))
    found = learner(data, always(0.0), dataclasses.replace(SMALL, steps=400, learning_rate=1e-2))
    found.weights[:] = [[2, 0], [0, 2], [1, 1]]
    found._row_weights[:] = found.weights[:, data.places.episode]
    compile_stage(found.stage(False), data, SEED, False)(0, 400)
    np.testing.assert_allclose(found.estimates(SEED), [0.0, 1.0, 0.5], atol=0.12)


def test_starts_are_first_rows_and_nothing_else():
    data = in_episodes(tiny.make_dataset(30), 10)
    found = learner(data, lambda state: state[:, :2])
    np.testing.assert_array_equal(found.starts.row, [0, 10, 20])
    np.testing.assert_array_equal(found.starts.observation, data.transitions.observation[[0, 10, 20]])
    later = data.places._replace(step=data.places.step + 1)
    with pytest.raises(UserError, match="no beginning of an episode"):
        learner(dataclasses.replace(data, places=later), lambda state: state[:, :2])


def test_the_last_two_tenths_of_the_looks():
    looks = {10 * n: np.array([n, -n]) for n in range(1, 41)}
    last, before = in_tenths(looks)
    np.testing.assert_allclose(last, [38.5, -38.5])
    np.testing.assert_allclose(before, [34.5, -34.5])


def test_settings_that_give_no_interval_are_refused():
    for settings in ({"members": 1}, {"gamma": 1.0}, {"looks": 10}, {"steps": 10}):
        with pytest.raises(UserError, match="FittedQ: an interval needs"):
            FittedQ(**settings)
