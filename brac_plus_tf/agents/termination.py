"""When an imagined episode ends: by the environment's known rule, by one learned from the data, or never.

A rule is built once the problem is known; what it may learn is a stage of its agent's.
"""

import dataclasses
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import gin
import numpy as np
import tensorflow as tf
from absl import logging

from brac_plus_tf.agents.base import Preparation, Problem, Stage, TransitionSource
from brac_plus_tf.agents.learned_dynamics import recorded
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.randomness import initializer_seed
from brac_plus_tf.core.settings import HyperParameters
from brac_plus_tf.core.types import Metrics, Transition
from brac_plus_tf.data.scaling import Scaling
from brac_plus_tf.environments.termination import HealthyRange
from brac_plus_tf.models.networks import EnsembleMLP, Layers, truncated_normal
from brac_plus_tf.models.optimization import build_adam, gradient_step

_ENOUGH = 100  # terminal transitions that a rule can be learned from


class Ends(Protocol):
    """A rule that is ready for use, and what it learns by, if it does."""

    def __call__(self, observation: tf.Tensor, action: tf.Tensor, next_observation: tf.Tensor) -> tf.Tensor:
        """[B, O], [B, A], [B, O] in network units -> whether the step ended its episode, bool [B]."""

    def stages(self) -> Sequence[Stage]:
        """What has to be learned first."""

    def components(self) -> dict[str, Sequence[tf.Variable]]:
        """All that is learned, under stable names."""


@runtime_checkable
class Termination(Protocol):
    """Which rule: one of those below, or a class of one's own."""

    def build(self, problem: Problem, seed: int) -> Ends:
        """Raises UserError where the problem has no such rule."""


class _Fixed:
    """A rule with nothing to learn."""

    def stages(self) -> Sequence[Stage]:
        """None."""
        return ()

    def components(self) -> dict[str, Sequence[tf.Variable]]:
        """None."""
        return {}


@gin.register
@dataclasses.dataclass(frozen=True)
class KnownTermination(HyperParameters):
    """That of the environment, where it can be read off an observation."""

    def build(self, problem: Problem, seed: int) -> Ends:
        """Raises UserError for an environment without one."""
        del seed
        healthy = problem.task.healthy if problem.task else None
        if healthy is None:
            name = problem.task.name if problem.task else "the data's environment"
            raise UserError(
                f"when an episode of {name} ends cannot be read off its observations; bind its termination to "
                "@LearnedTermination() or, if episodes are only ever cut, @NoTermination()"
            )
        return _Known(healthy, problem.scaling)


class _Known(_Fixed):
    def __init__(self, healthy: HealthyRange, scaling: Scaling | None) -> None:
        self._healthy, self._scaling = healthy, scaling

    def __call__(self, observation: tf.Tensor, action: tf.Tensor, next_observation: tf.Tensor) -> tf.Tensor:
        scaling = self._scaling
        return self._healthy.ends(scaling.to_environment_observation(next_observation) if scaling else next_observation)


@gin.register
@dataclasses.dataclass(frozen=True)
class NoTermination(HyperParameters):
    """Episodes are only ever cut. Data that hold terminals say otherwise, of which there is a warning."""

    def build(self, problem: Problem, seed: int) -> Ends:
        """Never ends."""
        del seed
        if problem.terminals:
            logging.warning(
                "%s transitions of the data end their episode, but imagined episodes never will "
                "(NoTermination): the policy does not learn to avoid what ends them",
                f"{problem.terminals:,}",
            )
        return _Never()


class _Never(_Fixed):
    def __call__(self, observation: tf.Tensor, action: tf.Tensor, next_observation: tf.Tensor) -> tf.Tensor:
        return tf.zeros(tf.shape(next_observation)[:1], tf.bool)


@gin.register
@dataclasses.dataclass(frozen=True)
class LearnedTermination(HyperParameters):
    """A classifier of (s, a, s'), whose two classes count alike however rare terminals are."""

    hidden_sizes: tuple[int, ...] = (200, 200)
    steps: int = 10_000
    epoch_steps: int = 1000
    batch_size: int = 256
    learning_rate: float = 1e-3
    holdout_share: float = 0.1

    def build(self, problem: Problem, seed: int) -> Ends:
        """Raises UserError for data with too few terminals."""
        if (problem.terminals or 0) < _ENOUGH:
            raise UserError(
                f"{problem.terminals or 0} transitions of the data end their episode, too few to learn from when "
                f"episodes do ({_ENOUGH}); bind its termination to @KnownTermination() or @NoTermination()"
            )
        return _Learned(self, problem, seed)


@gin.register
@dataclasses.dataclass(frozen=True)
class AnyTermination(HyperParameters):
    """The known rule where there is one; else none for data without a terminal, and a learned one for others."""

    learned: LearnedTermination = LearnedTermination()

    def build(self, problem: Problem, seed: int) -> Ends:
        """Raises UserError where a rule would have to be learned from too few terminals."""
        if problem.task and problem.task.healthy:
            return KnownTermination().build(problem, seed)
        if problem.terminals:
            return self.learned.build(problem, seed)
        return NoTermination().build(problem, seed)


