"""Who may import whom: the package is a house of rooms, and a room knows only those below its own."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / "brac_plus_tf"

# Each room, and the rooms that it may import from beside itself and the package's own version.
ROOMS: dict[str, set[str]] = {"core": set()}
ROOMS["environments"] = {"core"}
ROOMS["data"] = {"core", "environments"}
ROOMS["models"] = {"core"}
ROOMS["objectives"] = {"core", "models"}
ROOMS["agents"] = {"core", "environments", "models", "objectives", "data"}
ROOMS["policies"] = {"core", "environments", "data", "agents"}
ROOMS["exports"] = {"core", "policies"}
ROOMS["runs"] = {"core", "environments", "data", "agents", "policies", "exports"}
ROOMS["collection"] = {"core", "environments", "data", "policies"}
ROOMS["estimation"] = {"core", "environments", "data", "models", "objectives", "agents", "policies", "runs"}
ROOMS["comparison"] = {"core", "data", "policies", "runs", "estimation"}
ROOMS["paper"] = {"core", "environments", "models", "objectives", "agents", "policies", "runs", "comparison"}
ROOMS["reporting"] = {"core", "environments", "data", "estimation", "runs"}
# the other modules of agents/ are algorithms
SHARED_AGENTS = {"base", "value_learning", "actor_critic", "soft_actor_critic", "initialized", "cloning", "thresholds"}
SHARED_AGENTS |= {"learned_dynamics", "termination", "delayed_policy", "altered"}


def imports(path: pathlib.Path, package: pathlib.Path) -> set[tuple[str, ...]]:
    """Modules of the package, as parts of their names, that a file imports anywhere, also inside functions."""
    found, here = set(), path.relative_to(package.parent).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {tuple(alias.name.split(".")) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else ()
            base = (*base, *(node.module.split(".") if node.module else ()))
            found |= {(*base, alias.name) for alias in node.names}
    return {parts[1:] for parts in found if parts[0] == package.name and len(parts) > 1}


def violations(package: pathlib.Path) -> list[str]:
    """Every import that the rooms forbid."""
    found = []
    for path in sorted(package.glob("*/*.py")):
        room, module = path.parent.name, path.stem
        for target in sorted(imports(path, package)):
            algorithm = target[0] == "agents" and len(target) > 1 and target[1] not in {*SHARED_AGENTS, module}
            if target[0] not in {room, "__version__", *ROOMS[room]} or algorithm:
                found.append(f"{room}/{module} imports {'.'.join(target)}")
    return found


def test_every_room_knows_only_those_below_it():
    assert violations(PACKAGE) == []


def test_every_folder_is_a_room_with_a_place():
    assert {path.parent.name for path in PACKAGE.glob("*/*.py")} == set(ROOMS)


def test_the_rooms_form_no_circle():
    """Each lies above all that it knows, in the order in which they are listed."""
    order = list(ROOMS)
    for room, below in ROOMS.items():
        assert all(order.index(other) < order.index(room) for other in below)


def test_no_two_modules_import_each_other_in_a_circle():
    graph = {path.relative_to(PACKAGE).with_suffix("").parts: imports(path, PACKAGE) for path in PACKAGE.rglob("*.py")}
    below = {module: {target[:2] for target in targets} - {module} for module, targets in graph.items()}
    while leaves := {module for module, targets in below.items() if not targets & set(below)}:
        below = {module: targets for module, targets in below.items() if module not in leaves}
    assert not below


def test_nothing_in_the_package_imports_scripts_or_tests():
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & {"scripts", "tests", "fakes", "tiny"}, path


@pytest.mark.parametrize(
    ("module", "source", "forbidden"),
    [
        ("core/types.py", "import brac_plus_tf.environments.tasks", "environments.tasks"),
        ("core/files.py", "from brac_plus_tf import train", "train"),
        ("environments/tasks.py", "from brac_plus_tf.data import rows", "data.rows"),
        ("models/networks.py", "from brac_plus_tf.data import hdf5_reader", "data.hdf5_reader"),
        ("models/behavior.py", "from brac_plus_tf.objectives.losses import td_target", "objectives.losses.td_target"),
        ("objectives/losses.py", "from brac_plus_tf.agents.base import Stage", "agents.base.Stage"),
        ("objectives/penalties.py", "from brac_plus_tf.data import dataset", "data.dataset"),
        ("data/dataset.py", "from brac_plus_tf.models.networks import Actor", "models.networks.Actor"),
        ("data/dataset.py", "def build():\n    from brac_plus_tf.runs.trainer import run", "runs.trainer.run"),
        ("data/dataset.py", "from ..models import networks", "models.networks"),
        ("agents/base.py", "from brac_plus_tf.agents.brac_plus import BRACPlus", "agents.brac_plus.BRACPlus"),
        ("agents/cql.py", "from brac_plus_tf.agents.brac_plus import BRACPlus", "agents.brac_plus.BRACPlus"),
        ("agents/cql.py", "from .brac_plus import BRACPlus", "agents.brac_plus.BRACPlus"),
        ("agents/cql.py", "from brac_plus_tf.agents import brac_plus", "agents.brac_plus"),
        ("agents/cql.py", "from brac_plus_tf.runs.trainer import run", "runs.trainer.run"),
        ("agents/cql.py", "from ..policies import evaluation", "policies.evaluation"),
        ("runs/trainer.py", "from brac_plus_tf.agents.brac_plus import BRACPlus", "agents.brac_plus.BRACPlus"),
        ("runs/trainer.py", "import brac_plus_tf.agents.brac_plus as b", "agents.brac_plus"),
        ("runs/experiment.py", "if True:\n    import brac_plus_tf.agents.brac_plus", "agents.brac_plus"),
        ("runs/experiment.py", "from brac_plus_tf.train import main", "train.main"),
        ("policies/evaluation.py", "from brac_plus_tf.runs.run_record import RunRecord", "runs.run_record.RunRecord"),
        ("exports/parity.py", "from brac_plus_tf.runs import trainer", "runs.trainer"),
        ("collection/shards.py", "from brac_plus_tf.runs import trainer", "runs.trainer"),
        ("comparison/results.py", "from brac_plus_tf.agents import base", "agents.base"),
    ],
)
def test_a_violation_is_found(tmp_path, module, source, forbidden):
    """The same modules, empty but for one import that must not be."""
    package = tmp_path / "brac_plus_tf"
    for path in PACKAGE.rglob("*.py"):
        empty = package / path.relative_to(PACKAGE)
        empty.parent.mkdir(parents=True, exist_ok=True)
        empty.write_text("")
    assert violations(package) == []
    (package / module).write_text(source)
    assert violations(package) == [f"{module.removesuffix('.py')} imports {forbidden}"]
