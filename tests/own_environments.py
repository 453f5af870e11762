"""What somebody may bring along: environments of a few lines of Python, registered when this module is imported."""

import os

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete

LOW, HIGH = np.array([0.0, -0.2], np.float32), np.array([0.5, 1.0], np.float32)
FLAT, UNIT = Box(-np.inf, np.inf, (3,), np.float32), Box(-1.0, 1.0, (2,), np.float32)


class Track(gymnasium.Env):
    """The position moves by the first action and sideways by the second; the reward is what the first one was.

    Falls off the track, a terminal state, when it is further than 1 to the side. Actions beyond the bounds are refused.
    """

    observation_space = FLAT
    action_space = Box(LOW, HIGH)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = np.append(self.np_random.uniform(-0.5, 0.5, 2), 0.0)
        return self.state.astype(np.float32), {}

    def step(self, action):
        assert action.shape == (2,) and (action >= LOW - 1e-6).all() and (action <= HIGH + 1e-6).all(), action
        self.state = self.state + np.array([action[0], action[1], 1.0])
        return self.state.astype(np.float32), float(action[0]), bool(abs(self.state[1]) > 1.0), False, {}


gymnasium.register("Track-v0", Track, max_episode_steps=12)
gymnasium.register("Endless-v0", Track)


def make_track():
    """One that has no time limit of its own."""
    return Track()


def make_limited():
    return gymnasium.wrappers.TimeLimit(gymnasium.make("Track-v0"), 5)


class Spaces(Track):
    """With spaces of another kind."""

    def __init__(self, observation_space=FLAT, action_space=UNIT):
        self.observation_space, self.action_space = observation_space, action_space


def make_discrete():
    return Spaces(action_space=Discrete(3))


def make_image():
    return Spaces(Box(0, 255, (8, 8), np.uint8))


def make_dictionary():
    return Spaces(Dict({"position": FLAT}))


def make_unbounded():
    return Spaces(action_space=Box(-1.0, np.inf, (2,)))


def make_double_bounds():
    """Neither a tenth nor a third is a float32, and the nearest ones lie beyond."""
    return Spaces(action_space=Box(np.array([-0.1, -0.7]), np.array([0.1, 1 / 3]), dtype=np.float64))


def make_flat_bounds():
    return Spaces(action_space=Box(np.zeros(2, np.float32), np.array([1.0, 0.0], np.float32)))


def make_whole_numbers():
    return Spaces(action_space=Box(0, 4, (2,), np.int64))


def make_nothing():
    return "no environment"


def make_failing():
    raise RuntimeError("no licence")


class Filmed(Track):
    """Can be drawn: 32 x 48 pictures, black at the start of an episode and 20 levels lighter at each step."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def render(self):
        return np.full((32, 48, 3), 20 * int(self.state[2]), np.uint8)


class Restless(Filmed):
    """Rewards depend on the process that it lives in."""

    def step(self, action):
        observation, reward, *others = super().step(action)
        return observation, reward + os.getpid(), *others


gymnasium.register("Filmed-v0", Filmed, max_episode_steps=12)
gymnasium.register("Restless-v0", Restless, max_episode_steps=12)


def make_filmed():
    """A factory that can be told nothing: what it makes is not drawn unless it says so itself."""
    return Filmed("rgb_array")
