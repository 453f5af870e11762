"""Environments against recorded steps of genuine D4RL (skipped where the recordings are absent) and by hand."""

import importlib.metadata
import importlib.util
import sys
from pathlib import Path

import gin
import gymnasium
import numpy as np
import pytest
from processes import import_script

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.environments import environment as environments
from brac_plus_tf.environments import equivalents, registry
from brac_plus_tf.environments.environment import make_environment
from brac_plus_tf.environments.tasks import find_task
from brac_plus_tf.environments.wrappers import RescaledActions

ROOT = Path(__file__).resolve().parents[1]
REFERENCES = ROOT.parent / "shared" / "d4rl_reference"
LOCOMOTION = ("hopper-medium-v2", "halfcheetah-medium-v2", "walker2d-medium-v2")
HANDS = ("door-human-v1", "hammer-human-v1", "pen-human-v1", "relocate-human-v1")

pytest.importorskip("gymnasium", reason="gymnasium is not installed")
pytest.importorskip("mujoco", reason="mujoco is not installed")

needs_hands = pytest.mark.skipif(
    importlib.util.find_spec("gymnasium_robotics") is None, reason="gymnasium-robotics is not installed"
)
needs_references = pytest.mark.skipif(not REFERENCES.is_dir(), reason=f"no recorded steps of D4RL in {REFERENCES}")
ALL_TASKS = (*LOCOMOTION, *(pytest.param(name, marks=needs_hands) for name in HANDS))


def _reference(name):
    return import_script("equivalence_table").load_reference(REFERENCES / f"{name}.npz")


def _errors(task_name, reference):
    return import_script("equivalence_table").one_step_errors(
        make_environment(find_task(task_name), "gymnasium"), reference
    )


def _episode(environment, seed, steps=60):
    """Observations and rewards under actions drawn from `seed`."""
    rng = np.random.default_rng(seed)
    size = environment.unwrapped.action_space.shape[0]
    observation, _ = environment.reset(seed=seed)
    rows = [np.append(observation, 0.0)]
    for _ in range(steps):
        observation, reward, terminated, truncated, _ = environment.step(rng.uniform(-1, 1, size).astype(np.float32))
        rows.append(np.append(observation, reward))
        if terminated or truncated:
            break
    return np.array(rows)


@needs_references
@pytest.mark.parametrize("name", LOCOMOTION)
def test_locomotion_repeats_d4rl_steps(name):
    errors = _errors(name, _reference(name))
    assert np.mean((errors.observation <= 1e-5) & (errors.reward <= 1e-5)) >= 0.99
    assert not errors.terminated.any()


@needs_references
@pytest.mark.parametrize("name", LOCOMOTION)
def test_locomotion_rounds_actions_as_d4rl_does(name):
    # Unrounded float32 actions leave errors up to 1e-7 (hopper) .. 7e-6 (halfcheetah).
    assert _errors(name, _reference(name)).observation.max() <= 1e-9


@needs_references
@pytest.mark.parametrize("name", LOCOMOTION)
def test_plain_locomotion_differs_from_d4rl(name):
    reference = _reference(name)
    errors = _errors(reference.task.environment_id, reference)
    assert np.mean(errors.observation <= 1e-5) < 0.01
    assert np.median(errors.observation) > 1e-3


@needs_references
@needs_hands
@pytest.mark.parametrize("name", HANDS)
def test_hands_repeat_d4rl_steps(name):
    errors = _errors(name, _reference(name))
    assert errors.observation.max() <= 1e-6
    assert errors.reward.max() <= 1e-6
    assert not errors.terminated.any()


@needs_references
@needs_hands
def test_plain_hands_differ_from_d4rl_in_reward_or_end():
    for name in ("door-human-v1", "hammer-human-v1", "relocate-human-v1"):
        reference = _reference(name)
        assert np.median(_errors(reference.task.environment_id, reference).reward) > 1e-2
    pen = _reference("pen-human-v1")
    assert pen.terminated.sum() == 16  # pens dropped in the recording
    assert _errors("AdroitHandPen-v1", pen).terminated.sum() == 16


@needs_references
@needs_hands
def test_relocate_needs_the_frame_not_the_recorded_ball():
    with np.load(REFERENCES / "relocate-human-v1.npz", allow_pickle=False) as data:
        ball = data["s_obj_pos"]
    reference = _reference("relocate-human-v1")
    as_recorded = reference._replace(
        states=[{**state, "obj_pos": position} for state, position in zip(reference.states, ball, strict=True)]
    )
    errors = _errors("relocate-human-v1", as_recorded)
    assert np.mean(errors.observation <= 1e-6) < 0.01
    assert np.median(errors.observation) > 1e-5


