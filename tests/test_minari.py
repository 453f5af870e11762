"""Minari datasets through the package minari: what it writes is read, what is written it reads, nothing is lost."""

import dataclasses
import hashlib
import json
import pathlib
import sys
import tempfile

import gymnasium
import h5py
import numpy as np
import pytest
import tiny
from dataset_files import columns, shared_file, small_task, write_file
from hypothesis import given, settings
from hypothesis import strategies as st

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.data.dataset import OfflineDataset
from brac_plus_tf.data.episodes import cut_rows
from brac_plus_tf.data.loading import load_dataset
from brac_plus_tf.data.minari_reader import statement
from brac_plus_tf.data.minari_writer import Header, check_new, minari_episodes, write_dataset
from brac_plus_tf.data.rows import Rows, empty_rows
from brac_plus_tf.data.sources import read_rows
from brac_plus_tf.environments.tasks import Task, find_task

minari = pytest.importorskip("minari", reason="the package minari is not installed: pip install -e .[minari]")
BC = tiny.CONFIGS / "bc" / "base.gin"


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Minari's root, empty; the working directory is beside it."""
    (tmp_path / "root").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "root"))
    return tmp_path / "root"


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in sorted(folder.rglob("*"))}


# What minari writes ---------------------------------------------------------------------------------------------------


def test_pendulum_recorded_by_minari_reads_to_what_the_environment_answered(root):
    environment = gymnasium.make("Pendulum-v1")
    generator = np.random.default_rng(0)
    buffers, expected = [], {"observation": [], "action": [], "reward": [], "next_observation": []}
    for seed, steps in ((1, 4), (2, 3)):
        observations, actions, rewards = [environment.reset(seed=seed)[0]], [], []
        for _ in range(steps):
            action = generator.uniform(-2, 2, 1).astype(np.float32)
            following, reward, *_ = environment.step(action)
            expected["observation"].append(observations[-1])
            expected["action"].append(action)
            expected["reward"].append(reward)
            expected["next_observation"].append(following)
            observations.append(following)
            actions.append(action)
            rewards.append(reward)
        flags = [False] * (steps - 1) + [True]
        buffers.append(
            minari.data_collector.EpisodeBuffer(
                observations=observations,
                actions=actions,
                rewards=rewards,
                terminations=[False] * steps,
                truncations=flags,
                infos={"steps": list(range(steps + 1))},
            )
        )
    minari.create_dataset_from_buffers("pendulum/random-v0", buffers, env=environment, algorithm_name="random")

    assert statement("minari:pendulum/random-v0").environment == "Pendulum-v1"
    rows = read_rows("minari:pendulum/random-v0")
    np.testing.assert_array_equal(rows.observations, np.array(expected["observation"], np.float32))
    np.testing.assert_array_equal(rows.next_observations, np.array(expected["next_observation"], np.float32))
    np.testing.assert_array_equal(rows.actions, np.array(expected["action"], np.float32))
    np.testing.assert_array_equal(rows.rewards, np.array(expected["reward"], np.float32))
    np.testing.assert_array_equal(rows.terminals, [False] * 7)
    np.testing.assert_array_equal(rows.timeouts, [0, 0, 0, 1, 0, 0, 1])
    dataset = load_dataset("minari:pendulum/random-v0", action_low=-2.0, action_high=2.0, rewards=None)
    np.testing.assert_allclose(dataset.transitions.action, np.array(expected["action"]) / 2, rtol=1e-6)
    np.testing.assert_array_equal(dataset.episodes.lengths, [4, 3])
    assert dataset.episodes.complete.all()


def test_dictionary_observations_of_minari_are_refused(root):
    space = gymnasium.spaces.Dict({"joints": gymnasium.spaces.Box(-1, 1, (2,), np.float32)})
    one = minari.data_collector.EpisodeBuffer(
        observations={"joints": np.zeros((3, 2), np.float32)},
        actions=np.zeros((2, 3), np.float32),
        rewards=[0.0, 1.0],
        terminations=[False, True],
        truncations=[False, False],
    )
    minari.create_dataset_from_buffers(
        "robot/dict-v0", [one], observation_space=space, action_space=gymnasium.spaces.Box(-1, 1, (3,), np.float32)
    )
    with pytest.raises(UserError, match="observation_space is of type 'Dict', only Box is supported"):
        load_dataset("minari:robot/dict-v0")


