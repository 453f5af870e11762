"""A learned model's opinion: models whose every answer is known, and one that a run has left."""

import dataclasses
import shutil

import numpy as np
import pytest
import tensorflow as tf
import tiny
from test_estimate import TERMS, Constant, dataset

from brac_plus_tf.agents.base import Problem
from brac_plus_tf.agents.learned_dynamics import DynamicsFit, LearnedDynamics
from brac_plus_tf.agents.termination import NoTermination
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.data.scaling import Scaling
from brac_plus_tf.estimation import finished_run
from brac_plus_tf.estimation.estimate import estimate, report_lines
from brac_plus_tf.estimation.finished_run import Question, estimate_run
from brac_plus_tf.estimation.model_rollouts import Model, Modelled, compare_in_model, load_model, trusted_steps
from brac_plus_tf.estimation.verdict import Interval, contradicts
from brac_plus_tf.models.dynamics import Dynamics
from brac_plus_tf.runs.model_report import ModelReport

SIZES = Dimensions(1, 1)
# state' = (state - 5) / 2, action' = (action - 2) / 2, reward' = reward / 4
SCALING = Scaling(*(np.array([value], np.float32) for value in (5.0, 2.0, 2.0, 2.0)), 0.0, 4.0)


class Known:
    """Two members: reward' = gain action', state' moves by action'. Their gains differ."""

    def __init__(self, gains=(1.0, 2.0), ends=None):
        problem = Problem(SIZES, SCALING)
        shape = Dynamics(members=len(gains), hidden_sizes=(), weight_decay=(0.0,))
        self.dynamics = LearnedDynamics(shape, DynamicsFit(), problem, 0)
        kernel, bias = self.dynamics.network.network.variables
        weights = np.zeros(kernel.shape, np.float32)  # of (state, action) for (reward, change, their log variances)
        weights[:, 1, 0], weights[:, 1, 1] = gains, 1.0
        kernel.assign(weights)
        bias.assign(tf.zeros_like(bias))
        self.ends = ends or NoTermination().build(problem, 0)


def always(value):
    return lambda observation, step: np.full((len(observation), 1), value, np.float32)


def test_returns_by_hand():
    """Action 3 is 0.5 for the model: rewards' 0.5 and 1 for its members, 2 and 4 in the environment's units, three
    times, discounted by a half: 2 (1 + 1/2 + 1/4) = 3.5 and 7."""
    model = Model(Known(), SCALING, SIZES, 3)
    found = model.returns(always(3.0), np.array([[5.0], [7.0]]), 0.5)
    np.testing.assert_allclose(found, [[3.5, 3.5], [7.0, 7.0]], rtol=1e-5)


def test_the_policy_sees_where_the_model_has_gone():
    """State' grows by action' 0.5, the state by 1 a step."""
    seen = []

    def act(observation, step):
        seen.append((step, observation[:, 0].tolist()))
        return always(3.0)(observation, step)

    Model(Known((1.0,)), SCALING, SIZES, 3).returns(act, np.array([[5.0], [7.0]]), 0.5)
    assert seen == [(0, [5.0, 7.0]), (1, [6.0, 8.0]), (2, [7.0, 9.0])]


def test_after_its_end_an_episode_earns_nothing():
    """The second start reaches 9 in its second step, whose reward still counts: 2 + 2/2 = 3."""
    agent = Known((1.0,), ends=lambda observation, action, following: following[:, 0] >= 2.0)
    found = Model(agent, SCALING, SIZES, 4).returns(always(3.0), np.array([[5.0], [7.0]]), 0.5)
    np.testing.assert_allclose(found, [[2.0 * (1 + 1 / 2 + 1 / 4 + 1 / 8), 3.0]], rtol=1e-5)


def test_only_the_best_members_are_asked():
    agent = Known(tuple(np.arange(7.0)))
    agent.dynamics.order.assign([6, 5, 4, 3, 2, 1, 0])
    found = Model(agent, SCALING, SIZES, 1).returns(always(3.0), np.array([[5.0]]), 0.5)
    np.testing.assert_allclose(found[:, 0], [12.0, 10.0, 8.0, 6.0, 4.0], rtol=1e-5)


def test_the_difference_is_taken_member_by_member():
    """Actions 3 and 2.5, for the model 0.5 and 0.25, one step: 2 and 1 by one member, 4 and 2 by the other."""
    opinion = compare_in_model(Model(Known(), SCALING, SIZES, 1), always(3.0), always(2.5), np.array([[5.0]]), 0.5)
    assert opinion.steps == 1
    assert [opinion.policy.mean, opinion.clone.mean, opinion.difference.mean] == pytest.approx([3.0, 1.5, 1.5])
    # of two values 1 apart: t(1) at 97.5 % is 12.706, the deviation sqrt(1/2)
    assert opinion.difference.half_width == pytest.approx(12.706 * np.sqrt(0.5), rel=1e-3)


def test_how_many_steps_are_trusted():
    report = ModelReport({}, {}, {1: 0.1, 2: 0.2, 5: 0.45, 10: 0.51, 20: 0.8})
    assert trusted_steps(report) == 5
    assert trusted_steps(report._replace(error_after_steps={1: 0.7})) == 0


