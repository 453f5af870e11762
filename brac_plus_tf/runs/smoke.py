"""A run cut down to a trial of whether everything works, for any agent: it learns nothing and says so by its name."""

import dataclasses

from brac_plus_tf.agents.altered import Altered
from brac_plus_tf.agents.base import Agent, Stage

EPOCHS, EPOCH_STEPS = 2, 4  # of each stage, at most
SUFFIX = "-smoke"


def bindings(settings: type) -> list[str]:
    """gin bindings that make a smoke run of `settings`, an experiment's class; later ones win over them."""
    values = {"smoke": True, **getattr(settings, "SMOKE", {})}
    return [
        *(f"{settings.__name__}.{name} = {value!r}" for name, value in values.items()),
        "Loop.evaluation_epochs = 1",
    ]


class Shortened(Altered):
    """The agent with every stage cut to two short epochs; a stage that has less stays as it is."""

    def __init__(self, agent: Agent) -> None:
        super().__init__(agent, _shortened)


def _shortened(stage: Stage) -> Stage:
    epoch_steps = min(stage.epoch_steps, EPOCH_STEPS)
    return dataclasses.replace(stage, epoch_steps=epoch_steps, steps=min(stage.steps, EPOCHS * epoch_steps))
