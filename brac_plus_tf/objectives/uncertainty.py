"""How far an ensemble's prediction may be off: functions (mean [K, B, D], deviation [K, B, D]) -> [B].

Output 0 of D is the reward, the others are the next observation's entries; all in the environment's own units, whose
norms the weights that go with these penalties were chosen for (Yu et al. 2020).
"""

import gin
import tensorflow as tf

from brac_plus_tf.core.types import check_shapes


@gin.register
def largest_deviation(mean: tf.Tensor, deviation: tf.Tensor) -> tf.Tensor:
    """max_k ||deviation_k||_2 over all outputs, the reward's included: MOPO's penalty, which learned noise makes."""
    check_shapes((mean, "KBD"), (deviation, "KBD"))
    return tf.reduce_max(tf.norm(deviation, axis=-1), axis=0)


@gin.register
def distance_to_mean(mean: tf.Tensor, deviation: tf.Tensor) -> tf.Tensor:
    """max_k ||mean_k - 1/K sum_j mean_j||_2 over the observation's entries: MOPO's alternative."""
    check_shapes((mean, "KBD"), (deviation, "KBD"))
    state = mean[..., 1:]
    return tf.reduce_max(tf.norm(state - tf.reduce_mean(state, axis=0), axis=-1), axis=0)


@gin.register
def largest_disagreement(mean: tf.Tensor, deviation: tf.Tensor) -> tf.Tensor:
    """max_{j,k} ||mean_j - mean_k||_2 over the observation's entries (MOReL)."""
    check_shapes((mean, "KBD"), (deviation, "KBD"))
    # one pair after the other: all of them at once would be K^2 copies of the predictions
    members = tf.unstack(mean[..., 1:])
    pairs = [tf.norm(first - second, axis=-1) for index, first in enumerate(members) for second in members[index + 1 :]]
    return tf.reduce_max(pairs, axis=0) if pairs else tf.zeros_like(mean[0, :, 0])
