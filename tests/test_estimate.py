"""Judging a policy by data alone: the parts by hand, and the whole on a system whose values are known."""

import csv
import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
import tiny
from test_fitted_q import in_episodes

from brac_plus_tf.agents.cloning import Cloning
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.data.hdf5_writer import write_hdf5
from brac_plus_tf.data.loading import dataset_from_arrays
from brac_plus_tf.data.rows import Rows
from brac_plus_tf.data.scaling import Scaling
from brac_plus_tf.estimation.estimate import Estimation, PolicyEvaluation, Terms, _tail, _value, estimate, report_lines
from brac_plus_tf.estimation.fitted_q import FittedQ
from brac_plus_tf.estimation.judged_policy import JudgedPolicy
from brac_plus_tf.estimation.verdict import Interval, discounted_returns, judge, of_members, of_sample
from brac_plus_tf.models.networks import Actor
from brac_plus_tf.models.optimization import Fit
from brac_plus_tf.objectives.multipliers import Multiplier
from brac_plus_tf.policies.acting import Acting, WayToAct
from brac_plus_tf.policies.saved_policy import DeployedPolicy, LoadedPolicy
from brac_plus_tf.runs.trainer import Loop

# Intervals and verdicts -----------------------------------------------------------------------------------------------


def test_intervals_by_scipy():
    members, sample = [3.0, 4.0, 8.0, 1.0], np.random.default_rng(0).normal(size=400)
    low, high = scipy.stats.t.interval(0.95, 3, np.mean(members), np.std(members, ddof=1))
    found = of_members(members)
    np.testing.assert_allclose((found.low, found.high), (low, high), rtol=1e-4)
    low, high = scipy.stats.norm.interval(0.95, sample.mean(), scipy.stats.sem(sample))
    found = of_sample(sample)
    np.testing.assert_allclose((found.low, found.high), (low, high), rtol=1e-3)
    assert of_sample([2.0]) == (2.0, np.inf)


def test_overlap():
    first = Interval(1.0, 0.5)
    assert first.overlaps(Interval(2.0, 0.5)) and first.overlaps(Interval(1.1, 0.01))
    assert not first.overlaps(Interval(2.0, 0.4)) and not first.overlaps(Interval(0.0, 0.4))


def test_discounted_returns_by_hand():
    """Rewards 1, 2, 3 to a terminal; 4, 5 and then cut, with 10 to come; an episode whose beginning is not there."""
    data = tiny.make_dataset(7, Dimensions(1, 1))
    data = tiny.with_columns(data, reward=[1, 2, 3, 4, 5, 6, 7], discount=[1, 1, 0, 1, 1, 1, 0])
    places = data.places._replace(
        episode=np.array([0, 0, 0, 1, 1, 2, 2], np.int32), step=np.array([0, 1, 2, 0, 1, 3, 4], np.int32)
    )
    tail = np.array([99.0, 99.0, 99.0, 99.0, 10.0, 99.0, 99.0])
    found = discounted_returns(dataclasses.replace(data, places=places), 0.5, tail)
    np.testing.assert_allclose(found, [1 + 2 / 2 + 3 / 4, 4 + 5 / 2 + 10 / 4])
    # in the environment's units: twice as much, and 1 more at each step
    scaling = dataclasses.replace(data.scaling, reward_shift=1.0, reward_scale=2.0)
    found = discounted_returns(dataclasses.replace(data, places=places, scaling=scaling), 0.5, tail)
    np.testing.assert_allclose(found, [3 + 5 / 2 + 7 / 4, 9 + 11 / 2 + 10 / 4])


