"""Environments that somebody brings along, by `module:id` or `module:factory`: their bounds, limits and scores."""

import json
from fractions import Fraction

import gin
import gymnasium
import numpy as np
import pytest
import tensorflow as tf
import tiny
from own_environments import HIGH, LOW

from brac_plus_tf.agents.base import Problem
from brac_plus_tf.agents.bcq import BCQ
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.data.hdf5_reader import read_rows
from brac_plus_tf.data.scaling import task_scaling
from brac_plus_tf.environments.environment import environment_specification, make_environment
from brac_plus_tf.environments.tasks import find_task
from brac_plus_tf.policies.evaluation import Evaluator
from brac_plus_tf.policies.saved_policy import DeployedPolicy

SCORE = ["Task.reference_score = @ReferenceScore()", "ReferenceScore.minimum = 1", "ReferenceScore.maximum = 5"]


@pytest.mark.parametrize(
    ("name", "horizon", "limit"),
    [
        ("Track-v0", None, 12),  # registered, since this test imports the module
        ("own_environments:Track-v0", None, 12),
        ("own_environments:Track-v0", 7, 7),
        ("own_environments:make_track", 9, 9),
        ("own_environments:make_limited", None, 5),
        ("own_environments:make_limited", 3, 3),
        ("own_environments:Track", 4, 4),  # a class is called, too
    ],
)
def test_sizes_bounds_and_limit_are_the_environments_own(name, horizon, limit):
    task = find_task(name, horizon)
    assert (task.name, task.dimensions, task.horizon) == (name, Dimensions(3, 2), limit)
    np.testing.assert_array_equal([task.action_low, task.action_high], [LOW, HIGH])
    assert task.reference_score is None and not task.is_d4rl and task.dataset_url is None
    environment = make_environment(task)
    assert environment.backend == "gymnasium"
    environment.reset(seed=0)
    action = np.zeros(2, np.float32)
    assert [environment.step(action)[2:4] for _ in range(limit)] == [(False, False)] * (limit - 1) + [(False, True)]
    specification = environment_specification(task)
    assert (specification.id in name, specification.max_episode_steps) == (True, limit)


def test_a_limit_of_the_tasks_own_leaves_gymnasiums_table_as_it_is():
    before = gymnasium.spec("Hopper-v4").max_episode_steps
    assert environment_specification(find_task("Hopper-v4", 7)).max_episode_steps == 7
    assert gymnasium.spec("Hopper-v4").max_episode_steps == before == 1000


def test_actions_between_minus_1_and_1_are_between_the_bounds_of_each_dimension():
    scaling = task_scaling(find_task("Track-v0"))
    ends = scaling.to_environment_action(np.array([[-1.0, -1.0], [0.0, 0.0], [1.0, 1.0]]))
    np.testing.assert_allclose(ends, [[0.0, -0.2], [0.25, 0.4], [0.5, 1.0]], atol=1e-7)


def test_bounds_of_doubles_become_the_nearest_ones_within():
    """Exactly: their fractions are compared, not rounded values."""
    task, bounds = find_task("own_environments:make_double_bounds", 5), [(-0.1, -0.7), (0.1, 1 / 3)]
    for given, sign, found in zip(bounds, (1, -1), (task.action_low, task.action_high), strict=True):
        assert found.dtype == np.float32
        for exact, single in zip(given, found, strict=True):
            beyond = np.nextafter(single, np.float32(-sign * np.inf))
            assert sign * Fraction(float(single)) >= sign * Fraction(exact) > sign * Fraction(float(beyond))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Trak-v0", r"unknown task 'Trak-v0': nearest: Track-v0.*; any gymnasium id or module:factory works"),
        ("own_environments:Trak-v0", "'own_environments' has no environment and no function 'Trak-v0'"),
        ("no_such_module:make", "the module 'no_such_module' cannot be imported"),
        (":make", "cannot be imported"),
        ("own_environments:", "no function ''"),
        ("own_environments:LOW", "no function 'LOW'"),
        ("own_environments:make_track", "no time limit of its own; give one"),
        ("own_environments:Endless-v0", "no time limit of its own; give one"),
        ("own_environments:make_discrete", r"action space is Discrete\(3\); only flat Box"),
        ("own_environments:make_image", r"observation space is Box.*\(8, 8\).*only flat Box"),
        ("own_environments:make_dictionary", "observation space is Dict.*only flat Box"),
        ("own_environments:make_unbounded", "bounds must be finite"),
        ("own_environments:make_flat_bounds", "the low ones below the high ones"),
        ("own_environments:make_whole_numbers", "actions are of int64"),
        ("own_environments:make_nothing", "gives str, which is no gymnasium.Env"),
        ("own_environments:make_failing", "cannot be made .RuntimeError: no licence"),
        ("FrozenLake-v1", r"observation space is Discrete\(16\); only flat Box"),
    ],
)
def test_what_cannot_be_used_is_refused_plainly(name, message):
    with pytest.raises(UserError, match=message) as error:
        find_task(name)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_a_module_that_only_a_data_file_names_is_not_imported(tmp_path):
    from brac_plus_tf.data.sources import dataset_task

    path = tiny.write_hopper_dataset(tmp_path / "data.hdf5")
    import h5py

    for recorded, expected in (("own_environments:Track-v0", None), ("Track-v0", "Track-v0"), ("Trak-v0", None)):
        with h5py.File(path, "a") as file:
            file.attrs["env_id"] = recorded
        task = dataset_task(str(path))
        assert (task.name if task else None) == expected


