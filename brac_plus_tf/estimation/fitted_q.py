"""Fitted Q evaluation: what a fixed policy would earn, from recorded transitions alone.

References: Fu et al. 2021 (DOPE; its FQE-L2 by policy_eval), Le et al. 2019. The value is discounted, so it is another
quantity than a simulator's score.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import gin
import numpy as np
import tensorflow as tf

from brac_plus_tf.agents.base import Preparation, Stage, TransitionSource
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.randomness import initializer_seed
from brac_plus_tf.core.settings import HyperParameters
from brac_plus_tf.core.types import Metrics, Transition, check_shapes
from brac_plus_tf.data.dataset import OfflineDataset
from brac_plus_tf.models.networks import CriticNetwork, Function
from brac_plus_tf.models.optimization import gradient_step, soft_update

# (numbers of transitions [B], next observations [B, O], seed [2]) -> next actions [B, A], all in network units
NextAction = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]


@gin.register
@dataclasses.dataclass(frozen=True)
class FittedQ(HyperParameters):
    """DOPE's settings for FQE-L2, in a tenth of its steps.

    members: each sees the episodes of its own bootstrap sample. weight_decay: AdamW's. tau: share of Q that its target
    takes over per step. looks: how often on the way the value is looked at; its drift is between the last two tenths.
    activation: of Q's hidden layers.
    """

    steps: int = 100_000
    batch_size: int = 256
    hidden_sizes: tuple[int, ...] = (256, 256)
    learning_rate: float = 3e-4
    weight_decay: float = 1e-5
    tau: float = 5e-3
    gamma: float = 0.99
    members: int = 4
    looks: int = 50
    activation: Function = tf.nn.relu

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.members < 2 or not 0.0 < self.gamma < 1.0 or self.looks < 20 or self.steps < self.looks:
            raise UserError(
                "FittedQ: an interval needs at least 2 members, the sum of rewards a gamma between 0 and 1, and the "
                f"drift at least 20 looks and as many steps; these are {self.members}, {self.gamma:g}, {self.looks} "
                f"and {self.steps}"
            )


class Units(NamedTuple):
    """Rewards of the environment, r, are shift + scale r'. low, high: what Q' of r' cannot leave."""

    shift: float
    scale: float
    low: float
    high: float


def reward_units(reward: np.ndarray, ends: bool, gamma: float) -> Units:
    """Rewards [M] in the environment's units are divided by their standard deviation and, where no episode ever ends,
    freed of their mean: shift / (1 - gamma) is then in every value.
    """
    reward = np.asarray(reward, np.float64)
    scale = float(reward.std()) or 1.0
    shift = 0.0 if ends else float(reward.mean())
    low, high = ((extreme(reward) - shift) / scale for extreme in (np.min, np.max))
    # an episode that ends earns nothing more: 0 is within the range of values where there are ends
    others = [0.0] if ends else []
    return Units(shift, scale, min(low / (1.0 - gamma), low, *others), max(high / (1.0 - gamma), high, *others))


def fitted_q_target(
    reward: tf.Tensor, discount: tf.Tensor, next_value: tf.Tensor, gamma: float, low: float, high: float
) -> tf.Tensor:
    """y_k = clip(r + gamma (1 - d) Q'_k(s', a'), low, high), [K, B], no gradient through it.

    Args:
      reward, discount: [B]; discount is 1 - d. next_value: [K, B], each member's own target network's.
    """
    check_shapes((reward, "B"), (discount, "B"), (next_value, "KB"))
    return tf.stop_gradient(tf.clip_by_value(reward + gamma * discount * next_value, low, high))


def bootstrap_weights(episodes: int, members: int, seed: int) -> np.ndarray:
    """How often each of P episodes is in each of K samples of P drawn with replacement: [K, P]."""
    generator = np.random.default_rng(initializer_seed(seed, "episodes of fitted Q"))
    return generator.multinomial(episodes, np.full(episodes, 1.0 / episodes), size=members).astype(np.float64)


class _Batch(NamedTuple):
    """transition: leaves [B, ..]. row: its number [B]. weight: how much it counts for each member [K, B]."""

    transition: Transition
    row: tf.Tensor
    weight: tf.Tensor


class Starts(NamedTuple):
    """First states of episodes: observation [S, O], and the row that each is of [S]."""

    observation: np.ndarray
    row: np.ndarray


