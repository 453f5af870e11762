"""From files and arrays to a dataset: what is made of them, and what is refused."""

import functools
import hashlib
import json
import pathlib
import time

import gin
import numpy as np
import pytest
from dataset_files import columns, shared_file, small_task, states_after, write_file

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.data import d4rl_names, sources
from brac_plus_tf.data.download import FileSearch
from brac_plus_tf.data.loading import dataset_from_arrays, load_dataset
from brac_plus_tf.data.scaling import by_returns
from brac_plus_tf.data.sources import contents_sha256
from brac_plus_tf.environments.tasks import find_task
from brac_plus_tf.runs import configuration
from brac_plus_tf.runs.experiment import Experiment


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
    assert dataset.origin.names == (path,) and dataset.origin.rows == (5,) and dataset.number_of_transitions == 5
    np.testing.assert_array_equal(dataset.places.episode, [0] * 5)
    np.testing.assert_array_equal(dataset.places.step, range(5))
    assert dataset.dimensions == Dimensions(2, 3) and dataset.origin.sha256 == contents_sha256([path])
    np.testing.assert_array_equal(dataset.episodes.returns, [15])
    np.testing.assert_array_equal(dataset.episodes.lengths, [5])
    np.testing.assert_array_equal(dataset.episodes.complete, [True])


def test_rewards_can_stay_as_they_are(tmp_path):
    dataset = load_dataset(write_file(tmp_path / "a.hdf5"), small_task(), rewards=None)
    np.testing.assert_array_equal(dataset.transitions.reward, [0, 1, 2, 3, 4])
    assert (dataset.scaling.reward_shift, dataset.scaling.reward_scale) == (0.0, 1.0)


def test_reward_range_is_that_of_the_transitions(tmp_path):
    # Row 4 is unfinished and yields no transition, so its reward of 100 does not count.
    path = write_file(tmp_path / "a.hdf5", rewards=np.array([0, 1, 2, 4, 100.0]), terminals=np.zeros(5, bool))
    dataset = load_dataset(path, small_task())
    np.testing.assert_array_equal(dataset.transitions.reward, [0, 0.25, 0.5, 1])
    assert dataset.episodes.returns[0] == 107 and not dataset.episodes.complete[0]


def two_episodes(path) -> str:
    """Rewards 1 2 3 | -4 2, the second episode unfinished; returns 6 and -2."""
    rewards, terminals = np.array([1.0, 2, 3, -4, 2]), np.array([0, 0, 1, 0, 0])
    return write_file(path, rewards=rewards, terminals=terminals)


def test_rewards_by_the_range_of_returns(tmp_path):
    dataset = load_dataset(two_episodes(tmp_path / "a.hdf5"), small_task(), rewards=by_returns)
    # 1000 / (6 - -2) = 125; row 4 has no successor and is no transition, but its reward is in the return
    np.testing.assert_allclose(dataset.transitions.reward, [125, 250, 375, -500], rtol=1e-6)
    assert (dataset.scaling.reward_shift, dataset.scaling.reward_scale) == (0.0, pytest.approx(0.008))
    other = functools.partial(by_returns, span=16.0)
    np.testing.assert_array_equal(
        load_dataset(two_episodes(tmp_path / "b.hdf5"), small_task(), rewards=other).transitions.reward, [2, 4, 6, -8]
    )


def test_rewards_by_a_function_of_ones_own(tmp_path):
    seen = []

    def own(rewards, returns):
        seen.append((rewards.copy(), returns))
        return -1.0, 2.0

    dataset = load_dataset(two_episodes(tmp_path / "a.hdf5"), small_task(), rewards=own)
    np.testing.assert_array_equal(dataset.transitions.reward, [1, 1.5, 2, -1.5])  # (r + 1) / 2
    np.testing.assert_array_equal(seen[0][0], [1, 2, 3, -4])
    np.testing.assert_array_equal(seen[0][1], [6, -2])
    for broken in ((0.0, 0.0), (0.0, -1.0), (np.nan, 1.0), (0.0, np.inf)):
        message = error_of(two_episodes(tmp_path / "a.hdf5"), small_task(), rewards=lambda *_, pair=broken: pair)
        assert "a.hdf5: rewards cannot be rescaled" in message