GOOD = {
    "policy": Interval(5.0, 0.5),
    "drift": 0.1,
    "clone": Interval(1.0, 0.5),
    "data": Interval(1.2, 0.1),
    "returns": np.linspace(0.0, 2.4, 50),
    "limits": (0.0, 10.0),
}


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({}, "better than the data"),
        ({"policy": Interval(5.0, 1.19)}, "better than the data"),
        ({"policy": Interval(5.0, 0.59), "returns": np.full(50, 1.2)}, "better than the data"),
        ({"policy": Interval(0.3, 0.5)}, "worse than the data"),
        ({"policy": Interval(1.5, 0.5)}, "not told apart from the data"),
    ],
)
def test_verdicts_that_may_be_believed(change, verdict):
    assert judge(**{**GOOD, **change}) == (True, (), verdict)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"clone": Interval(2.0, 0.5)},
            r"a cloned policy is estimated at 2 \+- 0\.5 where the data earned 1\.2 \+- 0\.1",
        ),
        ({"drift": -0.6}, "still drifts: by -0.6"),
        ({"policy": Interval(5.0, 1.25)}, "the interval is 2.5 wide, wider than all that the data tell of, 2.4"),
        ({"policy": Interval(5.0, 0.7), "returns": np.full(50, 1.2)}, "1.4 wide, wider than .*, 1.2"),
        ({"returns": np.linspace(0.0, 2.4, 9)}, "9 episodes begin in the data, fewer than 10"),
        ({"limits": (0.0, 4.0)}, "leaves what rewards can sum to, 0 to 4"),
        ({"limits": (6.0, 9.0)}, "leaves what rewards can sum to, 6 to 9"),
    ],
)
def test_each_reason_not_to_believe_it(change, reason):
    reliable, why, verdict = judge(**{**GOOD, **change})
    assert (reliable, verdict, len(why)) == (False, "not reliable on this data", 1)
    assert re.search(reason, why[0])


# The whole ------------------------------------------------------------------------------------------------------------

FITTED = FittedQ(2000, 64, (64,), 3e-3, 0.0, tau=0.05, gamma=0.8, members=3, looks=20)
CLONING = Cloning(Actor((16,), (-5.0, 0.0)), Fit(600, 64, 5e-3, (1.0,)), Multiplier(0.0, 0.0))
SETTINGS, LOOP = Estimation(FITTED, CLONING, 2), Loop(compiled=False)
TERMS = Terms(None, 0, SETTINGS, LOOP)


class Constant(Acting):
    """Acts the same everywhere, in the environment's units; remembers what it was asked."""

    dimensions = Dimensions(1, 1)

    def __init__(self, value: float, remembers: bool = False) -> None:
        self._value, self._remembers, self.asked = value, remembers, []

    @property
    def actions(self) -> list[str]:
        return ["mean"]

    def way(self, name: str) -> WayToAct:
        def act(observation, state, seed):
            self.asked.append(observation)
            return np.full((len(observation), 1), self._value, np.float32), state

        return WayToAct(act, (lambda count: (np.zeros(count),)) if self._remembers else lambda count: ())


def logs(rows: int = 2000):
    """One state after another, drawn anew; an action in [0, 4], about 1, pays itself; episodes of 20 rows."""
    generator = np.random.default_rng(0)
    states = generator.normal(5.0, 2.0, size=(rows + 1, 1))
    action = np.clip(generator.normal(1.0, 0.5, size=(rows, 1)), 0.01, 3.99)
    return {
        "observations": states[:-1],
        "actions": action,
        "rewards": action[:, 0],
        "terminals": np.zeros(rows, bool),
        "timeouts": np.arange(rows) % 20 == 19,
        "next_observations": states[1:],
    }


def dataset():
    return dataset_from_arrays(logs(), rewards=None, normalize_observations=True, action_low=0.0, action_high=4.0)


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    folder, policy = tmp_path_factory.mktemp("judged"), Constant(1.8)
    return (
        folder,
        policy,
        estimate(folder / "first", folder / "cache", dataset(), policy, TERMS),
    )


def test_a_policy_that_earns_more_than_the_data(judged):
    """1.8 at each step against about 1: sums of 9 and 5 at a gamma of 0.8, whatever the data leave unsaid at cuts."""
    folder, _, content = judged
    assert content["estimate"]["mean"] == pytest.approx(9.0, abs=0.4)
    assert content["data"]["mean"] == pytest.approx(5.0, abs=0.2)
    assert content["clone"]["mean"] == pytest.approx(5.0, abs=0.4)
    assert (content["reliable"], content["verdict"]) == (True, "better than the data"), content
    assert json.loads((folder / "first" / "estimate.json").read_text()) == json.loads(json.dumps(content))
    assert abs(content["drift"]) < 0.3 and content["episodes"] == 100 and content["gamma"] == 0.8


def test_the_distance_of_its_actions_from_the_datas(judged):
    """Halves of the range [0, 4] are 2: root of the mean of ((1.8 - a) / 2)^2."""
    expected = np.sqrt(np.mean(np.square((1.8 - logs()["actions"]) / 2.0)))
    assert judged[2]["distance"] == pytest.approx(expected, rel=1e-4)


def test_the_policy_is_asked_in_the_environments_units(judged):
    _, policy, _ = judged
    seen = np.concatenate(policy.asked)
    assert abs(seen.mean() - 5.0) < 0.2 and abs(seen.std() - 2.0) < 0.2