@needs_references
@pytest.mark.parametrize("name", ["hopper-medium-v2", "walker2d-medium-v2", pytest.param(HANDS[0], marks=needs_hands)])
def test_whole_episodes_repeat_d4rl_returns(name):
    reference = _reference(name)
    with np.load(REFERENCES / f"{name}.npz", allow_pickle=False) as data:
        episodes = data["ep"]
    environment = make_environment(reference.task, "gymnasium")
    for episode in np.unique(episodes)[:5]:
        rows = np.flatnonzero(episodes == episode)
        environment.reset(seed=0)
        if name in HANDS:
            environment.unwrapped.set_env_state(reference.states[rows[0]])
        else:
            environment.unwrapped.set_state(**reference.states[rows[0]])
        played = sum(environment.step(reference.actions[row])[1] for row in rows)
        assert played == pytest.approx(reference.rewards[rows].sum(), abs=1e-5)


@pytest.mark.parametrize("name", ALL_TASKS)
def test_sizes_match_the_task(name):
    for task in (find_task(name), find_task(find_task(name).environment_id)):
        environment = make_environment(task, "gymnasium")
        assert environment.backend == "gymnasium"
        observation, info = environment.reset(seed=0)
        assert observation.shape == (task.dimensions.observation,)
        assert isinstance(info, dict)
        space = environment.unwrapped.action_space
        assert space.shape == (task.dimensions.action,)
        assert (space.low == task.action_low).all() and (space.high == task.action_high).all()
        environment.close()


@pytest.mark.parametrize("name", ALL_TASKS)
def test_same_seed_same_episode(name):
    environment = make_environment(find_task(name), "gymnasium")
    first = _episode(environment, seed=3)
    other = _episode(environment, seed=5)
    assert not np.array_equal(first[0], other[0])
    np.testing.assert_array_equal(_episode(environment, seed=3), first)
    np.testing.assert_array_equal(_episode(make_environment(find_task(name), "gymnasium"), seed=3), first)


@pytest.mark.parametrize(
    ("name", "horizon"),
    [
        ("halfcheetah-medium-v0", 1000),
        ("HalfCheetah-v4", 1000),
        pytest.param("AdroitHandPen-v1", 100, marks=needs_hands),
        pytest.param("door-human-v0", 200, marks=needs_hands),
    ],
)
def test_time_limit(name, horizon):
    environment = make_environment(find_task(name), "gymnasium")
    environment.reset(seed=0)
    action = np.zeros(find_task(name).dimensions.action, np.float32)
    flags = [environment.step(action)[2:4] for _ in range(horizon)]
    assert flags == [(False, False)] * (horizon - 1) + [(False, True)]


