"""Boundaries of episodes that no flag marks, in walks whose steps are small, and in data where nothing can be told."""

import logging

import numpy as np
import pytest
from dataset_files import shared_file

from brac_plus_tf.data.hdf5_reader import read_rows
from brac_plus_tf.data.loading import dataset_from_arrays
from brac_plus_tf.data.plausibility import jumps


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
    arrays = {"observations": observations, "actions": zeros[:, None], "terminals": zeros > 1, "timeouts": ends}
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
