"""Environment steps in the order they were taken."""

from typing import NamedTuple

import numpy as np

from brac_plus_tf.core.types import Dimensions


class Steps(NamedTuple):
    """N environment steps in the order they were taken; the fields are the file's keys.

    observations [N, O], actions [N, A] (the environment's range), rewards [N], next_observations [N, O] float32;
    terminals, timeouts [N] bool: the step ended the task, or only its recording.
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminals: np.ndarray
    timeouts: np.ndarray
    next_observations: np.ndarray


def empty_steps(dimensions: Dimensions, rows: int) -> Steps:
    """Arrays of zeros."""
    return Steps(
        observations=np.zeros((rows, dimensions.observation), np.float32),
        actions=np.zeros((rows, dimensions.action), np.float32),
        rewards=np.zeros(rows, np.float32),
        terminals=np.zeros(rows, bool),
        timeouts=np.zeros(rows, bool),
        next_observations=np.zeros((rows, dimensions.observation), np.float32),
    )


def cut_off(steps: Steps, rows: int) -> Steps:
    """The first `rows` of the steps; if the last one's episode goes on, it counts as timed out there."""
    first = Steps(*(column[:rows] for column in steps))
    timeouts = first.timeouts.copy()
    timeouts[-1] = not first.terminals[-1]
    return first._replace(timeouts=timeouts)


def episode_returns(steps: Steps) -> np.ndarray:
    """Undiscounted returns of the episodes that end within the steps, in order."""
    ends = np.flatnonzero(steps.terminals | steps.timeouts)
    return np.diff(np.cumsum(steps.rewards, dtype=np.float64)[ends], prepend=0.0)
