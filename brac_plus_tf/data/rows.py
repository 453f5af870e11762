"""The rows that a simulator or a robot recorded: what readers return, writers take and the replay buffer keeps."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.data.precision import LARGEST, RoundingLoss, is_exact

# What an array holds of one row: a vector [size], one number, or one flag that is 0 or 1.
Kind = Literal["vector", "number", "flag"]
REQUIRED: dict[str, Kind] = {"observations": "vector", "actions": "vector", "rewards": "number", "terminals": "flag"}
OPTIONAL: dict[str, Kind] = {"timeouts": "flag", "next_observations": "vector"}
COLUMNS = REQUIRED | OPTIONAL


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """N environment steps in the order they were taken, in the environment's units; the columns are D4RL's keys.

    observations [N, O], actions [N, A], rewards [N] float32. terminals [N] bool: the step ended the task. timeouts [N]
    bool: it only ended the recording; None where that is not known. next_observations [N, O] float32, None where they
    are not stored. following_actions: row -> the action [A] that the data did next, where the row that did it is not
    stored. name: what messages call the data.
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminals: np.ndarray
    timeouts: np.ndarray | None = None
    next_observations: np.ndarray | None = None
    following_actions: Mapping[int, np.ndarray] = dataclasses.field(default_factory=dict)
    name: str = "data"

    def __post_init__(self) -> None:
        """Raises ValueError for an array of another type or shape; what the values are is `rows_from_arrays`' part."""
        width = {"actions": self.actions.shape[-1]}
        for key, column in self.columns().items():
            kind = COLUMNS[key]
            shape = (len(self), width.get(key, self.observations.shape[-1])) if kind == "vector" else (len(self),)
            if (column.dtype, column.shape) != (np.bool_ if kind == "flag" else np.float32, shape):
                raise ValueError(f"{key}: {column.dtype} {column.shape} among rows of {shape}; see rows_from_arrays")

    @classmethod
    def from_columns(
        cls, columns: Mapping[str, np.ndarray], name: str = "data", following: Mapping[int, np.ndarray] | None = None
    ) -> "Rows":
        """The inverse of `columns`."""
        keywords: dict[str, Any] = {key: columns.get(key) for key in COLUMNS}
        return cls(**keywords, following_actions=following or {}, name=name)

    def __len__(self) -> int:
        return len(self.rewards)

    @property
    def dimensions(self) -> Dimensions:
        """Entries of one observation and of one action."""
        return Dimensions(self.observations.shape[1], self.actions.shape[1])

    def columns(self) -> dict[str, np.ndarray]:
        """The arrays by key, without those that are None."""
        return {key: column for key in COLUMNS if (column := getattr(self, key)) is not None}

    def part(self, first: int, end: int) -> "Rows":
        """Rows first, .., end - 1."""
        columns = {key: column[first:end] for key, column in self.columns().items()}
        known = self.following_actions
        following = {row - first: known[row] for row in range(first, end) if row in known} if known else {}
        return Rows.from_columns(columns, self.name, following)


def join_rows(parts: Sequence[Rows], name: str = "data") -> Rows:
    """The parts one after the other; all have the same columns."""
    columns = {key: np.concatenate([part.columns()[key] for part in parts]) for key in parts[0].columns()}
    following, start = dict[int, np.ndarray](), 0
    for part in parts:
        following |= {start + row: action for row, action in part.following_actions.items()}
        start += len(part)
    return Rows.from_columns(columns, name, following)


def empty_rows(dimensions: Dimensions, count: int) -> Rows:
    """All columns, of zeros."""
    return Rows(
        observations=np.zeros((count, dimensions.observation), np.float32),
        actions=np.zeros((count, dimensions.action), np.float32),
        rewards=np.zeros(count, np.float32),
        terminals=np.zeros(count, bool),
        timeouts=np.zeros(count, bool),
        next_observations=np.zeros((count, dimensions.observation), np.float32),
    )


