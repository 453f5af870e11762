"""The script behind the bundled dataset, at a small size, and what the bundled file says of itself."""

import time

import h5py
import numpy as np
from processes import PROJECT, ForkedProcess, finish_process

SMALL = (
    "OnlineExperiment.random_steps = 40",
    "OnlineExperiment.evaluation_episodes = 1",
    "OnlineExperiment.final_episodes = 1",
    "Actor.hidden_sizes = (8,)",
    "Critic.hidden_sizes = (8,)",
    "Training.steps_per_epoch = 30",
    "Training.batch_size = 8",
    "Loop.compiled = False",
)


def make(path, seed: int) -> None:
    script = str(PROJECT / "scripts" / "make_quickstart_dataset.py")
    bindings = [f"--gin_bindings={binding}" for binding in SMALL]
    arguments = ("--steps=90", f"--seed={seed}", f"--output={path}", *bindings)
    outcome = finish_process(ForkedProcess(script, *arguments, cwd=PROJECT))
    assert outcome.status == 0, outcome.stderr
    assert outcome.stdout.splitlines()[-1] == f"dataset: {path}, {path.stat().st_size:,} bytes"


def test_a_seed_gives_one_file_byte_for_byte(tmp_path):
    make(tmp_path / "first.hdf5", 3)
    time.sleep(1.1)  # HDF5 notes times in whole seconds
    make(tmp_path / "second.hdf5", 3)
    make(tmp_path / "other.hdf5", 4)
    first, second, other = ((tmp_path / f"{name}.hdf5").read_bytes() for name in ("first", "second", "other"))
    assert first == second != other
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.hdf5", "other.hdf5", "second.hdf5"]
    with h5py.File(tmp_path / "first.hdf5") as file:
        assert file["actions"].shape == (90, 3)
        assert not np.array_equal(file["actions"][40:60], np.zeros((20, 3)))


def test_the_bundled_file_says_what_it_holds():
    path = PROJECT / "quickstart" / "hopper-quickstart.hdf5"
    assert path.stat().st_size <= 5 * 2**20
    with h5py.File(path) as file:
        returns, total = [], 0.0
        for reward, terminal, timeout in zip(
            *(file[key][:] for key in ("rewards", "terminals", "timeouts")), strict=True
        ):
            total += float(reward)
            if terminal or timeout:
                returns.append(total)
                total = 0.0
        assert total == 0.0  # the last episode is closed
        assert file.attrs["env_id"] == "Hopper-v4" and file.attrs["seed"] == 0
        np.testing.assert_allclose(file.attrs["mean_episode_return"], np.mean(returns), rtol=1e-9)
        # D4RL's reference returns for Hopper: random -20.272305, expert 3234.3
        expected = 100.0 * (np.mean(returns) + 20.272305) / (3234.3 + 20.272305)
        np.testing.assert_allclose(file.attrs["normalized_score"], expected, rtol=1e-9)
