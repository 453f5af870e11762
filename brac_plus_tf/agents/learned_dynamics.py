"""Learning a model of the dynamics: a stage that runs of every model-based agent may share.

Each member learns from a bootstrap sample of its own; an epoch is followed by a look at held-out transitions, and the
best weights of each member are what is kept (Yu et al. 2020, after Janner et al. 2019).
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import gin
import numpy as np
import tensorflow as tf

from brac_plus_tf.agents.base import Preparation, Problem, Stage, TransitionSource
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.randomness import initializer_seed
from brac_plus_tf.core.settings import HyperParameters
from brac_plus_tf.core.types import Metrics, Transition
from brac_plus_tf.data.dataset import OfflineDataset, longest_stretch
from brac_plus_tf.models.dynamics import Dynamics, Prediction
from brac_plus_tf.models.optimization import build_adam, gradient_step, raw

HoldOut = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]
_HORIZONS = (1, 2, 5, 10, 20)  # steps over which the report follows the data
_SEGMENTS = 1000


@gin.register
def transitions_held_out(episode: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """`count` transitions drawn one by one, as published: their neighbours are learned from. [M] bool."""
    held_out = np.zeros(len(episode), bool)
    held_out[generator.permutation(len(episode))[:count]] = True
    return held_out


@gin.register
def episodes_held_out(episode: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Whole episodes in random order, until they have `count` transitions. [M] bool; episode: [M], each one's."""
    numbers, sizes = np.unique(episode, return_counts=True)
    order = generator.permutation(len(numbers))
    needed = int(np.searchsorted(np.cumsum(sizes[order]), count)) + 1
    return np.isin(episode, numbers[order[:needed]])


@gin.register
@dataclasses.dataclass(frozen=True)
class DynamicsFit(HyperParameters):
    """How the ensemble is fitted: `epochs` of `epoch_steps` gradient steps at most.

    batch_size: for each member. holdout_share, holdout_size: share of the transitions that is held out, and how many
    at most. hold_out: which. improvement: relative fall of a member's squared error by which its weights are the best
    so far. patience: epochs without any member's improving that are borne; the next such one ends the stage.
    """

    epochs: int = 100
    epoch_steps: int = 1000
    batch_size: int = 256
    learning_rate: float = 1e-3
    holdout_share: float = 0.2
    holdout_size: int = 1000
    hold_out: HoldOut = transitions_held_out
    improvement: float = 0.01
    patience: int = 5


class DynamicsBatch(NamedTuple):
    """For each of K members: transition, leaves [K, B, ..], and known [K, B], 1 where the next observation is one."""

    transition: Transition
    known: tf.Tensor