@pytest.mark.parametrize("action", ["max_q", "sample"])
def test_an_episode_returns_the_same_however_many_are_evaluated(action):
    """BCQ's default way to act once gave 5.9, 3.3 and 36.6 for one episode beside none, one and three others."""
    task = find_task("Track-v0")
    agent = BCQ(Problem(task.dimensions, task_scaling(task), task), 0, hidden_sizes=(16,))
    way = DeployedPolicy(agent, task.dimensions, task_scaling(task)).way(action)
    outcomes = [
        Evaluator(lambda: make_environment(task), task.horizon).run(way, count, seed=3) for count in (1, 2, 4, 120)
    ]
    for outcome in outcomes[:-1]:
        count = len(outcome.returns)
        np.testing.assert_allclose(outcome.returns, outcomes[-1].returns[:count], rtol=1e-5)
        np.testing.assert_array_equal(outcome.lengths, outcomes[-1].lengths[:count])
    assert len(set(outcomes[-1].returns.tolist())) > 100  # of two simulators' rounds, 100 side by side


# Through the commands -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    """300 uniform steps."""
    path = tmp_path_factory.mktemp("track") / "track.hdf5"
    arguments = ["--policy=random", f"--output={path}", "--n_samples=300", "--workers=1"]
    done = tiny.run_here(
        "collect_data",
        *arguments,
        "--env=own_environments:make_track",
        "--gin_bindings=Task.horizon = 12",
        "--gin_bindings=Collection.shard_episodes = 20",
    )
    assert done.status == 0, done.stderr
    return path


@pytest.fixture(scope="module")
def trained(collected):
    bindings = [f"--gin_bindings={line}" for line in [*SCORE, "Task.horizon = 12"]]
    root = collected.parent / "runs"
    done = tiny.run_here(
        "train",
        "--gin_file=bc/base.gin",
        f"--dataset={collected}",
        "--env=own_environments:make_track",
        "--smoke",
        f"--root_dir={root}",
        *bindings,
    )
    assert done.status == 0, done.stderr
    (facts,) = root.rglob("run.json")
    return facts.parent


def test_collected_actions_fill_the_bounds(collected):
    rows = read_rows(str(collected), None)
    np.testing.assert_allclose(rows.actions.min(axis=0), LOW, atol=0.02)
    np.testing.assert_allclose(rows.actions.max(axis=0), HIGH, atol=0.02)
    np.testing.assert_array_equal(rows.rewards, rows.actions[:, 0])
    assert (np.diff(np.flatnonzero(rows.terminals | rows.timeouts)) <= 12).all() and rows.terminals.any()


def test_a_run_is_evaluated_there_and_scored(trained):
    facts = json.loads((trained / "run.json").read_text())["environment"]
    assert facts == {
        "task": "own_environments:make_track",
        "horizon": 12,
        "reference_score": [1.0, 5.0],
        "backend": "gymnasium",
    }
    content = json.loads((trained / "evaluation.json").read_text())
    np.testing.assert_allclose(content["scores"], (np.array(content["returns"]) - 1.0) / 4.0 * 100.0)
    assert max(content["lengths"]) <= 12


