"""D4RL's tasks on maintained simulators.

D4RL's environments run on MuJoCo 2.1.0 through packages that are no longer maintained. What differs between them and
the maintained ones was found by setting both to the same state and comparing one step; `scripts/equivalence_table.py`
repeats that comparison. With the differences below undone, one step agrees to rounding.
  * hopper, halfcheetah, walker2d: later MuJoCo compiles other masses and inertias for capsules; and D4RL clips actions
    after a float32 rescaling whose rounding shows in the sixth digit of velocities.
  * door, hammer, relocate: gymnasium-robotics 1.4.2 rewards the distance from hand to object, D4RL penalizes it.
  * pen: D4RL ends the episode when the pen is dropped, gymnasium-robotics goes on.
"""

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.extras import import_extra
from brac_plus_tf.environments import registry
from brac_plus_tf.environments.wrappers import CorrectedOutcome, Outcome, RescaledActions

_BODY_CONSTANTS = Path(__file__).with_name("mujoco210_body_constants.json")
_HANDS_VERSION = "1.4.2"
_PEN_DROPPED = 0.075  # metres above the ground, as in D4RL's pen task


def as_d4rl(environment: gymnasium.Env, environment_id: str) -> gymnasium.Env:
    """The maintained environment of that id, changed into D4RL's.

    Raises:
      UserError: if gymnasium-robotics is installed in a version for which the corrections are not known.
    """
    if environment_id in _HAND_OUTCOMES:
        _require_hands_version()
        return CorrectedOutcome(environment, _HAND_OUTCOMES[environment_id])
    _use_mujoco210_bodies(environment_id, environment)
    return RescaledActions(environment)


def _require_hands_version() -> None:
    """Other versions of gymnasium-robotics may reward differently, and the correction would then be wrong."""
    installed = importlib.metadata.version("gymnasium-robotics")
    if installed != _HANDS_VERSION:
        raise UserError(
            f"D4RL's hand tasks are reproduced on gymnasium-robotics {_HANDS_VERSION}, but {installed} is installed: "
            f"pip install gymnasium-robotics=={_HANDS_VERSION}"
        )


def _use_mujoco210_bodies(environment_id: str, environment: gymnasium.Env) -> None:
    """Gives every body the mass, inertia and inertial frame that MuJoCo 2.1.0 compiles from the same description."""
    simulation: Any = environment.unwrapped
    for field, values in json.loads(_BODY_CONSTANTS.read_text())[environment_id].items():
        getattr(simulation.model, field)[:] = values
    with registry.without_renderer():
        import_extra("mujoco", "mujoco").mj_setConst(simulation.model, simulation.data)


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


_HAND_OUTCOMES: dict[str, Outcome] = {
    "AdroitHandDoor-v1": _door_outcome,
    "AdroitHandHammer-v1": _hammer_outcome,
    "AdroitHandRelocate-v1": _relocate_outcome,
    "AdroitHandPen-v1": _pen_outcome,
}
