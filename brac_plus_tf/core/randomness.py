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
    OBSERVATION_NOISE = 17


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
    return _normal(tf.random.stateless_uniform(shape, seed, -(2**22), 2**22, tf.int32, alg="philox"))


def _normal(integers: tf.Tensor) -> tf.Tensor:
    return math.sqrt(2.0) * tf.math.erfinv((2.0 * tf.cast(integers, tf.float32) + 1.0) * 2.0**-23)


def row_normal(size: int, seed: tf.Tensor) -> tf.Tensor:
    """Noise for the rows of a batch, where a row's depends on its seed alone: row n is standard_normal([size], seed_n).

    TensorFlow's operations take one seed each, and a loop over 128 rows takes 4 to 7 ms, as long as stepping as many
    simulators; the bits are made here for all of them at once, which takes 0.8 ms.

    Args:
      seed: [2] int32, which all rows share, or [N, 2].
    Returns:
      [1, size] or [N, size].
    """
    if seed.shape.rank == 1:
        return standard_normal([1, size], seed)
    return _normal(tf.cast(_row_bits(size, seed) & tf.constant(2**23 - 1, tf.uint32), tf.int32) - 2**22)


def _row_bits(size: int, seed: tf.Tensor) -> tf.Tensor:
    """The uint32 bits [N, size] that TensorFlow's stateless operations make of seeds [N, 2] with alg="philox"."""
    halves = [_split(tf.cast(tf.cast(word, tf.int64), tf.uint64)) for word in tf.unstack(seed, axis=1)]
    # TensorFlow enciphers a seed first, with a fixed key: two words are the stream's key, two the counter's upper half
    key_low, key_high, *upper = (
        word[:, None]
        for word in philox([word for high, low in halves for word in (low, high)], (0x3EC8F720, 0x02461E29))
    )
    block = tf.cast(tf.range(-(-size // 4)), tf.uint32)[None]
    words = philox([block, tf.zeros_like(block), *upper], (key_low, key_high))
    return tf.reshape(tf.stack(words, axis=-1), [-1, 4 * block.shape[1]])[:, :size]


def philox(counter: Sequence[tf.Tensor], key: tuple[int | tf.Tensor, int | tf.Tensor]) -> list[tf.Tensor]:
    """Philox4x32-10: four uint32 words of noise from four of a counter and two of a key, all of shapes that broadcast.

    Ten rounds mix every word into the shape of all.

    Reference: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", Section 3.3.
    """
    first, second, third, fourth = counter
    keys = [tf.convert_to_tensor(word, tf.uint32) for word in key]
    for _ in range(10):
        high, low = _split(tf.cast(first, tf.uint64) * tf.constant(0xD2511F53, tf.uint64))
        other_high, other_low = _split(tf.cast(third, tf.uint64) * tf.constant(0xCD9E8D57, tf.uint64))
        first, second, third, fourth = other_high ^ second ^ keys[0], other_low, high ^ fourth ^ keys[1], low
        # the golden ratio and the square root of 3, less 1, in 32 bits after the point
        keys = [word + tf.constant(step, tf.uint32) for word, step in zip(keys, (0x9E3779B9, 0xBB67AE85), strict=True)]
    return [first, second, third, fourth]


def _split(word: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Upper and lower half of uint64 words, as uint32."""
    return tf.cast(tf.bitwise.right_shift(word, tf.constant(32, tf.uint64)), tf.uint32), tf.cast(word, tf.uint32)


def uniform(shape: Sequence[int] | tf.Tensor, seed: tf.Tensor, low: float = 0.0, high: float = 1.0) -> tf.Tensor:
    """Draws from the uniform distribution on (low, high), float32, for the same reason made of integers.

    low + (high - low) (2 k + 1) / 2^24, k uniform over the integers of [0, 2^23).
    """
    integers = tf.random.stateless_uniform(shape, seed, 0, 2**23, tf.int32, alg="philox")
    return low + (high - low) * (2.0 * tf.cast(integers, tf.float32) + 1.0) * 2.0**-24


def initializer_seed(seed: int, name: str) -> int:
    """A Python integer for a weight initialiser, distinct for each network `name` of a run."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:4], "big") >> 1