# What is written ------------------------------------------------------------------------------------------------------

#  row         0  1  2  3  4  5  6  7  8
TERMINALS = [0, 0, 1, 0, 0, 1, 0, 0, 0]
TIMEOUTS_ = [0, 0, 0, 0, 1, 1, 0, 0, 0]  # row 4: timed out; row 5: an episode of one row, both flags; 6..8 unfinished


def flags_file(path: pathlib.Path, terminals, timeouts, stored: bool, **changes) -> str:
    """Row i as in dataset_files.columns; stored: next observations, (i + 0.5, 7) after the last row of an episode."""
    rows = len(terminals)
    terminals = np.array(terminals, bool)
    flags = {"terminals": terminals, "timeouts": None if timeouts is None else np.array(timeouts, bool)}
    if stored:
        observations = columns(rows)["observations"]
        ends = terminals | flags["timeouts"]
        ends[-1] = True
        last = np.stack([np.arange(rows) + 0.5, np.full(rows, 7)], axis=1)
        flags["next_observations"] = np.where(ends[:, None], last, np.roll(observations, -1, axis=0)).astype(np.float32)
    return write_file(path, rows=rows, **(flags | changes))


def convert(path: str, dataset_id: str, task: Task | None = None) -> str:
    rows = read_rows(path)
    write_dataset(dataset_id, rows, cut_rows(rows, task.horizon if task else None), Header(None, -1.0, 1.0, None))
    return f"minari:{dataset_id}"


def assert_same_transitions(first: OfflineDataset, second: OfflineDataset) -> None:
    for name, array, other in zip(first.transitions._fields, first.transitions, second.transitions, strict=True):
        assert (array.dtype, array.shape) == (other.dtype, other.shape), name
        assert array.tobytes() == other.tobytes(), name
    assert first.scaling.to_json() == second.scaling.to_json()


def listed(episode: Rows) -> tuple[list, list, list, list, list, object]:
    """First entries of all states and rewards (both are row numbers), flags, first entry of next action * 90."""
    assert set(episode.following_actions) <= {len(episode) - 1}
    following = None
    for action in episode.following_actions.values():
        following = round(float(action[0]) * 90)
    np.testing.assert_array_equal(episode.next_observations[:-1], episode.observations[1:])
    return (
        [*episode.observations[:, 0].tolist(), float(episode.next_observations[-1, 0])],
        episode.rewards.tolist(),
        episode.terminals.astype(int).tolist(),
        episode.timeouts.astype(int).tolist(),
        np.round(episode.actions[:, 0] * 90).astype(int).tolist(),
        following,
    )


def test_episodes_by_hand_without_stored_next_observations(tmp_path):
    rows = read_rows(flags_file(tmp_path / "a.hdf5", TERMINALS, TIMEOUTS_, stored=False))
    assert [listed(episode) for episode in minari_episodes(rows, cut_rows(rows, None))] == [
        ([0, 1, 2, 2], [0, 1, 2], [0, 0, 1], [0, 0, 0], [0, 1, 2], None),
        ([3, 4], [3], [0], [1], [3], 4),
        ([5, 5], [5], [1], [1], [5], None),
        ([6, 7, 8], [6, 7], [0, 0], [0, 0], [6, 7], 8),
    ]


