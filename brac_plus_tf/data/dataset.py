"""Offline datasets: files to rescaled transitions, sampled inside the compiled training loop.

Which row yields which transition, and how that differs from d4rl.qlearning_dataset: see episodes.py. What a file must
hold: see hdf5_reader.py and minari_reader.py.
"""

import dataclasses
import functools
import os
from collections.abc import Sequence

import gin
import numpy as np
import tensorflow as tf

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.settings import checked
from brac_plus_tf.core.types import Dimensions, Transition
from brac_plus_tf.data import download as dataset_download
from brac_plus_tf.data import sources
from brac_plus_tf.data.episodes import RecordedEpisodes, check_lengths, cut_rows, record_episodes, to_transitions
from brac_plus_tf.data.minari_reader import is_minari
from brac_plus_tf.data.rows import Rows
from brac_plus_tf.data.scaling import Scaling, action_range
from brac_plus_tf.environments.tasks import Task, find_task

_SMALLEST_OBSERVATION_SCALE = 1e-3
_ACTION_TOLERANCE = 1e-6


@dataclasses.dataclass(frozen=True, eq=False)
class OfflineDataset:
    """Transitions ready for training, and what is known about where they come from.

    transitions: Transition of float32 arrays, M rows, in network units (see Scaling).
    files, row_counts: paths, or `minari:ID`, and their numbers of rows, in order. sha256: contents_sha256 of them.
    episode_returns [P] float64 (undiscounted, the environment's reward units), episode_lengths [P] int64 (steps) and
    episode_complete [P] bool: all P episodes in order; an episode that a file's end breaks off is not complete.
    """

    transitions: Transition
    scaling: Scaling
    sha256: str
    files: tuple[str, ...]
    row_counts: tuple[int, ...]
    dimensions: Dimensions
    episode_returns: np.ndarray
    episode_lengths: np.ndarray
    episode_complete: np.ndarray

    @property
    def number_of_transitions(self) -> int:
        """M, the number of transitions that `sample` draws from."""
        return len(self.transitions.reward)

    def facts(self) -> dict[str, object]:
        """What identifies the data in a run's record, JSON-ready."""
        return {
            "files": [file if is_minari(file) else os.path.basename(file) for file in self.files],
            "sha256": self.sha256,
            "rows": list(self.row_counts),
            "transitions": self.number_of_transitions,
        }

    @functools.cached_property
    def tensors(self) -> Transition:
        """The transitions as tensors, made at first use and held once; compiled functions capture them."""
        # tf.constant would keep a second copy of every array alive (TensorFlow 2.21); a variable's value does not.
        with tf.init_scope():
            return Transition(*(tf.Variable(array, trainable=False).read_value() for array in self.transitions))

    def sample(self, shape: tuple[int, ...], seed: tf.Tensor) -> Transition:
        """Draws transitions uniformly with replacement; eager and compiled calls draw the same.

        Args:
          shape: leading axes of the batch, e.g. (B,) or (E, B). seed: [2] int32; equal seeds give equal batches.
        Returns:
          Transition of float32 tensors [*shape, ..].
        """
        count = self.number_of_transitions
        indices = tf.random.stateless_uniform(shape, seed, 0, count, tf.int32, alg="philox")
        return Transition(*(tf.gather(tensor, indices) for tensor in self.tensors))


def dataset_task(source: str, environment: str | None = None) -> Task | None:
    """The task named by the user, else by a D4RL dataset name, else by the data's own record; None if none is known.

    Raises:
      UserError: if the user named an unknown task.
    """
    if environment is None and dataset_download.is_dataset_name(source):
        environment = source
    if environment is not None:
        return find_task(environment)
    recorded = sources.environment_id(dataset_download.find_dataset_file(source))
    try:
        return find_task(recorded) if recorded else None
    except UserError:
        return None


