"""Recording a policy in a simulator: mixtures of its actions and noise, played by several processes, as one dataset.

The work is cut into shards, each a fixed number of whole episodes of one part of the mixture. A shard depends on the
seed and its place alone, so the same bytes come out for any number of processes, and a collection that was stopped goes
on with the shards that are missing. A part ends within its last shard, and its last episode is cut off there.
"""

import concurrent.futures
import contextlib
import dataclasses
import fcntl
import hashlib
import itertools
import json
import math
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gin
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from brac_plus_tf.agents.base import describe
from brac_plus_tf.checkpoints import written_atomically
from brac_plus_tf.environments import make_environment
from brac_plus_tf.hdf5_writer import Steps, cut_off, empty_steps, episode_returns, task_facts, write_hdf5
from brac_plus_tf.randomness import initializer_seed
from brac_plus_tf.replay_buffer import task_scaling
from brac_plus_tf.run_record import write_json
from brac_plus_tf.saved_policy import LoadedPolicy
from brac_plus_tf.stopping import Interrupted, stop_requests
from brac_plus_tf.tasks import Task
from brac_plus_tf.types import HyperParameters, UserError

_FORMAT = 1  # of the shards; others are not gone on with


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
    width: int = 32

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
            "task": self.task.name,
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


# Playing --------------------------------------------------------------------------------------------------------------


class Shard(NamedTuple):
    """Whole episodes one after the other. seeds, lengths [P]: what each episode was reset with, and its steps."""

    steps: Steps
    seeds: np.ndarray
    lengths: np.ndarray


class Player:
    """One process's environments and policy."""

    def __init__(self, plan: Plan, played: Callable[[int], None] = lambda steps: None) -> None:
        """Args: played: told the number of steps after each round of them."""
        self._plan, self._played = plan, played
        self._policy = LoadedPolicy(plan.policy) if plan.policy else None
        self._scaling = task_scaling(plan.task)
        count = min(plan.collection.width, plan.collection.shard_episodes)
        self._environments = [make_environment(plan.task, plan.backend) for _ in range(count)]

    def play(self, part: int, shard: int) -> Shard:
        """Plays shard number `shard` of part number `part`."""
        plan, manner = self._plan, self._plan.collection.parts[part]
        generator = np.random.default_rng((plan.seed, part, shard))
        episodes, width = plan.collection.shard_episodes, len(self._environments)
        seeds = [initializer_seed(plan.seed, f"collection {part} {shard} {episode}") for episode in range(episodes)]
        recorded = [empty_steps(plan.task.dimensions, plan.task.horizon) for _ in range(width)]
        lengths, finished = np.zeros(width, int), dict[int, Steps]()
        waiting, playing = iter(range(episodes)), list(range(width))
        running = [next(waiting) for _ in playing]
        observations = np.stack([self._reset(slot, seeds[running[slot]]) for slot in playing])
        while playing:
            actions = self._actions(observations.astype(np.float32), manner, generator)
            for slot in tuple(playing):
                following, reward, terminated, truncated, _ = self._environments[slot].step(actions[slot])
                row = (observations[slot], actions[slot], reward, terminated, truncated, following)
                for column, value in zip(recorded[slot], row, strict=True):
                    column[lengths[slot]] = value
                observations[slot] = following
                lengths[slot] += 1
                if terminated or truncated:
                    finished[running[slot]] = Steps(*(column[: lengths[slot]].copy() for column in recorded[slot]))
                    lengths[slot], running[slot] = 0, next(waiting, -1)
                    if running[slot] < 0:
                        playing.remove(slot)
                    else:
                        observations[slot] = self._reset(slot, seeds[running[slot]])
            self._played(len(playing))
        ordered = [finished[episode] for episode in range(episodes)]
        steps = Steps(*(np.concatenate(column) for column in zip(*ordered, strict=True)))
        return Shard(steps, np.array(seeds, np.int64), np.array([len(episode.rewards) for episode in ordered]))

    def _actions(self, observations: np.ndarray, manner: Part, generator: np.random.Generator) -> np.ndarray:
        """observations [W, O] float32 -> actions [W, A] in the environment's range, played in the part's manner."""
        shape = (len(observations), self._plan.task.dimensions.action)
        random = generator.uniform(-1.0, 1.0, shape)
        if self._policy is None or manner.epsilon == 1.0:
            return self._scaling.to_environment_action(random)
        seed = int(generator.integers(2**31))
        actions = self._policy.act(self._plan.collection.action, observations, seed)
        if manner.noise:
            noisy = self._scaling.from_environment_action(actions) + manner.noise * generator.normal(size=shape)
            actions = self._scaling.to_environment_action(np.clip(noisy, -1.0, 1.0))
        if manner.epsilon:
            replaced = generator.uniform(size=(shape[0], 1)) < manner.epsilon
            actions = np.where(replaced, self._scaling.to_environment_action(random), actions)
        return actions

    def _reset(self, slot: int, seed: int) -> np.ndarray:
        return np.asarray(self._environments[slot].reset(seed=seed)[0], np.float64)


# Shards on disk -------------------------------------------------------------------------------------------------------


def _shard_path(directory: Path, part: int, shard: int) -> Path:
    return directory / f"{part}-{shard:06d}.npz"


def _save_shard(path: Path, shard: Shard) -> None:
    with written_atomically(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **shard.steps._asdict(), seeds=shard.seeds, lengths=shard.lengths)


