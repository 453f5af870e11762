"""The commands as a user starts them: exit status, what they print, what they leave, and what they refuse."""

import json
import os
import pathlib
import re
import shutil
import signal
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
from processes import ForkedProcess, Outcome, finish_process, start_process
from safetensors.numpy import load_file
from tiny import BINDINGS, CONFIGS, assert_same_bits, run_here, write_hopper_dataset

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.runs import experiment
from brac_plus_tf.runs.run_record import RunRecord

SHORT = str(CONFIGS / "brac_plus" / "short.gin")
FULL = (*BINDINGS, "Experiment.action = 'mean'")


def arguments(root: pathlib.Path, dataset: str | None, *more: str, bindings=FULL, file: str = SHORT) -> list[str]:
    """The training command's arguments."""
    named = [f"--dataset={dataset}"] if dataset else []
    return [f"--gin_file={file}", *named, f"--root_dir={root}", *(f"--gin_bindings={b}" for b in bindings), *more]


def start_training(root: pathlib.Path, dataset: str, process=ForkedProcess):
    return process("brac_plus_tf.train", *arguments(root, dataset), cwd=root.parent)


def run_directory(root: pathlib.Path) -> pathlib.Path:
    return root / "hopper" / "brac_plus_short" / "0"


def results(directory: pathlib.Path) -> dict[str, bytes]:
    """What a run computed, byte for byte."""
    names = ("metrics.csv", "evaluation.json", "operative_config.gin", "saved_model/policy.json")
    return {name: (directory / name).read_bytes() for name in names}


def newest_checkpoint(directory: pathlib.Path) -> dict[str, np.ndarray]:
    return load_file(max((directory / "checkpoints").iterdir()))


def wait_for(process, what) -> None:
    """Polls until `what()` holds; fails if the process ends before."""
    deadline = time.monotonic() + 900.0
    while not what():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def main_has_begun(directory: pathlib.Path) -> bool:
    return (directory / "metrics.csv").exists() and "\nmain," in (directory / "metrics.csv").read_text()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> str:
    return write_hopper_dataset(tmp_path_factory.mktemp("data") / "hopper.hdf5")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, dataset):
    """The same run twice, each in processes of its own: straight through, and stopped in the main stage.

    (root directory and outcome of the former, root directory and outcome of the latter's first process)
    """
    roots = [tmp_path_factory.mktemp(name) / "runs" for name in ("straight", "stopped")]
    straight = start_training(roots[0], dataset, start_process)  # as a user starts it; the others have a warm start
    stopped = start_training(roots[1], dataset)
    try:
        wait_for(stopped, lambda: main_has_begun(run_directory(roots[1])))
    except BaseException:  # whoever waits no longer must not leave them running
        straight.kill()
        stopped.kill()
        raise
    stopped.send_signal(signal.SIGTERM)
    return roots[0], finish_process(straight), roots[1], finish_process(stopped)


@pytest.fixture
def run_copy(trained, tmp_path) -> pathlib.Path:
    """A copy of the finished run's root directory, to be used up."""
    shutil.copytree(trained[0], tmp_path / "runs")
    return tmp_path / "runs"


