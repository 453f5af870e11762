"""Maps between the environment's units and those the networks see: every such formula of the package is here.

How rewards are rescaled is a function (rewards [M] of the transitions, returns [P] of the episodes) -> (shift, scale):
`unit_range`, `by_returns`, or one of your own.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import TypeVar

import gin
import numpy as np
import tensorflow as tf

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.types import Transition
from brac_plus_tf.environments.tasks import Task

Array = TypeVar("Array", np.ndarray, tf.Tensor)
RewardScaling = Callable[[np.ndarray, np.ndarray], tuple[float, float]]

_SMALLEST_OBSERVATION_SCALE = 1e-3  # entries that hardly vary are not blown up to the size of the others


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
        return _to_network(_own(observation), self.observation_shift, self.observation_scale)

    def to_environment_observation(self, observation: Array) -> Array:
        """Network units to environment units, [.., O] to [.., O] float32."""
        return _to_environment(_own(observation), self.observation_shift, self.observation_scale)

    def from_environment_action(self, action: Array) -> Array:
        """Environment units to [-1, 1], [.., A] to [.., A] float32."""
        return _to_network(_own(action), self.action_center, self.action_half_range)

    def to_environment_action(self, action: Array) -> Array:
        """[-1, 1] to environment units, [.., A] to [.., A] float32."""
        return _to_environment(_own(action), self.action_center, self.action_half_range)

    def rescale_reward(self, reward: Array) -> Array:
        """Environment units to network units, [..] to [..] float32."""
        return _to_network(_own(reward), np.float32(self.reward_shift), np.float32(self.reward_scale))

    def to_environment_reward(self, reward: Array) -> Array:
        """Network units to environment units, [..] to [..] float32."""
        return _to_environment(_own(reward), np.float32(self.reward_shift), np.float32(self.reward_scale))

    def to_network(self, batch: Transition) -> Transition:
        """A batch in environment units to network units; actions are clipped to [-1, 1].

        Tensors are left alone; float32 arrays are changed in place, so that a dataset is never held twice.
        """
        observation = (self.observation_shift, self.observation_scale)
        action = (self.action_center, self.action_half_range)
        reward = (np.float32(self.reward_shift), np.float32(self.reward_scale))
        return Transition(
            observation=_to_network(batch.observation, *observation),
            action=_clip(_to_network(batch.action, *action)),
            reward=_to_network(batch.reward, *reward),
            discount=batch.discount,
            next_observation=_to_network(batch.next_observation, *observation),
            next_action=_clip(_to_network(batch.next_action, *action)),
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


def _own(array: Array) -> Array:
    """Something that may be changed in place: a float32 copy of an array, a tensor itself."""
    return array if tf.is_tensor(array) else np.array(array, np.float32)


def _to_network(values: Array, shift: np.ndarray, scale: np.ndarray) -> Array:
    values -= shift  # in place if it is an array, a new tensor if it is one
    values /= scale
    return values


def _to_environment(values: Array, shift: np.ndarray, scale: np.ndarray) -> Array:
    values *= scale
    values += shift
    return values


def _clip(action: Array) -> Array:
    # bounds hold up to a tolerance and up to rounding; what follows may count on [-1, 1], where atanh ends
    return tf.clip_by_value(action, -1.0, 1.0) if tf.is_tensor(action) else np.clip(action, -1.0, 1.0, out=action)


def action_range(
    low: float | Sequence[float] | np.ndarray, high: float | Sequence[float] | np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Center and half range [A] float32 of the action bounds, one number or one for each of `size` entries.

    center - half_range and center + half_range, as float32 adds, are within the bounds.

    Raises:
      UserError: unless they are finite and the low ones below the high ones.
    """
    try:
        bounds = np.stack([np.broadcast_to(np.asarray(bound, np.float64), (size,)) for bound in (low, high)])
    except ValueError as error:
        raise UserError(f"action bounds {low}, {high}: give one number, or one for each of {size} entries") from error
    if not (np.isfinite(bounds).all() and (bounds[0] < bounds[1]).all()):
        raise UserError(f"action bounds {low}, {high}: must be finite, the low ones below the high ones")
    center, half = ((bounds[0] + bounds[1]) / 2).astype(np.float32), ((bounds[1] - bounds[0]) / 2).astype(np.float32)
    # rounding may not carry an action of -1 or 1 past its bound; all others lie between, since rounding keeps order
    while (beyond := (center - half < bounds[0]) | (center + half > bounds[1])).any():
        half = np.where(beyond, np.nextafter(half, np.float32(0.0)), half)
    return center, half


def task_scaling(task: Task) -> Scaling:
    """Observations and rewards as they are; actions mapped between the task's range and [-1, 1]."""
    size = task.dimensions.observation
    center, half_range = action_range(task.action_low, task.action_high, task.dimensions.action)
    return Scaling(np.zeros(size, np.float32), np.ones(size, np.float32), center, half_range)


def fit_scaling(
    transitions: Transition,
    returns: np.ndarray,
    actions: tuple[np.ndarray, np.ndarray],
    normalize_observations: bool,
    rewards: RewardScaling | None,
) -> Scaling:
    """The scaling of transitions in the environment's units.

    Args:
      returns: [P], of the episodes. actions: as from `action_range`.
      normalize_observations: shift and scale by each entry's mean and standard deviation, at least 1e-3.
      rewards: how rewards are rescaled; None leaves them.
    Raises:
      UserError: if the rewards cannot be rescaled in that way.
    """
    observation = transitions.observation
    shift, scale = np.zeros(observation.shape[1]), np.ones(observation.shape[1])
    if normalize_observations:  # in float64, which sums of millions need
        shift = observation.mean(axis=0, dtype=np.float64)
        deviations = [entry.std(dtype=np.float64) for entry in observation.T]
        scale = np.maximum(deviations, _SMALLEST_OBSERVATION_SCALE)
    reward_shift, reward_scale = rewards(transitions.reward, returns) if rewards else (0.0, 1.0)
    if not (np.isfinite(reward_shift) and 0.0 < reward_scale < np.inf):
        raise UserError(f"rewards cannot be rescaled by (reward - {reward_shift:g}) / {reward_scale:g}; check the data")
    return Scaling(shift.astype(np.float32), scale.astype(np.float32), *actions, reward_shift, reward_scale)


@gin.register
def unit_range(rewards: np.ndarray, returns: np.ndarray) -> tuple[float, float]:
    """Rewards to [0, 1]: (reward - smallest) / (largest - smallest), Eq. 13; all 0 if they are all the same."""
    del returns
    low, high = rewards.min(), rewards.max()
    return float(low), float(high - low) if high > low else 1.0


@gin.register
def by_returns(rewards: np.ndarray, returns: np.ndarray, span: float = 1000.0) -> tuple[float, float]:
    """Rewards whose episodes' returns span `span`: reward span / (largest - smallest return).

    All episodes count, also one that the data's end breaks off. Nothing is subtracted: a constant would add up to more
    in longer episodes and so change which of them is better.
    Reference: Kostrikov et al., "Offline Reinforcement Learning with Implicit Q-Learning", 2021; its locomotion tasks.
    """
    del rewards
    low, high = returns.min(), returns.max()
    if low == high:
        raise UserError(f"the return of every episode is {low:g}, so rewards have no scale; set rewards to None")
    return 0.0, float(np.float32((high - low) / span))
