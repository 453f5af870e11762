"""The rows of a dataset, and the checks that an array passes before it becomes one of their columns.

Every HDF5 file is treated as a stranger's: links are never followed, external and virtual storage is refused, and
declared sizes are compared with the file and the memory before any allocation. Not covered: a compressed chunk whose
stream expands beyond the chunk's declared size.
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

import h5py
import numpy as np

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.types import Dimensions

# A file may always declare this much; beyond it, compression by more than the factor below is refused. Float data
# recorded from an environment compress by less than 10.
_ALWAYS_ALLOWED_BYTES = 2**30
_LARGEST_COMPRESSION = 256

# What an array holds of one row: a vector [size], one number, or one flag that is 0 or 1.
Kind = Literal["vector", "number", "flag"]


class Rows(NamedTuple):
    """The rows of one source, in its order and units.

    observations [N, O], actions [N, A], rewards [N] float32; terminals [N] bool; timeouts [N] bool or None when the
    source does not say; next_observations [N, O] float32 or None. following_actions: row -> the action [A] float32
    that the data did next, where the row that did it is not stored.
    """

    path: str
    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminals: np.ndarray
    timeouts: np.ndarray | None
    next_observations: np.ndarray | None
    following_actions: Mapping[int, np.ndarray] | None = None

    @property
    def dimensions(self) -> Dimensions:
        """Entries of one observation and of one action."""
        return Dimensions(self.observations.shape[1], self.actions.shape[1])


def check_regular_file(path: str) -> None:
    """Raises UserError unless `path` is a regular file that can be opened."""
    if not os.path.exists(path):
        raise UserError(f"{path}: no such file; check the path")
    if not os.path.isfile(path):
        raise UserError(f"{path}: not a regular file; give the path of one file")
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise UserError(f"{path}: cannot be opened ({error.strerror}); check its permissions") from error


def check_hdf5_file(path: str) -> None:
    """Raises UserError unless `path` is a regular file with HDF5's signature."""
    check_regular_file(path)
    if not h5py.is_hdf5(path):
        raise UserError(f"{path}: not an HDF5 file; check the path, or copy or download it again")


@contextlib.contextmanager
def open_hdf5(path: str) -> Iterator[h5py.File]:
    """The file opened for reading; whatever HDF5 says against it, here or inside the block, becomes a UserError."""
    check_hdf5_file(path)
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, MemoryError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: cannot be read as HDF5 ({reason}); copy or download the file again") from error


@dataclasses.dataclass(frozen=True)
class StoredArray:
    """One array of a file, checked as far as that goes without reading it. key: its full name in the file."""

    path: str
    key: str
    kind: Kind
    dataset: h5py.Dataset

    @property
    def rows(self) -> int:
        """Entries along the first axis, at least 1."""
        return self.dataset.shape[0]

    @property
    def declared_bytes(self) -> int:
        """What reading it would allocate."""
        chunk = int(np.prod(self.dataset.chunks, dtype=object)) if self.dataset.chunks else 0
        entries = max(int(np.prod(self.dataset.shape, dtype=object)), chunk)
        return entries * max(4, self.dataset.dtype.itemsize)

    def check_rows(self, expected: int, reason: str) -> None:
        """Raises UserError, with the reason, for any other number of rows."""
        if self.rows != expected:
            raise UserError(f"{self.path}: key '{self.key}' has {self.rows} rows where {reason}")

    def check_width(self, size: int) -> None:
        """Raises UserError unless the rows are vectors of that size."""
        if self.dataset.shape[1] != size:
            raise UserError(
                f"{self.path}: key '{self.key}' has {self.dataset.shape[1]} entries per row where {size} are expected; "
                f"check that the file belongs to the task"
            )

    def read(self) -> np.ndarray:
        """The values: vectors [rows, size] and numbers [rows] as finite float32, flags [rows] as bool.

        Raises:
          UserError: naming the row of a number that is not finite or a flag that is neither 0 nor 1.
        """
        if self.kind == "flag":
            return self._flags(self._read(self.dataset.dtype).reshape(-1))
        array = self._read(np.dtype(np.float32))
        finite = np.isfinite(array).reshape(len(array), -1).all(axis=1)
        if not finite.all():
            row = int(np.argmin(finite))
            values = array[row].reshape(-1)
            value = values[~np.isfinite(values)][0]
            raise UserError(f"{self._row(row)}: {value} is not a finite float32 number; repair the data")
        return array if self.kind == "vector" else array.reshape(-1)

    def _flags(self, array: np.ndarray) -> np.ndarray:
        flags = array == 1
        wrong = ~flags & (array != 0)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise UserError(f"{self._row(row)}: {array[row]} is neither 0 nor 1; store flags as bool")
        return flags

    def _row(self, row: int) -> str:
        return f"{self.path}: key '{self.key}', row {row}"

    def _read(self, dtype: np.dtype) -> np.ndarray:
        array = np.empty(self.dataset.shape, dtype)
        try:
            self.dataset.read_direct(array)
        except (OSError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"{self.path}: key '{self.key}' cannot be read ({reason}); copy or download the file again"
            ) from error
        return array


