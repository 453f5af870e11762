import json
import time

import gin
import h5py
import numpy as np
import pytest
import tensorflow as tf
from dataset_files import columns, shared_file, small_task, write_file

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.data import download as dataset_download
from brac_plus_tf.data.dataset import OfflineDataset, dataset_task, load_dataset
from brac_plus_tf.data.sources import contents_sha256
from brac_plus_tf.environments.tasks import find_task


def test_loads_rescaled_transitions(tmp_path):
    path = write_file(tmp_path / "a.hdf5", rewards=np.array([1.0, 3.0, 5.0, 2.0, 4.0]))
    dataset = load_dataset(path, small_task(action_low=-1.0, action_high=3.0))
    observation, action, reward, discount, following, next_action = dataset.transitions
    np.testing.assert_array_equal(observation[:, 0], [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(following[:, 0], [1, 2, 3, 4, 4])
    np.testing.assert_array_equal(discount, [1, 1, 1, 1, 0])
    # (r - 1) / (5 - 1) and (a - 1) / 2 with a = 0.02 i.
    np.testing.assert_array_equal(reward, [0, 0.5, 1, 0.25, 0.75])
    np.testing.assert_allclose(action[:, 2], [-0.5, -0.49, -0.48, -0.47, -0.46], rtol=1e-6)
    np.testing.assert_allclose(next_action[:, 2], [-0.49, -0.48, -0.47, -0.46, -0.46], rtol=1e-6)
    assert {array.dtype for array in dataset.transitions} == {np.dtype(np.float32)}
    assert dataset.scaling.reward_shift == 1.0 and dataset.scaling.reward_scale == 4.0
    np.testing.assert_array_equal(dataset.scaling.action_center, [1, 1, 1])
    np.testing.assert_array_equal(dataset.scaling.action_half_range, [2, 2, 2])
    np.testing.assert_array_equal(dataset.scaling.observation_shift, [0, 0])
    np.testing.assert_array_equal(dataset.scaling.observation_scale, [1, 1])
    assert dataset.files == (path,) and dataset.row_counts == (5,) and dataset.number_of_transitions == 5
    assert dataset.dimensions == Dimensions(2, 3) and dataset.sha256 == contents_sha256([path])
    np.testing.assert_array_equal(dataset.episode_returns, [15])
    np.testing.assert_array_equal(dataset.episode_lengths, [5])
    np.testing.assert_array_equal(dataset.episode_complete, [True])


def test_rewards_can_stay_as_they_are(tmp_path):
    dataset = load_dataset(write_file(tmp_path / "a.hdf5"), small_task(), rescale_rewards=False)
    np.testing.assert_array_equal(dataset.transitions.reward, [0, 1, 2, 3, 4])
    assert (dataset.scaling.reward_shift, dataset.scaling.reward_scale) == (0.0, 1.0)


def test_reward_range_is_that_of_the_transitions(tmp_path):
    # Row 4 is unfinished and yields no transition, so its reward of 100 does not count.
    path = write_file(tmp_path / "a.hdf5", rewards=np.array([0, 1, 2, 4, 100.0]), terminals=np.zeros(5, bool))
    dataset = load_dataset(path, small_task())
    np.testing.assert_array_equal(dataset.transitions.reward, [0, 0.25, 0.5, 1])
    assert dataset.episode_returns[0] == 107 and not dataset.episode_complete[0]


def test_normalizes_observations(tmp_path):
    observations = np.array([[1, 7], [3, 7], [1, 7], [3, 7], [2, 7]])
    following = observations + 1
    path = write_file(tmp_path / "a.hdf5", observations=observations, next_observations=following)
    dataset = load_dataset(path, small_task(), normalize_observations=True)
    # Mean 2, variance 4 / 5; the constant entry has deviation 0, raised to 1e-3.
    np.testing.assert_allclose(dataset.scaling.observation_shift, [2, 7])
    np.testing.assert_allclose(dataset.scaling.observation_scale, [np.sqrt(0.8), 1e-3], rtol=1e-6)
    np.testing.assert_allclose(dataset.transitions.observation[:, 0], np.array([-1, 1, -1, 1, 0]) / np.sqrt(0.8))
    np.testing.assert_array_equal(dataset.transitions.next_observation[:, 1], np.float32(1) / np.float32(1e-3))
    np.testing.assert_array_equal(
        dataset.scaling.normalize_observation(following), dataset.transitions.next_observation
    )


def test_several_files_follow_one_another_without_joining(tmp_path):
    unfinished = {"terminals": np.zeros(3, bool)}
    first = write_file(tmp_path / "a.hdf5", rows=3, **unfinished)
    second = write_file(tmp_path / "b.hdf5", rows=2, observations=np.array([[10, 0], [11, 0]]))
    dataset = load_dataset([first, second, first], small_task())
    np.testing.assert_array_equal(dataset.transitions.observation[:, 0], [0, 1, 10, 11, 0, 1])
    np.testing.assert_array_equal(dataset.transitions.next_observation[:, 0], [1, 2, 11, 11, 1, 2])
    assert dataset.row_counts == (3, 2, 3) and dataset.files == (first, second, first)
    np.testing.assert_array_equal(dataset.episode_lengths, [3, 2, 3])
    np.testing.assert_array_equal(dataset.episode_complete, [False, True, False])
    np.testing.assert_array_equal(dataset.episode_returns, [3, 1, 3])
    assert dataset.sha256 == contents_sha256([first, second, first])


def error_of(*args, **kwargs) -> str:
    with pytest.raises(UserError) as caught:
        load_dataset(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_actions_outside_the_bounds(tmp_path):
    actions = columns()["actions"]
    actions[3, 1] = 1 + 2e-6
    path = write_file(tmp_path / "a.hdf5", actions=actions)
    assert f"{path}: key 'actions', row 3: entry 1 is 1.000002" in error_of(path, small_task())
    assert "outside [-1, 1]" in error_of(path)
    # Actions of row i are 0.02 i.
    assert "row 2: entry 0 is 0.0399999991, outside [-1, 0.03]" in error_of(path, action_high=0.03)


def test_actions_within_the_tolerance_are_clipped(tmp_path):
    actions = columns()["actions"]
    actions[3, 1], actions[4, 2] = 1 + 5e-7, -1 - 5e-7
    dataset = load_dataset(write_file(tmp_path / "a.hdf5", actions=actions), small_task())
    assert dataset.transitions.action.max() == 1.0 and dataset.transitions.action.min() == -1.0


def test_own_data_without_a_task(tmp_path):
    actions = np.array([[0, -4, 9], [10, 4, 9.5], [5, 0, 10]])
    path = write_file(tmp_path / "a.hdf5", rows=3, actions=actions)
    dataset = load_dataset(path, action_low=[0, -4, 9], action_high=[10, 4, 10])
    np.testing.assert_array_equal(dataset.transitions.action, [[-1, -1, -1], [1, 1, 0], [0, 0, 1]])
    assert dataset.dimensions == Dimensions(2, 3)
    assert "give one number, or one for each of 3 entries" in error_of(path, action_low=[0, 0])
    assert "the low ones below the high ones" in error_of(path, action_low=1.0)
    assert "must be finite" in error_of(path, action_low=-np.inf)
    assert "key 'timeouts' is missing" in error_of(write_file(tmp_path / "b.hdf5", timeouts=None))


def test_episodes_longer_than_the_horizon(tmp_path):
    path = write_file(tmp_path / "a.hdf5")
    task = small_task(horizon=4)
    message = error_of(path, task)
    assert message.startswith(f"{path}: key 'timeouts', row 0: ") and "5 steps, more than the task's 4" in message
    assert load_dataset(path, task, allow_longer_episodes=True).number_of_transitions == 5
    assert load_dataset(write_file(tmp_path / "b.hdf5", timeouts=None), task).episode_lengths.tolist() == [4, 1]


def test_other_refusals(tmp_path):
    path = write_file(tmp_path / "a.hdf5", rewards=np.full(5, 2.5))
    assert error_of(path, small_task()).startswith(f"{path}: key 'rewards' is 2.5 in every transition")
    assert load_dataset(path, small_task(), rescale_rewards=False).transitions.reward.tolist() == [2.5] * 5
    assert "key 'observations' has 2 entries per row where 11" in error_of(path, find_task("Hopper-v4"))
    wider = write_file(tmp_path / "b.hdf5", observations=np.zeros((5, 4)))
    assert error_of([path, wider]).startswith(f"{wider}: key 'observations' has 4 entries per row where 2")
    lonely = write_file(tmp_path / "c.hdf5", rows=1, terminals=np.array([False]))
    assert f"{lonely}: no row yields a transition" in error_of(lonely, small_task())
    assert "no source given" in error_of([])


def test_d4rl_names_bring_their_task_and_are_found_by_file_name(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset_download, "_installed_urls", dict)
    write_file(tmp_path / "hopper_mixed.hdf5", observations=np.zeros((5, 11)), timeouts=None, rewards=np.arange(5.0))
    dataset = load_dataset("hopper-medium-replay-v0", data_dir=str(tmp_path))
    assert dataset.dimensions == Dimensions(11, 3) and dataset.files == (str(tmp_path / "hopper_mixed.hdf5"),)


def test_task_from_flag_then_name_then_file(tmp_path):
    path = write_file(tmp_path / "a.hdf5")
    assert dataset_task(path, None) is None
    assert dataset_task(path, "Hopper-v4").name == "Hopper-v4"
    assert dataset_task("hopper-medium-v0", None).name == "hopper-medium-v0"
    with h5py.File(path, "a") as file:
        file.attrs["env_id"] = "HalfCheetah-v4"
    assert dataset_task(path, None).name == "HalfCheetah-v4"
    assert dataset_task(path, "Hopper-v4").name == "Hopper-v4"
    with h5py.File(path, "a") as file:
        file.attrs["env_id"] = "MyRobot-v0"
    assert dataset_task(path, None) is None
    with pytest.raises(UserError, match="Hoper"):
        dataset_task(path, "Hoper-v4")


def test_facts_are_ready_for_json(tmp_path):
    path = write_file(tmp_path / "a.hdf5")
    facts = load_dataset([path, path], small_task()).facts()
    assert json.loads(json.dumps(facts)) == {
        "files": ["a.hdf5", "a.hdf5"],
        "sha256": contents_sha256([path, path]),
        "rows": [5, 5],
        "transitions": 10,
    }


def test_gin_binds_the_loader(tmp_path):
    path = write_file(tmp_path / "a.hdf5")
    with gin.unlock_config():
        gin.parse_config(f"load_dataset.source = '{path}'\nload_dataset.rescale_rewards = False")
        dataset = gin.get_configurable("load_dataset")()
        gin.clear_config()
    np.testing.assert_array_equal(dataset.transitions.reward, [0, 1, 2, 3, 4])


def numbered(tmp_path, rows=7) -> OfflineDataset:
    """Transition i has observation (i, -i), unscaled reward i, and discount 1 but for the last."""
    return load_dataset(write_file(tmp_path / "a.hdf5", rows=rows), small_task(), rescale_rewards=False)


def seed(number: int) -> tf.Tensor:
    return tf.constant([number, 17], tf.int32)


def test_a_sample_consists_of_whole_transitions(tmp_path):
    dataset = numbered(tmp_path)
    batch = dataset.sample((4, 50), seed(1))
    index = batch.reward.numpy().astype(int)
    assert batch.reward.shape == batch.discount.shape == (4, 50)
    assert batch.observation.shape == batch.next_observation.shape == (4, 50, 2) and batch.action.shape == (4, 50, 3)
    assert sorted(set(index.ravel())) == list(range(7))
    for drawn, held in zip(batch, dataset.transitions, strict=True):
        assert drawn.dtype == tf.float32
        np.testing.assert_array_equal(drawn, held[index])


def test_samples_are_uniform_with_replacement(tmp_path):
    counts = np.bincount(numbered(tmp_path).sample((70_000,), seed(2)).reward.numpy().astype(int), minlength=7)
    # 99.99 % quantile of chi-square with 6 degrees of freedom.
    assert ((counts - 10_000) ** 2 / 10_000).sum() < 27.9


def test_samples_depend_on_the_seed_alone(tmp_path):
    dataset = numbered(tmp_path, rows=1000)
    again = load_dataset(dataset.files[0], small_task(), rescale_rewards=False)
    first, second = dataset.sample((64,), seed(1)).reward.numpy(), dataset.sample((64,), seed(2)).reward.numpy()
    np.testing.assert_array_equal(first, again.sample((64,), seed(1)).reward)
    # Independent draws from 1000 agree in 64 / 1000 places on average.
    assert (first == second).sum() <= 3


def test_eager_and_compiled_loops_draw_the_same_batches(tmp_path):
    dataset = numbered(tmp_path, rows=100)

    def draw(steps):
        def body(step, drawn):
            return step + 1, drawn.write(step, dataset.sample((2, 8), tf.stack([step, 5])).reward)

        _, drawn = tf.while_loop(
            lambda step, _: step < steps, body, (0, tf.TensorArray(tf.float32, steps, element_shape=(2, 8)))
        )
        return drawn.stack()

    # Compiled first: the tensors are then made while the function is traced.
    compiled = tf.function(draw, jit_compile=True, autograph=False)(5)
    graph = tf.function(draw, autograph=False)(5)
    eager = [dataset.sample((2, 8), tf.constant([step, 5], tf.int32)).reward for step in range(5)]
    np.testing.assert_array_equal(compiled, np.stack(eager))
    np.testing.assert_array_equal(graph, np.stack(eager))
    assert dataset.tensors is dataset.tensors and isinstance(dataset.tensors.reward.numpy(), np.ndarray)


def test_tensors_do_not_follow_later_changes_of_the_arrays(tmp_path):
    dataset = numbered(tmp_path)
    before = dataset.tensors.reward.numpy().copy()
    dataset.transitions.reward[:] = -1
    np.testing.assert_array_equal(dataset.tensors.reward, before)


# File: rows, episodes, complete episodes, terminals, mean return; transitions: rows with stored next observations.
REAL_FILES = {
    "hopper-random": ("Hopper-v4", 100_000, 4_530, 4_529, 18.3),
    "hopper-medium-replay": ("Hopper-v4", 199_999, 1_412, 1_411, 395.7),
    "hopper-medium": ("Hopper-v4", 200_000, 474, 442, 1493.0),
    "hopper-expert": ("Hopper-v4", 100_000, 113, 48, 3245.0),
    "halfcheetah-random": ("HalfCheetah-v4", 100_000, 100, 0, -281.4),
    "halfcheetah-medium-replay": ("HalfCheetah-v4", 99_999, 100, 0, 2245.2),
    "door-expert": ("AdroitHandDoor-v1", 10_000, 50, 0, 2977.4),
    "pen-expert": ("AdroitHandPen-v1", 10_000, 100, 0, 2996.1),
}


@pytest.mark.parametrize("name", REAL_FILES)
def test_real_files_hold_what_their_list_says(name):
    environment, rows, episodes, terminals, mean_return = REAL_FILES[name]
    task = find_task(environment)
    dataset = load_dataset(shared_file(name), task)
    assert dataset.row_counts == (rows,) and dataset.number_of_transitions == rows
    assert len(dataset.episode_returns) == episodes and dataset.episode_complete.all()
    assert dataset.episode_lengths.sum() == rows
    assert (dataset.transitions.discount == 0).sum() == terminals
    assert dataset.episode_returns.mean() == pytest.approx(mean_return, abs=0.05)
    assert dataset.transitions.reward.min() == 0.0 and dataset.transitions.reward.max() == 1.0


def test_real_medium_expert_is_medium_then_expert():
    task = find_task("Hopper-v4")
    medium, expert = load_dataset(shared_file("hopper-medium"), task), load_dataset(shared_file("hopper-expert"), task)
    both = load_dataset([medium.files[0], expert.files[0]], task)
    assert both.row_counts == (200_000, 100_000) and len(both.episode_returns) == 474 + 113
    np.testing.assert_array_equal(both.transitions.observation[:200_000], medium.transitions.observation)
    np.testing.assert_array_equal(both.transitions.action[200_000:], expert.transitions.action)
    assert both.scaling.reward_shift == min(medium.scaling.reward_shift, expert.scaling.reward_shift)


def test_real_demonstrations_are_longer_than_the_task():
    path, task = shared_file("door-human"), find_task("AdroitHandDoor-v1")
    assert "300 steps, more than the task's 200" in error_of(path, task)
    dataset = load_dataset(path, task, allow_longer_episodes=True)
    assert dataset.number_of_transitions == 6_729 - 25 and len(dataset.episode_returns) == 25
    assert dataset.episode_returns.mean() == pytest.approx(794.1, abs=0.05)


def test_two_million_rows_load_within_ten_seconds(tmp_path):
    rows = 2_000_000
    generator = np.random.default_rng(0)
    path = write_file(
        tmp_path / "a.hdf5",
        observations=generator.standard_normal((rows, 17), np.float32),
        actions=generator.random((rows, 6), np.float32),
        rewards=generator.random(rows, np.float32),
        terminals=np.zeros(rows, bool),
        timeouts=np.arange(rows) % 1000 == 999,
    )
    start = time.perf_counter()
    dataset = load_dataset(path, find_task("HalfCheetah-v4"))
    assert time.perf_counter() - start < 10.0
    assert dataset.number_of_transitions == rows - 2_000
