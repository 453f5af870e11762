"""Google's BRAC bindings through the table of gin_configs/README.md: they must make the agents that google.gin make."""

import ast
import re
from typing import Any

import gin
import pytest
from tiny import CONFIGS, make_dataset

from brac_plus_tf.core.settings import describe
from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.runs import configuration
from brac_plus_tf.runs.experiment import Experiment
from brac_plus_tf.runs.session import problem_of

# what Google's example scripts say, the flags among them: run_bc, then run_primal
SCRIPTS = """
bc/train_eval_offline.total_train_steps = 300000
bc/train_eval_offline.model_params = ((200, 200),)
bc/train_eval_offline.optimizers = (('adam', 5e-4), ('adam', 5e-4))
bc/train_eval_offline.batch_size = 256
train_eval_offline.agent_name = 'brac_primal'
train_eval_offline.total_train_steps = 500000
train_eval_offline.model_params = (((300, 300), (200, 200)), 2)
train_eval_offline.optimizers = (('adam', 1e-3), ('adam', 3e-4), ('adam', 1e-3))
train_eval_offline.batch_size = 256
brac_primal_agent.Agent.alpha = 0.1
brac_primal_agent.Agent.divergence_name = 'kl'
brac_primal_agent.Agent.value_penalty = True
"""
DUAL = """
train_eval_offline.agent_name = 'brac_dual'
train_eval_offline.model_params = (((300, 300), (200, 200), (300, 300)), 2)
train_eval_offline.optimizers = (('adam', 1e-3), ('adam', 3e-6), ('adam', 1e-3), ('adam', 1e-3))
train_eval_offline.total_train_steps = 500000
brac_dual_agent.Agent.alpha = 10.0
brac_dual_agent.Agent.value_penalty = False
brac_dual_agent.Agent.divergence_name = 'kl'
"""
MMD = """
brac_primal_agent.Agent.alpha = 1.0
brac_primal_agent.Agent.divergence_name = 'mmd'
brac_primal_agent.Agent.n_div_samples = 4
laplacian_kernel.sigma = 20.0
mmd.use_sqrt = False
"""


@pytest.fixture(autouse=True)
def clear_gin():
    yield
    gin.clear_config()


def table() -> list[tuple[str, str, str]]:
    """Google's name, ours, and the expression that makes our value, of each row."""
    row = r"^\| `([\w/.]+)`(?:, a flag)? \| `([\w/.]+)` \| `(.+)` \|$"
    return re.findall(row, (CONFIGS / "README.md").read_text(), re.MULTILINE)


def translated(text: str) -> list[str]:
    """Our bindings of a file in Google's names; each of its lines must stand in the table."""
    given = dict(line.split(" = ", 1) for line in text.splitlines() if line)
    google = {name: ast.literal_eval(value) for name, value in given.items()}
    short = {name.rpartition(".")[2]: value for name, value in google.items() if not name.startswith("bc/")}
    bindings, used = [], set()
    for name, ours, expression in table():
        if name in google:
            try:
                value = eval(expression, {}, {**short, "value": google[name]})  # the table is the project's own
            except (IndexError, KeyError):  # of the other kind of agent
                continue
            used.add(name)
            bindings.append(f"{ours} = {value if str(value).startswith('@') else repr(value)}")
    assert used == set(google)
    return bindings


def agent_of(file: str, bindings: list[str]) -> Any:
    """What `Experiment` would train."""
    configuration.parse([str(CONFIGS / file)], [*bindings, "Experiment.dataset = 'hopper-medium-v0'"])
    settings = Experiment().agent(problem_of(make_dataset(50, Dimensions(3, 2)), None), 0).settings
    return {name: describe(value) for name, value in settings.items()}


@pytest.mark.parametrize(
    ("text", "file"),
    [
        (SCRIPTS, "brac_v/google.gin"),
        (SCRIPTS.replace("value_penalty = True", "value_penalty = False"), "brac_p/google.gin"),
        (SCRIPTS.split("brac_primal_agent")[0].replace("'brac_primal'", "'brac_dual'") + DUAL, "brac_p/dual_kl.gin"),
        (SCRIPTS + MMD, "brac_v/mmd.gin"),
    ],
    ids=["brac_v", "brac_p", "dual", "mmd"],
)
def test_a_file_in_googles_names_makes_the_same_agent(text, file):
    bindings = translated(text)
    mine = agent_of(file, [])
    gin.clear_config()
    base = f"{file.split('/')[0]}/base.gin"
    assert agent_of(base, bindings) == mine
    gin.clear_config()
    assert agent_of(base, []) != mine  # so it is the bindings that made it


def test_a_changed_value_changes_the_agent():
    """Each line of the script reaches the agent: half of the number, another agent."""
    before = agent_of("brac_v/base.gin", translated(SCRIPTS))
    for line in SCRIPTS.strip().splitlines():
        if number := re.search(r"(\d[\d.e-]*)", line.split(" = ", 1)[1]):
            gin.clear_config()
            value = ast.literal_eval(number[1])
            changed = line.replace(number[1], repr(type(value)(value / 2)), 1) if "_params" not in line else None
            if changed:
                assert agent_of("brac_v/base.gin", translated(SCRIPTS.replace(line, changed))) != before, line


def test_every_row_binds_a_name_that_there_is():
    """gin refuses what nothing has: one binding of each of our names."""
    for ours in sorted({ours for _, ours, _ in table()}):
        gin.clear_config()
        configuration.parse([str(CONFIGS / "brac_p" / "base.gin")], [f"{ours} = None"])
