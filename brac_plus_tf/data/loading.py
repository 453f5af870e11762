"""From recorded rows to an `OfflineDataset`: of files and other sources, or of arrays in memory.

Which row yields which transition, and how that differs from d4rl.qlearning_dataset: see episodes.py. What may be named
as data: sources.py. Which values are refused: rows.py.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import gin
import numpy as np
import numpy.typing as npt
from absl import logging

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.settings import checked
from brac_plus_tf.core.types import Transition
from brac_plus_tf.data.dataset import OfflineDataset, Origin
from brac_plus_tf.data.download import FileSearch
from brac_plus_tf.data.episodes import (
    Places,
    RecordedEpisodes,
    breaks,
    check_lengths,
    cut_rows,
    last_rows,
    record_episodes,
    to_transitions,
)
from brac_plus_tf.data.plausibility import warn_of_frozen_entries, warn_of_jumps, warn_of_needless_ends
from brac_plus_tf.data.rows import Rows, rows_from_arrays
from brac_plus_tf.data.scaling import RewardScaling, action_range, fit_scaling, unit_range
from brac_plus_tf.data.sources import contents_sha256, dataset_task, read_rows, stated_by
from brac_plus_tf.data.statement import Statement
from brac_plus_tf.environments.tasks import Task

_ACTION_TOLERANCE = 1e-6  # of the half range: float32 rounds bounds that are no powers of two


class _Settings(NamedTuple):
    """What is to be made of the rows; `load_dataset` says what each is."""

    task: Task | None
    normalize_observations: bool
    rewards: RewardScaling | None
    allow_longer_episodes: bool
    action_low: float | Sequence[float] | None
    action_high: float | Sequence[float] | None

    def action_range(self, stated: Mapping[str, Statement], size: int) -> tuple[np.ndarray, np.ndarray]:
        """Center and half range [A] of the actions: the task's, else those given, else those that the data state.

        Raises:
          UserError: if two of them differ.
        """
        known = {}
        if self.task is not None:
            known[f"task {self.task.name}"] = action_range(self.task.action_low, self.task.action_high, size)
        if not (self.action_low is None and self.action_high is None):
            low = -1.0 if self.action_low is None else self.action_low
            high = 1.0 if self.action_high is None else self.action_high
            known["load_dataset.action_low and action_high"] = action_range(low, high, size)
        for name, statement in stated.items():
            if statement.action_low is not None and statement.action_high is not None:
                try:
                    known[name] = action_range(statement.action_low, statement.action_high, size)
                except UserError as error:
                    raise UserError(f"{name}: {error}") from error
        if not known:
            logging.warning(
                "%s: nothing states the bounds of actions, which are taken to be [-1, 1]; set load_dataset.action_low "
                "and action_high if they are others",
                ", ".join(stated) or "arrays",
            )
            return action_range(-1.0, 1.0, size)
        (first, used), *others = known.items()
        for other, bounds in others:
            _check_same_bounds(first, used, other, bounds)
        return used


@gin.register
@checked
def load_dataset(
    names: str | Sequence[str],
    task: Task | None = None,
    search: FileSearch = FileSearch(),
    normalize_observations: bool = False,
    rewards: RewardScaling | None = unit_range,
    allow_longer_episodes: bool = False,
    action_low: float | Sequence[float] | None = None,
    action_high: float | Sequence[float] | None = None,
) -> OfflineDataset:
    """Reads, validates and rescales data; those of several names are put one after the other.

    Args:
      names: path of an HDF5 file in D4RL's layout, a D4RL dataset name such as "hopper-medium-replay-v0", a local
        Minari dataset as "minari:hopper/collected-v0", or what a `Source` of your own reads; several for a mixture such
        as medium-expert.
      task: gives dimensions, action bounds and horizon; None: the one that the (first) data name themselves; if they
        name none, they are your own, and horizon and bounds are what they state.
      search: where files of D4RL names are looked for, and whether they may be fetched.
      normalize_observations: subtract each entry's mean over the transitions and divide by its standard deviation, at
        least 1e-3.
      rewards: how rewards are rescaled, over the transitions: `unit_range` to [0, 1] (Eq. 13), `by_returns`, or a
        function of your own; None leaves them.
      allow_longer_episodes: accept episodes longer than the task's horizon, as in Adroit's human demonstrations.
      action_low, action_high: action bounds [A] or one for all, of data whose task is unknown and that state none; if
        one of the two is None, it is -1 or 1; if both are, and nobody knows, [-1, 1], with a warning.
    Raises:
      UserError: naming file, key and row of what is missing or wrong, or what contradicts another.
    """
    names = [names] if isinstance(names, str) else list(names)
    if not names:
        raise UserError("dataset: no name given; name a file or a D4RL dataset")
    task = task or dataset_task(names[0])
    settings = _Settings(task, normalize_observations, rewards, allow_longer_episodes, action_low, action_high)
    stated = {name: stated_by(name) for name in names}
    parts, bounds = list[_Part](), (np.zeros(0), np.zeros(0))
    for name, rows in zip(names, _read(names, search, task), strict=True):
        bounds = bounds if parts else settings.action_range(stated, rows.dimensions.action)
        parts.append(_part(rows, settings, bounds, stated[name].horizon))
    return _dataset(parts, settings, bounds, contents_sha256(names, search), _one_discount(stated))


@checked
def dataset_from_arrays(
    arrays: Mapping[str, npt.ArrayLike],
    task: Task | None = None,
    normalize_observations: bool = False,
    rewards: RewardScaling | None = unit_range,
    allow_longer_episodes: bool = False,
    action_low: float | Sequence[float] | None = None,
    action_high: float | Sequence[float] | None = None,
) -> OfflineDataset:
    """A dataset of arrays in memory, which pass the same checks as files and are copied.

    Args:
      arrays: by D4RL's keys, as an environment's `get_dataset()` returns them: observations [N, O], actions [N, A],
        rewards, terminals [N]; timeouts [N] unless episodes are cut off at the task's horizon alone; next_observations
        [N, O] if there are any. Other keys are not touched.
      task and what follows it: as of `load_dataset`; without a task there is none.
    Raises:
      UserError: naming the key and row of whatever is missing or wrong.
    """
    settings = _Settings(task, normalize_observations, rewards, allow_longer_episodes, action_low, action_high)
    rows = rows_from_arrays("arrays", arrays, task.dimensions if task else None)
    digest = hashlib.sha256()
    for key, column in rows.columns().items():
        digest.update(f"{key} {column.shape}".encode() + np.ascontiguousarray(column).tobytes())
    bounds = settings.action_range({}, rows.dimensions.action)
    return _dataset([_part(rows, settings, bounds, None)], settings, bounds, digest.hexdigest(), None)


class _Part(NamedTuple):
    """What one file or source gives, in its own units."""

    name: str
    rows: int
    transitions: Transition
    places: Places
    episodes: RecordedEpisodes


def _read(names: Sequence[str], search: FileSearch, task: Task | None) -> Iterator[Rows]:
    """The rows of each name in turn; all have the task's dimensions, or else the first ones'."""
    dimensions = task.dimensions if task else None
    for name in names:
        rows = read_rows(name, dimensions, search)
        dimensions = rows.dimensions
        yield rows


def _part(rows: Rows, settings: _Settings, bounds: tuple[np.ndarray, np.ndarray], stated_horizon: int | None) -> _Part:
    _check_actions(rows, *bounds)
    horizon = settings.task.horizon if settings.task else stated_horizon
    cuts = cut_rows(rows, horizon)
    episodes = record_episodes(rows, cuts)
    if horizon is not None and not settings.allow_longer_episodes:
        check_lengths(rows.name, episodes, horizon)
    ends = last_rows(rows, cuts)
    warn_of_jumps(rows, ends)
    warn_of_needless_ends(rows, ends, breaks(rows))
    warn_of_frozen_entries(rows)
    transitions, places = to_transitions(rows, cuts)
    if np.may_share_memory(transitions.observation, transitions.next_observation):
        # two views of one array, as a source may well make them: rescaling in place would do it twice
        transitions = transitions._replace(next_observation=transitions.next_observation.copy())
    return _Part(rows.name, len(rows), transitions, places, episodes)


def _check_actions(rows: Rows, center: np.ndarray, half_range: np.ndarray) -> None:
    margin = half_range * np.float32(1.0 + _ACTION_TOLERANCE)
    outside = (rows.actions < center - margin) | (rows.actions > center + margin)
    if outside.any():
        row, entry = (int(index) for index in np.argwhere(outside)[0])
        low, high = center[entry] - half_range[entry], center[entry] + half_range[entry]
        raise UserError(
            f"{rows.name}: key 'actions', row {row}: entry {entry} is {rows.actions[row, entry]:.9g}, outside "
            f"[{low:g}, {high:g}]; clip the data, or correct the task or action_low and action_high"
        )


def _check_same_bounds(
    first: str, used: tuple[np.ndarray, np.ndarray], other: str, bounds: tuple[np.ndarray, np.ndarray]
) -> None:
    (center, half), (other_center, other_half) = used, bounds
    differs = np.maximum(np.abs(center - other_center), np.abs(half - other_half)) > 2 * _ACTION_TOLERANCE * half
    if differs.any():
        entry = int(np.argmax(differs))
        shown = [_interval(c[entry], h[entry]) for c, h in (used, bounds)]
        raise UserError(
            f"{other}: action entry {entry} is within {shown[1]} where that of {first} is within {shown[0]}; "
            f"correct the one that is wrong (with --env=none no environment is asked)"
        )


def _interval(center: float, half_range: float) -> str:
    bounds = [float(center) + sign * float(half_range) for sign in (-1, 1)]
    low, high = (0.0 if abs(bound) < _ACTION_TOLERANCE * half_range else bound for bound in bounds)
    return f"[{low:g}, {high:g}]"


def _one_discount(stated: Mapping[str, Statement]) -> float | None:
    """The discount that the data state, if they do.

    Raises:
      UserError: if some state another than others.
    """
    known = {name: statement.discount for name, statement in stated.items() if statement.discount is not None}
    if len(set(known.values())) > 1:
        shown = ", ".join(f"{name} {discount:g}" for name, discount in known.items())
        raise UserError(f"the data state different discounts: {shown}; train on data of one discount")
    return next(iter(known.values()), None)


def _dataset(
    parts: list[_Part],
    settings: _Settings,
    actions: tuple[np.ndarray, np.ndarray],
    sha256: str,
    discount: float | None,
) -> OfflineDataset:
    rows = tuple(part.rows for part in parts)
    origin = Origin(tuple(part.name for part in parts), rows, sha256, discount=discount)
    transitions, places, episodes = _joined(parts)
    names = ", ".join(origin.names)
    if len(transitions.reward) == 0:
        raise UserError(f"{names}: no row yields a transition; store next_observations, or longer episodes")
    try:
        scaling = fit_scaling(transitions, episodes.returns, actions, settings.normalize_observations, settings.rewards)
    except UserError as error:
        raise UserError(f"{names}: {error}") from error
    return OfflineDataset(scaling.to_network(transitions), places, episodes, scaling, origin)


def _joined(parts: list[_Part]) -> tuple[Transition, Places, RecordedEpisodes]:
    """All parts one after the other; episodes are counted on, so that none goes on in the next part."""
    if len(parts) == 1:
        return parts[0].transitions, parts[0].places, parts[0].episodes
    first = np.cumsum([0, *(len(part.episodes.lengths) for part in parts)])[:-1]
    numbers = [part.places.episode + start.astype(np.int32) for part, start in zip(parts, first, strict=True)]
    return (
        Transition(*_columns(part.transitions for part in parts)),
        Places(np.concatenate(numbers), *_columns(part.places[1:] for part in parts)),
        RecordedEpisodes(*_columns(part.episodes for part in parts)),
    )


def _columns(parts: Iterable[Sequence[np.ndarray]]) -> list[np.ndarray]:
    return [np.concatenate(column) for column in zip(*parts, strict=True)]
