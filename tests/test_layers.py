"""Who may import whom: the package is built in layers, and a module knows only those below its own."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / "brac_plus_tf"

# From the bottom up; a module may import from lines above its own only. agents.<algorithm> is any other file there.
ALGORITHM = "agents.<algorithm>"
LAYERS = (
    ("", "types"),
    ("tasks", "randomness"),
    ("distributions", "lagrange", "updates", "rows"),
    ("hdf5_reader", "minari_reader", "dataset_download", "d4rl_backend", "saved_model_check"),
    ("networks", "sources", "episodes", "environments"),
    ("behavior", "datasets", "minari_writer", "stopping"),
    ("divergences", "penalties", "losses"),
    ("agents", "agents.base"),
    ("agents.actor_critic", "agents.thresholds"),
    ("agents.cloning",),
    (ALGORITHM,),
    ("checkpoints", "evaluation", "saved_policy"),
    ("run_record", "stage_cache", "hdf5_writer"),
    ("replay_buffer",),
    ("trainer", "comparison", "recording"),
    ("collection",),
    ("configuration",),
    ("experiment",),
    ("online_experiment", "command_line"),
    ("train", "evaluate", "export", "inspect_dataset", "compare", "train_online", "collect_data", "convert_to_minari"),
)
COMMANDS = LAYERS[-1]
# What the layers alone would allow: networks know no data and data no networks; losses receive tensors and callables
DATA = {
    *("rows", "hdf5_reader", "minari_reader", "minari_writer", "sources", "dataset_download", "episodes", "datasets"),
    *("d4rl_backend", "environments"),
}
FORBIDDEN = {
    "networks": DATA,
    "behavior": DATA,
    "datasets": {"networks"},
    "divergences": DATA | {"networks"},
    "penalties": DATA | {"networks", "behavior"},
    "losses": DATA | {"networks", "behavior"},
}
# only the list of what gin may name knows an algorithm by name
NAMES_ALGORITHMS = {"configuration"}


def modules(package: pathlib.Path) -> dict[str, pathlib.Path]:
    """Dotted names relative to the package, "" for the package itself."""
    found = {}
    for path in package.rglob("*.py"):
        parts = path.relative_to(package).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: pathlib.Path, name: str, known: set[str], package: str) -> set[str]:
    """Modules of the package that a file imports anywhere, also inside functions and relatively."""
    found = set()
    parents = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            targets = [(alias.name, []) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = [package, *parents[: len(parents) - node.level + 1]] if node.level else []
            targets = [(".".join([*base, *filter(None, [node.module])]), [alias.name for alias in node.names])]
        else:
            continue
        for target, names in targets:
            if target != package and not target.startswith(package + "."):
                continue
            module = target[len(package) + 1 :]
            submodules = {f"{module}.{name}".lstrip(".") for name in names} & known
            found |= submodules or {module}
    return found


def layer_of(name: str) -> int | None:
    layers = {module: index for index, layer in enumerate(LAYERS) for module in layer}
    return layers.get(name, layers[ALGORITHM] if name.startswith("agents.") else None)


def violations(package: pathlib.Path) -> list[str]:
    """Every import that the layers forbid, and every module that has no layer."""
    known, found = modules(package), []
    for name, path in sorted(known.items()):
        if layer_of(name) is None:
            found.append(f"{name}: add it to a layer of test_layers.py")
            continue
        for target in sorted(imports(path, name, set(known), package.name) - {name}):
            reason = None
            if layer_of(target) is None:
                reason = "which has no layer"
            elif target in COMMANDS:
                reason = "a command, which nothing imports"
            elif layer_of(target) >= layer_of(name):
                reason = "which is not below it"
            elif target in FORBIDDEN.get(name, ()):
                reason = "but must not know it"
            elif LAYERS[layer_of(target)] == (ALGORITHM,) and name not in NAMES_ALGORITHMS:
                reason = "but must not know an algorithm by name"
            if reason:
                found.append(f"{name or '__init__'} imports {target}, {reason}")
    return found


def test_the_package_keeps_its_layers():
    assert violations(PACKAGE) == []


def test_every_layer_names_modules_that_exist():
    names = {name for layer in LAYERS for name in layer} - {ALGORITHM}
    assert names <= modules(PACKAGE).keys()


def test_nothing_in_the_package_imports_scripts_or_tests():
    for path in modules(PACKAGE).values():
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & {"scripts", "tests", "fakes", "tiny"}, path


@pytest.mark.parametrize(
    ("module", "source", "forbidden"),
    [
        ("losses.py", "from brac_plus_tf.networks import Critic", "networks"),
        ("penalties.py", "from brac_plus_tf import datasets", "datasets"),
        ("types.py", "import brac_plus_tf.tasks", "tasks"),
        ("distributions.py", "from brac_plus_tf.lagrange import softplus_inverse", "lagrange"),
        ("networks.py", "from brac_plus_tf import hdf5_reader", "hdf5_reader"),
        ("divergences.py", "from brac_plus_tf.networks import Actor", "networks"),
        ("datasets.py", "from brac_plus_tf.networks import Actor", "networks"),
        ("networks.py", "def build():\n    from brac_plus_tf.datasets import load_dataset", "datasets"),
        ("behavior.py", "from . import datasets", "datasets"),
        ("agents/base.py", "from brac_plus_tf.agents.brac_plus import BRACPlus", "agents.brac_plus"),
        ("agents/cql.py", "from brac_plus_tf.agents.brac_plus import BRACPlus", "agents.brac_plus"),
        ("agents/cql.py", "from .brac_plus import BRACPlus", "agents.brac_plus"),
        ("agents/cql.py", "from brac_plus_tf.trainer import run", "trainer"),
        ("agents/cql.py", "from .. import checkpoints", "checkpoints"),
        ("trainer.py", "from brac_plus_tf.agents.brac_plus import BRACPlus", "agents.brac_plus"),
        ("trainer.py", "from brac_plus_tf.agents import base, brac_plus", "agents.brac_plus"),
        ("saved_policy.py", "import brac_plus_tf.agents.brac_plus as b", "agents.brac_plus"),
        ("experiment.py", "if True:\n    import brac_plus_tf.agents.brac_plus", "agents.brac_plus"),
        ("evaluation.py", "from brac_plus_tf.run_record import RunRecord", "run_record"),
        ("experiment.py", "from brac_plus_tf.train import main", "train"),
        ("evaluate.py", "from brac_plus_tf.train import main", "train"),
        ("configuration.py", "from brac_plus_tf.experiment import Experiment", "experiment"),
    ],
)
def test_a_violation_is_found(tmp_path, module, source, forbidden):
    """The same modules, empty but for one import that must not be."""
    package = tmp_path / "brac_plus_tf"
    for path in modules(PACKAGE).values():
        empty = package / path.relative_to(PACKAGE)
        empty.parent.mkdir(parents=True, exist_ok=True)
        empty.write_text("")
    assert violations(package) == []
    (package / module).write_text(source)
    (found,) = violations(package)
    name = module.removesuffix(".py").replace("/", ".")
    assert found.startswith(f"{name} imports {forbidden},")


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("losses.py", "from brac_plus_tf.types import check_shapes"),
        ("configuration.py", "import brac_plus_tf.agents.brac_plus"),
        ("run_record.py", "from brac_plus_tf import __version__"),
        ("agents/cql.py", "from .base import Agent\nfrom ..networks import Actor\nimport numpy"),
        ("train.py", "from brac_plus_tf.experiment import Experiment"),
    ],
)
def test_what_is_allowed_passes(tmp_path, module, source):
    package = tmp_path / "brac_plus_tf"
    for name in ("__init__", "types", "networks", "experiment", "agents/__init__", "agents/base", "agents/brac_plus"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / f"{name}.py").write_text("")
    (package / module).write_text(source)
    assert violations(package) == []


def test_a_new_module_must_take_its_place(tmp_path):
    package = tmp_path / "brac_plus_tf"
    package.mkdir()
    (package / "helpers.py").write_text("")
    (package / "train.py").write_text("import brac_plus_tf.helpers")
    assert violations(package) == [
        "helpers: add it to a layer of test_layers.py",
        "train imports helpers, which has no layer",
    ]