def test_episodes_by_hand_with_stored_next_observations(tmp_path):
    rows = read_rows(flags_file(tmp_path / "a.hdf5", TERMINALS, TIMEOUTS_, stored=True))
    assert [listed(episode) for episode in minari_episodes(rows, cut_rows(rows, None))] == [
        ([0, 1, 2, 2.5], [0, 1, 2], [0, 0, 1], [0, 0, 0], [0, 1, 2], None),
        ([3, 4, 4.5], [3, 4], [0, 0], [0, 1], [3, 4], None),
        ([5, 5.5], [5], [1], [1], [5], None),
        ([6, 7, 8, 8.5], [6, 7, 8], [0, 0, 0], [0, 0, 0], [6, 7, 8], None),
    ]


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize(
    ("terminals", "timeouts"),
    [
        (TERMINALS, TIMEOUTS_),
        ([0, 0, 0], [0, 0, 0]),  # one unfinished episode
        ([0, 1, 0], [0, 0, 0]),  # an unfinished episode of one row at the end
        ([0, 0, 0, 1], [1, 1, 0, 0]),  # episodes of one row that are timed out
        ([1, 1, 1], [0, 1, 0]),  # episodes of one row that are terminal
        ([0, 0, 1], [0, 1, 1]),  # a timeout before the end, both flags at the end
        ([0, 0, 0, 0], [0, 1, 0, 1]),  # timeouts alone
    ],
)
def test_transitions_are_the_same_both_ways(root, tmp_path, terminals, timeouts, stored):
    path = flags_file(tmp_path / "a.hdf5", terminals, timeouts, stored)
    source = convert(path, "robot/walk-v0")
    for settings_ in ({"normalize_observations": True}, {"rewards": None}):
        assert_same_transitions(load_dataset(path, **settings_), load_dataset(source, **settings_))
    again = convert(source, "robot/walk-v1")
    assert_same_transitions(load_dataset(path), load_dataset(again))
    first, second = load_dataset(path), load_dataset(source)
    if stored:  # no row is left out, so the episodes are the same, too
        assert first.origin.rows == second.origin.rows
        for one, other in zip((*first.episodes, *first.places), (*second.episodes, *second.places), strict=True):
            np.testing.assert_array_equal(one, other)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=25), st.booleans())
def test_any_interleaving_of_flags_gives_the_same_transitions_both_ways(pairs, stored):
    terminals, timeouts = zip(*pairs, strict=True)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", folder)
        path = flags_file(pathlib.Path(folder, "a.hdf5"), terminals, timeouts, stored)
        try:
            expected = load_dataset(path, rewards=None)
        except UserError as error:  # no row has a successor
            assert "no row yields a transition" in str(error)
            with pytest.raises(UserError, match="no row yields a transition"):
                convert(path, "robot-v0")
            return
        assert_same_transitions(expected, load_dataset(convert(path, "robot-v0"), rewards=None))


def test_cuts_that_a_horizon_implies_are_recorded(root, tmp_path):
    path = flags_file(tmp_path / "a.hdf5", [0, 0, 0, 0, 1, 0, 0, 0], None, stored=False)
    task = small_task(horizon=3)
    source = convert(path, "robot-v0", task)
    # rows 0-2 cut (2 is left out), 3-4 terminal, 5-7 cut (7 is left out)
    np.testing.assert_array_equal(read_rows(source).rewards, [0, 1, 3, 4, 5, 6])
    np.testing.assert_array_equal(read_rows(source).timeouts, [0, 1, 0, 0, 0, 1])
    assert_same_transitions(load_dataset(path, task), load_dataset(source, task))


@pytest.mark.parametrize(("name", "task"), [("hopper-expert", "Hopper-v4"), ("door-human", "AdroitHandDoor-v1")])
def test_real_files_give_the_same_transitions_both_ways(root, name, task):
    """The first stores next observations, the second does not."""
    path = shared_file(name)
    outcome = tiny.run_here(
        "convert_to_minari",
        path,
        "real-v0",
        f"--env={task}",
        "--gin_bindings=load_dataset.allow_longer_episodes = True",
    )
    assert outcome.status == 0, outcome.stderr
    options = {"task": find_task(task), "allow_longer_episodes": True}
    assert_same_transitions(load_dataset(path, **options), load_dataset("minari:real-v0", **options))


def test_next_observations_that_are_not_the_following_rows_are_refused(root, tmp_path):
    following = np.roll(columns(6)["observations"], -1, axis=0)
    following[3, 1] += 1e-4  # the same state to all who read the file, but not the same number
    path = write_file(tmp_path / "a.hdf5", rows=6, next_observations=following)
    before = contents(root)
    outcome = tiny.run_here("convert_to_minari", path, "robot-v0")
    assert outcome.status == 1 and len(outcome.stderr.splitlines()) == 1
    assert f"{path}: key 'next_observations', row 3: is not the observation of row 4" in outcome.stderr
    assert contents(root) == before == {}
    timeouts = np.arange(6) == 3  # where the episode ends, they may differ
    path = write_file(tmp_path / "b.hdf5", rows=6, next_observations=following, timeouts=timeouts)
    assert tiny.run_here("convert_to_minari", path, "robot-v0").status == 0


