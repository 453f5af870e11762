"""Maps between the environment's units and those the networks see."""

import dataclasses
import json

import numpy as np

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.environments.tasks import Task


@dataclasses.dataclass(frozen=True, eq=False)
class Scaling:
    """Maps between the environment's units and those the networks see.

        observation' = (observation - observation_shift) / observation_scale         [O]
        action' = (action - action_center) / action_half_range, in [-1, 1]            [A]
        reward' = (reward - reward_min) / (reward_max - reward_min)                   (Eq. 13)

    Without normalisation the shift is 0 and the scale 1; without reward rescaling reward_min is 0 and reward_max 1.
    Arrays are float32, reward_min and reward_max float32 values held as Python floats.
    """

    observation_shift: np.ndarray
    observation_scale: np.ndarray
    action_center: np.ndarray
    action_half_range: np.ndarray
    reward_min: float = 0.0
    reward_max: float = 1.0

    def normalize_observation(self, observation: np.ndarray) -> np.ndarray:
        """Environment units to network units, [.., O] to [.., O] float32."""
        return (np.asarray(observation, np.float32) - self.observation_shift) / self.observation_scale

    def from_environment_action(self, action: np.ndarray) -> np.ndarray:
        """Environment units to [-1, 1], [.., A] to [.., A] float32."""
        return (np.asarray(action, np.float32) - self.action_center) / self.action_half_range

    def to_environment_action(self, action: np.ndarray) -> np.ndarray:
        """[-1, 1] to environment units, [.., A] to [.., A] float32."""
        return np.asarray(action, np.float32) * self.action_half_range + self.action_center

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
            return cls(**arrays, reward_min=float(values["reward_min"]), reward_max=float(values["reward_max"]))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"scaling: not a JSON object as written by this package ({error})") from error


def task_scaling(task: Task) -> Scaling:
    """Observations and rewards as they are; actions mapped between the task's range and [-1, 1]."""
    observation, action = (np.ones(size, np.float32) for size in task.dimensions)
    center, half_range = (task.action_high + task.action_low) / 2.0, (task.action_high - task.action_low) / 2.0
    return Scaling(0.0 * observation, observation, np.float32(center) * action, np.float32(half_range) * action)
