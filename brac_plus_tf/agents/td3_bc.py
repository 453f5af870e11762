"""TD3+BC (Fujimoto and Gu 2021): TD3 whose policy also imitates the data's actions, the two terms kept in proportion.

Reference: "A Minimalist Approach to Offline Reinforcement Learning", and the authors' code.
"""

from collections.abc import Sequence

import gin
import tensorflow as tf

from brac_plus_tf.agents.actor_critic import Training, training_stages
from brac_plus_tf.agents.base import Policy, Problem, Stage, stateless
from brac_plus_tf.agents.value_learning import Critic, ValueLearner
from brac_plus_tf.core.randomness import Purpose, fold, standard_normal
from brac_plus_tf.core.settings import checked
from brac_plus_tf.core.types import Metrics, Transition
from brac_plus_tf.models.networks import DeterministicActor
from brac_plus_tf.models.optimization import build_adam, gradient_step
from brac_plus_tf.objectives.losses import imitating_policy_loss


@gin.register
class TD3BC(ValueLearner):
    """A deterministic policy between the critics' preference and the data.

    weight: alpha, of the normalised Q beside the squared distance to the data's action. target_noise, noise_clip: of
    the next action that targets value, in half ranges of an action. policy_delay: critic steps for each of the policy,
    with which also the targets follow.
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
        super().__init__(problem, seed, critic)
        self.actor, self.target_actor = (actor.build(problem.dimensions, seed) for _ in range(2))
        self.followed.append((self.actor.variables, self.target_actor.variables))
        self.policy_optimizer = build_adam(training.policy_learning_rate, self.actor.trainable_variables)
        self._training, self._weight, self._policy_delay = training, weight, policy_delay
        self._target_noise, self._noise_clip = target_noise, noise_clip

    def stages(self) -> Sequence[Stage]:
        """One stage."""
        return training_stages(self._training, self.watch(), self.update, needs_step=True)

    def components(self) -> dict[str, Sequence[tf.Variable]]:
        """All variables under stable names."""
        policy = {
            "actor": self.actor.variables,
            "target_actor": self.target_actor.variables,
            "policy_optimizer": self.policy_optimizer.variables,
        }
        return policy | super().components()

    def policies(self) -> dict[str, Policy]:
        """mean: the policy's one action."""
        return {"mean": stateless(lambda observation, seed: self.actor(observation))}

    def update(self, batch: Transition, seed: tf.Tensor, step: tf.Tensor) -> Metrics:
        """Q at every step; policy and targets at every `policy_delay`-th."""
        metrics = self.fit_critic(batch, self._smoothed_next_value(batch.next_observation, seed))
        due = tf.equal((step + 1) % self._policy_delay, 0)
        # counted from the stage's own step, so that a resumed run goes on in phase
        return metrics | tf.cond(due, lambda: self._fit_policy(batch), self._nothing)

    def _smoothed_next_value(self, next_observation: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """min_j Q'_j(s', a') [B] at a' = clip(pi'(s') + clip(noise)): narrow peaks of Q' count for less."""
        # TD3's noise is in action units; it is clipped before it is added, so no target looks further than noise_clip
        action = self.target_actor(next_observation)
        noise = self._target_noise * standard_normal(tf.shape(action), fold(seed, Purpose.TARGET_ACTION))
        action = tf.clip_by_value(action + tf.clip_by_value(noise, -self._noise_clip, self._noise_clip), -1.0, 1.0)
        return self.pessimistic(self.target_critic, next_observation, action)

    def _fit_policy(self, batch: Transition) -> Metrics:
        def loss() -> tuple[tf.Tensor, Metrics]:
            action = self.actor(batch.observation)
            # the first critic alone: the smaller of two would switch sides within a batch
            value = self.critic(batch.observation, action)[0]
            error = tf.reduce_mean(tf.square(action - batch.action), axis=-1)
            total = tf.reduce_mean(imitating_policy_loss(value, error, self._weight))
            return total, {"policy_value": tf.reduce_mean(value), "cloning_error": tf.reduce_mean(error)}

        policy_loss, metrics = gradient_step(loss, self.actor.trainable_variables, self.policy_optimizer)
        self.follow_targets()
        # the loop takes means over all steps; times the delay they are means over the steps that have a value
        return {name: self._policy_delay * value for name, value in (metrics | {"policy_loss": policy_loss}).items()}

    def _nothing(self) -> Metrics:
        return {name: tf.constant(0.0) for name in ("policy_value", "cloning_error", "policy_loss")}
