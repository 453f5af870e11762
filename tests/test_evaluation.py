import dataclasses

import numpy as np
import pytest

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.environments.tasks import ReferenceScore, find_task
from brac_plus_tf.policies import evaluation
from brac_plus_tf.policies.acting import WayToAct
from brac_plus_tf.policies.evaluation import Episodes, Evaluator, report

TASK = dataclasses.replace(find_task("Hopper-v4"), reference_score=ReferenceScore(-20.0, 180.0, "made up"))


class CountingEnvironment:
    """Observation (first, steps so far), reward first * action; ends after `first` steps, truncated if even.

    `first` is 1 + seed % 5, so every episode's return follows from its seed alone.
    """

    def __init__(self, log, ends=True):
        self.log, self.ends = log, ends

    def reset(self, *, seed=None):
        self.log.append(seed)
        self.first, self.steps = 1 + seed % 5, 0
        return np.array([self.first, 0.0]), {}

    def step(self, action):
        self.steps += 1
        ended = self.ends and self.steps == self.first
        observation = np.array([self.first, self.steps], np.float64)
        return (
            observation,
            self.first * float(action[0]),
            ended and self.first % 2 == 1,
            ended and self.first % 2 == 0,
            {},
        )


def act_half(observations, state, seed):
    """The action is 0.5 + the number of steps the episode has taken."""
    return observations[:, 1:] + 0.5, state


HALF = WayToAct(act_half)


def expected_return(seed):
    """first * (0.5 + 1.5 + ... ) over `first` steps = first^3 / 2."""
    return (1 + seed % 5) ** 3 / 2


def evaluator(log, horizon=100, ends=True) -> Evaluator:
    return Evaluator(lambda: CountingEnvironment(log, ends), horizon)


@pytest.fixture
def narrow(monkeypatch):
    monkeypatch.setattr(evaluation, "_WIDTH", 3)


def test_returns_and_lengths_by_hand(narrow):
    """More episodes than environments: each in its place, whenever it ended."""
    log = []
    episodes = evaluator(log).run(HALF, 10, seed=4)
    assert len(log) == 10
    seeds = one_by_one(seed=4, episodes=10)
    np.testing.assert_array_equal(episodes.returns, [expected_return(seed) for seed in seeds])
    np.testing.assert_array_equal(episodes.lengths, [1 + seed % 5 for seed in seeds])
    assert len(set(episodes.lengths)) > 2  # otherwise the order would go unnoticed


def test_discounted_returns_by_hand(narrow):
    """Rewards first (1/2), first (3/2), .. discounted by a quarter each; lengths do not change."""
    episodes = evaluator([]).run(HALF, 10, seed=4, gamma=0.25)
    for seed, found in zip(one_by_one(seed=4, episodes=10), episodes.returns, strict=True):
        first = 1 + seed % 5
        assert found == pytest.approx(sum(0.25**step * first * (0.5 + step) for step in range(first)))
    np.testing.assert_array_equal(episodes.lengths, evaluator([]).run(HALF, 10, seed=4).lengths)


def one_by_one(seed, episodes) -> list[int]:
    """Reset seeds of episodes 0, 1, .. found by growing the number of episodes in one environment."""
    log = []
    single = Evaluator(lambda: CountingEnvironment(log), 100)
    before, evaluation._WIDTH = evaluation._WIDTH, 1
    try:
        single.run(HALF, episodes, seed)
    finally:
        evaluation._WIDTH = before
    return list(log)


@pytest.mark.parametrize("width", [1, 2, 7, 100])
def test_an_episodes_seed_depends_on_its_index_only(monkeypatch, width):
    alone = one_by_one(seed=4, episodes=12)
    monkeypatch.setattr(evaluation, "_WIDTH", width)
    for count in (1, 5, 12):
        log = []
        evaluator(log).run(HALF, count, seed=4)
        assert sorted(log) == sorted(alone[:count])


def test_episodes_and_seeds_have_starts_of_their_own():
    first, second = one_by_one(seed=0, episodes=40), one_by_one(seed=1, episodes=40)
    assert len(set(first) | set(second)) == 80
    assert all(0 <= seed < 2**31 for seed in first)


def test_equal_seeds_give_equal_episodes_also_in_used_environments(narrow):
    log = []
    evaluator_ = evaluator(log)
    first, other = evaluator_.run(HALF, 7, seed=4), evaluator_.run(HALF, 7, seed=5)
    again = evaluator_.run(HALF, 7, seed=4)
    np.testing.assert_array_equal(first.returns, again.returns)
    assert not np.array_equal(first.returns, other.returns)


def test_environments_are_made_once(narrow):
    made = []

    def make():
        made.append(CountingEnvironment([]))
        return made[-1]

    evaluator_ = Evaluator(make, 100)
    evaluator_.run(HALF, 2, seed=0)
    assert len(made) == 2
    evaluator_.run(HALF, 9, seed=0)
    evaluator_.run(HALF, 9, seed=0)
    assert len(made) == 3


