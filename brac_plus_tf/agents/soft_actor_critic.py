"""The losses of SAC (Haarnoja et al. 2018) with clipped double Q, as a part that several algorithms build on."""

from collections.abc import Sequence

import tensorflow as tf

from brac_plus_tf.agents.actor_critic import ActorCritic, MaxQ, Training, draw_policy, entropy_floor
from brac_plus_tf.agents.base import Problem
from brac_plus_tf.agents.value_learning import Critic
from brac_plus_tf.core.randomness import Purpose, fold
from brac_plus_tf.core.types import Metrics, Transition
from brac_plus_tf.models.networks import Actor
from brac_plus_tf.models.optimization import gradient_step
from brac_plus_tf.objectives.losses import soft_policy_loss
from brac_plus_tf.objectives.multipliers import Multiplier


class SoftActorCritic(ActorCritic):
    """Actor-critic under an entropy bonus whose weight, the temperature, holds E[H] above `minimum_entropy`.

    entropy: the temperature. minimum_entropy: nats, of the squashed action; None stands for -A.
    """

    def __init__(
        self,
        problem: Problem,
        seed: int,
        actor: Actor,
        critic: Critic,
        training: Training,
        entropy: Multiplier,
        minimum_entropy: float | None,
        max_q: MaxQ,
    ) -> None:
        super().__init__(problem, seed, actor, critic, training, max_q)
        self._training = training
        self.temperature = entropy.build()
        self._minimum_entropy = entropy_floor(minimum_entropy, problem.dimensions)

    def components(self) -> dict[str, Sequence[tf.Variable]]:
        """All variables under stable names."""
        return super().components() | {"temperature": self.temperature.variables}

    def update(self, batch: Transition, seed: tf.Tensor) -> Metrics:
        """Q, policy, temperature and targets, in this order, on one batch."""
        metrics = self.fit_critic(batch, self.soft_next_value(batch, seed))
        metrics |= self.fit_soft_policy(batch, seed)
        self.follow_targets()
        return metrics

    def soft_next_value(self, batch: Transition, seed: tf.Tensor) -> tf.Tensor:
        """V(s') = Q'(s', a') - temperature log pi(a'|s'), a' ~ pi(.|s'), [B]."""
        draw = draw_policy(self.actor, batch.next_observation, 1, fold(seed, Purpose.TARGET_ACTION))
        value = self.pessimistic(self.target_critic, draw.observation, draw.action)
        return value - self.temperature() * draw.log_prob

    def fit_soft_policy(self, batch: Transition, seed: tf.Tensor) -> Metrics:
        """One step of the policy down temperature log pi - Q, one of the temperature."""

        def loss() -> tuple[tf.Tensor, Metrics]:
            draw = draw_policy(self.actor, batch.observation, 1, fold(seed, Purpose.POLICY_ACTION))
            value = self.pessimistic(self.critic, draw.observation, draw.action)
            total = tf.reduce_mean(soft_policy_loss(value, draw.log_prob, self.temperature()))
            return total, {"policy_value": tf.reduce_mean(value), "entropy": -tf.reduce_mean(draw.log_prob)}

        policy_loss, metrics = gradient_step(loss, self.actor.trainable_variables, self.policy_optimizer)
        self.temperature.ascend(self._minimum_entropy - metrics["entropy"])
        return metrics | {"policy_loss": policy_loss, "temperature": self.temperature()}
