"""The gin files against the paper's tables, and each of them through its first gradient steps in a small size."""

import ast
import dataclasses
import functools
import inspect
import pathlib
import re
import tempfile

import gin
import numpy as np
import pytest
import tensorflow as tf
from agents.test_every_agent import every_agent_class
from tiny import CONFIGS, NETWORKS, make_dataset, run_here, write_random_dataset

# collections and online runs have gin files, too, whose names these two register
import brac_plus_tf.collection.recording
import brac_plus_tf.runs.online  # noqa: F401
from brac_plus_tf.agents.base import Agent
from brac_plus_tf.agents.brac import Dual
from brac_plus_tf.agents.brac_plus import BRACPlus
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.randomness import base_seed
from brac_plus_tf.core.settings import describe
from brac_plus_tf.environments.tasks import D4RL_PAPER_TASKS, find_task
from brac_plus_tf.objectives.divergences import dual_kl, dual_wasserstein
from brac_plus_tf.runs import configuration
from brac_plus_tf.runs.compiled_stage import take_step
from brac_plus_tf.runs.experiment import Experiment

# Tables 5 and 6 of the paper: eps and the bound on the entropy H0
PAPER = {
    "halfcheetah_random": (9.0, -3.0),
    "halfcheetah_medium": (4.0, -12.0),
    "halfcheetah_medium_expert": (11.5, -24.0),
    "halfcheetah_medium_replay": (6.0, -12.0),
    "walker2d_random": (0.1, 6.0),
    "walker2d_medium": (2.1, -9.0),
    "walker2d_medium_expert": (5.0, -12.0),
    "walker2d_medium_replay": (4.0, -6.0),
    "hopper_random": (3.0, -3.0),
    "hopper_medium": (2.4, -6.0),
    "hopper_medium_expert": (2.6, -6.0),
    "hopper_medium_replay": (3.0, -3.0),
    "pen_human": (0.06, -200.0),
    "hammer_human": (0.1, -60.0),
    "door_human": (0.1, -60.0),
    "relocate_human": (0.1, -60.0),
}
# the authors' published code: what eps lies above the initial policy's divergence
PUBLISHED = {
    "halfcheetah_random": 3.0,
    "halfcheetah_medium": 7.0,
    "halfcheetah_medium_expert": 0.2,
    "halfcheetah_medium_replay": 3.0,
    "walker2d_random": 3.0,
    "walker2d_medium": 1.0,
    "walker2d_medium_expert": 0.2,
    "walker2d_medium_replay": 3.0,
    "hopper_random": 3.0,
    "hopper_medium": 0.2,
    "hopper_medium_expert": 0.2,
    "hopper_medium_replay": 3.0,
    "pen_human": 0.001,
    "hammer_human": 0.001,
    "door_human": 0.001,
    "relocate_human": 0.001,
}
# Table 3: sigma, eps and samples of the MMD
TABLE_3 = {
    "hopper_medium_replay": (10.0, 0.2, 10),
    "walker2d_medium_expert": (20.0, 0.2, 10),
    "halfcheetah_medium": (10.0, 0.3, 10),
}
# observation and action sizes of the environments, and steps after which they cut an episode
SIZES = {
    "halfcheetah": (17, 6, 1000),
    "walker2d": (17, 6, 1000),
    "hopper": (11, 3, 1000),
    "pen": (45, 24, 100),
    "hammer": (46, 26, 200),
    "door": (39, 28, 200),
    "relocate": (39, 30, 200),
}
HANDS = ("pen", "hammer", "door", "relocate")
ABLATIONS = ("kl_global", "kl_state", "kl_state_penalty", "mmd_global")

SMALL = (*NETWORKS, "Fit.batch_size = 5", "Improvement.batch_size = 5", "Training.batch_size = 5")


def robot(task: str) -> str:
    return task.split("_")[0]


