"""Losses of critic and policy, per state -> [B]: pure functions of tensors."""

import gin
import tensorflow as tf

from brac_plus_tf.core.types import check_shapes


def td_target(reward: tf.Tensor, discount: tf.Tensor, next_value: tf.Tensor, gamma: float) -> tf.Tensor:
    """y = r + gamma (1 - d) V(s') [B], no gradient through it; `discount` is 1 - d (Eq. 2)."""
    check_shapes((reward, "B"), (discount, "B"), (next_value, "B"))
    # a semi-gradient: descending through y, too, would pull the next value towards this one
    return tf.stop_gradient(reward + gamma * discount * next_value)


def squared_td_error(q_values: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """sum_j (Q_j(s,a) - y)^2, per state: q_values [K, B], target [B] -> [B] (first term of Eq. 10)."""
    check_shapes((q_values, "KB"), (target, "B"))
    # a sum: each critic learns as if it were alone, however many there are
    return tf.reduce_sum(tf.square(q_values - target), axis=0)


def constrained_policy_loss(value: tf.Tensor, multiplier: tf.Tensor, divergence: tf.Tensor) -> tf.Tensor:
    """-Q(s,a) + stopgrad(alpha(s)) D(s), per state [B] (the negative of Eq. 8)."""
    check_shapes((value, "B"), (multiplier, "B"), (divergence, "B"))
    # alpha ascends by a rule of its own; here a gradient could only lower it, which lowers the loss wherever D > 0
    return -value + tf.stop_gradient(multiplier) * divergence


def soft_policy_loss(value: tf.Tensor, log_prob: tf.Tensor, temperature: tf.Tensor) -> tf.Tensor:
    """temperature log pi(a|s) - Q(s,a), per state [B] (SAC; its expectation is KL to the Boltzmann policy)."""
    check_shapes((value, "B"), (log_prob, "B"))
    return tf.stop_gradient(temperature) * log_prob - value


def regularized_policy_loss(
    value: tf.Tensor,
    multiplier: tf.Tensor,
    divergence: tf.Tensor,
    entropy_multiplier: tf.Tensor,
    log_prob: tf.Tensor,
) -> tf.Tensor:
    """-Q(s,a) + alpha D(s) + beta log pi(a|s), per state [B] (BRAC); alpha and beta are scalars without gradient."""
    check_shapes((value, "B"), (divergence, "B"), (log_prob, "B"))
    return tf.stop_gradient(multiplier) * divergence + tf.stop_gradient(entropy_multiplier) * log_prob - value


def pessimistic_value(q_values: tf.Tensor, minimum_weight: float) -> tf.Tensor:
    """minimum_weight min_j Q_j + (1 - minimum_weight) max_j Q_j: q_values [K, ..] -> [..]."""
    smallest = tf.reduce_min(q_values, axis=0)
    if minimum_weight == 1.0:  # one reduction, where the other would be multiplied by nothing
        return smallest
    return minimum_weight * smallest + (1.0 - minimum_weight) * tf.reduce_max(q_values, axis=0)


@gin.register
def smallest_value(q_values: tf.Tensor) -> tf.Tensor:
    """min_j Q_j: q_values [K, ..] -> [..]."""
    return tf.reduce_min(q_values, axis=0)


@gin.register
def mean_value(q_values: tf.Tensor) -> tf.Tensor:
    """mean_j Q_j: q_values [K, ..] -> [..]."""
    return tf.reduce_mean(q_values, axis=0)


def imitating_policy_loss(value: tf.Tensor, squared_error: tf.Tensor, weight: float) -> tf.Tensor:
    """-weight Q(s,a) / mean|Q| + (pi(s) - a_data)^2, per state [B] (TD3+BC, Eq. 3 and 5).

    Dividing by the batch's mean |Q|, without gradient, makes `weight` mean the same whatever the rewards' scale.
    """
    check_shapes((value, "B"), (squared_error, "B"))
    scale = tf.stop_gradient(tf.reduce_mean(tf.abs(value)))
    return squared_error - weight * value / scale


def expectile_loss(difference: tf.Tensor, expectile: float) -> tf.Tensor:
    """|expectile - 1(u < 0)| u^2, per state [B] (IQL, Eq. 5): near 1 what is below V hardly counts."""
    check_shapes((difference, "B"))
    weight = tf.where(difference < 0.0, 1.0 - expectile, expectile)
    return weight * tf.square(difference)


def advantage_weight(advantage: tf.Tensor, sharpness: float, largest: float) -> tf.Tensor:
    """min(exp(sharpness A(s,a)), largest), per state [B], without gradient (IQL, Eq. 7)."""
    check_shapes((advantage, "B"))
    # the exponent is bounded before it is taken: an infinite weight would have a gradient of nothing
    exponent = tf.minimum(sharpness * advantage, tf.math.log(largest))
    return tf.stop_gradient(tf.exp(exponent))
