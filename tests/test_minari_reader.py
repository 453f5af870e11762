"""Minari datasets as files: what is read of them, and what is refused. None of this needs the package minari."""

import json
import os

import h5py
import numpy as np
import pytest
import tiny
from dataset_files import small_task
from minari_files import episode, three_episodes, write_minari

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.data.loading import load_dataset
from brac_plus_tf.data.minari_reader import dataset_directory, datasets_root, read_rows, statement
from brac_plus_tf.data.sources import dataset_task
from brac_plus_tf.environments.tasks import find_task

SOURCE = "minari:robot/walk-v0"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where SOURCE is to be written."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    return tmp_path / "robot" / "walk-v0"


def error_of(function, *arguments, **keywords) -> str:
    with pytest.raises(UserError) as caught:
        function(*arguments, **keywords)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_rows_by_hand(folder):
    write_minari(folder)
    rows = read_rows(SOURCE, Dimensions(2, 3))
    index = np.array([10, 11, 12, 20, 30, 31])
    np.testing.assert_array_equal(rows.observations, np.stack([index, -index], axis=1))
    np.testing.assert_array_equal(rows.next_observations, np.stack([index + 1, -index - 1], axis=1))
    np.testing.assert_allclose(rows.actions, np.stack([index / 100] * 3, axis=1), rtol=1e-6)
    np.testing.assert_array_equal(rows.rewards, index)
    np.testing.assert_array_equal(rows.terminals, [0, 0, 1, 1, 0, 0])
    np.testing.assert_array_equal(rows.timeouts, [0, 0, 0, 1, 0, 0])
    assert rows.name == SOURCE and rows.following_actions == {} and rows.dimensions == Dimensions(2, 3)
    numbers = (rows.observations, rows.next_observations, rows.actions, rows.rewards)
    assert {array.dtype for array in numbers} == {np.dtype(np.float32)}
    assert rows.terminals.dtype == rows.timeouts.dtype == np.dtype(bool)


def test_episode_without_a_flag_is_cut_where_another_follows(folder):
    write_minari(folder, [episode(1, 2, False, False), episode(5, 2, False, False)])
    rows = read_rows(SOURCE)
    np.testing.assert_array_equal(rows.timeouts, [0, 1, 0, 0])
    dataset = load_dataset(SOURCE)
    np.testing.assert_array_equal(dataset.episodes.lengths, [2, 2])
    np.testing.assert_array_equal(dataset.episodes.complete, [True, False])
    np.testing.assert_allclose(dataset.transitions.next_action[:, 0], [0.02, 0.02, 0.06, 0.06], rtol=1e-6)


def test_ten_episodes_come_in_the_order_of_their_numbers(folder):
    write_minari(folder, [episode(100 * number, 1, True, False) for number in range(12)])
    np.testing.assert_array_equal(read_rows(SOURCE).rewards, 100 * np.arange(12))


def test_recorded_next_action_is_the_last_steps(folder):
    data = write_minari(folder)
    with h5py.File(data / "main_data.hdf5", "a") as file:
        file["episode_2"].attrs["next_action"] = np.array([0.5, 0.25, -0.125])
    transitions = load_dataset(SOURCE).transitions
    # within episodes the following row's 0.01 (start + t), at ends the row's own, at the very end what was recorded
    np.testing.assert_allclose(transitions.next_action[:, 0], [0.11, 0.12, 0.12, 0.2, 0.31, 0.5], rtol=1e-6)
    np.testing.assert_array_equal(transitions.next_action[5], [0.5, 0.25, -0.125])