EVERY_FILE = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.gin"))
# test_online_experiment.py, test_collection.py and test_estimate.py build these
OF_OTHER_COMMANDS = {file for file in EVERY_FILE if file.startswith(("collection/", "estimate"))} | {"sac/online.gin"}
TASK_FILES = [f"{folder}/{name}.gin" for folder in ("brac_plus", "brac_plus_acml") for name in PAPER]
# stages of each baseline
BASELINES = {
    ("bc/base.gin",): ["behavior"],
    ("bc/maximum_likelihood.gin",): ["behavior"],
    ("bc/base.gin", "bc/adroit_short_protocol.gin"): ["behavior"],
    ("sac/base.gin",): ["main"],
    ("bear/base.gin",): ["warm_start", "main"],
    ("bcq/base.gin",): ["main"],
    **{(f"cql/{name}.gin",): ["warm_start", "main"] for name in ("base", "lagrange", "version_2", "rho")},
    **{
        (f"brac_{letter}/{name}.gin",): ["behavior", "warm_start", "main"]
        for letter in "pv"
        for name in ("base", "google")
    },
    **{(f"brac_{letter}/mmd.gin",): ["behavior", "warm_start", "main"] for letter in "pv"},
    # a dual divergence needs no cloned policy
    **{
        (f"brac_{letter}/{name}.gin",): ["warm_start", "main"] for letter in "pv" for name in ("dual_kl", "wasserstein")
    },
    ("bear/halfcheetah.gin",): ["warm_start", "main"],
}
BASELINES |= {
    (f"{folder}/base.gin", f"{folder}/short_protocol.gin"): BASELINES[f"{folder}/base.gin",]
    for folder in ("bc", "sac", "bear", "bcq", "cql", "brac_p", "brac_v")
}
# a folder that nobody has listed is found by its base.gin, and by short_protocol.gin beside it
MODEL_BASED = ("mbop", "mopo")
BY_TASK = (*MODEL_BASED, "rebrac")  # which have files for the tasks of the paper's Table 1
PAPERS_OWN = {"brac_plus", "brac_plus_acml"}
BASELINES |= {
    files: None
    for base in CONFIGS.glob("*/base.gin")
    for files in [
        (f"{base.parent.name}/base.gin",),
        (f"{base.parent.name}/base.gin", f"{base.parent.name}/short_protocol.gin"),
    ]
    if base.parent.name not in PAPERS_OWN
    and files not in BASELINES
    and all((CONFIGS / file).exists() for file in files)
}
# files given together -> the task whose sizes their data have
COMPLETE = {(file,): pathlib.Path(file).stem for file in TASK_FILES} | {
    ("brac_plus/short.gin",): "hopper_medium_replay",
    ("brac_plus/hopper_medium_expert.gin", "brac_plus/steady.gin"): "hopper_medium_expert",
    ("brac_plus/walker2d_medium.gin", "brac_plus/short_protocol.gin"): "walker2d_medium",
    ("brac_plus/pen_human.gin", "brac_plus/adroit_short_protocol.gin"): "pen_human",
    ("quickstart.gin",): "hopper_medium_replay",
    **{files: "hopper_medium_replay" for files in BASELINES},
    **{(f"{folder}/{task}.gin",): task for folder in BY_TASK for task in PAPER if robot(task) not in HANDS},
    **{("brac_plus/hopper_medium_replay.gin", f"ablations/{name}.gin"): "hopper_medium_replay" for name in ABLATIONS},
    **{(f"ablations/mmd_global_{task}.gin",): task for task in TABLE_3},
}


def dataset_name(task: str) -> str:
    """hopper_medium_replay -> hopper-medium-replay-v0."""
    return task.replace("_", "-") + "-v0"


# What the files say, read without gin ---------------------------------------------------------------------------------


def statements(file: str) -> tuple[dict[str, str], list[str]]:
    """Own bindings of a file, and the files that it includes."""
    bindings, includes = {}, []
    for line in (CONFIGS / file).read_text().splitlines():
        line = re.sub(r"\s*#.*", "", line)
        if included := re.fullmatch(r"include '(.+)'", line):
            includes.append(included[1])
        elif line:
            key, value = line.split(" = ", 1)
            bindings[key] = value
    return bindings, includes


def with_includes(file: str) -> set[str]:
    return {file}.union(*(with_includes(included) for included in statements(file)[1]))


def operative_values(text: str) -> dict[str, str]:
    """Scoped name -> value of an operative configuration, wrapped lines joined."""
    lines = re.sub(r"\s*\\?\n[ \t]+", " ", text).splitlines()
    return dict(line.split(" = ", 1) for line in lines if " = " in line and not line.startswith("#"))


