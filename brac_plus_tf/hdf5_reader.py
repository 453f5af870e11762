"""Reads one HDF5 file in D4RL's layout and refuses, before anything is trained, what cannot be right.

The file is treated as a stranger's: only plain datasets directly under the root are read, links are never followed,
external and virtual storage is refused, and declared sizes are compared with the file and the memory before any
allocation. Not covered: a compressed chunk whose stream expands beyond the chunk's declared size.
"""

import hashlib
import os
from collections.abc import Sequence
from typing import NamedTuple

import h5py
import numpy as np

from brac_plus_tf.types import Dimensions, UserError

# A file may always declare this much; beyond it, compression by more than the factor below is refused. Float data
# recorded from an environment compress by less than 10.
_ALWAYS_ALLOWED_BYTES = 2**30
_LARGEST_COMPRESSION = 256
_HASH_BLOCK_BYTES = 2**22


class Rows(NamedTuple):
    """The rows of one file, in the file's order and units.

    observations [N, O], actions [N, A], rewards [N] float32; terminals [N] bool; timeouts [N] bool or None when the
    file has no such key; next_observations [N, O] float32 or None.
    """

    path: str
    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminals: np.ndarray
    timeouts: np.ndarray | None
    next_observations: np.ndarray | None

    @property
    def dimensions(self) -> Dimensions:
        """Entries of one observation and of one action."""
        return Dimensions(self.observations.shape[1], self.actions.shape[1])


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
    _check_regular_file(path)
    try:
        with h5py.File(path, "r") as file:
            return _read_open_file(file, path, dimensions)
    except (OSError, RuntimeError, MemoryError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: cannot be read as HDF5 ({reason}); copy or download the file again") from error


def environment_id(path: str) -> str | None:
    """The file's attribute env_id, naming the environment it was recorded in; None where absent or unreadable.

    Raises:
      UserError: if the file is missing or not HDF5.
    """
    _check_regular_file(path)
    try:
        with h5py.File(path, "r") as file:
            value = file.attrs.get("env_id")
    except (OSError, RuntimeError, TypeError, ValueError):
        return None
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return value if isinstance(value, str) else None


def contents_sha256(paths: Sequence[str]) -> str:
    """SHA-256 of the files' bytes one after the other: for one file what `sha256sum` prints.

    Raises:
      UserError: if a file is missing or not readable.
    """
    digest = hashlib.sha256()
    for path in paths:
        _check_regular_file(path)
        with open(path, "rb") as file:
            while block := file.read(_HASH_BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()


def _check_regular_file(path: str) -> None:
    if not os.path.exists(path):
        raise UserError(f"{path}: no such file; check the path")
    if not os.path.isfile(path):
        raise UserError(f"{path}: not a regular file; give the path of one HDF5 file")
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise UserError(f"{path}: cannot be opened ({error.strerror}); check its permissions") from error
    if not h5py.is_hdf5(path):
        raise UserError(f"{path}: not an HDF5 file; give a file in D4RL's HDF5 layout")


def _read_open_file(file: h5py.File, path: str, dimensions: Dimensions | None) -> Rows:
    found = {key: _dataset(file, path, key) for key in ("observations", "actions", "rewards", "terminals")}
    for key in ("timeouts", "next_observations"):
        if file.id.links.exists(key.encode()):
            found[key] = _dataset(file, path, key)
    _check_shapes(found, path, dimensions)
    _check_declared_size(found, path)
    return Rows(
        path,
        _numbers(found, "observations", path),
        _numbers(found, "actions", path),
        _numbers(found, "rewards", path).reshape(-1),
        _flags(found, "terminals", path),
        _flags(found, "timeouts", path) if "timeouts" in found else None,
        _numbers(found, "next_observations", path) if "next_observations" in found else None,
    )


def _dataset(file: h5py.File, path: str, key: str) -> h5py.Dataset:
    # The low-level calls look at the link itself; `key in file` would already open what it points to.
    links = file.id.links
    if not links.exists(key.encode()):
        raise UserError(f"{path}: key '{key}' is missing; the file must hold it as a dataset under the root")
    if links.get_info(key.encode()).type != h5py.h5l.TYPE_HARD:
        raise UserError(f"{path}: key '{key}' is a link to elsewhere, which is never followed; store the data itself")
    dataset = file[key]
    if not isinstance(dataset, h5py.Dataset):
        raise UserError(f"{path}: key '{key}' is not a dataset; store it as one array")
    if dataset.is_virtual or dataset.external:
        raise UserError(f"{path}: key '{key}' keeps its data in other files, which is refused; store the data itself")
    kinds = "biuf" if key in ("terminals", "timeouts") else "iuf"
    if dataset.dtype.kind not in kinds or dataset.dtype.shape:
        raise UserError(f"{path}: key '{key}' holds type {dataset.dtype}; store numbers (float32)")
    return dataset


def _check_shapes(found: dict[str, h5py.Dataset], path: str, dimensions: Dimensions | None) -> None:
    for key, dataset in found.items():
        shape = dataset.shape
        if shape is None or 0 in shape:
            raise UserError(f"{path}: key '{key}' is empty (shape {shape}); the file must hold at least one row")
        is_column = key in ("rewards", "terminals", "timeouts")
        if is_column and len(shape) != 1 and shape[1:] != (1,):
            raise UserError(f"{path}: key '{key}' has shape {shape}; store one value per row, shape [N]")
        if not is_column and len(shape) != 2:
            raise UserError(f"{path}: key '{key}' has shape {shape}; store one vector per row, shape [N, size]")
    rows = found["observations"].shape[0]
    for key, dataset in found.items():
        if dataset.shape[0] != rows:
            raise UserError(
                f"{path}: key '{key}' has {dataset.shape[0]} rows where 'observations' has {rows}; "
                f"every key must have one row per step"
            )
    expected = {}
    if dimensions is not None:
        expected = {"observations": dimensions.observation, "actions": dimensions.action}
    if "next_observations" in found:
        expected["next_observations"] = found["observations"].shape[1]
    for key, size in expected.items():
        if found[key].shape[1] != size:
            raise UserError(
                f"{path}: key '{key}' has {found[key].shape[1]} entries per row where {size} are expected; "
                f"check that the file belongs to the task"
            )


def _check_declared_size(found: dict[str, h5py.Dataset], path: str) -> None:
    """Refuses files that declare more than they can hold: an allocation of that size would end the process."""
    declared = 0
    for dataset in found.values():
        width = max(4, dataset.dtype.itemsize)
        chunk = int(np.prod(dataset.chunks, dtype=object)) if dataset.chunks else 0
        declared += max(int(np.prod(dataset.shape, dtype=object)), chunk) * width
    plausible = max(_ALWAYS_ALLOWED_BYTES, _LARGEST_COMPRESSION * os.path.getsize(path))
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if declared > plausible or declared > memory // 2:
        raise UserError(
            f"{path}: declares {declared / 1e9:.1f} GB of data in a file of {os.path.getsize(path) / 1e9:.3f} GB "
            f"(memory {memory / 1e9:.0f} GB), which is refused; check the file's origin, or split it"
        )


def _numbers(found: dict[str, h5py.Dataset], key: str, path: str) -> np.ndarray:
    array = _read(found[key], key, path, np.dtype(np.float32))
    finite = np.isfinite(array).reshape(len(array), -1).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        values = array[row].reshape(-1)
        value = values[~np.isfinite(values)][0]
        raise UserError(f"{path}: key '{key}', row {row}: {value} is not a finite float32 number; repair the data")
    return array


def _flags(found: dict[str, h5py.Dataset], key: str, path: str) -> np.ndarray:
    array = _read(found[key], key, path, found[key].dtype).reshape(-1)
    flags = array == 1
    wrong = ~flags & (array != 0)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise UserError(f"{path}: key '{key}', row {row}: {array[row]} is neither 0 nor 1; store flags as bool")
    return flags


def _read(dataset: h5py.Dataset, key: str, path: str, dtype: np.dtype) -> np.ndarray:
    array = np.empty(dataset.shape, dtype)
    try:
        dataset.read_direct(array)
    except (OSError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: key '{key}' cannot be read ({reason}); copy or download the file again") from error
    return array
