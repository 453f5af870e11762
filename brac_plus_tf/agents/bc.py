"""Behaviour cloning: the data's own policy, the baseline that every offline algorithm must beat."""

from collections.abc import Sequence

import gin
import tensorflow as tf

from brac_plus_tf.agents.actor_critic import gaussian_policies
from brac_plus_tf.agents.base import Agent, Policy, Problem, Stage
from brac_plus_tf.agents.cloning import Cloning
from brac_plus_tf.core.settings import checked


@gin.register
class BC(Agent):
    """A tanh-Gaussian policy fitted to the data's actions; see `Cloning` for its loss and its two forms."""

    @checked
    def __init__(self, problem: Problem, seed: int, *, cloning: Cloning = Cloning()) -> None:
        self.cloned = cloning.build(problem.dimensions, seed)

    def stages(self) -> Sequence[Stage]:
        """One stage, the same that BRAC begins with."""
        return (self.cloned.stage(evaluate=True),)

    def components(self) -> dict[str, Sequence[tf.Variable]]:
        """All variables under stable names."""
        return self.cloned.components()

    def policies(self) -> dict[str, Policy]:
        """mean: tanh of the mean; sample: one draw."""
        return gaussian_policies(self.cloned.network)
