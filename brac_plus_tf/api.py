"""Training, judging and acting from Python: what the commands do, with objects in the place of files and flags.

Everything public is a name of the package itself: `import brac_plus_tf as bp`.
"""

import dataclasses
import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from brac_plus_tf.agents.altered import with_noise
from brac_plus_tf.agents.base import Agent, Problem, Stage
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.settings import describe
from brac_plus_tf.data.dataset import OfflineDataset
from brac_plus_tf.environments.environment import make_environment
from brac_plus_tf.environments.tasks import find_task
from brac_plus_tf.policies.acting import Acting
from brac_plus_tf.policies.evaluation import Episodes, Evaluator
from brac_plus_tf.policies.saved_policy import DeployedPolicy
from brac_plus_tf.runs import trainer
from brac_plus_tf.runs.metrics_log import MetricRow, read_metrics
from brac_plus_tf.runs.session import RunSettings, Session, problem_of
from brac_plus_tf.runs.trainer import Loop


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained agent. directory: what the command `train` would have left, which goes with this object if none was
    named. policy: acts, and can be saved. evaluation: evaluation.json's content, None without an environment.
    """

    agent: Agent
    policy: DeployedPolicy
    directory: Path
    evaluation: Mapping[str, Any] | None
    _keeps: object = dataclasses.field(default=None, repr=False, compare=False)

    @property
    def metrics(self) -> list[MetricRow]:
        """What was measured while it was trained, in order: stage, step, metric, value."""
        return list(read_metrics(self.directory))

    def curve(self, metric: str, stage: str | None = None) -> tuple[list[int], list[float]]:
        """Steps and values of a metric; of one stage, or of all, whose steps each begin at 0."""
        rows = [row for row in self.metrics if row.metric == metric and stage in (None, row.stage)]
        return [row.step for row in rows], [row.value for row in rows]

    def __repr__(self) -> str:
        kind = "score" if self.evaluation and "score_mean" in self.evaluation else "return"
        score = f"{kind} {self.evaluation[f'{kind}_mean']:.1f}" if self.evaluation else "not evaluated"
        return f"Run({type(self.agent).__name__}, {score}, {self.directory})"


def build(agent: Callable[..., Agent], dataset: OfflineDataset, seed: int = 0, **settings: object) -> Agent:
    """An untrained agent for a dataset.

    Args:
      agent: its class, such as `BRACPlus`, or anything that makes one of (problem, seed). settings: its constructor's,
        most of them objects such as `Critic`; what is not given is as in the algorithm's own paper.
    Raises:
      UserError: for settings that it refuses.
    """
    return agent(problem_of(dataset, None), seed, **settings)


def train(
    agent: Agent,
    dataset: OfflineDataset,
    seed: int = 0,
    directory: str | Path | None = None,
    environment: str | None = None,
    observation_noise: float = 0.0,
    **settings: Any,
) -> Run:
    """Trains an agent through all its stages by the loop that the command uses, and evaluates its last policy.

    Args:
      agent: as `build` made it. seed: of batches and noise. directory: where checkpoints, metrics and the exported
        policy are kept; called again with the same arguments, training goes on where it was stopped. None: nowhere.
      environment: a task's or gymnasium's name to evaluate in; None for nothing. observation_noise: standard deviation,
        in network units, of the noise that the agent learns with; see `NoisyObservations`.
      settings: of `RunSettings`: evaluation_episodes, final_episodes, action, loop (a `Loop`), agent_name.
    Raises:
      UserError: for anything the caller can put right.
      Interrupted: after Ctrl-C, once the state is saved.
    """
    settings = {"agent_name": type(agent).__name__, "action": next(iter(agent.policies()))} | settings
    run_settings = RunSettings(agent=lambda problem, seed: agent, **settings)
    task = None if environment is None else find_task(environment)
    kept = tempfile.TemporaryDirectory(prefix="brac_plus_tf_") if directory is None else None
    place = Path(kept.name if kept else directory or "")
    learning = with_noise(agent, observation_noise)
    session = Session(run_settings, learning, dataset, task, seed)
    configuration = _configuration(agent, learning.stages(), run_settings.loop)
    fingerprint = hashlib.sha256(configuration.encode()).hexdigest()
    training_run = session.begin(place, place / "stages", configuration, fingerprint)
    trainer.run(training_run)
    session.finish(training_run)
    evaluation = json.loads((place / "evaluation.json").read_text()) if task else None
    return Run(agent, session.policy, place, evaluation, kept)


def _configuration(agent: Agent, stages: Sequence[Stage], loop: Loop) -> str:
    """One setting a line, as a run that goes on must have them again. Args: stages: as the agent goes through them."""
    name = type(agent).__name__
    given: Mapping[str, object] = getattr(agent, "settings", {})
    lines = [f"{name}.{key} = {describe(value)!r}" for key, value in given.items()]
    lines += [f"{name}.{stage.name} = {stage.steps, describe(stage.settings)!r}" for stage in stages]
    return "\n".join([*lines, f"Loop = {describe(loop)!r}"]) + "\n"


def evaluate(
    policy: Acting, environment: str, episodes: int = 100, seed: int = 0, action: str | None = None, gamma: float = 1.0
) -> Episodes:
    """Returns and lengths of episodes of a policy; episode number i begins from (seed, i), whatever their number.

    Args:
      environment: a task's or gymnasium's name. action: which of the policy's ways to act; None for its default.
        gamma: discount of the returns; what `estimate` foretells is discounted by 0.99.
    Raises:
      UserError: if there is no such environment, or the policy does not fit it.
    """
    task = find_task(environment)
    if policy.dimensions != task.dimensions:
        raise UserError(f"{policy!r} does not fit {task.name}, which has {task.dimensions}")
    way = policy.way(action or policy.actions[0])
    return Evaluator(lambda: make_environment(task), task.horizon).run(way, episodes, seed, gamma=gamma)


__all__ = ["Problem", "Run", "build", "evaluate", "train"]