def test_the_figures_are_told(judged):
    text = report_lines(judged[2])
    assert re.search(r"from the starts of 100 episodes, gamma 0\.8", text)
    assert re.search(r"policy +(8\.[5-9]|9)", text) and text.endswith("verdict: better than the data")
    assert re.search(r"clone +(4\.[5-9]|5)", text) and re.search(r"data +(4\.[89]|5)", text)


def test_another_policy_on_the_same_data_shares_all_but_its_own_value(judged, capsys):
    folder, _, first = judged
    second = estimate(folder / "second", folder / "cache", dataset(), Constant(0.4), TERMS)
    said = capsys.readouterr().out
    assert "behavior: 600 steps reused" in said and "clone_value: 2000 steps reused" in said
    assert second["clone"] == first["clone"] and second["data"] == first["data"]
    assert second["estimate"]["mean"] == pytest.approx(2.0, abs=0.4) and second["verdict"] == "worse than the data"


def test_a_policy_is_judged_by_its_first_way_to_act(tmp_path):
    class TwoWays(Constant):
        actions = ("mean", "sample")

    terms = dataclasses.replace(TERMS, smoke=True)
    assert estimate(tmp_path / "a", None, dataset(), TwoWays(1.8), terms)["action"] == "mean"


def test_called_again_it_learns_nothing_new(judged, capsys):
    folder, policy, content = judged
    again = estimate(folder / "first", None, dataset(), policy, TERMS)
    assert again == content and "compiling" not in capsys.readouterr().out


def test_the_cloned_policy_itself(judged):
    folder, _, content = judged
    own = estimate(folder / "clone", folder / "cache", dataset(), None, TERMS)
    assert own["estimate"] == own["clone"] == content["clone"] and own["verdict"] == "not told apart from the data"


class Following(Acting):
    """Half of the state, in the environment's units; with noise, 0.25 more or less, each row by its own seed."""

    dimensions, actions = Dimensions(1, 1), ["sample"]

    def __init__(self, noise: float) -> None:
        self._noise = noise

    def way(self, name: str) -> WayToAct:
        def act(observation, state, seed):
            sign = 2.0 * (np.random.default_rng(seed[0]).permutation(len(seed)) % 2) - 1.0
            return 0.5 * observation + self._noise * sign[:, None], state

        return WayToAct(act)


@pytest.mark.parametrize("noise", [0.0, 0.25])
def test_a_rows_next_action_is_the_policys_at_its_next_state(noise):
    """In network units (a - 2) / 2; of a policy that draws, both draws turn up."""
    data, rows = dataset(), tf.constant([3, 0, 700, 3])
    candidate = JudgedPolicy(Following(noise), "sample", data, 4, 0)
    expected = (0.5 * logs()["next_observations"][rows.numpy()] - 2.0) / 2.0
    seen = set()
    for number in range(40):
        found = candidate.next_action(rows, tf.zeros([4, 1]), tf.constant([number, 0])).numpy()
        np.testing.assert_allclose(np.abs(found - expected), noise / 2.0, atol=1e-5)
        seen.add(round(float((found - expected)[2, 0]), 3))
    assert seen == ({0.0} if not noise else {-0.125, 0.125})
    starts = tf.constant(data.transitions.observation[:5])
    first = candidate.first_action(starts, tf.constant([0, 0])).numpy()
    np.testing.assert_allclose(np.abs(first - (0.5 * logs()["observations"][:5] - 2.0) / 2.0), noise / 2.0, atol=1e-5)


# With a model ---------------------------------------------------------------------------------------------------------


def linear_clone(log_std: float) -> PolicyEvaluation:
    """A cloned policy of pre-tanh mean 0.3 state, in network units, and this logarithm of its deviation."""
    evaluation = PolicyEvaluation(SETTINGS, dataset(), None, 0)
    network = evaluation.cloned.network
    for variable in network.variables:
        variable.assign(tf.zeros_like(variable))
    first, last = (np.zeros(kernel.shape, np.float32) for kernel in network.kernels)
    first[0, 0, :2], last[0, :2, 0] = (1.0, -1.0), (0.3, -0.3)  # x = relu(x) - relu(-x)
    for kernel, value in zip(network.kernels, (first, last), strict=True):
        kernel.assign(value)
    (bias,) = (variable for variable in network.variables if variable.shape == [1, 2])
    bias.assign([[0.0, log_std]])
    return evaluation


