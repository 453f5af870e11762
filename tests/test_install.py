"""What an installation holds, and that it works where no checkout is near."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest
from tiny import CONFIGS, PROJECT

BUILT_FROM = ("brac_plus_tf", "gin_configs", "quickstart", "setup.py", "pyproject.toml", "README.md", "MANIFEST.in")
# what a plain installation leaves out
OPTIONAL = ("gymnasium", "mujoco", "gymnasium_robotics", "matplotlib", "rliable", "pandas", "scipy", "minari", "d4rl")


def build(source: pathlib.Path, kind: str, output: pathlib.Path) -> pathlib.Path:
    """What the standard builder makes of `source`: kind is wheel or sdist."""
    code = f"from setuptools import build_meta; print(build_meta.build_{kind}({str(output)!r}))"
    command = [sys.executable, "-c", code]
    built = subprocess.run(command, cwd=source, capture_output=True, text=True, check=True)
    return output / built.stdout.splitlines()[-1]


def contents(wheel: pathlib.Path) -> dict[str, bytes]:
    """Every file of a wheel but its list of the others."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("RECORD")}


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[pathlib.Path, pathlib.Path]:
    """The wheel and the sdist of a copy of the checkout."""
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in BUILT_FROM:
        path = PROJECT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, source)
    return build(source, "wheel", output), build(source, "sdist", output)


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory) -> pathlib.Path:
    """A folder with the installed package alone."""
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-index"]
    subprocess.run([*pip, f"--target={target}", str(built[0])], check=True)
    return target


