"""Playing a mixture of a policy's actions and noise in a simulator, one shard of whole episodes after the other.

A shard depends on the plan, its part of the mixture and its number alone, whoever plays it and whenever.
"""

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import gin
import numpy as np
import tensorflow as tf

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.randomness import initializer_seed
from brac_plus_tf.core.settings import HyperParameters, describe
from brac_plus_tf.data.rows import Rows, join_rows
from brac_plus_tf.data.scaling import task_scaling
from brac_plus_tf.environments.environment import make_environment
from brac_plus_tf.environments.tasks import Task
from brac_plus_tf.policies.acting import ArrayState
from brac_plus_tf.policies.rollouts import Round, Simulators
from brac_plus_tf.policies.saved_policy import LoadedPolicy

_FORMAT = 3  # of the shards; others are not gone on with


@gin.register
@dataclasses.dataclass(frozen=True)
class Part(HyperParameters):
    """Steps taken in one manner.

    share: of all steps, relative to the other parts'. epsilon: probability of a uniform action instead of the policy's.
    noise: standard deviation of what is added to the policy's actions, in half ranges of an action; the sum is clipped
    to the range.
    """

    share: float = 1.0
    epsilon: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0.0 < self.share < math.inf and 0.0 <= self.epsilon <= 1.0 and 0.0 <= self.noise < math.inf):
            raise UserError(f"{self}: share must be above 0, epsilon a probability, noise at least 0")


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Collection(HyperParameters):
    """A mixture and how it is played.

    parts: one after the other in the file. action: the policy's way to act. shard_episodes: whole episodes in a shard.
    width: environments that a process steps side by side.
    """

    parts: tuple[Part, ...] = (Part(),)
    action: str = "sample"
    shard_episodes: int = 128
    width: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.parts or self.shard_episodes < 1 or self.width < 1:
            raise UserError("Collection: parts, shard_episodes and width must be at least one each")

    def rows(self, total: int) -> list[int]:
        """Each part's number of the `total` steps."""
        shares = np.cumsum([part.share for part in self.parts])
        ends = np.rint(shares / shares[-1] * total).astype(int).tolist()
        return [end - start for start, end in itertools.pairwise([0, *ends])]


@dataclasses.dataclass(frozen=True)
class Plan:
    """All that the recorded steps depend on. policy: an exported policy's directory; None plays uniform actions."""

    task: Task
    backend: str
    policy: Path | None
    collection: Collection
    steps: int
    seed: int

    def facts(self) -> dict[str, object]:
        """JSON-ready; of a policy, its contents."""
        return {
            "format": _FORMAT,
            **self.task.facts(),
            "backend": self.backend,
            "policy": _contents_sha256(self.policy) if self.policy else "random",
            "collection": describe(self.collection),
            "steps": self.steps,
            "seed": self.seed,
        }


def _contents_sha256(directory: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        digest.update(path.relative_to(directory).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


class Shard(NamedTuple):
    """Whole episodes one after the other. seeds, lengths [P]: what each episode was reset with, and its steps."""

    rows: Rows
    seeds: np.ndarray
    lengths: np.ndarray


def use_one_thread() -> None:
    """For processes that share the cores already: more threads of each would only wait for one another."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)


class Player:
    """One process's environments and policy."""

    def __init__(self, plan: Plan, played: Callable[[int], None] = lambda steps: None) -> None:
        """Args: played: told the number of steps after each round of them."""
        self._plan, self._played = plan, played
        self._way = LoadedPolicy(plan.policy).way(plan.collection.action) if plan.policy else None
        self._scaling = task_scaling(plan.task)
        self._simulators = Simulators(lambda: make_environment(plan.task, plan.backend), plan.task.horizon)

    def play(self, part: int, shard: int) -> Shard:
        """Plays shard number `shard` of part number `part`."""
        plan, manner = self._plan, self._plan.collection.parts[part]
        generator = np.random.default_rng((plan.seed, part, shard))
        episodes = range(plan.collection.shard_episodes)
        seeds = [initializer_seed(plan.seed, f"collection {part} {shard} {episode}") for episode in episodes]

        def act(
            observation: np.ndarray, state: ArrayState, episode: np.ndarray, step: np.ndarray
        ) -> tuple[np.ndarray, ArrayState]:
            return self._act(observation, state, episode, manner, generator)

        rounds, played = list[Rows](), list[np.ndarray]()
        initial_state = self._way.initial_state if self._way else lambda count: ()
        for taken in self._simulators.play(act, initial_state, seeds, plan.collection.width, steady=False):
            rounds.append(_rows(taken))
            played.append(taken.episode)
            self._played(len(taken.episode))
        episode_of_row = np.concatenate(played)
        order = np.argsort(episode_of_row, kind="stable")
        rows = Rows.from_columns({key: column[order] for key, column in join_rows(rounds).columns().items()})
        return Shard(rows, np.array(seeds, np.int64), np.bincount(episode_of_row))

    def _act(
        self,
        observation: np.ndarray,
        state: ArrayState,
        episode: np.ndarray,
        manner: Part,
        generator: np.random.Generator,
    ) -> tuple[np.ndarray, ArrayState]:
        """Actions [W, A] in the environment's range, played in the part's manner, and the policy's next state."""
        shape = (len(observation), self._plan.task.dimensions.action)
        random = generator.uniform(-1.0, 1.0, shape)
        if self._way is None or manner.epsilon == 1.0:
            return self._scaling.to_environment_action(random), state
        seeds = (generator.integers(2**31) + episode) % 2**31
        actions, state = self._way.act(observation, state, seeds)
        if manner.noise:
            noisy = self._scaling.from_environment_action(actions) + manner.noise * generator.normal(size=shape)
            actions = self._scaling.to_environment_action(np.clip(noisy, -1.0, 1.0))
        if manner.epsilon:
            replaced = generator.uniform(size=(shape[0], 1)) < manner.epsilon
            actions = np.where(replaced, self._scaling.to_environment_action(random), actions)
        return actions, state


def _rows(taken: Round) -> Rows:
    """A round as it is kept."""
    return Rows(
        observations=taken.observation.astype(np.float32),
        actions=np.asarray(taken.action, np.float32),
        rewards=taken.reward.astype(np.float32),
        terminals=taken.terminal,
        timeouts=taken.timeout,
        next_observations=taken.next_observation.astype(np.float32),
    )