def test_equal_returns_have_no_range(tmp_path):
    path = write_file(tmp_path / "a.hdf5", rewards=[1, 2, 3, 3, 3], terminals=[0, 0, 1, 0, 0])
    assert error_of(path, small_task(), rewards=by_returns).startswith(f"{path}: the return of every episode is 6")


def test_gin_chooses_the_rewards(tmp_path):
    path = two_episodes(tmp_path / "a.hdf5")
    with gin.unlock_config():
        gin.parse_config(f"load_dataset.names = '{path}'\nload_dataset.rewards = @by_returns\nby_returns.span = 8.0")
        dataset = gin.get_configurable("load_dataset")()
        gin.clear_config()
    np.testing.assert_array_equal(dataset.transitions.reward, [1, 2, 3, -4])


def test_normalizes_observations(tmp_path):
    observations = np.array([[1, 7], [3, 7], [1, 7], [3, 7], [2, 7]])
    following = observations + 1
    timeouts = np.ones(5, bool)  # each row an episode, for each leads elsewhere than to the next
    path = write_file(tmp_path / "a.hdf5", observations=observations, next_observations=following, timeouts=timeouts)
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
    assert dataset.origin.rows == (3, 2, 3) and dataset.origin.names == (first, second, first)
    np.testing.assert_array_equal(dataset.episodes.lengths, [3, 2, 3])
    np.testing.assert_array_equal(dataset.places.episode, [0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(dataset.episodes.complete, [False, True, False])
    np.testing.assert_array_equal(dataset.episodes.returns, [3, 1, 3])
    assert dataset.origin.sha256 == contents_sha256([first, second, first])


def test_the_hash_is_of_all_bytes_of_all_files(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_HASH_BLOCK_BYTES", 1000)
    paths = [write_file(tmp_path / f"{rows}.hdf5", rows=rows) for rows in (3, 2)]
    contents = [pathlib.Path(path).read_bytes() for path in paths]
    assert min(map(len, contents)) > 2000
    assert contents_sha256(paths) == hashlib.sha256(contents[0] + contents[1]).hexdigest()


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
    assert "row 0: entry 0 is 0, outside [0.25, 1.75]" in error_of(path, action_low=0.25, action_high=1.75)
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


def test_constant_rewards_are_nothing_or_what_they_are(tmp_path):
    path = write_file(tmp_path / "a.hdf5", rewards=np.full(5, 2.5))
    made = load_dataset(path, small_task())
    assert made.transitions.reward.tolist() == [0.0] * 5
    assert made.scaling.to_environment_reward(made.transitions.reward).tolist() == [2.5] * 5
    assert load_dataset(path, small_task(), rewards=None).transitions.reward.tolist() == [2.5] * 5


def test_episodes_longer_than_the_horizon(tmp_path):
    path = write_file(tmp_path / "a.hdf5")
    task = small_task(horizon=4)
    message = error_of(path, task)
    assert message.startswith(f"{path}: key 'timeouts', row 0: ") and "5 steps, more than the task's 4" in message
    assert load_dataset(path, task, allow_longer_episodes=True).number_of_transitions == 5
    assert load_dataset(write_file(tmp_path / "b.hdf5", timeouts=None), task).episodes.lengths.tolist() == [4, 1]


def test_other_refusals(tmp_path):
    path = write_file(tmp_path / "a.hdf5", rewards=np.full(5, 2.5))
    assert "the return of every episode is 12.5" in error_of(path, small_task(), rewards=by_returns)
    assert "key 'observations' has 2 entries per row where 11" in error_of(path, find_task("Hopper-v4"))
    wider = write_file(tmp_path / "b.hdf5", observations=np.zeros((5, 4)))
    assert error_of([path, wider]).startswith(f"{wider}: key 'observations' has 4 entries per row where 2")
    lonely = write_file(tmp_path / "c.hdf5", rows=1, terminals=np.array([False]))
    assert f"{lonely}: no row yields a transition" in error_of(lonely, small_task())
    assert "no name given" in error_of([])


def test_d4rl_names_bring_their_task_and_are_found_by_file_name(tmp_path, monkeypatch):
    monkeypatch.setattr(d4rl_names, "_installed_urls", dict)
    write_file(tmp_path / "hopper_mixed.hdf5", observations=np.zeros((5, 11)), timeouts=None, rewards=np.arange(5.0))
    dataset = load_dataset("hopper-medium-replay-v0", search=FileSearch(str(tmp_path)))
    assert dataset.dimensions == Dimensions(11, 3) and dataset.origin.names == (str(tmp_path / "hopper_mixed.hdf5"),)


# Arrays in memory -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("options", [{}, {"rewards": None, "normalize_observations": True}, {"action_high": 3.0}])
def test_arrays_give_what_their_file_gives(tmp_path, stored, options):
    arrays = columns(9) | {"terminals": np.arange(9) % 4 == 3, "timeouts": np.arange(9) == 5}
    if stored:
        arrays["next_observations"] = states_after(arrays)
    before = {key: array.copy() for key, array in arrays.items()}
    made = dataset_from_arrays(arrays | {"infos/qpos": "ignored"}, **options)
    read = load_dataset(write_file(tmp_path / "a.hdf5", rows=9, **arrays), **options)
    for field in ("transitions", "places", "episodes"):
        for one, other in zip(getattr(made, field), getattr(read, field), strict=True):
            assert one.tobytes() == other.tobytes()
    assert made.scaling.to_json() == read.scaling.to_json()
    for key, array in arrays.items():  # they are the caller's
        np.testing.assert_array_equal(array, before[key])


def test_arrays_of_other_types_and_shapes():
    plain = dataset_from_arrays(columns())
    lists = {key: array.astype(float).tolist() for key, array in columns().items()}
    columns_of_one = {key: array.reshape(5, -1) for key, array in columns().items()}
    for arrays in (lists, columns_of_one):
        made = dataset_from_arrays(arrays)
        for one, other in zip(made.transitions, plain.transitions, strict=True):
            assert one.tobytes() == other.tobytes()
        assert made.origin == plain.origin


def test_views_of_one_array_are_rescaled_once():
    states = np.arange(12, dtype=np.float32).reshape(6, 2)
    arrays = columns() | {"observations": states[:-1], "next_observations": states[1:]}
    made = dataset_from_arrays(arrays, normalize_observations=True)
    # first entries 0 2 4 6 8: mean 4, variance (16 + 4 + 0 + 4 + 16) / 5 = 8
    np.testing.assert_allclose(made.transitions.observation[:, 0], np.array([-4, -2, 0, 2, 4]) / np.sqrt(8), rtol=1e-6)
    np.testing.assert_allclose(
        made.transitions.next_observation[:, 0], np.array([-2, 0, 2, 4, 6]) / np.sqrt(8), rtol=1e-6
    )


def test_a_task_gives_arrays_their_bounds_and_horizon():
    arrays = columns(6) | {"timeouts": None}
    made = dataset_from_arrays(arrays, small_task(horizon=4, action_high=3.0))
    assert made.episodes.lengths.tolist() == [4, 2]
    np.testing.assert_array_equal(made.scaling.action_half_range, [2, 2, 2])


def test_the_digest_of_arrays_is_of_their_contents():
    digest = dataset_from_arrays(columns()).origin.sha256
    assert digest == dataset_from_arrays(columns()).origin.sha256 and len(digest) == 64
    assert digest == dataset_from_arrays(columns(), rewards=None).origin.sha256
    changed = columns()
    changed["actions"][0, 0] += 0.5
    assert digest != dataset_from_arrays(changed).origin.sha256
    # the same bytes in a row, parted in another way
    flat = np.zeros((2, 4))
    ends = {"rewards": np.arange(2.0), "terminals": np.array([False, True]), "timeouts": np.zeros(2, bool)}
    one, other = (
        dataset_from_arrays({"observations": flat[:, :cut], "actions": flat[:, cut:], **ends}) for cut in (1, 3)
    )
    assert one.origin.sha256 != other.origin.sha256


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rewards": None}, "key 'rewards' is missing"),
        ({"actions": np.full((5, 3), 1.5)}, r"key 'actions', row 0: entry 0 is 1.5, outside \[-1, 1\]"),
        ({"rewards": [0, 1, np.nan, 2, 3]}, "key 'rewards', row 2: nan is not a finite float32 number"),
        ({"rewards": [0, 1, 1e39, 2, 3]}, "key 'rewards', row 2: inf is not a finite float32 number"),
        ({"terminals": [0, 0, 2, 0, 1]}, "key 'terminals', row 2: 2 is neither 0 nor 1"),
        ({"observations": np.zeros((4, 2))}, "key 'actions' has 5 rows where 'observations' has 4"),
        ({"observations": np.zeros(5)}, r"key 'observations' has shape \(5,\)"),
        ({"next_observations": np.zeros((5, 3))}, "key 'next_observations' has 3 entries per row where 2"),
        ({"timeouts": None}, "key 'timeouts' is missing"),
        ({"observations": [["a", "b"]] * 5}, "key 'observations' holds type <U1"),
    ],
)
def test_arrays_pass_the_checks_of_files(changes, message):
    with pytest.raises(UserError, match=f"^arrays: {message}"):
        dataset_from_arrays(columns() | changes)


def test_arrays_of_another_task():
    with pytest.raises(UserError, match=r"^arrays: key 'observations' has 2 entries per row where 11"):
        dataset_from_arrays(columns(), find_task("Hopper-v4"))


def test_gin_says_where_files_are(tmp_path, monkeypatch):
    monkeypatch.setattr(d4rl_names, "_installed_urls", dict)
    write_file(tmp_path / "hopper_medium.hdf5", observations=np.zeros((5, 11)), rewards=np.arange(5.0))
    bindings = ["Experiment.dataset = 'hopper-medium-v0'", f"FileSearch.data_dir = '{tmp_path}'"]
    experiment = configuration.build(Experiment, ["bc/base.gin"], bindings)
    assert experiment.load_dataset(experiment.dataset).origin.names == (str(tmp_path / "hopper_medium.hdf5"),)
    configuration.check_effective(bindings, gin.operative_config_str())
    gin.clear_config()


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
        gin.parse_config(f"load_dataset.names = '{path}'\nload_dataset.rewards = None")
        dataset = gin.get_configurable("load_dataset")()
        gin.clear_config()
    np.testing.assert_array_equal(dataset.transitions.reward, [0, 1, 2, 3, 4])


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
    assert dataset.origin.rows == (rows,) and dataset.number_of_transitions == rows
    assert len(dataset.episodes.returns) == episodes and dataset.episodes.complete.all()
    assert dataset.episodes.lengths.sum() == rows
    assert (dataset.transitions.discount == 0).sum() == terminals
    assert dataset.episodes.returns.mean() == pytest.approx(mean_return, abs=0.05)
    assert dataset.transitions.reward.min() == 0.0 and dataset.transitions.reward.max() == 1.0


def test_real_medium_expert_is_medium_then_expert():
    task = find_task("Hopper-v4")
    medium, expert = load_dataset(shared_file("hopper-medium"), task), load_dataset(shared_file("hopper-expert"), task)
    both = load_dataset([medium.origin.names[0], expert.origin.names[0]], task)
    assert both.origin.rows == (200_000, 100_000) and len(both.episodes.returns) == 474 + 113
    np.testing.assert_array_equal(both.transitions.observation[:200_000], medium.transitions.observation)
    np.testing.assert_array_equal(both.transitions.action[200_000:], expert.transitions.action)
    assert both.scaling.reward_shift == min(medium.scaling.reward_shift, expert.scaling.reward_shift)


def test_real_demonstrations_are_longer_than_the_task():
    path, task = shared_file("door-human"), find_task("AdroitHandDoor-v1")
    assert "300 steps, more than the task's 200" in error_of(path, task)
    dataset = load_dataset(path, task, allow_longer_episodes=True)
    assert dataset.number_of_transitions == 6_729 - 25 and len(dataset.episodes.returns) == 25
    assert dataset.episodes.returns.mean() == pytest.approx(794.1, abs=0.05)


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
