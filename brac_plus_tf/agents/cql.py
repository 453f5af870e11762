"""CQL (Kumar et al. 2020): actor-critic whose critics are pushed down at the policy's actions and up at the data's.

    loss = sum_j E[(Q_j - y)^2] + weight E[ C_j(s) - Q_j(s, a_data) ]

C is a soft maximum over actions; its three forms are functions below. Reference: the authors' code for D4RL.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import gin
import tensorflow as tf

from brac_plus_tf.agents.actor_critic import ActorCritic, MaxQ, Training, draw_policy, entropy_floor, training_stages
from brac_plus_tf.agents.base import Problem, Stage
from brac_plus_tf.agents.cloning import cloning_loss
from brac_plus_tf.agents.value_learning import Critic
from brac_plus_tf.core.randomness import Purpose, fold, uniform
from brac_plus_tf.core.settings import checked
from brac_plus_tf.core.types import Metrics, Transition
from brac_plus_tf.models.networks import Actor
from brac_plus_tf.models.optimization import gradient_step
from brac_plus_tf.objectives.losses import soft_policy_loss
from brac_plus_tf.objectives.multipliers import Multiplier


class ActionValues(NamedTuple):
    """Q_j of N actions per state from each source, [K, N, B], of the data's action, [K, B], and log-densities, nats.

    uniform: over [-1, 1]^A, log-density `log_uniform`. following: drawn by the policy at the next state, log-densities
    [N, B] there. current: drawn by the policy at the state itself.
    """

    uniform: tf.Tensor
    following: tf.Tensor
    current: tf.Tensor
    data: tf.Tensor
    log_uniform: float
    log_following: tf.Tensor
    log_current: tf.Tensor


@gin.register
def entropy_regularized(values: ActionValues, temperature: float) -> tf.Tensor:
    """CQL(H): temperature log integral exp(Q / temperature) da, by importance sampling over all three sources [K, B].

    Without the factor 1 / (3 N): a constant.
    """
    weighted = (
        values.uniform / temperature - values.log_uniform,
        values.following / temperature - values.log_following,
        values.current / temperature - values.log_current,
    )
    return temperature * tf.reduce_logsumexp(tf.concat(weighted, axis=1), axis=1)


@gin.register
def unweighted(values: ActionValues, temperature: float) -> tf.Tensor:
    """The authors' version 2, CQL(rho) in their README: a plain log-sum-exp, the data's action among its terms."""
    everything = (values.uniform, values.data[:, None], values.following, values.current)
    return temperature * tf.reduce_logsumexp(tf.concat(everything, axis=1) / temperature, axis=1)


@gin.register
def policy_weighted(values: ActionValues, temperature: float) -> tf.Tensor:
    """CQL(rho) as in the paper, rho the policy itself: E_{a~rho}[Q exp(Q / temperature)] / E[exp(Q / temperature)].

    The weights carry no gradient, so that Q is pushed down where the reweighted policy acts [K, B].
    """
    # softmax subtracts the maximum: exp(Q / temperature) alone overflows from Q = 88 on
    weight = tf.stop_gradient(tf.nn.softmax(values.current / temperature, axis=1))
    return tf.reduce_sum(weight * values.current, axis=1)


@gin.register
class CQL(ActorCritic):
    """Conservative Q-learning.

    conservative_value: C. action_samples: N. weight: of the gap C - Q(data). gap_multiplier: factor on `weight`, fixed
    at 1 or learned so that weight * gap meets target_gap (the Lagrange form). entropy: the temperature of the policy's
    entropy, held above minimum_entropy (None: -A); targets carry no entropy.
    `Training.warm_start`: steps in which the policy clones the data.
    """

    @checked
    def __init__(
        self,
        problem: Problem,
        seed: int,
        *,
        actor: Actor = Actor((256, 256, 256)),
        critic: Critic = Critic((256, 256, 256), learning_rate=3e-4, tau=5e-3),
        training: Training = Training(epochs=3000, policy_learning_rate=1e-4, warm_start=40_000),
        conservative_value: Callable[[ActionValues, float], tf.Tensor] = entropy_regularized,
        action_samples: int = 10,
        soft_maximum_temperature: float = 1.0,
        weight: float = 5.0,
        gap_multiplier: Multiplier = Multiplier(initial=1.0, learning_rate=0.0),
        target_gap: float = 0.0,
        entropy: Multiplier = Multiplier(initial=1.0, learning_rate=1e-4, minimum=1e-6, logarithmic=True),
        minimum_entropy: float | None = None,
        action_margin: float = 1e-3,
        max_q: MaxQ = MaxQ(),
    ) -> None:
        super().__init__(problem, seed, actor, critic, training, max_q)
        self._training = training
        self._conservative_value, self._soft_maximum_temperature = conservative_value, soft_maximum_temperature
        self._action_samples, self._weight, self._target_gap = action_samples, weight, target_gap
        self._action_size, self._action_margin = problem.dimensions.action, action_margin
        self._minimum_entropy = entropy_floor(minimum_entropy, problem.dimensions)
        self.gap_multiplier, self.temperature = gap_multiplier.build(), entropy.build()

    def stages(self) -> Sequence[Stage]:
        """Cloning beside the critics, then the main stage."""
        warm_start = functools.partial(self.update, policy_loss=self._cloning_loss)
        return training_stages(self._training, self.watch(), self.update, warm_start)

    def components(self) -> dict[str, Sequence[tf.Variable]]:
        """All variables under stable names."""
        learned = {"gap_multiplier": self.gap_multiplier.variables, "temperature": self.temperature.variables}
        return super().components() | learned

    def update(
        self,
        batch: Transition,
        seed: tf.Tensor,
        policy_loss: Callable[[Transition, tf.Tensor], tuple[tf.Tensor, tf.Tensor]] | None = None,
    ) -> Metrics:
        """Q, multiplier, policy, temperature and targets, in this order, on one batch."""
        metrics = self._fit_conservative_critic(batch, seed)
        metrics |= self._fit_policy(policy_loss or self._soft_policy_loss, batch, fold(seed, Purpose.POLICY_ACTION))
        self.follow_targets()
        return metrics

    def _fit_conservative_critic(self, batch: Transition, seed: tf.Tensor) -> Metrics:
        actions = self._draw_actions(batch, seed)
        metrics = self.fit_critic(
            batch,
            self.next_value(batch, seed),
            lambda: tf.reduce_sum(self._gap(batch, *actions), axis=0),
            self._weight * self.gap_multiplier(),
        )
        gap = metrics.pop("critic_penalty") / self.critic.members
        self.gap_multiplier.ascend(self._weight * gap - self._target_gap)
        return metrics | {"conservative_gap": gap, "gap_multiplier": self.gap_multiplier()}

    def _draw_actions(self, batch: Transition, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Actions [3, N, B, A]: uniform, of the policy at s' and at s; log-densities [N, B] of the latter two."""
        samples, size = self._action_samples, batch.reward.shape[0]
        shape = [samples, size, self._action_size]
        uniform_actions = uniform(shape, fold(seed, Purpose.UNIFORM_ACTION), -1.0, 1.0)
        draws = [
            draw_policy(self.actor, observation, samples, fold(seed, Purpose.POLICY_SAMPLES, index))
            for index, observation in enumerate((batch.next_observation, batch.observation))
        ]
        actions = tf.stack([uniform_actions, *(tf.reshape(draw.action, shape) for draw in draws)])
        log_following, log_current = (tf.reshape(draw.log_prob, [samples, size]) for draw in draws)
        # the gap teaches the critics; the policy learns from its own loss alone
        return tf.stop_gradient(actions), tf.stop_gradient(log_following), tf.stop_gradient(log_current)

    def _gap(
        self, batch: Transition, actions: tf.Tensor, log_following: tf.Tensor, log_current: tf.Tensor
    ) -> tf.Tensor:
        """C_j(s) - Q_j(s, a_data), [K, B]."""
        # actions drawn at s' serve at s, too: they only have to cover where the policy may go
        observation = tf.broadcast_to(batch.observation, [*actions.shape[:3], batch.observation.shape[-1]])
        at_uniform, following, current = tf.unstack(self.critic(observation, actions), axis=1)
        data = self.critic(batch.observation, batch.action)
        # each of A entries is uniform over a range of width 2
        log_uniform = -self._action_size * math.log(2.0)
        values = ActionValues(at_uniform, following, current, data, log_uniform, log_following, log_current)
        return self._conservative_value(values, self._soft_maximum_temperature) - data

    def _fit_policy(
        self,
        policy_loss: Callable[[Transition, tf.Tensor], tuple[tf.Tensor, tf.Tensor]],
        batch: Transition,
        seed: tf.Tensor,
    ) -> Metrics:
        def loss() -> tuple[tf.Tensor, Metrics]:
            per_state, entropy = policy_loss(batch, seed)
            return tf.reduce_mean(per_state), {"entropy": tf.reduce_mean(entropy)}

        # temperature after the policy, by the entropy from before its step
        value, metrics = gradient_step(loss, self.actor.trainable_variables, self.policy_optimizer)
        self.temperature.ascend(self._minimum_entropy - metrics["entropy"])
        return metrics | {"policy_loss": value, "temperature": self.temperature()}

    def _soft_policy_loss(self, batch: Transition, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Loss and entropy [B] of SAC's policy step."""
        draw = draw_policy(self.actor, batch.observation, 1, seed)
        value = self.critic.minimum(draw.observation, draw.action)
        return soft_policy_loss(value, draw.log_prob, self.temperature()), -draw.log_prob

    def _cloning_loss(self, batch: Transition, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Loss and entropy [B] of cloning with the same temperature."""
        loss, _, entropy = cloning_loss(
            self.actor, batch.observation, batch.action, self._action_margin, self.temperature(), seed
        )
        return loss, entropy
