"""A policy's state wherever policies act: evaluating, recording, exploring, exported and loaded again.

The expected actions are those of `remembering.remembered`, which knows one episode and no batch.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from recordings import TASK
from remembering import RememberingAgent, remembered

from brac_plus_tf.collection.recording import Collection, Part, Plan, Player
from brac_plus_tf.core.randomness import base_seed, fold
from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.data.replay_buffer import ReplayBuffer
from brac_plus_tf.data.scaling import Scaling, task_scaling
from brac_plus_tf.environments.environment import make_environment
from brac_plus_tf.policies import evaluation
from brac_plus_tf.policies.evaluation import Evaluator
from brac_plus_tf.policies.saved_policy import DeployedPolicy, LoadedPolicy
from brac_plus_tf.runs.online import Explorer

DIMENSIONS = Dimensions(3, 2)
SCALING = Scaling(*(np.array(values, np.float32) for values in ([1, -2, 3], [2, 4, 0.5], [0.5, -1], [2, 0.25])))


def in_units(actions: np.ndarray) -> np.ndarray:
    return actions * [2.0, 0.25] + [0.5, -1.0]


def normalized(observations: np.ndarray) -> np.ndarray:
    return (observations - [1.0, -2.0, 3.0]) / [2.0, 4.0, 0.5]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    directory = tmp_path_factory.mktemp("remembering") / "policy"
    policy = DeployedPolicy(RememberingAgent(DIMENSIONS), DIMENSIONS, SCALING)
    policy.save(directory, {})
    return policy, directory


# Exported -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["live", "loaded"])
def test_five_steps_in_which_one_row_begins_anew(exported, kind):
    """Row 1 of 4 begins a new episode at step 2."""
    way = (exported[0] if kind == "live" else LoadedPolicy(exported[1])).way("plan")
    observations = np.random.default_rng(0).normal(size=(5, 4, 3)).astype(np.float32)
    state, actions = way.initial_state(4), []
    for step, observation in enumerate(observations):
        if step == 2:
            state = tuple(np.array(leaf) for leaf in state)
            for leaf, initial in zip(state, way.initial_state(1), strict=True):
                leaf[1] = initial[0]
        action, state = way.act(observation, state, 0)
        actions.append(action)
    expected = [in_units(remembered(normalized(observations[:, row]), 2)) for row in range(4)]
    expected[1][2:] = in_units(remembered(normalized(observations[2:, 1]), 2))
    np.testing.assert_allclose(np.stack(actions, axis=1), expected, atol=1e-6)


def test_signatures_name_the_state(exported):
    """In the order of tf.nest: keys of a dictionary by name. Ways that remember nothing are as they always were."""
    signatures = tf.saved_model.load(str(exported[1])).signatures
    own = {"serving_default", "plan", "initial_state_plan"}
    assert set(signatures) == own | {"mean", "sample", "sample_with_noise", "best"}
    plan = signatures["serving_default"]
    assert plan.structured_input_signature == signatures["plan"].structured_input_signature
    shapes = {key: (spec.shape.as_list(), spec.dtype) for key, spec in plan.structured_input_signature[1].items()}
    state = {"state_0": ([None, 2], tf.float32), "state_1": ([None], tf.int32)}
    assert shapes == {"observation": ([None, 3], tf.float32)} | state
    assert set(plan.structured_outputs) == {"action", "state_0", "state_1"}
    assert set(signatures["mean"].structured_input_signature[1]) == {"observation"}
    assert set(signatures["mean"].structured_outputs) == {"action"}
    begun = signatures["initial_state_plan"](count=tf.constant(3))
    np.testing.assert_array_equal(begun["state_0"], np.full((3, 2), 0.25))
    np.testing.assert_array_equal(begun["state_1"], [0, 0, 0])


CLIENT = """
import sys
sys.modules["brac_plus_tf"] = None
import json, numpy as np, tensorflow as tf
signatures = tf.saved_model.load(sys.argv[1]).signatures
observations, actions = np.load(sys.argv[2]), []
state = signatures["initial_state_plan"](count=tf.constant(observations.shape[1]))
for observation in observations:
    outputs = signatures["serving_default"](observation=tf.constant(observation), **state)
    actions.append(outputs.pop("action").numpy().tolist())
    state = outputs