def the_error(outcome: Outcome) -> str:
    """The text of the one line that a refused command prints."""
    assert outcome.status == 1
    assert "Traceback" not in outcome.stderr + outcome.stdout
    lines = [line for line in outcome.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, outcome.stderr
    assert "results:" not in outcome.stdout
    return lines[0].removeprefix("error: ")


# Training ---------------------------------------------------------------------------------------------------------


def test_a_run_from_the_command_line(trained):
    root, outcome, _, _ = trained
    assert outcome.status == 0, outcome.stderr
    assert "Traceback" not in outcome.stderr and "error:" not in outcome.stderr
    directory = run_directory(root)
    assert outcome.stdout.splitlines()[-1] == f"results: {directory}"
    said = {line[:8].strip(): line[9:] for line in outcome.stdout.splitlines()}
    evaluation = json.loads((directory / "evaluation.json").read_text())
    score = f"score {evaluation['score_mean']:.1f} +- {evaluation['score_std']:.1f}, return "
    assert said["policy"].startswith(score)
    assert re.fullmatch(r"score \d+\.\d, return \d+\.\d \(mean of \d+ episodes\)", said["data"])
    assert said["curves"] == f"python -m brac_plus_tf.plot {directory}"
    assert said["deploy"].startswith(f"python -m brac_plus_tf.export --run_dir={directory} ")
    for stage in ("behavior", "initial_policy", "initial_critic", "main"):
        assert f"{stage}: compiling ...\n{stage}: " in outcome.stdout
    files = {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}
    files -= {name for name in files if name.startswith(("tensorboard/events.out.tfevents.", "checkpoints/"))}
    assert files == {
        ".lock",
        "operative_config.gin",
        "run.json",
        "metrics.csv",
        "timing.csv",
        "evaluation.json",
        "saved_model/policy.json",
        "saved_model/saved_model.pb",
        "saved_model/fingerprint.pb",
        "saved_model/variables/variables.index",
        "saved_model/variables/variables.data-00000-of-00001",
    }
    assert list((directory / "tensorboard").iterdir())


def test_the_stages_were_run_as_configured(trained):
    """24 steps three times in calls of 5 within epochs of 8, then 30 epochs, evaluated every tenth."""
    directory = run_directory(trained[0])
    rows = [line.split(",") for line in (directory / "metrics.csv").read_text().splitlines()[1:]]
    steps = {stage: sorted({int(step) for name, step, *_ in rows if name == stage}) for stage, *_ in rows}
    short = [5, 8, 10, 15, 16, 20, 24]
    assert steps["behavior"] == steps["initial_policy"] == steps["initial_critic"] == short
    assert steps["main"] == sorted({*range(5, 241, 5), *range(8, 241, 8)})
    assert [int(step) for _, step, metric, _ in rows if metric == "evaluation/return_mean"] == [80, 160, 240]
    assert all(np.isfinite(float(value)) for *_, value in rows)
    assert len(json.loads((directory / "evaluation.json").read_text())["returns"]) == 3


def test_the_operative_configuration_shows_every_binding(trained):
    text = (run_directory(trained[0]) / "operative_config.gin").read_text()
    for binding in FULL:
        name, value = binding.split(" = ")
        scoped = re.findall(rf"^(?:\w+/)?{re.escape(name)} = (.+)$", text, re.MULTILINE)
        assert value in scoped, binding


def test_a_stopped_run_says_so_and_keeps_its_place(trained):
    _, _, root, outcome = trained
    assert outcome.status == 128 + 15
    assert "Traceback" not in outcome.stderr
    answer, *_, last = outcome.stdout.splitlines()[-2:]
    assert answer == "stopping: saving ..."
    stopped_at = re.fullmatch(r"stopped at main step (\d+); the same command goes on from there", last)
    assert stopped_at and 0 < int(stopped_at[1]) < 240
    assert (run_directory(root) / "checkpoints" / f"3-{int(stopped_at[1]):09d}.safetensors").exists()
    assert not (run_directory(root) / "evaluation.json").exists()


def test_a_stopped_run_ends_like_one_that_was_not(trained, dataset):
    """Every number: all variables with optimiser slots, all metrics, the final episodes."""
    straight, _, stopped, _ = trained
    outcome = finish_process(start_training(stopped, dataset))
    assert outcome.status == 0, outcome.stderr
    assert outcome.stdout.splitlines()[-1] == f"results: {run_directory(stopped)}"
    first, second = run_directory(straight), run_directory(stopped)
    assert results(first) == results(second)
    state = newest_checkpoint(first)
    assert_same_bits(newest_checkpoint(second), state)
    assert {"policy_optimizer/000", "multiplier/000", "thresholds/000"} <= state.keys()


def test_the_same_command_again_succeeds_and_changes_nothing(run_copy, dataset):
    directory = run_directory(run_copy)
    before = results(directory) | {str(path): path.read_bytes() for path in (directory / "checkpoints").iterdir()}
    outcome = run_here("train", *arguments(run_copy, dataset))
    assert outcome.status == 0, outcome.stderr
    assert outcome.stdout.splitlines()[-1] == f"results: {directory}"
    assert "steps" not in outcome.stdout and "episodes in" not in outcome.stdout
    after = results(directory) | {str(path): path.read_bytes() for path in (directory / "checkpoints").iterdir()}
    assert after == before


def test_other_settings_of_the_main_stage_reuse_the_stages_before_it(trained, dataset, tmp_path, monkeypatch, caplog):
    """And --env=none: exported, said once not to be evaluated, no simulator needed."""
    for simulator in ("gymnasium", "mujoco", "gymnasium_robotics", "d4rl"):
        monkeypatch.setitem(sys.modules, simulator, None)  # importing it raises ImportError
    root = tmp_path / "runs"
    shutil.copytree(trained[0] / "stage_cache", root / "stage_cache")
    cached = {path.name: path.read_bytes() for path in (root / "stage_cache").iterdir()}
    kept = (binding for binding in BINDINGS if "epochs" not in binding)
    bindings = (*kept, "Improvement.policy_learning_rate = 1e-2", "Improvement.epochs = 0")
    outcome = run_here("train", *arguments(root, dataset, "--env=none", "--estimate=none", bindings=bindings))
    assert outcome.status == 0, outcome.stderr
    reused = re.findall(r"^(\w+): 24 steps reused", outcome.stdout, re.MULTILINE)
    assert reused == ["behavior", "initial_policy", "initial_critic"]
    assert {path.name: path.read_bytes() for path in (root / "stage_cache").iterdir()} == cached
    stored = [array for path in (root / "stage_cache").iterdir() for array in load_file(path).items()]
    directory = run_directory(root)
    state = newest_checkpoint(directory)
    assert len(stored) > 20
    for name, array in stored:
        np.testing.assert_array_equal(state[name], array, err_msg=name)
    lines = (run_directory(trained[0]) / "metrics.csv").read_text().splitlines()
    assert (directory / "metrics.csv").read_text().splitlines() == [x for x in lines if not x.startswith("main,")]

    assert [message for message in caplog.messages if "not evaluated" in message] == caplog.messages[-1:]
    assert outcome.stdout.splitlines()[-1] == f"results: {directory}"
    assert not (directory / "evaluation.json").exists()
    assert (directory / "saved_model" / "saved_model.pb").exists()
    assert "name one with --env" in the_error(run_here("evaluate", f"--run_dir={directory}"))


def test_a_run_that_reuses_stages_ends_like_one_that_trained_them(trained, dataset, tmp_path):
    """In every metric and every tensor of every checkpoint, the optimiser slots of the reused stages included."""
    root = tmp_path / "runs"
    shutil.copytree(trained[0] / "stage_cache", root / "stage_cache")
    outcome = run_here("train", *arguments(root, dataset))
    assert outcome.status == 0 and outcome.stdout.count("steps reused from an equal run") == 3
    first, second = run_directory(trained[0]), run_directory(root)
    assert results(first) == results(second)
    checkpoints = [sorted((run / "checkpoints").iterdir()) for run in (first, second)]
    assert [path.name for path in checkpoints[0]] == [path.name for path in checkpoints[1]]
    for one, other in zip(*checkpoints, strict=True):
        assert_same_bits(load_file(one), load_file(other))


# What training refuses ------------------------------------------------------------------------------------------------


def test_a_dataset_must_be_named(tmp_path):
    outcome = run_here("train", *arguments(tmp_path / "runs", None, bindings=[]))
    assert "dataset" in the_error(outcome)


def test_a_module_that_cannot_be_imported_is_named(tmp_path, dataset):
    outcome = run_here("train", *arguments(tmp_path / "runs", dataset, "--import=not_there"))
    assert the_error(outcome) == "--import=not_there: No module named 'not_there'"


def test_a_refused_process_ends_with_status_1(tmp_path, dataset):
    """The whole of what a terminal would show."""
    outcome = finish_process(
        start_process("brac_plus_tf.train", *arguments(tmp_path / "runs", "absent.hdf5"), cwd=tmp_path)
    )
    assert "absent.hdf5" in the_error(outcome)
    assert outcome.stdout == ""


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(UserError, match=r"absent\.hdf5"):
        run_here("train", "--debug", *arguments(tmp_path, "absent.hdf5"))


def test_a_changed_configuration_is_refused_with_the_difference(run_copy, dataset):
    before = results(run_directory(run_copy))
    outcome = run_here("train", *arguments(run_copy, dataset, bindings=(*FULL, "Critic.gamma = 0.9")))
    message = the_error(outcome)
    assert "(-Critic.gamma = 0.995; +Critic.gamma = 0.9)" in message
    assert str(run_directory(run_copy)) in message
    assert results(run_directory(run_copy)) == before


def test_other_contents_under_the_same_name_are_refused(run_copy, tmp_path):
    (tmp_path / "other").mkdir()
    other = write_hopper_dataset(tmp_path / "other" / "hopper.hdf5", steps=250)
    assert "-dataset " in the_error(run_here("train", *arguments(run_copy, other)))


def test_the_same_contents_elsewhere_are_the_same_run(run_copy, dataset, tmp_path):
    moved = tmp_path / ("a_long_directory_name_" * 4) / "hopper.hdf5"
    moved.parent.mkdir()
    shutil.copy(dataset, moved)
    outcome = run_here("train", *arguments(run_copy, str(moved)))
    assert outcome.status == 0, outcome.stderr


def test_a_second_process_on_a_run_is_refused(run_copy, dataset):
    record = RunRecord(run_directory(run_copy))
    message = the_error(run_here("train", *arguments(run_copy, dataset)))
    assert "another process" in message and str(record.directory) in message


# Which setting wins ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "bindings", "expected"),
    [
        ([], [], ("from_file.hdf5", "Hopper-v4")),
        (["--dataset=flag.hdf5", "--env=none"], [], (("flag.hdf5",), "none")),
        (["--dataset=a.hdf5,b.hdf5"], [], (("a.hdf5", "b.hdf5"), "Hopper-v4")),
        (["--dataset=there,1.hdf5"], [], (("there,1.hdf5",), "Hopper-v4")),  # the test makes this file
        (["--dataset=~/a.hdf5,minari:~/b-v0"], [], (("/home/me/a.hdf5", "minari:~/b-v0"), "Hopper-v4")),
        (
            ["--dataset=flag.hdf5", "--env=none"],
            ["Experiment.dataset = 'bound.hdf5'", "Experiment.environment = 'auto'"],
            ("bound.hdf5", "auto"),
        ),
        ([], ["Experiment.dataset = 'first.hdf5'", "Experiment.dataset = 'last.hdf5'"], ("last.hdf5", "Hopper-v4")),
    ],
)
def test_bindings_beat_flags_and_flags_beat_files(tmp_path, monkeypatch, flags, bindings, expected):
    seen = []

    def note(experiment, root_dir, seed, bindings):
        seen.append((experiment, root_dir, seed, bindings))
        return pathlib.Path("somewhere")

    monkeypatch.setattr(experiment, "run_experiment", note)
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there,1.hdf5").write_text("")
    (tmp_path / "mine.gin").write_text(
        "include 'brac_plus/base.gin'\nExperiment.dataset = 'from_file.hdf5'\nExperiment.environment = 'Hopper-v4'\n"
    )
    (tmp_path / "later.gin").write_text("Experiment.agent_name = 'later'\n")
    files, more = (
        [f"--gin_file={tmp_path / name}" for name in ("mine.gin", "later.gin")],
        ("--seed=5", "--estimate=none"),
    )
    outcome = run_here("train", *files, *flags, *(f"--gin_bindings={binding}" for binding in bindings), *more)
    assert (outcome.status, outcome.stdout) == (0, "results: somewhere\n")
    ((built, root_dir, seed, passed),) = seen
    assert (built.dataset, built.environment) == expected
    assert (built.agent_name, root_dir, seed, passed) == ("later", pathlib.Path("runs"), 5, bindings)


