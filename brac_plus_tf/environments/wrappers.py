"""What is put around environments; imports gymnasium, so that only what makes an environment may import this."""

from collections.abc import Callable
from typing import Any, SupportsFloat

import gymnasium
import numpy as np

# (observation, reward, terminated) as an environment reports them -> (reward, terminated) as they should be
Outcome = Callable[[np.ndarray, float, bool], tuple[float, bool]]
Stepped = tuple[np.ndarray, SupportsFloat, bool, bool, dict[str, Any]]


class TaskEnvironment(gymnasium.Wrapper):
    """The outermost: one kind of step result whatever is inside.

    A reward is a float, a flag a bool, and at most one flag is set: a terminal state that is reached on the last step
    before the time limit counts as terminated. backend: which simulator is inside, 'gymnasium' or 'd4rl'.
    """

    def __init__(self, env: gymnasium.Env, backend: str) -> None:
        super().__init__(env)
        self.backend = backend

    def step(self, action: np.ndarray) -> Stepped:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, float(reward), bool(terminated), bool(truncated) and not terminated, info


class RescaledActions(gymnasium.ActionWrapper):
    """D4RL's map of [-1, 1] onto the actuators' range [low, high], in the action's own precision.

    The range is [-1, 1] already, but in float32 the sum drops the last digits of small actions.
    """

    def action(self, action: np.ndarray) -> np.ndarray:
        space = self.env.action_space
        assert isinstance(space, gymnasium.spaces.Box)
        return np.clip(space.low + (action + 1.0) * 0.5 * (space.high - space.low), space.low, space.high)


class CorrectedOutcome(gymnasium.Wrapper):
    """Another reward, and another rule for when an episode is over, from the observation that a step leads to."""

    def __init__(self, env: gymnasium.Env, outcome: Outcome) -> None:
        super().__init__(env)
        self._outcome = outcome

    def step(self, action: np.ndarray) -> Stepped:
        observation, reward, terminated, truncated, info = self.env.step(action)
        reward, terminated = self._outcome(observation, float(reward), bool(terminated))
        return observation, reward, terminated, truncated, info


class OldGymEnvironment(gymnasium.Env):
    """An environment of gym before 0.26 (seed(), 4-tuple steps) as one of gymnasium.

    gym reports the end of an episode as one flag; its TimeLimit wrapper marks in `info` that the time limit, and
    not the task, has ended it. inner: the environment of gym.
    """

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        spaces = (inner.observation_space, inner.action_space)
        self.observation_space, self.action_space = (
            gymnasium.spaces.Box(space.low, space.high, space.shape, space.dtype) for space in spaces
        )

    @property
    def unwrapped(self) -> Any:
        """The simulation itself, e.g. to place it in a recorded state."""
        return self.inner.unwrapped

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode, from a state drawn by a generator restarted at `seed` (None: by the running one)."""
        del options
        if seed is not None:
            self.inner.seed(seed)
        return self.inner.reset(), {}

    def step(self, action: np.ndarray) -> Stepped:
        """Advances one environment step; `action` in the environment's own units."""
        observation, reward, done, info = self.inner.step(action)
        truncated = bool(info.get("TimeLimit.truncated", False))
        return observation, float(reward), bool(done) and not truncated, truncated, info

    def close(self) -> None:
        self.inner.close()