print(json.dumps(actions))
"""


def test_a_client_with_tensorflow_alone_carries_the_state(exported, tmp_path):
    """The outputs but for the action are the next call's inputs."""
    observations = np.random.default_rng(1).normal(size=(5, 2, 3)).astype(np.float32)
    np.save(tmp_path / "observations.npy", observations)
    command = [sys.executable, "-c", CLIENT, str(exported[1]), str(tmp_path / "observations.npy")]
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    expected = [in_units(remembered(normalized(observations[:, row]), 2)) for row in range(2)]
    actions = np.array(json.loads(done.stdout.splitlines()[-1]))
    np.testing.assert_allclose(actions.transpose(1, 0, 2), expected, atol=1e-6)


# In simulators --------------------------------------------------------------------------------------------------------


class Walk:
    """Observations drawn from the episode's seed; the reward is the first action; 2 + seed % 4 steps."""

    def reset(self, *, seed=None):
        self.observations, self.step_number = walk(seed), 0
        return self.observations[0], {}

    def step(self, action):
        self.step_number += 1
        last = self.step_number == len(self.observations)
        observation = np.full(3, np.nan) if last else self.observations[self.step_number]
        return observation, float(action[0]), last, False, {}


def walk(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(2 + seed % 4, 3))


@pytest.mark.parametrize("kind", ["live", "loaded"])
def test_an_evaluations_episodes_do_not_see_one_another(exported, kind, monkeypatch):
    """Ten episodes of four lengths in three simulators, whose batch goes on after the first has run out of episodes."""
    monkeypatch.setattr(evaluation, "_WIDTH", 3)
    way = (exported[0] if kind == "live" else LoadedPolicy(exported[1])).way("plan")
    seeds = []

    class Logged(Walk):
        def reset(self, *, seed=None):
            seeds.append(seed)
            return super().reset(seed=seed)

    outcome = Evaluator(Logged, 100).run(way, 10, seed=0)
    expected = {seed: in_units(remembered(normalized(walk(seed)), 2))[:, 0].sum() for seed in seeds}
    assert len(set(outcome.lengths)) > 2
    np.testing.assert_allclose(np.sort(outcome.returns), np.sort(list(expected.values())), atol=1e-5)
    assert sorted(outcome.lengths) == sorted(2 + seed % 4 for seed in seeds)


def test_recorded_episodes_do_not_see_one_another(tmp_path):
    """Hopper's episodes end at different times, six of them in four simulators, fewer and fewer at the end."""
    directory = tmp_path / "policy"
    DeployedPolicy(RememberingAgent(TASK.dimensions), TASK.dimensions, task_scaling(TASK)).save(directory, {})
    collection = Collection((Part(),), action="plan", shard_episodes=6, width=4)
    shard = Player(Plan(TASK, "gymnasium", directory, collection, 300, 0)).play(0, 0)
    assert len(set(shard.lengths.tolist())) > 1
    first = 0
    for length in shard.lengths.tolist():
        rows = slice(first, first + length)
        expected = remembered(shard.rows.observations[rows], 3)
        np.testing.assert_allclose(shard.rows.actions[rows], expected, atol=2e-6)
        first += length
    assert first == len(shard.rows)


def explorer(buffer: ReplayBuffer, random_steps: int = 0) -> Explorer:
    policy = RememberingAgent(TASK.dimensions).policies()["plan"]
    return Explorer(make_environment(TASK, "gymnasium"), TASK, policy, buffer, random_steps, 0)


def assert_remembered(buffer: ReplayBuffer) -> None:
    """Each episode's actions, also of the one that is not over."""
    rows = buffer.rows()
    ends = [*(np.flatnonzero(rows.terminals | rows.timeouts) + 1).tolist(), len(rows)]
    assert len(ends) > 2
    for start, end in zip([0, *ends], ends, strict=False):
        np.testing.assert_allclose(rows.actions[start:end], remembered(rows.observations[start:end], 3), atol=2e-6)


def test_an_explorers_state_lasts_from_round_to_round_and_ends_with_the_episode():
    buffer = ReplayBuffer(TASK.dimensions, task_scaling(TASK), 90)
    exploring = explorer(buffer)
    for number in range(3):
        exploring.play(30, fold(base_seed(0), number))
    assert_remembered(buffer)


def test_an_explorer_that_is_restored_goes_on_in_the_state_it_had():
    """What a checkpoint keeps is its variables and the buffer's."""
    buffer = ReplayBuffer(TASK.dimensions, task_scaling(TASK), 90)
    before, after = explorer(buffer), explorer(buffer)
    before.play(45, base_seed(0))
    assert [variable.shape.as_list() for variable in after.variables] == [[1, 3], [1]]
    for restored, saved in zip(after.variables, before.variables, strict=True):
        restored.assign(saved)
    after.play(45, base_seed(1))
    assert_remembered(buffer)
