"""Tasks as simulated environments: plain gymnasium ones, D4RL's equivalents on gymnasium, or genuine D4RL.

D4RL's environments run on MuJoCo 2.1.0 through packages that are no longer maintained. What differs between them and
the maintained ones was found by setting both to the same state and comparing one step; `scripts/equivalence_table.py`
repeats that comparison. With the differences below undone, one step agrees to rounding.
  * hopper, halfcheetah, walker2d: later MuJoCo compiles other masses and inertias for capsules; and D4RL clips actions
    after a float32 rescaling whose rounding shows in the sixth digit of velocities.
  * door, hammer, relocate: gymnasium-robotics 1.4.2 rewards the distance from hand to object, D4RL penalizes it.
  * pen: D4RL ends the episode when the pen is dropped, gymnasium-robotics goes on.
Time limits are the task's `horizon`.
"""

import copy
import importlib
import importlib.metadata
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import gin
import numpy as np
from absl import logging

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.extras import import_extra
from brac_plus_tf.environments.d4rl import make_d4rl_environment
from brac_plus_tf.environments.tasks import Task

_BODY_CONSTANTS = Path(__file__).with_name("mujoco210_body_constants.json")
_EXTRAS = {"gymnasium": "mujoco", "mujoco": "mujoco", "gymnasium_robotics": "adroit"}
_HANDS_VERSION = "1.4.2"
_PEN_DROPPED = 0.075  # metres above the ground, as in D4RL's pen task

# (observation, reward, terminated) as gymnasium reports them -> (reward, terminated) as D4RL would.
_Outcome = Callable[[np.ndarray, float, bool], tuple[float, bool]]


