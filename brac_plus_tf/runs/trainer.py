"""The training loop: runs an agent's stages in compiled calls of many steps. It knows no algorithm."""

import dataclasses
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence

import gin
import numpy as np
import tensorflow as tf
from absl import logging
from tqdm import tqdm

from brac_plus_tf.agents.base import Agent, Stage, TransitionSource, named_variables
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.randomness import Purpose, base_seed, fold
from brac_plus_tf.core.settings import HyperParameters
from brac_plus_tf.core.stopping import Interrupted, stop_requests
from brac_plus_tf.core.types import Metrics
from brac_plus_tf.runs.run_record import Position, RunRecord
from brac_plus_tf.runs.stage_cache import StageCache

Evaluate = Callable[[], dict[str, float]]
RunSteps = Callable[[int, int], dict[str, float]]
_MOST_METRICS = 64


@gin.register
@dataclasses.dataclass(frozen=True)
class Loop(HyperParameters):
    """How often things happen beside training; none of it changes what is learned.

    steps_per_call: gradient steps per compiled call; metrics are their means. checkpoint_interval: gradient steps.
    evaluation_epochs: epochs between evaluations. compiled: XLA; without it the same steps run as a plain graph.
    """

    steps_per_call: int = 500
    checkpoint_interval: int = 20_000
    evaluation_epochs: int = 10
    compiled: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("steps_per_call", "checkpoint_interval", "evaluation_epochs"):
            if getattr(self, name) < 1:
                raise UserError(f"Loop.{name} is {getattr(self, name)}: it must be at least 1")


def run(
    agent: Agent,
    dataset: TransitionSource,
    record: RunRecord,
    cache: StageCache | None,
    evaluate: Evaluate | None,
    seed: int,
    loop: Loop,
) -> None:
    """Trains `agent` through all its stages, from the newest checkpoint on if there is one.

    Args:
      cache: where pre-trained stages are found and kept; None for neither.
      evaluate: () -> metrics of the current policy; None where there is no environment.
    Raises:
      Interrupted: after SIGINT or SIGTERM, once a checkpoint is written.
      UserError: if a metric is not finite.
    """
    variables = named_variables(agent.components())
    position = record.restore(variables)
    stages = agent.stages()
    with stop_requests() as stop_requested:
        for index, stage in enumerate(stages):
            if index < position.stage:
                continue
            step = position.step if index == position.stage else 0
            # a stage that is evaluated on the way is trained: its evaluations are not kept with it
            if cache and step == 0 and not (stage.evaluate and evaluate) and cache.load(stages, index):
                print(f"{stage.name}: {stage.steps} steps reused from an equal run")
            else:
                _train_stage(agent, stages, index, step, dataset, record, evaluate, seed, loop, stop_requested)
                if cache:
                    cache.store(stages, index)
            record.save(variables, Position(index + 1, 0))
            if stop_requested:
                raise Interrupted(f"the end of {stage.name}", stop_requested[0])


def _train_stage(
    agent: Agent,
    stages: Sequence[Stage],
    index: int,
    step: int,
    dataset: TransitionSource,
    record: RunRecord,
    evaluate: Evaluate | None,
    seed: int,
    loop: Loop,
    stop_requested: list[int],
) -> None:
    stage, variables = stages[index], named_variables(agent.components())
    stage_seed = fold(base_seed(seed), index)
    run_steps = compile_stage(stage, dataset, stage_seed, loop.compiled)
    interval, warned = loop.evaluation_epochs * stage.epoch_steps, set[str]()
    with tqdm(total=stage.steps, initial=step, desc=stage.name, unit="step", file=sys.stdout, mininterval=1.0) as bar:
        while step < stage.steps:
            if step % stage.epoch_steps == 0:
                for warning in stage.prepare(dataset, step, fold(stage_seed, Purpose.EPOCH, step)):
                    logging.warning("%s: %s", stage.name, warning)
            start, step = (
                step,
                min(*(_next_multiple(step, size) for size in (loop.steps_per_call, stage.epoch_steps)), stage.steps),
            )
            began = time.perf_counter()
            means = _mean_metrics(run_steps, stage, start, step - start, variables)
            record.write_timing(stage.name, step, step - start, time.perf_counter() - began)
            record.write_metrics(stage.name, step, means)
            bar.update(step - start)
            if step % stage.epoch_steps == 0 or step == stage.steps:
                for topic, warning in stage.watch(dataset, step, means).items():
                    if topic not in warned:
                        logging.warning("%s step %d: %s", stage.name, step, warning)
                    warned.add(topic)
            if stage.evaluate and evaluate and (step % interval == 0 or step == stage.steps):
                scores = evaluate()
                record.write_metrics(stage.name, step, {f"evaluation/{key}": value for key, value in scores.items()})
                bar.set_postfix({key: f"{value:.1f}" for key, value in scores.items()}, refresh=False)
            if stop_requested or start // loop.checkpoint_interval != step // loop.checkpoint_interval:
                record.save(variables, Position(index, step))
            if stop_requested:
                raise Interrupted(f"{stage.name} step {step}", stop_requested[0])


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


def _mean_metrics(
    run_steps: RunSteps, stage: Stage, step: int, count: int, variables: Mapping[str, tf.Variable]
) -> dict[str, float]:
    """One compiled call; a loss, gradient or variable that is not finite ends the run (Adam keeps every gradient)."""
    means = {name: value / count for name, value in run_steps(step, count).items()}
    broken = [name for name, value in means.items() if not math.isfinite(value)]
    broken += [name for name, variable in variables.items() if not _is_finite(variable)][:3]
    if broken:
        raise UserError(
            f"{stage.name}: {', '.join(broken)} not finite between steps {step} and {step + count}; training stopped, "
            "the last checkpoint is from before; lower the learning rate or check the data"
        )
    return means


def _is_finite(variable: tf.Variable) -> bool:
    return bool(np.isfinite(np.sum(variable.numpy(), dtype=np.float64)))  # of one array: any NaN or infinity shows


def _next_multiple(step: int, interval: int) -> int:
    return (step // interval + 1) * interval