def test_minari_reads_what_is_written(root, tmp_path):
    path = flags_file(tmp_path / "a.hdf5", TERMINALS, TIMEOUTS_, stored=False)
    outcome = tiny.run_here(
        "convert_to_minari",
        path,
        "my/own/walk-v3",
        "--algorithm=by hand",
        "--gin_bindings=load_dataset.action_low = -1.0",
        "--gin_bindings=load_dataset.action_high = 2.0",
    )
    assert outcome.status == 0, outcome.stderr
    assert outcome.stdout.splitlines() == [
        "minari:my/own/walk-v3: 4 episodes, 7 steps",
        "rows left out: 2, last of their episodes, whose next observation was not recorded",
    ]
    dataset = minari.load_dataset("my/own/walk-v3")
    assert (dataset.total_episodes, dataset.total_steps, dataset.env_spec) == (4, 7, None)
    assert dataset.storage.metadata["algorithm_name"] == "by hand"
    np.testing.assert_array_equal(dataset.action_space.high, [2, 2, 2])
    assert dataset.observation_space.shape == (2,)
    np.testing.assert_array_equal(dataset[1].observations, [[3, -3], [4, -4]])
    np.testing.assert_array_equal(dataset[1].truncations, [True])
    np.testing.assert_array_equal(dataset[2].terminations, [True])
    assert dataset[0].rewards.dtype == np.float32 and dataset[0].terminations.dtype == bool
    assert list(minari.list_local_datasets()) == ["my/own/walk-v3"]
    assert "my/own" in minari.namespace.list_local_namespaces()


@pytest.mark.parametrize("name", ["Hopper-v4", "AdroitHandDoor-v1"])
def test_environment_is_recorded_and_found_again(root, tmp_path, name):
    task = find_task(name)
    path = tiny.write_random_dataset(tmp_path / "a.hdf5", task.dimensions)
    with h5py.File(path, "a") as file:
        file.attrs["env_id"] = name
    outcome = tiny.run_here("convert_to_minari", path, "robot-v0")
    assert outcome.status == 0, outcome.stderr
    specification = minari.load_dataset("robot-v0").env_spec
    assert (specification.id, specification.max_episode_steps) == (name, task.horizon)
    assert statement("minari:robot-v0").environment == name


def test_a_d4rl_name_records_the_environment_it_runs_on(root, tmp_path, monkeypatch):
    tiny.write_random_dataset(tmp_path / "hopper_medium.hdf5", find_task("Hopper-v4").dimensions)
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path))
    outcome = tiny.run_here("convert_to_minari", "hopper-medium-v0", "hopper/medium-v0")
    assert outcome.status == 0, outcome.stderr
    assert statement("minari:hopper/medium-v0").environment == "Hopper-v4"


# Refusals -------------------------------------------------------------------------------------------------------------


def assert_refused(root, message, *arguments):
    before = contents(root)
    outcome = tiny.run_here("convert_to_minari", *arguments)
    assert outcome.status == 1 and outcome.stdout == ""
    assert len(outcome.stderr.splitlines()) == 1 and message in outcome.stderr, outcome.stderr
    assert contents(root) == before and list(pathlib.Path().iterdir()) == []


