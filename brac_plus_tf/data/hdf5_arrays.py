"""Arrays inside HDF5 files, which are treated as a stranger's.

Links are never followed, external and virtual storage is refused, and declared sizes are compared with the file and the
memory before any allocation. Not covered: a compressed chunk whose stream expands beyond the chunk's declared size.
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterator

import h5py
import numpy as np

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.files import check_regular_file
from brac_plus_tf.data.precision import RoundingLoss, is_exact
from brac_plus_tf.data.rows import Kind, check_form, check_width, to_column

# A file may always declare this much; beyond it, compression by more than the factor below is refused. Float data
# recorded from an environment compress by less than 10.
_ALWAYS_ALLOWED_BYTES = 2**30
_LARGEST_COMPRESSION = 256
_BLOCK_ROWS = 65_536


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
    def shape(self) -> tuple[int, ...]:
        """Rows, at least one, and entries of a row."""
        return self.dataset.shape

    @property
    def declared_bytes(self) -> int:
        """What reading it would allocate."""
        chunk = int(np.prod(self.dataset.chunks, dtype=object)) if self.dataset.chunks else 0
        entries = max(int(np.prod(self.dataset.shape, dtype=object)), chunk)
        return entries * max(4, self.dataset.dtype.itemsize)

    def check_rows(self, expected: int, reason: str) -> None:
        """Raises UserError, with the reason, for any other number of rows."""
        if self.shape[0] != expected:
            raise UserError(f"{self.path}: key '{self.key}' has {self.shape[0]} rows where {reason}")

    def check_width(self, size: int) -> None:
        """Raises UserError unless the rows are vectors of that size."""
        check_width(self.path, self.key, self.shape, size)

    def read(self, loss: RoundingLoss) -> np.ndarray:
        """The values, see `to_column`; what float32 cannot hold of them is added to `loss`.

        Raises:
          UserError: naming the row of a wrong value.
        """
        array = np.empty(self.shape, self.dataset.dtype if self.kind == "flag" else np.float32)
        try:
            if self.kind == "flag" or is_exact(self.dataset.dtype):
                self.dataset.read_direct(array)
            else:
                self._read_rounded(array, loss)
        except (OSError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"{self.path}: key '{self.key}' cannot be read ({reason}); copy or download the file again"
            ) from error
        return to_column(self.path, self.key, self.kind, array)

    def _read_rounded(self, array: np.ndarray, loss: RoundingLoss) -> None:
        """Block by block: a file of float64 never needs memory for both types. No chunk is unpacked twice."""
        chunk = self.dataset.chunks[0] if self.dataset.chunks else 1
        block = -(-_BLOCK_ROWS // chunk) * chunk
        for first in range(0, len(array), block):
            recorded = self.dataset[first : first + block]
            with np.errstate(over="ignore"):  # what becomes infinite is refused as such
                array[first : first + block] = recorded
            loss.add(recorded, array[first : first + block])


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
    check_form(path, name, dataset.dtype, dataset.shape, kind)
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
