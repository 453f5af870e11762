"""What is said of a batch's divergences."""

import tensorflow as tf

from brac_plus_tf.core.types import Metrics


def divergence_metrics(divergence: tf.Tensor, threshold: tf.Tensor) -> Metrics:
    """Mean, quantiles and violated share of D(s) [B]: its tail is heavy, so the mean alone misleads."""
    ordered, size = tf.sort(divergence), divergence.shape[0]
    return {
        "divergence_mean": tf.reduce_mean(divergence),
        "divergence_median": ordered[size // 2],
        "divergence_p95": ordered[int(0.95 * size)],
        "violated_share": tf.reduce_mean(tf.cast(divergence > threshold, tf.float32)),
    }