def same_value(first: str, second: str) -> bool:
    try:
        return ast.literal_eval(first) == ast.literal_eval(second)
    except (ValueError, SyntaxError):
        return first == second


# What they build ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Assembled:
    """A configuration that was built."""

    operative: dict[str, str]
    agent: Agent

    @property
    def multiplier_sizes(self) -> list[tuple[int, ...]]:
        return [tuple(variable.shape) for variable in self.agent.multiplier.network.variables]

    @property
    def threshold(self) -> float:
        """eps where the initial policy's divergence is 123."""
        return self.agent.thresholds.rule.resolve(123.0)

    def value(self, key: str) -> object:
        return ast.literal_eval(self.operative[key])


@dataclasses.dataclass
class FirstSteps:
    """Two steps of each stage: their metrics, whether they changed anything, and whether all stayed finite."""

    metrics: dict[str, list[dict[str, float]]]
    changed: dict[str, bool]
    finite: bool


def dataset_file(task: str) -> str:
    """Random numbers of the task's sizes; the demonstrations run past the horizon of 100 or 200 steps."""
    path = pathlib.Path(tempfile.gettempdir()) / f"brac_plus_tf_test_{task}.hdf5"
    return write_random_dataset(
        path, find_task(dataset_name(task)).dimensions, rows=1000 if robot(task) in HANDS else 40
    )


@pytest.fixture(scope="module", autouse=True)
def in_a_directory_of_its_own(tmp_path_factory):
    before, tempfile.tempdir = tempfile.tempdir, str(tmp_path_factory.mktemp("data"))
    yield
    tempfile.tempdir = before
    gin.clear_config()


def build(files: tuple[str, ...], bindings: tuple[str, ...] = ()):
    """Experiment, dataset and agent of a configuration."""
    if files in BASELINES or files == ("brac_plus/short.gin",):  # meant for any dataset
        bindings = (*bindings, "Experiment.dataset = 'hopper-medium-replay-v0'")
    configuration.parse([str(CONFIGS / file) for file in files], bindings)
    experiment, task = Experiment(), COMPLETE[files]
    known = find_task(dataset_name(task))
    dataset = experiment.load_dataset((dataset_file(task),), known)
    return experiment, dataset, experiment.agent_for(dataset, known, 0)


@functools.cache
def assembled(files: tuple[str, ...]) -> Assembled:
    agent = build(files, SMALL)[-1]
    return Assembled(operative_values(gin.operative_config_str()), agent)


def structure_of(files: tuple[str, ...]) -> frozenset:
    """What is computed, whatever the numbers: settings without their digits, and whether actions are a hand's."""
    plain = {
        (key, re.sub(r"-?\d[\d.]*(e-?\d+)?", "0", value))
        for key, value in assembled(files).operative.items()
        if not key.startswith("Experiment.")
    }
    return frozenset(plain | {robot(COMPLETE[files]) in HANDS})


_taken: dict[frozenset, FirstSteps] = {}


def first_steps(files: tuple[str, ...]) -> FirstSteps:
    """Of the first configuration of its structure: those that differ in numbers alone compute the same."""
    structure = structure_of(files)
    if structure not in _taken:
        _taken[structure] = take_first_steps(files)
    return _taken[structure]


def take_first_steps(files: tuple[str, ...]) -> FirstSteps:
    _, dataset, agent = build(files, SMALL)
    metrics, changed = {}, {}
    for index, stage in enumerate(agent.stages()):
        if agent.buffers():  # the stage reads what its preparation brings
            stage.prepare(dataset, 0, base_seed(index))
        before = snapshot(agent)
        metrics[stage.name] = [
            {
                name: float(value)
                for name, value in take_step(stage, dataset, base_seed(index), tf.constant(step)).items()
            }
            for step in range(2)
        ]
        changed[stage.name] = snapshot(agent) != before
    variables = [variable for group in agent.components().values() for variable in group]
    return FirstSteps(metrics, changed, all(np.isfinite(variable.numpy()).all() for variable in variables))


