import os

import h5py
import numpy as np
import pytest
from dataset_files import columns, write_file

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.data.hdf5_arrays import check_declared_size
from brac_plus_tf.data.hdf5_reader import read_rows, statement


def error_of(path, dimensions=None) -> str:
    with pytest.raises(UserError) as caught:
        read_rows(str(path), dimensions)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message


def with_value(key, row, value, dtype=None):
    array = columns()[key].astype(dtype or columns()[key].dtype)
    array[row] = value
    return {key: array}


def test_reads_rows_in_order_as_float32(tmp_path):
    rows = read_rows(write_file(tmp_path / "a.hdf5", next_observations=np.full((5, 2), 7.5)), Dimensions(2, 3))
    np.testing.assert_array_equal(rows.observations, [[0, 0], [1, -1], [2, -2], [3, -3], [4, -4]])
    np.testing.assert_array_equal(rows.rewards, [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(rows.terminals, [False, False, False, False, True])
    np.testing.assert_array_equal(rows.timeouts, [False] * 5)
    np.testing.assert_array_equal(rows.next_observations, np.full((5, 2), 7.5))
    assert {array.dtype for array in (rows.observations, rows.actions, rows.rewards, rows.next_observations)} == {
        np.dtype(np.float32)
    }
    assert rows.terminals.dtype == rows.timeouts.dtype == bool


def test_optional_keys_are_none_when_absent(tmp_path):
    rows = read_rows(write_file(tmp_path / "a.hdf5", timeouts=None))
    assert rows.timeouts is None and rows.next_observations is None


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(5,), (5, 1)])
def test_flags_of_any_number_type_and_columns_are_accepted(tmp_path, dtype, shape):
    flags = np.array([0, 1, 0, 1, 1]).astype(dtype).reshape(shape)
    rewards = np.arange(5.0).reshape(shape)
    rows = read_rows(write_file(tmp_path / "a.hdf5", terminals=flags, timeouts=flags, rewards=rewards))
    np.testing.assert_array_equal(rows.terminals, [False, True, False, True, True])
    np.testing.assert_array_equal(rows.timeouts, rows.terminals)
    np.testing.assert_array_equal(rows.rewards, [0, 1, 2, 3, 4])


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int32, np.uint8, ">f4", ">f8"])
def test_numbers_of_any_width_are_accepted(tmp_path, dtype):
    observations = np.array([[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]).astype(dtype)
    rows = read_rows(write_file(tmp_path / "a.hdf5", observations=observations))
    np.testing.assert_array_equal(rows.observations, [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]])


@pytest.mark.parametrize("key", ["observations", "actions", "rewards", "terminals"])
def test_missing_key(tmp_path, key):
    assert f"key '{key}' is missing" in error_of(write_file(tmp_path / "a.hdf5", **{key: None}))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"observations": np.zeros(5)}, "key 'observations' has shape (5,)"),
        ({"observations": np.zeros((5, 2, 2))}, "key 'observations' has shape (5, 2, 2)"),
        ({"actions": np.zeros((5, 3, 1))}, "key 'actions' has shape (5, 3, 1)"),
        ({"rewards": np.zeros((5, 2))}, "key 'rewards' has shape (5, 2)"),
        ({"terminals": np.zeros((1, 5))}, "key 'terminals' has shape (1, 5)"),
        ({"rewards": np.float32(1.0)}, "key 'rewards' has shape ()"),
        ({"rewards": h5py.Empty("f4")}, "key 'rewards' is empty"),
        ({"rewards": np.zeros(4)}, "key 'rewards' has 4 rows where 'observations' has 5"),
        ({"timeouts": np.zeros(6, bool)}, "key 'timeouts' has 6 rows where 'observations' has 5"),
        ({"next_observations": np.zeros((4, 2))}, "key 'next_observations' has 4 rows"),
        ({"next_observations": np.zeros((5, 3))}, "key 'next_observations' has 3 entries per row where 2"),
        ({"observations": np.zeros((0, 2))}, "key 'observations' is empty"),
        ({"actions": np.zeros((5, 0))}, "key 'actions' is empty"),
        (with_value("observations", (3, 1), np.nan), "key 'observations', row 3: nan"),
        (with_value("rewards", 2, -np.inf), "key 'rewards', row 2: -inf"),
        (with_value("actions", (4, 0), np.inf), "key 'actions', row 4: inf"),
        (with_value("rewards", 1, 1e39, np.float64), "key 'rewards', row 1: inf is not a finite float32"),
        ({"next_observations": np.full((5, 2), np.nan)}, "key 'next_observations', row 0: nan"),
        (with_value("terminals", 2, 2, np.uint8), "key 'terminals', row 2: 2 is neither 0 nor 1"),
        (with_value("timeouts", 1, 0.5, np.float32), "key 'timeouts', row 1: 0.5 is neither"),
        (with_value("timeouts", 4, np.nan, np.float32), "key 'timeouts', row 4: nan is neither"),
        ({"rewards": np.array([b"1"] * 5)}, "key 'rewards' holds type |S1"),
        ({"rewards": np.array(["1"] * 5, h5py.string_dtype())}, "key 'rewards' holds type object"),
        ({"rewards": np.zeros(5, np.complex64)}, "key 'rewards' holds type complex64"),
        ({"rewards": np.zeros(5, [("a", "f4")])}, "key 'rewards' holds type"),
        ({"rewards": np.zeros(5, bool)}, "key 'rewards' holds type bool"),
        ({"terminals": np.array([b"0"] * 5)}, "key 'terminals' holds type |S1"),
    ],
)
def test_wrong_content_is_named_by_key_and_row(tmp_path, changes, expected):
    assert expected in error_of(write_file(tmp_path / "a.hdf5", **changes))


