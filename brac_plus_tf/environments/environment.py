"""Tasks as simulated environments: plain gymnasium ones, D4RL's equivalents on gymnasium, or genuine D4RL.

Time limits are the task's `horizon`.
"""

import copy
from typing import Any, Protocol

import gin
import numpy as np
from absl import logging

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.extras import import_extra
from brac_plus_tf.environments import registry
from brac_plus_tf.environments.d4rl import make_d4rl_environment
from brac_plus_tf.environments.tasks import TASKS, Task


class Environment(Protocol):
    """What this package asks of an environment, whichever simulator is behind it: see `wrappers.TaskEnvironment`.

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

    def step(self, action: np.ndarray) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        """One environment step: (observation [O], reward, terminated, truncated, info).

        `action` [A] is in the environment's own units. At most one flag is set: a terminal state reached on the last
        step before the time limit counts as terminated.
        """
        ...

    def close(self) -> None: ...


@gin.register
def make_environment(task: Task, backend: str = "auto", render_mode: str | None = None) -> Environment:
    """Builds the environment of a task.

    Args:
      task: from `tasks.find_task`.
      backend: 'gymnasium', 'd4rl' (genuine D4RL), or 'auto': for a D4RL task genuine D4RL where it is installed and
        works, else its equivalent on gymnasium; for a plain task always gymnasium.
      render_mode: gymnasium's, of environments that are to be drawn; see `filming`.

    Raises:
      UserError: if the backend is unknown, cannot run the task, or needs a package that is not installed.
    """
    if backend not in ("auto", "d4rl", "gymnasium"):
        raise UserError(f"unknown environment backend {backend!r}: use 'auto', 'd4rl' or 'gymnasium'")
    if backend == "d4rl" and not task.is_d4rl:
        raise UserError(f"{task.name} is not a task of D4RL: use backend 'auto' or 'gymnasium'")
    if backend == "d4rl":
        return make_d4rl_environment(task.name, task.horizon)
    if backend == "auto" and task.is_d4rl:
        try:
            return make_d4rl_environment(task.name, task.horizon)
        except UserError as error:
            logging.info("%s runs on gymnasium: %s", task.name, error)
    return _make_gymnasium_environment(task, render_mode)


def _make_gymnasium_environment(task: Task, render_mode: str | None) -> Environment:
    if task.name in TASKS:
        with registry.without_renderer():
            import_extra("mujoco", "mujoco")
    environment = registry.make(task.environment_id, task.horizon, render_mode)
    from brac_plus_tf.environments.equivalents import as_d4rl  # these import gymnasium, which is known to be there now
    from brac_plus_tf.environments.wrappers import TaskEnvironment

    return TaskEnvironment(as_d4rl(environment, task.environment_id) if task.is_d4rl else environment, "gymnasium")


def environment_specification(task: Task) -> Any:
    """gymnasium's EnvSpec of the task's environment, with the task's time limit; builds nothing.

    Raises:
      UserError: if the environment's package is not installed.
    """
    specification = copy.deepcopy(registry.specification(task.environment_id))
    specification.max_episode_steps = task.horizon
    return specification
