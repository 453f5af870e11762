"""Policies of finished runs, and of exports, judged by the data that gin files name."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gin

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.data.loading import load_dataset
from brac_plus_tf.data.sources import dataset_task
from brac_plus_tf.estimation.estimate import Estimation, Terms, estimate, report_lines
from brac_plus_tf.estimation.model_rollouts import has_model, load_model
from brac_plus_tf.policies.saved_policy import LoadedPolicy
from brac_plus_tf.runs import configuration
from brac_plus_tf.runs.experiment import Experiment, sources_of
from brac_plus_tf.runs.facts import read_facts
from brac_plus_tf.runs.finished import saved_model
from brac_plus_tf.runs.trainer import Loop

FILE = "estimate.json"


@dataclasses.dataclass(frozen=True)
class Question:
    """What every policy is judged by, besides its data.

    sources: of the data; empty for those that the run has learned from. environment: the task whose data they are,
    "none" for an unknown one, empty for what they say themselves. action: the way to act, empty for the one that a run
    was evaluated by, or an export's first. bindings: gin's, of the user. model: a run of mopo or mbop whose model gives
    a second opinion; where the judged run has one itself, none need be named.
    """

    sources: tuple[str, ...] = ()
    environment: str = ""
    action: str = ""
    seed: int = 0
    bindings: tuple[str, ...] = ()
    model: Path | None = None


def estimate_run(
    run: Path, question: Question, directory: Path | None = None, policy: Path | None = None
) -> dict[str, Any]:
    """The judgement of a run's policy, kept in `directory`, without one in the run itself.

    Args:
      policy: the export that is judged; None for the run's last.
    Raises:
      UserError: if there is no such policy, its data cannot be read, or it cannot be judged by them.
    """
    facts = read_facts(run)
    if not question.action:
        question = dataclasses.replace(question, action=str(facts.get("action") or ""))
    policy = policy or saved_model(run)
    loaded = LoadedPolicy(policy)
    own = str(run / "operative_config.gin")  # which says how its data are read
    cache = (directory.parent if directory else run.parents[2]) / "stage_cache"
    place = run / "estimate" if policy == run / "saved_model" else run / f"estimate-{policy.name}"
    if not question.model and has_model(run) and not facts.get("smoke"):
        question = dataclasses.replace(question, model=run)
    return _judge([own], loaded, question, directory or place, cache, bool(facts.get("smoke")))


def judge_finished(run: Path, question: Question) -> str:
    """Lines on a run that has just ended: its judgement, or why there is none. It is no failure of the run."""
    try:
        return report_lines(estimate_run(run, question))
    except UserError as error:
        return f"no estimate: {error}"


def estimate_policy(policy: Path | None, question: Question, directory: Path) -> dict[str, Any]:
    """The judgement of an exported policy, None for a cloned one, kept in `directory`."""
    loaded = LoadedPolicy(policy) if policy else None
    return _judge([], loaded, question, directory, directory.parent / "stage_cache", smoke=False)


def read_estimate(run: Path) -> dict[str, Any] | None:
    """What `estimate_run` has kept in the run; None if there is nothing.

    Raises:
      UserError: if it is not JSON.
    """
    path = run / "estimate" / FILE
    if not path.exists():
        return None
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}); remove it and estimate again") from error
    return content


def _judge(
    files: Sequence[str], policy: LoadedPolicy | None, question: Question, directory: Path, cache: Path, smoke: bool
) -> dict[str, Any]:
    model = load_model(question.model) if question.model else None
    configuration.parse([*files, "estimate.gin"], question.bindings)
    names = sources_of(question.sources or gin.query_parameter(f"{Experiment.__name__}.dataset"))
    task = None if question.environment == "none" else dataset_task(names[0], question.environment or None)
    dataset = gin.get_configurable(load_dataset)(names, task)
    settings, loop = gin.get_configurable(Estimation)(), gin.get_configurable(Loop)()
    configuration.check_effective(question.bindings, gin.operative_config_str())
    terms = Terms(question.action or None, question.seed, settings, loop, smoke, model)
    return estimate(directory, cache, dataset, policy, terms)
