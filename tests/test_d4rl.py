"""The adapter with a tiny stand-in for gym, and genuine D4RL where it is installed (skipped elsewhere)."""

import importlib.util
import os
import subprocess
import sys
import types
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from processes import import_script

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.environments import d4rl as d4rl_backend
from brac_plus_tf.environments.d4rl import make_d4rl_environment
from brac_plus_tf.environments.environment import make_environment
from brac_plus_tf.environments.tasks import D4RL_PAPER_TASKS, TASKS, find_task
from brac_plus_tf.environments.wrappers import OldGymEnvironment, TaskEnvironment

ROOT = Path(__file__).resolve().parents[1]
REFERENCES = ROOT.parent / "shared" / "d4rl_reference"
ONE_PER_ROBOT = (
    "hopper-medium-v2",
    "halfcheetah-medium-v2",
    "walker2d-medium-v2",
    "door-human-v1",
    "hammer-human-v1",
    "pen-human-v1",
    "relocate-human-v1",
)


class _Counter:
    """Counts up from a seeded start; done at 3 by itself; cut off after `limit` steps as gym's TimeLimit does."""

    unwrapped = "the counter"
    observation_space = action_space = gymnasium.spaces.Box(0.0, 9.0, (1,))

    def __init__(self, limit):
        self._limit, self._rng, self.closed = limit, np.random.default_rng(), False

    def seed(self, seed):
        self._rng = np.random.default_rng(seed)
        return [seed]

    def reset(self):
        self._steps, self._offset = 0, self._rng.uniform()
        return np.array([self._offset])

    def step(self, action):
        self._steps += 1
        done, info = self._steps >= 3, {"action": action}
        if self._steps >= self._limit:
            info["TimeLimit.truncated"] = not done
            done = True
        return np.array([self._offset + self._steps]), np.float64(0.5), done, info

    def close(self):
        self.closed = True


def adapted(inner) -> TaskEnvironment:
    return TaskEnvironment(OldGymEnvironment(inner), "d4rl")


def _flags(limit, steps):
    environment = adapted(_Counter(limit))
    environment.reset(seed=0)
    return [environment.step(np.zeros(2))[2:4] for _ in range(steps)]


def test_terminal_state_is_terminated():
    assert _flags(limit=9, steps=3) == [(False, False), (False, False), (True, False)]


def test_time_limit_is_truncated():
    assert _flags(limit=2, steps=2) == [(False, False), (False, True)]


def test_terminal_state_on_the_last_step_is_terminated():
    assert _flags(limit=3, steps=3)[-1] == (True, False)


def test_seed_restarts_the_generator_and_no_seed_goes_on():
    environment = adapted(_Counter(9))
    first, info = environment.reset(seed=4)
    second, _ = environment.reset()
    assert info == {} and first != second
    assert environment.reset(seed=4)[0] == first
    assert environment.reset()[0] == second


def test_step_passes_everything_on():
    inner = _Counter(9)
    environment = adapted(inner)
    start, _ = environment.reset(seed=1)
    observation, reward, _, _, info = environment.step("an action")
    assert observation == start + 1 and reward == 0.5 and type(reward) is float
    assert info["action"] == "an action"
    assert environment.unwrapped == "the counter" and environment.backend == "d4rl"
    environment.close()
    assert inner.closed


@pytest.mark.parametrize("missing", ["gym", "d4rl", "mjrl", "mujoco_py"])
def test_missing_package_is_named(monkeypatch, missing):
    found = importlib.util.find_spec("json")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else found)
    with pytest.raises(UserError, match=f"hopper-medium-v0: the package {missing} is not installed: run scripts/setup"):
        make_d4rl_environment("hopper-medium-v0", 1000)


def test_uncompiled_mujoco_py_is_not_imported(monkeypatch):
    found = importlib.util.find_spec("json")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)
    with pytest.raises(UserError, match=r"has not been compiled for this Python: run scripts/setup_d4rl\.sh"):
        make_d4rl_environment("hopper-medium-v0", 1000)


def test_failing_import_is_reported_in_one_line(monkeypatch):
    monkeypatch.setattr(d4rl_backend, "_missing_part", lambda: None)
    monkeypatch.setitem(sys.modules, "d4rl", None)
    with pytest.raises(UserError, match=r"genuine D4RL cannot run hopper-medium-v0: .*d4rl") as caught:
        make_d4rl_environment("hopper-medium-v0", 1000)
    assert "\n" not in str(caught.value)


def test_episodes_are_as_long_as_they_were_asked_to_be(monkeypatch):
    made = []
    gym = types.ModuleType("gym")
    gym.logger = types.SimpleNamespace(ERROR=40, set_level=lambda level: None)
    gym.make = lambda name: made.append(name) or _Counter(9)
    names = ("d4rl", "d4rl.hand_manipulation_suite", "d4rl.gym_mujoco")
    for name, module in {"gym": gym, **{name: types.ModuleType(name) for name in names}}.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(d4rl_backend, "_missing_part", lambda: None)
    environment = make_d4rl_environment("hopper-medium-v0", 2)
    environment.reset(seed=0)
    assert [environment.step(np.zeros(1))[2:4] for _ in range(2)] == [(False, False), (False, True)]
    assert made == ["hopper-medium-v0"] and environment.backend == "d4rl"


