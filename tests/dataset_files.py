"""Small HDF5 files in D4RL's layout for tests, and where the shared real ones are."""

import dataclasses
import pathlib

import h5py
import numpy as np
import pytest

from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.environments.tasks import Task, find_task

SHARED_DATA = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"


def shared_file(name: str) -> str:
    """Path of a shared dataset; the calling test is skipped where it is absent."""
    path = SHARED_DATA / f"{name}.hdf5"
    if not path.exists():
        pytest.skip(f"shared dataset {name}.hdf5 is not beside this checkout")
    return str(path)


def small_task(observation: int = 2, action: int = 3, **changes) -> Task:
    """Hopper-v4 with other sizes."""
    return dataclasses.replace(find_task("Hopper-v4"), dimensions=Dimensions(observation, action), **changes)


def columns(rows: int = 5) -> dict[str, np.ndarray]:
    """Valid arrays: row i has observation (i, -i), actions 0.1 i / rows, reward i; the last row is terminal."""
    index = np.arange(rows, dtype=np.float32)
    return {
        "observations": np.stack([index, -index], axis=1),
        "actions": np.repeat(index[:, None] * np.float32(0.1) / rows, 3, axis=1),
        "rewards": index,
        "terminals": index == rows - 1,
        "timeouts": np.zeros(rows, bool),
    }


def states_after(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Next observations of the rows: those that follow, and at the end of an episode ones half a unit further."""
    ends = arrays["terminals"] | arrays["timeouts"]
    ends[-1] = True
    observations = arrays["observations"]
    return np.where(ends[:, None], observations + np.float32(0.5), np.roll(observations, -1, axis=0))


def write_file(path: pathlib.Path, rows: int = 5, **changes) -> str:
    """Writes columns(rows) with keys replaced, added, or left out (None); returns the path as str."""
    with h5py.File(path, "w") as file:
        for key, value in (columns(rows) | changes).items():
            if value is not None:
                file[key] = value
    return str(path)
