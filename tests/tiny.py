"""Everything a run is made of, in the smallest size that still has all its parts."""

import contextlib
import dataclasses
import io
import logging
import pathlib
import runpy
import sys
import warnings
from collections.abc import Callable, Sequence

import gymnasium
import h5py
import numpy as np
import tensorflow as tf
from absl import flags
from processes import PROJECT, Outcome
from tensorboard.backend.event_processing.event_accumulator import TENSORS, EventAccumulator

# what registers flags or gin names has to be there before `run_here` forgets a command's own and a command locks gin
import brac_plus_tf.collection.recording
import brac_plus_tf.command_line
import brac_plus_tf.estimation.estimate
import brac_plus_tf.runs.experiment
import brac_plus_tf.runs.online  # noqa: F401
from brac_plus_tf.agents.base import (
    Agent,
    Policy,
    Preparation,
    Stage,
    state_of,
    stateless,
    uniform_rows,
)
from brac_plus_tf.agents.value_learning import Critic
from brac_plus_tf.core.randomness import standard_normal
from brac_plus_tf.core.types import Dimensions, Transition
from brac_plus_tf.data.dataset import OfflineDataset, Origin
from brac_plus_tf.data.episodes import Places, RecordedEpisodes
from brac_plus_tf.data.scaling import Scaling

DIMENSIONS = Dimensions(observation=3, action=2)
CONFIGS = PROJECT / "gin_configs"

# BRAC+ in seconds: a stage of pre-training is 24 gradient steps, the main stage 30 epochs of 8
NETWORKS = (
    "Actor.hidden_sizes = (8,)",
    "Critic.hidden_sizes = (8,)",
    "VAEEnsemble.hidden_sizes = (8,)",
    "VAEEnsemble.members = 2",
)
BINDINGS = (
    *NETWORKS,
    "StateMultiplier.hidden_sizes = (8,)",
    "Fit.batch_size = 8",
    "behavior/Fit.steps = 24",
    "initial_policy/Fit.steps = 24",
    "initial_critic/Fit.steps = 24",
    "Improvement.epochs = 30",
    "Improvement.steps_per_epoch = 8",
    "Improvement.batch_size = 8",
    "Experiment.evaluation_episodes = 2",
    "Experiment.final_episodes = 3",
    "Loop.evaluation_epochs = 10",
    "Loop.steps_per_call = 5",
    "Loop.checkpoint_interval = 20",
)


# Datasets --------------------------------------------------------------------------------------------------------


