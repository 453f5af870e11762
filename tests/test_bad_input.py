"""Every malformed input met so far: one plain line, exit status 1, and not a byte changed on disk."""

import json
import os
import pathlib
import shutil

import h5py
import numpy as np
import pytest
import tensorflow as tf
import tiny
from tensorflow.core.protobuf import saved_model_pb2
from tiny import BINDINGS, CONFIGS

from brac_plus_tf.runs.checkpoints import save_state

SHORT = CONFIGS / "brac_plus" / "short.gin"
BC = CONFIGS / "bc" / "base.gin"
BC_BINDINGS = (
    "behavior/Actor.hidden_sizes = (8,)",
    "behavior/Fit.steps = 20",
    "behavior/Fit.batch_size = 8",
    "Cloning.epoch_steps = 10",
    "Loop.checkpoint_interval = 10",
    "Loop.compiled = False",
    "Experiment.final_episodes = 1",
    "Experiment.evaluation_episodes = 1",
)


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """A valid dataset `hopper.hdf5`, a finished run `runs/hopper/bc/0` on it, and its export `policy`."""
    folder = tmp_path_factory.mktemp("origin")
    dataset = tiny.write_hopper_dataset(folder / "hopper.hdf5")
    bindings = [f"--gin_bindings={binding}" for binding in BC_BINDINGS]
    outcome = tiny.run_here(
        "train", f"--gin_file={BC}", f"--dataset={dataset}", f"--root_dir={folder / 'runs'}", *bindings
    )
    assert outcome.status == 0, outcome.stderr
    run = folder / "runs" / "hopper" / "bc" / "0"
    assert tiny.run_here("export", f"--run_dir={run}", f"--output={folder / 'policy'}").status == 0
    return folder


@pytest.fixture
def folder(origin, tmp_path, monkeypatch):
    """A copy of `origin` that a test may spoil; the working directory."""
    shutil.copytree(origin, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / "copy"


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def assert_refused(folder: pathlib.Path, command: str, arguments: list[str], message: str) -> None:
    before = contents(folder)
    outcome = tiny.run_here(command, *arguments)
    lines = outcome.stderr.splitlines()
    assert outcome.status == 1, (outcome.status, outcome.stdout, outcome.stderr)
    assert len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0], outcome.stderr
    assert contents(folder) == before


def train(*arguments: str, dataset: str | None = "hopper.hdf5", file: pathlib.Path = SHORT) -> list[str]:
    named = [f"--dataset={dataset}"] if dataset else []
    return [f"--gin_file={file}", *named, "--root_dir=new", *arguments]


# Datasets -------------------------------------------------------------------------------------------------------------


def spoil(key, change):
    """A function that replaces one array of an open file by `change` of it; None removes it."""

    def apply(file):
        array = file[key][:]
        del file[key]
        if change is not None:
            file[key] = change(array)

    return apply


def put(array, row, value):
    array[row] = value
    return array


def link(key, target):
    def apply(file):
        del file[key]
        file[key] = target

    return apply


def declared(shape, **options):
    def apply(file):
        del file["observations"]
        file.create_dataset("observations", shape=shape, dtype="f4", **options)

    return apply


def virtual(file):
    layout = h5py.VirtualLayout(shape=(300, 3), dtype="f4")
    layout[:] = h5py.VirtualSource("other.hdf5", "actions", shape=(300, 3))
    del file["actions"]
    file.create_virtual_dataset("actions", layout)


def text(array):
    return np.array([b"a"] * len(array))


