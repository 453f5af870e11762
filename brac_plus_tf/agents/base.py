"""What the training loop, the evaluation and the export may ask of an agent; they know nothing else about it."""

import dataclasses
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import tensorflow as tf

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.randomness import fold, row_normal
from brac_plus_tf.core.types import Dimensions, Metrics, Transition
from brac_plus_tf.data.scaling import Scaling
from brac_plus_tf.environments.tasks import Task


class TransitionSource(Protocol):
    """What training draws from: an offline dataset, or a replay buffer that grows between epochs."""

    @property
    def transitions(self) -> Transition:
        """All of them as arrays, in network units."""

    @property
    def tensors(self) -> Transition:
        """The same for compiled functions to hold, made at first use."""

    def sample(self, shape: tuple[int, ...], seed: tf.Tensor) -> Transition:
        """A batch with leading axes `shape`, drawn uniformly with replacement; equal seeds [2], equal batches."""

    def sample_segments(self, count: int, length: int, seed: tf.Tensor) -> Transition:
        """Stretches of consecutive steps of one episode, [count, length, ..]; UserError where there are none."""


@dataclasses.dataclass(frozen=True)
class Problem:
    """What an algorithm may know before it sees a transition.

    dimensions: sizes of observation and action. scaling: how the environment's units become those the networks see;
    None where they are the same. task: the environment that the data come from (its horizon, bounds, termination
    rule), None if unknown. reward_range: smallest and largest reward of the data, in network units, if there are data.
    discount: that the data state, if they do. terminals, transitions: how many the data hold, if there are data.
    """

    dimensions: Dimensions
    scaling: Scaling | None = None
    task: Task | None = None
    reward_range: tuple[float, float] | None = None
    discount: float | None = None
    terminals: int | None = None
    transitions: int | None = None


# Drawing batches --------------------------------------------------------------------------------------------------

Batch = Any  # a Transition, or any structure of tensors that a stage's `update` understands
Draw = Callable[[TransitionSource, tf.Tensor], Batch]


def uniform_rows(size: int) -> Draw:
    """Transitions [size, ..], uniformly with replacement."""
    return lambda data, seed: data.sample((size,), seed)


def member_rows(members: int, size: int) -> Draw:
    """A batch of its own for each member of an ensemble: [members, size, ..]."""
    return lambda data, seed: data.sample((members, size), seed)


def segments(count: int, length: int) -> Draw:
    """Stretches of consecutive steps of one episode, [count, length, ..], uniformly with replacement."""
    return lambda data, seed: data.sample_segments(count, length, seed)


def mixture(first: Draw, second: Draw, source: TransitionSource) -> Draw:
    """`first` of the stage's data followed by `second` of another source, one after the other along the first axis.

    Such as logged transitions and those that a model has made.
    """

    def draw(data: TransitionSource, seed: tf.Tensor) -> Batch:
        # seeds of their own: with one, both sources would be read at correlated places
        parts = first(data, fold(seed, 0)), second(source, fold(seed, 1))
        return tf.nest.map_structure(lambda *leaves: tf.concat(leaves, axis=0), *parts)

    return draw


# Stages -----------------------------------------------------------------------------------------------------------

Update = Callable[..., Metrics]


class Preparation(NamedTuple):
    """What was found before an epoch: warnings for the user, and metrics that are recorded at its first step.

    finished: the stage has nothing more to gain; it ends here, short of its `steps`.
    """

    warnings: Sequence[str] = ()
    metrics: Mapping[str, float] = types.MappingProxyType({})
    finished: bool = False


Prepare = Callable[[TransitionSource, int, tf.Tensor], Preparation]
Watch = Callable[[TransitionSource, int, Mapping[str, float]], dict[str, str]]


def no_preparation(dataset: TransitionSource, step: int, seed: tf.Tensor) -> Preparation:
    """Nothing to measure before an epoch."""
    del dataset, step, seed
    return Preparation()


def no_watch(dataset: TransitionSource, step: int, metrics: Mapping[str, float]) -> dict[str, str]:
    """Nothing to warn about."""
    del dataset, step, metrics
    return {}


State = Any  # of a policy within its episode: a nested structure of tensors with leading axis N