def rows_from_arrays(name: str, arrays: Mapping[str, npt.ArrayLike], dimensions: Dimensions | None = None) -> Rows:
    """Rows of anybody's arrays, with the checks that every dataset passes before it is trained on.

    Args:
      name: what messages call the data. arrays: by D4RL's keys, see `Rows`; numbers may be integers or floats of any
        width, flags bool or numbers that are 0 or 1, both of shape [N] or [N, 1]; other keys are not touched.
      dimensions: sizes the task expects; None accepts any.
    Raises:
      UserError: naming key and row, for anything missing, misshapen, non-numeric or not finite.
    """
    for key in REQUIRED:
        if arrays.get(key) is None:
            raise UserError(f"{name}: key '{key}' is missing; give {', '.join(REQUIRED)}")
    given = {key: np.array(arrays[key]) for key in COLUMNS if arrays.get(key) is not None}  # copies
    for key, array in given.items():
        check_form(name, key, array.dtype, array.shape, COLUMNS[key])
    check_sizes(name, {key: array.shape for key, array in given.items()}, dimensions)
    columns = {key: to_column(name, key, COLUMNS[key], array) for key, array in given.items()}
    for key, array in given.items():
        if COLUMNS[key] != "flag" and not is_exact(array.dtype):
            loss = RoundingLoss()
            loss.add(array, columns[key])
            loss.check(name, key)
    return Rows.from_columns(columns, name)


def check_form(name: str, key: str, dtype: np.dtype, shape: tuple[int, ...] | None, kind: Kind) -> None:
    """Raises UserError unless an array of that type and shape can be a column of that kind."""
    if dtype.kind not in ("biuf" if kind == "flag" else "iuf") or dtype.shape:
        raise UserError(f"{name}: key '{key}' holds type {dtype}; store numbers (float32)")
    if shape is None or 0 in shape:
        raise UserError(f"{name}: key '{key}' is empty (shape {shape}); there must be at least one row")
    if kind != "vector" and len(shape) != 1 and shape[1:] != (1,):
        raise UserError(f"{name}: key '{key}' has shape {shape}; store one value per row, shape [N]")
    if kind == "vector" and len(shape) != 2:
        raise UserError(f"{name}: key '{key}' has shape {shape}; store one vector per row, shape [N, size]")


def check_sizes(name: str, shapes: Mapping[str, tuple[int, ...]], dimensions: Dimensions | None) -> None:
    """Raises UserError unless the columns' shapes fit one another, and the dimensions if they are given."""
    rows = shapes["observations"][0]
    for key, shape in shapes.items():
        if shape[0] != rows:
            raise UserError(
                f"{name}: key '{key}' has {shape[0]} rows where 'observations' has {rows}; "
                f"every key must have one row per step"
            )
    if dimensions is not None:
        check_width(name, "observations", shapes["observations"], dimensions.observation)
        check_width(name, "actions", shapes["actions"], dimensions.action)
    if "next_observations" in shapes:
        check_width(name, "next_observations", shapes["next_observations"], shapes["observations"][1])


def check_width(name: str, key: str, shape: tuple[int, ...], size: int) -> None:
    """Raises UserError unless the rows are vectors of that size."""
    if shape[1] != size:
        raise UserError(
            f"{name}: key '{key}' has {shape[1]} entries per row where {size} are expected; "
            f"check that the file belongs to the task"
        )


def to_column(name: str, key: str, kind: Kind, array: np.ndarray) -> np.ndarray:
    """The array as a column of `Rows`: vectors [N, size] and numbers [N] as finite float32, flags [N] as bool.

    Raises:
      UserError: naming the row of a number that is not finite or too large, or of a flag that is neither 0 nor 1.
    """
    if kind == "flag":
        array = array.reshape(-1)
        flags = array == 1
        wrong = ~flags & (array != 0)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise UserError(f"{name}: key '{key}', row {row}: {array[row]} is neither 0 nor 1; store flags as bool")
        return flags
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite and is refused as such
        array = np.asarray(array, np.float32)
    usable = np.abs(array) <= LARGEST  # not a number is not, either
    if not usable.all():
        row = int(np.argmin(usable.reshape(len(array), -1).all(axis=1)))
        value = array[row][~usable[row]].flat[0] if array.ndim > 1 else array[row]
        if np.isfinite(value):
            raise UserError(f"{name}: key '{key}', row {row}: {value:g} is beyond {LARGEST:g}; store a larger unit")
        raise UserError(f"{name}: key '{key}', row {row}: {value} is not a finite float32 number; repair the data")
    return array if kind == "vector" else array.reshape(-1)


def cut_off(rows: Rows, count: int) -> Rows:
    """The first `count` rows; if the last one's episode goes on, it counts as timed out there."""
    first = rows.part(0, count)
    assert first.timeouts is not None
    timeouts = first.timeouts.copy()
    timeouts[-1] = not first.terminals[-1]
    return dataclasses.replace(first, timeouts=timeouts)
