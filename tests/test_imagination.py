"""Rollouts in a model, the ring buffer that keeps them, and how unsure an ensemble is: against NumPy and by hand."""

import numpy as np
import pytest
import tensorflow as tf

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.randomness import base_seed
from brac_plus_tf.core.types import Dimensions, Transition
from brac_plus_tf.data.ring_buffer import RingBuffer
from brac_plus_tf.models.imagination import ImaginedStep, imagine
from brac_plus_tf.objectives.uncertainty import distance_to_mean, largest_deviation, largest_disagreement

SEED = base_seed(4)


def true_step(observation, action, seed):
    """s' = 0.5 s + a in both entries, r = s_0 + 2 a; an episode ends above 2."""
    del seed
    following = 0.5 * observation + action
    return ImaginedStep(following, observation[:, 0] + 2.0 * action[:, 0], following[:, 0] > 2.0, action[:, 0])


def act(observation, seed):
    del seed
    return 1.0 + 0.1 * observation[:, :1]


@pytest.mark.parametrize("compiled", [False, True])
def test_it_goes_as_a_simulation_does_and_what_follows_an_end_is_not_valid(compiled):
    start = np.array([[0.0, 1.0], [3.5, 1.0], [1.0, -1.0]], np.float32)
    run = tf.function(lambda s: imagine(act, true_step, s, 4, SEED), jit_compile=compiled)
    imagined = run(tf.constant(start))
    for row in range(3):
        state, alive = start[row].astype(np.float64), True
        for step in range(4):
            assert bool(imagined.valid[step, row]) == alive
            if not alive:
                continue
            action = 1.0 + 0.1 * state[0]
            following = 0.5 * state + action
            leaves = [leaf[step, row].numpy() for leaf in imagined.transition]
            expected = Transition(
                state, [action], state[0] + 2 * action, float(following[0] <= 2.0), following, [action]
            )
            for found, wanted in zip(leaves, expected, strict=True):
                np.testing.assert_allclose(found, wanted, rtol=1e-5)
            assert float(imagined.penalty[step, row]) == pytest.approx(action, rel=1e-5)
            alive, state = following[0] <= 2.0, following
    # the second row ends at its first step (0.5 * 3.5 + 1.35 > 2), which itself is valid
    assert imagined.valid[:, 1].numpy().tolist() == [True, False, False, False]
    assert imagined.transition.discount[0, 1] == 0.0


def test_an_answer_that_is_not_finite_is_not_kept_and_ends_its_row():
    def broken(observation, action, seed):
        answer = true_step(observation, action, seed)
        bad = tf.constant([False, True, False])[:, None]
        return answer._replace(
            next_observation=tf.where(bad, np.nan, answer.next_observation),
            reward=tf.where(tf.constant([False, False, True]), np.inf, answer.reward),
        )

    imagined = imagine(act, broken, tf.zeros([3, 2]), 3, SEED)
    assert imagined.valid.numpy().tolist() == [[True, False, False]] * 3
    kept = [leaf.numpy()[imagined.valid.numpy()] for leaf in imagined.transition]
    assert all(np.isfinite(leaf).all() for leaf in kept)


def test_every_step_and_both_of_its_draws_have_seeds_of_their_own():
    seen = []

    def drawing(observation, seed):
        seen.append(tuple(seed.numpy()))
        return tf.zeros([2, 1])

    def stepping(observation, action, seed):
        seen.append(tuple(seed.numpy()))
        return true_step(observation, action, seed)

    imagine(drawing, stepping, tf.zeros([2, 2]), 3, SEED)
    assert len(set(seen)) == 6
    first = list(seen)
    imagine(drawing, stepping, tf.zeros([2, 2]), 3, SEED)
    assert seen[6:] == first


# The ring buffer ---------------------------------------------------------------------------------------------------


def numbered(first: int, count: int) -> Transition:
    """Transitions whose every entry tells their number."""
    number = tf.range(first, first + count, dtype=tf.float32)
    wide = number[:, None] + tf.constant([0.0, 1e3])
    return Transition(wide, -number[:, None], 2 * number, 3 * number, 4 * wide, 5 * number[:, None])


@pytest.mark.parametrize("sizes", [[3], [7], [3, 3], [5, 5, 5], [7, 1, 12, 2], [30], [1] * 20])
def test_it_holds_the_last_valid_rows_in_order_whatever_the_sizes(sizes):
    generator = np.random.default_rng(len(sizes))
    buffer, first, kept = RingBuffer(Dimensions(2, 1), 7), 0, []
    for size in sizes:
        valid = generator.uniform(size=size) < 0.7
        buffer.append(numbered(first, size), tf.constant(valid))
        kept += [first + row for row in np.flatnonzero(valid)]
        first += size
        newest = kept[-7:]
        assert len(buffer) == len(newest)
        for found, expected in zip(buffer.transitions, numbered(0, first + 1), strict=True):
            np.testing.assert_array_equal(found, expected.numpy()[newest])


def test_draws_are_from_all_rows_that_there_are_and_from_no_others():
    buffer = RingBuffer(Dimensions(2, 1), 50)
    buffer.append(numbered(10, 5), tf.ones(5, tf.bool))
    rewards = buffer.sample((1000,), SEED).reward.numpy()
    values, counts = np.unique(rewards, return_counts=True)
    assert values.tolist() == [20.0, 22.0, 24.0, 26.0, 28.0]
    assert (np.abs(counts - 200) < 5 * np.sqrt(1000 * 0.2 * 0.8)).all()
    np.testing.assert_array_equal(rewards, buffer.sample((1000,), SEED).reward)
    assert (rewards != buffer.sample((1000,), base_seed(5)).reward.numpy()).any()
    drawn = buffer.sample((100,), SEED)
    np.testing.assert_array_equal(drawn.next_observation, 4 * drawn.observation)
    np.testing.assert_array_equal(2.5 * drawn.reward, drawn.next_action[:, 0])


def test_it_has_no_segments():
    with pytest.raises(UserError, match="no segments"):
        RingBuffer(Dimensions(2, 1), 5).sample_segments(1, 2, SEED)


# Uncertainty -------------------------------------------------------------------------------------------------------


def test_uncertainty_by_hand():
    """Three members; the reward's disagreement counts in none, its deviation in the first."""
    mean = np.zeros((3, 2, 3), np.float32)
    mean[:, 0, 1] = [0.0, 1.0, 3.0]  # on a line: the mean is 4/3, the farthest 5/3 away, the pair 3 apart
    mean[:, 1, 1:] = [[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]]
    mean[:, :, 0] = [[100.0], [0.0], [-100.0]]
    deviation = np.array([[[2.0, 1.0, 2.0], [0.0, 0.0, 0.1]], [[0.0, 0.0, 0.5], [0.0, 3.0, 4.0]], np.zeros((2, 3))])
    given = tf.constant(mean), tf.constant(deviation, tf.float32)
    np.testing.assert_allclose(largest_deviation(*given), [3.0, 5.0], rtol=1e-6)
    np.testing.assert_allclose(distance_to_mean(*given), [5 / 3, 10 / 3], rtol=1e-6)
    np.testing.assert_allclose(largest_disagreement(*given), [3.0, 5.0], rtol=1e-6)


def test_one_member_never_disagrees():
    mean = tf.ones([1, 4, 3])
    np.testing.assert_array_equal(largest_disagreement(mean, mean), np.zeros(4))
    np.testing.assert_array_equal(distance_to_mean(mean, mean), np.zeros(4))