@dataclasses.dataclass(frozen=True)
class Policy:
    """One way to act in N episodes side by side.

    act: (observation [N, O] as the networks see it, state, noise [N, D] or [1, D]) -> (action [N, A] in [-1, 1], next
      state). Row n of both depends on row n of the observation, of the state and of the noise, not on the other rows.
    initial_state: N, an integer or a scalar tensor -> the state in which N episodes begin; `()` for a policy that
      remembers nothing.
    noise: D, how many draws from N(0, 1) an answer is made with. That they are given, and nothing is drawn within, is
      what lets a policy run where there are no random numbers of TensorFlow's.
    seeded: whether the action is a draw, with noise of its caller's seed. The other policies answer an observation
      always alike, with noise that is always the same.
    """

    act: Callable[[tf.Tensor, State, tf.Tensor], tuple[tf.Tensor, State]]
    initial_state: Callable[[int], State] = lambda count: ()
    noise: int = 0
    seeded: bool = False

    def __post_init__(self) -> None:
        if self.noise < 0 or (self.seeded and not self.noise):
            raise UserError(f"Policy: noise is {self.noise}; a way to act that is a draw needs at least one number")

    def draw(self, observation: tf.Tensor, state: State, seed: tf.Tensor) -> tuple[tf.Tensor, State]:
        """`act` with the noise of a seed: [2], whose noise all rows share, or [N, 2], one for each row."""
        return self.act(observation, state, self.noise_of(seed))

    def noise_of(self, seed: tf.Tensor) -> tf.Tensor:
        """[1, D] or [N, D]."""
        return row_normal(self.noise, seed) if self.noise else tf.zeros([1, 0])


def stateless(act: Callable[[tf.Tensor, tf.Tensor], tf.Tensor], noise: int = 0, seeded: bool = False) -> Policy:
    """A policy that remembers nothing, from (observation [N, O], noise [N or 1, D]) -> action [N, A]."""
    return Policy(lambda observation, state, draws: (act(observation, draws), state), noise=noise, seeded=seeded)


def candidate_noise(noise: tf.Tensor, candidates: int) -> tf.Tensor:
    """Noise [N or 1, C D] for C candidates in each state -> [C, N or 1, D]."""
    return tf.transpose(tf.reshape(noise, [-1, candidates, noise.shape[-1] // candidates]), [1, 0, 2])


@dataclasses.dataclass(frozen=True)
class Stage:
    """One part of training: `steps` calls of `update`, each on a fresh batch.

    name: its label in progress bars, metrics and checkpoints.
    draw: (data, seed [2]) -> batch; such as `uniform_rows(256)`.
    update: (batch, seed [2]) -> metrics (scalars), pure TensorFlow, traced once.
    needs_step: whether `update` is also given the step, a scalar int32 that counts from 0, as a delayed policy needs.
    epoch_steps: how often `prepare` runs; also the unit of evaluation.
    prepare: (dataset, step, seed [2]) -> warnings and metrics; runs eagerly before the first step of each epoch, and
      may end the stage.
    conclude: the same, once, after the last step.
    watch: (dataset, step, metrics) -> warnings by topic, after each epoch; the loop shows each topic once.
    evaluate: whether the policy is worth evaluating during the stage.
    writes: names of the components (see `Agent.components`) that the stage changes, if it may be reused by other
      runs; empty where it may not.
    settings: the hyper-parameter objects that its outcome depends on, beside those of the stages before it.
    """

    name: str
    steps: int
    draw: Draw
    update: Update
    epoch_steps: int
    prepare: Prepare = no_preparation
    conclude: Prepare = no_preparation
    watch: Watch = no_watch
    evaluate: bool = False
    writes: tuple[str, ...] = ()
    settings: tuple[object, ...] = ()
    needs_step: bool = False

    def __post_init__(self) -> None:
        if self.epoch_steps < 1:
            raise UserError(f"stage {self.name}: {self.epoch_steps} steps per epoch, there must be at least 1")


class Agent(Protocol):
    """A learning algorithm with all its state."""

    def stages(self) -> Sequence[Stage]:
        """Its stages in order."""

    def components(self) -> dict[str, Sequence[tf.Variable]]:
        """All it learns, optimiser slots included, grouped under stable names; tested for finiteness at every call."""

    def buffers(self) -> dict[str, Sequence[tf.Variable]]:
        """What else belongs to its state, such as recorded steps: kept in checkpoints, not tested. None by default."""
        return {}

    def policies(self) -> dict[str, Policy]:
        """Its ways to act by name; the first is the default."""


def named_variables(components: Mapping[str, Sequence[tf.Variable]]) -> dict[str, tf.Variable]:
    """Components flattened to unique, stable names `component/index`."""
    return {
        f"{component}/{index:03d}": variable
        for component, variables in components.items()
        for index, variable in enumerate(variables)
    }


def state_of(agent: Agent) -> dict[str, tf.Variable]:
    """All that a checkpoint of the agent holds, by name."""
    return named_variables({**agent.components(), **agent.buffers()})
