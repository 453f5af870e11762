"""What --help says, and how soon."""

import ast
import os
import re
import resource
import subprocess
import sys

import pytest
from tiny import CONFIGS, PROJECT, run_here

from brac_plus_tf.__main__ import COMMANDS
from brac_plus_tf.environments.tasks import TASKS

PACKAGE = PROJECT / "brac_plus_tf"
# what each command asks for, and what else it takes at least
FLAGS = {
    "train": ({"gin_file"}, {"gin_bindings", "root_dir", "smoke", "seed", "dataset", "env", "estimate"}),
    "evaluate": ({"run_dir"}, {"episodes", "action", "seed", "env", "backend", "video"}),
    "estimate": (set(), {"run_dir", "policy", "dataset", "action", "seed", "output", "env", "gin_bindings"}),
    "select": (
        set(),
        {"runs", "thresholds", "dataset", "gin_file", "gin_bindings", "estimate_bindings", "env", "episodes", "output"},
    ),
    "report": (set(), {"output", "env", "gin_bindings"}),
    "export": ({"run_dir", "output"}, set()),
    "act": ({"policy"}, {"action", "seed"}),
    "compare": (
        set(),
        {"agents", "datasets", "seeds", "gin_file", "gin_bindings", "root_dir", "smoke", "jobs", "output"}
        | {"study", "data_dir", "grid", "records", "engine", "cores", "ray_address", "slurm"},
    ),
    "plot": (set(), {"output"}),
    "figures": (set(), {"figure", "runs", "labels", "records", "study", "numbers", "output"}),
    "inspect_dataset": (set(), {"env", "output", "model", "gin_bindings"}),
    "convert_to_minari": (set(), {"env", "algorithm", "gin_bindings"}),
    "train_online": (
        {"env"},
        {"gin_file", "gin_bindings", "root_dir", "smoke", "seed", "total_steps", "eval_target"},
    ),
    "collect_data": (
        {"policy", "env", "output"},
        {"mixture", "n_samples", "gin_bindings", "seed", "workers", "backend"},
    ),
}


def test_every_module_that_runs_a_command_is_one():
    called = re.compile(r"^    (command_line\.)?run_command\(main\)$", re.MULTILINE)
    doors = {path.stem for path in PACKAGE.glob("*.py") if called.search(path.read_text())}
    assert doors == set(COMMANDS) == set(FLAGS) and len(COMMANDS) == len(doors)


@pytest.mark.parametrize("command", FLAGS)
def test_help_lists_the_command_s_own_flags_and_marks_what_is_required(command):
    outcome = run_here(command, "--help")
    assert (outcome.status, outcome.stderr) == (0, "")
    listed = {name: mark for mark, name in re.findall(r"^([* ]) --(\w+)", outcome.stdout, re.MULTILINE)}
    required, optional = FLAGS[command]
    assert {name for name, mark in listed.items() if mark == "*"} == required
    assert set(listed) >= required | optional | {"debug", "import"}
    of_libraries = {"verbosity", "logtostderr", "alsologtostderr", "log_dir", "pdb", "run_with_pdb", "help", "helpfull"}
    assert not set(listed) & of_libraries
    documentation = ast.get_docstring(ast.parse((PACKAGE / f"{command}.py").read_text()), clean=False).strip()
    assert outcome.stdout.startswith(documentation)
    assert f"python -m brac_plus_tf.{command} " in documentation  # an example


def test_help_of_a_command_that_trains_lists_agents_their_files_and_environments():
    text = run_here("train", "--help").stdout
    for path in CONFIGS.glob("*/base.gin"):
        described = text.partition(f"\n  {path.parent.name} ")[2]
        for name in path.parent.glob("*.gin"):
            assert re.search(rf"\b{name.stem}\b", described), name
    words = set(re.split(r"[\s,]+", text))
    assert {"Hopper-v4", "AdroitHandPen-v1", "walker2d-medium-replay-v0|1|2"} <= words
    assert all(name in words for name, task in TASKS.items() if not task.is_d4rl)
    assert re.search(r"^  cql +CQL\(H\) by its authors' recipe", text, re.MULTILINE)


def test_help_shows_what_the_chosen_files_set(tmp_path):
    """The later of two files wins, as in a run; how the flag is written makes no difference."""
    (tmp_path / "mine.gin").write_text("Improvement.epochs = 7\nMaxQ.samples = 3\n")
    given = ["--gin_file=brac_plus/short.gin", "-gin_file", str(tmp_path / "mine.gin")]
    shown = run_here("train", "--help", *given).stdout.partition("Settings of ")[2]
    settings = dict(re.findall(r"^    (\S+) = (.+)$", shown, re.MULTILINE))
    assert settings["Improvement.epochs"] == "7" and settings["MaxQ.samples"] == "3"
    assert settings["Improvement.steps_per_epoch"] == "1000"
    assert settings["BRACPlus.behavior_fit"] == "@behavior/Fit()"
    assert "Settings of" not in run_here("train", "--help").stdout
    outcome = run_here("train", "--help", "--gin_file=brac_plus/shrot.gin")
    assert outcome.status == 1 and "did you mean brac_plus/short.gin" in outcome.stderr


@pytest.mark.parametrize("command", [["-m", "brac_plus_tf"], ["-m", "brac_plus_tf.train", "--help"]])
def test_help_comes_within_a_second_and_without_the_large_libraries(command):
    """In seconds of computing, which other work on the machine does not change."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "PYTHONPROFILEIMPORTTIME": "1"}  # imports go to stderr
    outcome = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert outcome.returncode == 0 and outcome.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0
    loaded = set(re.findall(r"^import time: .* \| +(\w+)$", outcome.stderr, re.MULTILINE))
    assert "absl" in loaded
    assert not loaded & {"tensorflow", "keras", "gymnasium", "mujoco", "matplotlib", "h5py", "scipy"}


# The console command --------------------------------------------------------------------------------------------------


def console(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-m", "brac_plus_tf", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_alone_it_lists_the_commands_with_a_line_each():
    outcome = console()
    assert outcome.returncode == 0 and outcome.stdout == console("--help").stdout
    for command in COMMANDS:
        first = ast.get_docstring(ast.parse((PACKAGE / f"{command}.py").read_text())).splitlines()[0]
        assert " ".join([command, first]) in " ".join(outcome.stdout.split())


def test_it_runs_the_command_that_is_named():
    assert console("export", "--help").stdout == run_here("export", "--help").stdout
    outcome = console("export", "--run_dir=absent")
    assert (outcome.returncode, outcome.stderr) == (1, "error: --output is required; --help tells what it takes\n")


def test_a_wrong_command_is_refused_in_one_line():
    outcome = console("trian", "--gin_file=bc/base.gin")
    assert (outcome.returncode, outcome.stdout) == (1, "")
    assert outcome.stderr == "error: no command 'trian'; did you mean train?\n"