class FittedQLearner:
    """K networks that learn Q of one policy, their targets and their optimiser; a stage of a run.

    Transitions are the dataset's, in its network units; so are actions. Values are told in the environment's reward
    units.
    """

    def __init__(
        self,
        name: str,
        settings: FittedQ,
        dataset: OfflineDataset,
        next_action: NextAction,
        first_action: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
        seed: int,
    ) -> None:
        """Args: first_action: (observation [S, O], seed) -> actions [S, A] at the starts of episodes."""
        self._name, self._settings, self._next_action, self._first_action = name, settings, next_action, first_action
        self._q, self._target = (
            CriticNetwork(settings.hidden_sizes, settings.members, dataset.dimensions, seed, name, settings.activation)
            for _ in range(2)
        )
        self._optimizer = tf.keras.optimizers.AdamW(settings.learning_rate, weight_decay=settings.weight_decay)
        self._optimizer.build(self._q.trainable_variables)
        transitions = dataset.transitions
        reward = np.asarray(dataset.scaling.to_environment_reward(transitions.reward), np.float64)
        self.units = reward_units(reward, bool((transitions.discount == 0.0).any()), settings.gamma)
        self._reward = np.asarray((reward - self.units.shift) / self.units.scale, np.float32)
        self.weights = bootstrap_weights(int(dataset.places.episode.max()) + 1, settings.members, seed)
        self._row_weights = self.weights[:, dataset.places.episode].astype(np.float32)
        self.starts = starts_of(dataset)

    def components(self) -> dict[str, Sequence[tf.Variable]]:
        """All variables under stable names."""
        learned = [*self._q.variables, *self._target.variables]
        return {self._name: learned, f"{self._name}_optimizer": self._optimizer.variables}

    def stage(self, writes: bool, settings: tuple[object, ...] = ()) -> Stage:
        """Learning Q; writes: whether other runs on the same data may take it over."""
        return Stage(
            name=self._name,
            steps=self._settings.steps,
            draw=self._draw,
            update=self.update,
            epoch_steps=max(1, self._settings.steps // self._settings.looks),
            prepare=lambda source, step, seed: self._look(seed) if step else Preparation(),
            conclude=lambda source, step, seed: self._look(seed),
            writes=tuple(self.components()) if writes else (),
            settings=(self._settings, *settings),
        )

    def _draw(self, source: TransitionSource, seed: tf.Tensor) -> _Batch:
        assert isinstance(source, OfflineDataset)
        count, size = source.number_of_transitions, [self._settings.batch_size]
        with tf.init_scope():
            weights = tf.constant(self._row_weights)
        row = tf.random.stateless_uniform(size, seed, 0, count, tf.int32, alg="philox")
        return _Batch(source.rows(row), row, tf.gather(weights, row, axis=1))

    def update(self, batch: _Batch, seed: tf.Tensor) -> Metrics:
        """One step of every member towards its own target network's value of the policy's next action."""
        transition, settings, units = batch.transition, self._settings, self.units
        with tf.init_scope():
            rewards = tf.constant(self._reward)
        action = self._next_action(batch.row, transition.next_observation, seed)
        next_value = self._value(self._target, transition.next_observation, action)
        reward = tf.gather(rewards, batch.row)
        target = fitted_q_target(reward, transition.discount, next_value, settings.gamma, units.low, units.high)

        def loss() -> tuple[tf.Tensor, Metrics]:
            error = self._q(transition.observation, transition.action) - (1.0 - settings.gamma) * target
            mean = tf.reduce_mean(batch.weight * tf.square(error), axis=1)
            # a sum over members: each learns as if it were alone
            return tf.reduce_sum(mean), {"q_error": tf.reduce_mean(mean)}

        metrics = gradient_step(loss, self._q.trainable_variables, self._optimizer)[1]
        soft_update(self._q.variables, self._target.variables, settings.tau)
        return metrics

    def _value(self, network: CriticNetwork, observation: tf.Tensor, action: tf.Tensor) -> tf.Tensor:
        """Q' [K, B]: the networks give (1 - gamma) Q', of the size of one reward."""
        return network(observation, action) / (1.0 - self._settings.gamma)

    def in_units(self, value: np.ndarray) -> np.ndarray:
        """Q' -> sum of discounted rewards in the environment's units."""
        return self.units.scale * value + self.units.shift / (1.0 - self._settings.gamma)

    def values(self, observation: np.ndarray, action: np.ndarray) -> np.ndarray:
        """Each member's value, by its target network, of actions [N, A] at observations [N, O]: [K, N]."""
        given = (tf.convert_to_tensor(values, tf.float32) for values in (observation, action))
        return self.in_units(self._value(self._target, *given).numpy().astype(np.float64))

    def estimates(self, seed: tf.Tensor) -> np.ndarray:
        """Each member's value of the policy from the starts of the episodes in its sample: [K]."""
        observation, row = self.starts
        action = self._first_action(tf.convert_to_tensor(observation), seed)
        # the weights of the starts' own episodes: both the networks and the starts are of the bootstrap sample
        weight = self._row_weights[:, row].astype(np.float64)
        return (weight * self.values(observation, action.numpy())).sum(axis=1) / np.maximum(weight.sum(axis=1), 1e-9)

    def _look(self, seed: tf.Tensor) -> Preparation:
        return Preparation(metrics={f"value/{k:02d}": float(v) for k, v in enumerate(self.estimates(seed))})


def starts_of(dataset: OfflineDataset) -> Starts:
    """Raises UserError for data without the beginning of an episode."""
    row = np.flatnonzero(dataset.places.step == 0)
    if not len(row):
        raise UserError("the data hold no beginning of an episode: nothing says where a policy would start")
    return Starts(dataset.transitions.observation[row], row)


def in_tenths(looks: Mapping[int, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Members' estimates [K] at steps -> their means over the last tenth of the looks, and over the tenth before it."""
    steps = sorted(looks)
    size = max(1, len(steps) // 10)
    last, before = steps[-size:], steps[-2 * size : -size]
    return tuple(np.mean([looks[step] for step in part], axis=0) for part in (last, before))
