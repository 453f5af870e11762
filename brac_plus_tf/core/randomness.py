"""Stateless randomness: every draw's seed is folded from (run seed, stage, step, purpose).

Nothing here has a state to save, so a resumed run draws the same numbers as one that was never interrupted.
"""

import enum
import hashlib
import math
from collections.abc import Sequence

import tensorflow as tf


class Purpose(enum.IntEnum):
    """What a random draw is for. Values are part of a run's identity: append, never renumber."""

    BATCH = 1
    POLICY_ACTION = 2
    TARGET_ACTION = 3
    BEHAVIOR_MEMBER = 4
    LATENT = 5
    POLICY_SAMPLES = 6
    BEHAVIOR_LATENT = 7
    UPDATE = 8
    EPOCH = 9
    EVALUATION = 10
    MEASURED_STATES = 11
    BEHAVIOR_BATCH = 12
    BEHAVIOR_UPDATE = 13
    INTERPOLATION = 14
    UNIFORM_ACTION = 15
    EXPLORATION = 16


def base_seed(seed: int) -> tf.Tensor:
    """A run's seed as the [2] int32 tensor that stateless operations take."""
    return tf.constant([seed & 0x7FFFFFFF, 0x5EED], tf.int32)


def fold(seed: tf.Tensor, *data: int | tf.Tensor) -> tf.Tensor:
    """A new [2] seed from `seed` and integers; different integers give independent streams."""
    for value in data:
        seed = tf.random.experimental.stateless_fold_in(seed, tf.cast(value, tf.int32), alg="philox")
    return seed


def standard_normal(shape: Sequence[int] | tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Draws from N(0, 1), float32 of the given shape, the same eagerly, in a graph and under XLA.

    z = sqrt(2) erfinv((2 k + 1) / 2^23), k uniform over the integers of [-2^22, 2^22), so |z| < 5.3. TensorFlow's
    stateless_normal would do, were it not that XLA makes other floats of the same random bits; integers agree.
    """
    integers = tf.random.stateless_uniform(shape, seed, -(2**22), 2**22, tf.int32, alg="philox")
    return math.sqrt(2.0) * tf.math.erfinv((2.0 * tf.cast(integers, tf.float32) + 1.0) * 2.0**-23)


def uniform(shape: Sequence[int] | tf.Tensor, seed: tf.Tensor, low: float = 0.0, high: float = 1.0) -> tf.Tensor:
    """Draws from the uniform distribution on (low, high), float32, for the same reason made of integers.

    low + (high - low) (2 k + 1) / 2^24, k uniform over the integers of [0, 2^23).
    """
    integers = tf.random.stateless_uniform(shape, seed, 0, 2**23, tf.int32, alg="philox")
    return low + (high - low) * (2.0 * tf.cast(integers, tf.float32) + 1.0) * 2.0**-24


def initializer_seed(seed: int, name: str) -> int:
    """A Python integer for a weight initialiser, distinct for each network `name` of a run."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:4], "big") >> 1
