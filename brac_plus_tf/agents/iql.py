"""IQL (Kostrikov et al. 2022): values of the better part of the data's own actions, and a policy cloned by advantage.

Reference: "Offline Reinforcement Learning with Implicit Q-Learning", and the authors' code. No action that the data do
not hold is ever valued.
"""

from collections.abc import Sequence

import gin
import tensorflow as tf

from brac_plus_tf.agents.actor_critic import Training, training_stages
from brac_plus_tf.agents.base import Policy, Problem, Stage, stateless
from brac_plus_tf.agents.value_learning import Critic, ValueLearner
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.settings import checked
from brac_plus_tf.core.types import Metrics, Transition
from brac_plus_tf.models.distributions import diagonal_gaussian
from brac_plus_tf.models.networks import CommonSpreadActor, ValueNetwork
from brac_plus_tf.models.optimization import build_adam, gradient_step
from brac_plus_tf.objectives.losses import advantage_weight, expectile_loss

_ACTION_MARGIN = 1e-5  # logged actions are clipped to +-(1 - margin), as the authors' code does


@gin.register
class IQL(ValueLearner):
    """Expectile regression of V, advantage-weighted cloning, and Q by V.

    expectile: tau; 0.5 is the mean over the data's actions, 1 their best. sharpness: beta, per unit of value; 0 clones.
    largest_weight: of an action's log-likelihood. value_sizes, value_learning_rate: of V.
    The policy's learning rate falls by a cosine, as the authors' does; `Training.critic_decay` is of Q and V.
    """

    @checked
    def __init__(
        self,
        problem: Problem,
        seed: int,
        *,
        actor: CommonSpreadActor = CommonSpreadActor(),
        critic: Critic = Critic((256, 256), learning_rate=3e-4, tau=5e-3),
        training: Training = Training(epochs=1000, policy_learning_rate=3e-4),
        value_sizes: tuple[int, ...] = (256, 256),
        value_learning_rate: float = 3e-4,
        expectile: float = 0.7,
        sharpness: float = 3.0,
        largest_weight: float = 100.0,
    ) -> None:
        if training.policy_decay != (1.0,):
            raise UserError("Training.policy_decay: IQL's policy has a cosine schedule of its own; leave it at (1.0,)")
        super().__init__(problem, seed, critic, training)
        self.actor = actor.build(problem.dimensions, seed)
        self.value = ValueNetwork(value_sizes, problem.dimensions, seed)
        rate = tf.keras.optimizers.schedules.CosineDecay(training.policy_learning_rate, training.steps)
        self.policy_optimizer = build_adam(rate, self.actor.trainable_variables)
        self.value_optimizer = build_adam(training.critic_rate(value_learning_rate), self.value.trainable_variables)
        self._training, self._expectile = training, expectile
        self._sharpness, self._largest_weight = sharpness, largest_weight

    def stages(self) -> Sequence[Stage]:
        """One stage."""
        return training_stages(self._training, self.watch(), self.update)

    def components(self) -> dict[str, Sequence[tf.Variable]]:
        """All variables under stable names."""
        own = {
            "actor": self.actor.variables,
            "policy_optimizer": self.policy_optimizer.variables,
            "value": self.value.variables,
            "value_optimizer": self.value_optimizer.variables,
        }
        return own | super().components()

    def policies(self) -> dict[str, Policy]:
        """mean: the Gaussian's; sample: one draw, clipped to the range of an action."""

        def sample(observation: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
            mean, deviation = self.actor(observation)
            return tf.clip_by_value(mean + deviation * noise, -1.0, 1.0)

        return {
            "mean": stateless(lambda observation, noise: self.actor(observation)[0]),
            "sample": stateless(sample, noise=self.actor.action_size, seeded=True),
        }

    def update(self, batch: Transition, seed: tf.Tensor) -> Metrics:
        """V, the policy by the new V, Q by the new V, and targets, in the order of the authors' code."""
        del seed  # nothing is drawn
        target = self.pessimistic(self.target_critic, batch.observation, batch.action)
        metrics = self._fit_value(batch, target)
        metrics |= self._fit_policy(batch, target)
        metrics |= self.fit_critic(batch, self.value(batch.next_observation))
        self.follow_targets()
        return metrics

    def _fit_value(self, batch: Transition, target: tf.Tensor) -> Metrics:
        def value_error() -> tuple[tf.Tensor, Metrics]:
            value = self.value(batch.observation)
            return tf.reduce_mean(expectile_loss(target - value, self._expectile)), {
                "value_mean": tf.reduce_mean(value)
            }

        value_loss, metrics = gradient_step(value_error, self.value.trainable_variables, self.value_optimizer)
        return metrics | {"value_loss": value_loss}

    def _fit_policy(self, batch: Transition, target: tf.Tensor) -> Metrics:
        advantage = target - self.value(batch.observation)
        weight = advantage_weight(advantage, self._sharpness, self._largest_weight)
        action = tf.clip_by_value(batch.action, _ACTION_MARGIN - 1.0, 1.0 - _ACTION_MARGIN)

        def loss() -> tuple[tf.Tensor, Metrics]:
            log_likelihood = diagonal_gaussian(*self.actor(batch.observation)).log_prob(action)
            return -tf.reduce_mean(weight * log_likelihood), {"log_likelihood": tf.reduce_mean(log_likelihood)}

        policy_loss, metrics = gradient_step(loss, self.actor.trainable_variables, self.policy_optimizer)
        means = {"advantage": tf.reduce_mean(advantage), "advantage_weight": tf.reduce_mean(weight)}
        return metrics | means | {"policy_loss": policy_loss}