def test_an_id_that_is_taken(root, tmp_path):
    path = flags_file(tmp_path / "a.hdf5", TERMINALS, TIMEOUTS_, stored=True)
    convert(path, "robot/walk-v0")
    (root / "other-v0").mkdir()
    for dataset_id in ("robot/walk-v0", "other-v0"):
        assert_refused(root, f"{root / dataset_id}: exists and is never overwritten", path, dataset_id)
    assert_refused(root, "is a Minari dataset itself", path, "robot/walk-v0/more-v0")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "usage: python -m brac_plus_tf.convert_to_minari SOURCE ID"),
        (["a.hdf5"], "usage"),
        (["a.hdf5", "b-v0", "c-v0"], "usage"),
        (["a.hdf5", "../../x-v0"], "is no Minari ID"),
        (["a.hdf5", "minari:x-v0"], "is no Minari ID"),
        (["a.hdf5", "x/y-v0"], "is no Minari ID"),
        (["absent.hdf5", "robot-v0"], "absent.hdf5: no such file"),
        (["minari:absent-v0", "robot-v0"], "minari:absent-v0: no such dataset"),
        (["a.hdf5", "robot-v0", "--gin_bindings=load_dataset.action_high = 0.05"], "key 'actions', row 5: entry 0"),
        (["a.hdf5", "robot-v0", "--env=Hoper-v4"], "nearest: Hopper-v4"),
        (["a.hdf5", "robot-v0", "--env=Hopper-v4"], "2 entries per row where 11 are expected"),
    ],
)
def test_wrong_arguments(root, tmp_path, arguments, message):
    write_file(tmp_path / "a.hdf5", rows=9)
    arguments = [str(tmp_path / one) if one == "a.hdf5" else one for one in arguments]
    assert_refused(root, message, *arguments)


def test_minari_is_not_installed(root, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "minari"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "minari", None)
    assert_refused(root, "pip install 'brac_plus_tf[minari]'", write_file(tmp_path / "a.hdf5"), "robot-v0")


@pytest.mark.parametrize("step", ["update_episodes", "update_episode_metadata"])
def test_nothing_is_left_of_a_dataset_that_could_not_be_written(root, tmp_path, monkeypatch, step):
    from minari.dataset._storages.hdf5_storage import HDF5Storage

    def fail(*arguments, **keywords):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(HDF5Storage, step, fail)
    assert_refused(root, "No space left on device", write_file(tmp_path / "a.hdf5"), "robot-v0")


def test_a_root_that_is_no_directory(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "file"))
    rows = read_rows(write_file(tmp_path / "a.hdf5"))
    assert check_new("robot-v0") == str(tmp_path / "file" / "robot-v0")
    with pytest.raises(UserError, match=r"robot-v0: cannot be written \(.*\); check the space and permissions"):
        write_dataset("robot-v0", rows, cut_rows(rows, None), Header(None, -1.0, 1.0, None))


def test_rows_without_a_single_step(root):
    rows = dataclasses.replace(empty_rows(Dimensions(2, 2), 1), next_observations=None)
    with pytest.raises(UserError, match="no row yields a transition"):
        write_dataset("robot-v0", rows, np.zeros(1, bool), Header(None, -1.0, 1.0, None))
    assert list(root.iterdir()) == []


# Training -------------------------------------------------------------------------------------------------------------


def test_training_takes_it_and_records_what_it_was(root, tmp_path):
    path = tiny.write_hopper_dataset(tmp_path / "hopper.hdf5")
    assert tiny.run_here("convert_to_minari", path, "hopper/random-v0").status == 0
    small = ("behavior/Actor.hidden_sizes = (8,)", "behavior/Fit.steps = 4", "behavior/Fit.batch_size = 8")
    small += ("Cloning.epoch_steps = 2", "Experiment.final_episodes = 1", "Experiment.evaluation_episodes = 1")
    small += ("Loop.compiled = False",)
    bindings = [f"--gin_bindings={binding}" for binding in small]
    outcome = tiny.run_here("train", f"--gin_file={BC}", "--dataset=minari:hopper/random-v0", *bindings)
    assert outcome.status == 0, outcome.stderr
    facts = json.loads(pathlib.Path("runs/minari-hopper-random-v0/bc/0/run.json").read_text())
    data = root / "hopper" / "random-v0" / "data"
    content = (data / "metadata.json").read_bytes() + (data / "main_data.hdf5").read_bytes()
    assert facts["dataset"] == {
        "files": ["minari:hopper/random-v0"],
        "sha256": hashlib.sha256(content).hexdigest(),
        "rows": [299],
        "transitions": 299,
    }
    assert facts["environment"]["task"] == "Hopper-v4"
