import csv
import json
import os
import pathlib
import signal
import warnings

import gin
import gymnasium
import h5py
import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import load_file
from tiny import TinyAgent, assert_same_bits, values, write_hopper_dataset, write_random_dataset

from brac_plus_tf.agents.base import stateless
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.stopping import Interrupted
from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.environments.tasks import find_task
from brac_plus_tf.policies.saved_policy import DeployedPolicy, LoadedPolicy
from brac_plus_tf.runs.experiment import Experiment, evaluation_task, run_data, run_experiment, task_label
from brac_plus_tf.runs.finished import evaluate
from brac_plus_tf.runs.trainer import Loop

# 5 + 12 steps, evaluated after steps 8 and 12 of the second stage
LOOP = Loop(steps_per_call=4, checkpoint_interval=4, evaluation_epochs=2, compiled=False)


class SpiedHopper:
    """gymnasium's own Hopper-v4, noting for each episode its seed and rewards."""

    backend = "gymnasium"

    def __init__(self, log: list[tuple[int, list[float]]]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._inner, self._log = gymnasium.make("Hopper-v4"), log

    def reset(self, *, seed=None):
        self._episode = (seed, [])
        self._log.append(self._episode)
        return self._inner.reset(seed=seed)

    def step(self, action):
        outcome = self._inner.step(action)
        self._episode[1].append(float(outcome[1]))
        return outcome


class Trial:
    """Experiments on one dataset under one root directory; `agent` is the last one built, `log` the episodes."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.root, self.log, self.agents = folder / "runs", [], []
        self.source = write_hopper_dataset(folder / "hopper.hdf5")

    def run(self, seed: int = 0, on_prepare=lambda stage, step: None, **changes) -> pathlib.Path:
        def agent(problem, seed):
            self.agents.append(TinyAgent(problem.dimensions, seed, (5, 12), 4, on_prepare=on_prepare))
            return self.agents[-1]

        settings = {
            "agent": agent,
            "agent_name": "tiny",
            "dataset": self.source,
            "make_environment": lambda task: SpiedHopper(self.log),
            "evaluation_episodes": 2,
            "final_episodes": 3,
            "loop": LOOP,
        }
        return run_experiment(Experiment(**(settings | changes)), str(self.root), seed)


@pytest.fixture(autouse=True)
def clean():
    gin.clear_config()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run's trial and directory."""
    gin.clear_config()
    trial = Trial(tmp_path_factory.mktemp("finished"))
    return trial, trial.run()


def contents(directory: pathlib.Path) -> dict[str, bytes]:
    """All files below a directory that hold results; TensorBoard's and the speeds carry times."""
    timed = ("tensorboard", "timing.csv")
    paths = [path for path in directory.rglob("*") if path.is_file() and not set(timed) & set(path.parts)]
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths}


def metric_rows(directory: pathlib.Path) -> list[dict[str, str]]:
    with open(directory / "metrics.csv") as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_everything_in_its_directory(finished):
    trial, directory = finished
    assert directory == trial.root / "hopper" / "tiny" / "0"
    expected = {"operative_config.gin", "run.json", "metrics.csv", "evaluation.json", "tensorboard", "checkpoints"}
    assert {path.name for path in directory.iterdir()} == expected | {"saved_model", "timing.csv", ".lock"}


def test_run_json_tells_what_was_run(finished):
    _, directory = finished
    facts = json.loads((directory / "run.json").read_text())
    assert (facts["format"], facts["agent"], facts["seed"]) == (1, "tiny", 0)
    assert facts["environment"] == {"task": "Hopper-v4", "backend": "gymnasium"}
    assert (facts["dataset"]["files"], facts["dataset"]["rows"]) == (["hopper.hdf5"], [300])
    assert facts["host"]["brac_plus_tf"]


def test_evaluations_are_what_the_environment_returned(finished):
    """2 evaluations of 2 episodes while training, then 3 episodes of the last policy; sums of the noted rewards."""
    trial, directory = finished
    returns = [sum(rewards) for _, rewards in trial.log]
    lengths = [len(rewards) for _, rewards in trial.log]
    assert len(returns) == 2 + 2 + 3
    rows = [row for row in metric_rows(directory) if row["metric"] == "evaluation/return_mean"]
    assert [(row["stage"], row["step"]) for row in rows] == [("second", "8"), ("second", "12")]
    np.testing.assert_allclose(
        [float(row["value"]) for row in rows], [np.mean(returns[:2]), np.mean(returns[2:4])], rtol=1e-12
    )
    final = json.loads((directory / "evaluation.json").read_text())
    np.testing.assert_allclose(final["returns"], returns[4:], rtol=1e-12)
    assert final["lengths"] == lengths[4:]
    score = 100.0 * (np.mean(returns[4:]) + 20.272305) / (3234.3 + 20.272305)  # d4rl's reference returns of hopper
    assert final["score_mean"] == pytest.approx(score)
    assert (final["task"], final["backend"], final["action"], final["episodes"]) == (
        "Hopper-v4",
        "gymnasium",
        "mean",
        3,
    )
    last = final["last_evaluations"]
    assert last["count"] == 2
    assert last["return_mean"] == pytest.approx(np.mean(returns[:4]))


