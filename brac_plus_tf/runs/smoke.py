"""A run cut down to a trial of whether everything works, for any agent: it learns nothing and says so by its name."""

import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from brac_plus_tf.agents.base import Agent, Policy, Stage

EPOCHS, EPOCH_STEPS = 2, 4  # of each stage, at most
SUFFIX = "-smoke"


def bindings(settings: type) -> list[str]:
    """gin bindings that make a smoke run of `settings`, an experiment's class; later ones win over them."""
    values = {"smoke": True, **getattr(settings, "SMOKE", {})}
    return [
        *(f"{settings.__name__}.{name} = {value!r}" for name, value in values.items()),
        "Loop.evaluation_epochs = 1",
    ]


class Shortened:
    """The agent with every stage cut to a few steps."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def stages(self) -> Sequence[Stage]:
        """Its stages, two short epochs each; a stage that has less stays as it is."""
        return [_shortened(stage) for stage in self._agent.stages()]

    def components(self) -> dict[str, Sequence[tf.Variable]]:
        """The agent's own."""
        return self._agent.components()

    def buffers(self) -> dict[str, Sequence[tf.Variable]]:
        """The agent's own."""
        return self._agent.buffers()

    def policies(self) -> dict[str, Policy]:
        """The agent's own."""
        return self._agent.policies()


def _shortened(stage: Stage) -> Stage:
    epoch_steps = min(stage.epoch_steps, EPOCH_STEPS)
    return dataclasses.replace(stage, epoch_steps=epoch_steps, steps=min(stage.steps, EPOCHS * epoch_steps))
