import dataclasses
import time

import h5py
import numpy as np
import pytest

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.data.episodes import finished_returns
from brac_plus_tf.data.hdf5_writer import task_facts, write_hdf5
from brac_plus_tf.data.loading import load_dataset
from brac_plus_tf.data.rows import COLUMNS, Rows, cut_off, empty_rows
from brac_plus_tf.environments.tasks import find_task

DIMENSIONS = Dimensions(observation=3, action=2)


def make_rows(rows: int, seed: int = 0) -> Rows:
    generator = np.random.default_rng(seed)
    numbers = [generator.uniform(-1.0, 1.0, shape).astype(np.float32) for shape in ((rows, 3), (rows, 2), rows)]
    flags = np.arange(rows) % 5 == 4, np.arange(rows) % 7 == 6
    return Rows(*numbers, *flags, generator.normal(size=(rows, 3)).astype(np.float32))


def write(path, blocks, rows, compress=False):
    facts = {"env_id": "MyRobot-v0", "seed": 3, "episode_seed": np.array([5, 6, 7])}
    write_hdf5(path, DIMENSIONS, rows, blocks, lambda: facts, compress)


@pytest.mark.parametrize("compress", [False, True])
def test_what_is_written_is_what_another_reader_finds(tmp_path, compress):
    blocks = [make_rows(6), make_rows(1, seed=1), make_rows(4, seed=2)]
    write(tmp_path / "d.hdf5", blocks, 11, compress)
    with h5py.File(tmp_path / "d.hdf5") as file:
        for key in COLUMNS:
            expected = np.concatenate([getattr(block, key) for block in blocks])
            assert file[key].dtype == expected.dtype
            np.testing.assert_array_equal(file[key][:], expected)
        assert dict(file.attrs) == {"env_id": "MyRobot-v0", "seed": 3}
        np.testing.assert_array_equal(file["metadata/episode_seed"][:], [5, 6, 7])


def test_returns_and_score_by_hand():
    """Episodes of rewards 1 + 2 and 4 + 8 (terminal and timeout); 16 belongs to one that goes on."""
    flags = {"terminals": np.array([0, 1, 0, 0, 0], bool), "timeouts": np.array([0, 0, 0, 1, 0], bool)}
    rows = dataclasses.replace(empty_rows(DIMENSIONS, 5), rewards=np.array([1, 2, 4, 8, 16], np.float32), **flags)
    assert finished_returns(rows).tolist() == [3.0, 12.0]
    facts = task_facts(find_task("Hopper-v4"), [3.0, 12.0])
    score = 100.0 * (7.5 + 20.272305) / (3234.3 + 20.272305)  # D4RL's random and expert returns
    assert facts == {"env_id": "Hopper-v4", "mean_episode_return": 7.5, "normalized_score": pytest.approx(score)}


def test_training_reads_it(tmp_path):
    steps = dataclasses.replace(make_rows(12), timeouts=np.ones(12, bool))  # whose rows do not follow each other
    write(tmp_path / "d.hdf5", [steps], 12)
    transitions = load_dataset(str(tmp_path / "d.hdf5"), rewards=None).transitions
    np.testing.assert_array_equal(transitions.next_observation, steps.next_observations)
    np.testing.assert_array_equal(transitions.discount, np.where(steps.terminals, 0.0, 1.0))


@pytest.mark.parametrize("compress", [False, True])
def test_equal_steps_give_equal_bytes_at_any_time(tmp_path, compress):
    write(tmp_path / "a.hdf5", [make_rows(9)], 9, compress)
    time.sleep(1.1)  # HDF5 notes times in whole seconds
    write(tmp_path / "b.hdf5", [make_rows(9)], 9, compress)
    assert (tmp_path / "a.hdf5").read_bytes() == (tmp_path / "b.hdf5").read_bytes()


def test_compression_pays_for_repeated_values(tmp_path):
    steps = empty_rows(DIMENSIONS, 5000)
    write(tmp_path / "plain.hdf5", [steps], 5000)
    write(tmp_path / "small.hdf5", [steps], 5000, compress=True)
    assert (tmp_path / "small.hdf5").stat().st_size < 0.2 * (tmp_path / "plain.hdf5").stat().st_size


@pytest.mark.parametrize("rows", [10, 12])
def test_another_number_of_steps_leaves_nothing(tmp_path, rows):
    with pytest.raises((ValueError, TypeError)):
        write(tmp_path / "d.hdf5", [make_rows(11)], rows)
    assert list(tmp_path.iterdir()) == []


def test_a_failing_source_leaves_nothing(tmp_path):
    def blocks():
        yield make_rows(4)
        raise UserError("no more")

    with pytest.raises(UserError, match="no more"):
        write(tmp_path / "d.hdf5", blocks(), 8)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_directory_is_one_plain_error(tmp_path):
    with pytest.raises(UserError, match="cannot be written"):
        write(tmp_path / "missing" / "d.hdf5", [make_rows(4)], 4)


def test_cut_off_marks_only_an_episode_that_goes_on():
    steps = make_rows(12)  # terminals at 4, 9; timeouts at 6
    going_on, terminal, timed_out = cut_off(steps, 3), cut_off(steps, 5), cut_off(steps, 7)
    assert going_on.timeouts.tolist() == [False, False, True]
    assert terminal.timeouts.tolist() == [False] * 5 and terminal.terminals[-1]
    assert timed_out.timeouts.tolist() == [False] * 6 + [True]
    assert steps.timeouts.sum() == 1  # as before
    np.testing.assert_array_equal(going_on.rewards, steps.rewards[:3])
