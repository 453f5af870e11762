"""A stage's gradient steps as one compiled function: many steps a call, with no Python between them."""

from collections.abc import Callable

import tensorflow as tf

from brac_plus_tf.agents.base import Stage, TransitionSource
from brac_plus_tf.core.randomness import Purpose, fold
from brac_plus_tf.core.types import Metrics

RunSteps = Callable[[int, int], dict[str, float]]
_MOST_METRICS = 64


def take_step(stage: Stage, dataset: TransitionSource, seed: tf.Tensor, step: tf.Tensor) -> Metrics:
    """Gradient step number `step` of a stage: draws its batch and updates."""
    step_seed = fold(seed, Purpose.UPDATE, step)
    batch = dataset.sample(stage.sample_shape, fold(step_seed, Purpose.BATCH))
    return stage.update(batch, step_seed)


def compile_stage(stage: Stage, dataset: TransitionSource, seed: tf.Tensor, compiled: bool = True) -> RunSteps:
    """A function (first step, count) -> sums of the metrics over these steps; traces the stage's update once."""
    names: list[str] = []
    _ = dataset.tensors  # made here: variables that first appear while tracing make TensorFlow trace again

    # without AutoGraph, which reads source files when a stage is traced, hours into a run that may have changed
    @tf.function(
        jit_compile=compiled,
        autograph=False,
        input_signature=[tf.TensorSpec([], tf.int32), tf.TensorSpec([], tf.int32)],
    )
    def run_steps(first: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        def body(index: tf.Tensor, sums: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            metrics = take_step(stage, dataset, seed, first + index)
            names[:] = sorted(metrics)
            values = tf.stack([metrics[name] for name in names])
            return index + 1, sums + tf.pad(values, [[0, _MOST_METRICS - len(names)]])

        # a vector of fixed size: the metrics' names are known only once the body has been traced
        return tf.while_loop(lambda index, _: index < count, body, (tf.constant(0), tf.zeros([_MOST_METRICS])))[1]

    def sums_of(first: int, count: int) -> dict[str, float]:
        vector = run_steps(tf.constant(first), tf.constant(count)).numpy()
        return dict(zip(names, vector[: len(names)].tolist(), strict=True))

    return sums_of