@contextlib.contextmanager
def _open_shard(path: Path) -> Iterator[Mapping[str, np.ndarray]]:
    """Its arrays, each read when it is asked for."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            yield arrays
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: cannot be read ({error}); remove it, and it is played again") from error


def _load_shard(path: Path) -> Shard:
    with _open_shard(path) as arrays:
        return Shard(Steps(*(arrays[key] for key in Steps._fields)), arrays["seeds"], arrays["lengths"])


def _shard_rows(path: Path) -> int:
    with _open_shard(path) as arrays:
        return int(arrays["lengths"].sum())


# Worker processes -----------------------------------------------------------------------------------------------------

_player: Player | None = None  # of this worker process


def _start_worker(plan: Plan, counter: Any) -> None:
    global _player
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the first process ends the others
    threading.Thread(target=_end_with_parent, daemon=True).start()
    tf.config.threading.set_intra_op_parallelism_threads(1)  # the processes share the cores already

    def played(steps: int) -> None:
        with counter.get_lock():
            counter.value += steps

    _player = Player(plan, played)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _play_shard(directory: Path, part: int, shard: int) -> int:
    assert _player is not None
    played = _player.play(part, shard)
    _save_shard(_shard_path(directory, part, shard), played)
    return int(played.lengths.sum())


# The whole collection -------------------------------------------------------------------------------------------------


def collect(plan: Plan, output: Path, workers: int) -> None:
    """Plays what is missing and writes the dataset.

    Raises:
      UserError: for anything the user can put right.
      Interrupted: after SIGINT or SIGTERM; the same call goes on with the shards that are missing.
    """
    if output.exists():
        raise UserError(f"{output}: already exists; remove it or choose another name")
    directory = output.with_name(f"{output.name}.shards")
    with _locked(directory):
        _begin(plan, directory)
        rows = _play_missing(plan, directory, workers)
        _merge(plan, directory, output, rows)
        shutil.rmtree(directory)


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with open(directory / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
    except BlockingIOError as error:
        raise UserError(f"{directory}: another process is collecting into it; wait for it or stop it") from error


def _begin(plan: Plan, directory: Path) -> None:
    """Records the plan, or checks that the shards that are there belong to it."""
    path, facts = directory / "plan.json", json.loads(json.dumps(plan.facts()))
    if not path.exists():
        write_json(path, facts)
    try:
        before = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}); remove {directory} to start anew") from error
    if before != facts:
        keys = [key for key in facts if not isinstance(before, dict) or before.get(key) != facts[key]]
        raise UserError(
            f"{directory}: holds part of another collection ({', '.join(keys)} differ); finish that one with its own "
            "command, remove it, or choose another --output"
        )


def _play_missing(plan: Plan, directory: Path, workers: int) -> list[list[int]]:
    """Has shards played until each part has enough; returns each part's steps by shard."""
    needed = plan.collection.rows(plan.steps)
    rows: list[dict[int, int]] = [{} for _ in needed]  # by shard
    for path in directory.glob("*.npz"):
        part, shard = map(int, path.stem.split("-"))
        rows[part][shard] = _shard_rows(path)
    running: dict[concurrent.futures.Future[int], tuple[int, int]] = {}
    largest = plan.collection.shard_episodes * plan.task.horizon

    def missing() -> tuple[int, int] | None:
        """The first shard that will be needed even if all being played turn out as long as they can."""
        for part, wanted in enumerate(needed):
            total, shard = 0, 0
            while total < wanted:
                if shard not in rows[part] and (part, shard) not in running.values():
                    return part, shard
                total += rows[part].get(shard, largest)
                shard += 1
        return None

    if missing() is None:
        return [[found[shard] for shard in sorted(found)] for found in rows]
    context = multiprocessing.get_context("spawn")
    counter = context.Value("q", sum(sum(found.values()) for found in rows))
    pool = concurrent.futures.ProcessPoolExecutor(workers, context, _start_worker, (plan, counter))
    total = tqdm(total=plan.steps, initial=counter.value, desc="collecting", unit="step", file=sys.stdout)
    try:
        with stop_requests() as stop_requested, total as bar:
            while running or missing():
                while len(running) < workers and (place := missing()):
                    running[pool.submit(_play_shard, directory, *place)] = place
                done, _ = concurrent.futures.wait(running, 0.2, concurrent.futures.FIRST_COMPLETED)
                bar.update(min(plan.steps, counter.value) - bar.n)
                if stop_requested:
                    finished = sum(sum(found.values()) for found in rows)
                    raise Interrupted(f"{min(finished, plan.steps):,} of {plan.steps:,} steps", stop_requested[0])
                for future in done:
                    part, shard = running.pop(future)
                    rows[part][shard] = future.result()
    except concurrent.futures.process.BrokenProcessPool as error:
        raise UserError("a worker process died (is there enough memory?); the same command goes on") from error
    finally:
        for process in list((pool._processes or {}).values()):
            process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)
    return [[found[shard] for shard in sorted(found)] for found in rows]


def _merge(plan: Plan, directory: Path, output: Path, rows: Sequence[Sequence[int]]) -> None:
    seeds, parts, returns = list[np.ndarray](), list[int](), list[float]()

    def blocks() -> Iterator[Steps]:
        for part, left in enumerate(plan.collection.rows(plan.steps)):
            for shard in range(len(rows[part])):
                if not left:
                    break
                played = _load_shard(_shard_path(directory, part, shard))
                steps = cut_off(played.steps, min(left, len(played.steps.rewards)))
                ended = episode_returns(steps).tolist()
                seeds.append(played.seeds[: len(ended)])
                parts.extend([part] * len(ended))
                returns.extend(ended)
                left -= len(steps.rewards)
                yield steps

    def facts() -> dict[str, object]:
        return {
            **task_facts(plan.task, returns),
            "behavior": json.dumps(plan.facts()),
            "seed": plan.seed,
            "episode_seed": np.concatenate(seeds),
            "episode_part": np.array(parts, np.int64),
        }

    write_hdf5(output, plan.task.dimensions, plan.steps, blocks(), facts)
