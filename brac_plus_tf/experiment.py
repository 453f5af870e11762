"""One experiment: a dataset, an agent, an environment; from the first gradient step to the exported policy."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import gin
import numpy as np
import tensorflow as tf
from absl import logging

from brac_plus_tf import configuration, hdf5_reader, trainer
from brac_plus_tf.agents.base import Agent
from brac_plus_tf.dataset_download import is_dataset_name
from brac_plus_tf.datasets import OfflineDataset, load_dataset
from brac_plus_tf.environments import Environment, make_environment
from brac_plus_tf.evaluation import Episodes, Evaluator
from brac_plus_tf.randomness import initializer_seed
from brac_plus_tf.run_record import RunRecord, host_facts, read_metrics
from brac_plus_tf.saved_policy import DeployedPolicy
from brac_plus_tf.stage_cache import StageCache
from brac_plus_tf.tasks import Task, find_task
from brac_plus_tf.types import Dimensions, UserError


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Experiment:
    """What to train on what, and how to judge it.

    agent: (dimensions, seed) -> agent. agent_name: its directory's name; give variants names of their own.
    dataset: D4RL dataset name or HDF5 paths. environment: "auto" takes the dataset's own, "none" evaluates nothing.
    load_dataset, make_environment: with their settings bound.
    evaluation_episodes, final_episodes: per evaluation during training, and of the last policy.
    action: which of the agent's ways to act is evaluated.
    """

    agent: Callable[[Dimensions, int], Agent] = gin.REQUIRED
    agent_name: str = gin.REQUIRED
    dataset: str | tuple[str, ...] = gin.REQUIRED
    environment: str = "auto"
    load_dataset: Callable[..., OfflineDataset] = load_dataset
    make_environment: Callable[[Task], object] = make_environment
    evaluation_episodes: int = 10
    final_episodes: int = 100
    action: str = "mean"
    loop: trainer.Loop = trainer.Loop()


def run_experiment(experiment: Experiment, root_dir: str, seed: int, bindings: Sequence[str] = ()) -> Path:
    """Trains, evaluates and exports; returns the run directory `{root_dir}/{task}/{agent}/{seed}`.

    Args:
      bindings: gin bindings of the user's that must turn up in the operative configuration.
    Raises:
      UserError: for anything the user can put right.
      trainer.Interrupted: after SIGINT or SIGTERM; the same call goes on where it stopped.
    """
    sources = (experiment.dataset,) if isinstance(experiment.dataset, str) else tuple(experiment.dataset)
    task = find_environment_task(experiment.environment, sources)
    dataset = experiment.load_dataset(sources, task or dataset_task(sources))
    evaluator, backend = None, None
    if task:
        first = experiment.make_environment(task)
        backend = first.backend
        evaluator = Evaluator(lambda: experiment.make_environment(task), task.horizon)
    agent = experiment.agent(dataset.dimensions, seed)
    policy = DeployedPolicy(agent, dataset.dimensions, dataset.scaling)
    if experiment.action not in policy.act:
        raise UserError(f"Experiment.action: {experiment.action!r} is none of {', '.join(policy.act)}")

    record = RunRecord(Path(root_dir) / task_label(sources) / experiment.agent_name / str(seed))
    operative_config = gin.operative_config_str()
    configuration.check_effective(bindings, operative_config)
    facts = {
        "seed": seed,
        "dataset": {
            "files": [Path(file).name for file in dataset.files],
            "sha256": dataset.sha256,
            "rows": list(dataset.row_counts),
            "transitions": dataset.number_of_transitions,
        },
        "environment": {"task": task.name, "backend": backend} if task else None,
        "agent": experiment.agent_name,
        "action": experiment.action,
        "host": host_facts(),
    }
    record.begin(operative_config, facts)
    if not evaluator:
        logging.warning("no environment: the policy is trained and exported, but not evaluated")

    def act(observation: np.ndarray, counter: int) -> np.ndarray:
        return policy.act[experiment.action](tf.constant(observation), tf.constant(counter)).numpy()

    def evaluate() -> dict[str, float]:
        return evaluator.run(act, experiment.evaluation_episodes, evaluation_seed(seed)).summary(task)

    cache = StageCache(Path(root_dir) / "stage_cache", agent, dataset, seed, experiment.loop.compiled)
    trainer.run(agent, dataset, record, cache, evaluate if evaluator else None, seed, experiment.loop)
    results = None
    if evaluator and not (record.directory / "evaluation.json").exists():
        episodes = evaluator.run(act, experiment.final_episodes, evaluation_seed(seed), progress=True)
        results = evaluation_report(episodes, task, backend, experiment.action)
        results["last_evaluations"] = last_evaluations(record.directory)
        record.write_json("evaluation.json", results)
    if not (record.directory / "saved_model").exists():
        policy.save(record.directory / "saved_model", {"environment": facts["environment"], "agent": experiment.agent_name})
    return record.directory


def find_environment_task(environment: str, sources: Sequence[str]) -> Task | None:
    """The task to evaluate in: as named, or with "auto" the dataset's own; None where there is none."""
    if environment == "none":
        return None
    if environment != "auto":
        return find_task(environment)
    if is_dataset_name(sources[0]):
        return find_task(sources[0])
    recorded = hdf5_reader.environment_id(sources[0])
    return find_task(recorded) if recorded else None


def dataset_task(sources: Sequence[str]) -> Task | None:
    """The task that gives action bounds and horizon where no environment is used."""
    return find_environment_task("auto", sources)


def task_label(sources: Sequence[str]) -> str:
    """The directory name of a dataset: its D4RL name, or its files' stems joined."""
    return "+".join(source if is_dataset_name(source) else Path(source).stem for source in sources)


def evaluation_seed(seed: int) -> int:
    """Episodes' seeds are apart from training's."""
    return initializer_seed(seed, "evaluation")


def evaluation_report(episodes: object, task: Task, backend: str, action: str) -> dict[str, object]:
    """evaluation.json's content: summary, every episode's return, and where it came from."""
    report = {
        "task": task.name,
        "backend": backend,
        "action": action,
        "episodes": len(episodes.returns),
        **episodes.summary(task),
        "returns": episodes.returns.tolist(),
        "lengths": episodes.lengths.tolist(),
    }
    if task.reference_score is not None:
        report["scores"] = np.asarray(task.normalized_score(episodes.returns)).tolist()
    return report


def last_evaluations(directory: Path, count: int = 10) -> dict[str, float]:
    """Means of the last `count` evaluations during training; single evaluations swing by several points."""
    rows: dict[str, list[float]] = {}
    for row in read_metrics(directory):
        if row.metric.startswith("evaluation/"):
            rows.setdefault(row.metric.removeprefix("evaluation/"), []).append(row.value)
    return {"count": min(count, *(len(values) for values in rows.values())) if rows else 0} | {
        key: float(np.mean(values[-count:])) for key, values in rows.items()
    }
