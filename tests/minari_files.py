"""Minari datasets for tests, written in Minari's layout without the package minari."""

import json
import pathlib

import h5py
import numpy as np

BOX = {"type": "Box", "dtype": "float32", "shape": [2], "low": [-1.0, -1.0], "high": [1.0, 1.0]}


def episode(start: int, steps: int, terminated: bool, truncated: bool) -> dict[str, np.ndarray]:
    """Step t has observation (start + t, -start - t), actions 0.01 (start + t), reward start + t."""
    index = np.arange(start, start + steps + 1, dtype=np.float32)
    flags = np.arange(steps) == steps - 1
    return {
        "observations": np.stack([index, -index], axis=1),
        "actions": np.repeat(index[:steps, None] * np.float32(0.01), 3, axis=1),
        "rewards": index[:steps],
        "terminations": flags & terminated,
        "truncations": flags & truncated,
    }


def three_episodes() -> list[dict[str, np.ndarray]]:
    """Steps 10-12, terminal; 20, both flags; 30-31, unfinished."""
    return [episode(10, 3, True, False), episode(20, 1, True, True), episode(30, 2, False, False)]


def write_minari(
    folder: pathlib.Path, episodes: list[dict[str, np.ndarray]] | None = None, **changes: object
) -> pathlib.Path:
    """Writes folder/data/{metadata.json, main_data.hdf5}; metadata replaced, added or left out (None) by `changes`."""
    episodes = three_episodes() if episodes is None else episodes
    data = folder / "data"
    data.mkdir(parents=True)
    metadata = {
        "total_episodes": len(episodes),
        "total_steps": sum(len(one["rewards"]) for one in episodes),
        "data_format": "hdf5",
        "observation_space": json.dumps(BOX),
        "action_space": json.dumps(BOX | {"shape": [3], "low": [-1.0] * 3, "high": [1.0] * 3}),
        "dataset_id": "test-v0",
        "minari_version": "0.5.4",
    } | changes
    (data / "metadata.json").write_text(
        json.dumps({key: value for key, value in metadata.items() if value is not None})
    )
    with h5py.File(data / "main_data.hdf5", "w") as file:
        for index, one in enumerate(episodes):
            group = file.create_group(f"episode_{index}")
            for key, column in one.items():
                group[key] = column
    return data
