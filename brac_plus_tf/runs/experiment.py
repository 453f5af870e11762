"""One experiment: a dataset, an agent, an environment; from the first gradient step to the exported policy."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import gin
from absl import logging

from brac_plus_tf.agents.base import Agent, Problem
from brac_plus_tf.core.errors import UserError, plain
from brac_plus_tf.core.randomness import initializer_seed
from brac_plus_tf.core.settings import HyperParameters
from brac_plus_tf.data.dataset import OfflineDataset
from brac_plus_tf.data.loading import load_dataset
from brac_plus_tf.data.sources import dataset_task, source_label
from brac_plus_tf.environments.environment import Environment, make_environment
from brac_plus_tf.environments.tasks import Task
from brac_plus_tf.policies.evaluation import Episodes, Evaluator, report
from brac_plus_tf.policies.saved_policy import DeployedPolicy
from brac_plus_tf.runs import configuration, trainer
from brac_plus_tf.runs.facts import host_facts
from brac_plus_tf.runs.outcome import finish, summary
from brac_plus_tf.runs.progress import TrainingProgress
from brac_plus_tf.runs.run_record import RunRecord
from brac_plus_tf.runs.smoke import SUFFIX, Shortened
from brac_plus_tf.runs.stage_cache import StageCache


@dataclasses.dataclass(frozen=True)
class RunSettings(HyperParameters):
    """What every run has, on recorded data or online.

    agent: (problem, seed) -> agent. agent_name: its directory's name; give variants names of their own.
    make_environment: with its settings bound.
    evaluation_episodes, final_episodes: per evaluation during training, and of the last policy.
    action: which of the agent's ways to act is evaluated.
    smoke: a trial of a few steps, in a directory of its own; SMOKE: what else --smoke sets, unless the user does.
    """

    SMOKE: ClassVar[dict[str, object]] = {"evaluation_episodes": 1, "final_episodes": 2}

    agent: Callable[[Problem, int], Agent] = gin.REQUIRED
    agent_name: str = gin.REQUIRED
    make_environment: Callable[[Task], Environment] = make_environment
    evaluation_episodes: int = 10
    final_episodes: int = 100
    action: str = "mean"
    loop: trainer.Loop = trainer.Loop()
    smoke: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("evaluation_episodes", "final_episodes"):
            if getattr(self, name) < 1:
                setting = f"{type(self).__name__}.{name}"
                raise UserError(f"{setting} is {getattr(self, name)}: at least 1, or environment = 'none'")

    @property
    def run_name(self) -> str:
        """Name of the agent's directory: a smoke run never shares one with a run in earnest."""
        return f"{self.agent_name}{SUFFIX}" if self.smoke else self.agent_name

    def build_agent(self, problem: Problem, seed: int) -> Agent:
        """Raises UserError for what the agent refuses, before anything is written."""
        try:
            agent = self.agent(problem, seed)
            agent.stages()
        except (TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{self.agent_name}: these settings do not fit it ({plain(error)})") from error
        if self.action not in agent.policies():
            setting = f"{type(self).__name__}.action"
            raise UserError(f"{setting}: {self.action!r} is none of {', '.join(agent.policies())}")
        return Shortened(agent) if self.smoke else agent


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Experiment(RunSettings):
    """What to train on what, and how to judge it; see `RunSettings`.

    dataset: D4RL dataset name, HDF5 paths or `minari:ID`. environment: "auto" takes the dataset's own, "none" evaluates
    nothing.
    load_dataset: with its settings bound.
    """

    dataset: str | tuple[str, ...] = gin.REQUIRED
    environment: str = "auto"
    load_dataset: Callable[..., OfflineDataset] = load_dataset

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.dataset:
            raise UserError("Experiment.dataset is empty: name a D4RL dataset, HDF5 files or minari:ID")


class LivePolicyEvaluation:
    """Episodes of the policy being trained, in one task's environment; every evaluation has the same starts."""

    def __init__(self, settings: RunSettings, task: Task, policy: DeployedPolicy, seed: int) -> None:
        self._settings, self._task, self._way = settings, task, policy.way(settings.action)
        self._seed = initializer_seed(seed, "evaluation")
        self._evaluator = Evaluator(lambda: settings.make_environment(task), task.horizon)
        self.backend: str = settings.make_environment(task).backend

    def _episodes(self, count: int, progress: bool) -> Episodes:
        return self._evaluator.run(self._way, count, self._seed, progress)

    def intermediate(self) -> dict[str, float]:
        """Summary of the few episodes that training affords now and then."""
        return self._episodes(self._settings.evaluation_episodes, progress=False).summary(self._task)

    def final(self) -> dict[str, object]:
        """evaluation.json's content for the last policy."""
        episodes = self._episodes(self._settings.final_episodes, progress=True)
        return report(episodes, self._task, self.backend, self._settings.action)


def run_experiment(experiment: Experiment, root_dir: str | Path, seed: int, bindings: Sequence[str] = ()) -> Path:
    """Trains, evaluates and exports; returns the run directory `{root_dir}/{task}/{agent}/{seed}`.

    Args:
      bindings: gin bindings of the user's that must turn up in the operative configuration.
    Raises:
      UserError: for anything the user can put right.
      Interrupted: after SIGINT or SIGTERM; the same call goes on where it stopped.
    """
    names = (experiment.dataset,) if isinstance(experiment.dataset, str) else tuple(experiment.dataset)
    task = evaluation_task(experiment.environment, names)
    dataset = experiment.load_dataset(names, task)
    # where nothing is evaluated, what the data say of their task still counts
    agent = experiment.build_agent(problem_of(dataset, task or dataset_task(names[0])), seed)
    policy = DeployedPolicy(agent, dataset.dimensions, dataset.scaling)
    evaluation = LivePolicyEvaluation(experiment, task, policy, seed) if task else None
    operative_config = gin.operative_config_str()
    configuration.check_effective(bindings, operative_config)
    record = RunRecord(Path(root_dir) / task_label(names) / experiment.run_name / str(seed))
    environment = {**task.facts(), "backend": evaluation.backend} if task and evaluation else None
    facts = {
        "agent": experiment.run_name,
        "smoke": experiment.smoke,
        "seed": seed,
        "environment": environment,
        "dataset": dataset.facts(),
        "configuration": configuration.fingerprint(),
    }
    record.begin(operative_config, {**facts, "host": host_facts()})
    if evaluation is None:
        logging.warning("no environment: the policy is trained and exported, but not evaluated")

    loop = experiment.loop
    cache = StageCache(Path(root_dir) / "stage_cache", agent, dataset, seed, loop.compiled, loop.steps_per_call)
    progress = TrainingProgress(experiment.evaluation_episodes)
    evaluate = evaluation.intermediate if evaluation else None
    trainer.run(agent, dataset, record, cache, evaluate, seed, loop, progress)
    finish(record, evaluation, policy, facts)
    progress.say(summary(record.directory, record.warnings, task, dataset.episodes.returns[dataset.episodes.complete]))
    return record.directory


def problem_of(dataset: OfflineDataset, task: Task | None) -> Problem:
    """What an agent is told of the data it will learn from."""
    reward = dataset.transitions.reward
    return Problem(dataset.dimensions, dataset.scaling, task, (float(reward.min()), float(reward.max())))


def evaluation_task(environment: str, names: Sequence[str]) -> Task | None:
    """The task to evaluate in: as named, with "auto" the dataset's own, with "none" nothing."""
    if environment == "none":
        return None
    return dataset_task(names[0], None if environment == "auto" else environment)


def task_label(names: Sequence[str]) -> str:
    """The directory name of a dataset: the labels of what it is made of, joined."""
    return "+".join(map(source_label, names))
