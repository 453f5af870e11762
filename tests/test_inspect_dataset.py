import dataclasses
import json
import os
import pathlib

import h5py
import numpy as np
import pytest
from dataset_files import columns, shared_file, small_task, write_file
from matplotlib.figure import Figure
from processes import ForkedProcess, Outcome, finish_process

from brac_plus_tf.core.columns import format_columns
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.data.loading import load_dataset
from brac_plus_tf.data.summary import count_repeated, draw_histogram, summary, write_panels
from brac_plus_tf.inspect_dataset import main
from brac_plus_tf.runs.model_report import draw_outputs, draw_steps, read_model_report

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def run(folder, *arguments) -> Outcome:
    """The command in a process of its own, started in `folder`."""
    return finish_process(ForkedProcess("brac_plus_tf.inspect_dataset", *arguments, cwd=folder))


def cells(text: str) -> dict[str, str]:
    """Table back to its cells; columns are at least two spaces apart."""
    return {name: value.strip() for name, value in (line.split("  ", 1) for line in text.strip().splitlines())}


def write_histogram(dataset, path) -> None:
    write_panels(path, lambda axes: draw_histogram(axes, dataset))


def three_episodes(path) -> str:
    """8 rows: terminal after 3, timeout after 2, and 3 unfinished rows; rows 6 and 7 repeat row 5."""
    file = columns(8)
    for key in ("observations", "actions", "rewards"):
        file[key][6:] = file[key][5]
    file["actions"][1, 0], file["actions"][2, 0] = 1.0, -0.9995
    file["terminals"] = np.arange(8) == 2
    file["timeouts"] = np.arange(8) == 4
    return write_file(path, rows=8, **file)


def test_summary_by_hand(tmp_path):
    path = three_episodes(tmp_path / "a.hdf5")
    task = small_task()
    table = dict(summary(load_dataset(path, task), task))
    assert table["file"] == f"{path} (8 rows)" and len(table["SHA-256"]) == 64
    assert table["task"] == "Hopper-v4 (at most 1000 steps)"
    assert table["observation, action entries"] == "2, 3"
    # Row 4 is timed out, row 7 the last: no transitions. Of 5 and 6, one repeats the other.
    assert table["rows"] == "8" and table["transitions"] == "6"
    assert table["repeated transitions"] == "1 (16.67 %)"
    assert table["episodes"] == "3 (2 complete, 1 unfinished)"
    assert table["terminals"] == "1 (12.50 %)" and table["timeouts"] == "1 (12.50 %)"
    # Complete episodes: rewards 0 1 2 and 3 4.
    assert table["length: min, mean, max"] == "2.0, 2.5, 3.0"
    assert table["return: min, mean, max"] == "3.0, 5.0, 7.0"
    # 100 (5 + 20.272305) / (3234.3 + 20.272305) = 0.7765.
    assert table["normalized score"] == "0.8"
    assert table["reward: min, max"] == "0, 5"
    # 2 of 6 * 3 entries.
    assert table["saturated action entries"] == "11.11 % beyond 0.999 of the range"


def test_summary_without_task_or_complete_episode(tmp_path):
    path = write_file(tmp_path / "a.hdf5", terminals=np.zeros(5, bool))
    table = dict(summary(load_dataset(path), None))
    assert table["task"] == table["normalized score"] == "unknown"
    assert table["episodes"] == "1 (0 complete, 1 unfinished)"
    assert table["return: min, mean, max"] == "10.0, 10.0, 10.0"


def test_repeated_transitions_are_counted_beyond_the_first(tmp_path):
    observations = np.array([[1, 2], [1, 2], [2, 1], [1, 2], [2, 1]])
    constant = {"observations": observations, "actions": np.zeros((5, 3))}
    same = load_dataset(write_file(tmp_path / "a.hdf5", **constant, rewards=[0, 0, 1, 0, 1]), small_task())
    assert count_repeated(same) == 3
    differing = load_dataset(write_file(tmp_path / "b.hdf5", **constant, rewards=[0, 1, 0, 0, 0]), small_task())
    assert count_repeated(differing) == 2


@pytest.mark.parametrize("rewards", [[1, 2, 3, 4, 5], [0, 9e14, 2, 0, 0]])
def test_histogram_is_written_whole_or_not_at_all(tmp_path, rewards):
    path = write_file(tmp_path / "a$b$.hdf5", rewards=np.array(rewards, float), terminals=[0, 1, 0, 1, 1])
    (tmp_path / "new").mkdir()
    write_histogram(load_dataset(path, small_task()), tmp_path / "new" / "a$b$.png")
    assert (tmp_path / "new" / "a$b$.png").read_bytes().startswith(PNG_SIGNATURE)
    assert os.listdir(tmp_path / "new") == ["a$b$.png"]
    with pytest.raises(UserError, match=r"a\$b\$.hdf5/b.png: "):
        write_histogram(load_dataset(path, small_task()), pathlib.Path(path, "b.png"))


def test_returns_that_differ_in_their_last_bits_only_can_be_drawn(tmp_path):
    first, second = 0.1 + 0.2, 0.3
    assert first != second
    path = write_file(tmp_path / "a.hdf5")
    dataset = load_dataset(path, small_task())
    episodes = dataset.episodes._replace(returns=np.array([first, second]))
    write_histogram(dataclasses.replace(dataset, episodes=episodes), tmp_path / "a.png")
    assert (tmp_path / "a.png").exists()


def test_table_is_aligned():
    assert format_columns([("a", "1"), ("long name", "2")]) == "a          1\nlong name  2"


