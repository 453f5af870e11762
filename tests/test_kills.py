"""A run killed at any moment, and started again, ends in the same bits as one that never was."""

import csv
import pathlib
import signal

import numpy as np
import pytest
import tensorflow as tf
from processes import PROJECT, ForkedProcess
from safetensors.numpy import load_file
from tiny import BINDINGS, CONFIGS, assert_same_bits, write_hopper_dataset

# 24 steps of each stage before the main one, which has 24 epochs of 8; a call is 5 steps at most, and
# a checkpoint every 20 steps and at the end of a stage
SETTINGS = (*BINDINGS, "Improvement.epochs = 60", "Loop.compiled = False", "Loop.evaluation_epochs = 4")
MOMENTS = (
    *("half written:1", "before rename:2", "after steps:4"),  # nothing saved yet
    *("half a row:5", "checkpoint:1", "after rename:2"),  # the behaviour policy
    *("half written:3", "after steps:4", "checkpoint:3"),  # the initial policy
    *("before steps:2", "after rename:4", "half written:3"),  # the initial critic
    *("half a row:4", "episode:1", "after steps:11", "checkpoint:2", "before rename:3"),  # the main stage
    *("half written:2", "episode:2", "before steps:9"),
    *("final episodes:1", "final evaluation:1", "export:1"),  # the end
)


def start(root: pathlib.Path, dataset: str, moments: tuple[str, ...]) -> ForkedProcess:
    script, file = str(PROJECT / "tests" / "killed_training.py"), f"--gin_file={CONFIGS / 'brac_plus' / 'short.gin'}"
    bindings = [f"--gin_bindings={binding}" for binding in SETTINGS]
    what = (",".join(moments), file, f"--dataset={dataset}", f"--root_dir={root}", *bindings)
    return ForkedProcess(script, *what, cwd=PROJECT)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The run that was killed again and again, the one that was not, and how each process of the former ended."""
    folder = tmp_path_factory.mktemp("kills")
    dataset = write_hopper_dataset(folder / "hopper.hdf5")
    whole = start(folder / "whole", dataset, ("none",))
    killed = start(folder / "killed", dataset, (*MOMENTS, "none"))
    output, errors = killed.communicate(timeout=1500)
    assert whole.wait(timeout=600) == 0, whole.communicate()
    lines = [line.rpartition(" ") for line in output.splitlines()]
    statuses = [(moment, int(status)) for moment, _, status in lines if moment in {*MOMENTS, "none"}]
    directory = pathlib.Path("hopper", "brac_plus_short", "0")
    return folder / "killed" / directory, folder / "whole" / directory, statuses, errors


def test_every_process_but_the_last_was_killed(runs):
    *killed, last = runs[2]
    assert killed == [(moment, -signal.SIGKILL) for moment in MOMENTS], runs[3]
    assert last == ("none", 0) and len(killed) >= 20


def test_the_same_bits_in_every_variable_and_optimizer_slot(runs):
    checkpoints = [sorted((run / "checkpoints").iterdir()) for run in runs[:2]]
    assert [path.name for path in checkpoints[0]] == [path.name for path in checkpoints[1]]
    for first, second in zip(*checkpoints, strict=True):
        assert_same_bits(load_file(first), load_file(second))


def test_the_same_metrics_and_evaluation_byte_for_byte(runs):
    for name in ("metrics.csv", "evaluation.json", "operative_config.gin"):
        assert (runs[0] / name).read_bytes() == (runs[1] / name).read_bytes(), name


def test_no_row_twice_and_none_missing(runs):
    with open(runs[0] / "metrics.csv", newline="") as file:
        rows = [(row["stage"], int(row["step"]), row["metric"]) for row in csv.DictReader(file)]
    assert len(set(rows)) == len(rows)
    steps = [step for stage, step, metric in rows if (stage, metric) == ("behavior", "negative_elbo")]
    assert steps == [5, 8, 10, 15, 16, 20, 24]  # calls end at multiples of 5 and at the ends of epochs, of 8


def test_the_same_policy_is_exported(runs):
    observation = np.random.default_rng(0).normal(size=(20, 11)).astype(np.float32)
    actions = [
        tf.saved_model.load(str(run / "saved_model")).signatures["serving_default"](observation=observation)["action"]
        for run in runs[:2]
    ]
    assert actions[0].numpy().tobytes() == actions[1].numpy().tobytes()


def test_nothing_half_written_stays_behind(runs):
    names = [{path.name for path in [*run.iterdir(), *(run / "checkpoints").iterdir()]} for run in runs[:2]]
    assert names[0] == names[1]