def test_dimensions_of_another_task(tmp_path):
    path = write_file(tmp_path / "a.hdf5")
    assert "key 'observations' has 2 entries per row where 11 are expected" in error_of(path, Dimensions(11, 3))
    assert "key 'actions' has 3 entries per row where 6 are expected" in error_of(path, Dimensions(2, 6))


def test_array_type_with_a_shape_of_its_own(tmp_path):
    path = write_file(tmp_path / "a.hdf5", rewards=None)
    with h5py.File(path, "a") as file:
        file.create_dataset("rewards", (5,), np.dtype(("f4", (2,))))
    assert "key 'rewards' holds type" in error_of(path)


def test_group_in_place_of_a_dataset(tmp_path):
    path = write_file(tmp_path / "a.hdf5", rewards=None)
    with h5py.File(path, "a") as file:
        file.create_group("rewards")
    assert "key 'rewards' is not a dataset" in error_of(path)


@pytest.mark.parametrize("key", ["rewards", "timeouts"])
@pytest.mark.parametrize("target", ["other.hdf5", "absent.hdf5"])
def test_external_links_are_never_followed(tmp_path, key, target):
    write_file(tmp_path / "other.hdf5")
    path = write_file(tmp_path / "a.hdf5", **{key: None})
    with h5py.File(path, "a") as file:
        file[key] = h5py.ExternalLink(target, key)
    assert f"key '{key}' is a link" in error_of(path)


def test_soft_links_are_never_followed(tmp_path):
    path = write_file(tmp_path / "a.hdf5", rewards=None)
    with h5py.File(path, "a") as file:
        file["elsewhere"] = np.zeros(5, np.float32)
        file["rewards"] = h5py.SoftLink("/elsewhere")
    assert "key 'rewards' is a link" in error_of(path)


def test_external_storage_is_refused(tmp_path):
    (tmp_path / "raw").write_bytes(bytes(20))
    path = write_file(tmp_path / "a.hdf5", rewards=None)
    with h5py.File(path, "a") as file:
        file.create_dataset("rewards", (5,), "f4", external=[(str(tmp_path / "raw"), 0, 20)])
    assert "key 'rewards' keeps its data in other files" in error_of(path)


def test_virtual_dataset_is_refused(tmp_path):
    other = write_file(tmp_path / "other.hdf5")
    path = write_file(tmp_path / "a.hdf5", rewards=None)
    layout = h5py.VirtualLayout((5,), "f4")
    layout[:] = h5py.VirtualSource(other, "rewards", (5,))
    with h5py.File(path, "a") as file:
        file.create_virtual_dataset("rewards", layout)
    assert "key 'rewards' keeps its data in other files" in error_of(path)


@pytest.mark.parametrize("rows", [10**9, 2**62, 85_000_000])  # of the last each array alone would be let through
def test_absurd_declared_size_is_refused_before_reading(tmp_path, rows):
    path = str(tmp_path / "a.hdf5")
    with h5py.File(path, "w") as file:
        for key, width in {"observations": (2,), "actions": (3,), "rewards": (), "terminals": ()}.items():
            chunks = (1000, *width)
            file.create_dataset(key, (rows, *width), "f4", chunks=chunks, compression="gzip")
    assert os.path.getsize(path) < 10**5
    assert "GB of data in a file of 0.000 GB" in error_of(path)


