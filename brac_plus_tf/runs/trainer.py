"""The training loop: runs an agent's stages in compiled calls of many steps. It knows no algorithm."""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence

import gin
import numpy as np
import tensorflow as tf

from brac_plus_tf.agents.base import Agent, Preparation, Prepare, Stage, TransitionSource, named_variables, state_of
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.randomness import Purpose, base_seed, fold
from brac_plus_tf.core.settings import HyperParameters
from brac_plus_tf.core.stopping import Interrupted, stop_requests
from brac_plus_tf.runs.checkpoints import Position
from brac_plus_tf.runs.compiled_stage import RunSteps, compile_stage
from brac_plus_tf.runs.progress import TrainingProgress
from brac_plus_tf.runs.run_record import RunRecord, Warned
from brac_plus_tf.runs.stage_cache import StageCache

Evaluate = Callable[[], dict[str, float]]


@gin.register
@dataclasses.dataclass(frozen=True)
class Loop(HyperParameters):
    """How often things happen beside training; none of it changes what is learned.

    steps_per_call: gradient steps per compiled call; metrics are their means. checkpoint_interval: gradient steps.
    evaluation_epochs: epochs between evaluations. compiled: XLA; without it the same steps run as a plain graph.
    snapshot_epochs: epochs of the stage that is evaluated between exports of its policy; 0 for none but the last.
    """

    steps_per_call: int = 500
    checkpoint_interval: int = 20_000
    evaluation_epochs: int = 10
    compiled: bool = True
    snapshot_epochs: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("steps_per_call", "checkpoint_interval", "evaluation_epochs"):
            if getattr(self, name) < 1:
                raise UserError(f"Loop.{name} is {getattr(self, name)}: it must be at least 1")
        if self.snapshot_epochs < 0:
            raise UserError(f"Loop.snapshot_epochs is {self.snapshot_epochs}: it must be at least 0, which means none")


@dataclasses.dataclass(frozen=True)
class TrainingRun:
    """What is trained on what, and who is told.

    cache: where pre-trained stages are found and kept; None for neither.
    evaluate: () -> metrics of the current policy; None where there is no environment. snapshot: exports the policy of
    a step; None where policies cannot be exported.
    """

    agent: Agent
    dataset: TransitionSource
    record: RunRecord
    cache: StageCache | None
    evaluate: Evaluate | None
    seed: int
    loop: Loop
    progress: TrainingProgress
    snapshot: Callable[[int], None] | None = None


def run(training_run: TrainingRun) -> None:
    """Trains an agent through all its stages, from the newest checkpoint on if there is one.

    Raises:
      Interrupted: after SIGINT or SIGTERM, once a checkpoint is written.
      UserError: if a metric is not finite.
    """
    agent, record, cache, loop = training_run.agent, training_run.record, training_run.cache, training_run.loop
    evaluate, progress = training_run.evaluate, training_run.progress
    variables, learned = state_of(agent), named_variables(agent.components())
    position, stages = record.restore(variables), agent.stages()
    with stop_requests(progress.say) as stopping:
        training = _Training(training_run, stages, variables, learned, stopping)
        for index in range(position.stage, len(stages)):
            stage, step = stages[index], position.step if index == position.stage else 0
            # a stage that is evaluated or exported on the way is trained: neither is kept with it
            on_the_way = stage.evaluate and (evaluate or loop.snapshot_epochs)
            reusable = cache and step == 0 and not on_the_way
            if reusable and cache and (report := cache.load(stages, index)):
                record.repeat(report)
                progress.reused(stage, report.steps)
            else:
                with progress.stage(stage, step):
                    seed = fold(base_seed(training_run.seed), index)
                    run_steps = compile_stage(stage, training_run.dataset, seed, loop.compiled)
                    training.train(run_steps, index, step)
                if cache:
                    cache.store(stages, index, record.report(stage.name))
            record.save(variables, Position(index + 1, 0))
            if stopping:
                raise Interrupted(f"the end of {stage.name}", stopping[0])


