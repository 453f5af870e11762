"""What TD3's descendants share: a deterministic policy that moves every few steps of its critics, and smoothed targets.

Reference: Fujimoto et al. 2018, "Addressing Function Approximation Error in Actor-Critic Methods".
"""

from collections.abc import Sequence

import tensorflow as tf

from brac_plus_tf.agents.actor_critic import Training, training_stages
from brac_plus_tf.agents.base import Draw, Policy, Problem, Stage, stateless, uniform_rows
from brac_plus_tf.agents.value_learning import Critic, ValueLearner
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.randomness import Purpose, fold, standard_normal
from brac_plus_tf.core.types import Metrics, Transition
from brac_plus_tf.models.networks import DeterministicActor
from brac_plus_tf.models.optimization import build_adam, gradient_step


class DelayedPolicy(ValueLearner):
    """Subclasses write `policy_loss` and name its metrics; `next_value` is TD3's unless they say otherwise.

    target_noise, noise_clip: of the next action that targets value, in half ranges of an action. policy_delay: critic
    steps for each of the policy, with which also the targets follow.
    """

    # of the policy, told at its own steps only
    policy_metrics: tuple[str, ...] = ("policy_value", "cloning_error", "policy_loss")

    def __init__(
        self,
        problem: Problem,
        seed: int,
        actor: DeterministicActor,
        critic: Critic,
        training: Training,
        target_noise: float,
        noise_clip: float,
        policy_delay: int,
    ) -> None:
        if not policy_delay:
            raise UserError(f"{type(self).__name__}.policy_delay is 0: the policy would never learn; at least 1")
        super().__init__(problem, seed, critic, training)
        self.actor, self.target_actor = (actor.build(problem.dimensions, seed) for _ in range(2))
        self.followed.append((self.actor.variables, self.target_actor.variables))
        self.policy_optimizer = build_adam(training.policy_rate(policy_delay), self.actor.trainable_variables)
        self._training, self._policy_delay = training, policy_delay
        self._target_noise, self._noise_clip = target_noise, noise_clip

    def stages(self) -> Sequence[Stage]:
        """One stage."""
        return training_stages(self._training, self.watch(), self.update, draw=self.draw, needs_step=True)

    def draw(self, batch_size: int) -> Draw:
        """Which transitions are learned from."""
        return uniform_rows(batch_size)

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
        return {"mean": stateless(lambda observation, noise: self.actor(observation))}

    def update(self, batch: Transition, seed: tf.Tensor, step: tf.Tensor) -> Metrics:
        """Q at every step; policy and targets at every `policy_delay`-th."""
        metrics = self.fit_critic(batch, self.next_value(batch, self.smoothed_action(batch.next_observation, seed)))
        due = tf.equal((step + 1) % self._policy_delay, 0)
        # counted from the stage's own step, so that a resumed run goes on in phase
        return metrics | tf.cond(due, lambda: self._fit_policy(batch), self._nothing)

    def smoothed_action(self, next_observation: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """a' = clip(pi'(s') + clip(noise)) [B, A]: narrow peaks of Q' count for less."""
        # TD3's noise is in action units; it is clipped before it is added, so no target looks further than noise_clip
        action = self.target_actor(next_observation)
        noise = self._target_noise * standard_normal(tf.shape(action), fold(seed, Purpose.TARGET_ACTION))
        return tf.clip_by_value(action + tf.clip_by_value(noise, -self._noise_clip, self._noise_clip), -1.0, 1.0)

    def next_value(self, batch: Transition, next_action: tf.Tensor) -> tf.Tensor:
        """V(s') [B] of the next action that targets take: min_j Q'_j(s', a')."""
        return self.pessimistic(self.target_critic, batch.next_observation, next_action)

    def policy_loss(self, batch: Transition, action: tf.Tensor) -> tuple[tf.Tensor, Metrics]:
        """The loss of the policy's actions [B, A] in the batch's states, a scalar, and its metrics but for itself."""
        raise NotImplementedError

    def _fit_policy(self, batch: Transition) -> Metrics:
        def loss() -> tuple[tf.Tensor, Metrics]:
            return self.policy_loss(batch, self.actor(batch.observation))

        policy_loss, metrics = gradient_step(loss, self.actor.trainable_variables, self.policy_optimizer)
        self.follow_targets()
        # the loop takes means over all steps; times the delay they are means over the steps that have a value
        return {name: self._policy_delay * value for name, value in (metrics | {"policy_loss": policy_loss}).items()}

    def _nothing(self) -> Metrics:
        return {name: tf.constant(0.0) for name in self.policy_metrics}
