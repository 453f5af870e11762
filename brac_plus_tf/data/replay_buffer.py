"""What an agent has seen online: recorded like a dataset, drawn from like one."""

import numpy as np
import tensorflow as tf

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.types import Dimensions, Transition
from brac_plus_tf.data.episodes import cut_rows, following_rows, last_rows
from brac_plus_tf.data.rows import Rows, empty_rows
from brac_plus_tf.data.scaling import Scaling


class ReplayBuffer:
    """Rows in the order they were taken, up to `capacity`, in the environment's units.

    They are held in variables: compiled training sees every row added, and checkpoints keep them.
    """

    def __init__(self, dimensions: Dimensions, scaling: Scaling, capacity: int) -> None:
        self.dimensions, self._scaling = dimensions, scaling
        empty = empty_rows(dimensions, capacity).columns()
        self._columns = {key: tf.Variable(column, trainable=False) for key, column in empty.items()}
        self._following = tf.Variable(np.zeros(capacity, np.int32), trainable=False)  # see following_rows
        self._size = tf.Variable(0, trainable=False, dtype=tf.int32)

    @property
    def variables(self) -> list[tf.Variable]:
        return [*self._columns.values(), self._following, self._size]

    def __len__(self) -> int:
        return int(self._size.numpy())

    def append(self, rows: Rows) -> None:
        """Adds rows that have all columns."""
        start, end = len(self), len(self) + len(rows)
        for key, values in rows.columns().items():
            self._columns[key][start:end].assign(values)
        self._size.assign(end)
        # from the row before on: what was done after it is known only now
        first = max(start - 1, 0)
        added = self._rows(first, end)
        following = first + following_rows(last_rows(added, cut_rows(added, None)))
        self._following[first:end].assign(following.astype(np.int32))

    def rows(self) -> Rows:
        """All rows so far."""
        return self._rows(0, len(self))

    def _rows(self, first: int, end: int) -> Rows:
        return Rows.from_columns({key: column[first:end].numpy() for key, column in self._columns.items()})

    @property
    def transitions(self) -> Transition:
        """All transitions so far as arrays, in network units."""
        return Transition(*(np.asarray(values) for values in self._transitions(tf.range(len(self)))))

    @property
    def tensors(self) -> Transition:
        """Of one row each: compiled functions hold the variables themselves."""
        return self._transitions(tf.zeros([1], tf.int32))

    def sample(self, shape: tuple[int, ...], seed: tf.Tensor) -> Transition:
        """Draws transitions uniformly with replacement from those there are when it runs.

        Args:
          shape: leading axes of the batch. seed: [2] int32; equal seeds and sizes give equal batches.
        """
        return self._transitions(tf.random.stateless_uniform(shape, seed, 0, self._size, tf.int32, alg="philox"))

    def sample_segments(self, count: int, length: int, seed: tf.Tensor) -> Transition:
        """Refused: which rows may begin a segment changes with every step taken.

        Raises:
          UserError: always.
        """
        raise UserError("a replay buffer has no segments to draw: train on its record, replay.hdf5, instead")

    def _transitions(self, index: tf.Tensor) -> Transition:
        columns = {key: tf.gather(column, index) for key, column in self._columns.items() if key != "timeouts"}
        following = tf.gather(self._following, index)
        transition = Transition(
            observation=columns["observations"],
            action=columns["actions"],
            reward=columns["rewards"],
            discount=1.0 - tf.cast(columns["terminals"], tf.float32),
            next_observation=columns["next_observations"],
            next_action=tf.gather(self._columns["actions"], following),
        )
        return self._scaling.to_network(transition)