def snapshot(agent) -> bytes:
    return b"".join(variable.numpy().tobytes() for group in agent.components().values() for variable in group)


# Every file ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", EVERY_FILE)
def test_every_file_is_understood(file):
    configuration.parse([str(CONFIGS / file)], [])
    bindings, _ = statements(file)
    known = operative_values(gin.config_str())
    assert {key for key, value in bindings.items() if not same_value(known[key], value)} == set()


def test_task_files_are_the_papers_tasks():
    assert [f"{folder}/{task}.gin" for folder in ("brac_plus", "brac_plus_acml") for task in PAPER] == TASK_FILES
    assert set(TASK_FILES) <= set(EVERY_FILE)
    for folder in ("brac_plus", "brac_plus_acml"):
        tasks = {
            file for file in EVERY_FILE if file.startswith(folder + "/") and "dataset" in (CONFIGS / file).read_text()
        }
        names = {ast.literal_eval(statements(file)[0].get("Experiment.dataset", "None")) for file in tasks} - {None}
        assert names == set(D4RL_PAPER_TASKS)
    assert {dataset_name(task) for task in PAPER} == set(D4RL_PAPER_TASKS)


@pytest.mark.parametrize("file", TASK_FILES)
def test_a_task_file_holds_little_beside_its_include(file):
    """What siblings share belongs into the file that they include."""
    bindings, includes = statements(file)
    assert len(includes) == 1 and 1 <= len(bindings) <= 4
    shared = set().union(*(statements(other)[0].items() for other in with_includes(includes[0])))
    assert not bindings.items() & shared


@pytest.mark.parametrize("files", COMPLETE, ids=" + ".join)
def test_each_stage_takes_its_first_steps(files):
    outcome = first_steps(files)
    plus = ["behavior", "initial_policy", "initial_critic", "main"]
    expected = None if files[0].split("/")[0] in BY_TASK else BASELINES.get(files, plus)
    assert expected is None or list(outcome.metrics) == expected
    for stage, steps in outcome.metrics.items():
        for values in steps:
            assert values, stage
            assert all(np.isfinite(value) for value in values.values()), (stage, values)
        assert steps[0] != steps[1], stage
    assert all(outcome.changed.values()) and outcome.finite


def reached_by(outcome: Assembled) -> dict[str, str]:
    """Without a scope a binding also counts where it reached an object of some scope, as `by_skills` has them."""
    return {key.rpartition("/")[2]: value for key, value in outcome.operative.items()} | outcome.operative


@pytest.mark.parametrize("files", COMPLETE, ids=" + ".join)
def test_every_binding_of_the_last_file_counts(files):
    outcome = assembled(files)
    overridden = {binding.split(" = ")[0] for binding in SMALL}
    reached = reached_by(outcome)
    for key, value in statements(files[-1])[0].items():
        if files[-1] == "ablations/mmd_global.gin" and key.startswith("GlobalMultiplier"):
            continue
        assert key in reached, f"{key} has no effect"
        assert key in overridden or same_value(reached[key], value), key


def test_no_binding_of_a_shared_file_is_dead():
    """Each counts in at least one of the configurations that read it."""
    dead = {(file, key) for file in EVERY_FILE if file not in OF_OTHER_COMMANDS for key in statements(file)[0]}
    for files in COMPLETE:
        used = reached_by(assembled(files))
        for file in set().union(*(with_includes(file) for file in files)):
            dead -= {(file, key) for key in statements(file)[0] if key in used}
    assert dead == set()


# The paper ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", PAPER)
def test_tables_5_and_6(task):
    outcome = assembled((f"brac_plus/{task}.gin",))
    constraint = "MinimumEntropy" if robot(task) in HANDS else "MaximumEntropy"
    assert (outcome.value("AbsoluteThreshold.value"), outcome.value(f"{constraint}.target")) == PAPER[task]
    assert (outcome.threshold, outcome.agent.entropy_multiplier.target.numpy()) == (
        PAPER[task][0],
        np.float32(PAPER[task][1]),
    )
    assert outcome.operative["BRACPlus.threshold"] == "@AbsoluteThreshold()"
    assert outcome.operative["BRACPlus.entropy"] == f"@{constraint}()"
    assert outcome.operative["BRACPlus.divergence"] == ("@MMD()" if robot(task) in HANDS else "@KLUpperBound()")
    # Algorithm 1, line 2, also where line 7 has another
    assert outcome.operative["BRACPlus.initial_divergence"] == "@KLUpperBound()"
    assert outcome.value("Experiment.dataset") == dataset_name(task)
    assert outcome.value("Experiment.agent_name") == "brac_plus"


