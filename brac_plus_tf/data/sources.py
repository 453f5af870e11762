"""What a user may name as data: each kind of name is a `Source`, and a kind of your own is registered like these.

A module of yours defines a class with `Source`'s methods and calls `register_source` with one of it; a gin file's
`import my_module`, or --import=my_module, loads it. The newest is asked first, an HDF5 file's path last.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.files import check_regular_file, packaged
from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.data import hdf5_reader, minari_reader
from brac_plus_tf.data.d4rl_names import find_d4rl_file, is_d4rl_name
from brac_plus_tf.data.download import FileSearch
from brac_plus_tf.data.rows import Rows
from brac_plus_tf.data.statement import Statement
from brac_plus_tf.environments.tasks import Task, bound_horizon, find_task

_HASH_BLOCK_BYTES = 2**22


class Source(Protocol):
    """One kind of data. `matches` says whether a name is one of its names; only those come to the other methods."""

    def matches(self, name: str) -> bool:
        """Whether it can read what the user calls `name`; must not fail, and not look into files."""

    def files(self, name: str, search: FileSearch) -> Sequence[str]:
        """Paths of all that `read` reads, in a fixed order: their bytes are what identifies the data in a run's record.

        Raises:
          UserError: if they are not there.
        """

    def read(self, name: str, search: FileSearch, dimensions: Dimensions | None) -> Rows:
        """All rows, made by `rows_from_arrays`, which checks them; loading changes the arrays in place.

        Args:
          dimensions: sizes the task expects, if known.
        Raises:
          UserError: naming file, key and row of whatever is missing or wrong.
        """

    def statement(self, name: str) -> Statement:
        """What the data say of themselves beside their rows.

        Raises:
          UserError: if the data are missing or not what they should be.
        """
        return Statement()

    def label(self, name: str) -> str:
        """The name of the folder that holds the runs on these data."""
        return Path(name).stem


class HDF5File(Source):
    """The path of one file in D4RL's layout; the package's own, `quickstart/...`, are found from anywhere."""

    def matches(self, name: str) -> bool:
        return True

    def files(self, name: str, search: FileSearch) -> Sequence[str]:
        return [self._path(name)]

    def read(self, name: str, search: FileSearch, dimensions: Dimensions | None) -> Rows:
        return hdf5_reader.read_rows(self._path(name), dimensions)

    def statement(self, name: str) -> Statement:
        return hdf5_reader.statement(self._path(name))

    def _path(self, name: str) -> str:
        folder, file = os.path.split(name)
        bundled = packaged("quickstart") / file
        return str(bundled) if folder == "quickstart" and not os.path.exists(name) and bundled.exists() else name


class D4RLDataset(Source):
    """D4RL's name of a dataset, which is a task's name, too."""

    def matches(self, name: str) -> bool:
        return is_d4rl_name(name)

    def files(self, name: str, search: FileSearch) -> Sequence[str]:
        return [find_d4rl_file(name, search)]

    def read(self, name: str, search: FileSearch, dimensions: Dimensions | None) -> Rows:
        return hdf5_reader.read_rows(find_d4rl_file(name, search), dimensions)

    def statement(self, name: str) -> Statement:
        return Statement(environment=name)

    def label(self, name: str) -> str:
        return name


class LocalMinari(Source):
    """A local Minari dataset, `minari:ID`."""

    def matches(self, name: str) -> bool:
        return name.startswith(minari_reader.PREFIX)

    def files(self, name: str, search: FileSearch) -> Sequence[str]:
        return minari_reader.data_files(name)

    def read(self, name: str, search: FileSearch, dimensions: Dimensions | None) -> Rows:
        return minari_reader.read_rows(name, dimensions)

    def statement(self, name: str) -> Statement:
        return minari_reader.statement(name)

    def label(self, name: str) -> str:
        return name.replace(minari_reader.PREFIX, "minari-", 1).replace("/", "-")


_sources: list[Source] = [LocalMinari(), D4RLDataset(), HDF5File()]


def register_source(source: Source) -> None:
    """Adds a kind of data; it is asked before all that are there."""
    _sources.insert(0, source)


def find_source(name: str) -> Source:
    """The kind of data that `name` is one of."""
    return next(source for source in _sources if source.matches(name))


def read_rows(name: str, dimensions: Dimensions | None = None, search: FileSearch = FileSearch()) -> Rows:
    """Reads and validates one file or source; dimensions: sizes the task expects, None accepts any.

    Raises:
      UserError: naming file, key and row of whatever is missing or wrong.
    """
    return find_source(name).read(name, search, dimensions)


def contents_sha256(names: Sequence[str], search: FileSearch = FileSearch()) -> str:
    """SHA-256 of the data's files one after the other: for one HDF5 file what `sha256sum` prints.

    Raises:
      UserError: if a file is missing or not readable.
    """
    digest = hashlib.sha256()
    for name in names:
        for path in find_source(name).files(name, search):
            check_regular_file(path)
            with open(path, "rb") as file:
                while block := file.read(_HASH_BLOCK_BYTES):
                    digest.update(block)
    return digest.hexdigest()


def dataset_task(name: str, environment: str | None = None) -> Task | None:
    """The task named by the user, else by the data themselves; None if none is known.

    Its horizon is the one that the data state, if they were recorded in it.

    Raises:
      UserError: if the user named an unknown task, or bound another horizon than the data state.
    """
    stated = stated_by(name)
    horizon = stated.horizon if environment in (None, stated.environment) else None
    bound = bound_horizon()
    if horizon and bound and horizon != bound:
        raise UserError(f"{name}: states a horizon of {horizon} steps where Task.horizon is {bound}; leave that out")
    if environment is not None:
        return find_task(environment, horizon)
    if not stated.environment or ":" in stated.environment:  # a module that the data alone name is not imported
        return None
    try:
        return find_task(stated.environment, horizon)
    except UserError:  # data recorded elsewhere are still good data
        return None


def stated_by(name: str) -> Statement:
    """What the data say of themselves beside their rows.

    Raises:
      UserError: if they are missing or not what they should be.
    """
    return find_source(name).statement(name)


def source_label(name: str) -> str:
    """The name of the folder that holds the runs on these data."""
    return find_source(name).label(name)