def test_the_horizon_cuts_episodes_that_do_not_end():
    episodes = evaluator([], horizon=7, ends=False).run(HALF, 4, seed=0)
    np.testing.assert_array_equal(episodes.lengths, [7] * 4)
    firsts = np.array([1 + seed % 5 for seed in one_by_one(0, 4)])
    np.testing.assert_array_equal(episodes.returns, firsts * 7**2 / 2)  # 0.5 + 1.5 + .. + 6.5 = 24.5


def test_the_policy_sees_the_full_width(narrow):
    seen = []

    def act(observations, state, seed):
        seen.append((observations.shape, observations.dtype))
        return act_half(observations, state, seed)

    evaluator([]).run(WayToAct(act), 5, seed=0)
    assert set(seen) == {((3, 2), np.dtype(np.float32))}


@pytest.mark.parametrize("width", [1, 3, 100])
def test_the_seed_of_a_draw_depends_on_its_episode_and_step_only(monkeypatch, width):
    """Whatever the number of episodes and of simulators; the first entry tells the episode, the second the step."""

    def seeds_of_draws(episodes, seed):
        drawn = {}

        def act(observations, state, seeds):
            assert seeds.shape == (len(observations),) and ((0 <= seeds) & (seeds < 2**31)).all()
            for (first, step), drawn_from in zip(observations.tolist(), seeds.tolist(), strict=True):
                if first:  # 0: a simulator that has nothing left to play
                    drawn.setdefault((first, step), set()).add(drawn_from)
            return act_half(observations, state, seeds)

        evaluator([]).run(WayToAct(act), episodes, seed)
        return drawn

    alone = seeds_of_draws(12, seed=4)
    monkeypatch.setattr(evaluation, "_WIDTH", width)
    assert seeds_of_draws(12, seed=4) == alone
    assert len(set.union(*alone.values())) == sum(1 + seed % 5 for seed in one_by_one(seed=4, episodes=12))
    assert not set.union(*alone.values()) & set.union(*seeds_of_draws(12, seed=5).values())


def test_what_an_episode_ended_in_is_not_shown_again(narrow):
    """A simulation that blew up ends its episode with NaN; the others go on."""

    class Exploding(CountingEnvironment):
        def step(self, action):
            observation, *rest = super().step(action)
            return (observation * np.nan if rest[1] or rest[2] else observation), *rest

    def act(observations, state, seed):
        assert np.isfinite(observations).all()
        return act_half(observations, state, seed)

    episodes = Evaluator(lambda: Exploding([]), 100).run(WayToAct(act), 5, seed=0)
    np.testing.assert_array_equal(episodes.returns, [expected_return(seed) for seed in one_by_one(0, 5)])


@pytest.mark.parametrize("reward", [np.nan, np.inf])
def test_rewards_that_are_not_finite_are_an_error(reward):
    class Broken(CountingEnvironment):
        def step(self, action):
            observation, _, *rest = super().step(action)
            return observation, reward if self.first == 3 else 1.0, *rest

    with pytest.raises(UserError, match="not finite"):
        Evaluator(lambda: Broken([]), 100).run(HALF, 20, seed=0)


# Summaries: 10, 20, 60 have mean 30 and deviation sqrt((400 + 100 + 900) / 3); 200 units of return are 100 points

EPISODES = Episodes(np.array([10.0, 20.0, 60.0]), np.array([1, 2, 6]))
DEVIATION = np.sqrt(1400.0 / 3.0)


def test_summary_by_hand():
    assert EPISODES.summary(TASK) == pytest.approx(
        {
            "return_mean": 30.0,
            "return_std": DEVIATION,
            "length_mean": 3.0,
            "score_mean": 25.0,  # (30 + 20) / 2
            "score_std": DEVIATION / 2.0,  # scaled, not shifted
        }
    )


def test_summary_of_hopper_with_the_published_scores():
    """d4rl's infos.py: hopper's random policy has -20.272305, its expert 3234.3."""
    summary = Episodes(np.array([3234.3, -20.272305]), np.array([1000, 20])).summary(find_task("hopper-medium-v0"))
    assert summary["score_mean"] == pytest.approx(50.0)
    assert summary["score_std"] == pytest.approx(50.0)


def test_without_reference_scores_there_is_no_score():
    summary = EPISODES.summary(dataclasses.replace(TASK, reference_score=None))
    assert summary == pytest.approx({"return_mean": 30.0, "return_std": DEVIATION, "length_mean": 3.0})


def test_report_by_hand():
    content = report(EPISODES, TASK, "gymnasium", "max_q")
    assert {key: content[key] for key in ("task", "backend", "action", "episodes", "returns", "lengths", "scores")} == {
        "task": "Hopper-v4",
        "backend": "gymnasium",
        "action": "max_q",
        "episodes": 3,
        "returns": [10.0, 20.0, 60.0],
        "lengths": [1, 2, 6],
        "scores": [15.0, 20.0, 40.0],
    }
    assert content["score_mean"] == pytest.approx(25.0)
    assert "scores" not in report(EPISODES, dataclasses.replace(TASK, reference_score=None), "gymnasium", "mean")