def test_loaded_like_any_other_source(folder):
    write_minari(folder, env_spec=json.dumps({"id": "Hopper-v4", "entry_point": "nowhere:Nothing"}))
    assert dataset_task(SOURCE).name == "Hopper-v4"
    dataset = load_dataset(["minari:robot/walk-v0", SOURCE], small_task())
    assert dataset.origin.names == (SOURCE, SOURCE) and dataset.origin.rows == (6, 6)
    assert dataset.facts()["files"] == [SOURCE, SOURCE]
    np.testing.assert_array_equal(dataset.transitions.discount, [1, 1, 0, 0, 1, 1] * 2)
    message = "main_data.hdf5: key 'episode_0/observations' has 2 entries per row where 11 are expected"
    assert message in error_of(load_dataset, SOURCE, find_task("Hopper-v4"))
    assert message in error_of(load_dataset, SOURCE)  # what the data themselves say


def test_actions_outside_the_bounds(folder):
    write_minari(folder, action_space=None)
    message = error_of(load_dataset, SOURCE, action_low=-0.25, action_high=0.25)
    assert message.startswith("minari:robot/walk-v0: key 'actions', row 4: entry 0 is 0.29999")


@pytest.mark.parametrize(
    "specification",
    [None, 3, "[]", "{", '{"id": 3}', "[" * 100_000, '{"entry_point": "a:b"}'],
)
def test_environment_that_is_not_recorded(folder, specification):
    write_minari(folder, env_spec=specification)
    assert statement(SOURCE).environment is None and dataset_task(SOURCE) is None


def test_environment_that_no_task_knows(folder):
    write_minari(folder, env_spec='{"id": "MyRobot-v0"}')
    assert statement(SOURCE).environment == "MyRobot-v0" and dataset_task(SOURCE) is None


def test_nothing_that_the_metadata_name_is_run(folder, tmp_path):
    """Without spaces in its metadata, minari itself would call this entry point when it loads the dataset."""
    entry = {"id": "Evil-v0", "entry_point": "os:mkdir", "kwargs": {"path": str(tmp_path / "made")}}
    data = write_minari(folder, observation_space=None, action_space=None, env_spec=json.dumps(entry))
    assert len(load_dataset(SOURCE).transitions.reward) == 6
    assert not (tmp_path / "made").exists() and sorted(os.listdir(data)) == ["main_data.hdf5", "metadata.json"]


def test_default_root_is_in_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.delenv("MINARI_DATASETS_PATH", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert datasets_root() == str(tmp_path / ".minari" / "datasets")
    assert f"no such dataset in {tmp_path}/.minari/datasets" in error_of(read_rows, SOURCE)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "dataset_id",
    [
        "../../x-v0",
        "/etc/x-v0",
        "robot/../../x-v0",
        "robot//x-v0",
        "robot/walk",
        "",
        "x",
        "-v0",
        "a\n-v0",
        "a b-v0",
        "x/walk-v0",
        ".",
    ],
)
def test_what_is_no_id_leads_nowhere(folder, dataset_id):
    assert "is no Minari ID" in error_of(dataset_directory, dataset_id)
    assert "is no Minari ID" in error_of(load_dataset, f"minari:{dataset_id}")


# Bad inputs: metadata, arrays, files ----------------------------------------------------------------------------------

DICTIONARY = json.dumps({"type": "Dict", "subspaces": {}})
METADATA = {
    "dictionary observations": ({"observation_space": DICTIONARY}, "observation_space is of type 'Dict'"),
    "discrete actions": ({"action_space": '{"type": "Discrete", "n": 2, "start": 0}'}, "action_space is of type 'Disc"),
    "space is no JSON": ({"action_space": "Box(3,)"}, "action_space is not a space"),
    "space is a list": ({"observation_space": [1]}, "observation_space is not a space"),
    "arrow": ({"data_format": "arrow"}, "data_format is 'arrow'"),
    "no episodes": ({"total_episodes": 0}, "total_episodes is 0"),
    "episodes by name": ({"total_episodes": "3"}, "total_episodes is '3'"),
    "no number of episodes": ({"total_episodes": None}, "total_episodes is None"),
    "episodes missing": ({"total_episodes": 4}, "holds 3 episodes where metadata.json says 4"),
    "episodes too many": ({"total_episodes": 2}, "holds 3 episodes where metadata.json says 2"),
}