def write_hopper_dataset(path: pathlib.Path, steps: int = 300, env_id: str | None = "Hopper-v4") -> str:
    """What Hopper-v4 answers to `steps` uniformly drawn actions, in D4RL's layout; returns the path as str."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        environment = gymnasium.make("Hopper-v4")
    generator = np.random.default_rng(0)
    rows: dict[str, list] = {key: [] for key in ("observations", "actions", "rewards", "terminals", "timeouts")}
    observation, _ = environment.reset(seed=0)
    for _ in range(steps):
        action = generator.uniform(-1.0, 1.0, 3).astype(np.float32)
        following, reward, terminated, truncated, _ = environment.step(action)
        for column, value in zip(rows.values(), (observation, action, reward, terminated, truncated), strict=True):
            column.append(value)
        observation = environment.reset()[0] if terminated or truncated else following
    environment.close()
    types = {"terminals": bool, "timeouts": bool}
    return _write(path, {key: np.array(column, types.get(key, np.float32)) for key, column in rows.items()}, env_id)


def write_random_dataset(path: pathlib.Path, dimensions: Dimensions, rows: int = 40) -> str:
    """Independent numbers of a task's sizes: four episodes, each with a terminal; returns the path as str."""
    generator = np.random.default_rng(0)
    index = np.arange(rows)
    arrays = {
        "observations": generator.normal(size=(rows, dimensions.observation)).astype(np.float32),
        "actions": generator.uniform(-0.9, 0.9, size=(rows, dimensions.action)).astype(np.float32),
        "rewards": generator.uniform(size=rows).astype(np.float32),
        "terminals": index % (rows // 4) == rows // 4 - 1,
        "timeouts": np.zeros(rows, bool),
    }
    return _write(path, arrays, None)


def _write(path: pathlib.Path, arrays: dict[str, np.ndarray], env_id: str | None) -> str:
    with h5py.File(path, "w") as file:
        for key, column in arrays.items():
            file[key] = column
        if env_id is not None:
            file.attrs["env_id"] = env_id
    return str(path)


def make_dataset(rows: int = 30, dimensions: Dimensions = DIMENSIONS, seed: int = 0) -> OfflineDataset:
    """A dataset in memory: normal observations, uniform actions, no rescaling, one episode of them all."""
    generator = np.random.default_rng(seed)
    observation, action = dimensions
    columns = (
        generator.normal(size=(rows, observation)),
        generator.uniform(-0.9, 0.9, size=(rows, action)),
        generator.uniform(size=rows),
        generator.uniform(size=rows) > 0.1,
        generator.normal(size=(rows, observation)),
        generator.uniform(-0.9, 0.9, size=(rows, action)),
    )
    zeros, ones = np.zeros(action, np.float32), np.ones(action, np.float32)
    scaling = Scaling(np.zeros(observation, np.float32), np.ones(observation, np.float32), zeros, ones)
    transitions = Transition(*(np.asarray(column, np.float32) for column in columns))
    places = Places(np.zeros(rows, np.int32), np.arange(rows, dtype=np.int32), np.ones(rows, bool))
    episodes = RecordedEpisodes(transitions.reward.sum(keepdims=True), np.array([rows]), np.array([True]))
    return OfflineDataset(transitions, places, episodes, scaling, Origin(("tiny",), (rows,), "0" * 64))


def with_columns(dataset: OfflineDataset, **columns: np.ndarray) -> OfflineDataset:
    """The dataset with some columns of its transitions given."""
    given = {name: np.asarray(column, np.float32) for name, column in columns.items()}
    return dataclasses.replace(dataset, transitions=dataset.transitions._replace(**given))


def critic(hidden_sizes: tuple[int, ...], learning_rate: float = 3e-4, tau: float = 1e-3, **more) -> Critic:
    """Critics that learn as BRAC+'s do where a test does not ask for anything else."""
    return Critic(hidden_sizes, learning_rate, tau, **more)


def one_state_dataset(action: np.ndarray, reward: np.ndarray) -> OfflineDataset:
    """A bandit: one state, every transition terminal; action [M, A], reward [M]."""
    rows = len(action)
    dataset = make_dataset(rows, Dimensions(1, action.shape[1]))
    return with_columns(dataset, observation=np.zeros((rows, 1)), action=action, reward=reward, discount=np.zeros(rows))


# An agent ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Settings:
    """Hyper-parameters of a stage of `TinyAgent`."""

    rate: float = 0.5


class TinyAgent(Agent):
    """Two stages over a handful of variables; everything random that an agent may draw, and no network.

    "first" walks `weight` towards drawn observations; "second" does the same to `other`, starting from `weight`.
    Both count their steps in an int64 scalar and report that count as the metric `count`. Every prepare stores a
    draw in `prepared` and writes (stage, step) into `prepare_calls`. `updates` counts Python calls of update by stage.
    `on_prepare(stage, step)` lets a test interfere.
    """

    def __init__(
        self,
        dimensions: Dimensions = DIMENSIONS,
        seed: int = 0,
        steps: tuple[int, int] = (13, 22),
        epoch_steps: int = 6,
        settings: tuple[Settings, Settings] = (Settings(), Settings()),
        on_prepare: Callable[[str, int], None] = lambda stage, step: None,
        break_at: int | None = None,
    ) -> None:
        initial = np.random.default_rng(seed).normal(size=dimensions.observation)
        self.weight = tf.Variable(initial, dtype=tf.float32)
        self.other = tf.Variable(tf.zeros([dimensions.observation]))
        self.counts = [tf.Variable(0, dtype=tf.int64), tf.Variable(0, dtype=tf.int64)]
        self.prepared = tf.Variable(0.0)
        self.prepare_calls: list[tuple[str, int]] = []
        self.updates = {"first": 0, "second": 0}
        self._steps, self._epoch_steps, self._settings, self._on_prepare = steps, epoch_steps, settings, on_prepare
        self._break_at = break_at
        self._action = dimensions.action

    def stages(self) -> Sequence[Stage]:
        return (
            Stage(
                name="first",
                steps=self._steps[0],
                draw=uniform_rows(4),
                update=lambda batch, seed: self._update(0, "first", self.weight, batch, seed),
                epoch_steps=self._epoch_steps,
                prepare=lambda dataset, step, seed: self._prepare("first", step, seed),
                writes=("weight", "first_count"),
                settings=(self._settings[0],),
            ),
            Stage(
                name="second",
                steps=self._steps[1],
                draw=uniform_rows(4),
                update=lambda batch, seed: self._update(1, "second", self.other, batch, seed),
                epoch_steps=self._epoch_steps,
                prepare=lambda dataset, step, seed: self._prepare("second", step, seed),
                evaluate=True,
                settings=(self._settings[1],),
            ),
        )

    def components(self) -> dict[str, Sequence[tf.Variable]]:
        return {
            "weight": [self.weight],
            "first_count": [self.counts[0]],
            "second": [self.other, self.counts[1], self.prepared],
        }

    def policies(self) -> dict[str, Policy]:
        """mean: tanh of the first A entries; sample: draws within 0.5 of its half; best: tanh of `weight`."""

        def sample(observation: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
            mean = tf.tanh(observation[:, : self._action])
            return 0.5 * mean + 0.5 * tf.tanh(noise)

        return {
            "mean": stateless(lambda observation, noise: tf.tanh(observation[:, : self._action])),
            "sample": stateless(sample, noise=self._action, seeded=True),
            "best": stateless(
                lambda observation, noise: tf.tanh(0.0 * observation[:, : self._action] + self.weight[: self._action])
            ),
        }

    def _update(self, index, stage, variable, batch, seed):
        self.updates[stage] += 1
        self.counts[index].assign_add(1)
        noise = standard_normal(variable.shape, seed)
        start = self.weight if index else tf.zeros_like(variable)
        target = start + tf.reduce_mean(batch.observation, axis=0) + noise + self.prepared
        variable.assign_add(self._settings[index].rate * (target - variable))
        count = tf.cast(self.counts[index], tf.float32)
        metrics = {"count": count, "first_entry": variable[0]}
        if index and self._break_at is not None:
            metrics["fragile"] = tf.where(count >= self._break_at, tf.constant(np.nan), 1.0)
            variable.assign(tf.where(count >= self._break_at, tf.constant(np.nan), variable))
        return metrics

    def _prepare(self, stage, step, seed):
        self.prepare_calls.append((stage, step))
        self.prepared.assign(standard_normal([], seed))
        self._on_prepare(stage, step)
        return Preparation()


def values(agent) -> dict[str, np.ndarray]:
    """A copy of all variables of an agent, by name."""
    return {name: np.array(variable.numpy()) for name, variable in state_of(agent).items()}


def assert_same_bits(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> None:
    """Equal names, types, shapes and bytes: unlike ==, NaN equals itself and 0 differs from -0."""
    assert first.keys() == second.keys()
    for name, array in first.items():
        assert (array.dtype, array.shape) == (second[name].dtype, second[name].shape), name
        assert array.tobytes() == second[name].tobytes(), name


def events(directory: pathlib.Path) -> list[tuple[str, int, float]]:
    """(tag, step, value) of everything that TensorBoard would show of a run."""
    accumulator = EventAccumulator(str(directory / "tensorboard"), size_guidance={TENSORS: 0})
    accumulator.Reload()
    return sorted(
        (tag, event.step, float(tf.make_ndarray(event.tensor_proto)))
        for tag in accumulator.Tags()["tensors"]
        for event in accumulator.Tensors(tag)
    )


# Commands ---------------------------------------------------------------------------------------------------------


def run_here(module: str, *arguments: str) -> Outcome:
    """The same command inside this process, which has TensorFlow loaded already; leaves no flags behind."""
    known = set(flags.FLAGS)
    stdout, stderr, arguments_before = io.StringIO(), io.StringIO(), sys.argv
    root = logging.getLogger()
    handlers, level, status = list(root.handlers), root.level, None
    try:
        sys.argv = [module, *arguments]
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            runpy.run_module(f"brac_plus_tf.{module}", run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        status = stop.code
    finally:
        sys.argv, root.handlers = arguments_before, handlers
        root.setLevel(level)
        for name in set(flags.FLAGS) - known:
            delattr(flags.FLAGS, name)
        flags.FLAGS.unparse_flags()
    return Outcome(0 if status is None else status, stdout.getvalue(), stderr.getvalue())
