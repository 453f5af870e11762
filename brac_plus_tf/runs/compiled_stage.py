"""A stage's steps as one compiled function: the only place where training meets `tf.function`."""

import functools
from collections.abc import Callable

import tensorflow as tf

from brac_plus_tf.agents.base import Stage, TransitionSource
from brac_plus_tf.core.randomness import Purpose, fold
from brac_plus_tf.core.types import Metrics

RunSteps = Callable[[int, int], dict[str, float]]
_WIDTH = 64  # entries of the vector of metrics, or a multiple


def take_step(stage: Stage, data: TransitionSource, seed: tf.Tensor, step: tf.Tensor) -> Metrics:
    """Gradient step number `step` of a stage: draws its batch and updates."""
    step_seed = fold(seed, Purpose.UPDATE, step)
    batch = stage.draw(data, fold(step_seed, Purpose.BATCH))
    return stage.update(batch, step_seed, step) if stage.needs_step else stage.update(batch, step_seed)


def compile_stage(stage: Stage, data: TransitionSource, seed: tf.Tensor, compiled: bool = True) -> RunSteps:
    """A function (first step, count) -> sums of the metrics over these steps; traces the stage's update once.

    compiled: by XLA; otherwise the same steps run as a plain graph.
    """
    _ = data.tensors  # made here: variables that first appear while tracing make TensorFlow trace again
    scalar = tf.TensorSpec([], tf.int32)

    # Without AutoGraph, which reads source files when a stage is traced, hours into a run that may have changed. A
    # function of its own, so that its outputs tell the metrics' names before the loop over it is built.
    one_step = tf.function(functools.partial(take_step, stage, data, seed), autograph=False)
    traced = one_step.get_concrete_function(scalar)
    names = sorted(traced.structured_outputs)
    # Padded: XLA forms a metric's mean in another order where the vector has another size, so that a metric more would
    # change the last digits of all others.
    width = -(-len(names) // _WIDTH) * _WIDTH

    @tf.function(jit_compile=compiled, autograph=False, input_signature=[scalar, scalar])
    def run_steps(first: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        def body(index: tf.Tensor, sums: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            metrics = traced(first + index)
            values = tf.stack([metrics[name] for name in names])
            return index + 1, sums + tf.pad(values, [[0, width - len(names)]])

        # one vector: fetched from the device in one go
        return tf.while_loop(lambda index, _: index < count, body, (tf.constant(0), tf.zeros([width])))[1]

    def sums_of(first: int, count: int) -> dict[str, float]:
        sums = run_steps(tf.constant(first), tf.constant(count)).numpy()
        return dict(zip(names, sums[: len(names)].tolist(), strict=True))

    return sums_of
