"""A recorded policy as one dataset: shards played by several processes, kept on disk, merged at the end.

The same bytes come out for any number of processes, and a collection that was stopped goes on with the shards that are
missing. A part of the mixture ends within its last shard, and its last episode is cut off there.
"""

import concurrent.futures
import contextlib
import json
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from brac_plus_tf.collection.recording import Plan, Player, Shard, use_one_thread
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.files import lock_directory, write_json, written_atomically
from brac_plus_tf.core.progress import Progress
from brac_plus_tf.core.stopping import Interrupted, stop_requests
from brac_plus_tf.data.episodes import finished_returns
from brac_plus_tf.data.hdf5_writer import task_facts, write_hdf5
from brac_plus_tf.data.rows import COLUMNS, Rows, cut_off

# Shards on disk -------------------------------------------------------------------------------------------------------


def _shard_path(directory: Path, part: int, shard: int) -> Path:
    return directory / f"{part}-{shard:06d}.npz"


def _save_shard(path: Path, shard: Shard) -> None:
    with written_atomically(path) as temporary, open(temporary, "wb") as file:
        arrays: dict[str, Any] = {**shard.rows.columns(), "seeds": shard.seeds, "lengths": shard.lengths}
        np.savez(file, **arrays)


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
        return Shard(Rows.from_columns({key: arrays[key] for key in COLUMNS}), arrays["seeds"], arrays["lengths"])


def _shard_rows(path: Path) -> int:
    with _open_shard(path) as arrays:
        return int(arrays["lengths"].sum())


# Worker processes -----------------------------------------------------------------------------------------------------

_player: Player | None = None  # of this worker process


def _start_worker(plan: Plan, counter: Any, lifeline: Connection) -> None:
    global _player
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the first process ends the others
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()
    use_one_thread()

    def played(steps: int) -> None:
        with counter.get_lock():
            counter.value += steps

    _player = Player(plan, played)


def _end_with(lifeline: Connection) -> None:
    """Ends this process, whatever it computes, when the other end is closed: on purpose, or because its holder died."""
    multiprocessing.connection.wait([lifeline])
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
    with lock_directory(directory, "collection", "--output"):
        _begin(plan, directory)
        rows = _play_missing(plan, directory, workers)
        _merge(plan, directory, output, rows)
        shutil.rmtree(directory)


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


class _Schedule:
    """Which shards are there, which are being played, and which is next."""

    def __init__(self, plan: Plan, directory: Path) -> None:
        self._needed = plan.collection.rows(plan.steps)  # of each part
        self._largest = plan.collection.shard_episodes * plan.task.horizon
        self._rows: list[dict[int, int]] = [{} for _ in self._needed]  # of each part, by shard
        self.running: dict[concurrent.futures.Future[int], tuple[int, int]] = {}
        for path in directory.glob("*.npz"):
            part, shard = map(int, path.stem.split("-"))
            self._rows[part][shard] = _shard_rows(path)

    def missing(self) -> tuple[int, int] | None:
        """The first shard that will be needed even if all being played turn out as long as they can."""
        for part, wanted in enumerate(self._needed):
            total, shard = 0, 0
            while total < wanted:
                if shard not in self._rows[part] and (part, shard) not in self.running.values():
                    return part, shard
                total += self._rows[part].get(shard, self._largest)
                shard += 1
        return None

    def finish(self, future: concurrent.futures.Future[int]) -> None:
        """Takes note of a shard that was played."""
        part, shard = self.running.pop(future)
        self._rows[part][shard] = future.result()

    def rows(self) -> list[list[int]]:
        """Each part's steps by shard."""
        return [[found[shard] for shard in sorted(found)] for found in self._rows]

    def total(self) -> int:
        """The steps of all shards that are there."""
        return sum(sum(found.values()) for found in self._rows)


def _play_missing(plan: Plan, directory: Path, workers: int) -> list[list[int]]:
    """Has shards played until each part has enough; returns each part's steps by shard."""
    schedule = _Schedule(plan, directory)
    if schedule.missing() is None:
        return schedule.rows()
    context = multiprocessing.get_context("spawn")
    counter = context.Value("q", schedule.total())
    lifeline, own_end = context.Pipe(duplex=False)
    pool = concurrent.futures.ProcessPoolExecutor(workers, context, _start_worker, (plan, counter, lifeline))
    progress = Progress("collecting", plan.steps, "steps", min(plan.steps, counter.value))
    try:
        with progress, stop_requests(progress.say) as stop_requested:
            while schedule.running or schedule.missing():
                while len(schedule.running) < workers and (place := schedule.missing()):
                    schedule.running[pool.submit(_play_shard, directory, *place)] = place
                done, _ = concurrent.futures.wait(schedule.running, 0.2, concurrent.futures.FIRST_COMPLETED)
                if more := min(plan.steps, counter.value) - progress.done:
                    progress.advance(more)
                if stop_requested:
                    kept = min(schedule.total(), plan.steps)
                    raise Interrupted(f"{kept:,} of {plan.steps:,} steps", stop_requested[0])
                for future in done:
                    schedule.finish(future)
    except concurrent.futures.process.BrokenProcessPool as error:
        raise UserError("a worker process died (is there enough memory?); the same command goes on") from error
    finally:
        own_end.close()
        pool.shutdown(wait=True, cancel_futures=True)
        lifeline.close()
    return schedule.rows()


def _merge(plan: Plan, directory: Path, output: Path, rows: Sequence[Sequence[int]]) -> None:
    seeds, parts, returns = list[np.ndarray](), list[int](), list[float]()

    def blocks() -> Iterator[Rows]:
        for part, left in enumerate(plan.collection.rows(plan.steps)):
            for shard in range(len(rows[part])):
                if not left:
                    break
                played = _load_shard(_shard_path(directory, part, shard))
                block = cut_off(played.rows, min(left, len(played.rows)))
                ended = finished_returns(block).tolist()
                seeds.append(played.seeds[: len(ended)])
                parts.extend([part] * len(ended))
                returns.extend(ended)
                left -= len(block)
                yield block

    def facts() -> dict[str, object]:
        return {
            **task_facts(plan.task, returns),
            "behavior": json.dumps(plan.facts()),
            "seed": plan.seed,
            "episode_seed": np.concatenate(seeds),
            "episode_part": np.array(parts, np.int64),
        }

    write_hdf5(output, plan.task.dimensions, plan.steps, blocks(), facts)
