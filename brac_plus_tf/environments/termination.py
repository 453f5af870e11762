"""When an episode ends by itself, read off an observation: what a learned model of an environment must ask."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf


@dataclasses.dataclass(frozen=True, eq=False)
class HealthyRange:
    """An episode goes on while every entry of the observation lies strictly within its own bounds.

    lower, upper: [O], in the environment's units. An entry without a bound must still be finite: what is not finite
    comes from a model that has left all it knows.
    """

    lower: np.ndarray
    upper: np.ndarray

    def ends(self, observation: "tf.Tensor | np.ndarray") -> "tf.Tensor":
        """Whether the step that led to each observation [.., O] was the last of its episode, bool [..]."""
        import tensorflow as tf  # here, so that the table of tasks can be listed without it

        tensor = tf.convert_to_tensor(observation)
        lower, upper = (tf.constant(bound, tensor.dtype) for bound in (self.lower, self.upper))
        return ~tf.reduce_all((lower < tensor) & (tensor < upper), axis=-1)


def healthy_range(
    size: int, bounds: Mapping[int, tuple[float, float]], others: tuple[float, float] = (-np.inf, np.inf)
) -> HealthyRange:
    """Of `size` entries, those in `bounds` by index between theirs, all the rest between `others`."""
    lower, upper = np.transpose([bounds.get(index, others) for index in range(size)])
    return HealthyRange(lower, upper)


# Of the environments behind D4RL's tasks. Source: `is_healthy` in gymnasium's hopper_v4.py and walker2d_v4.py, whose
# observations leave out the first coordinate; D4RL's pen task ends when the pen lies lower than 7.5 cm. Hopper's bound
# on velocities applies before they are clipped to 10, so in real observations it shows for joint angles alone.
HOPPER = healthy_range(11, {0: (0.7, np.inf), 1: (-0.2, 0.2)}, others=(-100.0, 100.0))
WALKER2D = healthy_range(17, {0: (0.8, 2.0), 1: (-1.0, 1.0)})
D4RL_PEN = healthy_range(45, {26: (0.075, np.inf)})
