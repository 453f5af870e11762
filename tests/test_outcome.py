"""The end of a run against text and numbers written by hand."""

import json
import os
import pathlib
import signal

import numpy as np
import pytest
import tensorflow as tf
import tiny

from brac_plus_tf.agents.base import stateless
from brac_plus_tf.core.stopping import Interrupted
from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.environments.tasks import find_task
from brac_plus_tf.policies.saved_policy import DeployedPolicy, LoadedPolicy
from brac_plus_tf.runs.outcome import finish, last_evaluations, snapshots, summary
from brac_plus_tf.runs.run_record import RunRecord, Warned

EVALUATION = {
    "episodes": 101,
    "return_mean": 2834.21,
    "return_std": 345.06,
    "score_mean": 87.71,
    "score_std": 10.66,
    "last_evaluations": {"count": 10, "return_mean": 3000.0, "score_mean": 93.64},
}
WARNINGS = [Warned("main", "value", "main step 5: Q diverges"), Warned("main", "", "main: too low")]


def evaluated(directory: pathlib.Path, **changes) -> pathlib.Path:
    """A run directory that holds an evaluation; None takes an entry away."""
    content = {key: value for key, value in (EVALUATION | changes).items() if value is not None}
    (directory / "evaluation.json").write_text(json.dumps(content))
    return directory


def test_the_last_words(tmp_path):
    """Standard error 10.66 / sqrt(100). Hopper's score: 100 (return + 20.272305) / 3254.572305, of 400: 12.9."""
    text = summary(evaluated(tmp_path), WARNINGS, find_task("Hopper-v4"), np.array([300.0, 500.0]))
    assert text.splitlines() == [
        "policy   score 87.7 +- 10.7, return 2834.2 +- 345.1 (mean and standard deviation of 101 episodes; "
        "standard error 1.1)",
        "         score 93.6 (mean of the last 10 evaluations)",
        "data     score 12.9, return 400.0 (mean of 2 episodes)",
        f"curves   python -m brac_plus_tf.plot {tmp_path}",
        f"         tensorboard --logdir={tmp_path}/tensorboard",
        f"deploy   python -m brac_plus_tf.export --run_dir={tmp_path} --output=my_policy",
        "warnings main step 5: Q diverges",
        "         main: too low",
    ]


def test_a_run_without_an_environment_says_how_to_get_a_score(tmp_path):
    first, second, *_ = summary(tmp_path, [], None, np.array([3.0])).splitlines()
    command = f"python -m brac_plus_tf.evaluate --run_dir={tmp_path} --env=ID"
    assert first == f"policy   no score: it was trained without an environment; {command} finds one"
    assert second == "data     return 3.0 (mean of 1 episode)"


def test_a_task_without_reference_scores_one_episode_and_no_data(tmp_path):
    only = {"score_mean": None, "score_std": None, "episodes": 1, "return_std": 0.0, "last_evaluations": {"count": 0}}
    lines = summary(evaluated(tmp_path, **only), [], None).splitlines()
    assert lines[0] == "policy   return 2834.2 +- 0.0 (mean and standard deviation of 1 episode)"
    assert lines[1].startswith("curves ")
    assert summary(tmp_path, [], None, np.zeros(0)).splitlines() == lines


def test_commands_can_be_pasted_whatever_the_directory_is_called(tmp_path):
    directory = tmp_path / "my runs"
    directory.mkdir()
    assert f"python -m brac_plus_tf.plot '{directory}'\n" in summary(evaluated(directory), [], None)


class SlopeAgent(tiny.TinyAgent):
    """Acts by what it has learned: its slope."""

    def __init__(self):
        super().__init__(Dimensions(3, 1))
        self.slope = tf.Variable(0.25)

    def components(self):
        return {**super().components(), "slope": [self.slope]}

    def policies(self):
        return {"mean": stateless(lambda observation, seed: tf.tanh(self.slope * observation[:, :1]))}


def test_a_snapshot_is_the_policy_of_its_step_and_is_exported_once(tmp_path):
    size, agent = Dimensions(3, 1), SlopeAgent()
    policy = DeployedPolicy(agent, size, tiny.make_dataset(10, size).scaling)
    export = snapshots(policy, RunRecord(tmp_path), {"agent": "tiny"})
    observation = np.ones((1, 3), np.float32)
    acted = []
    for step in (500, 1500):
        acted.append(policy.act(observation))
        export(step)
        agent.slope.assign_add(1.0)
    export(500)  # as after a kill: what is there is of the same step, and stays
    assert not np.allclose(*acted)
    for name, expected in zip(("00000500", "00001500"), acted, strict=True):
        np.testing.assert_array_equal(LoadedPolicy(tmp_path / "snapshots" / name).act(observation), expected)
    assert json.loads((tmp_path / "snapshots" / "00001500" / "policy.json").read_text())["step"] == 1500


def test_last_evaluations_by_hand(tmp_path):
    rows = [f"main,{step},evaluation/return_mean,{float(step)}" for step in range(1, 14)]
    rows += ["main,14,evaluation/length_mean,7.0", "main,14,loss,1000.0"]
    (tmp_path / "metrics.csv").write_text("\n".join(["stage,step,metric,value", *rows]) + "\n")
    averages = last_evaluations(tmp_path, count=10)
    assert averages["return_mean"] == 8.5  # of 4 to 13
    assert averages["length_mean"] == 7.0
    assert averages["count"] == 1  # what there is of every figure
    assert last_evaluations(tmp_path, count=3)["return_mean"] == 12.0
    (tmp_path / "metrics.csv").write_text("stage,step,metric,value\n")
    assert last_evaluations(tmp_path) == {"count": 0}


def test_stopping_the_last_evaluation_leaves_nothing_half_written(tmp_path):
    class Evaluation:
        def final(self):
            os.kill(os.getpid(), signal.SIGINT)

    record = RunRecord(tmp_path / "run")
    with pytest.raises(Interrupted, match="the last evaluation"):
        finish(record, Evaluation(), None, {})
    assert {path.name for path in record.directory.iterdir()} == {".lock", "checkpoints"}