class _LastStep(gymnasium.Env):
    """Ends by a terminal state and by the time limit at once."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (11,))
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (3,))

    def reset(self, *, seed=None, options=None):
        return np.zeros(11), {}

    def step(self, action):
        return np.zeros(11), np.float64(2.5), np.bool_(True), True, {}


def test_terminal_on_the_last_step_is_no_timeout(monkeypatch):
    monkeypatch.setattr(registry, "make", lambda name, horizon, render_mode: _LastStep())
    environment = make_environment(find_task("Hopper-v4"), "gymnasium")
    _, reward, terminated, truncated, _ = environment.step(np.zeros(3))
    assert (reward, terminated, truncated) == (2.5, True, False)
    assert type(reward) is float and type(terminated) is bool


def test_locomotion_actions_are_clipped_in_d4rl_tasks_only():
    def control_cost(name, action):
        environment = make_environment(find_task(name), "gymnasium")
        environment.reset(seed=0)
        return environment.step(np.full(6, action))[4]["reward_ctrl"]

    # HalfCheetah pays 0.1 |a|^2 over 6 joints: 0.6 for a = 1, 2.4 for a = 2.
    assert control_cost("halfcheetah-medium-v0", 2.0) == pytest.approx(-0.6)
    assert control_cost("HalfCheetah-v4", 2.0) == pytest.approx(-2.4)


def test_rescaled_drops_digits_of_small_float32_actions():
    rescaled = RescaledActions(_LastStep())
    # Next to 1, float32 numbers lie 2^-23 apart: 1e-9 is lost.
    got = [rescaled.action(np.float32([entry, 0.0, 0.0]))[0] for entry in (1e-9, 0.25, -3.0, 3.0)]
    np.testing.assert_array_equal(got, np.float32([0.0, 0.25, -1.0, 1.0]))


def test_hand_outcomes_by_hand():
    observation = np.zeros(46)
    observation[35:38] = (3.0, 4.0, 0.0)  # door: palm - handle, 5 long; 0.5 is turned into -0.5
    assert equivalents._door_outcome(observation, 1.5, False) == (0.5, False)
    observation = np.zeros(46)
    observation[30:33] = (0.0, -6.0, 8.0)  # relocate: palm - ball, 10 long
    assert equivalents._relocate_outcome(observation, 1.0, False) == (-1.0, False)
    observation = np.zeros(46)
    observation[33:36], observation[36:39] = (1.0, 2.0, 2.0), (0.0, 0.0, 0.0)  # hammer: palm, then hammer; 3 apart
    assert equivalents._hammer_outcome(observation, 1.0, False) == pytest.approx((0.4, False))
    observation[26] = 0.0751
    assert equivalents._pen_outcome(observation, 7.0, False) == (7.0, False)
    observation[26] = 0.0749
    assert equivalents._pen_outcome(observation, 7.0, False) == (7.0, True)


def test_auto_prefers_genuine_d4rl_for_d4rl_tasks_only(monkeypatch):
    genuine = object()
    monkeypatch.setattr(environments, "make_d4rl_environment", lambda name, horizon: genuine)
    assert make_environment(find_task("hopper-medium-v0")) is genuine
    assert make_environment(find_task("hopper-medium-v0"), "d4rl") is genuine
    assert make_environment(find_task("hopper-medium-v0"), "gymnasium").backend == "gymnasium"
    assert make_environment(find_task("Hopper-v4")).backend == "gymnasium"


def test_auto_falls_back_but_d4rl_insists(monkeypatch):
    def broken(name, horizon):
        raise UserError(f"genuine D4RL cannot run {name}: no reason")

    monkeypatch.setattr(environments, "make_d4rl_environment", broken)
    assert make_environment(find_task("hopper-medium-v0"), "auto").backend == "gymnasium"
    with pytest.raises(UserError, match="genuine D4RL cannot run hopper-medium-v0: no reason"):
        make_environment(find_task("hopper-medium-v0"), "d4rl")


def test_plain_task_is_not_d4rl():
    with pytest.raises(UserError, match="Hopper-v4 is not a task of D4RL"):
        make_environment(find_task("Hopper-v4"), "d4rl")


def test_unknown_backend():
    with pytest.raises(UserError, match="unknown environment backend 'gym'"):
        make_environment(find_task("Hopper-v4"), "gym")


@pytest.mark.parametrize(
    ("module", "task", "install"),
    [
        ("gymnasium", "Hopper-v4", r"pip install 'brac_plus_tf\[mujoco\]'$"),
        ("mujoco", "Hopper-v4", r"pip install 'brac_plus_tf\[mujoco\]'$"),
        ("gymnasium_robotics", "AdroitHandDoor-v1", r"pip install 'brac_plus_tf\[adroit\]'$"),
    ],
)
def test_missing_package_names_the_extra(monkeypatch, module, task, install):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=f"the package {module} is missing: {install}"):
        make_environment(find_task(task), "gymnasium")


@needs_hands
def test_other_version_of_the_hands_is_refused_for_d4rl_tasks_only(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "9.9.9")
    with pytest.raises(UserError, match=r"but 9\.9\.9 is installed: pip install gymnasium-robotics==1\.4\.2"):
        make_environment(find_task("door-human-v0"), "gymnasium")
    assert make_environment(find_task("AdroitHandDoor-v1"), "gymnasium").backend == "gymnasium"


def test_gin_binds_the_backend(monkeypatch):
    monkeypatch.setattr(
        environments, "make_d4rl_environment", lambda name, horizon: pytest.fail("backend was not bound")
    )
    gin.clear_config()
    try:
        gin.parse_config("make_environment.backend = 'gymnasium'")
        environment = gin.get_configurable("make_environment")(find_task("hopper-medium-v0"))
    finally:
        gin.clear_config()
    assert environment.backend == "gymnasium"
