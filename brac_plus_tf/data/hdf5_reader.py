"""Reads one HDF5 file in D4RL's layout and refuses, before anything is trained, what cannot be right.

Only plain datasets directly under the root are read; what a stranger's file may not do: hdf5_arrays.py.
"""

import h5py

from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.data.hdf5_arrays import check_declared_size, check_hdf5_file, find_array, open_hdf5
from brac_plus_tf.data.precision import RoundingLoss
from brac_plus_tf.data.rows import COLUMNS, OPTIONAL, Rows, check_sizes


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


def environment_id(path: str) -> str | None:
    """The file's attribute env_id, naming the environment it was recorded in; None where absent or unreadable.

    Raises:
      UserError: if the file is missing or not HDF5.
    """
    check_hdf5_file(path)
    try:
        with h5py.File(path, "r") as file:
            value = file.attrs.get("env_id")
    except (OSError, RuntimeError, TypeError, ValueError):
        return None
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return value if isinstance(value, str) else None