def test_absurd_chunk_is_refused_before_reading(tmp_path):
    path = write_file(tmp_path / "a.hdf5", rewards=None)
    with h5py.File(path, "a") as file:
        file.create_dataset("rewards", (5,), "f4", chunks=(10**9,), maxshape=(None,), compression="gzip")
    assert "declares 4.0 GB" in error_of(path)


def test_damaged_chunk_is_named_by_key(tmp_path):
    path = write_file(tmp_path / "a.hdf5", rewards=None)
    with h5py.File(path, "a") as file:
        rewards = file.create_dataset("rewards", (5,), "f4", chunks=(5,), compression="gzip")
        rewards.id.write_direct_chunk((0,), b"not a gzip stream")
    assert "key 'rewards' cannot be read" in error_of(path)


def test_not_a_readable_file(tmp_path):
    assert "no such file" in error_of(tmp_path / "absent.hdf5")
    assert "not a regular file" in error_of(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in error_of(tmp_path / "pipe")
    (tmp_path / "empty.hdf5").write_bytes(b"")
    assert "not an HDF5 file" in error_of(tmp_path / "empty.hdf5")
    (tmp_path / "text.hdf5").write_text("<html>not found</html>")
    assert "not an HDF5 file" in error_of(tmp_path / "text.hdf5")


@pytest.mark.parametrize("fraction", [0.05, 0.5, 0.9, 0.999])
def test_truncated_file(tmp_path, fraction):
    whole = open(write_file(tmp_path / "whole.hdf5", rows=500), "rb").read()
    (tmp_path / "cut.hdf5").write_bytes(whole[: int(fraction * len(whole))])
    assert "cannot be read as HDF5" in error_of(tmp_path / "cut.hdf5")


def test_no_permission(tmp_path):
    path = write_file(tmp_path / "a.hdf5")
    os.chmod(path, 0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read every file")
    assert "Permission denied" in error_of(path)


@pytest.mark.parametrize("seed", range(20))
def test_random_damage_gives_rows_or_a_user_error(tmp_path, seed):
    whole = bytearray(open(write_file(tmp_path / "whole.hdf5"), "rb").read())
    generator = np.random.default_rng(seed)
    for position in generator.integers(8, 2048, 20):
        whole[position] = generator.integers(256)
    (tmp_path / "damaged.hdf5").write_bytes(whole)
    try:
        rows = read_rows(str(tmp_path / "damaged.hdf5"))
    except UserError as error:
        assert str(tmp_path / "damaged.hdf5") in str(error)
    else:
        assert np.isfinite(rows.observations).all() and len(rows.observations) == len(rows.terminals)


@pytest.mark.parametrize(
    ("value", "expected"),
    [("Hopper-v4", "Hopper-v4"), (np.bytes_(b"Hopper-v4"), "Hopper-v4"), (3, None), (None, None)],
)
def test_environment_id(tmp_path, value, expected):
    path = write_file(tmp_path / "a.hdf5")
    if value is not None:
        with h5py.File(path, "a") as file:
            file.attrs["env_id"] = value
    assert statement(path).environment == expected


def test_numbers_that_are_rounded_are_read_block_by_block(tmp_path, monkeypatch):
    """Two rows at a time: every block is in its place, and what float32 cannot hold is found in the last, too."""
    monkeypatch.setattr("brac_plus_tf.data.hdf5_arrays._BLOCK_ROWS", 2)
    rewards = np.array([1.0, 2.5, 3.25, 4.0, 5.5])
    path = write_file(tmp_path / "a.hdf5", rewards=rewards)
    np.testing.assert_array_equal(read_rows(str(path), Dimensions(2, 3)).rewards, rewards)
    observations = columns()["observations"].astype(np.float64)
    observations[4, 0] = 1e9 + 1.0  # float32 holds every 64th number there
    observations[:4, 0] = 1e9
    assert "observations" in error_of(write_file(tmp_path / "b.hdf5", observations=observations))


def test_more_than_half_of_the_memory_is_refused_however_large_the_file(tmp_path):
    path = tmp_path / "a.hdf5"
    path.touch()
    os.truncate(path, 2**40)  # nothing of it is on the disk
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    check_declared_size(str(path), int(0.49 * memory))
    with pytest.raises(UserError, match="which is refused"):
        check_declared_size(str(path), int(0.51 * memory))