# Table 4: what both columns share, then Gym's and Adroit's own
TABLE_4 = {
    "Critic.learning_rate": 3e-4,
    "Critic.tau": 1e-3,
    "Critic.gamma": 0.99,
    "Critic.members": 2,
    "Critic.hidden_sizes": (256, 256),
    "Critic.target_samples": 1,
    "Actor.hidden_sizes": (512, 512),
    "VAEEnsemble.hidden_sizes": (512, 512),
    "VAEEnsemble.members": 3,
    "StateMultiplier.hidden_sizes": (256, 256),
    "StateMultiplier.initial": 10.0,
    "GradientPenalty.weight": 0.1,
    "GradientPenalty.weight_rate": 0.0,
    "Improvement.batch_size": 100,
    "Improvement.steps_per_epoch": 2000,
    "Improvement.epochs": 500,
    "Improvement.policy_samples": 1,
    "Improvement.target_actor": False,
    "Improvement.train_behavior": False,
    "behavior/Fit.steps": 400_000,
    "behavior/Fit.batch_size": 100,
    "initial_policy/Fit.steps": 400_000,
    "initial_critic/Fit.steps": 100_000,
    "Experiment.action": "mean",
}
TABLE_4_COLUMNS = {
    "hopper_medium": {
        "Improvement.policy_learning_rate": 5e-6,
        "StateMultiplier.learning_rate": 1e-5,
        "MaximumEntropy.initial": 10.0,
        "MaximumEntropy.learning_rate": 1e-3,
        "KLUpperBound.latent_samples": 5,
        "Experiment.final_episodes": 100,
    },
    "pen_human": {
        "Improvement.policy_learning_rate": 5e-8,
        "StateMultiplier.learning_rate": 1e-7,
        "MinimumEntropy.initial": 10.0,
        "MinimumEntropy.learning_rate": 1e-3,
        "MMD.sigma": 120.0,
        "MMD.samples": 10,
        "Experiment.final_episodes": 1000,
    },
}


@pytest.mark.parametrize("task", TABLE_4_COLUMNS)
def test_table_4(task):
    """In full size, without any binding of the test's."""
    _, _, agent = build((f"brac_plus/{task}.gin",))
    used = operative_values(gin.operative_config_str())
    expected = TABLE_4 | TABLE_4_COLUMNS[task]
    assert {key: ast.literal_eval(used[key]) for key in expected} == expected
    assert used["StateMultiplier.dual_loss"] == "@StraightThrough()"
    assert [stage.steps for stage in agent.stages()] == [400_000, 400_000, 100_000, 1_000_000]
    rows = make_dataset(dimensions=find_task(dataset_name(task)).dimensions)
    shapes = [stage.draw(rows, base_seed(0)).reward.shape for stage in agent.stages()]
    assert shapes == [(3, 100), (100,), (100,), (100,)]


SHORT = [file for file in EVERY_FILE if file.endswith("short_protocol.gin") and not file.startswith(MODEL_BASED)]


@pytest.mark.parametrize("file", SHORT)
def test_short_protocols_normalise_observations(file):
    """In so few steps no behaviour policy is learned from raw ones; models of dynamics standardise their own."""
    folder = pathlib.Path(file).parent
    configuration.parse([str(CONFIGS / folder / "base.gin"), str(CONFIGS / file)], [])
    assert gin.query_parameter("load_dataset.normalize_observations") is True