DATASETS = {
    "no actions": (spoil("actions", None), "key 'actions' is missing"),
    "no rewards": (spoil("rewards", None), "key 'rewards' is missing"),
    "no terminals": (spoil("terminals", None), "key 'terminals' is missing"),
    "rewards are strings": (spoil("rewards", text), "rewards"),
    "flags are strings": (spoil("timeouts", text), "timeouts"),
    "objects": (spoil("observations", lambda a: np.array(["x"] * len(a), h5py.string_dtype())), "observations"),
    "complex numbers": (spoil("rewards", lambda a: a.astype(np.complex64)), "rewards"),
    "compound type": (spoil("rewards", lambda a: a.view([("x", "f4")])), "rewards"),
    "observations of rank 3": (spoil("observations", lambda a: a[:, :, None]), "observations"),
    "observations of rank 1": (spoil("observations", lambda a: a[:, 0]), "observations"),
    "rewards of rank 2": (spoil("rewards", lambda a: np.stack([a, a], 1)), "rewards"),
    "a row too few": (spoil("rewards", lambda a: a[:-1]), "rewards"),
    "next_observations of other width": (
        lambda f: f.__setitem__("next_observations", np.zeros((300, 4), "f4")),
        "next_observations",
    ),
    "no rows": (lambda f: [spoil(k, lambda a: a[:0])(f) for k in list(f)], "at least one row"),
    "NaN reward": (spoil("rewards", lambda a: put(a, 7, np.nan)), "row 7"),
    "infinite observation": (spoil("observations", lambda a: put(a, (5, 2), np.inf)), "row 5"),
    "NaN action": (spoil("actions", lambda a: put(a, (3, 1), np.nan)), "row 3"),
    "action out of bounds": (spoil("actions", lambda a: put(a, (9, 0), 1.5)), "row 9"),
    "numbers beyond float32": (spoil("rewards", lambda a: put(a, 7, 3e38)), "row 7"),
    "timeouts beside their rows": (
        lambda f: (
            f.__setitem__("next_observations", np.roll(f["observations"][:], -1, axis=0)),
            spoil("observations", lambda a: put(a, 9, 7.0))(f),
        ),
        "row 8",
    ),
    "a terminal of 2": (spoil("terminals", lambda a: put(a.astype(np.int32), 4, 2)), "row 4"),
    "observations of another robot": (spoil("observations", lambda a: np.hstack([a, a])), "observations"),
    "actions of another robot": (spoil("actions", lambda a: a[:, :2]), "actions"),
    "group in place of an array": (lambda f: (spoil("actions", None)(f), f.create_group("actions")), "actions"),
    "soft link": (link("actions", h5py.SoftLink("/observations")), "actions"),
    "soft link to nothing": (link("actions", h5py.SoftLink("/nowhere")), "actions"),
    "external link": (link("actions", h5py.ExternalLink("other.hdf5", "actions")), "actions"),
    "virtual array": (virtual, "actions"),
    "petabytes declared": (declared((10**13, 11), chunks=(1024, 11), compression="gzip"), "observations"),
    "only a type": (declared(None), "observations"),
}


@pytest.mark.parametrize("name", DATASETS)
def test_malformed_dataset(folder, name):
    change, message = DATASETS[name]
    with h5py.File("hopper.hdf5", "r+") as file:
        change(file)
    assert_refused(folder, "train", train(), message)
    assert_refused(folder, "inspect_dataset", ["hopper.hdf5"], message)


def test_constant_rewards_are_good_data_but_teach_no_value(folder):
    with h5py.File("hopper.hdf5", "r+") as file:
        spoil("rewards", np.ones_like)(file)
    assert_refused(folder, "train", train(), "key 'rewards' is the same in every transition")


FILES = {
    "absent": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "no HDF5": lambda path: path.write_bytes(b"observations,actions\n1,2\n" * 100),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "only a signature": lambda path: path.write_bytes(path.read_bytes()[:8]),
    "a directory": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("name", FILES)
def test_malformed_dataset_file(folder, name):
    FILES[name](folder / "hopper.hdf5")
    assert_refused(folder, "train", train(), "hopper.hdf5")
    assert_refused(folder, "inspect_dataset", ["hopper.hdf5"], "hopper.hdf5")


STRANGE = os.fsdecode(b"caf\xe9")  # Latin-1


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("train", train(dataset=f"{STRANGE}.hdf5")),
        ("train", [*train(), f"--root_dir={STRANGE}"]),
        ("inspect_dataset", [f"{STRANGE}.hdf5"]),
        ("evaluate", [f"--run_dir={STRANGE}"]),
        ("export", ["--run_dir=runs", f"--output={STRANGE}"]),
        ("plot", [STRANGE]),
    ],
)
def test_names_that_are_not_utf_8(folder, command, arguments):
    (folder / f"{STRANGE}.hdf5").write_bytes((folder / "hopper.hdf5").read_bytes())
    assert_refused(folder, command, arguments, r"caf\udce9")


def test_a_working_directory_whose_name_is_not_utf_8(folder, monkeypatch):
    (folder / STRANGE).mkdir()
    monkeypatch.chdir(folder / STRANGE)
    assert_refused(folder, "train", train(dataset="../hopper.hdf5"), r"caf\udce9': its name is not UTF-8")


