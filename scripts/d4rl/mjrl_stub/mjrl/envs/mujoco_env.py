"""The base class of D4RL's hand tasks (door, hammer, pen, relocate), without what they never call."""

from typing import Any

import gym
import mujoco_py
import numpy as np
from gym import spaces
from gym.utils import seeding


class MujocoEnv(gym.Env):
    """A MuJoCo 2.1.0 simulation advanced `frame_skip` simulation steps per environment step.

    Subclasses provide `step` and `reset_model`. As in mjrl, the constructor takes one step with a zero action to
    learn the size of an observation; D4RL's `step` counts on being called before the subclass is complete.
    """

    def __init__(self, model_path: str, frame_skip: int) -> None:
        self.frame_skip = frame_skip
        self.model = mujoco_py.load_model_from_path(model_path)
        self.sim = mujoco_py.MjSim(self.model)
        self.data = self.sim.data
        self.init_qpos = self.data.qpos.copy()
        self.init_qvel = self.data.qvel.copy()
        self.seed()
        low, high = self.model.actuator_ctrlrange.astype(np.float32).T
        self.action_space = spaces.Box(low, high, dtype=np.float32)
        observation = self.step(np.zeros(self.model.nu))[0]
        self.observation_space = spaces.Box(-np.inf, np.inf, shape=observation.shape, dtype=np.float64)

    def seed(self, seed: int | None = None) -> list[int]:
        """Makes the next `reset` draw from a generator started at `seed`."""
        self.np_random, used = seeding.np_random(seed)
        return [used]

    def reset(self) -> np.ndarray:
        """Puts the simulation back to its initial state and lets the task vary it; returns the observation."""
        self.sim.reset()
        self.sim.forward()
        return self.reset_model()

    def reset_model(self) -> np.ndarray:
        raise NotImplementedError

    def set_state(self, qpos: np.ndarray, qvel: np.ndarray) -> None:
        """Sets joint positions and velocities, and recomputes what follows from them."""
        state = self.sim.get_state()
        state.qpos[:] = qpos
        state.qvel[:] = qvel
        self.sim.set_state(state)
        self.sim.forward()

    def do_simulation(self, ctrl: Any, n_frames: int) -> None:
        """Advances `n_frames` simulation steps under the actuator values `ctrl` (actuator units)."""
        self.data.ctrl[:] = ctrl
        for _ in range(n_frames):
            self.sim.step()

    @property
    def dt(self) -> float:
        """Simulated seconds per environment step."""
        return self.model.opt.timestep * self.frame_skip
