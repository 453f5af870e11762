"""Writes recorded steps as one HDF5 file in D4RL's layout; hdf5_reader.py is its counterpart."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from brac_plus_tf.checkpoints import written_atomically
from brac_plus_tf.tasks import Task
from brac_plus_tf.types import Dimensions

_CHUNK_ROWS = 65_536


class Steps(NamedTuple):
    """N environment steps in the order they were taken; the fields are the file's keys.

    observations [N, O], actions [N, A] (the environment's range), rewards [N], next_observations [N, O] float32;
    terminals, timeouts [N] bool: the step ended the task, or only its recording.
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminals: np.ndarray
    timeouts: np.ndarray
    next_observations: np.ndarray


def empty_steps(dimensions: Dimensions, rows: int) -> Steps:
    """Arrays of zeros."""
    return Steps(
        observations=np.zeros((rows, dimensions.observation), np.float32),
        actions=np.zeros((rows, dimensions.action), np.float32),
        rewards=np.zeros(rows, np.float32),
        terminals=np.zeros(rows, bool),
        timeouts=np.zeros(rows, bool),
        next_observations=np.zeros((rows, dimensions.observation), np.float32),
    )


def cut_off(steps: Steps, rows: int) -> Steps:
    """The first `rows` of the steps; if the last one's episode goes on, it counts as timed out there."""
    first = Steps(*(column[:rows] for column in steps))
    timeouts = first.timeouts.copy()
    timeouts[-1] = not first.terminals[-1]
    return first._replace(timeouts=timeouts)


def episode_returns(steps: Steps) -> np.ndarray:
    """Undiscounted returns of the episodes that end within the steps, in order."""
    ends = np.flatnonzero(steps.terminals | steps.timeouts)
    return np.diff(np.cumsum(steps.rewards, dtype=np.float64)[ends], prepend=0.0)


def task_facts(task: Task, returns: Sequence[float] | np.ndarray) -> dict[str, object]:
    """What a file says about where its episodes were played and how they went; returns: one for each episode."""
    mean = float(np.mean(returns))
    score = {} if task.reference_score is None else {"normalized_score": float(task.normalized_score(mean))}
    return {"env_id": task.name, "mean_episode_return": mean, **score}


def write_hdf5(
    path: Path,
    dimensions: Dimensions,
    rows: int,
    blocks: Iterable[Steps],
    facts: Callable[[], Mapping[str, object]],
    compress: bool = False,
) -> None:
    """Writes `blocks`, `rows` steps in all, holding one block at a time; equal steps give equal bytes.

    Args:
      facts: what else to record, asked for after the last block: arrays go into the group `metadata`, all else becomes
        the file's attributes.
      compress: gzip, which pays for small files only: recorded floats hardly shrink.
    Raises:
      UserError: if the file cannot be written; then nothing is left at `path`.
      ValueError: if the blocks hold another number of steps.
    """
    chunk = (min(rows, _CHUNK_ROWS), 1)  # an entry of a vector by itself compresses best
    compression = {"compression": "gzip", "compression_opts": 9, "shuffle": True} if compress else {}
    with written_atomically(path) as temporary:
        with h5py.File(temporary, "w", libver="earliest") as file:  # later formats note the time in every group
            columns = {}
            for key, column in empty_steps(dimensions, 1)._asdict().items():
                shape, chunks = (rows, *column.shape[1:]), chunk[: column.ndim] if compress else None
                columns[key] = file.create_dataset(
                    key, shape, column.dtype, chunks=chunks, track_times=False, **compression
                )
            start = 0
            for block in blocks:
                for key, values in block._asdict().items():
                    columns[key][start : start + len(values)] = values
                start += len(block.rewards)
            if start != rows:
                raise ValueError(f"{start} steps, {rows} wanted")
            for name, value in facts().items():
                if isinstance(value, np.ndarray):
                    file.create_dataset(f"metadata/{name}", data=value, track_times=False)
                else:
                    file.attrs[name] = value
