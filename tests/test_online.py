import csv
import json
import pathlib
import shutil

import gin
import h5py
import numpy as np
import own_environments
import pytest
import scipy.stats
import tensorflow as tf
import tiny
from remembering import RememberingAgent, remembered
from safetensors.numpy import load_file

from brac_plus_tf.agents.base import Agent, Policy, Problem, Stage, stateless, uniform_rows
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.randomness import base_seed, initializer_seed, standard_normal
from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.data.replay_buffer import ReplayBuffer
from brac_plus_tf.data.rows import empty_rows
from brac_plus_tf.data.scaling import task_scaling
from brac_plus_tf.environments.environment import make_environment
from brac_plus_tf.environments.tasks import find_task
from brac_plus_tf.policies.saved_policy import LoadedPolicy
from brac_plus_tf.runs import configuration
from brac_plus_tf.runs.online import Explorer, OnlineExperiment, run_online
from brac_plus_tf.runs.session import LivePolicyEvaluation
from brac_plus_tf.runs.trainer import Loop

STEPS, RANDOM, EPOCH = 260, 60, 40
SMALL_SAC = (
    "OnlineExperiment.total_steps = 120",
    "OnlineExperiment.random_steps = 40",
    "OnlineExperiment.evaluation_episodes = 1",
    "OnlineExperiment.final_episodes = 2",
    "Actor.hidden_sizes = (8,)",
    "Critic.hidden_sizes = (8,)",
    "Training.steps_per_epoch = 30",
    "Training.batch_size = 8",
    "Loop.evaluation_epochs = 2",
)


class OneStageAgent(Agent):
    """Adds up what its batches hold; `mean` acts by tanh of the first three entries, `drawn` by its variable's size."""

    def __init__(self, problem, seed):
        self.total = tf.Variable(tf.zeros([problem.dimensions.observation]))

    def stages(self):
        return [Stage("main", 7, uniform_rows(16), self.update, EPOCH, evaluate=True)]

    def components(self):
        return {"total": [self.total]}

    def policies(self):
        return {"mean": stateless(lambda observation, seed: tf.tanh(observation[:, :3]))}

    def update(self, batch, seed):
        self.total.assign_add(tf.reduce_mean(batch.observation, axis=0) + standard_normal([11], seed))
        empty = tf.reduce_all(batch.next_observation == 0.0, axis=-1)
        return {"share_of_empty_rows": tf.reduce_mean(tf.cast(empty, tf.float32))}


class TwoStageAgent(OneStageAgent):
    """Prepares itself on data that are not there online."""

    def stages(self):
        return [*super().stages(), *super().stages()]


def run(root: pathlib.Path, seed: int = 0, **changes) -> pathlib.Path:
    gin.clear_config()
    values = {
        "agent": OneStageAgent,
        "agent_name": "one",
        "environment": "Hopper-v4",
        "total_steps": STEPS,
        "random_steps": RANDOM,
        "exploration": "mean",
        "evaluation_episodes": 1,
        "final_episodes": 2,
        "loop": Loop(steps_per_call=25, checkpoint_interval=50, evaluation_epochs=1, compiled=False),
    }
    return run_online(OnlineExperiment(**(values | changes)), str(root), seed)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run(tmp_path_factory.mktemp("online"))


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        return {key: file[key][:] for key in file if key != "metadata"}


def results(directory: pathlib.Path) -> dict[str, bytes]:
    """All that a run ends in, but for what carries times."""
    names = ("metrics.csv", "evaluation.json", "replay.hdf5", "curves.png", "saved_model/policy.json")
    return {name: (directory / name).read_bytes() for name in names}


def last_state(directory: pathlib.Path) -> dict[str, np.ndarray]:
    return load_file(sorted((directory / "checkpoints").glob("*.safetensors"))[-1])


class TwoWayAgent(OneStageAgent):
    """Acts by its mean, or stands still."""

    def policies(self):
        return super().policies() | {"still": stateless(lambda observation, seed: tf.zeros_like(observation[:, :3]))}


