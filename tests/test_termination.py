"""Ends of episodes against the environments' own flags, and at every bound by hand."""

import importlib.util

import numpy as np
import pytest
import tensorflow as tf

from brac_plus_tf.environments.environment import make_environment
from brac_plus_tf.environments.tasks import find_task

pytest.importorskip("gymnasium", reason="gymnasium is not installed")
needs_hands = pytest.mark.skipif(
    importlib.util.find_spec("gymnasium_robotics") is None, reason="gymnasium-robotics is not installed"
)
HOPPER, WALKER2D, CHEETAH, PEN = 11, 17, 17, 45


@pytest.mark.parametrize(
    ("name", "fewest"),
    [
        ("hopper-medium-v2", 20),
        ("walker2d-medium-v2", 20),
        ("Hopper-v4", 20),
        ("halfcheetah-medium-v2", 0),
        pytest.param("pen-human-v1", 1, marks=needs_hands),
        pytest.param("AdroitHandPen-v1", 0, marks=needs_hands),
        pytest.param("door-human-v1", 0, marks=needs_hands),
    ],
)
def test_the_rule_is_the_environment_s_own(name, fewest):
    """Random actions, 600 steps: every flag of every step."""
    task = find_task(name)
    environment = make_environment(task, "gymnasium")
    generator = np.random.default_rng(0)
    environment.reset(seed=0)
    observations, flags = [], []
    for _ in range(600):
        action = generator.uniform(-1.0, 1.0, task.dimensions.action).astype(np.float32)
        observation, _, terminated, truncated, _ = environment.step(action)
        observations.append(observation)
        flags.append(terminated)
        if terminated or truncated:
            environment.reset()
    assert task.healthy.ends(np.array(observations)).numpy().tolist() == flags
    assert sum(flags) >= fewest and (fewest or not any(flags))


def standing(size: int, height: float) -> np.ndarray:
    return np.array([height] + [0.0] * (size - 1))


@pytest.mark.parametrize(
    ("name", "healthy", "index", "inside", "outside"),
    [
        ("hopper-medium-v0", standing(HOPPER, 1.2), 0, (0.7001, 150.0), (0.7, 0.6999, -1.0)),
        ("hopper-medium-v0", standing(HOPPER, 1.2), 1, (-0.1999, 0.1999), (-0.2, 0.2, 1.0)),
        ("hopper-medium-v0", standing(HOPPER, 1.2), 2, (-99.9, 99.9), (-150.0, 150.0, 100.0, -100.0)),
        ("hopper-medium-v0", standing(HOPPER, 1.2), 10, (-99.9, 99.9), (-150.0, 150.0)),
        ("walker2d-medium-v0", standing(WALKER2D, 1.2), 0, (0.8001, 1.9999), (0.8, 2.0, 0.7999, 2.0001)),
        ("walker2d-medium-v0", standing(WALKER2D, 1.2), 1, (-0.9999, 0.9999), (-1.0, 1.0)),
        ("walker2d-medium-v0", standing(WALKER2D, 1.2), 16, (-150.0, 150.0), ()),
        ("halfcheetah-medium-v0", standing(CHEETAH, -5.0), 3, (-1e4, 1e4), ()),
        ("pen-human-v0", np.ones(PEN), 26, (0.0751, 9.0), (0.075, 0.0749, -1.0)),
        ("pen-human-v0", np.ones(PEN), 25, (0.0, -1.0), ()),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_at_each_bound_and_where_nothing_is_finite(name, healthy, index, inside, outside, dtype):
    rule = find_task(name).healthy
    outside = [value for value in (*outside, np.nan, np.inf, -np.inf)]
    if dtype == np.float32:  # where the bound itself is rounded, it lies on either side
        outside = [value for value in outside if np.float32(value) == value or not np.isfinite(value)]
    rows = np.tile(healthy, (len(inside) + len(outside), 1)).astype(dtype)
    rows[:, index] = (*inside, *outside)
    ends = rule.ends(tf.constant(rows))
    assert ends.dtype == tf.bool
    assert ends.numpy().tolist() == [False] * len(inside) + [True] * len(outside)
    assert rule.ends(tf.constant(rows[None])).numpy().tolist() == [ends.numpy().tolist()]
    assert not rule.ends(healthy)


def test_it_compiles_and_an_unknown_environment_has_none():
    rule = find_task("hopper-medium-v0").healthy
    compiled = tf.function(rule.ends)
    assert compiled(tf.constant([standing(HOPPER, 0.5), standing(HOPPER, 1.0)], tf.float32)).numpy().tolist() == [1, 0]
    assert find_task("Pendulum-v1").healthy is None
