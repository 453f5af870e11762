"""Boundaries of episodes that no flag marks, in walks whose steps are small, and in data where nothing can be told."""

import logging

import numpy as np
import pytest
from dataset_files import shared_file

from brac_plus_tf.data.hdf5_reader import read_rows
from brac_plus_tf.data.loading import dataset_from_arrays
from brac_plus_tf.data.plausibility import Frozen, frozen_entries, jumps


def walks(episodes: int = 20, length: int = 100):
    """Each from somewhere in [-10, 10], by steps of 0.1 an entry; [N, 3], and where they end."""
    generator = np.random.default_rng(0)
    starts = generator.uniform(-10.0, 10.0, size=(episodes, 1, 3))
    walked = starts + np.cumsum(generator.normal(scale=0.1, size=(episodes, length, 3)), axis=1)
    return walked.reshape(-1, 3), np.arange(episodes * length) % length == length - 1


def test_a_boundary_without_a_flag_is_found_and_no_other_row():
    observations, ends = walks()
    assert not len(jumps(observations, ends))
    hidden = np.array([499, 1299])
    forgotten = ends.copy()
    forgotten[hidden] = False
    np.testing.assert_array_equal(jumps(observations, forgotten), hidden)


@pytest.mark.parametrize("scale", [1e-3, 1e4])
def test_units_do_not_matter_and_constant_entries_tell_nothing(scale):
    observations, ends = walks()
    columns = np.concatenate([observations * [1.0, scale, 1.0], np.full((len(observations), 2), 7.0)], axis=1)
    ends[499] = False
    np.testing.assert_array_equal(jumps(columns.astype(np.float32), ends), [499])


def test_an_entry_of_large_units_that_goes_on_hides_nothing():
    observations, ends = walks()
    observations[:, 1] = 1e4 * np.cumsum(np.random.default_rng(1).normal(scale=0.1, size=len(observations)))
    ends[499] = False
    np.testing.assert_array_equal(jumps(observations, ends), [499])


def test_where_every_step_is_as_large_as_any_nothing_is_found():
    observations = np.random.default_rng(0).normal(size=(2000, 3))
    assert not len(jumps(observations, np.zeros(2000, bool)))
    assert not len(jumps(np.ones((50, 2)), np.zeros(50, bool)))
    assert not len(jumps(observations[:1], np.ones(1, bool)))


def test_blocks_hide_none(monkeypatch):
    observations, ends = walks()
    ends[[499, 1299]] = False
    monkeypatch.setattr("brac_plus_tf.data.plausibility._BLOCK_ROWS", 100)
    np.testing.assert_array_equal(jumps(observations, ends), [499, 1299])


def load(ends, **more):
    observations, _ = walks()
    count = len(observations)
    zeros = np.zeros(count)
    arrays = {
        "observations": observations,
        "actions": np.sin(np.arange(count))[:, None],
        "terminals": zeros > 1,
        "timeouts": ends,
    }
    arrays["rewards"] = np.arange(count) / count
    dataset_from_arrays(arrays | more, action_low=-1.0, action_high=1.0)


def test_it_is_said_with_the_rows(caplog):
    _, ends = walks()
    with caplog.at_level(logging.WARNING):
        load(ends)
    assert not caplog.records
    ends[99 : 7 * 100 : 100] = False
    with caplog.at_level(logging.WARNING):
        load(ends)
    (record,) = caplog.records
    assert "rows 99, 199, 299, 399, 499, ..: after these 7 rows the state is a different one" in record.getMessage()


@pytest.mark.parametrize("name", ["hopper-medium-replay", "hopper-random", "halfcheetah-medium", "door-human"])
def test_recorded_episodes_hold_no_such_row(name):
    rows = read_rows(shared_file(name))
    ends = rows.terminals | rows.timeouts
    ends[-1] = True
    assert not len(jumps(rows.observations, ends))


# Entries in which nothing happens ------------------------------------------------------------------------------------


def test_a_constant_entry_and_one_that_stands_still_are_found():
    """Entry 1 is 7 throughout; entry 2 is 3 in rows 500 to 1799, 1,300 of 5,000."""
    values = np.random.default_rng(0).normal(size=(5000, 4))
    values[:, 1], values[500:1800, 2] = 7.0, 3.0
    assert frozen_entries(values) == [Frozen(1, 0, 4999, True), Frozen(2, 500, 1799, False)]


@pytest.mark.parametrize(("rows", "stretch", "found"), [(5000, 999, False), (5000, 1000, True), (100_000, 1999, False)])
def test_a_short_stretch_is_nothing(rows, stretch, found):
    """Fewer than 1,000 rows, or than 2 % of them: a robot may rest."""
    values = np.random.default_rng(0).normal(size=(rows, 1))
    values[100 : 100 + stretch] = 0.5
    assert [one.last - one.first + 1 for one in frozen_entries(values)] == ([stretch] if found else [])


def test_little_data():
    assert frozen_entries(np.zeros((1, 2))) == [] and frozen_entries(np.zeros((3, 1))) == [Frozen(0, 0, 2, True)]
    assert frozen_entries(np.array([[0.0], [0.0], [1.0]])) == []


def loaded(caplog, **change):
    """Warnings of walks in which the rows all follow each other, but for the changed columns."""
    observations, ends = walks()
    rewards = np.random.default_rng(1).normal(size=len(observations))
    action = np.random.default_rng(2).uniform(-1.0, 1.0, size=(len(observations), 3))
    following = np.concatenate([observations[1:], observations[:1]])
    following[ends] += 0.05
    arrays = {"observations": observations, "actions": action, "rewards": rewards, "timeouts": ends}
    arrays |= {"terminals": np.zeros(len(ends), bool), "next_observations": following}
    dataset_from_arrays(arrays | change, action_low=-1.0, action_high=1.0)
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_frozen_entries_are_told_with_their_rows(caplog):
    action = np.random.default_rng(2).uniform(-1.0, 1.0, size=(2000, 3))
    assert loaded(caplog) == []
    action[:, 2], action[300:1400, 0] = 0.25, -0.5
    constant, still = loaded(caplog, actions=action)
    assert "key 'actions': entry 2 is the same in every row" in constant
    assert "key 'actions', rows 300 to 1399: entry 0 stands still at -0.5" in still


def test_a_flag_where_the_next_row_goes_on_is_told(caplog):
    """Episodes of 100 end at rows 99, 199, ..; a flag at row 149 ends one in its middle."""
    _, ends = walks()
    wrong = ends.copy()
    wrong[149] = True
    (warning,) = loaded(caplog, timeouts=wrong)
    assert "rows 149: end an episode, yet the next row goes on where this one led to" in warning
    caplog.clear()
    terminals = np.zeros(2000, bool)
    terminals[[50, 149]] = True
    (warning,) = loaded(caplog, terminals=terminals)
    assert "rows 50, 149: end an episode, yet the next row goes on where these 2 rows led to" in warning