def test_what_a_run_is_evaluated_by_is_what_its_export_serves(tmp_path):
    directory = run(tmp_path, agent=TwoWayAgent, action="still", total_steps=60)
    for name in ("run.json", "evaluation.json"):
        assert json.loads((directory / name).read_text())["action"] == "still"
    policy = LoadedPolicy(directory / "saved_model")
    assert policy.actions == ["still", "mean"]
    np.testing.assert_array_equal(policy.act(np.ones(11)), np.zeros(3))


def test_what_a_run_leaves(finished):
    names = {path.name for path in finished.iterdir()}
    assert {"replay.hdf5", "curves.png", "saved_model", "evaluation.json", "metrics.csv", "run.json"} <= names
    assert "saved_model_partial" not in names
    assert (finished / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((finished / "run.json").read_text())["environment"]["task"] == "Hopper-v4"
    assert LoadedPolicy(finished / "saved_model").actions == ["mean"]


def test_the_record_repeats_in_the_simulator(finished):
    """Each episode from its seed, by gymnasium alone."""
    rows, environment = read(finished / "replay.hdf5"), make_environment(find_task("Hopper-v4"), "gymnasium")
    assert len(rows["rewards"]) == STEPS
    assert rows["timeouts"].tolist() == [False] * (STEPS - 1) + [not rows["terminals"][-1]]
    observation, episode = environment.reset(seed=initializer_seed(0, "exploration 0"))[0], 0
    for row in range(STEPS):
        np.testing.assert_array_equal(rows["observations"][row], observation.astype(np.float32))
        observation, reward, terminated, _, _ = environment.step(rows["actions"][row])
        np.testing.assert_array_equal(rows["next_observations"][row], observation.astype(np.float32))
        assert (rows["rewards"][row], rows["terminals"][row]) == (np.float32(reward), terminated)
        if terminated:
            episode += 1
            observation = environment.reset(seed=initializer_seed(0, f"exploration {episode}"))[0]
    assert episode > 3


def test_uniform_actions_first_then_the_policys(finished):
    rows = read(finished / "replay.hdf5")
    expected = np.tanh(rows["observations"][:, :3].astype(np.float64))
    assert (np.abs(rows["actions"] - expected).max(axis=1) < 1e-6).tolist() == [False] * RANDOM + [True] * (
        STEPS - RANDOM
    )
    uniform = scipy.stats.kstest(rows["actions"][:RANDOM].reshape(-1), scipy.stats.uniform(-1.0, 2.0).cdf)
    assert uniform.pvalue > 1e-3


def test_updates_draw_from_played_steps_alone(finished):
    """Steps are taken before the updates of their epoch; places not filled yet hold zeros, and none is drawn."""
    with open(finished / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    empty = {int(row["step"]): float(row["value"]) for row in rows if row["metric"] == "share_of_empty_rows"}
    # calls end at multiples of 25, at those of 40, where an epoch does, and at the end
    assert list(empty) == [25, 40, 50, 75, 80, 100, 120, 125, 150, 160, 175, 200, 225, 240, 250, 260]
    assert set(empty.values()) == {0.0}
    evaluated = [int(row["step"]) for row in rows if row["metric"] == "evaluation/return_mean"]
    assert evaluated == [40, 80, 120, 160, 200, 240, 260]


@pytest.mark.parametrize("call", [1, 4, 6])
def test_a_killed_run_ends_in_the_same_bits(tmp_path, finished, monkeypatch, call):
    """Killed while it plays before epoch number `call`; a later checkpoint than the last epoch's end is passed over."""
    original, calls = Explorer.play, []

    def play(self, steps, seed):
        calls.append(steps)
        if len(calls) == call + 1:
            original(self, steps // 2, seed)
            raise KeyboardInterrupt
        original(self, steps, seed)

    monkeypatch.setattr(Explorer, "play", play)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    monkeypatch.setattr(Explorer, "play", original)
    directory = run(tmp_path)
    tiny.assert_same_bits(last_state(directory), last_state(finished))
    assert results(directory) == results(finished)


def test_another_seed_is_another_run(tmp_path, finished):
    other, first = read(run(tmp_path, seed=1) / "replay.hdf5"), read(finished / "replay.hdf5")
    for key in ("observations", "actions"):
        assert not (other[key][:, None] == first[key][None]).all(axis=-1).any()


def test_the_target_keeps_policy_and_data_of_two_evaluations_in_a_row(tmp_path, monkeypatch):
    means = iter([5.0, 12.0, 9.0, 11.0, 13.0, 20.0, 30.0])
    summary = lambda self: {"return_mean": next(means), "return_std": 1.0}  # noqa: E731
    monkeypatch.setattr(LivePolicyEvaluation, "intermediate", summary)
    directory = run(tmp_path, eval_target=10.0)
    partial, whole = read(directory / "replay_partial.hdf5"), read(directory / "replay.hdf5")
    assert len(partial["rewards"]) == 200  # the fifth evaluation, after steps 40, 80, ... 200
    np.testing.assert_array_equal(partial["actions"], whole["actions"][:200])
    assert partial["timeouts"].tolist() == [False] * 199 + [not partial["terminals"][-1]]
    assert LoadedPolicy(directory / "saved_model_partial").actions == ["mean"]
    with h5py.File(directory / "replay_partial.hdf5") as file:
        assert (file.attrs["last_evaluation"], file.attrs["env_id"]) == (13.0, "Hopper-v4")


def test_a_simulator_that_does_not_repeat_itself_is_refused(tmp_path, finished):
    copy = tmp_path / "Hopper-v4" / "one" / "0"
    shutil.copytree(finished, copy)
    for later in ("1-000000000", "0-000000250"):
        (copy / "checkpoints" / f"{later}.safetensors").unlink()
    (left,) = (copy / "checkpoints").glob("*.safetensors")

    class Drifting:
        backend = "gymnasium"

        def __init__(self, inner):
            self.inner, self.reset, self.close = inner, inner.reset, inner.close

        def step(self, action):
            observation, *rest = self.inner.step(action)
            return (observation + 1e-3, *rest)

    assert int(left.stem.split("-")[1]) % EPOCH == 0  # goes on by playing
    with pytest.raises(UserError, match="does not repeat"):
        run(tmp_path, make_environment=lambda task: Drifting(make_environment(task)))


def track_explorer(policy: Policy, rows: int = 60) -> tuple[Explorer, ReplayBuffer]:
    """Plays Track-v0 for at most 3 steps an episode, by the policy from the first step on."""
    task = find_task("Track-v0", 3)
    buffer = ReplayBuffer(task.dimensions, task_scaling(task), rows)
    return Explorer(make_environment(task, "gymnasium"), task, policy, buffer, 0, seed=3), buffer


def play(explorer: Explorer, rounds: range) -> None:
    """10 steps in each round: episodes go on from one round to the next."""
    for number in rounds:
        explorer.play(10, base_seed(number))


def test_a_policys_state_begins_with_each_episode_and_outlives_a_round():
    explorer, buffer = track_explorer(RememberingAgent(Dimensions(3, 2)).policies()["plan"])
    play(explorer, range(6))
    rows = buffer.rows()
    ends = np.flatnonzero(rows.terminals | rows.timeouts) + 1
    assert rows.terminals.any() and rows.timeouts.any() and (ends % 10).any()
    parts = np.split(rows.observations, ends)
    expected = np.concatenate([remembered(part, 2) for part in parts])
    scale = 0.5 * (own_environments.HIGH - own_environments.LOW)
    np.testing.assert_allclose(rows.actions, own_environments.LOW + scale * (1.0 + expected), atol=1e-6)


STRAIGHT = stateless(lambda observation, noise: tf.fill([tf.shape(observation)[0], 2], -2 / 3))  # never falls


@pytest.mark.parametrize("done", [1, 2, 3, 4])
@pytest.mark.parametrize("policy", [RememberingAgent(Dimensions(3, 2)).policies()["plan"], STRAIGHT])
def test_an_explorer_that_is_resumed_goes_on_in_the_same_episode(policy, done):
    whole, expected = track_explorer(policy)
    play(whole, range(5))
    first, before = track_explorer(policy)
    play(first, range(done))
    second, after = track_explorer(policy)
    for source, target in ((before.variables, after.variables), (first.variables, second.variables)):
        for one, other in zip(source, target, strict=True):
            other.assign(one)
    play(second, range(done, 5))
    for key, column in expected.rows().columns().items():
        np.testing.assert_array_equal(after.rows().columns()[key], column, err_msg=key)


def test_each_step_of_a_round_draws_its_own_noise():
    explorer, buffer = track_explorer(stateless(lambda observation, noise: tf.tanh(noise), noise=2, seeded=True))
    play(explorer, range(6))
    half = 0.5 * (own_environments.HIGH - own_environments.LOW)
    noise = np.arctanh((buffer.rows().actions - own_environments.LOW) / half - 1.0)
    assert len(np.unique(noise)) == noise.size
    assert scipy.stats.kstest(noise.reshape(-1), scipy.stats.norm.cdf).pvalue > 1e-3
    assert np.abs(np.corrcoef(noise[1:].T, noise[:-1].T)[:2, 2:]).max() < 0.45  # 3.5 standard errors


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"agent": TwoStageAgent}, "cannot learn online"),
        ({"exploration": "sideways"}, "exploration: 'sideways' is none of mean"),
        ({"action": "sideways"}, "action: 'sideways' is none of mean"),
        ({"environment": "Hopper-v9"}, "Hopper-v9"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        run(tmp_path, **changes)
    assert list(tmp_path.iterdir()) == []


def test_the_command_trains_sac(tmp_path):
    """With the gin file that it takes by default; the temperature moves, and everything in the record is finite."""
    arguments = [f"--gin_bindings={binding}" for binding in SMALL_SAC]
    outcome = tiny.run_here("train_online", "--env=Hopper-v4", "--total_steps=90", f"--root_dir={tmp_path}", *arguments)
    assert outcome.status == 0, outcome.stderr
    directory = tmp_path / "Hopper-v4" / "sac_online" / "0"
    assert f"results: {directory}" in outcome.stdout
    assert len(read(directory / "replay.hdf5")["rewards"]) == 120  # the binding wins over the flag
    written = (tiny.CONFIGS / "sac" / "online.gin").read_text().splitlines()
    bound = {line.split(" = ")[0] for line in written if " = " in line and not line.startswith("#")}
    operative = (directory / "operative_config.gin").read_text().splitlines()
    assert bound <= {line.split(" = ")[0] for line in operative}
    state = last_state(directory)
    temperatures = [array for name, array in state.items() if name.startswith("temperature")]
    assert temperatures and abs(float(temperatures[0])) > 0.0
    evaluated = tiny.run_here("evaluate", f"--run_dir={directory}", "--episodes=2")
    assert evaluated.status == 0, evaluated.stderr


def test_settings_of_the_file_are_as_documented():
    """Spinning Up's SAC: networks of 256 and 256, Adam at 1e-3, batches of 100, polyak 0.995."""
    here = "OnlineExperiment.environment = 'Hopper-v4'"
    experiment = configuration.build(OnlineExperiment, ["sac/online.gin"], [here])
    task = find_task("Hopper-v4")
    agent = experiment.agent(Problem(task.dimensions, task_scaling(task), task), 0)
    (stage,) = agent.stages()
    source = ReplayBuffer(task.dimensions, task_scaling(task), 10)
    source.append(empty_rows(task.dimensions, 10))
    assert stage.draw(source, base_seed(0)).observation.shape == (100, 11)
    assert [tuple(variable.shape) for variable in agent.actor.trainable_variables][::2] == [
        (1, 11, 256),
        (1, 256, 256),
        (1, 256, 6),
    ]
    for optimizer in (agent.critic_optimizer, agent.policy_optimizer):
        assert float(optimizer.learning_rate) == np.float32(1e-3)
