"""What is said of a batch's divergences."""

import math

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


class RunningMoments:
    """Mean and standard deviation of values seen one batch after the other; all its state is the variable `sums`."""

    def __init__(self) -> None:
        # count, sum, sum of squares: in one variable, so that a step adds to all three at once
        self.sums = tf.Variable(tf.zeros([3]), trainable=False)

    def add(self, values: tf.Tensor) -> None:
        """Takes in values [B]; usable inside a compiled step."""
        self.sums.assign_add(tf.reduce_sum(tf.stack([tf.ones_like(values), values, values**2]), axis=1))

    def reset(self) -> None:
        """Forgets all values."""
        self.sums.assign(tf.zeros([3]))

    def mean(self) -> float:
        """Of the values since the last reset."""
        count, total, _ = self.sums.numpy().astype(float)
        return total / count

    def standard_deviation(self) -> float:
        """Of the values since the last reset, as of a whole population."""
        count, _, squares = self.sums.numpy().astype(float)
        # From sums, which loses digits where the spread is far below the mean; of a divergence they are alike. Of equal
        # values rounding may leave less than 0.
        return math.sqrt(max(squares / count - self.mean() ** 2, 0.0))
