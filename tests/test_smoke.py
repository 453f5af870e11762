"""Runs cut down to a trial: every agent's stages, and what else is made small."""

import dataclasses
import json

import gin
import pytest
from tiny import CONFIGS, NETWORKS, TinyAgent, values, write_hopper_dataset

from brac_plus_tf.agents.base import Problem
from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.runs import configuration, smoke
from brac_plus_tf.runs.experiment import Experiment, run_experiment
from brac_plus_tf.runs.online import OnlineExperiment
from brac_plus_tf.runs.trainer import Loop

AGENTS = sorted(path.parent.name for path in CONFIGS.glob("*/base.gin"))


@pytest.fixture(autouse=True)
def clean():
    gin.clear_config()
    yield
    gin.clear_config()


def other_fields(stage) -> dict[str, object]:
    kept = [field.name for field in dataclasses.fields(stage) if field.name not in ("steps", "epoch_steps")]
    return {name: getattr(stage, name) for name in kept}


@pytest.mark.parametrize("agent", AGENTS)
def test_every_stage_of_every_agent_is_cut_to_two_epochs_of_four_steps(agent):
    of_a_task = [f"{name} = 1.0" for name in ("AbsoluteThreshold.value", "RelativeThreshold.margin")]
    bindings = [*smoke.bindings(Experiment), "Experiment.dataset = 'd.hdf5'", *NETWORKS, *of_a_task]
    experiment = configuration.build(Experiment, [f"{agent}/base.gin"], bindings)
    assert experiment.run_name == f"{experiment.agent_name}-smoke"
    built = experiment.build_agent(Problem(Dimensions(5, 2)), 0)
    stages = built.stages()
    assert stages and all((stage.steps, stage.epoch_steps) == (8, 4) for stage in stages)
    assert values(built)


def test_all_but_the_length_of_a_stage_stays():
    agent = TinyAgent(steps=(13, 2), epoch_steps=3)
    stages, shortened = agent.stages(), smoke.Shortened(agent).stages()
    assert [(stage.name, stage.steps, stage.epoch_steps) for stage in shortened] == [("first", 6, 3), ("second", 2, 3)]
    for stage, short in zip(stages, shortened, strict=True):
        for name, value in other_fields(stage).items():
            assert callable(value) or getattr(short, name) == value
    (long,) = [stage for stage in TinyAgent(steps=(50, 50), epoch_steps=25).stages() if stage.name == "first"]
    (cut,) = smoke.Shortened(_Only(long)).stages()
    assert other_fields(cut) == other_fields(long)
    assert (cut.steps, cut.epoch_steps) == (8, 4)


class _Only:
    """An agent of one stage."""

    def __init__(self, stage) -> None:
        self._stage = stage

    def stages(self):
        return [self._stage]


@pytest.mark.parametrize(
    ("settings", "given", "expected"),
    [
        (Experiment, [], {"evaluation_episodes": 1, "final_episodes": 2}),
        (Experiment, ["Experiment.final_episodes = 5"], {"evaluation_episodes": 1, "final_episodes": 5}),
        (OnlineExperiment, [], {"total_steps": 16, "random_steps": 8, "final_episodes": 2}),
        (OnlineExperiment, ["OnlineExperiment.total_steps = 40"], {"total_steps": 40, "random_steps": 8}),
    ],
)
def test_what_the_user_binds_wins(settings, given, expected):
    file = "bc/base.gin" if settings is Experiment else "sac/online.gin"
    needed = {Experiment: "Experiment.dataset = 'd'", OnlineExperiment: "OnlineExperiment.environment = 'Hopper-v4'"}
    experiment = configuration.build(settings, [file], [*smoke.bindings(settings), needed[settings], *given])
    assert experiment.smoke and experiment.loop.evaluation_epochs == 1
    assert {name: getattr(experiment, name) for name in expected} == expected


def test_a_smoke_run_has_a_directory_and_a_record_of_its_own(tmp_path):
    source = write_hopper_dataset(tmp_path / "hopper.hdf5")

    def run(smoke: bool):
        loop = Loop(steps_per_call=4, compiled=False)
        experiment = Experiment(
            lambda problem, seed: TinyAgent(problem.dimensions, seed), "tiny", dataset=source, loop=loop
        )
        experiment = dataclasses.replace(experiment, environment="none", smoke=smoke)
        directory = run_experiment(experiment, tmp_path / "runs", 0)
        facts = json.loads((directory / "run.json").read_text())
        steps = {row.split(",")[0]: row.split(",")[1] for row in (directory / "metrics.csv").read_text().splitlines()}
        return directory.relative_to(tmp_path / "runs" / "hopper").parts, facts["agent"], facts["smoke"], steps

    directory, agent, short, steps = run(True)
    assert (directory, agent, short) == (("tiny-smoke", "0"), "tiny-smoke", True)
    assert (steps["first"], steps["second"]) == ("8", "8")
    directory, agent, short, steps = run(False)
    assert (directory, agent, short) == (("tiny", "0"), "tiny", False)
    assert (steps["first"], steps["second"]) == ("13", "22")
