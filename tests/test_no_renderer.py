"""Nothing that trains or evaluates draws: whatever MUJOCO_GL says changes nothing."""

import json
import os
import subprocess
import sys

import pytest
import tiny

STEPPED = """
import os, sys
import tensorflow  # beside which a renderer that finds no GPU aborts the process at its end
from brac_plus_tf.environments.environment import make_environment
from brac_plus_tf.environments.tasks import find_task
environment = make_environment(find_task(sys.argv[1]), "gymnasium")
environment.reset(seed=0)
print(environment.step(environment.action_space.low)[1], os.environ["MUJOCO_GL"])
"""


def run(value, *command, cwd):
    environment = {**os.environ, "PYTHONPATH": str(tiny.PROJECT), "TF_CPP_MIN_LOG_LEVEL": "3", "MUJOCO_GL": value}
    done = subprocess.run([sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize(
    ("value", "task"), [("nonsense", "hopper-medium-v0"), ("egl", "Hopper-v4"), ("egl", "AdroitHandDoor-v1")]
)
def test_environments_step_and_the_variable_stays(tmp_path, task, value):
    done = run(value, "-c", STEPPED, task, cwd=tmp_path)
    assert done.stdout.split()[1] == value
    assert "GL" not in done.stderr


def test_a_run_and_its_evaluation_say_the_same(tmp_path):
    """Trained under one value, evaluated under another."""
    source = tiny.write_hopper_dataset(tmp_path / "hopper.hdf5")
    flags = ["--gin_file=bc/base.gin", f"--dataset={source}", "--env=Hopper-v4", "--smoke", "--root_dir=runs"]
    run("nonsense", "-m", "brac_plus_tf.train", *flags, cwd=tmp_path)
    (path,) = tmp_path.rglob("evaluation.json")
    own = json.loads(path.read_text())
    flags = [f"--run_dir={path.parent}", f"--episodes={own['episodes']}"]
    run("egl", "-m", "brac_plus_tf.evaluate", *flags, cwd=tmp_path)
    again = json.loads((path.parent / f"evaluation-{own['action']}-0.json").read_text())
    assert again == {key: value for key, value in own.items() if key != "last_evaluations"} | {"seed": 0}