# One place for what differs by algorithm ---------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "agent_class"), every_agent_class())
def test_an_agent_built_without_gin_has_the_settings_of_its_own_base_file(name, agent_class):
    """Each parameter of the constructor, resolved by gin from {folder}/base.gin, against the signature's default."""
    folder = {"brac": "brac_v"}.get(name, name)
    configuration.parse([f"{folder}/base.gin"], ["AbsoluteThreshold.value = 1.0"])
    assert gin.query_parameter("Experiment.agent").configurable.wrapped is agent_class
    bound = gin.get_bindings(agent_class.__name__, resolve_references=True)
    defaults = {
        parameter.name: parameter.default
        for parameter in inspect.signature(agent_class).parameters.values()
        if parameter.default is not inspect.Parameter.empty
    }
    if name == "brac_plus":  # the paper's thresholds belong to its datasets: the task files have them
        del bound["threshold"]
    assert bound.keys() <= defaults.keys()
    assert {key: describe(value) for key, value in bound.items()} == {key: describe(defaults[key]) for key in bound}


# The baselines: published settings --------------------------------------------------------------------------------


def test_the_baselines_differ_where_their_sources_do():
    values = {files[-1]: assembled(files).operative for files in BASELINES}
    assert (
        values["brac_p/base.gin"]["BRAC.value_penalty"] == values["brac_p/google.gin"]["BRAC.value_penalty"] == "False"
    )
    assert (
        values["brac_v/base.gin"]["BRAC.value_penalty"] == values["brac_v/google.gin"]["BRAC.value_penalty"] == "True"
    )
    weights = [float(values[f"brac_v/{name}.gin"]["divergence/Multiplier.initial"]) for name in ("base", "google")]
    rates = [float(values[f"brac_v/{name}.gin"]["Training.policy_learning_rate"]) for name in ("base", "google")]
    steps = [int(values[f"brac_v/{name}.gin"]["behavior/Fit.steps"]) for name in ("base", "google")]
    assert (weights, rates, steps) == ([1.0, 0.1], [3e-5, 3e-4], [1_000_000, 300_000])
    forms = [values[f"cql/{name}.gin"]["CQL.conservative_value"] for name in ("base", "lagrange", "version_2", "rho")]
    assert forms == ["@entropy_regularized", "@entropy_regularized", "@unweighted", "@policy_weighted"]
    bear = assembled(("bear/base.gin",)).agent.multiplier
    assert [float(np.exp(edge)) for edge in bear._range] == pytest.approx([np.exp(-5.0), np.exp(10.0)], rel=1e-6)


@pytest.mark.parametrize("letter", "pv")
def test_bracs_other_divergences_are_googles(letter):
    """Squared MMD of 4 + 4 squashed actions with exp(-|x - y|_1 / 20); dual critics with their penalty of 5."""
    built = {name: build((f"brac_{letter}/{name}.gin",))[2] for name in ("mmd", "dual_kl", "wasserstein")}
    settings = {name: agent.settings for name, agent in built.items()}
    assert {name: chosen["value_penalty"] for name, chosen in settings.items()} == dict.fromkeys(built, letter == "v")
    assert {name: chosen["multiplier"].initial for name, chosen in settings.items()} == {
        "mmd": 1.0,
        "dual_kl": 10.0,
        "wasserstein": 10.0,
    }
    assert [chosen["training"].policy_learning_rate for chosen in settings.values()] == [3e-4, 3e-6, 3e-6]
    assert all(chosen["multiplier"].learning_rate == 0.0 for chosen in settings.values())
    for name, estimate in (("dual_kl", dual_kl), ("wasserstein", dual_wasserstein)):
        expected = Dual(estimate, (300, 300), learning_rate=1e-3, gradient_penalty=5.0, steps=3)
        assert describe(settings[name]["divergence"]) == describe(expected)
    mmd = settings["mmd"]["divergence"].divergence
    policy, behavior = (np.random.default_rng(seed).normal(size=(4, 1, 3)).astype(np.float32) for seed in (0, 1))

    def mean_kernel(first, second):
        first, second = np.tanh(first[:, 0]), np.tanh(second[:, 0])
        return np.exp(-np.abs(first[:, None] - second[None]).sum(axis=-1) / 20.0).mean()

    expected = mean_kernel(policy, policy) + mean_kernel(behavior, behavior) - 2.0 * mean_kernel(policy, behavior)
    assert mmd.samples == 4
    assert mmd._compare(tf.constant(policy), tf.constant(behavior)).numpy() == pytest.approx([expected], rel=1e-3)


