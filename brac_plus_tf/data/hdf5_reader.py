"""Reads one HDF5 file in D4RL's layout and refuses, before anything is trained, what cannot be right.

Only plain datasets directly under the root are read; what they must be, and what a stranger's file may not do: rows.py.
"""

import h5py

from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.data.rows import Kind, Rows, StoredArray, check_declared_size, check_hdf5_file, find_array, open_hdf5

_REQUIRED: dict[str, Kind] = {
    "observations": "vector",
    "actions": "vector",
    "rewards": "number",
    "terminals": "flag",
}
_OPTIONAL: dict[str, Kind] = {"timeouts": "flag", "next_observations": "vector"}


def read_rows(path: str, dimensions: Dimensions | None = None) -> Rows:
    """Reads and validates one file.

    Required keys: observations [N, O], actions [N, A], rewards and terminals [N] or [N, 1]. Optional: timeouts [N] or
    [N, 1], next_observations [N, O]. Numbers may be integers or floats of any width and arrive as float32; flags may
    be bool or any number type holding only 0 and 1. Other keys are not touched.

    Args:
      path: the file.
      dimensions: sizes the task expects; None accepts any.

    Raises:
      UserError: naming file, key and row, for anything missing, misshapen, non-numeric, non-finite or unreadable.
    """
    with open_hdf5(path) as file:
        optional = {key: kind for key, kind in _OPTIONAL.items() if file.id.links.exists(key.encode())}
        arrays = {key: find_array(file, path, key, kind) for key, kind in (_REQUIRED | optional).items()}
        _check_sizes(arrays, dimensions)
        check_declared_size(path, sum(array.declared_bytes for array in arrays.values()))
        columns = {key: arrays[key].read() if key in arrays else None for key in (*_REQUIRED, *_OPTIONAL)}
        return Rows(path, **columns)  # type: ignore[arg-type]  # required ones are there


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


def _check_sizes(arrays: dict[str, StoredArray], dimensions: Dimensions | None) -> None:
    rows = arrays["observations"].rows
    for array in arrays.values():
        array.check_rows(rows, f"'observations' has {rows}; every key must have one row per step")
    if dimensions is not None:
        arrays["observations"].check_width(dimensions.observation)
        arrays["actions"].check_width(dimensions.action)
    if "next_observations" in arrays:
        arrays["next_observations"].check_width(arrays["observations"].dataset.shape[1])