class Says:
    """A model that finds these returns for the policy and for the cloned one; remembers what it was given."""

    dimensions, horizon = Dimensions(1, 1), 3

    def __init__(self, policy=(1.0, 1.1, 0.9), clone=(3.0, 3.1, 2.9)) -> None:
        self._returns, self.given = [policy, clone], []

    def returns(self, act, starts, gamma) -> np.ndarray:
        self.given.append((act, starts, gamma))
        return np.array(self._returns[len(self.given) - 1])[:, None]


def test_a_model_is_asked_in_the_environments_units():
    """States are N(5, 2), actions 2 + 2 tanh(0.3 (s - 5) / 2): of a clone that hardly draws."""
    evaluation, model = linear_clone(-5.0), Says()
    policy = JudgedPolicy(Constant(1.8), "mean", dataset(), 1, 0)
    opinion = evaluation.opinion(model, policy, 0)
    assert (opinion.policy.mean, opinion.clone.mean) == pytest.approx((1.0, 3.0)) and opinion.steps == 3
    (first, starts, gamma), (second, same, _) = model.given
    assert gamma == 0.8 and starts.shape == (1000, 1) and starts is same
    assert abs(starts.mean() - 5.0) < 0.3 and abs(starts.std() - 2.0) < 0.2
    states = np.array([[5.0], [9.0], [1.0]], np.float32)
    assert first(states, 0).ravel().tolist() == pytest.approx([1.8] * 3)
    normal = (states - logs()["observations"].mean()) / logs()["observations"].std()
    np.testing.assert_allclose(second(states, 0), 2.0 + 2.0 * np.tanh(0.3 * normal), atol=0.06)
    np.testing.assert_allclose(evaluation.clone_means(normal), np.tanh(0.3 * normal), atol=1e-5)


def test_the_clone_draws_anew_at_each_step_of_a_model():
    evaluation, model = linear_clone(-0.5), Says()
    evaluation.opinion(model, JudgedPolicy(Constant(1.8), "mean", dataset(), 1, 0), 0)
    clone, states = model.given[1][0], np.full((200, 1), 5.0, np.float32)
    assert np.array_equal(clone(states, 4), clone(states, 4))
    assert abs(np.corrcoef(clone(states, 4).ravel(), clone(states, 5).ravel())[0, 1]) < 0.3


def test_a_model_that_contradicts_takes_the_verdict_back(judged, tmp_path):
    folder, policy, content = judged
    shutil.copytree(folder / "first", tmp_path / "run")

    def asked(model):
        return estimate(tmp_path / "run", None, dataset(), policy, dataclasses.replace(TERMS, model=model))

    found = asked(Says())
    assert (found["reliable"], found["verdict"]) == (False, "not reliable on this data")
    assert list(found["why"]) == ["the model sees the policy below the cloned one"]
    assert found["model"]["difference"]["mean"] == pytest.approx(-2.0) and found["estimate"] == content["estimate"]
    assert "policy less clone, in 3 steps of a learned model" in report_lines(found)
    agreed = asked(Says((5.0, 5.1, 4.9)))
    assert agreed["verdict"] == content["verdict"] and not agreed["why"]
    other = Says()
    other.dimensions = Dimensions(2, 1)
    with pytest.raises(UserError, match=r"the model is of .* the data hold"):
        asked(other)


def test_what_is_to_come_is_the_clones_at_the_next_states(monkeypatch):
    """One of two members says state + 10 action, the other three times as much: on average twice as much."""
    evaluation, data = linear_clone(-5.0), dataset()

    def values(observation, action):
        one = (observation + 10.0 * action)[:, 0]
        return np.stack([one, 3.0 * one])

    monkeypatch.setattr(evaluation.clone_value, "values", values)
    following = data.transitions.next_observation[:, 0]
    expected = 2.0 * (following + 10.0 * np.tanh(0.3 * following))
    np.testing.assert_allclose(_tail(evaluation, data), expected, atol=1e-3)


def test_the_drift_is_where_the_estimate_goes(tmp_path):
    """Twenty looks of two members, 1 more at each: the last two have a mean of 18.5 and 28.5, those before 2 less."""
    rows = [f"policy_value,{step},value/{member},{step + 10 * member}\n" for step in range(20) for member in range(2)]
    (tmp_path / "metrics.csv").write_text("stage,step,metric,value\n" + "".join(rows))
    interval, drift = _value(tmp_path, "policy_value")
    assert (interval.mean, drift) == pytest.approx((23.5, 2.0))


