"""What a user may name as data: a path, a D4RL dataset name, or `minari:ID`; each is read, hashed and labelled here."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from brac_plus_tf.core.files import check_regular_file
from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.data import hdf5_reader, minari_reader
from brac_plus_tf.data.download import is_dataset_name
from brac_plus_tf.data.minari_reader import is_minari
from brac_plus_tf.data.rows import Rows

_HASH_BLOCK_BYTES = 2**22


def read_rows(source: str, dimensions: Dimensions | None = None) -> Rows:
    """Reads and validates an HDF5 file or `minari:ID`; dimensions: sizes the task expects, None accepts any.

    Raises:
      UserError: naming file, key and row of whatever is missing or wrong.
    """
    return (minari_reader if is_minari(source) else hdf5_reader).read_rows(source, dimensions)


def environment_id(source: str) -> str | None:
    """The environment that an HDF5 file or `minari:ID` says it was recorded in; None where it does not.

    Raises:
      UserError: if the source is missing or not what it should be.
    """
    return (minari_reader if is_minari(source) else hdf5_reader).environment_id(source)


def contents_sha256(sources: Sequence[str]) -> str:
    """SHA-256 of the sources' files one after the other: for one HDF5 file what `sha256sum` prints.

    Of `minari:ID` the files are metadata.json and main_data.hdf5, in this order.

    Raises:
      UserError: if a file is missing or not readable.
    """
    digest = hashlib.sha256()
    for source in sources:
        for path in minari_reader.data_files(source) if is_minari(source) else [source]:
            check_regular_file(path)
            with open(path, "rb") as file:
                while block := file.read(_HASH_BLOCK_BYTES):
                    digest.update(block)
    return digest.hexdigest()


def source_label(source: str) -> str:
    """A directory's name for a source: its D4RL name, its file's stem, or `minari-` and its ID with - for each /."""
    if is_minari(source):
        return source.replace(minari_reader.PREFIX, "minari-", 1).replace("/", "-")
    return source if is_dataset_name(source) else Path(source).stem