def find_array(group: h5py.Group, path: str, key: str, kind: Kind) -> StoredArray:
    """The array directly in `group` under that key.

    Raises:
      UserError: naming the key, unless it is stored in this very file, numeric, of the kind's shape and not empty.
    """
    name = full_key(group, key)
    dataset = follow_hard_link(group, path, key)
    if not isinstance(dataset, h5py.Dataset):
        raise UserError(f"{path}: key '{name}' is not a dataset; store it as one array")
    if dataset.is_virtual or dataset.external:
        raise UserError(f"{path}: key '{name}' keeps its data in other files, which is refused; store the data itself")
    if dataset.dtype.kind not in ("biuf" if kind == "flag" else "iuf") or dataset.dtype.shape:
        raise UserError(f"{path}: key '{name}' holds type {dataset.dtype}; store numbers (float32)")
    shape = dataset.shape
    if shape is None or 0 in shape:
        raise UserError(f"{path}: key '{name}' is empty (shape {shape}); the file must hold at least one row")
    if kind != "vector" and len(shape) != 1 and shape[1:] != (1,):
        raise UserError(f"{path}: key '{name}' has shape {shape}; store one value per row, shape [N]")
    if kind == "vector" and len(shape) != 2:
        raise UserError(f"{path}: key '{name}' has shape {shape}; store one vector per row, shape [N, size]")
    return StoredArray(path, name, kind, dataset)


def follow_hard_link(group: h5py.Group, path: str, key: str) -> h5py.HLObject:
    """What lies in `group` itself under that key.

    Raises:
      UserError: if there is nothing, or a link to another place or file.
    """
    # The low-level calls look at the link itself; `key in group` would already open what it points to.
    links, name = group.id.links, full_key(group, key)
    if not links.exists(key.encode()):
        place = "the root" if group.name == "/" else f"'{group.name.lstrip('/')}'"
        raise UserError(f"{path}: key '{name}' is missing; the file must hold it as a dataset under {place}")
    if links.get_info(key.encode()).type != h5py.h5l.TYPE_HARD:
        raise UserError(f"{path}: key '{name}' is a link to elsewhere, which is never followed; store the data itself")
    return group[key]


def full_key(group: h5py.Group, key: str) -> str:
    """The key as seen from the file's root."""
    return f"{group.name}/{key}".lstrip("/")


def check_declared_size(path: str, declared_bytes: int) -> None:
    """Refuses files that declare more than they can hold: an allocation of that size would end the process."""
    plausible = max(_ALWAYS_ALLOWED_BYTES, _LARGEST_COMPRESSION * os.path.getsize(path))
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if declared_bytes > plausible or declared_bytes > memory // 2:
        raise UserError(
            f"{path}: declares {declared_bytes / 1e9:.1f} GB of data in a file of {os.path.getsize(path) / 1e9:.3f} GB "
            f"(memory {memory / 1e9:.0f} GB), which is refused; check the file's origin, or split it"
        )