# Evaluating and exporting ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["mean", "sample", "max_q"])
def test_evaluate_writes_what_it_prints(run_copy, action):
    directory = run_directory(run_copy)
    outcome = run_here("evaluate", f"--run_dir={directory}", "--episodes=3", f"--action={action}", "--seed=4")
    assert outcome.status == 0, outcome.stderr
    path = directory / f"evaluation-{action}-4.json"
    assert outcome.stdout.splitlines()[-1] == f"results: {path}"
    content = json.loads(path.read_text())
    assert (content["task"], content["action"], content["episodes"]) == ("Hopper-v4", action, 3)
    returns = np.array(content["returns"])
    assert len(set(content["returns"])) == 3
    assert content["score_mean"] == pytest.approx(100.0 * (returns.mean() + 20.272305) / 3254.572305)
    printed = re.search(r"return\s+(\S+) \+- (\S+)", outcome.stdout)
    assert (float(printed[1]), float(printed[2])) == pytest.approx((returns.mean(), returns.std()), abs=0.006)


def test_evaluate_repeats_itself_and_follows_its_seed(run_copy):
    directory = run_directory(run_copy)
    facts = directory / "run.json"
    facts.write_text(json.dumps(json.loads(facts.read_text()) | {"seed": 1}))  # so that 0 is not the run's own
    before = results(directory)
    first, again, other = (
        run_here("evaluate", f"--run_dir={directory}", "--episodes=2", "--action=sample", f"--seed={seed}")
        for seed in (0, 0, 1)
    )
    first, again, other = (
        [line for line in o.stdout.splitlines() if "episodes in" not in line] for o in (first, again, other)
    )
    assert first == again and first[-4:-1] != other[-4:-1]
    contents = [json.loads((directory / f"evaluation-sample-{seed}.json").read_text())["returns"] for seed in (0, 1)]
    assert not set(contents[0]) & set(contents[1])
    assert results(directory) == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--action=best"], "'best' is none of this policy's ways to act: mean, sample, max_q"),
        (["--env=Hoper-v4"], "nearest: Hopper-v4"),
        (["--env=Walker2d-v4"], "the policy is for"),
        (["--backend=unreal"], "--backend=unreal: value should be one of <auto|gymnasium|d4rl>"),
    ],
)
def test_evaluate_refuses_what_it_cannot_do(run_copy, flags, message):
    directory = run_directory(run_copy)
    assert message in the_error(run_here("evaluate", f"--run_dir={directory}", "--episodes=1", *flags))
    assert not list(directory.glob("evaluation-*.json"))