def test_evaluate_goes_by_the_runs_record_and_by_its_flags(trained):
    """The record's task, limit and scores; with the run's own seed and action, the same returns as the run's."""
    action = json.loads((trained / "evaluation.json").read_text())["action"]
    count = len(json.loads((trained / "evaluation.json").read_text())["returns"])
    given = [f"--run_dir={trained}", f"--episodes={count}"]
    done = tiny.run_here("evaluate", *given)
    assert done.status == 0, done.stderr
    again = json.loads((trained / f"evaluation-{action}-0.json").read_text())
    own = json.loads((trained / "evaluation.json").read_text())
    assert again == {key: value for key, value in own.items() if key != "last_evaluations"} | {"seed": 0}
    done = tiny.run_here(
        "evaluate", *given, "--env=own_environments:Track-v0", "--horizon=3", "--reference_score=0,2", "--seed=5"
    )
    assert done.status == 0, done.stderr
    other = json.loads((trained / f"evaluation-{action}-5.json").read_text())
    assert max(other["lengths"]) == 3
    np.testing.assert_allclose(other["scores"], np.array(other["returns"]) * 50.0)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--horizon=3"], "belong to what --env names"),
        (["--env=Track-v0", "--reference_score=1"], "give two numbers"),
        (["--env=Track-v0", "--reference_score=a,b"], "give two numbers"),
        (["--env=Track-v0", "--reference_score=5,1"], "minimum 5.0 must be below maximum 1.0"),
        (["--env=own_environments:make_track"], "no time limit"),
        (["--env=own_environments:make_discrete", "--horizon=3"], "only flat Box"),
    ],
)
def test_flags_that_evaluate_refuses(trained, flags, message):
    done = tiny.run_here("evaluate", f"--run_dir={trained}", "--episodes=1", *flags)
    assert done.status == 1 and message in done.stderr


def test_the_exported_policy_keeps_to_the_bounds(trained, tmp_path):
    done = tiny.run_here("export", f"--run_dir={trained}", f"--output={tmp_path / 'policy'}")
    assert done.status == 0, done.stderr
    observation = tf.constant(np.random.default_rng(0).normal(scale=100.0, size=(500, 3)), tf.float32)
    signatures = tf.saved_model.load(str(tmp_path / "policy")).signatures
    for signature in signatures.values():
        inputs = signature.structured_input_signature[1]
        given = {"seed": tf.range(500)} if "seed" in inputs else {}
        given |= {"noise": tf.random.stateless_normal([500, 2], [0, 1])} if "noise" in inputs else {}
        action = signature(observation=observation, **given)["action"].numpy()
        assert ((action >= LOW - 1e-6) & (action <= HIGH + 1e-6)).all()


@pytest.mark.parametrize("command", ["inspect_dataset", "convert_to_minari"])
def test_the_data_commands_take_it_too(collected, tmp_path, monkeypatch, command):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    more = [] if command == "inspect_dataset" else ["track/random-v0"]
    bindings = ["Task.horizon = 12"]
    if command == "inspect_dataset":
        bindings += ["Task.reference_score = @ReferenceScore()", "ReferenceScore.minimum = 0.0"]
        bindings += ["ReferenceScore.maximum = 4.0"]
    flags = ["--env=own_environments:make_track", *(f"--gin_bindings={binding}" for binding in bindings)]
    done = tiny.run_here(command, str(collected), *more, *flags)
    assert done.status == 0, done.stderr
    if command == "inspect_dataset":
        assert "own_environments:make_track (at most 12 steps)" in done.stdout and "normalized score" in done.stdout
    else:
        space = json.loads((tmp_path / "track/random-v0/data/metadata.json").read_text())["action_space"]
        assert json.loads(space)["high"] == [0.5, 1.0]


def test_an_agent_learns_online_in_it(tmp_path):
    bindings = ["Actor.hidden_sizes = (8,)", "Critic.hidden_sizes = (8,)", "OnlineExperiment.random_steps = 20"]
    done = tiny.run_here(
        "train_online",
        "--env=own_environments:Track-v0",
        "--smoke",
        "--total_steps=60",
        f"--root_dir={tmp_path}",
        *(f"--gin_bindings={line}" for line in bindings),
    )
    assert done.status == 0, done.stderr
    (record,) = tmp_path.rglob("replay.hdf5")
    assert record.parent.parent.parent.name == "own_environments-Track-v0"
    actions = read_rows(str(record), None).actions
    assert ((actions >= LOW - 1e-6) & (actions <= HIGH + 1e-6)).all()


@pytest.fixture(autouse=True)
def clean():
    gin.clear_config()
