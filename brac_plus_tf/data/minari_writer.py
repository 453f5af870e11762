"""Writes rows as a local Minari dataset, through the package minari.

Minari stores the state after an episode's last step, D4RL's layout need not (episodes.py says what its rows teach).
Without stored next_observations
  - a terminal row's next observation is its own, which the discount masks;
  - the last row of an episode that was cut off or is unfinished is left out, since what followed it is unknown: its
    observation ends the episode. Its action is still what the data did after the row before it, so it becomes the
    attribute `next_action` of the episode's group, where minari_reader.py finds it and other readers overlook it.
So the transitions of what is written equal those of what was read, bit for bit.
"""

import dataclasses
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.extras import import_extra
from brac_plus_tf.data.episodes import breaks, last_rows
from brac_plus_tf.data.minari_reader import NEXT_ACTION, dataset_directory, datasets_root
from brac_plus_tf.data.rows import Rows
from brac_plus_tf.environments.environment import environment_specification
from brac_plus_tf.environments.tasks import Task


class Header(NamedTuple):
    """What a dataset says of itself: its task if known, its spaces, the algorithm that made it if known."""

    task: Task | None
    action_low: float | np.ndarray
    action_high: float | np.ndarray
    algorithm: str | None


def minari_episodes(rows: Rows, cuts: np.ndarray) -> Iterator[Rows]:
    """The episodes of one source that have at least one step, in order; `cuts` as from episodes.cut_rows.

    Raises:
      UserError: naming the first row inside an episode whose stored next observation is not the row's that follows.
    """
    ends = last_rows(rows, cuts)
    _check_continuous(rows, ends)
    last = np.flatnonzero(ends)
    for first, end in zip(np.append(0, last[:-1] + 1).tolist(), (last + 1).tolist(), strict=True):
        timeouts = cuts if rows.timeouts is None else rows.timeouts
        episode = dataclasses.replace(rows.part(first, end), timeouts=timeouts[first:end])
        if rows.next_observations is None:
            episode = _with_next_observations(episode)
        if len(episode):
            yield episode


def _with_next_observations(episode: Rows) -> Rows:
    """The rows whose next observation is known: each takes the observation of the row that follows it."""
    following = np.concatenate((episode.observations[1:], episode.observations[-1:]))
    whole = dataclasses.replace(episode, next_observations=following)
    last = len(episode) - 1
    if episode.terminals[last]:
        return whole
    known = whole.part(0, last)
    assert whole.timeouts is not None and known.timeouts is not None
    timeouts = known.timeouts.copy()
    timeouts[-1:] = whole.timeouts[last]  # none, if that row is all the episode has
    return dataclasses.replace(known, timeouts=timeouts, following_actions={last - 1: episode.actions[last]})


def check_new(dataset_id: str) -> str:
    """The directory of a dataset that is to be written.

    Raises:
      UserError: if minari is not installed, the ID is malformed or taken, or lies inside another dataset.
    """
    directory = dataset_directory(dataset_id)
    import_extra("minari", "minari")
    if os.path.lexists(directory):
        raise UserError(f"{directory}: exists and is never overwritten; choose another ID, e.g. the next version")
    parent = datasets_root()
    for part in dataset_id.split("/")[:-1]:
        parent = os.path.join(parent, part)
        if os.path.exists(os.path.join(parent, "data")):
            raise UserError(f"{parent}: is a Minari dataset itself, which cannot hold another; choose another ID")
    return directory


def write_dataset(dataset_id: str, rows: Rows, cuts: np.ndarray, header: Header) -> tuple[int, int]:
    """Writes a new dataset, which appears under its ID only when it is whole.

    Args:
      dataset_id: (namespace/)name-v(number). rows, cuts: one source and its cuts, as from episodes.cut_rows.
    Returns:
      Numbers of episodes and steps written.
    Raises:
      UserError: as of check_new and minari_episodes, or if there is no episode or the directory cannot be written.
    """
    directory = check_new(dataset_id)
    episodes = list(minari_episodes(rows, cuts))
    if not episodes:
        raise UserError(f"{rows.name}: no row yields a transition, so there is no episode to write")
    try:
        os.makedirs(datasets_root(), exist_ok=True)
        # Hidden, so that minari does not list it, and on the same file system, so that it can be moved as a whole.
        with tempfile.TemporaryDirectory(prefix=".", dir=datasets_root()) as temporary:
            staged = Path(temporary) / "dataset"
            _write(staged, dataset_id, episodes, header)
            _make_namespace(dataset_id)
            os.rename(staged, directory)
    except (OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{directory}: cannot be written ({reason}); check the space and permissions there") from error
    return len(episodes), sum(len(episode) for episode in episodes)


def _check_continuous(rows: Rows, ends: np.ndarray) -> None:
    differs = breaks(rows, tolerance=0.0) & ~ends  # nearly the same is not what was read, bit for bit
    if differs.any():
        row = int(np.argmax(differs))
        raise UserError(
            f"{rows.name}: key 'next_observations', row {row}: is not the observation of row {row + 1} though no flag "
            f"ends the episode there, and Minari cannot store both; mark in timeouts where episodes were cut off"
        )


def _write(folder: Path, dataset_id: str, episodes: Sequence[Rows], header: Header) -> None:
    import minari
    from gymnasium.spaces import Box
    from minari.data_collector.episode_buffer import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    folder.mkdir()
    sizes = episodes[0].observations.shape[1:], episodes[0].actions.shape[1:]
    storage = MinariStorage.new(
        folder / "data",
        observation_space=Box(-np.inf, np.inf, sizes[0], np.float32),
        action_space=Box(header.action_low, header.action_high, sizes[1], np.float32),
        env_spec=environment_specification(header.task) if header.task else None,
        data_format="hdf5",
    )
    algorithm = {"algorithm_name": header.algorithm} if header.algorithm else {}
    storage.update_metadata({"dataset_id": dataset_id, "minari_version": minari.__version__, **algorithm})
    storage.update_episodes(EpisodeBuffer(**_stored_columns(episode)) for episode in episodes)
    following = {index: episode.following_actions.get(len(episode) - 1) for index, episode in enumerate(episodes)}
    known = {index: {NEXT_ACTION: action} for index, action in following.items() if action is not None}
    storage.update_episode_metadata(known.values(), known.keys())


def _stored_columns(episode: Rows) -> dict[str, np.ndarray]:
    """Minari's names; T + 1 observations of T steps."""
    assert episode.timeouts is not None and episode.next_observations is not None
    return {
        "observations": np.concatenate((episode.observations, episode.next_observations[-1:])),
        "actions": episode.actions,
        "rewards": episode.rewards,
        "terminations": episode.terminals,
        "truncations": episode.timeouts,
    }


def _make_namespace(dataset_id: str) -> None:
    """Makes the ID's namespace known to minari, as it does itself for a dataset that it collects."""
    from minari.namespace import create_namespace, list_local_namespaces

    namespace = os.path.dirname(dataset_id)
    if namespace and namespace not in list_local_namespaces():
        create_namespace(namespace)
