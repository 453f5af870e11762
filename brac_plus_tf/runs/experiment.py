"""One experiment as gin files describe it: a dataset, an agent, an environment."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import gin
from absl import logging

from brac_plus_tf.agents.altered import with_noise
from brac_plus_tf.agents.base import Agent
from brac_plus_tf.core.errors import UserError, plain
from brac_plus_tf.core.extras import MissingPackageError
from brac_plus_tf.data.dataset import OfflineDataset
from brac_plus_tf.data.loading import load_dataset
from brac_plus_tf.data.sources import dataset_task, source_label
from brac_plus_tf.environments.tasks import Task
from brac_plus_tf.runs import configuration, trainer
from brac_plus_tf.runs.facts import recorded_data
from brac_plus_tf.runs.measured import measure
from brac_plus_tf.runs.session import RunSettings, Session, problem_of


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Experiment(RunSettings):
    """What to train on what, and how to judge it; see `RunSettings`.

    dataset: D4RL dataset name, HDF5 paths or `minari:ID`. environment: "auto" takes the dataset's own, "none" evaluates
    nothing.
    load_dataset: with its settings bound. observation_noise: standard deviation, in network units, of the noise that
    the agent learns with, 0 for none; see `NoisyObservations`.
    """

    dataset: str | tuple[str, ...] = gin.REQUIRED
    environment: str = "auto"
    load_dataset: Callable[..., OfflineDataset] = load_dataset
    observation_noise: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.dataset:
            raise UserError("Experiment.dataset is empty: name a D4RL dataset, HDF5 files or minari:ID")
        if not 0.0 <= self.observation_noise < math.inf:
            raise UserError(f"Experiment.observation_noise is {self.observation_noise:g}: it must be at least 0 (none)")

    def agent_for(self, dataset: OfflineDataset, task: Task | None, seed: int) -> Agent:
        """An untrained agent for the data, which settings may depend on; see `measured` and `build_agent`."""
        measure(dataset)
        # where nothing is evaluated, what the data say of their task still counts
        agent = self.build_agent(problem_of(dataset, task or dataset_task(sources_of(self.dataset)[0])), seed)
        return with_noise(agent, self.observation_noise)


def run_experiment(experiment: Experiment, root_dir: str | Path, seed: int, bindings: Sequence[str] = ()) -> Path:
    """Trains, evaluates and exports; returns the run directory `{root_dir}/{task}/{agent}/{seed}`.

    Args:
      bindings: gin bindings of the user's that must turn up in the operative configuration.
    Raises:
      UserError: for anything the user can put right.
      Interrupted: after SIGINT or SIGTERM; the same call goes on where it stopped.
    """
    names = sources_of(experiment.dataset)
    task = evaluation_task(experiment.environment, names)
    dataset = experiment.load_dataset(names, task)
    fingerprint = configuration.fingerprint()  # of what was given, without what is measured
    agent = experiment.agent_for(dataset, task, seed)
    try:
        session = Session(experiment, agent, dataset, task, seed)
    except MissingPackageError as error:
        raise UserError(f"{plain(error)}; or train without a score: --env=none") from error
    operative_config = gin.operative_config_str()
    configuration.check_effective(bindings, operative_config)
    directory = Path(root_dir) / task_label(names) / experiment.run_name / str(seed)
    if task is None:
        logging.warning("no environment: the policy is trained and exported, but not evaluated")
    training_run = session.begin(directory, Path(root_dir) / "stage_cache", operative_config, fingerprint)
    trainer.run(training_run)
    session.finish(training_run)
    return directory


def run_data(run: Path) -> OfflineDataset:
    """The data that a run has learned from, in the environment's units.

    A run may come from elsewhere: its configuration is searched for their names; parsing it could import modules.

    Raises:
      UserError: if it has learned from none, or they cannot be read.
    """
    try:
        names = sources_of(recorded_data((run / "operative_config.gin").read_text()))
    except (OSError, ValueError, SyntaxError, TypeError) as error:
        raise UserError(f"{run}: its configuration does not name its data ({error})") from error
    if not names:
        raise UserError(f"{run}: it has not learned from recorded data")
    return load_dataset(names, dataset_task(names[0]), rewards=None)


def sources_of(dataset: str | Sequence[str]) -> tuple[str, ...]:
    """The sources that `Experiment.dataset` names, one or several."""
    return (dataset,) if isinstance(dataset, str) else tuple(dataset)


def evaluation_task(environment: str, names: Sequence[str]) -> Task | None:
    """The task to evaluate in: as named, with "auto" the dataset's own, with "none" nothing."""
    if environment == "none":
        return None
    return dataset_task(names[0], None if environment == "auto" else environment)


def task_label(names: Sequence[str]) -> str:
    """The directory name of a dataset: the labels of what it is made of, joined."""
    return "+".join(map(source_label, names))
