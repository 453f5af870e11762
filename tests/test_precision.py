"""Numbers that float32 cannot hold are refused by every door to the data; those that it rounds harmlessly are not."""

import h5py
import numpy as np
import pytest
from dataset_files import columns, write_file

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.data.loading import dataset_from_arrays, load_dataset
from brac_plus_tf.data.precision import RoundingLoss

ROWS = 200
INDEX = np.arange(ROWS, dtype=np.float64)


def from_file(folder, arrays):
    return load_dataset(write_file(folder / "a.hdf5", rows=ROWS, **arrays), rewards=None)


def from_chunked_file(folder, arrays):
    with h5py.File(folder / "b.hdf5", "w") as file:
        for key, array in (columns(ROWS) | arrays).items():
            array = np.asarray(array)
            file.create_dataset(key, data=array, chunks=(7, *array.shape[1:]), compression="gzip")
    return load_dataset(str(folder / "b.hdf5"), rewards=None)


def from_memory(folder, arrays):
    return dataset_from_arrays(columns(ROWS) | arrays, rewards=None)


DOORS = [from_file, from_chunked_file, from_memory]


def with_entry(values) -> dict[str, np.ndarray]:
    """Observations whose second entry is that."""
    return {"observations": np.stack([INDEX, values], axis=1)}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("values", "shown"),
    [
        (1.7e9 + 0.1 * INDEX, r"1700000\d+\.\d+ as 1700000\d+\.0"),  # seconds since 1970: 200 values become one
        (1.7e9 + 60.0 * (INDEX % 2), "170000"),
        (-3e8 + 5.0 * np.sin(INDEX), "as -"),
        (2**40 + INDEX.astype(np.int64), "109951162"),  # integers, too
    ],
)
def test_a_large_offset_that_hides_what_varies_is_refused(tmp_path, door, values, shown):
    with pytest.raises(UserError, match=rf"key 'observations', entry 1: float32 holds .*{shown}.*subtract a constant"):
        door(tmp_path, with_entry(values))


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    "values",
    [
        1.7e9 + 128.0 * INDEX,  # float32 has exactly these: its spacing there is 128
        np.full(ROWS, 1.7e9 + 0.1),  # nothing varies that could be lost
        0.5 + 1e-12 * INDEX,  # noise in a digit that no sensor has
        np.where(INDEX == 3, 1.23456789e9, np.sin(INDEX)),  # one outlier, rounded by less than it is away
        1000.0 + np.sin(INDEX),
    ],
)
def test_what_float32_rounds_harmlessly_is_not(tmp_path, door, values):
    made = door(tmp_path, with_entry(values))
    np.testing.assert_array_equal(made.transitions.observation[:, 1], values.astype(np.float32))


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [3e38, -3e38, 1.1e15])
def test_numbers_whose_squares_do_not_fit_are_refused_with_their_row(tmp_path, door, dtype, value):
    rewards = INDEX.astype(dtype)
    rewards[17] = value
    with pytest.raises(UserError, match=r"key 'rewards', row 17: .* is beyond 1e\+15; store a larger unit"):
        door(tmp_path, {"rewards": rewards})
    rewards[17] = 9e14
    assert door(tmp_path, {"rewards": rewards}).episodes.returns[0] == pytest.approx(9e14, rel=1e-6)


def test_moments_over_blocks_are_those_of_all_rows():
    """By the message: the mean and standard deviation that numpy finds over the whole."""
    drift = np.linspace(-9.0, 9.0, 999)[:, None]  # so that blocks differ in their means
    values = 1e9 + drift + np.random.default_rng(0).normal(scale=3.0, size=(999, 2))
    loss = RoundingLoss()
    for block in (values[:10], values[10:10], values[10:700], values[700:]):
        loss.add(block, block.astype(np.float32))
    with pytest.raises(UserError) as raised:
        loss.check("a", "observations")
    assert f"differ by {values[:, 0].std():.2g} " in str(raised.value)
    assert f"mean {values[:, 0].mean():.10g}" in str(raised.value)
    worst = np.abs(values[:, 0] - values[:, 0].astype(np.float32)).argmax()
    assert repr(float(values[worst, 0])) in str(raised.value)