def test_every_evaluation_has_the_same_starts(finished):
    trial, _ = finished
    seeds = [seed for seed, _ in trial.log]
    assert seeds[:2] == seeds[2:4] == seeds[4:6]
    assert len(set(seeds)) == 3


def test_the_exported_policy_is_the_last_one(finished):
    """Hopper's observations, through Scaling as loaded: shift 0, scale 1, actions in [-1, 1]."""
    _, directory = finished
    policy = LoadedPolicy(directory / "saved_model")
    observation = np.random.default_rng(0).normal(size=(7, 11)).astype(np.float32)
    np.testing.assert_allclose(policy.way("mean").act(observation, (), 0)[0], np.tanh(observation[:, :3]), atol=1e-6)
    newest = load_file(max((directory / "checkpoints").iterdir()))
    expected = np.tile(np.tanh(newest["weight/000"][:3]), (7, 1))
    np.testing.assert_allclose(policy.way("best").act(observation, (), 0)[0], expected, atol=1e-6)
    metadata = json.loads((directory / "saved_model" / "policy.json").read_text())
    assert metadata["dataset"] == json.loads((directory / "run.json").read_text())["dataset"]


def test_the_same_again_changes_nothing(finished):
    trial, directory = finished
    before, episodes = contents(directory), len(trial.log)
    assert trial.run() == directory
    assert contents(directory) == before
    assert trial.agents[-1].updates == {"first": 0, "second": 0}
    assert len(trial.log) == episodes


def test_a_run_is_told_beside_the_whole_episodes_of_its_data(finished, capsys):
    trial, _ = finished
    with h5py.File(trial.source) as file:
        rewards, last = file["rewards"][:], np.flatnonzero(file["terminals"][:])
    returns = [episode.sum(dtype=np.float64) for episode in np.split(rewards, last + 1)]
    assert last[-1] < 299  # the recording ended within an episode, which is not counted
    trial.run()
    told = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("data"))
    mean = np.mean(returns[:-1])
    score = 100.0 * (mean + 20.272305) / (3234.3 + 20.272305)  # d4rl's reference returns of hopper
    assert told == f"data     score {score:.1f}, return {mean:.1f} (mean of {len(last)} episodes)"


def test_an_interrupted_run_ends_like_any_other(finished, tmp_path):
    def stop(stage, step):
        if (stage, step) == ("second", 4):
            os.kill(os.getpid(), signal.SIGTERM)

    trial = Trial(tmp_path)
    with pytest.raises(Interrupted):
        trial.run(on_prepare=stop)
    directory = trial.root / "hopper" / "tiny" / "0"
    assert not (directory / "evaluation.json").exists() and not (directory / "saved_model").exists()
    trial.run()
    resumed, uninterrupted = contents(directory), contents(finished[1])
    for name in ("metrics.csv", "evaluation.json", "operative_config.gin", "saved_model/policy.json"):
        assert resumed[name] == uninterrupted[name], name
    assert_same_bits(*(load_file(max((run / "checkpoints").iterdir())) for run in (directory, finished[1])))


def test_what_failed_at_the_end_is_made_up_for(tmp_path, monkeypatch):
    trial = Trial(tmp_path)

    def full_disk(policy, directory, facts):
        raise UserError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(DeployedPolicy, "save", full_disk)
        with pytest.raises(UserError, match="no space"):
            trial.run()
    directory, episodes = trial.root / "hopper" / "tiny" / "0", len(trial.log)
    evaluation = (directory / "evaluation.json").read_bytes()
    trial.run()
    assert (directory / "saved_model" / "saved_model.pb").exists()
    assert len(trial.log) == episodes and (directory / "evaluation.json").read_bytes() == evaluation


def test_without_an_environment_the_same_policy_is_trained(finished, tmp_path, caplog):
    """Evaluating must not touch what is trained."""
    trial = Trial(tmp_path)
    directory = trial.run(environment="none", make_environment=lambda task: pytest.fail(task.name))
    assert "not evaluated" in caplog.text
    assert not (directory / "evaluation.json").exists()
    assert (directory / "saved_model" / "saved_model.pb").exists()
    assert json.loads((directory / "run.json").read_text())["environment"] is None
    assert_same_bits(values(trial.agents[-1]), values(finished[0].agents[0]))
    evaluated = [row for row in metric_rows(finished[1]) if not row["metric"].startswith("evaluation/")]
    assert metric_rows(directory) == evaluated