def test_names_in_any_language(folder, monkeypatch):
    name = "données и 数据 ü"
    (folder / name).mkdir()
    (folder / "hopper.hdf5").rename(folder / name / f"{name}.hdf5")
    monkeypatch.chdir(folder / name)
    arguments = [
        "--gin_file=bc/base.gin",
        f"--dataset={name}.hdf5",
        "--env=none",
        "--estimate=none",
        "--smoke",
        f"--root_dir={name}",
    ]
    arguments += [f"--gin_bindings={b}" for b in ("behavior/Actor.hidden_sizes = (8,)", "Loop.compiled = False")]
    outcome = tiny.run_here("train", *arguments)
    assert outcome.status == 0, outcome.stderr
    assert (folder / name / name / name / "bc-smoke" / "0" / "saved_model").exists()


# Configurations and flags ---------------------------------------------------------------------------------------------

SETTINGS = {
    "Improvement.epoch = 3": "epoch",
    "Improvment.epochs = 3": "Improvment",
    "Improvement.epochs = ": "gin",
    "Improvement.epochs": "gin",
    "Improvement.epochs = 3 4": "gin",
    "Improvement.epochs = -3": "Improvement.epochs is -3, it must be a whole number",
    "Improvement.epochs = 1.5": "Improvement.epochs is 1.5",
    "Improvement.epochs = 'three'": "Improvement.epochs is 'three'",
    "Improvement.steps_per_epoch = 0": "0 steps per epoch",
    "Improvement.policy_learning_rate = '1e-4'": "Improvement.policy_learning_rate is '1e-4', it must be a number",
    "Actor.hidden_sizes = 256": "Actor.hidden_sizes is 256",
    "Actor.log_std_range = (1.0,)": "Actor.log_std_range is (1.0,)",
    "VAEEnsemble.select = @heaviside()": "heaviside",
    "BRACPlus.actor = 3": "BRACPlus.actor is 3, it must be Actor",
    "BRACPlus.actor = @NoSuchThing()": "NoSuchThing",
    "BRACPlus.actor = %NO_MACRO": "NO_MACRO",
    "Experiment.agent = 'brac'": "Experiment.agent is 'brac'",
    "Experiment.action = 'best'": "'best' is none of mean, sample, max_q",
    "Experiment.final_episodes = 0": "Experiment.final_episodes is 0",
    "Experiment.observation_noise = -0.1": "Experiment.observation_noise is -0.1",
    "Loop.steps_per_call = 0": "Loop.steps_per_call is 0",
    "load_dataset.action_low = 'a'": "load_dataset.action_low is 'a'",
    "load_dataset.normalize_observations = 'no'": "load_dataset.normalize_observations is 'no'",
    "MaxQ.samples = 2.5": "MaxQ.samples is 2.5",
    "make_environment.backend = 'isaac'": "isaac",
    "MMD.sigma = 3.0": "'MMD.sigma = 3.0' has no effect",
    "import no_such_module": "no_such_module",
    "include 'no_such_file.gin'": "no_such_file.gin",
}


@pytest.mark.parametrize("binding", SETTINGS)
def test_wrong_setting(folder, binding):
    others = [f"--gin_bindings={b}" for b in BINDINGS if b.split(" =")[0] != binding.split(" =")[0]]
    assert_refused(folder, "train", train(*others, f"--gin_bindings={binding}"), SETTINGS[binding])


FLAGS = {
    "--dataset=absent.hdf5": "absent.hdf5",
    "--dataset=hopper-medium-v0": "hopper_medium.hdf5 is not in",
    "--dataset=hopper-medum-v0": "hopper-medum-v0",
    "--env=Hoper-v4": "nearest: Hopper-v4",
    "--env=Walker2d-v4": "17",
    "--gin_file=absent.gin": "absent.gin",
    "--gin_file=hopper.hdf5": "gin",
    "--seed=-1": "seed",
    "--seed=one": "seed",
    "--sed=1": "sed",
    "extra": "unexpected argument 'extra'",
    "--root_dir=hopper.hdf5": "hopper.hdf5",
}


@pytest.mark.parametrize("flag", FLAGS)
def test_wrong_flag(folder, flag):
    small = [f"--gin_bindings={binding}" for binding in BINDINGS]
    others = [given for given in train(*small) if given.partition("=")[0] != flag.partition("=")[0] or "gin" in flag]
    assert_refused(folder, "train", [*others, flag], FLAGS[flag])