class LearnedDynamics:
    """The ensemble, its optimiser, and the best weights found so far.

    order: the members from the one of the least held-out error on, int32 [K], once the stage is over. low, high: the
    ranges of reward and next observation in the data, [1 + O].
    """

    def __init__(self, shape: Dynamics, fit: DynamicsFit, problem: Problem, seed: int) -> None:
        self.network = shape.build(problem.dimensions, seed)
        self.order = tf.Variable(tf.range(shape.members), trainable=False)
        outputs = 1 + problem.dimensions.observation
        self.low, self.high = (tf.Variable(tf.zeros([outputs]), trainable=False) for _ in range(2))
        self._shape, self._fit, self._seed = shape, fit, seed
        # every one of a member's own: the bounds of its variances, too, which belong to the head that was validated
        self._own = raw([*self.network.network.variables, *self.network.min_max])
        self._optimizer = build_adam(fit.learning_rate, self.network.trainable_variables)
        self._best = [tf.Variable(variable, trainable=False) for variable in self._own]
        # of no epoch yet; not infinite, for what an agent learns is tested for being finite
        self._best_error = tf.Variable(tf.fill([shape.members], tf.float32.max), trainable=False)
        self._idle_epochs = tf.Variable(0, trainable=False)

    def components(self) -> dict[str, Sequence[tf.Variable]]:
        """All variables under stable names."""
        found = [self.order, self.low, self.high, *self._best, self._best_error, self._idle_epochs]
        return {
            "dynamics": [*self.network.variables, *found],
            "dynamics_optimizer": self._optimizer.variables,
        }

    def stage(self) -> Stage:
        """Fitting the ensemble."""
        fit = self._fit
        return Stage(
            name="dynamics",
            steps=fit.epochs * fit.epoch_steps,
            draw=self._draw,
            update=self.update,
            epoch_steps=fit.epoch_steps,
            prepare=self._prepare,
            conclude=self._conclude,
            writes=tuple(self.components()),
            settings=(self._shape, fit),
        )

    def update(self, batch: DynamicsBatch, seed: tf.Tensor) -> Metrics:
        """One step of every member on its own minibatch."""
        del seed
        transition = batch.transition
        target = targets(transition)
        known = tf.repeat(batch.known[..., None], target.shape[-1] - 1, axis=-1)
        weight = tf.concat([tf.ones_like(batch.known)[..., None], known], axis=-1)

        def loss() -> tuple[tf.Tensor, Metrics]:
            prediction = self.network(transition.observation, transition.action)
            squared_error = tf.reduce_mean(weight * tf.square(prediction.mean - target))
            metrics = {"squared_error": squared_error, "log_variance": tf.reduce_mean(prediction.log_variance)}
            return self.network.loss(prediction, target, weight), metrics

        total, metrics = gradient_step(loss, self.network.trainable_variables, self._optimizer)
        return metrics | {"loss": total} | self.network.bound_metrics()

    # Which transitions ----------------------------------------------------------------------------------------------

    def _parts(self, data: OfflineDataset) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the transitions to learn from, and of those held out; always the same ones."""
        rows, fit = data.number_of_transitions, self._fit
        count = min(int(fit.holdout_share * rows), fit.holdout_size)
        generator = np.random.default_rng(initializer_seed(self._seed, "dynamics holdout"))
        held_out = fit.hold_out(data.places.episode, count, generator) if count else np.zeros(rows, bool)
        if not 0 < held_out.sum() < rows:
            raise UserError(
                f"a model of the dynamics needs transitions to learn from and some to be judged by: {rows} with "
                f"DynamicsFit.holdout_share {fit.holdout_share:g} leave one part empty"
            )
        return np.flatnonzero(~held_out), np.flatnonzero(held_out)

    def _bootstrap(self, data: OfflineDataset) -> np.ndarray:
        """Each member's own sample, drawn once with replacement: numbers of transitions [K, N]."""
        training, _ = self._parts(data)
        generator = np.random.default_rng(initializer_seed(self._seed, "dynamics bootstrap"))
        return training[generator.integers(len(training), size=(self._shape.members, len(training)))]

    def _draw(self, source: TransitionSource, seed: tf.Tensor) -> DynamicsBatch:
        """Uniformly from each member's bootstrap sample."""
        data = recorded(source)
        samples = self._bootstrap(data)
        with tf.init_scope():
            bootstrap, known = tf.constant(samples, tf.int32), tf.constant(data.places.known, tf.float32)
        shape = [self._shape.members, self._fit.batch_size]
        place = tf.random.stateless_uniform(shape, seed, 0, samples.shape[1], tf.int32, alg="philox")
        rows = tf.gather(bootstrap, place, batch_dims=1)
        return DynamicsBatch(data.rows(rows), tf.gather(known, rows))

    # Between epochs, eagerly ----------------------------------------------------------------------------------------

    def _prepare(self, source: TransitionSource, step: int, seed: tf.Tensor) -> Preparation:
        """Before the first epoch the data's scales, after each a look at what is held out."""
        del seed
        data = recorded(source)
        if step == 0:
            self._begin(data)
            return Preparation()
        improved, metrics = self._look(data)
        self._idle_epochs.assign(0 if improved else self._idle_epochs + 1)
        return Preparation(metrics=metrics, finished=int(self._idle_epochs) > self._fit.patience)

    def _conclude(self, source: TransitionSource, step: int, seed: tf.Tensor) -> Preparation:
        """Every member goes back to its best weights; what they are worth is reported."""
        data = recorded(source)
        _, metrics = self._look(data)
        for variable, best in zip(self._own, self._best, strict=True):
            variable.assign(best)
        self.order.assign(np.argsort(self._best_error.numpy(), kind="stable").astype(np.int32))
        warnings = []
        crossed = int(np.sum(self.network.max_log_variance.numpy() < self.network.min_log_variance.numpy()))
        if crossed:
            warnings.append(
                f"the learned bounds of {crossed} log variances have crossed: what the model takes for noise there is "
                "a constant, on the data and off them; Dynamics.learn_bounds = False keeps them where they start"
            )
        return Preparation(warnings, metrics | self._report(data, seed))

    def _begin(self, data: OfflineDataset) -> None:
        training, _ = self._parts(data)
        transitions = data.transitions
        self.network.fit_inputs(transitions.observation[training], transitions.action[training])
        following = transitions.next_observation[data.places.known]
        for variable, extreme in ((self.low, np.min), (self.high, np.max)):
            variable.assign(np.append(extreme(transitions.reward), extreme(following, axis=0)))

    def _predict(self, transition: Transition) -> Prediction:
        return self.network(transition.observation, transition.action)

    def _held_out(self, data: OfflineDataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Errors of the means and standard deviations [K, M, 1 + O], and [M, 1 + O] what is known of the targets."""
        _, rows = self._parts(data)
        transition = data.rows(tf.constant(rows, tf.int32))
        prediction = self._predict(transition)
        known = np.ones(prediction.mean.shape[1:], bool)
        known[:, 1:] = data.places.known[rows, None]
        error = prediction.mean.numpy() - targets(transition).numpy()
        return error, np.exp(0.5 * prediction.log_variance.numpy()), known

    def _look(self, data: OfflineDataset) -> tuple[bool, dict[str, float]]:
        """Keeps the weights of members whose held-out squared error fell; whether there were any, and the errors."""
        error, _, known = self._held_out(data)
        squared = (np.square(error, dtype=np.float64) * known).sum(axis=(1, 2)) / known.sum()
        best = self._best_error.numpy()
        improved = squared < (1.0 - self._fit.improvement) * best
        self._best_error.assign(np.where(improved, squared, best))
        for variable, kept in zip(self._own, self._best, strict=True):
            rows = improved.reshape([-1] + [1] * (variable.shape.rank - 1))
            kept.assign(tf.where(rows, variable, kept))
        mean, least = float(squared.mean()), float(self._best_error.numpy().mean())
        return bool(improved.any()), {"holdout_squared_error": mean, "holdout_squared_error_best": least}

    # The report ------------------------------------------------------------------------------------------------------

    def _report(self, data: OfflineDataset, seed: tf.Tensor) -> dict[str, float]:
        """Of the best member, for every output: error over the spread of what is to be predicted, and calibration.

        error: root mean squared error over the target's standard deviation; 1 is what its mean would do. calibration:
        the same error over the predicted deviation, 1 if that is right. Output 0 is the reward.
        """
        error, deviation, known = self._held_out(data)
        best = int(self.order[0])
        _, rows = self._parts(data)
        spread = np.where(known, targets(data.rows(tf.constant(rows, tf.int32))).numpy(), np.nan)
        metrics = {}
        for name, scale in (("error", np.nanstd(spread, axis=0)), ("calibration", deviation[best])):
            relative = np.where(known, error[best] / np.maximum(scale, 1e-12), np.nan)
            for output, value in enumerate(np.sqrt(np.nanmean(np.square(relative, dtype=np.float64), axis=0))):
                metrics[f"{name}/{output:02d}"] = float(value)
        return metrics | self._error_over_steps(data, seed)

    def _error_over_steps(self, data: OfflineDataset, seed: tf.Tensor) -> dict[str, float]:
        """Along stretches of the data, from their first state on by the best member's means: state error at step h.

        Root mean square over states and entries, in standard deviations of the data's entries.
        """
        spread = np.maximum(data.transitions.observation.std(axis=0, dtype=np.float64), 1e-6)
        longest, best, metrics = longest_stretch(data.places), int(self.order[0]), {}
        horizon = max((h for h in _HORIZONS if h < longest), default=0)
        if not horizon:
            return {}
        # what follows is read off the next row: the next observation of an episode's last one may be unknown
        stretch = data.sample_segments(_SEGMENTS, horizon + 1, seed)
        state = stretch.observation[:, 0]
        for step in range(horizon):
            prediction = self.network(state, stretch.action[:, step])
            state = state + prediction.mean[best, :, 1:]
            if step + 1 in _HORIZONS:
                error = (state - stretch.observation[:, step + 1]).numpy() / spread
                metrics[f"error_after_steps/{step + 1:02d}"] = float(np.sqrt(np.square(error).mean()))
        return metrics


def targets(transition: Transition) -> tf.Tensor:
    """(r, s' - s), [.., 1 + O]."""
    change = transition.next_observation - transition.observation
    return tf.concat([tf.convert_to_tensor(transition.reward)[..., None], change], axis=-1)


def recorded(source: TransitionSource) -> OfflineDataset:
    """The data of a stage as a dataset that knows its episodes.

    Raises:
      UserError: for a replay buffer.
    """
    if not isinstance(source, OfflineDataset):
        raise UserError("a model of the dynamics is learned from recorded data, not online")
    return source
