"""A policy with a state that a few lines of NumPy repeat."""

import numpy as np
import tensorflow as tf
from tiny import TinyAgent

from brac_plus_tf.agents.base import Policy


class RememberingAgent(TinyAgent):
    """`plan` acts by tanh(average of the episode's observations so far, first A entries, + 0.1 times its steps).

    The state is nested, of two types: {"average": ([N, A] float32,), "steps": [N] int32}; an average begins at 0.25.
    """

    def policies(self) -> dict[str, Policy]:
        size = self._action

        def act(observation, state, noise):
            (average,), steps = state["average"], state["steps"]
            average = 0.5 * average + 0.5 * observation[:, :size]
            following = {"average": (average,), "steps": steps + 1}
            return tf.tanh(average + 0.1 * tf.cast(steps, tf.float32)[:, None]), following

        def initial_state(count):
            return {"average": (tf.fill([count, size], 0.25),), "steps": tf.zeros([count], tf.int32)}

        return {"plan": Policy(act, initial_state), **super().policies()}


def remembered(observations: np.ndarray, action_size: int) -> np.ndarray:
    """The actions [T, A] of one episode's observations [T, O], in float64."""
    average, actions = np.full(action_size, 0.25), []
    for step, observation in enumerate(observations.astype(np.float64)):
        average = 0.5 * average + 0.5 * observation[:action_size]
        actions.append(np.tanh(average + 0.1 * step))
    return np.array(actions)
