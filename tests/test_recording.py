import dataclasses

import gin
import numpy as np
import pytest
import scipy.stats
import tiny
from recordings import export_policy, plan

from brac_plus_tf.collection.recording import Collection, Part, Player
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.data.rows import COLUMNS
from brac_plus_tf.environments.tasks import find_task
from brac_plus_tf.runs import configuration

# Google's collect_data: 20 % uniform, 40 % the policy, 40 % the policy perturbed; and the policy alone
MIXTURES = {
    "pure": [(1.0, 0.0, 0.0)],
    "eps1": [(0.2, 1.0, 0.0), (0.4, 0.0, 0.0), (0.4, 0.1, 0.0)],
    "eps3": [(0.2, 1.0, 0.0), (0.4, 0.0, 0.0), (0.4, 0.3, 0.0)],
    "gaussian1": [(0.2, 1.0, 0.0), (0.4, 0.0, 0.0), (0.4, 0.0, 0.1)],
    "gaussian3": [(0.2, 1.0, 0.0), (0.4, 0.0, 0.0), (0.4, 0.0, 0.3)],
}


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return export_policy(tmp_path_factory.mktemp("export") / "policy")


def test_steps_of_the_parts_by_hand():
    parts = (Part(share=0.2), Part(share=0.4), Part(share=0.4))
    assert Collection(parts).rows(10) == [2, 4, 4]
    assert Collection(parts).rows(7) == [1, 3, 3]  # ends at 1.4, 4.2, 7
    assert Collection((Part(share=3.0), Part(share=1.0))).rows(1000) == [750, 250]


@pytest.mark.parametrize("name", MIXTURES)
def test_mixtures_are_googles(name):
    path = tiny.CONFIGS / "collection" / f"{name}.gin"
    made = configuration.build(Collection, [str(path)], [])
    assert [(part.share, part.epsilon, part.noise) for part in made.parts] == MIXTURES[name]
    assert made.action == "sample"


def test_a_shard_depends_on_its_place_alone(policy):
    made = plan(policy, Part(epsilon=0.2), Part(noise=0.1))
    one, other = Player(made), Player(made)
    first, again = one.play(0, 0), one.play(1, 3)
    for actual, expected in ((other.play(1, 3), again), (other.play(0, 0), first)):
        assert actual.rows.columns().keys() == COLUMNS.keys()
        for key, column in actual.rows.columns().items():
            np.testing.assert_array_equal(column, expected.rows.columns()[key])
        np.testing.assert_array_equal(actual.seeds, expected.seeds)
        np.testing.assert_array_equal(actual.lengths, expected.lengths)
    for place in ((0, 1), (1, 0)):
        assert not np.isin(one.play(*place).seeds, first.seeds).any()
    assert not np.isin(Player(dataclasses.replace(made, seed=1)).play(0, 0).seeds, first.seeds).any()


def test_draws_of_episodes_that_are_played_together_are_independent(tmp_path):
    """The tiny agent's `sample` is 0.5 tanh(o) + 0.5 tanh(noise), so that the rows tell the noise."""
    shard = Player(plan(export_policy(tmp_path / "policy"), action="sample", shard_episodes=40, width=40)).play(0, 0)
    centre = 0.5 * np.tanh(shard.rows.observations[:, :3].astype(np.float64))
    noise = np.arctanh(np.clip(2.0 * (shard.rows.actions - centre), -1 + 1e-9, 1 - 1e-9))
    assert scipy.stats.kstest(noise.ravel(), "norm").pvalue > 1e-3
    first = np.append(0, np.cumsum(shard.lengths)[:-1])
    steps = min(shard.lengths)
    together = np.stack([noise[start : start + steps] for start in first])  # taken side by side, step by step
    correlation = np.corrcoef(together.reshape(40, -1)) - np.eye(40)
    assert np.abs(correlation).max() < 5.0 / np.sqrt(3 * steps)  # the largest of 780
    assert len(np.unique(noise)) == noise.size


@pytest.fixture(scope="module")
def track(tmp_path_factory):
    """Episodes, 40 at a time, of a task whose actions lie within [0, 0.5] and [-0.2, 1], by a part's manner.

    Gives what the policy alone would have done and what was done [M, 2], in halves of the range, and the first rows.
    """
    task = find_task("own_environments:Track-v0")
    policy = export_policy(tmp_path_factory.mktemp("track") / "policy", task)

    def play(part: Part, episodes: int):
        made = plan(policy, part, shard_episodes=episodes, width=40)
        shard = Player(dataclasses.replace(made, task=task)).play(0, 0)
        own = np.tanh(shard.rows.observations[:, :2].astype(np.float64))
        done = (shard.rows.actions - np.array([0.25, 0.4])) / np.array([0.25, 0.6])
        return own, done, np.append(0, np.cumsum(shard.lengths)[:-1])

    return play


def test_uniform_actions_fill_the_range_and_come_for_each_episode_by_itself(track):
    own, done, first = track(Part(epsilon=0.3), episodes=40)
    replaced = np.abs(done - own).max(axis=1) > 1e-5
    assert abs(replaced.mean() - 0.3) < 5 * np.sqrt(0.3 * 0.7 / len(replaced))
    assert scipy.stats.kstest(done[replaced].ravel(), scipy.stats.uniform(-1.0, 2.0).cdf).pvalue > 1e-3
    assert 0 < replaced[first].sum() < 40


def test_noise_is_in_halves_of_the_range(track):
    own, done, _ = track(Part(noise=0.2), episodes=200)
    inside = np.abs(own) < 0.3  # where four deviations of it are not clipped
    for entry in range(2):
        noise = (done - own)[inside[:, entry], entry]
        assert len(noise) > 100 and scipy.stats.kstest(noise, scipy.stats.norm(0.0, 0.2).cdf).pvalue > 1e-3


# Processes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [{"share": 0.0}, {"epsilon": 1.5}, {"noise": -0.1}, {"share": float("inf")}], ids=str)
def test_impossible_parts(part):
    with pytest.raises(UserError, match="Part"):
        Part(**part)


@pytest.fixture(autouse=True)
def clean():
    gin.clear_config()
