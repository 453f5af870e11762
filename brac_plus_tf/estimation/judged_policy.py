"""The policy that is judged: whether data can judge it, and what it does in their states."""

import numpy as np
import tensorflow as tf

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.randomness import fold, initializer_seed
from brac_plus_tf.data.dataset import OfflineDataset
from brac_plus_tf.estimation.fitted_q import starts_of
from brac_plus_tf.policies.acting import Acting

ROWS = 50_000  # actions asked for at once


def check_judgeable(policy: Acting, action: str, dataset: OfflineDataset) -> None:
    """Raises UserError if recorded data cannot say what a way to act of a policy earns."""
    if policy.dimensions != dataset.dimensions:
        raise UserError(f"the policy is for {policy.dimensions}, the data hold {dataset.dimensions}")
    if policy.way(action).initial_state(1):
        raise UserError(
            f"the way to act {action!r} remembers its episode: what it would do in a recorded state is not known; "
            f"choose another with --action ({', '.join(policy.actions)})"
        )
    starts_of(dataset)


class JudgedPolicy:
    """Actions of a policy from anywhere, asked for once, at all states that are needed."""

    def __init__(self, policy: Acting, action: str, dataset: OfflineDataset, draws: int, seed: int) -> None:
        way = policy.way(action)
        self._way, self._dataset, self._seed = way, dataset, seed
        observation = dataset.transitions.next_observation
        once, again = self._ask(observation, 0), self._ask(observation, 1) if draws > 1 else None
        if again is None or np.array_equal(once, again):  # no draw: one is all there is to know
            self._table = once[None]
        else:
            self._table = np.stack([once, again, *(self._ask(observation, draw) for draw in range(2, draws))])

    def _ask(self, observation: np.ndarray, draw: int) -> np.ndarray:
        """Actions in network units at observations [N, O] in network units."""
        scaling, found = self._dataset.scaling, []
        for first in range(0, len(observation), ROWS):
            rows = scaling.to_environment_observation(observation[first : first + ROWS])
            seeds = initializer_seed(self._seed, f"actions {draw}") % 2**20 + first + np.arange(len(rows))
            action, _ = self._way.act(np.asarray(rows, np.float32), (), seeds.astype(np.int32))
            found.append(scaling.from_environment_action(action))
        return np.concatenate(found).astype(np.float32)

    def next_action(self, row: tf.Tensor, observation: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """One of the draws for each row's next state."""
        del observation
        with tf.init_scope():
            table = tf.constant(self._table.reshape(-1, self._table.shape[-1]))
        draw = tf.random.stateless_uniform(tf.shape(row), fold(seed, 0), 0, len(self._table), tf.int32, alg="philox")
        return tf.gather(table, draw * self._table.shape[1] + row)

    def first_action(self, observation: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """At the starts of episodes."""
        del seed
        return tf.convert_to_tensor(self._ask(observation.numpy(), 0))

    def act(self, observation: np.ndarray, step: int) -> np.ndarray:
        """Actions at observations [N, O], both in the environment's units."""
        seeds = initializer_seed(self._seed, f"actions at step {step}") % 2**20 + np.arange(len(observation))
        return self._way.act(np.asarray(observation, np.float32), (), seeds.astype(np.int32))[0]

    def distance(self) -> float:
        """Of its actions from those of the data in the same states: see `distance_between`."""
        transitions = self._dataset.transitions
        return distance_between(self._ask(transitions.observation, 0), transitions.action)


def distance_between(action: np.ndarray, recorded: np.ndarray) -> float:
    """Root mean square over rows and entries, in halves of the action's range."""
    return float(np.sqrt(np.mean(np.square(action.astype(np.float64) - recorded))))