class Environment(Protocol):
    """What this package asks of an environment, whichever simulator is behind it.

    `backend` is 'gymnasium' or 'd4rl'. Resetting with a seed and repeating the same actions repeats the episode.
    """

    backend: str

    @property
    def unwrapped(self) -> Any:
        """The simulation itself, e.g. to place it in a recorded state."""
        ...

    def reset(self, *, seed: int | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode: (observation [O], info). Without a seed, the running generator goes on."""
        ...

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One environment step: (observation [O], reward, terminated, truncated, info).

        `action` [A] is in the environment's own units. At most one flag is set: a terminal state reached on the last
        step before the time limit counts as terminated.
        """
        ...

    def close(self) -> None: ...


@gin.register
def make_environment(task: Task, backend: str = "auto") -> Environment:
    """Builds the environment of a task.

    Args:
      task: from `tasks.find_task`.
      backend: 'gymnasium', 'd4rl' (genuine D4RL), or 'auto': for a D4RL task genuine D4RL where it is installed and
        works, else its equivalent on gymnasium; for a plain task always gymnasium.

    Raises:
      UserError: if the backend is unknown, cannot run the task, or needs a package that is not installed.
    """
    if backend not in ("auto", "d4rl", "gymnasium"):
        raise UserError(f"unknown environment backend {backend!r}: use 'auto', 'd4rl' or 'gymnasium'")
    if backend == "d4rl" and not task.is_d4rl:
        raise UserError(f"{task.name} is not a task of D4RL: use backend 'auto' or 'gymnasium'")
    if backend == "d4rl":
        return make_d4rl_environment(task.name)
    if backend == "auto" and task.is_d4rl:
        try:
            return make_d4rl_environment(task.name)
        except UserError as error:
            logging.info("%s runs on gymnasium: %s", task.name, error)
    return _GymnasiumEnvironment(task)


class _GymnasiumEnvironment:
    """An environment of gymnasium, changed into D4RL's if the task is one of D4RL."""

    backend = "gymnasium"

    def __init__(self, task: Task) -> None:
        self._inner = _make_plain(task)
        self._outcome: _Outcome | None = None
        self._rescale_actions = False
        if task.is_d4rl and task.environment_id in _HAND_OUTCOMES:
            _require_hands_version()
            self._outcome = _HAND_OUTCOMES[task.environment_id]
        elif task.is_d4rl:
            _use_mujoco210_bodies(task.environment_id, self._inner.unwrapped)
            self._rescale_actions = True

    @property
    def unwrapped(self) -> Any:
        return self._inner.unwrapped

    def reset(self, *, seed: int | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        return self._inner.reset(seed=seed)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if self._rescale_actions:
            action = _rescaled(action, self._inner.action_space.low, self._inner.action_space.high)
        observation, reward, terminated, truncated, info = self._inner.step(action)
        reward, terminated = float(reward), bool(terminated)
        if self._outcome:
            reward, terminated = self._outcome(observation, reward, terminated)
        return observation, reward, terminated, bool(truncated) and not terminated, info

    def close(self) -> None:
        self._inner.close()


def environment_specification(task: Task) -> Any:
    """gymnasium's EnvSpec of the task's environment, with the task's time limit; builds nothing.

    Raises:
      UserError: if the environment's package is not installed.
    """
    specification = copy.deepcopy(_gymnasium_with(task).spec(task.environment_id))
    specification.max_episode_steps = task.horizon
    return specification


def _gymnasium_with(task: Task) -> Any:
    """The module gymnasium, which knows the task's environment."""
    gymnasium = _import("gymnasium")
    if task.environment_id.startswith("AdroitHand"):
        gymnasium.register_envs(_import("gymnasium_robotics"))
    return gymnasium


def _make_plain(task: Task) -> Any:
    """The gymnasium environment itself, with the task's time limit."""
    gymnasium = _gymnasium_with(task)
    _import("mujoco")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # gymnasium urges to use -v5, whose rewards and physics are others
        return gymnasium.make(task.environment_id, max_episode_steps=task.horizon, disable_env_checker=True)


def _import(module: str) -> Any:
    return import_extra(module, _EXTRAS[module])


def _require_hands_version() -> None:
    """Other versions of gymnasium-robotics may reward differently, and the correction would then be wrong."""
    installed = importlib.metadata.version("gymnasium-robotics")
    if installed != _HANDS_VERSION:
        raise UserError(
            f"D4RL's hand tasks are reproduced on gymnasium-robotics {_HANDS_VERSION}, but {installed} is installed: "
            f"pip install gymnasium-robotics=={_HANDS_VERSION}"
        )


def _use_mujoco210_bodies(environment_id: str, simulation: Any) -> None:
    """Gives every body the mass, inertia and inertial frame that MuJoCo 2.1.0 compiles from the same description."""
    for field, values in json.loads(_BODY_CONSTANTS.read_text())[environment_id].items():
        getattr(simulation.model, field)[:] = values
    _import("mujoco").mj_setConst(simulation.model, simulation.data)


def _rescaled(action: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """D4RL's map of [-1, 1] onto the actuators' range [low, high], in the action's own precision.

    The range is [-1, 1] already, but in float32 the sum drops the last digits of small actions.
    """
    return np.clip(low + (action + 1.0) * 0.5 * (high - low), low, high)


def _penalize_distance(reward: float, palm_to_object: np.ndarray) -> float:
    """Turns gymnasium-robotics' + 0.1 |palm - object| into D4RL's - 0.1 |palm - object|."""
    return reward - 0.2 * float(np.linalg.norm(palm_to_object))


def _door_outcome(observation: np.ndarray, reward: float, terminated: bool) -> tuple[float, bool]:
    return _penalize_distance(reward, observation[35:38]), terminated


def _hammer_outcome(observation: np.ndarray, reward: float, terminated: bool) -> tuple[float, bool]:
    return _penalize_distance(reward, observation[33:36] - observation[36:39]), terminated


def _relocate_outcome(observation: np.ndarray, reward: float, terminated: bool) -> tuple[float, bool]:
    return _penalize_distance(reward, observation[30:33]), terminated


def _pen_outcome(observation: np.ndarray, reward: float, terminated: bool) -> tuple[float, bool]:
    return reward, bool(observation[26] < _PEN_DROPPED)


_HAND_OUTCOMES: dict[str, _Outcome] = {
    "AdroitHandDoor-v1": _door_outcome,
    "AdroitHandHammer-v1": _hammer_outcome,
    "AdroitHandRelocate-v1": _relocate_outcome,
    "AdroitHandPen-v1": _pen_outcome,
}
