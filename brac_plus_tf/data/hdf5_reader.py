"""Reads one HDF5 file in D4RL's layout and refuses, before anything is trained, what cannot be right.

Only plain datasets directly under the root are read; what a stranger's file may not do: hdf5_arrays.py.
"""

import h5py

from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.data.hdf5_arrays import check_declared_size, check_hdf5_file, find_array, open_hdf5
from brac_plus_tf.data.precision import RoundingLoss
from brac_plus_tf.data.rows import COLUMNS, OPTIONAL, Rows, check_sizes
from brac_plus_tf.data.statement import Statement, make_statement

_STATED = ("env_id", "action_low", "action_high", "horizon", "max_episode_steps", "discount")


def read_rows(path: str, dimensions: Dimensions | None = None) -> Rows:
    """Reads and validates one file, whose datasets are those of `Rows`, timeouts and next_observations optional.

    Numbers may be integers or floats of any width and arrive as float32; flags may be bool or any number type holding
    only 0 and 1; both of shape [N] or [N, 1]. Other keys are not touched.

    Args:
      path: the file.
      dimensions: sizes the task expects; None accepts any.

    Raises:
      UserError: naming file, key and row, for anything missing, misshapen, non-numeric, non-finite or unreadable.
    """
    with open_hdf5(path) as file:
        present = [key for key in COLUMNS if key not in OPTIONAL or file.id.links.exists(key.encode())]
        arrays = {key: find_array(file, path, key, COLUMNS[key]) for key in present}
        check_sizes(path, {key: array.shape for key, array in arrays.items()}, dimensions)
        check_declared_size(path, sum(array.declared_bytes for array in arrays.values()))
        columns = {}
        for key, array in arrays.items():
            loss = RoundingLoss()
            columns[key] = array.read(loss)
            loss.check(path, key)
        return Rows.from_columns(columns, path)


def statement(path: str) -> Statement:
    """What the file's attributes env_id, action_low, action_high, horizon (or max_episode_steps) and discount say.

    Raises:
      UserError: if the file is missing or not HDF5, or such an attribute holds something else.
    """
    check_hdf5_file(path)
    try:
        with h5py.File(path, "r") as file:
            found = {key: _attribute(file, key) for key in _STATED}
    except (OSError, RuntimeError, TypeError, ValueError):  # reading the rows says what is wrong with the file
        found = {}
    environment = found.get("env_id")
    if isinstance(environment, bytes):
        environment = environment.decode("utf-8", "replace")
    horizon = found.get("horizon")
    values = found | {"horizon": found.get("max_episode_steps") if horizon is None else horizon}
    return make_statement(path, values.get, environment if isinstance(environment, str) else None)


def _attribute(file: h5py.File, key: str) -> object:
    try:
        return file.attrs.get(key)
    except (OSError, RuntimeError, TypeError, ValueError):  # a type that h5py does not know
        return None if key == "env_id" else "unreadable"
