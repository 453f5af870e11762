"""BEAR (Kumar et al. 2019) as D4RL evaluated it: actor-critic within a maximum mean discrepancy of the data's actions.

Reference: D4RL-Evaluations, built on rlkit. The discrepancy is measured between pre-tanh actions.
"""

import functools
from collections.abc import Sequence

import gin
import tensorflow as tf

from brac_plus_tf.agents.actor_critic import ActorCritic, MaxQ, Training, draw_policy, training_stages
from brac_plus_tf.agents.base import Problem, Stage
from brac_plus_tf.agents.value_learning import Critic
from brac_plus_tf.core.randomness import Purpose, fold
from brac_plus_tf.core.settings import checked
from brac_plus_tf.core.types import Metrics, Transition
from brac_plus_tf.models.action_auto_encoder import ActionAutoEncoder
from brac_plus_tf.models.networks import Actor
from brac_plus_tf.models.optimization import gradient_step
from brac_plus_tf.objectives.divergences import MMD, Divergence
from brac_plus_tf.objectives.losses import constrained_policy_loss
from brac_plus_tf.objectives.multipliers import Multiplier


@gin.register
class BEAR(ActorCritic):
    """The policy maximises Q under E[MMD] <= threshold; the behaviour auto-encoder learns beside it.

    `Training.warm_start`: steps in which the policy only follows the constraint.
    """

    @checked
    def __init__(
        self,
        problem: Problem,
        seed: int,
        *,
        actor: Actor = Actor((256, 256)),
        critic: Critic = Critic((256, 256), learning_rate=3e-4, tau=5e-3, target_samples=10, minimum_weight=0.75),
        training: Training = Training(epochs=3000, policy_learning_rate=1e-4, warm_start=40_000),
        behavior: ActionAutoEncoder = ActionAutoEncoder(learning_rate=3e-4),
        divergence: Divergence = MMD(samples=4),
        threshold: float = 0.05,
        multiplier: Multiplier = Multiplier(minimum=0.006737947, maximum=22026.4658, logarithmic=True),
        max_q: MaxQ = MaxQ(samples=100),
    ) -> None:
        super().__init__(problem, seed, actor, critic, training, max_q)
        self._training = training
        self.behavior = behavior.build(problem.dimensions, seed)
        self._divergence, self._threshold, self.multiplier = divergence, threshold, multiplier.build()

    def stages(self) -> Sequence[Stage]:
        """The warm start, then the main stage."""
        # Q is learned from the first step on, but what it says of unseen actions is noise until then
        warm_start = functools.partial(self.update, value_weight=0.0)
        return training_stages(self._training, self.watch(), self.update, warm_start)

    def components(self) -> dict[str, Sequence[tf.Variable]]:
        """All variables under stable names."""
        return super().components() | self.behavior.components() | {"multiplier": self.multiplier.variables}

    def update(self, batch: Transition, seed: tf.Tensor, value_weight: float = 1.0) -> Metrics:
        """Behaviour, Q, policy, multiplier and targets, in this order, on one batch."""
        metrics = self.behavior.fit(batch, fold(seed, Purpose.BEHAVIOR_UPDATE))
        metrics |= self.fit_critic(batch, self.next_value(batch, seed))
        metrics |= self._fit_policy(batch, fold(seed, Purpose.POLICY_ACTION), value_weight)
        self.multiplier.ascend(metrics["divergence_mean"] - self._threshold)
        self.follow_targets()
        return metrics | {"multiplier": self.multiplier()}

    def _fit_policy(self, batch: Transition, seed: tf.Tensor, value_weight: float) -> Metrics:
        def loss() -> tuple[tf.Tensor, Metrics]:
            draw = draw_policy(self.actor, batch.observation, 1, seed)
            arguments = (draw.distribution, draw.pre_tanh_action, self.behavior, batch.observation)
            divergence = self._divergence(*arguments, seed)
            value = value_weight * self.critic.minimum(draw.observation, draw.action)
            # one multiplier for all states: the constraint is on the mean over the data
            multiplier = tf.fill(tf.shape(value), self.multiplier())
            total = tf.reduce_mean(constrained_policy_loss(value, multiplier, divergence))
            return total, {"divergence_mean": tf.reduce_mean(divergence), "policy_value": tf.reduce_mean(value)}

        policy_loss, metrics = gradient_step(loss, self.actor.trainable_variables, self.policy_optimizer)
        return metrics | {"policy_loss": policy_loss}
