"""ReBRAC (Tarasov et al. 2023): TD3 with squared distances to the data in the policy's loss and in the targets.

Reference: "Revisiting the Minimalist Approach to Offline Reinforcement Learning", and the code of CORL.
"""

import gin
import numpy as np
import tensorflow as tf

from brac_plus_tf.agents.actor_critic import Training
from brac_plus_tf.agents.base import Draw, Problem, TransitionSource
from brac_plus_tf.agents.delayed_policy import DelayedPolicy
from brac_plus_tf.agents.value_learning import Critic
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.settings import checked
from brac_plus_tf.core.types import Metrics, Transition
from brac_plus_tf.data.dataset import OfflineDataset, ends_episode
from brac_plus_tf.models.networks import DeterministicActor, relu_then_normalized
from brac_plus_tf.objectives.losses import imitating_policy_loss


@gin.register
class ReBRAC(DelayedPolicy):
    """A deterministic policy held to the data on both sides; see `DelayedPolicy`.

    policy_penalty, value_penalty: b1 and b2, of sum_i (pi(s) - a)_i^2 in the policy's loss and of
    sum_i (a' - a'_data)_i^2 in the targets, in the rewards' units.
    """

    @checked
    def __init__(
        self,
        problem: Problem,
        seed: int,
        *,
        actor: DeterministicActor = DeterministicActor((256, 256, 256)),
        critic: Critic = Critic((256, 256, 256), learning_rate=1e-3, tau=5e-3, activation=relu_then_normalized),
        training: Training = Training(epochs=1000, batch_size=1024, policy_learning_rate=1e-3),
        policy_penalty: float = 0.01,
        value_penalty: float = 0.01,
        target_noise: float = 0.2,
        noise_clip: float = 0.5,
        policy_delay: int = 2,
    ) -> None:
        super().__init__(problem, seed, actor, critic, training, target_noise, noise_clip, policy_delay)
        self._policy_penalty, self._value_penalty = policy_penalty, value_penalty

    def draw(self, batch_size: int) -> Draw:
        """Rows that the data go on from, or that end their episode: of others the next action is not known."""

        def draw(source: TransitionSource, seed: tf.Tensor) -> Transition:
            if not isinstance(source, OfflineDataset):
                raise UserError("ReBRAC needs what the data did next: it learns from recorded data, not online")
            rows = rows_with_a_next_action(source)
            with tf.init_scope():
                numbers = tf.constant(rows, tf.int32)
            place = tf.random.stateless_uniform([batch_size], seed, 0, len(rows), tf.int32, alg="philox")
            return source.rows(tf.gather(numbers, place))

        return draw

    def next_value(self, batch: Transition, next_action: tf.Tensor) -> tf.Tensor:
        """min_j Q'_j(s', a') - b2 sum_i (a' - a'_data)_i^2 [B]."""
        distance = tf.reduce_sum(tf.square(next_action - batch.next_action), axis=-1)
        return super().next_value(batch, next_action) - self._value_penalty * distance

    def policy_loss(self, batch: Transition, action: tf.Tensor) -> tuple[tf.Tensor, Metrics]:
        """b1 sum_i (pi(s) - a)_i^2 less min_j Q_j over its scale."""
        value = self.pessimistic(self.critic, batch.observation, action)
        error = tf.reduce_sum(tf.square(action - batch.action), axis=-1)
        total = tf.reduce_mean(imitating_policy_loss(value, self._policy_penalty * error, 1.0))
        return total, {"policy_value": tf.reduce_mean(value), "cloning_error": tf.reduce_mean(error)}


def rows_with_a_next_action(data: OfflineDataset) -> np.ndarray:
    """Numbers of the rows whose next action was recorded, or counts for nothing since their episode ended."""
    last = ends_episode(data.places)
    rows = np.flatnonzero(~last | (data.transitions.discount == 0.0))
    if not len(rows):
        raise UserError("ReBRAC: no row of the data says what was done next; store longer episodes")
    return rows