def test_what_a_run_is_evaluated_by_is_what_its_export_serves(tmp_path):
    """Named by a function, which is asked after the data have been measured and not when the settings are made."""
    trial, asked = Trial(tmp_path), []

    def best() -> str:
        asked.append(len(trial.agents))
        return "best"

    directory = trial.run(action=best)
    assert asked and min(asked) == 1  # with the agent there already
    evaluation = json.loads((directory / "evaluation.json").read_text())
    assert evaluation["action"] == "best"
    played = {way: evaluate(directory, None, 3, way, None, "gymnasium").content["returns"] for way in ("best", "mean")}
    assert evaluation["returns"] == played["best"] != played["mean"]
    assert json.loads((directory / "run.json").read_text())["action"] == "best"
    exported, observation = LoadedPolicy(directory / "saved_model"), np.ones((1, 11), np.float32)
    assert exported.actions == ["best", "mean", "sample"]
    live = DeployedPolicy(trial.agents[0], Dimensions(11, 3), exported.scaling).way("best")
    acted = live.act(observation, (), 0)[0]
    np.testing.assert_array_equal(exported.act(observation), acted)
    assert not np.array_equal(acted, exported.act(observation, action="mean"))


def test_seeds_have_runs_of_their_own(finished):
    trial, directory = finished
    other = trial.run(seed=1)
    assert other == directory.parent / "1"
    first, second = (contents(run) for run in (directory, other))
    assert first["metrics.csv"] != second["metrics.csv"]
    assert not {seed for seed, _ in trial.log[:7]} & {seed for seed, _ in trial.log[7:]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"action": "max_q"}, "Experiment.action: 'max_q' is none of mean, sample, best"),
        ({"action": lambda: "max_q"}, "Experiment.action: 'max_q' is none of mean, sample, best"),
        ({"action": 1}, "Experiment.action is 1"),
        ({"environment": "Hoper-v4"}, "nearest: Hopper-v4"),
        ({"environment": "Walker2d-v4"}, "17"),
        ({"dataset": "absent.hdf5"}, "absent.hdf5"),
        ({"dataset": "hopper-mediun-v0"}, "hopper-medium-v0"),
        ({"dataset": ()}, "Experiment.dataset is empty"),
        ({"evaluation_episodes": 0}, "Experiment.evaluation_episodes is 0"),
        ({"final_episodes": 0}, "Experiment.final_episodes is 0"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_made(tmp_path, changes, message):
    trial = Trial(tmp_path)
    with pytest.raises(UserError) as error:
        trial.run(**changes)
    assert message in str(error.value)
    assert not trial.root.exists()


class CallsPython(TinyAgent):
    """Its actions are computed by Python, which no export can hold."""

    def policies(self):
        def act(observation, seed):
            return tf.ensure_shape(tf.py_function(lambda rows: rows[:, :3], [observation], tf.float32), [None, 3])

        return {"mean": stateless(act)}


def test_a_policy_that_cannot_be_exported_is_refused_before_it_is_trained(tmp_path):
    trial, agent = Trial(tmp_path), CallsPython(Dimensions(11, 3))
    with pytest.raises(UserError, match=r"way to act 'mean'.*EagerPyFunc"):
        trial.run(agent=lambda problem, seed: agent)
    assert not trial.root.exists() and agent.updates == {"first": 0, "second": 0}


def test_another_action_can_be_evaluated(tmp_path):
    trial = Trial(tmp_path)
    directory = trial.run(action="best")
    assert json.loads((directory / "evaluation.json").read_text())["action"] == "best"


def test_the_dataset_decides_the_environment_unless_the_user_does(tmp_path):
    recorded = write_hopper_dataset(tmp_path / "recorded.hdf5", steps=2)
    unknown = write_random_dataset(tmp_path / "unknown.hdf5", Dimensions(11, 3))
    assert evaluation_task("auto", [recorded]) == find_task("Hopper-v4")
    assert evaluation_task("auto", [unknown]) is None
    assert evaluation_task("Walker2d-v4", [recorded]) == find_task("Walker2d-v4")
    assert evaluation_task("none", [recorded]) is None
    assert evaluation_task("auto", ["walker2d-medium-v0"]) == find_task("walker2d-medium-v0")


def test_directory_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert task_label(["hopper-medium-v0"]) == "hopper-medium-v0"
    assert task_label(["some/where/data.hdf5"]) == "data"
    assert task_label(["/a/first.hdf5", "b/second.h5"]) == "first+second"
    assert task_label(["minari:hopper/walk-v0", "b/second.h5"]) == "minari-hopper-walk-v0+second"
    assert task_label(["hopper-medium-v0.hdf5"]) == "hopper-medium-v0"


def test_a_runs_data_are_in_the_environments_units(tmp_path):
    path = write_hopper_dataset(tmp_path / "a.hdf5")
    (tmp_path / "operative_config.gin").write_text(f"Experiment.dataset = ('{path}',)\n")
    found = run_data(tmp_path).transitions
    with h5py.File(path) as file:
        assert (
            np.isin(found.reward, file["rewards"][:]).all()
            and np.isin(found.observation, file["observations"][:]).all()
        )
    assert found.reward.std() > 0.1