# Run directories and exports ------------------------------------------------------------------------------------------


def write_program(folder: pathlib.Path, operation: str) -> None:
    """A SavedModel with our metadata whose signature also writes a file, or whose object graph would run something."""

    class Program(tf.Module):
        def __init__(self):
            super().__init__()
            if operation == "table":
                values = tf.lookup.TextFileInitializer(
                    "hopper.txt",
                    tf.string,
                    tf.lookup.TextFileIndex.WHOLE_LINE,
                    tf.int64,
                    tf.lookup.TextFileIndex.LINE_NUMBER,
                )
                self.table = tf.lookup.StaticHashTable(values, -1)

        @tf.function(input_signature=[tf.TensorSpec([None, 11], tf.float32, name="observation")])
        def act(self, observation):
            if operation == "WriteFile":
                tf.io.write_file("stolen.txt", "x")
            if operation == "PyFunc":
                observation = tf.numpy_function(lambda x: x, [observation], tf.float32)
            return {"action": observation[:, :3]}

    shutil.rmtree(folder / "policy")
    (folder / "hopper.txt").write_text("a\n")
    module = Program()
    tf.saved_model.save(module, str(folder / "policy"), signatures={"serving_default": module.act})
    content = {"observation_size": 11, "action_size": 3, "actions": ["mean"]}
    (folder / "policy" / "policy.json").write_text(json.dumps(content))


def install(folder: pathlib.Path) -> None:
    run = folder / "runs" / "hopper" / "bc" / "0" / "saved_model"
    shutil.rmtree(run)
    shutil.copytree(folder / "policy", run)


def edit_model(change):
    def apply(folder):
        path = folder / "policy" / "saved_model.pb"
        model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
        change(model)
        path.write_bytes(model.SerializeToString())

    return apply


def with_file(name, content):
    return lambda folder: (folder / "policy" / name).write_bytes(content)


POLICIES = {
    "no graph": (lambda f: (f / "policy" / "saved_model.pb").unlink(), "saved_model.pb"),
    "graph of noise": (with_file("saved_model.pb", b"\xff" * 100), "saved_model.pb"),
    "empty graph": (with_file("saved_model.pb", b""), "one graph"),
    "two graphs": (edit_model(lambda m: m.meta_graphs.append(m.meta_graphs[0])), "one graph"),
    "missing function": (edit_model(lambda m: m.meta_graphs[0].graph_def.ClearField("library")), "function"),
    "no weights": (lambda f: shutil.rmtree(f / "policy" / "variables"), "not an exported policy"),
    "weights of noise": (with_file("variables/variables.index", b"\x00" * 64), "not an exported policy"),
    "no metadata": (lambda f: (f / "policy" / "policy.json").unlink(), "policy.json"),
    "metadata of noise": (with_file("policy.json", b"\xff\xfe{"), "not an exported policy"),
    "metadata is a list": (with_file("policy.json", b"[]"), "not an exported policy"),
    "unknown signature": (
        with_file("policy.json", b'{"observation_size": 11, "action_size": 3, "actions": ["a", "b"]}'),
        "not an",
    ),
    "writes a file": (lambda f: write_program(f, "WriteFile"), "holds the operation WriteFile"),
    "calls Python": (lambda f: write_program(f, "PyFunc"), "holds the operation"),
    "reads a file when loaded": (lambda f: write_program(f, "table"), "which no policy may use"),
}


@pytest.mark.parametrize("name", POLICIES)
def test_malformed_policy(folder, name):
    change, message = POLICIES[name]
    change(folder)
    install(folder)
    run = folder / "runs" / "hopper" / "bc" / "0"
    assert_refused(folder, "evaluate", [f"--run_dir={run}", "--episodes=1"], message)
    assert_refused(folder, "export", [f"--run_dir={run}", "--output=exported"], message)
    assert not (folder / "stolen.txt").exists()


def without(name):
    return lambda run: shutil.rmtree(run / name) if (run / name).is_dir() else (run / name).unlink()


def rewrite(name, change):
    return lambda run: (run / name).write_bytes(change((run / name).read_bytes()))


