"""The vocabulary every module shares: a batch, its sizes, shape checks, and errors meant for the user.

Shape letters used throughout the package:
    B batch, O observation, A action, K mixture components or critics, E behaviour ensemble members,
    N action samples, Z latent, L latent samples. Sample and ensemble axes lead: [K, B], [N, B, A].
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:  # sizes are of use where TensorFlow is not: in listing tasks
    import tensorflow as tf


class Dimensions(NamedTuple):
    """Sizes that the networks are built for: entries of one observation and of one action."""

    observation: int
    action: int


class Transition(NamedTuple):
    """One batch of environment steps; leading axes are free ([B, ...] or [E, B, ...]).

    observation [.., O] and next_observation [.., O] in the units the networks see, action [.., A] in [-1, 1],
    reward [..] after rescaling, discount [..]: 0 at a true terminal, 1 elsewhere (a timeout is not a terminal).
    next_action [.., A]: what the data did next; where an episode ended or was cut it repeats `action`.
    """

    observation: tf.Tensor | np.ndarray
    action: tf.Tensor | np.ndarray
    reward: tf.Tensor | np.ndarray
    discount: tf.Tensor | np.ndarray
    next_observation: tf.Tensor | np.ndarray
    next_action: tf.Tensor | np.ndarray


Metrics = dict[str, "tf.Tensor"]


def check_shapes(*pairs: tuple[tf.Tensor | np.ndarray, str]) -> None:
    """Checks static shapes against letters, e.g. `check_shapes((action, "BA"), (reward, "B"))`.

    One letter stands for one axis; the same letter must mean the same size in all pairs. Sizes unknown while
    tracing are not compared. The check is static: it adds no operation to a compiled function.

    Raises:
      ValueError: if a rank or a size differs, naming the pair.
    """
    sizes: dict[str, int] = {}
    for index, (tensor, letters) in enumerate(pairs):
        shape = tuple(tensor.shape)
        if len(shape) != len(letters):
            raise ValueError(f"argument {index}: expected shape [{', '.join(letters)}], got {shape}")
        for letter, size in zip(letters, shape, strict=True):
            if size is None:
                continue
            if sizes.setdefault(letter, size) != size:
                raise ValueError(f"argument {index}: axis {letter} of {shape} should be {sizes[letter]}")
