import dataclasses

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from fakes import seeds

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.data.hdf5_writer import write_hdf5
from brac_plus_tf.data.loading import load_dataset
from brac_plus_tf.data.replay_buffer import ReplayBuffer
from brac_plus_tf.data.rows import Rows
from brac_plus_tf.data.scaling import task_scaling
from brac_plus_tf.environments.tasks import find_task

# actions in [-1, 3], so center 1 and half range 2
TASK = dataclasses.replace(find_task("Hopper-v4"), dimensions=Dimensions(3, 2), action_low=-1.0, action_high=3.0)


def recorded(rows: int, first: int = 0) -> Rows:
    """Row i: reward i, observation (i, 0, 0), next observation (i + 1, 0, 0), action (1, 3) in every row but (-1, 1)
    in odd ones; a terminal in row 2, a timeout in row 5."""
    index = np.arange(first, first + rows)
    observations = np.zeros((rows, 3), np.float32)
    observations[:, 0] = index
    actions = np.where(index[:, None] % 2, [-1.0, 1.0], [1.0, 3.0]).astype(np.float32)
    following = observations + np.array([1, 0, 0], np.float32)
    return Rows(observations, actions, index.astype(np.float32), index == 2, index == 5, following)


def buffer(rows: int, capacity: int = 20) -> ReplayBuffer:
    made = ReplayBuffer(TASK.dimensions, task_scaling(TASK), capacity)
    made.append(recorded(rows))
    return made


def test_rows_by_hand():
    transitions = buffer(8).transitions
    np.testing.assert_array_equal(transitions.reward, range(8))
    np.testing.assert_array_equal(transitions.observation[:, 0], range(8))
    np.testing.assert_array_equal(transitions.next_observation[:, 0], range(1, 9))
    np.testing.assert_array_equal(transitions.discount, [1, 1, 0, 1, 1, 1, 1, 1])  # a timeout is no terminal
    even, odd = [0.0, 1.0], [-1.0, 0.0]  # ((1, 3) - 1) / 2 and ((-1, 1) - 1) / 2
    np.testing.assert_array_equal(transitions.action, [even, odd] * 4)
    # what follows, and the row's own action where the episode ends (2, 5) or nothing follows yet (7)
    np.testing.assert_array_equal(transitions.next_action, [odd, even, even, even, odd, odd, odd, odd])


@pytest.mark.parametrize("sizes", [[8], [1] * 8, [3, 3, 2], [2, 1, 5], [6, 2]])
def test_next_actions_do_not_depend_on_when_rows_were_added(sizes):
    made = ReplayBuffer(TASK.dimensions, task_scaling(TASK), 20)
    for size in sizes:
        made.append(recorded(size, first=len(made)))
    # of rows 0, .., 7: does the row that is next hold the even action (0.0, 1.0)?
    even = [False, True, True, True, False, False, False, False]
    np.testing.assert_array_equal(made.transitions.next_action[:, 1] == 1.0, even)
    made.append(recorded(1, first=8))  # row 7 goes on now
    assert made.transitions.next_action[7, 1] == 1.0


def test_there_are_no_segments_to_draw():
    with pytest.raises(UserError, match="no segments"):
        buffer(8).sample_segments(2, 3, seeds(1)[0])


def test_draws_are_uniform_over_the_rows_there_are():
    made = buffer(8)
    made.append(recorded(3, first=8))
    rewards = made.sample((5500,), seeds(1)[0]).reward.numpy()
    counts = np.bincount(rewards.astype(int), minlength=20)
    assert counts[11:].sum() == 0
    assert scipy.stats.chisquare(counts[:11]).pvalue > 1e-3


def test_a_compiled_function_sees_rows_added_later():
    made = buffer(2)
    drawn = tf.function(lambda seed: made.sample((64,), seed).reward, jit_compile=True, autograph=False)
    seed = seeds(1)[0]
    assert drawn(seed).numpy().max() == 1.0
    made.append(recorded(6, first=2))
    after = drawn(seed).numpy()
    assert after.max() == 7.0
    np.testing.assert_array_equal(after, made.sample((64,), seed).reward.numpy())


def test_leading_axes_of_a_batch():
    batch = buffer(8).sample((4, 5), seeds(1)[0])
    assert [tuple(field.shape) for field in batch] == [(4, 5, 3), (4, 5, 2), (4, 5), (4, 5), (4, 5, 3), (4, 5, 2)]


def test_rows_come_back_as_they_were_given():
    made = buffer(4)
    made.append(recorded(3, first=4))
    assert len(made) == 7
    for key, expected in recorded(7).columns().items():
        np.testing.assert_array_equal(made.rows().columns()[key], expected)


def test_the_same_transitions_as_from_a_file(tmp_path):
    made = buffer(8)
    write_hdf5(tmp_path / "d.hdf5", TASK.dimensions, 8, [made.rows()], dict)
    read = load_dataset(str(tmp_path / "d.hdf5"), TASK, rewards=None).transitions
    for actual, expected in zip(made.transitions, read, strict=True):
        np.testing.assert_array_equal(actual, expected)
