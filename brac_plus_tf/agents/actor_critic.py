"""Pieces that actor-critic agents share: drawing from the policy, fitting critics, acting."""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import gin
import tensorflow as tf

from brac_plus_tf.distributions import Distribution, diagonal_gaussian, draw_gaussian, tanh_log_prob
from brac_plus_tf.losses import squared_td_error, td_target
from brac_plus_tf.networks import ActorNetwork, CriticNetwork
from brac_plus_tf.randomness import Purpose, fold, standard_normal
from brac_plus_tf.types import Transition
from brac_plus_tf.updates import gradient_step


class PolicyDraw(NamedTuple):
    """N reparameterised actions per state, flattened: rows n B + b belong to state b.

    distribution: of the pre-tanh action, batch [N B]. observation [N B, O]. pre_tanh_action, action [N B, A].
    log_prob [N B], nats, of the squashed action.
    """

    distribution: Distribution
    observation: tf.Tensor
    pre_tanh_action: tf.Tensor
    action: tf.Tensor
    log_prob: tf.Tensor


def draw_policy(actor: ActorNetwork, observation: tf.Tensor, samples: int, seed: tf.Tensor) -> PolicyDraw:
    """Draws `samples` actions for each of the observations [B, O]; differentiable in the actor's weights."""
    mean, standard_deviation = (tf.tile(parameter, [samples, 1]) for parameter in actor(observation))
    distribution = diagonal_gaussian(mean, standard_deviation)
    pre_tanh_action = draw_gaussian(distribution, seed)
    return PolicyDraw(
        distribution,
        tf.tile(observation, [samples, 1]),
        pre_tanh_action,
        tf.tanh(pre_tanh_action),
        tanh_log_prob(distribution, pre_tanh_action),
    )


def mean_over_draws(values: tf.Tensor, samples: int) -> tf.Tensor:
    """[N B] -> [B]."""
    return tf.reduce_mean(tf.reshape(values, [samples, -1]), axis=0)


def next_state_value(
    actor: ActorNetwork, target_critic: CriticNetwork, next_observation: tf.Tensor, samples: int, seed: tf.Tensor
) -> tf.Tensor:
    """max_n min_j Q'_j(s', a'_n) over `samples` actions a'_n ~ pi(.|s'), [B] (Eq. 14 for one sample)."""
    draw = draw_policy(actor, next_observation, samples, fold(seed, Purpose.TARGET_ACTION))
    values = target_critic.minimum(draw.observation, draw.action)
    return tf.reduce_max(tf.reshape(values, [samples, -1]), axis=0)


def fit_critic(
    critic: CriticNetwork,
    optimizer: tf.keras.optimizers.Optimizer,
    batch: Transition,
    next_value: tf.Tensor,
    gamma: float,
    penalty: Callable[[], tf.Tensor] = lambda: tf.zeros([1]),
    penalty_weight: float | tf.Tensor = 0.0,
) -> dict[str, tf.Tensor]:
    """One step of the critics on E[sum_j (Q_j - y)^2] + penalty_weight E[penalty()]; `penalty` gives values [B]."""
    target = td_target(batch.reward, batch.discount, next_value, gamma)

    def loss() -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        q_values = critic(batch.observation, batch.action)
        td_error = tf.reduce_mean(squared_td_error(q_values, target))
        mean_penalty = tf.reduce_mean(penalty())
        metrics = {"td_error": td_error, "q_mean": tf.reduce_mean(q_values), "q_max": tf.reduce_max(q_values)}
        return td_error + penalty_weight * mean_penalty, metrics | {"critic_penalty": mean_penalty}

    critic_loss, metrics = gradient_step(loss, critic.trainable_variables, optimizer)
    return {"critic_loss": critic_loss, "target_mean": tf.reduce_mean(target), **metrics}


@gin.register
@dataclasses.dataclass(frozen=True)
class MaxQ:
    """Acting by the best of `samples` policy draws under min_j Q_j, clipped to +-clip deviations if given."""

    samples: int = 10
    clip: float | None = None

    def action(self, actor: ActorNetwork, critic: CriticNetwork, observation: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """observation [N, O] -> action [N, A] in [-1, 1]."""
        mean, standard_deviation = actor(observation)
        noise_shape = tf.concat([[self.samples], tf.shape(mean)], axis=0)
        noise = standard_normal(noise_shape, seed)
        limit = math.inf if self.clip is None else self.clip
        actions = tf.tanh(mean + standard_deviation * tf.clip_by_value(noise, -limit, limit))
        tiled = tf.broadcast_to(observation, tf.concat([[self.samples], tf.shape(observation)], axis=0))
        best = tf.argmax(critic.minimum(tiled, actions), axis=0)
        return tf.gather(tf.transpose(actions, [1, 0, 2]), best, batch_dims=1)