@dataclasses.dataclass(frozen=True)
class _Training:
    """What every stage of a run is trained with; see `run`."""

    run: TrainingRun
    stages: Sequence[Stage]
    variables: Mapping[str, tf.Variable]
    learned: Mapping[str, tf.Variable]  # those that must stay finite
    stopping: list[int]

    def train(self, run_steps: RunSteps, index: int, step: int) -> None:
        """Stage number `index` from `step` to its end."""
        stage, seed = self.stages[index], fold(base_seed(self.run.seed), index)
        while step < stage.steps:
            if step % stage.epoch_steps == 0 and self._report(stage, step, stage.prepare, seed).finished:
                break
            start, step = step, self._end_of_call(stage, step)
            means = self._take_steps(run_steps, stage, start, step)
            if step % stage.epoch_steps == 0 or step == stage.steps:
                self._watch(stage, step, means)
            if self._evaluation_is_due(stage, step):
                self._evaluate(stage, step)
            if self.run.snapshot and self._snapshot_is_due(stage, step):
                self.run.snapshot(step)
            if self.stopping or self._checkpoint_is_due(start, step):
                self.run.record.save(self.variables, Position(index, step))
            if self.stopping:
                raise Interrupted(f"{stage.name} step {step}", self.stopping[0])
        self._report(stage, step, stage.conclude, seed)

    def _end_of_call(self, stage: Stage, step: int) -> int:
        """Calls end at multiples of their length, and where an epoch or the stage ends."""
        ends = (_next_multiple(step, size) for size in (self.run.loop.steps_per_call, stage.epoch_steps))
        return min(*ends, stage.steps)

    def _evaluation_is_due(self, stage: Stage, step: int) -> bool:
        interval = self.run.loop.evaluation_epochs * stage.epoch_steps
        return stage.evaluate and self.run.evaluate is not None and (step % interval == 0 or step == stage.steps)

    def _snapshot_is_due(self, stage: Stage, step: int) -> bool:
        interval = self.run.loop.snapshot_epochs * stage.epoch_steps
        return stage.evaluate and interval > 0 and step % interval == 0

    def _checkpoint_is_due(self, start: int, step: int) -> bool:
        return start // self.run.loop.checkpoint_interval != step // self.run.loop.checkpoint_interval

    def _report(self, stage: Stage, step: int, find: Prepare, seed: tf.Tensor) -> Preparation:
        """What a stage finds before an epoch or at its end, shown and recorded."""
        found = find(self.run.dataset, step, fold(seed, Purpose.EPOCH, step))
        for warning in found.warnings:
            self._warn(stage, "", f"{stage.name}: {warning}")
        if found.metrics:
            self.run.record.write_metrics(stage.name, step, found.metrics)
        return found

    def _take_steps(self, run_steps: RunSteps, stage: Stage, start: int, step: int) -> dict[str, float]:
        """One compiled call; a loss, gradient or variable that is not finite ends the run: Adam keeps every gradient.

        Returns:
          The metrics' means over its steps.
        """
        began, count = time.perf_counter(), step - start
        means = {name: value / count for name, value in run_steps(start, count).items()}
        broken = [name for name, value in means.items() if not math.isfinite(value)]
        broken += [name for name, variable in self.learned.items() if not _is_finite(variable)][:3]
        if broken:
            raise UserError(
                f"{stage.name}: {', '.join(broken)} not finite between steps {start} and {step}; training stopped, "
                "the last checkpoint is from before; lower the learning rate or check the data"
            )
        self.run.record.write_timing(stage.name, step, count, time.perf_counter() - began)
        self.run.record.write_metrics(stage.name, step, means)
        self.run.progress.trained(count, means)
        return means

    def _watch(self, stage: Stage, step: int, means: Mapping[str, float]) -> None:
        for topic, warning in stage.watch(self.run.dataset, step, means).items():
            if (stage.name, topic) not in {(warned.stage, warned.topic) for warned in self.run.record.warnings}:
                self._warn(stage, topic, f"{stage.name} step {step}: {warning}")

    def _warn(self, stage: Stage, topic: str, text: str) -> None:
        self.run.progress.warn(text)
        self.run.record.warnings.append(Warned(stage.name, topic, text))

    def _evaluate(self, stage: Stage, step: int) -> None:
        assert self.run.evaluate is not None
        self.run.progress.evaluating()
        scores = self.run.evaluate()
        self.run.record.write_metrics(stage.name, step, {f"evaluation/{key}": value for key, value in scores.items()})
        self.run.progress.evaluated(scores)


def _is_finite(variable: tf.Variable) -> bool:
    return bool(np.isfinite(np.sum(variable.numpy(), dtype=np.float64)))  # of one array: any NaN or infinity shows


def _next_multiple(step: int, interval: int) -> int:
    return (step // interval + 1) * interval