def test_environment_variables_are_restored(monkeypatch):
    monkeypatch.delenv("D4RL_DATASET_DIR", raising=False)
    monkeypatch.setenv("LD_LIBRARY_PATH", "before")
    with d4rl_backend._import_settings():
        assert Path(os.environ["D4RL_DATASET_DIR"]).is_dir()
        os.environ["LD_LIBRARY_PATH"] = "overwritten"
    assert "D4RL_DATASET_DIR" not in os.environ
    assert "D4RL_SUPPRESS_IMPORT_ERROR" not in os.environ
    assert os.environ["LD_LIBRARY_PATH"] == "before"


def test_chosen_dataset_folder_is_kept(monkeypatch):
    monkeypatch.setenv("D4RL_DATASET_DIR", "mine")
    with d4rl_backend._import_settings():
        assert os.environ["D4RL_DATASET_DIR"] == "mine"


@pytest.fixture(scope="module")
def genuine():
    """Skips unless genuine D4RL is installed and one of its environments can be built."""
    try:
        make_d4rl_environment("hopper-medium-v0", 1000).close()
    except UserError as error:
        pytest.skip(str(error))


@pytest.mark.usefixtures("genuine")
def test_genuine_table_of_tasks():
    from d4rl import get_normalized_score, infos

    for task in TASKS.values():
        if task.is_d4rl:
            assert task.dataset_url == infos.DATASET_URLS[task.name]
            assert task.reference_score.minimum == infos.REF_MIN_SCORE[task.name]
            assert task.reference_score.maximum == infos.REF_MAX_SCORE[task.name]
            # d4rl counts an expert as 1, the literature and this package as 100.
            assert task.normalized_score(1234.5) == pytest.approx(100.0 * get_normalized_score(task.name, 1234.5))


@pytest.mark.usefixtures("genuine")
@pytest.mark.parametrize("name", D4RL_PAPER_TASKS)
def test_genuine_tasks_of_the_paper(name):
    task = find_task(name)
    environment = make_environment(task, "auto")
    assert environment.backend == "d4rl"
    observation, _ = environment.reset(seed=0)
    assert observation.shape == (task.dimensions.observation,)
    steps, truncated, terminated = 0, False, False
    while not (truncated or terminated):
        observation, reward, terminated, truncated, _ = environment.step(np.zeros(task.dimensions.action, np.float32))
        steps += 1
    assert np.isfinite(observation).all() and np.isfinite(reward)
    assert steps <= task.horizon and truncated == (steps == task.horizon)
    registered = environment.env.env.inner.spec
    assert registered.max_episode_steps == task.horizon
    assert registered.kwargs["dataset_url"] == task.dataset_url
    environment.close()


@pytest.mark.usefixtures("genuine")
@pytest.mark.parametrize("name", ONE_PER_ROBOT)
def test_genuine_repeats_its_recorded_steps(name):
    if not REFERENCES.is_dir():
        pytest.skip(f"no recorded steps of D4RL in {REFERENCES}")
    script = import_script("equivalence_table")
    reference = script.load_reference(REFERENCES / f"{name}.npz")
    errors = script.one_step_errors(make_d4rl_environment(name, reference.task.horizon), reference)
    assert errors.observation.max() <= 1e-10 and errors.reward.max() <= 1e-10
    assert not errors.terminated.any()


@pytest.mark.usefixtures("genuine")
@pytest.mark.parametrize("name", ONE_PER_ROBOT)
def test_genuine_and_equivalent_agree_on_episodes(name):
    if "human" in name:
        pytest.importorskip("gymnasium_robotics", reason="gymnasium-robotics is not installed")
    task = find_task(name)
    outcomes = []
    for backend in ("d4rl", "gymnasium", "d4rl"):
        environment = make_environment(task, backend)
        for seed in (1, 2):  # the second episode must not depend on the first
            rng = np.random.default_rng(7)
            rows = [environment.reset(seed=seed)[0]]
            returns, over = 0.0, False
            # Later, rounding alone drives the chaotic halfcheetah apart: 1e-13 at first, 1e-4 after 50 steps.
            while not over and len(rows) < 30:
                action = rng.uniform(-1, 1, task.dimensions.action).astype(np.float32)
                observation, reward, terminated, truncated, _ = environment.step(action)
                rows.append(observation)
                returns, over = returns + reward, terminated or truncated
        outcomes.append((np.array(rows), returns))
    np.testing.assert_allclose(outcomes[0][0], outcomes[1][0], atol=1e-6)
    assert outcomes[0][1] == pytest.approx(outcomes[1][1], abs=1e-6)
    np.testing.assert_array_equal(outcomes[0][0], outcomes[2][0])


@pytest.mark.usefixtures("genuine")
def test_genuine_is_quiet_and_leaves_no_folder_behind(tmp_path):
    code = (
        "from brac_plus_tf.environments.d4rl import make_d4rl_environment as make; "
        "environment = make('pen-human-v0', 100); environment.reset(seed=0); print('made')"
    )
    settings = {key: value for key, value in os.environ.items() if key != "D4RL_DATASET_DIR"}
    settings |= {"HOME": str(tmp_path), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=settings, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "made\n"
    assert "gym" not in done.stderr.lower() and "d4rl" not in done.stderr.lower()
    assert not list(tmp_path.glob(".d4rl*"))
