"""Files as other programs write them, crossed with what reads them: the loaded arrays against NumPy's reading, the
command that inspects, and a trial of training.
"""

import contextlib
import pathlib
import re

import gin
import h5py
import numpy as np
import pytest
import tiny

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.data.loading import load_dataset

ROWS = 12
INDEX = np.arange(ROWS)


def base() -> dict[str, np.ndarray]:
    """Values that eighths hold exactly, so that no format changes one; episodes end after rows 3 (terminal) and 8."""
    return {
        "observations": np.stack([INDEX * 0.5, 3.0 - INDEX * 0.25, INDEX % 3 - 1.0], axis=1),
        "actions": np.stack([INDEX % 5 * 0.25 - 0.5, 0.875 - INDEX * 0.125], axis=1),
        "rewards": INDEX * 0.5 - 2.0,
        "terminals": INDEX == 3,
        "timeouts": INDEX == 8,
    }


def stored(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same with next observations: the next row's, at an episode's end one of their own."""
    following = np.roll(arrays["observations"], -1, axis=0)
    ends = arrays["terminals"].astype(bool) | arrays["timeouts"].astype(bool)
    ends[-1] = True
    following[ends] = arrays["observations"][ends] + 0.5
    return arrays | {"next_observations": following}


def cast(dtype, *keys):
    return lambda arrays: {key: array.astype(dtype) if key in keys else array for key, array in arrays.items()}


VECTORS, NUMBERS = ("observations", "actions", "next_observations"), ("rewards",)
FLAGS = ("terminals", "timeouts")
EVERYTHING = (*VECTORS, *NUMBERS)


def flags(terminals, timeouts):
    return lambda arrays: arrays | {"terminals": np.array(terminals, bool), "timeouts": np.array(timeouts, bool)}


def first(rows: int):
    return lambda arrays: {key: array[:rows] for key, array in arrays.items()}


# what a writer makes of the arrays, and of how HDF5 holds them
ARRAYS = {
    "as they are": lambda arrays: arrays,
    "float16": cast(np.float16, *EVERYTHING),
    "float32": cast(np.float32, *EVERYTHING),
    "float64": cast(np.float64, *EVERYTHING),
    "big-endian float64": cast(">f8", *EVERYTHING),
    "big-endian float32": cast(">f4", *EVERYTHING),
    "long double": cast(np.longdouble, *EVERYTHING),
    "flags of uint8": cast(np.uint8, *FLAGS),
    "flags of int64": cast(np.int64, *FLAGS),
    "flags of float32": cast(np.float32, *FLAGS),
    "flags of big-endian int16": cast(">i2", *FLAGS),
    "columns of one": lambda arrays: {
        key: array[:, None] if array.ndim == 1 else array for key, array in arrays.items()
    },
    "integer actions": lambda arrays: arrays | {"actions": np.stack([INDEX % 3 - 1, INDEX % 2], axis=1)},
    "integer rewards": lambda arrays: arrays | {"rewards": INDEX - 2},
    "one entry": lambda arrays: {key: array[:, :1] if array.ndim == 2 else array for key, array in arrays.items()},
    "one episode": flags(INDEX == ROWS - 1, INDEX < 0),
    "all terminal": flags(INDEX >= 0, INDEX < 0),
    "no terminal": flags(INDEX < 0, INDEX % 4 == 3),
    "open end": flags(INDEX == 3, INDEX < 0),
    "both flags": flags(INDEX == 5, INDEX == 5),
    "one row": lambda arrays: first(1)(flags(INDEX == 0, INDEX < 0)(arrays)),
    "two rows": lambda arrays: first(2)(flags(INDEX == 1, INDEX < 0)(arrays)),
}
FORMATS = {
    "plain": {},
    "gzip": {"compression": "gzip", "compression_opts": 9},
    "lzf and shuffled": {"compression": "lzf", "shuffle": True},
    "checksums": {"fletcher32": True},
    "chunks of 5 rows": {"chunks": 5},
    "one chunk, resizable": {"maxshape": None, "chunks": ROWS + 3},
    "fill values": {"fillvalue": 1},
}
FILES = {
    "plain": {},
    "user block": {"userblock_size": 1024},
    "latest format": {"libver": "latest"},
    "order kept": {"track_order": True},
    "core driver": {"driver": "core"},
    "page strategy": {"fs_strategy": "page", "fs_page_size": 4096},
}


def write(path: pathlib.Path, arrays, options=None, file_options=None) -> str:
    """An HDF5 file of these arrays beside what else a file may hold."""
    options = dict(options or {})
    rows = options.pop("chunks", None)
    resizable = "maxshape" in options and options.pop("maxshape") is None
    with h5py.File(path, "w", **(file_options or {})) as file:
        for key, array in arrays.items():
            more = {"chunks": (min(rows, len(array)) if not resizable else rows, *array.shape[1:])} if rows else {}
            more |= {"maxshape": (None, *array.shape[1:])} if resizable else {}
            file.create_dataset(key, data=array, **options, **more)
        group = file.create_group("infos")
        group["qpos"] = np.zeros((3, 2))
        group["text"] = "what anybody may add"
        file["metadata/algorithm"] = "SAC"
        file["link"] = h5py.SoftLink("/nowhere")
        file.attrs["version"] = 2
        file.attrs["action_low"], file.attrs["action_high"] = -1.0, 1.0
    return str(path)


def numpy_reading(path: str) -> list[tuple]:
    """Every transition of the file, row by row: observation, action, reward, discount, next observation."""
    with h5py.File(path) as file:
        column = {key: np.asarray(file[key][()], np.float64) for key in base() if key in file}
        following = np.asarray(file["next_observations"][()], np.float64) if "next_observations" in file else None
    rewards, terminals, timeouts = (column[key].reshape(-1) for key in ("rewards", "terminals", "timeouts"))
    found = []
    for row in range(len(rewards)):
        observation = column["observations"][row]
        if following is not None:
            successor = following[row]
        elif terminals[row]:
            successor = observation
        elif timeouts[row] or row + 1 == len(rewards):
            continue  # where it led was not recorded
        else:
            successor = column["observations"][row + 1]
        found.append((observation, column["actions"][row], rewards[row], 1.0 - terminals[row], successor))
    return found


def assert_loaded(path: str) -> None:
    dataset = load_dataset(path, rewards=None)
    expected = numpy_reading(path)
    assert dataset.number_of_transitions == len(expected)
    for index, name in enumerate(("observation", "action", "reward", "discount", "next_observation")):
        wanted = np.stack([np.asarray(row[index]) for row in expected]).astype(np.float32)
        np.testing.assert_array_equal(getattr(dataset.transitions, name), wanted, err_msg=name)


VARIANTS = (
    [(array, "plain", "plain") for array in ARRAYS]
    + [("as they are", form, "plain") for form in FORMATS if form != "plain"]
    + [("as they are", "plain", file) for file in FILES if file != "plain"]
    + [("big-endian float64", "gzip", "user block"), ("columns of one", "chunks of 5 rows", "latest format")]
    + [("flags of int64", "one chunk, resizable", "page strategy"), ("float16", "lzf and shuffled", "order kept")]
)


@pytest.mark.parametrize("with_next", [False, True], ids=["", "next observations"])
@pytest.mark.parametrize("variant", VARIANTS, ids=" + ".join)
def test_loaded_arrays_are_numpys(tmp_path, variant, with_next):
    arrays, form, file = variant
    made = base()
    made = ARRAYS[arrays](made)
    if with_next:
        made = stored(made) if made["terminals"].ndim == 1 else made | {"next_observations": next_of_columns(made)}
    path = write(tmp_path / "a.hdf5", made, FORMATS[form], FILES[file])
    assert_loaded(path)


def next_of_columns(arrays) -> np.ndarray:
    flat = {key: array.reshape(-1) if key in FLAGS else array for key, array in arrays.items()}
    return stored(flat)["next_observations"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    gin.clear_config()


@pytest.mark.parametrize("arrays", ARRAYS)
def test_it_can_be_inspected(folder, arrays):
    write(folder / "a.hdf5", ARRAYS[arrays](base()))
    outcome = tiny.run_here("inspect_dataset", "a.hdf5")
    assert outcome.status == 0, outcome.stderr
    expected = len(numpy_reading("a.hdf5"))
    assert re.search(rf"^transitions +{expected}$", outcome.stdout, re.MULTILINE)


TRAINED = ("as they are", "big-endian float64", "columns of one", "integer actions", "one entry")


@pytest.mark.parametrize("arrays", [*TRAINED, "all terminal", "no terminal", "open end", "one row"])
def test_a_trial_of_training_takes_it(folder, arrays):
    """What is loaded is compared above; here those that could matter to what comes after."""
    write(folder / "a.hdf5", ARRAYS[arrays](base()))
    small = ("behavior/Actor.hidden_sizes = ()", "Loop.compiled = False", "behavior/Fit.batch_size = 2")
    bindings = [f"--gin_bindings={binding}" for binding in small]
    arguments = ["--gin_file=bc/base.gin", "--dataset=a.hdf5", "--env=none", "--estimate=none", "--smoke", *bindings]
    outcome = tiny.run_here("train", *arguments)
    assert outcome.status == 0, outcome.stderr
    assert (folder / "runs" / "a" / "bc-smoke" / "0" / "saved_model" / "policy.json").exists()


@pytest.mark.parametrize("rows", [0, 1])
def test_a_file_that_yields_nothing_is_refused(tmp_path, rows):
    """No rows, or one that is neither terminal nor followed by anything."""
    made = first(rows)(flags(INDEX < 0, INDEX < 0)(base()))
    with contextlib.suppress(ValueError):  # HDF5 itself refuses chunks of nothing
        path = write(tmp_path / "a.hdf5", made)
        with pytest.raises(UserError, match=r"a\.hdf5: .*(at least one row|no row yields a transition)"):
            load_dataset(path)
