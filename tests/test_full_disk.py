"""A disk that fills up or may only be read: a plain error, the last good checkpoint intact, and on it goes later."""

import pathlib
import subprocess

import pytest
import tiny
from safetensors.numpy import load_file
from tiny import CONFIGS

SETTINGS = (
    "behavior/Actor.hidden_sizes = (8,)",
    "behavior/Fit.steps = 60",
    "behavior/Fit.batch_size = 8",
    "Cloning.epoch_steps = 10",
    "Loop.steps_per_call = 2",
    "Loop.compiled = False",
    "Loop.checkpoint_interval = 10",
    "Loop.evaluation_epochs = 3",
    "Experiment.final_episodes = 1",
    "Experiment.evaluation_episodes = 1",
)


@pytest.fixture
def disk(tmp_path):
    """A disk of its own: `disk(options)` mounts it first, then changes it."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = []

    def mount(options: str) -> pathlib.Path:
        remount = ["remount", options] if mounted else [options]
        command = ["mount", "-t", "tmpfs", "-o", ",".join(remount), "none", str(path)]
        outcome = subprocess.run(command, capture_output=True, text=True)
        if outcome.returncode:
            pytest.skip(f"no disk can be mounted here: {outcome.stderr.strip()}")
        mounted.append(options)
        return path

    yield mount
    if mounted:
        subprocess.run(["umount", "-l", str(path)], check=True)


def train(root: pathlib.Path, dataset: str) -> tiny.Outcome:
    bindings = [f"--gin_bindings={setting}" for setting in SETTINGS]
    file = CONFIGS / "bc" / "base.gin"
    return tiny.run_here("train", f"--gin_file={file}", f"--dataset={dataset}", f"--root_dir={root}", *bindings)


def the_error(outcome: tiny.Outcome) -> str:
    assert outcome.status == 1 and len(outcome.stderr.splitlines()) == 1, outcome
    return outcome.stderr


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The dataset, and a run with room enough."""
    folder = tmp_path_factory.mktemp("whole")
    dataset = tiny.write_hopper_dataset(folder / "hopper.hdf5")
    assert train(folder / "runs", dataset).status == 0
    return dataset, folder / "runs" / "hopper" / "bc" / "0"


@pytest.mark.parametrize("kilobytes", [8, 20, 32, 44, 56, 90, 110])
def test_a_full_disk(disk, whole, kilobytes):
    """From a disk that holds only the configuration to one that lacks room for the last few files."""
    dataset, complete = whole
    root = disk(f"size={kilobytes}k")
    error = the_error(train(root, dataset))
    assert str(root) in error and "No space left on device" in error
    run = root / "hopper" / "bc" / "0"
    assert not (run / "saved_model").exists()
    for path in run.glob("checkpoints/*"):
        assert load_file(path) and path.suffix == ".safetensors"

    disk("size=10m")
    assert train(root, dataset).status == 0
    for name in ("metrics.csv", "evaluation.json"):
        assert (run / name).read_bytes() == (complete / name).read_bytes()
    for path in (complete / "checkpoints").iterdir():
        tiny.assert_same_bits(load_file(run / "checkpoints" / path.name), load_file(path))


def test_a_disk_that_may_only_be_read(disk, whole, tmp_path):
    dataset, _ = whole
    root = disk("size=10m")
    assert train(root, dataset).status == 0
    run = root / "hopper" / "bc" / "0"
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    disk("ro")
    assert "Read-only file system" in the_error(train(root, dataset))
    assert "Read-only file system" in the_error(train(root / "new", dataset))
    assert "cannot be written" in the_error(tiny.run_here("evaluate", f"--run_dir={run}", "--episodes=1"))
    assert "cannot be written" in the_error(tiny.run_here("export", f"--run_dir={run}", f"--output={root / 'policy'}"))
    assert "cannot be written" in the_error(
        tiny.run_here("inspect_dataset", dataset, f"--output={root / 'returns.png'}")
    )
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    # reading from it works
    assert tiny.run_here("export", f"--run_dir={run}", f"--output={tmp_path / 'policy'}").status == 0
