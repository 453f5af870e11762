import dataclasses
import json
import os
import pathlib
import shutil
import signal
import time

import gin
import h5py
import numpy as np
import pytest
import scipy.stats
import tiny
from processes import ForkedProcess, finish_process, start_process
from recordings import TASK, export_policy, plan

from brac_plus_tf.collection import shards as collection
from brac_plus_tf.collection.recording import Part, Plan, Player
from brac_plus_tf.collection.shards import collect
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.files import lock_directory
from brac_plus_tf.environments.environment import make_environment


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return export_policy(tmp_path_factory.mktemp("export") / "policy")


def collect_here(plan: Plan, output: pathlib.Path, monkeypatch) -> pathlib.Path:
    """The whole collection with this process as its only worker."""

    class Pool:
        _processes = None

        def __init__(self, workers, context, start, arguments):
            player = Player(arguments[0])
            monkeypatch.setattr(collection, "_player", player)

        def submit(self, function, *arguments):
            future = collection.concurrent.futures.Future()
            future.set_result(function(*arguments))
            return future

        def shutdown(self, **how):
            pass

    monkeypatch.setattr(collection.concurrent.futures, "ProcessPoolExecutor", Pool)
    collect(plan, output, 1)
    return output


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        arrays = {key: file[key][:] for key in file if key != "metadata"}
        return arrays | {key: file["metadata"][key][:] for key in file["metadata"]}


def expected_actions(rows: dict[str, np.ndarray]) -> np.ndarray:
    return np.tanh(rows["observations"][:, :3].astype(np.float64))


def test_the_record_repeats_in_the_simulator(tmp_path, policy, monkeypatch):
    """Each episode from the seed recorded for it, by the simulator alone; the last one is cut off, no other."""
    output = collect_here(plan(policy, Part(share=1.0, epsilon=0.3), Part(share=2.0)), tmp_path / "d.hdf5", monkeypatch)
    rows, environment, episode, part_rows = read(output), make_environment(TASK, "gymnasium"), 0, [0, 0]
    assert len(rows["rewards"]) == 300
    ended = True
    for row in range(300):
        if ended:
            observation = environment.reset(seed=int(rows["episode_seed"][episode]))[0]
        np.testing.assert_array_equal(rows["observations"][row], observation.astype(np.float32))
        observation, reward, terminated, _, _ = environment.step(rows["actions"][row])
        np.testing.assert_array_equal(rows["next_observations"][row], observation.astype(np.float32))
        assert (rows["rewards"][row], rows["terminals"][row]) == (np.float32(reward), terminated)
        part_rows[rows["episode_part"][episode]] += 1
        ended = rows["terminals"][row] or rows["timeouts"][row]
        episode += ended
    assert episode == len(rows["episode_seed"]) == len(set(rows["episode_seed"]))
    assert part_rows == [100, 200]
    assert set(np.flatnonzero(rows["timeouts"])) <= {99, 299}
    with h5py.File(output) as file:
        ends = np.flatnonzero(rows["terminals"] | rows["timeouts"])
        returns = np.diff(np.cumsum(rows["rewards"], dtype=np.float64)[ends], prepend=0.0)
        assert file.attrs["env_id"] == "Hopper-v4"
        np.testing.assert_allclose(file.attrs["mean_episode_return"], returns.mean(), rtol=1e-6)


def test_a_part_alone_plays_the_policy(tmp_path, policy, monkeypatch):
    rows = read(collect_here(plan(policy), tmp_path / "d.hdf5", monkeypatch))
    np.testing.assert_allclose(rows["actions"], expected_actions(rows), atol=1e-6)


def test_epsilon_is_the_share_of_uniform_actions(tmp_path, policy, monkeypatch):
    rows = read(collect_here(plan(policy, Part(epsilon=0.3), steps=2000), tmp_path / "d.hdf5", monkeypatch))
    replaced = np.abs(rows["actions"] - expected_actions(rows)).max(axis=1) > 1e-6
    assert scipy.stats.binomtest(int(replaced.sum()), 2000, 0.3).pvalue > 1e-3
    uniform = scipy.stats.uniform(-1.0, 2.0).cdf
    assert scipy.stats.kstest(rows["actions"][replaced].reshape(-1), uniform).pvalue > 1e-3


def test_noise_is_gaussian_and_clipped(tmp_path, policy, monkeypatch):
    rows = read(collect_here(plan(policy, Part(noise=0.2), steps=2000), tmp_path / "d.hdf5", monkeypatch))
    means = expected_actions(rows)
    inside = np.abs(means) < 0.2  # four deviations from the bounds
    assert scipy.stats.kstest((rows["actions"] - means)[inside], scipy.stats.norm(0.0, 0.2).cdf).pvalue > 1e-3
    assert np.abs(rows["actions"]).max() <= 1.0


def test_no_policy_is_uniform(tmp_path, monkeypatch):
    rows = read(collect_here(plan(None, steps=1000), tmp_path / "d.hdf5", monkeypatch))
    assert scipy.stats.kstest(rows["actions"].reshape(-1), scipy.stats.uniform(-1.0, 2.0).cdf).pvalue > 1e-3


