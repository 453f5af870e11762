"""TD3+BC (Fujimoto and Gu 2021): TD3 whose policy also imitates the data's actions, the two terms kept in proportion.

Reference: "A Minimalist Approach to Offline Reinforcement Learning", and the authors' code.
"""

import gin
import tensorflow as tf

from brac_plus_tf.agents.actor_critic import Training
from brac_plus_tf.agents.base import Problem
from brac_plus_tf.agents.delayed_policy import DelayedPolicy
from brac_plus_tf.agents.value_learning import Critic
from brac_plus_tf.core.settings import checked
from brac_plus_tf.core.types import Metrics, Transition
from brac_plus_tf.models.networks import DeterministicActor
from brac_plus_tf.objectives.losses import imitating_policy_loss


@gin.register
class TD3BC(DelayedPolicy):
    """A deterministic policy between the critics' preference and the data; see `DelayedPolicy`.

    weight: alpha, of the normalised Q beside the squared distance to the data's action.
    """

    @checked
    def __init__(
        self,
        problem: Problem,
        seed: int,
        *,
        actor: DeterministicActor = DeterministicActor((256, 256)),
        critic: Critic = Critic((256, 256), learning_rate=3e-4, tau=5e-3),
        training: Training = Training(epochs=1000, policy_learning_rate=3e-4),
        weight: float = 2.5,
        target_noise: float = 0.2,
        noise_clip: float = 0.5,
        policy_delay: int = 2,
    ) -> None:
        super().__init__(problem, seed, actor, critic, training, target_noise, noise_clip, policy_delay)
        self._weight = weight

    def policy_loss(self, batch: Transition, action: tf.Tensor) -> tuple[tf.Tensor, Metrics]:
        """(pi(s) - a)^2, its mean over entries, less the weighted Q_1 over its scale."""
        # the first critic alone: the smaller of two would switch sides within a batch
        value = self.critic(batch.observation, action)[0]
        error = tf.reduce_mean(tf.square(action - batch.action), axis=-1)
        total = tf.reduce_mean(imitating_policy_loss(value, error, self._weight))
        return total, {"policy_value": tf.reduce_mean(value), "cloning_error": tf.reduce_mean(error)}
