"""The last transitions of many: what a model has made, or anything else that comes by the thousand and is forgotten."""

import numpy as np
import tensorflow as tf

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.types import Dimensions, Transition


class RingBuffer:
    """Up to `capacity` transitions in network units; the newest take the place of the oldest.

    Held in variables: compiled training sees what was added, and checkpoints keep it.
    """

    def __init__(self, dimensions: Dimensions, capacity: int) -> None:
        observation, action = dimensions
        shapes: tuple[tuple[int, ...], ...] = ((observation,), (action,), (), (), (observation,), (action,))
        self._columns: list[tf.Variable] = [tf.Variable(tf.zeros((capacity, *s)), trainable=False) for s in shapes]
        self._capacity = capacity
        # the place of the next one, and how many there are
        self._head, self._size = (tf.Variable(0, trainable=False, dtype=tf.int32) for _ in range(2))
        self._append = tf.function(self._append_rows, autograph=False, reduce_retracing=True)

    @property
    def variables(self) -> list[tf.Variable]:
        return [*self._columns, self._head, self._size]

    def __len__(self) -> int:
        return int(self._size.numpy())

    def append(self, transitions: Transition, valid: tf.Tensor) -> None:
        """Adds those rows of transitions [N, ..] where valid [N] is True, in their order; of too many the last ones."""
        self._append(transitions, valid)

    def _append_rows(self, transitions: Transition, valid: tf.Tensor) -> None:
        rows = tf.where(valid)[-self._capacity :, 0]
        count = tf.shape(rows, tf.int32)[0]
        places = (self._head + tf.range(count)) % self._capacity
        for column, values in zip(self._columns, transitions, strict=True):
            column.scatter_update(tf.IndexedSlices(tf.gather(values, rows), places))
        self._head.assign((self._head + count) % self._capacity)
        self._size.assign(tf.minimum(self._size + count, self._capacity))

    @property
    def transitions(self) -> Transition:
        """All that there are as arrays, the oldest first."""
        size, head = len(self), int(self._head.numpy())
        order = (head - size + np.arange(size)) % self._capacity
        return Transition(*(column.numpy()[order] for column in self._columns))

    @property
    def tensors(self) -> Transition:
        """Of one row each: compiled functions hold the variables themselves."""
        return self._rows(tf.zeros([1], tf.int32))

    def sample(self, shape: tuple[int, ...], seed: tf.Tensor) -> Transition:
        """Draws uniformly with replacement from those there are when it runs: leaves [*shape, ..].

        Args:
          seed: [2] int32; equal seeds and contents give equal batches.
        """
        return self._rows(tf.random.stateless_uniform(shape, seed, 0, self._size, tf.int32, alg="philox"))

    def sample_segments(self, count: int, length: int, seed: tf.Tensor) -> Transition:
        """Refused: its rows do not follow each other.

        Raises:
          UserError: always.
        """
        raise UserError("transitions made by a model have no segments to draw")

    def _rows(self, index: tf.Tensor) -> Transition:
        return Transition(*(tf.gather(column, index) for column in self._columns))