@pytest.mark.parametrize("name", ABLATIONS)
def test_ablations_overlay_a_task_file(name):
    outcome = assembled(("brac_plus/hopper_medium_replay.gin", f"ablations/{name}.gin"))
    names = ("divergence", "multiplier", "penalty", "entropy", "initial_divergence")
    parts = {part: outcome.operative[f"BRACPlus.{part}"] for part in names}
    assert parts == {
        "initial_divergence": "@KLUpperBound()",
        "entropy": "@MinimumEntropy()" if name.startswith("mmd") else "@MaximumEntropy()",
        "divergence": "@MMD()" if name.startswith("mmd") else "@KLUpperBound()",
        "multiplier": "@GlobalMultiplier()" if name.endswith("global") else "@StateMultiplier()",
        "penalty": "@GradientPenalty()" if name.endswith("penalty") else "@NoPenalty()",
    }
    files = ("brac_plus/hopper_medium_replay.gin", f"ablations/{name}.gin")
    penalties = [step["critic_penalty"] for step in first_steps(files).metrics["main"]]
    assert all(penalty > 0 for penalty in penalties) if name.endswith("penalty") else penalties == [0.0, 0.0]
    assert (sum(map(np.prod, outcome.multiplier_sizes)) == 1) == name.endswith("global")
    assert outcome.value("Experiment.agent_name") == f"ablation_{name}"
    assert outcome.value("Experiment.dataset") == "hopper-medium-replay-v0"


@pytest.mark.parametrize("task", TABLE_3)
def test_table_3(task):
    """Complete in one file each; Table 5's H0 from below."""
    outcome = assembled((f"ablations/mmd_global_{task}.gin",))
    keys = ("MMD.sigma", "AbsoluteThreshold.value", "MMD.samples")
    assert tuple(outcome.value(key) for key in keys) == TABLE_3[task]
    assert outcome.operative["BRACPlus.divergence"] == "@MMD()"
    assert outcome.operative["BRACPlus.entropy"] == "@MinimumEntropy()"
    assert outcome.value("MinimumEntropy.target") == PAPER[task][1]
    assert outcome.value("Experiment.agent_name") == "ablation_mmd_global"
    assert outcome.value("Experiment.dataset") == dataset_name(task)
    # sqrt(k(x,x) + k(y,y) - 2 k(x,y)) of kernels between 0 and 1 is below sqrt(2)
    steps = first_steps((f"ablations/mmd_global_{task}.gin",)).metrics["main"]
    assert all(0.0 <= step["divergence_mean"] < np.sqrt(2.0) + 1e-3 for step in steps)


@pytest.mark.parametrize("task", PUBLISHED)
def test_the_published_codes_settings(task):
    outcome = assembled((f"brac_plus_acml/{task}.gin",))
    hand, cheetah = robot(task) in HANDS, robot(task) == "halfcheetah"
    assert outcome.operative["BRACPlus.threshold"] == "@RelativeThreshold()"
    assert outcome.value("RelativeThreshold.margin") == PUBLISHED[task]
    assert outcome.threshold == 123.0 + PUBLISHED[task]
    assert outcome.value("GradientPenalty.target") == (0.005 if hand else 0.1 if cheetah else 0.01)
    assert outcome.value("GradientPenalty.weight") == 0.1 and outcome.value("GradientPenalty.weight_rate") > 0.0
    assert outcome.operative["GradientPenalty.mask"] == ("@heaviside" if hand else "@normalized_softplus")
    assert outcome.operative["BRACPlus.multiplier"] == "@GlobalMultiplier()"
    assert outcome.value("GlobalMultiplier.learning_rate") == 1e-3
    assert outcome.value("Improvement.policy_learning_rate") == (5e-8 if hand else 5e-6)
    assert outcome.value("Critic.target_samples") == 5
    assert outcome.value("Improvement.target_actor") and outcome.value("Improvement.train_behavior")
    assert outcome.operative["VAEEnsemble.select"] == "@all_members"
    assert (outcome.value("Experiment.action"), outcome.value("MaxQ.samples"), outcome.value("MaxQ.clip")) == (
        "max_q",
        20,
        1.0,
    )
    assert outcome.operative["MaxQ.rank"] == "@mean_value"
    constraint = "MinimumEntropy" if hand else "MaximumEntropy"
    assert outcome.value(f"{constraint}.target") is None
    # the policy's room below the data's own entropy, nats for each entry of an action
    assert outcome.value(f"{constraint}.margin") == pytest.approx(0.0 if hand else np.log(4.0))
    starts = outcome.value(f"{constraint}.initial"), outcome.value("GlobalMultiplier.initial")
    assert starts == (10.0, 10.0)
    assert outcome.value("Experiment.agent_name") == "brac_plus_acml"
    if hand:
        assert outcome.value("MMD.sigma") == 120.0 and outcome.value("MMD.samples") == 5
        assert outcome.operative["BRACPlus.initial_divergence"] == "@MMD()"  # the published code's own
        assert outcome.value("MMD.squashed") is False
    else:
        assert outcome.value("Improvement.policy_samples") == 5


