"""Agents with every stage altered: what they are and how they act stays theirs."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import tensorflow as tf

from brac_plus_tf.agents.base import Agent, Draw, Policy, Stage, TransitionSource
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.randomness import Purpose, fold, standard_normal
from brac_plus_tf.core.settings import HyperParameters
from brac_plus_tf.core.types import Transition


class Altered:
    """The agent with another stage in the place of each of its own. agent: that one."""

    def __init__(self, agent: Agent, alter: Callable[[Stage], Stage]) -> None:
        self.agent, self._alter = agent, alter

    def stages(self) -> Sequence[Stage]:
        """What `alter` makes of each."""
        return [self._alter(stage) for stage in self.agent.stages()]

    def components(self) -> dict[str, Sequence[tf.Variable]]:
        """The agent's own."""
        return self.agent.components()

    def buffers(self) -> dict[str, Sequence[tf.Variable]]:
        """The agent's own."""
        return self.agent.buffers()

    def policies(self) -> dict[str, Policy]:
        """The agent's own."""
        return self.agent.policies()


def unaltered(agent: Agent) -> Agent:
    """The agent inside of all alterations, whose networks may be asked for by name."""
    while isinstance(agent, Altered):
        agent = agent.agent
    return agent


@dataclasses.dataclass(frozen=True)
class ObservationNoise(HyperParameters):
    """Of every batch that an agent learns from; see `NoisyObservations`. deviation: in network units, above 0."""

    deviation: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.deviation < math.inf:
            raise UserError(f"observation noise of deviation {self.deviation:g}: it must be above 0 and finite")


class NoisyObservations(Altered):
    """The agent, learning from observations with noise: a policy of few episodes learns what to do beside them, too.

    Every stage's batches get N(0, deviation^2) on each entry of an observation, drawn anew whenever a transition is,
    and the same on its next observation: the whole transition is moved. What is measured between epochs, and the
    policy's own episodes, have none.
    Reference: S4RL (Sinha et al., 2021), zero-mean Gaussian noise.
    """

    def __init__(self, agent: Agent, deviation: float) -> None:
        """Args: deviation: of the noise, in network units: where data are normalised, their own standard deviations.

        Raises:
          UserError: if it is not above 0 and finite; from a stage's `draw`, if its batches are no transitions.
        """
        noise = ObservationNoise(deviation)

        def alter(stage: Stage) -> Stage:
            # its outcome depends on the noise: no other run may take it over
            settings = (*stage.settings, noise)
            return dataclasses.replace(stage, draw=_moved(stage.draw, stage.name, noise), settings=settings)

        super().__init__(agent, alter)


def with_noise(agent: Agent, deviation: float) -> Agent:
    """The agent as it is where deviation is 0, else see `NoisyObservations`."""
    return NoisyObservations(agent, deviation) if deviation else agent


def _moved(draw: Draw, name: str, noise: ObservationNoise) -> Draw:
    def moved(data: TransitionSource, seed: tf.Tensor) -> Transition:
        batch = draw(data, seed)
        if not isinstance(batch, Transition):
            raise UserError(f"stage {name} learns from no batches of transitions: leave observation_noise at 0")
        # a stream of its own: the one that chose the rows would tie each one's noise to its number
        drawn = standard_normal(tf.shape(batch.observation), fold(seed, Purpose.OBSERVATION_NOISE))
        by = noise.deviation * drawn
        return batch._replace(observation=batch.observation + by, next_observation=batch.next_observation + by)

    return moved