class _Learned:
    """The classifier, its optimiser and its stage."""

    def __init__(self, settings: LearnedTermination, problem: Problem, seed: int) -> None:
        observation, action = problem.dimensions
        self._settings, self._seed = settings, seed
        layers = Layers(tf.nn.silu, truncated_normal)
        inputs = 2 * observation + action
        self._network = EnsembleMLP(1, inputs, settings.hidden_sizes, 1, seed, "termination", layers)
        self._shift, self._scale = (tf.Variable(tf.fill([inputs], value), trainable=False) for value in (0.0, 1.0))
        self._optimizer = build_adam(settings.learning_rate, self._network.trainable_variables)

    def __call__(self, observation: tf.Tensor, action: tf.Tensor, next_observation: tf.Tensor) -> tf.Tensor:
        return self._logit(observation, action, next_observation) > 0.0

    def _logit(self, observation: tf.Tensor, action: tf.Tensor, next_observation: tf.Tensor) -> tf.Tensor:
        # the change instead of s' itself: two states a step apart are otherwise nearly the same inputs
        inputs = tf.concat([observation, action, next_observation - observation], axis=-1)
        return tf.squeeze(self._network.member(0)((inputs - self._shift) / self._scale), axis=-1)

    def stages(self) -> Sequence[Stage]:
        """The classifier's."""
        settings = self._settings
        return (
            Stage(
                name="termination",
                steps=settings.steps,
                draw=self._draw,
                update=self.update,
                epoch_steps=settings.epoch_steps,
                prepare=self._prepare,
                conclude=self._conclude,
                writes=tuple(self.components()),
                settings=(settings,),
            ),
        )

    def components(self) -> dict[str, Sequence[tf.Variable]]:
        """All variables under stable names."""
        return {
            "termination": [*self._network.variables, self._shift, self._scale],
            "termination_optimizer": self._optimizer.variables,
        }

    def _parts(self, source: TransitionSource) -> list[np.ndarray]:
        """Numbers of the transitions to learn from and of those held out, each (those that go on, those that end)."""
        data = recorded(source)
        ends = (data.transitions.discount == 0.0) & data.places.known
        classes = [np.flatnonzero((data.transitions.discount == 1.0) & data.places.known), np.flatnonzero(ends)]
        generator = np.random.default_rng(initializer_seed(self._seed, "termination holdout"))
        classes = [generator.permutation(rows) for rows in classes]
        cut = [max(1, round(self._settings.holdout_share * len(rows))) for rows in classes]
        if any(count >= len(rows) for count, rows in zip(cut, classes, strict=True)):
            raise UserError(
                "the data do not store the next observations of transitions that end their episode: when episodes "
                "end cannot be learned; bind its termination to @KnownTermination() or @NoTermination()"
            )
        parts = [np.split(rows, [count]) for rows, count in zip(classes, cut, strict=True)]
        return [*(training for _, training in parts), *(held_out for held_out, _ in parts)]

    def _draw(self, source: TransitionSource, seed: tf.Tensor) -> Transition:
        """As many that end as that go on: [2, B, ..], those that go on first."""
        data, (on, end, _, _) = recorded(source), self._parts(source)
        half = self._settings.batch_size // 2
        with tf.init_scope():
            classes = [tf.constant(rows, tf.int32) for rows in (on, end)]
        places = tf.random.stateless_uniform([2, half], seed, 0, 2**31 - 1, tf.int32, alg="philox")
        numbers = [tf.gather(rows, place % len(rows)) for rows, place in zip(classes, tf.unstack(places), strict=True)]
        return data.rows(tf.stack(numbers))

    def update(self, batch: Transition, seed: tf.Tensor) -> Metrics:
        """One step on the mean cross entropy."""
        del seed

        def loss() -> tuple[tf.Tensor, Metrics]:
            logit = self._logit(batch.observation, batch.action, batch.next_observation)
            label = 1.0 - batch.discount
            return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(label, logit)), {}

        return {"loss": gradient_step(loss, self._network.trainable_variables, self._optimizer)[0]}

    def _prepare(self, source: TransitionSource, step: int, seed: tf.Tensor) -> Preparation:
        del seed
        if step == 0:
            transitions = recorded(source).transitions
            change = transitions.next_observation - transitions.observation
            inputs = np.concatenate([transitions.observation, transitions.action, change], axis=1)
            self._shift.assign(inputs.mean(axis=0, dtype=np.float64))
            self._scale.assign(np.maximum(inputs.std(axis=0, dtype=np.float64), 1e-6))
        return Preparation()

    def _conclude(self, source: TransitionSource, step: int, seed: tf.Tensor) -> Preparation:
        """Precision and recall on what was held out, where terminals are as rare as in the data."""
        del step, seed
        data, (_, _, on, end) = recorded(source), self._parts(source)
        false, true = (
            int(np.sum(self(*(tf.convert_to_tensor(column) for column in _inputs(data.transitions, rows)))))
            for rows in (on, end)
        )
        found = {"recall": true / len(end), "precision": true / (true + false) if true + false else 0.0}
        return Preparation(metrics=found)


def _inputs(transitions: Transition, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return transitions.observation[rows], transitions.action[rows], transitions.next_observation[rows]