@pytest.mark.parametrize("task", PAPER)
def test_tasks_have_the_sizes_of_their_environments(task):
    known = find_task(dataset_name(task))
    assert (*known.dimensions, known.horizon) == SIZES[robot(task)]


def test_only_the_hands_demonstrations_may_run_past_the_horizon():
    with pytest.raises(UserError, match=r"horizon|longer"):
        configuration.parse([str(CONFIGS / "brac_plus/pen_human.gin")], ["load_dataset.allow_longer_episodes = False"])
        Experiment().load_dataset((dataset_file("pen_human"),), find_task("pen-human-v0"))


# One place for each setting -------------------------------------------------------------------------------------------


def flag_names(command: str) -> set[str]:
    """Names of a command's flags, from its help."""
    return set(re.findall(r"^[* ] --(\w+)", run_here(command, "--help").stdout, re.MULTILINE))


def bindable() -> dict[str, set[str]]:
    """Parameters that gin may set, by the name of their owner; dimensions, seed and the like come from the caller."""
    owners = {"Experiment": Experiment, "BRACPlus": BRACPlus} | {
        name: gin.get_configurable(name)
        for name in (
            *(
                "Actor",
                "Critic",
                "VAEEnsemble",
                "StateMultiplier",
                "GlobalMultiplier",
                "KLUpperBound",
                "SampledKL",
                "MMD",
            ),
            *("AbsoluteThreshold", "RelativeThreshold", "MaximumEntropy", "MinimumEntropy", "GradientPenalty"),
            *("Fit", "Improvement", "MaxQ", "Loop", "load_dataset", "make_environment"),
        )
    }
    return {name: set(inspect.signature(owner).parameters) for name, owner in owners.items()}


def test_no_flag_sets_what_gin_sets():
    """`dataset` and `smoke` are shorthands for bindings; `seed` counts runs and cannot be bound (see below)."""
    ours = {"gin_file", "gin_bindings", "root_dir", "seed", "dataset", "env", "smoke", "estimate"}
    assert flag_names("train") == ours | {"import", "debug"}
    everything = set().union(*bindable().values())
    assert ours & everything == {"dataset", "seed", "smoke"}


def test_the_seed_cannot_be_bound():
    bindings = (*NETWORKS, "BRACPlus.seed = 7")
    build(("brac_plus/hopper_medium.gin",), bindings)
    with pytest.raises(UserError, match=r"BRACPlus\.seed = 7"):
        configuration.check_effective(bindings, gin.operative_config_str())


def test_the_agent_passes_no_setting_through():
    """Its parameters are the components; each component's settings are the component's alone."""
    parameters = bindable()
    components = {
        name for owner, names in parameters.items() if owner not in ("Experiment", "BRACPlus") for name in names
    }
    assert parameters["BRACPlus"] & (components - {"task", "source"}) == set()


def test_structures_are_not_confused():
    """Two that differ in more than numbers take steps of their own; there are more than a few."""
    assert structure_of(("brac_p/base.gin",)) != structure_of(("brac_v/base.gin",))
    assert structure_of(("brac_plus/hopper_medium.gin",)) == structure_of(("brac_plus/hopper_random.gin",))
    assert structure_of(("brac_plus/hopper_medium.gin",)) != structure_of(("brac_plus/pen_human.gin",))
    assert len({structure_of(files) for files in COMPLETE}) > 15