RUNS = {
    "absent": (shutil.rmtree, ""),
    "no facts": (without("run.json"), "run.json"),
    "facts of noise": (rewrite("run.json", lambda b: b"\xff{"), "run.json"),
    "facts cut off": (rewrite("run.json", lambda b: b[: len(b) // 2]), "run.json"),
    "facts are a list": (rewrite("run.json", lambda b: b"[1]"), "run.json"),
    "newer version": (rewrite("run.json", lambda b: b.replace(b'"format": 1', b'"format": 2')), "newer version"),
    "no policy": (without("saved_model"), "no saved_model yet"),
}


@pytest.mark.parametrize("name", RUNS)
def test_malformed_run_directory(folder, name):
    change, message = RUNS[name]
    run = folder / "runs" / "hopper" / "bc" / "0"
    change(run)
    assert_refused(folder, "evaluate", [f"--run_dir={run}", "--episodes=1"], message)
    assert_refused(folder, "export", [f"--run_dir={run}", "--output=exported"], message)


def damage_all_checkpoints(run):
    for path in (run / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:-9])


def foreign_checkpoints(run):
    for path in (run / "checkpoints").iterdir():
        save_state(path, {"x": tf.Variable(1.0)}, {"stage": 0, "step": 10, "metrics_size": 26})


RESUMED = {
    "another configuration": (
        rewrite("operative_config.gin", lambda b: b.replace(b"= 20", b"= 30")),
        "another configuration",
    ),
    "no configuration": (without("operative_config.gin"), "operative_config.gin"),
    "another dataset": (
        rewrite("run.json", lambda b: b.replace(b'"sha256": "', b'"sha256": "0')),
        "another configuration",
    ),
    "newer version": (rewrite("run.json", lambda b: b.replace(b'"format": 1', b'"format": 2')), "newer version"),
    "no intact checkpoint": (damage_all_checkpoints, "no usable checkpoint"),
    "foreign checkpoints": (foreign_checkpoints, "no usable checkpoint"),
    "metrics lost": (without("metrics.csv"), "rows before the checkpoint are missing"),
    "metrics cut off": (rewrite("metrics.csv", lambda b: b[:100]), "rows before the checkpoint are missing"),
}


@pytest.mark.parametrize("name", RESUMED)
def test_a_spoilt_run_is_not_resumed(folder, name, caplog):
    change, message = RESUMED[name]
    change(folder / "runs" / "hopper" / "bc" / "0")
    bindings = [f"--gin_bindings={binding}" for binding in BC_BINDINGS]
    arguments = [f"--gin_file={BC}", "--dataset=hopper.hdf5", "--root_dir=runs", *bindings]
    assert_refused(folder, "train", arguments, message)


COMMANDS = {
    "evaluate: unknown action": (
        "evaluate",
        ["--action=best"],
        "'best' is none of this policy's ways to act: sample, mean",
    ),
    "evaluate: no episodes": ("evaluate", ["--episodes=0"], "episodes"),
    "evaluate: another robot": ("evaluate", ["--env=Walker2d-v4"], "17"),
    "evaluate: unknown environment": ("evaluate", ["--env=Hoper-v4"], "nearest: Hopper-v4"),
    "evaluate: unknown backend": ("evaluate", ["--backend=isaac"], "isaac"),
    "export: in the way": ("export", ["--output=policy"], "policy: already exists"),
    "export: under a file": ("export", ["--output=hopper.hdf5/policy"], "cannot be written"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_wrong_use_of_a_run(folder, name):
    command, arguments, message = COMMANDS[name]
    run = folder / "runs" / "hopper" / "bc" / "0"
    assert_refused(folder, command, [f"--run_dir={run}", *arguments], message)


def test_a_runs_recorded_configuration_is_never_executed(folder):
    """Evaluating and exporting read facts and policy; a configuration that imports a module is not parsed."""
    run = folder / "runs" / "hopper" / "bc" / "0"
    (folder / "stolen.py").write_text("open('stolen.txt', 'w')\n")
    (run / "operative_config.gin").write_text("import stolen\n")
    assert tiny.run_here("evaluate", f"--run_dir={run}", "--episodes=1").status == 0
    assert tiny.run_here("export", f"--run_dir={run}", "--output=exported").status == 0
    assert not (folder / "stolen.txt").exists()


def test_there_are_many():
    assert sum(map(len, (DATASETS, FILES, SETTINGS, FLAGS, POLICIES, RUNS, RESUMED, COMMANDS))) >= 100