def arguments(policy, output, workers):
    bindings = ("Collection.shard_episodes = 40", "Collection.width = 8", "Collection.action = 'mean'")
    return (
        *(f"--policy={policy}", "--env=Hopper-v4", "--mixture=eps1", "--n_samples=12000", "--seed=4"),
        *(f"--output={output}", f"--workers={workers}", *(f"--gin_bindings={binding}" for binding in bindings)),
    )


def is_running(process: str) -> bool:
    """Whether there is a process of that number, other than one that only waits for its exit status to be read."""
    try:
        return pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def test_the_same_bytes_from_any_number_of_processes_and_after_a_kill(tmp_path, policy):
    once = tmp_path / "once.hdf5"
    outcome = finish_process(start_process("brac_plus_tf.collect_data", *arguments(policy, once, 2), cwd=tmp_path))
    assert outcome.status == 0, outcome.stderr
    assert f"dataset: {once}" in outcome.stdout and not list(tmp_path.glob("*.shards"))

    stopped = tmp_path / "stopped.hdf5"
    shards = tmp_path / "stopped.hdf5.shards"
    for stop, status in ((signal.SIGKILL, -9), (signal.SIGTERM, 143)):
        process = ForkedProcess("brac_plus_tf.collect_data", *arguments(policy, stopped, 1), cwd=tmp_path)
        found, until = len(list(shards.glob("*.npz"))), time.monotonic() + 120
        while len(list(shards.glob("*.npz"))) == found and process.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        workers = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert workers
        os.kill(process.pid, stop)
        outcome = finish_process(process)
        assert outcome.status == status, outcome.stderr
        assert not stopped.exists()
        until = time.monotonic() + 30
        while alive := [worker for worker in workers if is_running(worker)]:
            assert time.monotonic() < until, alive
            time.sleep(0.05)
    assert "the same command goes on" in outcome.stdout
    outcome = tiny.run_here("collect_data", *arguments(policy, stopped, 1))
    assert outcome.status == 0, outcome.stderr
    assert stopped.read_bytes() == once.read_bytes()


# Refusals ---------------------------------------------------------------------------------------------------------


def test_an_existing_file_is_not_touched(tmp_path, policy):
    (tmp_path / "d.hdf5").write_text("mine")
    with pytest.raises(UserError, match="already exists"):
        collect(plan(policy), tmp_path / "d.hdf5", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["d.hdf5"]
    assert (tmp_path / "d.hdf5").read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "key"), [({"seed": 1}, "seed"), ({"steps": 301}, "steps"), ({"policy": None}, "policy")]
)
def test_shards_of_another_collection_are_refused(tmp_path, policy, change, key):
    begun = tmp_path / "d.hdf5.shards"
    begun.mkdir()
    (begun / "plan.json").write_text(json.dumps(plan(policy).facts()))
    with pytest.raises(UserError, match=rf"another collection \({key} differ\)"):
        collect(dataclasses.replace(plan(policy), **change), tmp_path / "d.hdf5", 1)


def test_a_policy_of_other_contents_is_another_collection(tmp_path, policy):
    other = tmp_path / "other"
    shutil.copytree(policy, other)
    assert plan(policy).facts() == plan(other).facts()
    (other / "policy.json").write_text((other / "policy.json").read_text() + " ")
    assert plan(policy).facts() != plan(other).facts()


def test_a_damaged_shard_is_named(tmp_path, policy, monkeypatch):
    begun = tmp_path / "d.hdf5.shards"
    begun.mkdir()
    (begun / "0-000000.npz").write_bytes(b"half")
    with pytest.raises(UserError, match=r"0-000000\.npz: cannot be read"):
        collect_here(plan(policy), tmp_path / "d.hdf5", monkeypatch)


def test_two_processes_do_not_mix(tmp_path, policy):
    with (
        lock_directory(tmp_path / "d.hdf5.shards", "collection", "--output"),
        pytest.raises(UserError, match="another process"),
    ):
        collect(plan(policy), tmp_path / "d.hdf5", 1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--mixture=eps2",), "--mixture: 'eps2' is none of eps1, eps3, gaussian1, gaussian3, pure"),
        (("--env=HalfCheetah-v4",), "the policy is for"),
        (("--env=Hopper-v9",), "Hopper-v9"),
        (("--gin_bindings=Collection.action = 'sideways'",), "'sideways' is none of"),
        (("--gin_bindings=Collection.colour = 'red'",), "gin"),
        (("--policy=missing",), "missing: not an exported policy"),
        (("--n_samples=0",), "n_samples"),
    ],
)
def test_commands_that_are_refused(tmp_path, policy, given, message):
    defaults = [f"--policy={policy}", "--env=Hopper-v4", f"--output={tmp_path / 'd.hdf5'}"]
    outcome = tiny.run_here("collect_data", *defaults, *given)
    assert outcome.status == 1 and message in outcome.stderr
    assert len(outcome.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(autouse=True)
def clean():
    gin.clear_config()
