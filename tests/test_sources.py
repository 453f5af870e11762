import hashlib
import importlib
import json
import pathlib
import sys

import h5py
import numpy as np
import pytest
import tiny
from dataset_files import columns, write_file
from minari_files import write_minari

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.data import sources
from brac_plus_tf.data.loading import load_dataset
from brac_plus_tf.data.rows import Rows
from brac_plus_tf.data.sources import contents_sha256, dataset_task, source_label
from brac_plus_tf.environments.tasks import find_task


def test_sha256_of_one_file_and_of_several_in_order(tmp_path):
    paths = [write_file(tmp_path / "a.hdf5"), write_file(tmp_path / "b.hdf5", rows=7)]
    first, second = (tmp_path / "a.hdf5").read_bytes(), (tmp_path / "b.hdf5").read_bytes()
    assert first != second
    assert contents_sha256(paths[:1]) == hashlib.sha256(first).hexdigest()
    assert contents_sha256(paths) == hashlib.sha256(first + second).hexdigest()
    with pytest.raises(UserError, match="no such file"):
        contents_sha256([str(tmp_path / "absent")])


def test_sha256_of_a_minari_dataset_is_that_of_its_files(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    data = write_minari(tmp_path / "robot" / "walk-v0")
    content = (data / "metadata.json").read_bytes() + (data / "main_data.hdf5").read_bytes()
    assert contents_sha256(["minari:robot/walk-v0"]) == hashlib.sha256(content).hexdigest()
    path = write_file(tmp_path / "a.hdf5")
    both = hashlib.sha256((tmp_path / "a.hdf5").read_bytes() + content).hexdigest()
    assert contents_sha256([path, "minari:robot/walk-v0"]) == both
    with pytest.raises(UserError, match="minari:robot/run-v0: no such dataset"):
        contents_sha256(["minari:robot/run-v0"])


@pytest.mark.parametrize(
    ("source", "label"),
    [
        ("hopper-medium-v0", "hopper-medium-v0"),
        ("some/where/data.hdf5", "data"),
        ("hopper-medium-v0.hdf5", "hopper-medium-v0"),
        # not the D4RL dataset's, to which published scores belong
        ("minari:hopper/medium-v0", "minari-hopper-medium-v0"),
        ("minari:D4RL/door/human-v2", "minari-D4RL-door-human-v2"),
    ],
)
def test_label(source, label):
    assert source_label(source) == label


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


# A source of one's own ------------------------------------------------------------------------------------------------

CSV = '''
"""Comma-separated files: one row a step, named by the columns' numbers."""

import csv

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.data.rows import rows_from_arrays
from brac_plus_tf.data.sources import Source, register_source


class CommaSeparated(Source):
    def matches(self, name):
        return name.endswith(".csv")

    def files(self, name, search):
        return [name]

    def read(self, name, search, dimensions):
        with open(name, newline="") as file:
            rows = [[float(entry) for entry in row] for row in csv.reader(file)]
        columns = list(zip(*rows))
        return rows_from_arrays(
            name,
            {
                "observations": list(zip(*columns[:2])),
                "actions": list(zip(*columns[2:5])),
                "rewards": columns[5],
                "terminals": columns[6],
                "timeouts": columns[7],
            },
            dimensions,
        )

    def label(self, name):
        return "csv-" + super().label(name)


register_source(CommaSeparated())
'''


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """A module outside the package, in the user's working directory; what it registers goes with the test."""
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "my_csv.py").write_text(CSV)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(sources, "_sources", list(sources._sources))
    yield folder
    sys.modules.pop("my_csv", None)


def write_csv(path: pathlib.Path, rows: int, **changes) -> str:
    arrays = columns(rows) | changes
    table = np.column_stack([arrays[key].astype(float) for key in columns(rows)])
    path.write_text("\n".join(",".join(repr(float(entry)) for entry in row) for row in table))
    return str(path)


