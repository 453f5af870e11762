"""What a user adds from outside the package: an agent, a divergence, a rule for its threshold, each with a gin file.

A source of data of one's own: test_sources.py.
"""

import gin
import numpy as np
import pytest
import tensorflow as tf
from tiny import BINDINGS, run_here, write_hopper_dataset

import brac_plus_tf as bp
from brac_plus_tf.runs.metrics_log import read_metrics

MODULE = '''
import dataclasses

import gin
import tensorflow as tf

import brac_plus_tf as bp


@gin.register
class Centroid(bp.Agent):
    """Acts by the data's mean action everywhere."""

    def __init__(self, problem, seed, *, rate=0.05, steps=400):
        self.mean, self._rate, self._steps = tf.Variable(tf.zeros([problem.dimensions.action])), rate, steps

    def stages(self):
        return [bp.Stage("main", self._steps, bp.uniform_rows(32), self.update, epoch_steps=100, evaluate=True)]

    def components(self):
        return {"mean": [self.mean]}

    def policies(self):
        return {"mean": bp.stateless(lambda observation, seed: 0.0 * observation[:, :1] + self.mean)}

    def update(self, batch, seed):
        error = tf.reduce_mean(batch.action, axis=0) - self.mean
        self.mean.assign_add(self._rate * error)
        return {"loss": tf.reduce_sum(error**2)}


@gin.register
@dataclasses.dataclass(frozen=True)
class MeanDistance:
    """Squared distance of the pre-tanh means."""

    weight: float = 1.0

    def __call__(self, policy, pre_tanh_action, behavior, observation, seed):
        drawn = behavior.draws(observation, 8, 10.0, seed)
        return self.weight * tf.reduce_sum((policy.mean() - tf.reduce_mean(drawn, axis=0)) ** 2, axis=-1)


@gin.register
class TwiceAchieved:
    def resolve(self, achieved):
        return 2.0 * achieved
'''
AGENT = """
import the_lab
include 'shared.gin'
Experiment.agent = @Centroid
Experiment.agent_name = 'centroid'
"""
DIVERGENCE = """
import the_lab
include 'brac_plus/short.gin'
Experiment.agent_name = 'mean_distance'
BRACPlus.divergence = @MeanDistance()
BRACPlus.threshold = @TwiceAchieved()
"""


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A directory with a module, its gin files, and data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "the_lab.py").write_text(MODULE)
    (tmp_path / "agent.gin").write_text(AGENT)
    (tmp_path / "divergence.gin").write_text(DIVERGENCE)
    write_hopper_dataset(tmp_path / "hopper.hdf5")
    yield tmp_path
    gin.clear_config()


def train(*arguments: str):
    outcome = run_here("train", "--dataset=hopper.hdf5", "--env=none", "--estimate=none", "--root_dir=runs", *arguments)
    assert outcome.status == 0, outcome.stderr


def test_an_agent_a_divergence_and_a_threshold_of_ones_own(lab):
    """One test, since a module of gin names can be imported only once in a process."""
    train("--gin_file=agent.gin", "--gin_bindings=Loop.compiled = False")
    policy = bp.LoadedPolicy("runs/hopper/centroid/0/saved_model")
    expected = bp.load_dataset("hopper.hdf5").transitions.action.mean(axis=0)
    np.testing.assert_allclose(policy.act(np.zeros(11)), expected, atol=0.1)  # of batches of 32, averaged over 20

    bindings = [f"--gin_bindings={binding}" for binding in (*BINDINGS, "Loop.compiled = False")]
    train("--gin_file=divergence.gin", *bindings)
    rows = list(read_metrics(lab / "runs" / "hopper" / "mean_distance" / "0"))
    threshold = next(row.value for row in rows if row.metric == "divergence_threshold")
    first = next(row.value for row in rows if (row.stage, row.metric) == ("main", "divergence_mean"))
    assert threshold == pytest.approx(2.0 * first, rel=0.3)  # the policy has moved a little by the first report
    # a weight of 0 shows that it is this divergence, and no other, that is measured
    train("--gin_file=divergence.gin", "--seed=1", "--gin_bindings=MeanDistance.weight = 0.0", *bindings)
    rows = list(read_metrics(lab / "runs" / "hopper" / "mean_distance" / "1"))
    of_main = [row for row in rows if row.stage == "main"]  # the initial policy is fitted to a divergence of its own
    assert {row.value for row in of_main if row.metric in ("divergence_mean", "divergence_threshold")} == {0.0}


def test_what_has_not_the_shape_of_a_divergence_is_refused():
    with pytest.raises(bp.UserError, match=r"BRACPlus.divergence is 3, it must be Divergence"):
        bp.BRACPlus(bp.Problem(bp.Dimensions(3, 2)), 0, divergence=3)
    with pytest.raises(bp.UserError, match=r"BRACPlus.threshold is .* it must be Threshold"):
        bp.BRACPlus(bp.Problem(bp.Dimensions(3, 2)), 0, threshold=tf.constant(1.0))
