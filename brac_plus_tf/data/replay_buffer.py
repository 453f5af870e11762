"""What an agent has seen online: recorded like a dataset, drawn from like one."""

import numpy as np
import tensorflow as tf

from brac_plus_tf.core.types import Dimensions, Transition
from brac_plus_tf.data.scaling import Scaling
from brac_plus_tf.data.steps import Steps, empty_steps


class ReplayBuffer:
    """Steps in the order they were taken, up to `capacity`.

    They are held in variables: compiled training sees every step added, and checkpoints keep them.
    """

    def __init__(self, dimensions: Dimensions, scaling: Scaling, capacity: int) -> None:
        self.dimensions, self._scaling = dimensions, scaling
        empty = empty_steps(dimensions, capacity)._asdict()
        self._columns = {key: tf.Variable(column, trainable=False) for key, column in empty.items()}
        self._size = tf.Variable(0, trainable=False, dtype=tf.int32)

    @property
    def variables(self) -> list[tf.Variable]:
        return [*self._columns.values(), self._size]

    def __len__(self) -> int:
        return int(self._size.numpy())

    def append(self, steps: Steps) -> None:
        """Adds steps in the environment's units."""
        start, count = len(self), len(steps.rewards)
        for key, values in steps._asdict().items():
            self._columns[key][start : start + count].assign(values)
        self._size.assign_add(count)

    def steps(self) -> Steps:
        """All steps so far, in the environment's units."""
        return Steps(**{key: column.numpy()[: len(self)] for key, column in self._columns.items()})

    @property
    def transitions(self) -> Transition:
        """All transitions so far as arrays, in network units."""
        return Transition(*(np.asarray(values) for values in self._rows(tf.range(len(self)))))

    @property
    def tensors(self) -> Transition:
        """Of one row each: compiled functions hold the variables themselves."""
        return self._rows(tf.zeros([1], tf.int32))

    def sample(self, shape: tuple[int, ...], seed: tf.Tensor) -> Transition:
        """Draws transitions uniformly with replacement from those there are when it runs.

        Args:
          shape: leading axes of the batch. seed: [2] int32; equal seeds and sizes give equal batches.
        """
        return self._rows(tf.random.stateless_uniform(shape, seed, 0, self._size, tf.int32, alg="philox"))

    def _rows(self, index: tf.Tensor) -> Transition:
        scaling = self._scaling

        def column(key: str, rows: tf.Tensor = index) -> tf.Tensor:
            return tf.gather(self._columns[key], rows)

        terminal, timeout = column("terminals"), column("timeouts")
        ended = terminal | timeout | (index + 1 >= self._size)
        following = tf.where(ended, index, index + 1)

        def scaled(actions: tf.Tensor) -> tf.Tensor:
            return tf.clip_by_value((actions - scaling.action_center) / scaling.action_half_range, -1.0, 1.0)

        return Transition(
            observation=column("observations"),
            action=scaled(column("actions")),
            reward=column("rewards"),
            discount=1.0 - tf.cast(terminal, tf.float32),
            next_observation=column("next_observations"),
            next_action=scaled(column("actions", following)),
        )
