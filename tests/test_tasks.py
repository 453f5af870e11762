"""Expected scores, addresses and horizons are D4RL's published ones; expected normalized scores are worked by hand."""

import dataclasses
import json

import numpy as np
import pytest

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.environments.tasks import D4RL_PAPER_TASKS, TASKS, ReferenceScore, Task, find_task, recorded_task

MADE_UP = Task("x", "x", Dimensions(2, 3), -np.ones(3, np.float32), np.ones(3, np.float32), 10)
BASE = "http://rail.eecs.berkeley.edu/datasets/offline_rl/"


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("hopper-random-v0", "gym_mujoco/hopper_random.hdf5"),
        ("halfcheetah-medium-v0", "gym_mujoco/halfcheetah_medium.hdf5"),
        ("walker2d-medium-expert-v0", "gym_mujoco/walker2d_medium_expert.hdf5"),
        ("hopper-medium-replay-v0", "gym_mujoco/hopper_mixed.hdf5"),
        ("halfcheetah-medium-replay-v0", "gym_mujoco/halfcheetah_mixed.hdf5"),
        ("walker2d-medium-replay-v0", "gym_mujoco/walker_mixed.hdf5"),
        ("walker2d-medium-replay-v1", "gym_mujoco_v1/walker2d_medium_replay-v1.hdf5"),
        ("hopper-medium-expert-v2", "gym_mujoco_v2/hopper_medium_expert-v2.hdf5"),
        ("pen-human-v0", "hand_dapg/pen-v0_demos_clipped.hdf5"),
        ("relocate-human-v1", "hand_dapg_v1/relocate-human-v1.hdf5"),
    ],
)
def test_dataset_addresses(name, url):
    assert find_task(name).dataset_url == BASE + url


@pytest.mark.parametrize(
    ("d4rl_name", "plain_name", "minimum", "maximum", "dimensions", "horizon"),
    [
        ("hopper-medium-v2", "Hopper-v4", -20.272305, 3234.3, (11, 3), 1000),
        ("halfcheetah-random-v0", "HalfCheetah-v4", -280.178953, 12135.0, (17, 6), 1000),
        ("walker2d-medium-replay-v1", "Walker2d-v4", 1.629008, 4592.3, (17, 6), 1000),
        ("pen-human-v0", "AdroitHandPen-v1", 96.262799, 3076.8331017826877, (45, 24), 100),
        ("hammer-human-v1", "AdroitHandHammer-v1", -274.856578, 12794.134825156867, (46, 26), 200),
        ("door-human-v1", "AdroitHandDoor-v1", -56.512833, 2880.5693087298737, (39, 28), 200),
        ("relocate-human-v0", "AdroitHandRelocate-v1", -6.425911, 4233.877797728884, (39, 30), 200),
    ],
)
def test_both_families_share_sizes_scores_and_horizon(d4rl_name, plain_name, minimum, maximum, dimensions, horizon):
    d4rl, plain = find_task(d4rl_name), find_task(plain_name)
    for task in (d4rl, plain):
        assert (task.reference_score.minimum, task.reference_score.maximum) == (minimum, maximum)
        assert "d4rl" in task.reference_score.source
        assert (task.dimensions, task.horizon) == (dimensions, horizon)
        assert task.action_low.tolist() == [-1.0] * dimensions[1] and task.action_high.tolist() == [1.0] * dimensions[1]
        assert task.environment_id == plain_name
        assert task.normalized_score(minimum) == 0.0
        assert task.normalized_score(0.75 * minimum + 0.25 * maximum) == pytest.approx(25.0)
        assert task.normalized_score(maximum) == pytest.approx(100.0)
    assert d4rl.is_d4rl and d4rl.dataset_url
    assert not plain.is_d4rl and plain.dataset_url is None


def test_normalized_score_by_hand():
    task = dataclasses.replace(MADE_UP, reference_score=ReferenceScore(-50.0, 150.0))
    np.testing.assert_allclose(task.normalized_score(np.array([-50.0, 0.0, 150.0, 350.0])), [0, 25, 100, 200])
    # A spread must not be offset: 20 of a range of 200 is 10 points, whatever the minimum.
    assert task.normalized_spread(20.0) == pytest.approx(10.0)


def test_score_without_reference_is_an_error():
    task = MADE_UP
    with pytest.raises(UserError, match="no reference score"):
        task.normalized_score(1.0)
    with pytest.raises(UserError, match="no reference score"):
        task.normalized_spread(1.0)


def test_paper_tasks():
    assert len(set(D4RL_PAPER_TASKS)) == 16
    assert all(name.endswith("-v0") and find_task(name).dataset_url for name in D4RL_PAPER_TASKS)
    assert {name.split("-")[0] for name in D4RL_PAPER_TASKS} == {
        "hopper", "halfcheetah", "walker2d", "pen", "hammer", "door", "relocate",
    }  # fmt: skip


def test_every_d4rl_task_has_its_own_file():
    # 3 robots x 4 behaviours x 3 versions + 4 hands x 2 versions
    urls = [task.dataset_url for task in TASKS.values() if task.is_d4rl]
    assert len(urls) == len(set(urls)) == 44
    assert all(name == task.name for name, task in TASKS.items())


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [("hoper-medium-v0", "hopper-medium-v0"), ("hopper-v4", "Hopper-v4"), ("pen-human-v2", "pen-human-v")],
)
def test_unknown_name_lists_close_ones(wrong, meant):
    with pytest.raises(UserError, match=f"unknown task '{wrong}'.*{meant}"):
        find_task(wrong)


def test_an_unknown_name_far_from_all_says_what_a_name_may_be():
    with pytest.raises(UserError, match=r"^unknown task 'qqq': any gymnasium id or module:factory works$"):
        find_task("qqq")


def test_settings_go_before_the_tasks_own_and_are_recorded():
    task = find_task("Hopper-v4", horizon=200, reference_score=ReferenceScore(10.0, 60.0))
    assert (task.horizon, task.normalized_score(35.0)) == (200, 50.0)
    assert task.facts() == {"task": "Hopper-v4", "horizon": 200, "reference_score": (10.0, 60.0)}
    again = recorded_task(json.loads(json.dumps(task.facts())))
    assert (again.horizon, again.reference_score.minimum, again.reference_score.maximum) == (200, 10.0, 60.0)
    assert find_task("Hopper-v4", horizon=200).facts()["horizon"] == 200
    assert find_task("Hopper-v4").facts() == {"task": "Hopper-v4"}
    assert recorded_task({"task": "Hopper-v4", "backend": "gymnasium"}) is TASKS["Hopper-v4"]


@pytest.mark.parametrize("score", [(5.0, 5.0), (6.0, 5.0), (0.0, float("inf")), (float("-inf"), 0.0)])
def test_reference_scores_that_cannot_be(score):
    with pytest.raises(UserError, match="ReferenceScore"):
        ReferenceScore(*score)