@pytest.mark.parametrize(
    ("policy", "clone", "difference", "expected"),
    [
        ((5.0, 1.0), (1.0, 1.0), (-2.0, 1.0), True),
        ((5.0, 1.0), (1.0, 1.0), (-2.0, 3.0), False),  # may be above after all
        ((5.0, 1.0), (4.0, 1.0), (-2.0, 1.0), False),  # not told apart by values
        ((5.0, 1.0), (1.0, 1.0), (2.0, 1.0), False),
        ((1.0, 1.0), (5.0, 1.0), (2.0, 1.0), True),
        ((1.0, 1.0), (5.0, 1.0), (-2.0, 1.0), False),
    ],
)
def test_a_contradiction(policy, clone, difference, expected):
    assert contradicts(Interval(*policy), Interval(*clone), Interval(*difference)) == expected


# Within an estimate ---------------------------------------------------------------------------------------------------


def judged_with(gains, folder):
    """The policy acts by 1.8 where the data do by about 1: 0.8 more at each step, by one model; by another, less."""
    model = Model(Known(gains), dataset().scaling, SIZES, 2)
    return estimate(folder / "run", folder / "cache", dataset(), Constant(1.8), dataclasses.replace(TERMS, model=model))


def test_a_model_agrees_or_makes_the_estimate_doubtful(tmp_path):
    """reward = gain action' here: (1.8 - 1) / 2 = 0.4 more by the policy in each of two steps, gamma 0.8."""
    (tmp_path / "good").mkdir()
    good = judged_with((1.0, 1.1, 0.9), tmp_path / "good")
    assert good["model"]["difference"]["mean"] == pytest.approx(0.4 * 1.8, rel=0.1) and good["model"]["steps"] == 2
    assert good["reliable"] and "(policy less clone, in 2 steps of a learned model)" in report_lines(good)
    (tmp_path / "bad").mkdir()
    bad = judged_with((-1.0, -1.1, -0.9), tmp_path / "bad")
    assert not bad["reliable"] and bad["verdict"] == "not reliable on this data"
    assert bad["why"] == ("the model sees the policy below the cloned one",)


def test_a_model_of_other_sizes_is_refused(tmp_path):
    model = Model(Known(), SCALING, Dimensions(2, 1), 2)
    with pytest.raises(UserError, match="the model is of"):
        estimate(tmp_path / "run", None, dataset(), Constant(1.8), dataclasses.replace(TERMS, model=model))


# Of a run -------------------------------------------------------------------------------------------------------------

MOPO = (
    *("DynamicsFit.epochs = 3", "DynamicsFit.epoch_steps = 10", "DynamicsFit.batch_size = 16", "Training.epochs = 1"),
    *("Dynamics.hidden_sizes = (8,)", "Dynamics.weight_decay = (0.0, 0.0)", "Training.steps_per_epoch = 4"),
    *("Training.batch_size = 20", "Imagination.starts = 20", "Actor.hidden_sizes = (8,)", "Critic.hidden_sizes = (8,)"),
    *("Loop.compiled = False", "Experiment.final_episodes = 1"),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mopo")
    data = tiny.write_hopper_dataset(folder / "hopper.hdf5")
    bindings = [f"--gin_bindings={binding}" for binding in MOPO]
    flags = [f"--dataset={data}", f"--root_dir={folder / 'runs'}", "--gin_file=mopo/base.gin", *bindings]
    done = tiny.run_here("train", *flags)
    assert done.status == 0, done.stderr
    return folder / "runs" / "hopper" / "mopo" / "0"


def test_a_run_is_judged_by_its_own_model_unless_another_is_named(run, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(finished_run, "_judge", lambda files, policy, question, *rest: asked.append(question.model))
    estimate_run(run, Question())
    estimate_run(run, Question(model=tmp_path))
    without = tmp_path / "hopper" / "bc" / "0"
    shutil.copytree(run, without)
    lines = (run / "metrics.csv").read_text().splitlines()
    (without / "metrics.csv").write_text("\n".join(line for line in lines if "error_after_steps/" not in line) + "\n")
    estimate_run(without, Question())
    assert asked == [run, tmp_path, None]


def test_a_runs_model_is_read_back(run, monkeypatch):
    with pytest.raises(UserError, match="does not follow the data for a single step"):
        monkeypatch.setattr("brac_plus_tf.estimation.model_rollouts._WORST_ERROR", 0.0)
        load_model(run)
    monkeypatch.setattr("brac_plus_tf.estimation.model_rollouts._WORST_ERROR", 1e6)
    model = load_model(run)
    assert model.horizon >= 1 and model.dimensions == Dimensions(11, 3)
    # it answers as the agent's own network does with the checkpoint's weights, and not as a new one
    state = np.random.default_rng(0).normal(size=(5, 11)).astype(np.float32)
    given = tf.constant(model._scaling.normalize_observation(state)), tf.zeros([5, 3])
    assert isinstance(model, Model) and not isinstance(model, Modelled)
    trained = model._dynamics.network.mean_of(tf.constant(0))(*given)
    fresh = LearnedDynamics(
        Dynamics(hidden_sizes=(8,), weight_decay=(0.0, 0.0)), DynamicsFit(), Problem(Dimensions(11, 3)), 0
    )
    assert not np.allclose(trained, fresh.network.mean_of(tf.constant(0))(*given), atol=1e-3)
    assert float(model._dynamics.network.input_scale.numpy().std()) > 0.0  # scales that were fitted to data