@gin.register
@checked
def load_dataset(
    source: str | Sequence[str],
    task: Task | None = None,
    data_dir: str | None = None,
    download: bool = False,
    normalize_observations: bool = False,
    rescale_rewards: bool = True,
    allow_longer_episodes: bool = False,
    action_low: float | Sequence[float] = -1.0,
    action_high: float | Sequence[float] = 1.0,
) -> OfflineDataset:
    """Reads, validates and rescales one or several files, whose transitions are put one after the other.

    Args:
      source: path of an HDF5 file in D4RL's layout, a D4RL dataset name such as "hopper-medium-replay-v0", or a local
        Minari dataset as "minari:hopper/collected-v0"; several for a mixture such as medium-expert.
      task: gives dimensions, action bounds and horizon; None: that of the D4RL name, if `source` is one; otherwise
        the data are your own, of unknown horizon, with the action bounds below.
      data_dir: where files of D4RL names are looked for first; see dataset_download.find_dataset_file.
      download: fetch a D4RL file that is not found.
      normalize_observations: subtract each entry's mean over the transitions and divide by its standard deviation, at
        least 1e-3.
      rescale_rewards: rescale rewards to [0, 1] by their minimum and maximum over the transitions (Eq. 13).
      allow_longer_episodes: accept episodes longer than the task's horizon, as in Adroit's human demonstrations.
      action_low, action_high: action bounds [A] or one for all, used only without a task.
    Raises:
      UserError: naming the file, key and row of whatever is missing or wrong.
    """
    names = [source] if isinstance(source, str) else list(source)
    if not names:
        raise UserError("dataset: no source given; name a file or a D4RL dataset")
    if task is None and dataset_download.is_dataset_name(names[0]):
        task = find_task(names[0])
    files = tuple(dataset_download.find_dataset_file(name, data_dir, download) for name in names)
    file_rows = _read_files(files, task.dimensions if task else None)
    dimensions = file_rows[0].dimensions
    low, high = (task.action_low, task.action_high) if task else (action_low, action_high)
    action_center, action_half_range = action_range(low, high, dimensions.action)
    for rows in file_rows:
        _check_actions(rows, action_center, action_half_range)

    cuts, episodes = _episodes(file_rows, None if task is None else task.horizon, allow_longer_episodes)
    row_counts = tuple(len(rows.rewards) for rows in file_rows)
    transitions = _concatenate_transitions(file_rows, cuts)
    _check_transitions(transitions, ", ".join(files), rescale_rewards)
    return OfflineDataset(
        *_rescale(transitions, action_center, action_half_range, normalize_observations, rescale_rewards),
        sources.contents_sha256(files),
        files,
        row_counts,
        dimensions,
        *(np.concatenate(column) for column in zip(*episodes, strict=True)),
    )


def _read_files(files: Sequence[str], dimensions: Dimensions | None) -> list[Rows]:
    first = sources.read_rows(files[0], dimensions)
    return [first, *(sources.read_rows(path, first.dimensions) for path in files[1:])]


def _episodes(
    file_rows: list[Rows], horizon: int | None, allow_longer: bool
) -> tuple[list[np.ndarray], list[RecordedEpisodes]]:
    """Each file's cut rows and episodes."""
    cuts = [cut_rows(rows, horizon) for rows in file_rows]
    episodes = [record_episodes(rows, cut) for rows, cut in zip(file_rows, cuts, strict=True)]
    if horizon is not None and not allow_longer:
        for rows, of_file in zip(file_rows, episodes, strict=True):
            check_lengths(rows.name, of_file, horizon)
    return cuts, episodes


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


def _concatenate_transitions(file_rows: list[Rows], cuts: list[np.ndarray]) -> Transition:
    """All files' transitions; empties file_rows, so that no more than two copies exist at a time."""
    parts = [to_transitions(file_rows.pop(0), cut)[0] for cut in cuts]
    if len(parts) == 1:
        return parts[0]
    return Transition(*(np.concatenate(field) for field in zip(*parts, strict=True)))


def _check_transitions(transitions: Transition, names: str, rescale_rewards: bool) -> None:
    rewards = transitions.reward
    if len(rewards) == 0:
        raise UserError(f"{names}: no row yields a transition; store next_observations, or longer episodes")
    if rescale_rewards and rewards.min() == rewards.max():
        raise UserError(
            f"{names}: key 'rewards' is {rewards[0]:g} in every transition and cannot be rescaled to [0, 1]; "
            f"check the data, or set rescale_rewards to False"
        )


def _rescale(
    transitions: Transition,
    action_center: np.ndarray,
    action_half_range: np.ndarray,
    normalize_observations: bool,
    rescale_rewards: bool,
) -> tuple[Transition, Scaling]:
    """The transitions in network units, and the scaling that made them."""
    observation, reward = transitions.observation, transitions.reward
    size = observation.shape[1]
    scaling = Scaling(np.zeros(size, np.float32), np.ones(size, np.float32), action_center, action_half_range)
    if normalize_observations:
        deviations = [entry.std(dtype=np.float64) for entry in observation.T]
        scaling = dataclasses.replace(
            scaling,
            observation_shift=observation.mean(axis=0, dtype=np.float64).astype(np.float32),
            observation_scale=np.maximum(deviations, _SMALLEST_OBSERVATION_SCALE).astype(np.float32),
        )
    if rescale_rewards:
        low, high = reward.min(), reward.max()
        scaling = dataclasses.replace(scaling, reward_shift=float(low), reward_scale=float(high - low))
    return scaling.to_network(transitions), scaling