def assert_refused(message):
    """By the reader and, in one line, by the command; both leave the directory alone."""
    assert message in error_of(read_rows, SOURCE)
    outcome = tiny.run_here("inspect_dataset", SOURCE)
    assert outcome.status == 1 and outcome.stdout == ""
    assert len(outcome.stderr.splitlines()) == 1 and message in outcome.stderr and "Traceback" not in outcome.stderr


@pytest.mark.parametrize("name", METADATA)
def test_malformed_metadata(folder, name):
    changes, message = METADATA[name]
    write_minari(folder, **changes)
    assert_refused(message)


CONTENTS = {
    "no JSON": (b"{", "metadata.json: not JSON"),
    "nested without end": (b"[" * 100_000, "metadata.json: not JSON"),
    "binary": (b"\xff\xfe\x00", "metadata.json: not JSON"),
    "empty": (b"", "metadata.json: not JSON"),
    "a list": (b"[1]", "metadata.json: not an object"),
    "huge": (b" " * (2**24 + 1), "metadata.json: larger than any metadata"),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_metadata_of_other_content(folder, name):
    content, message = CONTENTS[name]
    (write_minari(folder) / "metadata.json").write_bytes(content)
    assert_refused(message)


def changed(key, change, index=1):
    def apply(file):
        array = file[f"episode_{index}/{key}"][()]
        del file[f"episode_{index}/{key}"]
        if change is not None:
            file[f"episode_{index}/{key}"] = change(array)

    return apply


def linked(target, key="rewards"):
    def apply(file):
        del file[f"episode_1/{key}"]
        file[f"episode_1/{key}"] = target

    return apply


def next_action(value):
    return lambda file: file["episode_1"].attrs.__setitem__("next_action", value)


def renamed(file):
    file.move("episode_1", "episode_7")


def array_in_place_of_an_episode(file):
    del file["episode_1"]
    file["episode_1"] = np.zeros(3)


def dictionary_observations(file):
    del file["episode_1/observations"]
    file["episode_1/observations/joints"] = np.zeros((2, 2))


def virtual(file):
    layout = h5py.VirtualLayout((1,), "f4")
    layout[:] = h5py.VirtualSource("other.hdf5", "rewards", (1,))
    del file["episode_1/rewards"]
    file.create_virtual_dataset("episode_1/rewards", layout)


def absurd_size(file):
    steps = 2**40
    shapes = {"observations": (steps + 1, 2), "actions": (steps, 3)}
    for key in list(file["episode_1"]):
        shape = shapes.get(key, (steps,))
        del file[f"episode_1/{key}"]
        file["episode_1"].create_dataset(key, shape, "f4", chunks=(1024, *shape[1:]), compression="gzip")


ARRAYS = {
    "no actions": (changed("actions", None), "key 'episode_1/actions' is missing; the file must hold it"),
    "no observations": (changed("observations", None), "key 'episode_1/observations' is missing"),
    "no terminations": (changed("terminations", None), "key 'episode_1/terminations' is missing"),
    "no last state": (
        changed("observations", lambda a: a[:-1]),
        "'episode_1/observations' has 1 rows where 'episode_1/r",
    ),
    "a reward too many": (
        changed("rewards", lambda a: np.append(a, 0)),
        "'episode_1/observations' has 2 rows where 'episode_1/r",
    ),
    "NaN": (changed("observations", lambda a: a * [[1, 1], [1, np.nan]]), "key 'episode_1/observations', row 1: nan"),
    "infinite reward": (changed("rewards", lambda a: a * np.inf), "key 'episode_1/rewards', row 0: inf"),
    "beyond float32": (changed("actions", lambda a: np.full((1, 3), 1e39)), "key 'episode_1/actions', row 0: inf"),
    "a flag of 2": (changed("terminations", lambda a: a.astype(int) + 1), "row 0: 2 is neither 0 nor 1"),
    "text": (changed("rewards", lambda a: np.array([b"a"])), "key 'episode_1/rewards' holds type"),
    "images": (changed("observations", lambda a: np.zeros((2, 4, 4))), "store one vector per row"),
    "numbers": (changed("actions", lambda a: a[:, 0]), "key 'episode_1/actions' has shape (1,); store one vector"),
    "no steps": (changed("rewards", lambda a: a[:0]), "key 'episode_1/rewards' is empty"),
    "wider observations": (changed("observations", lambda a: np.zeros((2, 5))), "5 entries per row where 2"),
    "wider actions": (changed("actions", lambda a: np.zeros((1, 4))), "4 entries per row where 3"),
    "dictionary": (dictionary_observations, "key 'episode_1/observations' is not a dataset"),
    "soft link": (linked(h5py.SoftLink("/episode_0/rewards")), "key 'episode_1/rewards' is a link"),
    "external link": (linked(h5py.ExternalLink("other.hdf5", "rewards")), "key 'episode_1/rewards' is a link"),
    "virtual": (virtual, "keeps its data in other files"),
    "an episode's name": (renamed, "key 'episode_1' is missing"),
    "no group": (array_in_place_of_an_episode, "key 'episode_1' is not a group"),
    "absurd size": (absurd_size, "GB of data in a file of 0.000 GB"),
    "next action of other size": (
        next_action(np.zeros(2)),
        "attribute 'episode_1/next_action' must hold the 3 numbers",
    ),
    "next action as text": (next_action("abc"), "attribute 'episode_1/next_action' must hold the 3 numbers"),
    "next action of NaN": (next_action([0, 0, np.nan]), "attribute 'episode_1/next_action' is not finite"),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_malformed_arrays(folder, name):
    change, message = ARRAYS[name]
    with h5py.File(write_minari(folder) / "main_data.hdf5", "a") as file:
        change(file)
    assert_refused(message)


FILES = {
    "no dataset": (lambda data: data.rename(data.with_name("other")), "no such dataset in"),
    "no metadata": (lambda data: (data / "metadata.json").unlink(), "metadata.json: no such file"),
    "no arrays": (lambda data: (data / "main_data.hdf5").unlink(), "main_data.hdf5: no such file"),
    "text": (lambda data: (data / "main_data.hdf5").write_text("a"), "main_data.hdf5: not an HDF5 file"),
    "cut off": (
        lambda data: os.truncate(data / "main_data.hdf5", os.path.getsize(data / "main_data.hdf5") // 2),
        "main_data.hdf5: cannot be read as HDF5",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_malformed_files(folder, name):
    change, message = FILES[name]
    change(write_minari(folder))
    assert_refused(message)


def test_episodes_that_are_one_group_many_times_are_counted_each(folder):
    """2000 names of one group of 4 MB, compressed to kB, would fill 8 GB."""
    steps = 2**17
    long = {
        key: np.zeros((steps + (key == "observations"), *array.shape[1:])) for key, array in episode(0, 1, 0, 0).items()
    }
    data = write_minari(folder, [], total_episodes=2000)
    with h5py.File(data / "main_data.hdf5", "a") as file:
        group = file.create_group("episode_0")
        for key, array in long.items():
            group.create_dataset(key, data=array.astype(np.float32), chunks=True, compression="gzip")
        for index in range(1, 2000):
            file[f"episode_{index}"] = group
    assert os.path.getsize(data / "main_data.hdf5") < 10**6
    assert "GB of data in a file of 0.00" in error_of(read_rows, SOURCE)


@pytest.mark.parametrize("seed", range(20))
def test_random_damage_gives_rows_or_a_user_error(folder, seed):
    path = write_minari(folder, three_episodes()) / "main_data.hdf5"
    whole = bytearray(path.read_bytes())
    generator = np.random.default_rng(seed)
    for position in generator.integers(8, len(whole), 20):
        whole[position] = generator.integers(256)
    path.write_bytes(whole)
    try:
        rows = read_rows(SOURCE)
    except UserError as error:
        assert str(path) in str(error)
    else:
        assert np.isfinite(rows.observations).all() and len(rows.observations) == len(rows.terminals)
