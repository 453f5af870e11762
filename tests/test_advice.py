"""What is said of how data were made, on data made for it."""

import numpy as np
import pytest
import tiny
from dataset_files import shared_file

from brac_plus_tf.data.advice import Behavior, advice, behavior_of, between_two_groups, suggestion
from brac_plus_tf.data.loading import dataset_from_arrays, load_dataset


def made(gains, noise=0.1, episodes=40, length=50, rewards=None):
    """States drawn anew at each step; action 0.5 gain state + noise, the gain of each episode in turn."""
    generator = np.random.default_rng(0)
    rows = episodes * length
    state = generator.uniform(-1.0, 1.0, size=(rows, 2))
    gain = np.repeat(np.resize(gains, episodes) if len(gains) < episodes else np.asarray(gains), length)
    action = 0.4 * gain[:, None] * state[:, :1] + noise * generator.normal(size=(rows, 1))
    arrays = {
        "observations": state,
        "actions": np.clip(action, -1.0, 1.0),
        "rewards": gain + 0.1 * generator.normal(size=rows) if rewards is None else np.full(rows, rewards),
        "terminals": np.zeros(rows, bool),
        "timeouts": np.arange(rows) % length == length - 1,
    }
    return dataset_from_arrays(arrays, action_low=-1.0, action_high=1.0)


ONE, TWO = np.ones(40), np.repeat([1.0, -2.0], 20)


def test_one_policy():
    """The spread is the noise: 0.1. All actions: variance 0.4^2 / 3 + 0.1^2."""
    behavior = behavior_of(made(ONE))
    assert behavior.spread == pytest.approx(0.1, rel=0.1)
    assert behavior.all_actions == pytest.approx(np.sqrt(0.16 / 3.0 + 0.01), rel=0.05)
    assert not behavior.several and behavior.change == pytest.approx(1.0, abs=0.1) and not behavior.random


def test_two_policies_one_after_the_other():
    """In like states they differ by 1.2 state, squared 0.48 on average, beside twice the noise's 0.01."""
    behavior = behavior_of(made(TWO))
    assert behavior.change == pytest.approx((0.48 + 0.02) / 0.02, rel=0.25)
    assert behavior.several and behavior.separate and behavior.skills > 0.99


def test_one_that_changes_little_by_little_is_no_two_skills():
    behavior = behavior_of(made(np.linspace(-1.0, 1.0, 40)))
    assert behavior.several and not behavior.separate and behavior.skills == pytest.approx(0.75, abs=0.02)


def test_random_actions():
    behavior = behavior_of(made(np.zeros(40), noise=0.3))
    assert behavior.random and behavior.spread == pytest.approx(0.3, rel=0.1)


def test_coverage_falls_where_episodes_come_by_the_same_states():
    """A square of states, against a point of it in each of four episodes."""
    wide, data = behavior_of(made(ONE)), made(ONE)
    spots = np.round(data.transitions.observation)
    narrow = behavior_of(tiny.with_columns(data, observation=spots))
    assert narrow.coverage < 0.01 < wide.coverage < 0.1


def test_neighbours_are_of_other_episodes():
    """Each of four episodes stays in a corner of the square, and is far from the others, however near its own rows: a
    side, which is also the median of what parts two at random.
    """
    data = made(np.ones(4), episodes=4)
    corners = np.array([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])[data.places.episode]
    noise = 0.01 * np.random.default_rng(0).normal(size=corners.shape)
    assert behavior_of(tiny.with_columns(data, observation=corners + noise)).coverage == pytest.approx(1.0, abs=0.05)


def test_two_groups_by_hand():
    """Values 0 0 and 4 4: all variance lies between. 0, 3, 9 of equal weight: (0, 3 | 9) has means 1.5 and 9 around 4,
    so (2 * 2.5^2 + 5^2) / 3 = 12.5 of (16 + 1 + 25) / 3 = 14. A weight of 2 is the value twice."""
    assert between_two_groups(np.array([4.0, 0.0, 4.0, 0.0]), np.ones(4)) == pytest.approx(1.0)
    assert between_two_groups(np.array([0.0, 9.0, 3.0]), np.ones(3)) == pytest.approx(12.5 / 14.0)
    twice = between_two_groups(np.array([0.0, 0.0, 9.0, 3.0]), np.ones(4))
    assert between_two_groups(np.array([0.0, 9.0, 3.0]), np.array([2.0, 1.0, 1.0])) == pytest.approx(twice)
    assert between_two_groups(np.array([2.0, 2.0]), np.ones(2)) == 0.0
    assert between_two_groups(np.random.default_rng(0).normal(size=100_000), np.ones(100_000)) == pytest.approx(
        2.0 / np.pi, abs=0.01
    )


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (made(ONE), "brac_plus/short.gin, margin 0.5: one policy"),
        (made(TWO), "brac_plus/steady.gin after it, which finds out the same"),
        (made(np.linspace(-1.0, 1.0, 40)), "brac_plus/steady.gin after it: better and worse"),
        (made(np.zeros(40), noise=0.3, rewards=None), "margin 2: random"),
        (made(ONE, rewards=1.0), "bc/base.gin: all rewards are the same"),
        (made(np.ones(2), episodes=2), "margin 1: too few episodes"),
    ],
)
def test_a_suggestion_with_its_reason(data, expected):
    assert expected in suggestion(data, behavior_of(data))
    assert advice(data)[-1] == ("suggestion", suggestion(data, behavior_of(data)))


def test_quantiles_of_returns():
    (name, value), *_ = advice(made(ONE, rewards=2.0))
    assert name == "return at 5, 25, 50, 75, 95 %" and value == ", ".join(["100.0"] * 5)


@pytest.mark.parametrize(
    ("names", "several", "separate", "random"),
    [
        (["hopper-medium-replay"], True, False, False),
        (["halfcheetah-medium"], False, False, False),
        (["hopper-medium", "hopper-expert"], True, True, False),
        (["halfcheetah-random"], False, False, True),
    ],
)
def test_recorded_robots(names, several, separate, random):
    behavior = behavior_of(load_dataset([shared_file(name) for name in names], None))
    assert (behavior.several, behavior.separate, behavior.random) == (several, separate, random)


def test_nothing_is_said_of_a_single_episode():
    assert behavior_of(made(np.ones(1), episodes=1)) is None
    assert isinstance(behavior_of(made(np.ones(4), episodes=4)), Behavior)
