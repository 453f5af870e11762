"""Maps between the environment's units and those the networks see: every such formula of the package is here."""

import dataclasses
import json
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import tensorflow as tf

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.types import Transition
from brac_plus_tf.environments.tasks import Task

Array = TypeVar("Array", np.ndarray, tf.Tensor)


@dataclasses.dataclass(frozen=True, eq=False)
class Scaling:
    """Maps between the environment's units and those the networks see.

        observation' = (observation - observation_shift) / observation_scale         [O]
        action' = (action - action_center) / action_half_range, in [-1, 1]            [A]
        reward' = (reward - reward_shift) / reward_scale

    Without normalisation the shift is 0 and the scale 1. Arrays are float32, reward_shift and reward_scale float32
    values held as Python floats. The methods take NumPy arrays, which they make float32, or float32 tensors, and return
    the same kind; both have the same bits.
    """

    observation_shift: np.ndarray
    observation_scale: np.ndarray
    action_center: np.ndarray
    action_half_range: np.ndarray
    reward_shift: float = 0.0
    reward_scale: float = 1.0

    def normalize_observation(self, observation: Array) -> Array:
        """Environment units to network units, [.., O] to [.., O] float32."""
        return (_float32(observation) - self.observation_shift) / self.observation_scale

    def from_environment_action(self, action: Array) -> Array:
        """Environment units to [-1, 1], [.., A] to [.., A] float32."""
        return (_float32(action) - self.action_center) / self.action_half_range

    def to_environment_action(self, action: Array) -> Array:
        """[-1, 1] to environment units, [.., A] to [.., A] float32."""
        return _float32(action) * self.action_half_range + self.action_center

    def rescale_reward(self, reward: Array) -> Array:
        """Environment units to network units, [..] to [..] float32."""
        return (_float32(reward) - np.float32(self.reward_shift)) / np.float32(self.reward_scale)

    def to_environment_reward(self, reward: Array) -> Array:
        """Network units to environment units, [..] to [..] float32."""
        return _float32(reward) * np.float32(self.reward_scale) + np.float32(self.reward_shift)

    def to_network(self, transition: Transition) -> Transition:
        """A batch in environment units to network units; actions are clipped to [-1, 1]."""
        return Transition(
            observation=self.normalize_observation(transition.observation),
            action=_clip(self.from_environment_action(transition.action)),
            reward=self.rescale_reward(transition.reward),
            discount=transition.discount,
            next_observation=self.normalize_observation(transition.next_observation),
            next_action=_clip(self.from_environment_action(transition.next_action)),
        )

    def to_json(self) -> str:
        """One JSON object; every float32 is written exactly."""
        return json.dumps({name: np.asarray(value).tolist() for name, value in dataclasses.asdict(self).items()})

    @classmethod
    def from_json(cls, text: str) -> "Scaling":
        """Inverse of to_json, bit for bit.

        Raises:
          UserError: if the text is not such an object.
        """
        try:
            values = json.loads(text)
            arrays = {
                field.name: np.asarray(values[field.name], np.float32).reshape(-1)
                for field in dataclasses.fields(cls)
                if not field.name.startswith("reward")
            }
            return cls(**arrays, reward_shift=float(values["reward_shift"]), reward_scale=float(values["reward_scale"]))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"scaling: not a JSON object as written by this package ({error})") from error


def _float32(array: Array) -> Array:
    return array if tf.is_tensor(array) else np.asarray(array, np.float32)


def _clip(action: Array) -> Array:
    # bounds hold up to a tolerance and up to rounding; what follows may count on [-1, 1], where atanh ends
    return tf.clip_by_value(action, -1.0, 1.0) if tf.is_tensor(action) else np.clip(action, -1.0, 1.0)


def action_range(
    low: float | Sequence[float], high: float | Sequence[float], size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Center and half range [A] float32 of the action bounds, one number or one for each of `size` entries.

    Raises:
      UserError: unless they are finite and the low ones below the high ones.
    """
    try:
        bounds = np.stack([np.broadcast_to(np.asarray(bound, np.float64), (size,)) for bound in (low, high)])
    except ValueError as error:
        raise UserError(f"action bounds {low}, {high}: give one number, or one for each of {size} entries") from error
    if not (np.isfinite(bounds).all() and (bounds[0] < bounds[1]).all()):
        raise UserError(f"action bounds {low}, {high}: must be finite, the low ones below the high ones")
    return ((bounds[0] + bounds[1]) / 2).astype(np.float32), ((bounds[1] - bounds[0]) / 2).astype(np.float32)


def task_scaling(task: Task) -> Scaling:
    """Observations and rewards as they are; actions mapped between the task's range and [-1, 1]."""
    size = task.dimensions.observation
    center, half_range = action_range(task.action_low, task.action_high, task.dimensions.action)
    return Scaling(np.zeros(size, np.float32), np.ones(size, np.float32), center, half_range)