def test_what_cannot_be_judged_is_refused(tmp_path):
    data = dataset()
    with pytest.raises(UserError, match="remembers its episode"):
        estimate(tmp_path / "a", None, data, Constant(1.0, remembers=True), TERMS)
    other = in_episodes(tiny.make_dataset(30), 10)
    with pytest.raises(UserError, match=r"the policy is for .* the data hold"):
        estimate(tmp_path / "b", None, other, Constant(1.0), TERMS)
    assert not list(tmp_path.iterdir())


# The command ----------------------------------------------------------------------------------------------------------

BINDINGS = (
    *("FittedQ.steps = 20", "FittedQ.looks = 20", "FittedQ.hidden_sizes = (8,)", "FittedQ.batch_size = 8"),
    *("clone/Fit.steps = 5", "clone/Actor.hidden_sizes = (8,)", "Loop.compiled = False"),
)


@pytest.fixture
def exported(tmp_path, monkeypatch):
    """Data in a file and an exported policy, in the working directory."""
    monkeypatch.chdir(tmp_path)
    names = ("observations", "actions", "rewards", "terminals", "timeouts", "next_observations")
    columns = (logs(60)[name] for name in names)
    rows = Rows(*(column if column.dtype == bool else column.astype(np.float32) for column in columns))
    write_hdf5(tmp_path / "my_data.hdf5", Dimensions(1, 1), 60, iter([rows]), dict)
    zero, one = np.zeros(1, np.float32), np.ones(1, np.float32)
    scaling = Scaling(zero, one, 2.0 * one, 2.0 * one)
    DeployedPolicy(tiny.TinyAgent(Dimensions(1, 1)), Dimensions(1, 1), scaling).save(tmp_path / "policy", {})
    return tmp_path


def run(*arguments):
    bounds = ("load_dataset.action_low = 0.0", "load_dataset.action_high = 4.0")
    return tiny.run_here("estimate", *arguments, *(f"--gin_bindings={binding}" for binding in (*BINDINGS, *bounds)))


def test_an_exported_policy_from_the_command_line(exported):
    done = run("--policy=policy", "--dataset=my_data.hdf5", "--output=mine", "--action=sample")
    assert done.status == 0, done.stderr
    content = json.loads((exported / "mine" / "estimate.json").read_text())
    assert content["action"] == "sample" and content["episodes"] == 3 and not content["reliable"]
    assert "verdict: not reliable on this data" in done.stdout and "3 episodes begin in the data" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("results: mine")
    assert (exported / "mine" / "metrics.csv").exists()


def test_what_does_not_name_one_policy_is_refused(exported):
    assert "either --run_dir or --policy" in run("--dataset=my_data.hdf5").stderr
    assert "--policy needs --dataset" in run("--policy=policy").stderr
    assert (
        "no effect"
        in run("--policy=policy", "--dataset=my_data.hdf5", "--output=a", "--gin_bindings=Critic.members = 3").stderr
    )
    assert not (exported / "a").exists()


@pytest.mark.parametrize(
    ("flags", "name", "steps"), [((), "bc", 20), (("--smoke",), "bc-smoke", 5)]
)  # 5 steps of cloning
def test_a_run_is_judged_by_its_own_data_as_it_was_evaluated(exported, flags, name, steps):
    bindings = ("behavior/Fit.steps = 5", "behavior/Actor.hidden_sizes = (8,)", "Loop.compiled = False")
    bounds = ("load_dataset.action_low = 0.0", "load_dataset.action_high = 4.0")
    arguments = ["--gin_file=bc/base.gin", "--dataset=my_data.hdf5", "--env=none", "--estimate=none", *flags]
    done = tiny.run_here("train", *arguments, *(f"--gin_bindings={binding}" for binding in (*bindings, *bounds)))
    assert done.status == 0, done.stderr
    directory = exported / "runs" / "my_data" / name / "0"
    # as exports of earlier versions are, whose first way to act need not be what the run was evaluated by
    metadata = directory / "saved_model" / "policy.json"
    content = json.loads(metadata.read_text())
    assert content["actions"] == ["sample", "mean"]
    metadata.write_text(json.dumps(content | {"actions": ["mean", "sample"]}))
    assert LoadedPolicy(directory / "saved_model").actions[0] != "sample"  # cloning is evaluated by its draws
    done = run(f"--run_dir={directory}")
    assert done.status == 0, done.stderr
    assert json.loads((directory / "estimate" / "estimate.json").read_text())["action"] == "sample"
    with open(directory / "estimate" / "metrics.csv") as file:
        assert max(int(row["step"]) for row in csv.DictReader(file)) == steps
    assert list((exported / "runs" / "stage_cache").glob("clone_value-*"))