def test_export_gives_a_policy_that_stands_alone(run_copy, tmp_path):
    directory, target = run_directory(run_copy), tmp_path / "new" / "policy"
    outcome = run_here("export", f"--run_dir={directory}", f"--output={target}")
    ways = ("mean", "max_q", "sample_with_noise", "max_q_with_noise")
    same = "1,000 rows, largest difference 0.0e+00 of half the action's range"
    said = ["compared on rows of the data", *(f"  saved_model, {way}: {same}" for way in ways), f"policy: {target}"]
    assert (outcome.status, outcome.stdout.splitlines()) == (0, said), outcome.stderr
    shutil.rmtree(run_copy)
    signature = tf.saved_model.load(str(target)).signatures["serving_default"]
    observation = np.random.default_rng(0).normal(size=(4, 11)).astype(np.float32)
    action = signature(observation=tf.constant(observation))["action"].numpy()
    assert action.shape == (4, 3) and (np.abs(action) <= 1.0).all()
    metadata = json.loads((target / "policy.json").read_text())
    assert Dimensions(metadata["observation_size"], metadata["action_size"]) == (11, 3)
    assert metadata["agent"] == "brac_plus_short"


def test_the_exported_actions_are_those_of_the_last_checkpoint(trained, tmp_path):
    """The actor's hidden layer and tanh mean in numpy, from the checkpoint's arrays and the recorded scaling."""
    directory = run_directory(trained[0])
    run_here("export", f"--run_dir={directory}", f"--output={tmp_path / 'policy'}")
    state = newest_checkpoint(directory)
    kernels, biases = ([state[f"actor/{index:03d}"][0] for index in pair] for pair in ((0, 2), (1, 3)))
    observation = np.random.default_rng(0).normal(size=(5, 11)).astype(np.float32)
    scaling = json.loads((tmp_path / "policy" / "policy.json").read_text())["scaling"]
    normalized = (observation - np.array(scaling["observation_shift"])) / np.array(scaling["observation_scale"])
    hidden = np.maximum(normalized @ kernels[0] + biases[0], 0.0)
    mean = (hidden @ kernels[1] + biases[1])[:, :3]
    signature = tf.saved_model.load(str(tmp_path / "policy")).signatures["serving_default"]
    action = signature(observation=tf.constant(observation))["action"].numpy()
    np.testing.assert_allclose(action, np.tanh(mean), atol=1e-6)