def test_a_source_of_ones_own_reads_what_the_package_does(own_module, tmp_path):
    flags = {"terminals": np.arange(9) == 3, "timeouts": np.arange(9) == 6}
    path = write_csv(own_module / "steps.csv", 9, **flags)
    with pytest.raises(UserError, match="not an HDF5 file"):
        load_dataset(path)
    importlib.import_module("my_csv")
    made, expected = load_dataset(path), load_dataset(write_file(tmp_path / "a.hdf5", rows=9, **flags))
    for one, other in zip(made.transitions, expected.transitions, strict=True):
        assert one.tobytes() == other.tobytes()
    assert made.origin.names == (path,) and made.facts()["files"] == ["steps.csv"]
    assert made.origin.sha256 == hashlib.sha256((own_module / "steps.csv").read_bytes()).hexdigest()
    assert dataset_task(path) is None and source_label(path) == "csv-steps"
    both = load_dataset([path, str(tmp_path / "a.hdf5")])  # beside another kind
    assert both.origin.rows == (9, 9) and both.number_of_transitions == 2 * made.number_of_transitions


def test_a_source_of_ones_own_is_checked_like_a_file(own_module):
    importlib.import_module("my_csv")
    rewards = np.array([0, 1, np.inf, 3, 4])
    path = write_csv(own_module / "steps.csv", 5, rewards=rewards)
    with pytest.raises(UserError, match=r"steps\.csv: key 'rewards', row 2: inf is not a finite"):
        load_dataset(path)
    with pytest.raises(UserError, match=r"steps\.csv: key 'observations' has 2 entries per row where 11"):
        load_dataset(path, find_task("Hopper-v4"))


class Views(sources.Source):
    """A source whose rows are two views of one array of states, 0 .. 5."""

    def matches(self, name):
        return name == "views"

    def files(self, name, search):
        return []

    def read(self, name, search, dimensions):
        states = np.arange(6, dtype=np.float32)[:, None]
        given = {key: column for key, column in columns(5).items() if key != "observations"}
        return Rows.from_columns(given | {"observations": states[:-1], "next_observations": states[1:]}, name)


def test_views_of_one_array_are_rescaled_once(monkeypatch):
    monkeypatch.setattr(sources, "_sources", list(sources._sources))
    sources.register_source(Views())
    transitions = load_dataset("views", normalize_observations=True).transitions
    # 0 1 2 3 4: mean 2, variance 2
    np.testing.assert_allclose(transitions.observation[:, 0], np.arange(-2, 3) / np.sqrt(2), rtol=1e-6)
    np.testing.assert_allclose(transitions.next_observation[:, 0], np.arange(-1, 4) / np.sqrt(2), rtol=1e-6)


def test_training_on_a_source_that_a_gin_file_imports(own_module):
    path = write_csv(own_module / "steps.csv", 40)
    (own_module / "mine.gin").write_text(
        "import my_csv\ninclude 'bc/base.gin'\n"
        "behavior/Actor.hidden_sizes = (8,)\nbehavior/Fit.steps = 4\nbehavior/Fit.batch_size = 8\n"
        "Cloning.epoch_steps = 2\n"
    )
    outcome = tiny.run_here("train", "--gin_file=mine.gin", f"--dataset={path}", "--env=none", "--estimate=none")
    assert outcome.status == 0, outcome.stderr
    facts = json.loads((own_module / "runs" / "csv-steps" / "bc" / "0" / "run.json").read_text())
    assert facts["dataset"] == {
        "files": ["steps.csv"],
        "sha256": hashlib.sha256((own_module / "steps.csv").read_bytes()).hexdigest(),
        "rows": [40],
        "transitions": 40,
    }


def test_any_command_takes_a_source_that_a_flag_imports(own_module):
    path = write_csv(own_module / "steps.csv", 9)
    outcome = tiny.run_here("inspect_dataset", path)
    assert outcome.status == 1 and "not an HDF5 file" in outcome.stderr
    outcome = tiny.run_here("inspect_dataset", path, "--import=my_csv")
    assert outcome.status == 0, outcome.stderr
    assert f"{path} (9 rows)" in outcome.stdout
