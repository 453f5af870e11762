"""SAC (Haarnoja et al. 2018) with clipped double Q: it has no regard for the data's policy and fails offline.

Also what learns online from a growing buffer: the update is the same.
"""

from collections.abc import Sequence

import gin
import tensorflow as tf

from brac_plus_tf.agents.actor_critic import ActorCritic, MaxQ, Training, draw_policy, entropy_floor, training_stages
from brac_plus_tf.agents.base import Stage
from brac_plus_tf.core.randomness import Purpose, fold
from brac_plus_tf.core.settings import checked
from brac_plus_tf.core.types import Dimensions, Metrics, Transition
from brac_plus_tf.models.networks import Actor, Critic
from brac_plus_tf.models.optimization import gradient_step
from brac_plus_tf.objectives.losses import soft_policy_loss
from brac_plus_tf.objectives.multipliers import Multiplier


@gin.register
class SAC(ActorCritic):
    """Soft actor-critic. entropy: its temperature; minimum_entropy: nats, None stands for -A."""

    @checked
    def __init__(
        self,
        dimensions: Dimensions,
        seed: int,
        *,
        actor: Actor = Actor((200, 200), (-5.0, 0.0)),
        critic: Critic = Critic((300, 300), learning_rate=5e-4, tau=5e-3),
        training: Training = Training(policy_learning_rate=5e-4),
        entropy: Multiplier = Multiplier(initial=1.0, learning_rate=5e-4, minimum=1e-6, logarithmic=True),
        minimum_entropy: float | None = None,
        max_q: MaxQ = MaxQ(),
    ) -> None:
        super().__init__(dimensions, seed, actor, critic, training.policy_learning_rate, max_q)
        self._training = training
        self.temperature = entropy.build()
        self._minimum_entropy = entropy_floor(minimum_entropy, dimensions)

    def stages(self) -> Sequence[Stage]:
        """One stage."""
        return training_stages(self._training, self.watch(), self.update)

    def components(self) -> dict[str, Sequence[tf.Variable]]:
        """All variables under stable names."""
        return super().components() | {"temperature": self.temperature.variables}

    def update(self, batch: Transition, seed: tf.Tensor) -> Metrics:
        """Q, policy, temperature and targets, in this order, on one batch."""
        metrics = self.fit_critic(batch, self._next_value(batch, seed))
        metrics |= self._fit_policy(batch, seed)
        self.follow_targets()
        return metrics

    def _next_value(self, batch: Transition, seed: tf.Tensor) -> tf.Tensor:
        """V(s') = Q'(s', a') - temperature log pi(a'|s'), [B]."""
        draw = draw_policy(self.actor, batch.next_observation, 1, fold(seed, Purpose.TARGET_ACTION))
        return self.target_critic.pessimistic(draw.observation, draw.action) - self.temperature() * draw.log_prob

    def _fit_policy(self, batch: Transition, seed: tf.Tensor) -> Metrics:
        def loss() -> tuple[tf.Tensor, Metrics]:
            draw = draw_policy(self.actor, batch.observation, 1, fold(seed, Purpose.POLICY_ACTION))
            value = self.critic.pessimistic(draw.observation, draw.action)
            total = tf.reduce_mean(soft_policy_loss(value, draw.log_prob, self.temperature()))
            return total, {"policy_value": tf.reduce_mean(value), "entropy": -tf.reduce_mean(draw.log_prob)}

        policy_loss, metrics = gradient_step(loss, self.actor.trainable_variables, self.policy_optimizer)
        self.temperature.ascend(self._minimum_entropy - metrics["entropy"])
        return metrics | {"policy_loss": policy_loss, "temperature": self.temperature()}