def start(installed: pathlib.Path, cwd: pathlib.Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Runs a command with the installed package and no word on how much TensorFlow should say."""
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    environment |= {"PYTHONPATH": str(installed), "HOME": str(cwd)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)


def test_the_wheel_holds_every_module_table_gin_file_and_the_quickstart_s_data(built):
    expected = {}
    for pattern in ("*.py", "*.json"):
        expected |= {str(path.relative_to(PROJECT)): path for path in (PROJECT / "brac_plus_tf").rglob(pattern)}
    for folder, pattern in (("gin_configs", "*.gin"), ("quickstart", "*.hdf5")):
        found = (PROJECT / folder).rglob(pattern)
        expected |= {f"brac_plus_tf/{path.relative_to(PROJECT)}": path for path in found}
    assert len(expected) > 120
    found = contents(built[0])
    assert {name for name in found if ".dist-info/" not in name} == set(expected)
    assert all(found[name] == path.read_bytes() for name, path in expected.items())


def test_the_source_distribution_builds_the_same_wheel(built, tmp_path):
    wheel, sdist = built
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    assert contents(build(source, "wheel", tmp_path)) == contents(wheel)


def test_a_plain_installation_needs_no_simulator_and_nothing_to_draw_with(built):
    (metadata,) = (text.decode() for name, text in contents(built[0]).items() if name.endswith("/METADATA"))
    required = re.findall(r"^Requires-Dist: ([\w-]+)((?:(?!extra ==).)*)$", metadata, re.MULTILINE)
    assert {"tensorflow", "gin-config", "h5py"} <= {name for name, _ in required}
    assert not {name.replace("-", "_") for name, _ in required} & set(OPTIONAL)
    extras = set(re.findall(r"^Provides-Extra: (\w+)$", metadata, re.MULTILINE))
    known = {"mujoco", "adroit", "plot", "compare", "minari", "d4rl", "test", "onnx", "litert", "video", "ray", "slurm"}
    assert extras == known


def test_only_what_draws_or_simulates_needs_the_packages_of_the_extras(installed, tmp_path):
    code = f"""
import importlib, pkgutil, sys
sys.modules |= dict.fromkeys({OPTIONAL})
import brac_plus_tf
for module in pkgutil.walk_packages(brac_plus_tf.__path__, "brac_plus_tf."):
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        print(module.name, error.name.partition(".")[0])
print(brac_plus_tf.__file__)
"""
    outcome = start(installed, tmp_path, sys.executable, "-c", code)
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.splitlines() == [
        "brac_plus_tf.comparison.curves matplotlib",
        "brac_plus_tf.environments.equivalents gymnasium",
        "brac_plus_tf.environments.wrappers gymnasium",
        *(f"brac_plus_tf.paper.{name} matplotlib" for name in ("ablations", "picture", "probes", "toys")),
        "brac_plus_tf.reporting.report matplotlib",
        "brac_plus_tf.runs.curves matplotlib",
        f"{installed / 'brac_plus_tf' / '__init__.py'}",
    ]


def test_a_missing_extra_is_named_in_one_line(installed, tmp_path):
    """Before the first step, and before anything is written."""
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules |= dict.fromkeys({OPTIONAL})\n")
    bare = pathlib.Path(f"{tmp_path}{os.pathsep}{installed}")
    arguments = ["--gin_file=bc/base.gin", "--dataset=quickstart/hopper-quickstart.hdf5"]
    outcome = start(bare, tmp_path, sys.executable, "-m", "brac_plus_tf.train", *arguments)
    assert (outcome.returncode, outcome.stdout) == (1, "")
    what_to_do = "pip install 'brac_plus_tf[mujoco]'; or train without a score: --env=none"
    assert outcome.stderr == f"error: the package mujoco is missing: {what_to_do}\n"
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_train_and_export_from_an_empty_directory_say_nothing_beside_their_own(installed, tmp_path):
    """By the console command; a user's file includes its neighbour and one of the package's, and imports a module."""
    work = tmp_path / "work"
    work.mkdir()
    (tmp_path / "mine.gin").write_text("include 'sizes.gin'\nNoise.level = 0.5\n")
    (tmp_path / "sizes.gin").write_text("include 'bc/base.gin'\nbehavior/Actor.hidden_sizes = (8,)\n")
    (work / "my_module.py").write_text(
        "import gin\n\n@gin.configurable\nclass Noise:\n    level = 0.0\n    def __init__(self, level=0.0): ...\n"
    )
    data, command = "--dataset=quickstart/hopper-quickstart.hdf5", str(installed / "bin" / "brac-plus")
    arguments = ["--gin_file=../mine.gin", data, "--smoke", "--root_dir=~/runs", "--import=my_module"]
    outcome = start(installed, work, command, "train", *arguments, "--gin_bindings=Experiment.final_episodes = 3")
    assert (outcome.returncode, outcome.stderr) == (0, "")
    run = work / "runs" / "hopper-quickstart" / "bc-smoke" / "0"
    assert outcome.stdout.rstrip().endswith(str(run)) or str(run) in outcome.stdout
    check_smoke_run(run)
    outcome = start(installed, work, command, "export", f"--run_dir={run}", "--output=~/policy")
    same = "1,000 rows, largest difference 0.0e+00 of half the action's range\n"
    said = f"compared on rows of the data\n  saved_model, mean: {same}  saved_model, sample_with_noise: {same}"
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (0, f"{said}policy: {work / 'policy'}\n", "")
    assert (work / "policy" / "saved_model.pb").exists()


def check_smoke_run(run: pathlib.Path) -> None:
    """Two epochs of four steps, one episode on the way, three at the end as bound, and a record that says so."""
    rows = [line.split(",") for line in (run / "metrics.csv").read_text().splitlines()[1:]]
    assert {(stage, step) for stage, step, *_ in rows} == {("behavior", "4"), ("behavior", "8")}
    assert len(json.loads((run / "evaluation.json").read_text())["returns"]) == 3
    assert json.loads((run / "run.json").read_text())["smoke"] is True
    settings = (run / "operative_config.gin").read_text()
    assert "Experiment.smoke = True" in settings and "Experiment.evaluation_episodes = 1" in settings
    assert "Experiment.final_episodes = 3" in settings


def test_the_checkout_and_the_installation_find_the_same_files(installed):
    assert CONFIGS.is_dir()
    own = {str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.gin")}
    there = installed / "brac_plus_tf" / "gin_configs"
    assert {str(path.relative_to(there)) for path in there.rglob("*.gin")} == own
