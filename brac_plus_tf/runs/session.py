"""An agent and its data on their way to a policy: trained, judged and exported, by commands and from Python alike."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import gin

from brac_plus_tf.agents.base import Agent, Problem
from brac_plus_tf.core.errors import UserError, plain
from brac_plus_tf.core.randomness import initializer_seed
from brac_plus_tf.core.settings import HyperParameters
from brac_plus_tf.data.dataset import OfflineDataset
from brac_plus_tf.environments.environment import Environment, make_environment
from brac_plus_tf.environments.tasks import Task
from brac_plus_tf.policies.evaluation import Episodes, Evaluator, report
from brac_plus_tf.policies.saved_policy import DeployedPolicy
from brac_plus_tf.runs import trainer
from brac_plus_tf.runs.facts import host_facts
from brac_plus_tf.runs.outcome import finish, snapshots, summary
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
    action: which of the agent's ways to act is evaluated, and comes first in what is exported; or what names it once
      the data are measured, such as `@by_skills`.
    smoke: a trial of a few steps, in a directory of its own; SMOKE: what else --smoke sets, unless the user does.
    """

    SMOKE: ClassVar[dict[str, object]] = {"evaluation_episodes": 1, "final_episodes": 2}

    agent: Callable[[Problem, int], Agent] = gin.REQUIRED
    agent_name: str = gin.REQUIRED
    make_environment: Callable[[Task], Environment] = make_environment
    evaluation_episodes: int = 10
    final_episodes: int = 100
    action: str | Callable[[], str] = "mean"
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

    @property
    def way_to_act(self) -> str:
        """The name that `action` gives."""
        return self.action() if callable(self.action) else self.action

    def build_agent(self, problem: Problem, seed: int) -> Agent:
        """Raises UserError for what the agent refuses, before anything is written."""
        try:
            agent = self.agent(problem, seed)
            agent.stages()
            action = self.way_to_act
        except (TypeError, ValueError, AttributeError, RuntimeError) as error:  # the last is gin's, for what is unbound
            raise UserError(f"{self.agent_name}: these settings do not fit it ({plain(error)})") from error
        if action not in agent.policies():
            setting = f"{type(self).__name__}.action"
            raise UserError(f"{setting}: {action!r} is none of {', '.join(agent.policies())}")
        return Shortened(agent) if self.smoke else agent


class LivePolicyEvaluation:
    """Episodes of the policy being trained, by its first way to act; every evaluation has the same starts."""

    def __init__(self, settings: RunSettings, task: Task, policy: DeployedPolicy, seed: int) -> None:
        self._settings, self._task, self._action = settings, task, policy.actions[0]
        self._way = policy.way(self._action)
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
        return report(episodes, self._task, self.backend, self._action)


def problem_of(dataset: OfflineDataset, task: Task | None) -> Problem:
    """What an agent is told of the data it will learn from."""
    reward = dataset.transitions.reward
    reward_range = (float(reward.min()), float(reward.max()))
    terminals = int((dataset.transitions.discount == 0.0).sum())
    stated, count = dataset.origin.discount, dataset.number_of_transitions
    return Problem(dataset.dimensions, dataset.scaling, task, reward_range, stated, terminals, count)


class Session:
    """An agent about to learn from a dataset. policy: its ways to act, as they are evaluated and exported."""

    def __init__(
        self, settings: RunSettings, agent: Agent, dataset: OfflineDataset, task: Task | None, seed: int
    ) -> None:
        """Args: task: what the policy is evaluated in; None for nothing."""
        self._settings, self._agent, self._dataset, self._task, self._seed = settings, agent, dataset, task, seed
        self.policy = DeployedPolicy(agent, dataset.dimensions, dataset.scaling, settings.way_to_act)
        self._evaluation = LivePolicyEvaluation(settings, task, self.policy, seed) if task else None
        self._facts: dict[str, object] = {}

    def begin(self, directory: Path, cache: Path, configuration: str, fingerprint: str) -> trainer.TrainingRun:
        """What the training loop is to do, in a run directory; where an earlier run was stopped there, it goes on.

        Args:
          cache: directory of the stages that runs may share. configuration: in the form of gin, one setting a line;
            what a directory's run must agree in. fingerprint: of the configuration, whatever the data's path.
        """
        settings, task, evaluation, loop = self._settings, self._task, self._evaluation, self._settings.loop
        record = RunRecord(directory)
        self._facts = {
            "agent": settings.run_name,
            "smoke": settings.smoke,
            "seed": self._seed,
            "environment": {**task.facts(), "backend": evaluation.backend} if task and evaluation else None,
            "action": self.policy.actions[0],
            "dataset": self._dataset.facts(),
            "configuration": fingerprint,
        }
        record.begin(configuration, {**self._facts, "host": host_facts()})
        stages = StageCache(cache, self._agent, self._dataset, self._seed, loop.compiled, loop.steps_per_call)
        progress = TrainingProgress(settings.evaluation_episodes)
        evaluate = evaluation.intermediate if evaluation else None
        snapshot = snapshots(self.policy, record, self._facts)
        return trainer.TrainingRun(
            self._agent, self._dataset, record, stages, evaluate, self._seed, loop, progress, snapshot
        )

    def finish(self, trained: trainer.TrainingRun) -> None:
        """Evaluates and exports the last policy, and says what came of it."""
        record, episodes = trained.record, self._dataset.episodes
        finish(record, self._evaluation, self.policy, self._facts)
        whole = episodes.returns[episodes.complete]
        trained.progress.say(summary(record.directory, record.warnings, self._task, whole))
