"""A run's agent made anew from its configuration, for what is asked of it beside its policy."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import tensorflow as tf

from brac_plus_tf.agents.altered import unaltered
from brac_plus_tf.agents.base import Agent, named_variables
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.data.dataset import OfflineDataset
from brac_plus_tf.environments.tasks import Task
from brac_plus_tf.runs import configuration
from brac_plus_tf.runs.checkpoints import Checkpoints
from brac_plus_tf.runs.experiment import Experiment, evaluation_task, sources_of

Components = Mapping[str, Sequence[tf.Variable]]


class Rebuilt(NamedTuple):
    """A run's parts. task: what its policy was evaluated in, or None. agent: as built, see `restore`."""

    dataset: OfflineDataset
    task: Task | None
    agent: Agent


def rebuild(run: Path) -> Rebuilt:
    """Reads the run's configuration and data, and builds its agent with its initial weights.

    Raises:
      UserError: if it has no configuration, or its data cannot be read.
    """
    experiment = configuration.build(Experiment, [str(run / "operative_config.gin")], [])
    names = sources_of(experiment.dataset)
    task = evaluation_task(experiment.environment, names)
    dataset = experiment.load_dataset(names, task)
    # what is altered of an agent is how its stages go, and here none is trained
    return Rebuilt(dataset, task, unaltered(experiment.agent_for(dataset, task, 0)))


def restore(run: Path, components: Components) -> None:
    """Loads these of the agent's components from the run's newest checkpoint.

    Raises:
      UserError: if there is none that can be read, or it holds others.
    """
    if Checkpoints(run / "checkpoints").restore(named_variables(components), partly=True) is None:
        raise UserError(f"{run}: has no checkpoint to take its networks from")
