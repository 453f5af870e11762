"""Writes recorded rows as one HDF5 file in D4RL's layout; hdf5_reader.py is its counterpart."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np

from brac_plus_tf.core.files import written_atomically
from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.data.rows import Rows, empty_rows
from brac_plus_tf.environments.tasks import TASKS, Task

_CHUNK_ROWS = 65_536


def task_facts(task: Task, returns: Sequence[float] | np.ndarray) -> dict[str, object]:
    """What a file says about where its episodes were played and how they went; returns: one for each episode.

    Of an environment that is nobody's but the user's, also bounds and horizon: who has the file may not have it.
    """
    mean = float(np.mean(returns))
    score = {} if task.reference_score is None else {"normalized_score": float(task.normalized_score(mean))}
    bounds = {"action_low": tuple(map(float, task.action_low)), "action_high": tuple(map(float, task.action_high))}
    own = {} if task.name in TASKS else bounds | {"horizon": task.horizon}
    return {"env_id": task.name, "mean_episode_return": mean, **score, **own}


def write_hdf5(
    path: Path,
    dimensions: Dimensions,
    count: int,
    blocks: Iterable[Rows],
    facts: Callable[[], Mapping[str, object]],
    compress: bool = False,
) -> None:
    """Writes `blocks`, `count` rows in all, holding one block at a time; equal rows give equal bytes.

    Args:
      facts: what else to record, asked for after the last block: arrays go into the group `metadata`, all else becomes
        the file's attributes.
      compress: gzip, which pays for small files only: recorded floats hardly shrink.
    Raises:
      UserError: if the file cannot be written; then nothing is left at `path`.
      ValueError: if the blocks hold another number of rows.
    """
    chunk = (min(count, _CHUNK_ROWS), 1)  # an entry of a vector by itself compresses best
    compression = {"compression": "gzip", "compression_opts": 9, "shuffle": True} if compress else {}
    with written_atomically(path) as temporary:
        with h5py.File(temporary, "w", libver="earliest") as file:  # later formats note the time in every group
            columns = {}
            for key, column in empty_rows(dimensions, 1).columns().items():
                shape, chunks = (count, *column.shape[1:]), chunk[: column.ndim] if compress else None
                columns[key] = file.create_dataset(
                    key, shape, column.dtype, chunks=chunks, track_times=False, **compression
                )
            start = 0
            for block in blocks:
                for key, values in block.columns().items():
                    columns[key][start : start + len(values)] = values
                start += len(block)
            if start != count:
                raise ValueError(f"{start} rows, {count} wanted")
            for name, value in facts().items():
                if isinstance(value, np.ndarray):
                    file.create_dataset(f"metadata/{name}", data=value, track_times=False)
                else:
                    file.attrs[name] = value