def test_command_on_a_valid_file(tmp_path):
    path = three_episodes(tmp_path / "a.hdf5")
    with h5py.File(path, "a") as file:
        file.attrs["env_id"] = "MyRobot-v0"
        file["actions"][0, 0] = 3.0
    done = run(tmp_path, path, path, "--gin_bindings=load_dataset.action_high = 3.0")
    assert done.status == 0, done.stderr
    table = cells(done.stdout)
    assert table["verdict"] == "valid" and table["rows"] == "16" and table["episodes"].startswith("6 (4 complete")
    assert table["action bounds"] == "[-1, 3]" and "histogram of returns" not in table
    assert os.listdir(tmp_path) == ["a.hdf5"]  # it looks, and leaves nothing


def test_command_on_an_invalid_file(tmp_path):
    path = write_file(tmp_path / "a.hdf5", actions=columns()["actions"] + 2)
    done = run(tmp_path, path, "--env=Hopper-v4")
    assert done.status == 1 and done.stdout == "" and "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert errors == [
        f"error: {path}: key 'observations' has 2 entries per row where 11 are expected; "
        f"check that the file belongs to the task"
    ]
    assert os.listdir(tmp_path) == ["a.hdf5"]


def test_no_files():
    with pytest.raises(UserError, match="no file given; usage"):
        main(["inspect_dataset"])


def test_command_on_a_real_file(tmp_path):
    done = run(tmp_path, shared_file("hopper-medium-replay"), "--output=returns.png")
    assert done.status == 0, done.stderr
    table = cells(done.stdout)
    assert table["task"] == "Hopper-v4 (at most 1000 steps)" and table["normalized score"] == "12.8"
    assert table["rows"] == "199,999" and table["episodes"] == "1,412 (1,412 complete, 0 unfinished)"
    assert table["return: min, mean, max"].split(", ")[1] == "395.7"
    assert (tmp_path / "returns.png").read_bytes().startswith(PNG_SIGNATURE)


def test_constant_rewards_are_valid_and_said_to_teach_cloning_alone(tmp_path):
    path = write_file(tmp_path / "a.hdf5", rewards=np.full(5, 2.0))
    done = run(tmp_path, path)
    assert done.status == 0, done.stderr
    table = cells(done.stdout)
    assert table["verdict"] == "valid" and table["action bounds"] == "[-1, 1]"
    assert table["reward: min, max"].startswith("2, 2: ") and "only behaviour cloning" in table["reward: min, max"]
    assert "nothing states the bounds of actions, which are taken to be [-1, 1]" in done.stderr


def test_bindings_are_trainings_and_must_exist(tmp_path):
    path = write_file(tmp_path / "a.hdf5", actions=columns()["actions"] + 2)
    assert "outside [-1, 1]" in run(tmp_path, path).stderr
    done = run(tmp_path, path, "--gin_bindings=load_dataset.action_hihg = 3.0")
    assert done.status == 1 and "action_hihg" in done.stderr
    done = run(tmp_path, path, "--gin_bindings=BC.seed = 3")
    assert done.status == 1 and "error: " in done.stderr


# The model of a run ---------------------------------------------------------------------------------------------------


@pytest.fixture
def modelled(tmp_path):
    """A dataset and the record of a run that has learned a model from it."""
    path = three_episodes(tmp_path / "a.hdf5")
    dataset = load_dataset(path)
    directory = tmp_path / "run"
    directory.mkdir()
    (directory / "run.json").write_text(json.dumps({"format": 1, "dataset": dataset.facts()}))
    values = {"error/00": 0.125, "error/01": 0.5, "error/02": 2.0, "calibration/00": 1.25, "calibration/01": 0.5}
    values |= {
        "calibration/02": 3.0,
        "error_after_steps/01": 0.0625,
        "error_after_steps/10": 0.75,
        "squared_error": 9.0,
    }
    rows = [f"dynamics,100,{name},{value}" for name, value in values.items()]
    (directory / "metrics.csv").write_text("\n".join(["stage,step,metric,value", *rows, ""]))
    return path, directory, dataset


def test_a_runs_model_is_printed_and_drawn_beside_its_data(tmp_path, modelled):
    path, directory, _ = modelled
    done = run(tmp_path, path, f"--model={directory}", "--output=model.png")
    assert done.status == 0, done.stderr
    table = cells(done.stdout)
    assert table["model, reward"] == "error 0.125, calibration 1.25"
    assert table["model, entry 0"] == "error 0.500, calibration 0.50"
    assert table["model, entry 1"] == "error 2.000, calibration 3.00"
    assert table["model, error over steps"] == "0.062 after 1, 0.750 after 10"
    assert table["figure"] == "model.png" and (tmp_path / "model.png").read_bytes().startswith(PNG_SIGNATURE)


def test_both_panels_show_what_was_measured(modelled):
    _, directory, dataset = modelled
    report = read_model_report(directory, dataset.origin.sha256)
    outputs, steps = Figure().subplots(1, 2)
    draw_outputs(outputs, report)
    draw_steps(steps, report)
    drawn = [line.get_xydata().tolist() for line in (*outputs.lines[:2], steps.lines[0])]
    assert drawn == [[[0, 0.125], [1, 0.5], [2, 2.0]], [[0, 1.25], [1, 0.5], [2, 3.0]], [[1, 0.0625], [10, 0.75]]]


def test_a_run_on_other_data_or_without_a_model_is_refused(modelled):
    _, directory, dataset = modelled
    with pytest.raises(UserError, match="run: this run learned from other data"):
        read_model_report(directory, "0" * 64)
    (directory / "metrics.csv").write_text("stage,step,metric,value\nmain,1,error_rate,2.0\n")
    with pytest.raises(UserError, match="run: this run has no finished model"):
        read_model_report(directory, dataset.origin.sha256)
    (directory / "metrics.csv").unlink()
    with pytest.raises(UserError, match=r"run: metrics\.csv cannot be read"):
        read_model_report(directory, dataset.origin.sha256)