def test_export_leaves_alone_what_is_there(run_copy, tmp_path, monkeypatch):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "note").write_text("mine")
    monkeypatch.chdir(tmp_path / "taken")
    for target in (str(tmp_path / "taken"), ".", "..", "/", "note"):
        outcome = run_here("export", f"--run_dir={run_directory(run_copy)}", f"--output={target}")
        assert "already exists" in the_error(outcome)
    assert os.listdir(tmp_path / "taken") == ["note"]
    assert (tmp_path / "taken" / "note").read_text() == "mine"


def test_export_that_cannot_be_written_leaves_nothing(run_copy, tmp_path, monkeypatch):
    def half(source, target, dirs_exist_ok):
        os.makedirs(target, exist_ok=dirs_exist_ok)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copytree", half)
    (tmp_path / "out").mkdir()
    outcome = run_here("export", f"--run_dir={run_directory(run_copy)}", f"--output={tmp_path / 'out' / 'policy'}")
    assert "No space left" in the_error(outcome)
    assert os.listdir(tmp_path / "out") == []


@pytest.mark.parametrize("command", ["evaluate", "export"])
def test_commands_need_a_finished_run(run_copy, tmp_path, command):
    output = ["--output=" + str(tmp_path / "policy")] if command == "export" else []
    nothing = run_here(command, f"--run_dir={tmp_path / 'absent'}", *output)
    assert "not a run directory" in the_error(nothing)
    shutil.rmtree(run_directory(run_copy) / "saved_model")
    unfinished = run_here(command, f"--run_dir={run_directory(run_copy)}", *output)
    assert "not finished" in the_error(unfinished)
    assert not (tmp_path / "policy").exists()


def test_data_that_are_named_by_two_flags_are_refused(tmp_path):
    """The last flag would count, and the data be half of what was meant."""
    outcome = run_here("train", "--gin_file=bc/base.gin", "--dataset=a.hdf5", "--dataset=b.hdf5")
    assert outcome.status == 1
    assert outcome.stderr == "error: --dataset is given twice; give it once, with commas between the sources\n"
