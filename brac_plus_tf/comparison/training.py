"""Training the runs of a comparison, each by the training command in a process of its own."""

import dataclasses
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from brac_plus_tf.comparison.engines import Engine, Training
from brac_plus_tf.comparison.records import Cell, keep_record
from brac_plus_tf.core.stopping import Interrupted, stop_requests

BEGINNINGS = 4  # of a run: its process may be killed and begun again so often, less one
_POLLS, _REPORTS = 0.05, 60.0  # seconds from one look at the runs to the next, and from one report of them


@dataclasses.dataclass
class _Begun:
    """A run that is being trained. log: None where it prints to our own output."""

    place: str
    cell: Cell
    log: Path | None
    beginning: int

    def last_line(self) -> str:
        """Of its log; empty where there is none yet."""
        if self.log is None or not self.log.exists():
            return ""
        return self.log.read_text(errors="replace").strip().rpartition("\n")[2]


def training_arguments(cell: Cell, arguments: Sequence[str]) -> list[str]:
    """What the training command is given for a run, with `arguments` for every run."""
    return [
        f"--seed={cell.seed}",
        *arguments,
        *(f"--gin_file={file}" for file in cell.gin_files),
        *(f"--gin_bindings={binding}" for binding in cell.bindings),
    ]


def train_all(cells: Mapping[str, Cell], arguments: Sequence[str], engine: Engine) -> list[Cell]:
    """Trains cells, given by what to call them in messages; returns those that failed.

    A run whose process was killed, or the machine under it lost, is begun again: it goes on from its last checkpoint
    and ends the same.

    Args:
      arguments: of the training command, for every run.
    Raises:
      Interrupted: after SIGINT or SIGTERM, once every process has saved its state.
    """
    waiting = [(place, cell, 1) for place, cell in cells.items()]
    failed, running = list[Cell](), dict[Training, _Begun]()
    passed_on, reported = False, time.monotonic()
    with stop_requests() as stop_requested:
        while running or (waiting and not stop_requested):
            while waiting and not stop_requested and engine.has_room():
                begun = _begin(*waiting.pop(0), logs=engine.logs)
                started = engine.start(training_arguments(begun.cell, arguments), begun.cell.directory, begun.log)
                running[started] = begun
            if stop_requested and not passed_on:
                passed_on = True
                for training in running:
                    training.stop(stop_requested[0])
            time.sleep(_POLLS)
            for begun, status in _ended(running):
                if _is_killed(status) and not stop_requested and begun.beginning < BEGINNINGS:
                    print(f"{begun.place}: killed; it goes on from its last checkpoint", flush=True)
                    waiting.insert(0, (begun.place, begun.cell, begun.beginning + 1))
                elif _conclude(begun, status, bool(stop_requested)):
                    failed.append(begun.cell)
            if engine.logs and time.monotonic() - reported > _REPORTS:
                reported = time.monotonic()
                _report(list(running.values()), len(cells) - len(waiting) - len(running), len(cells))
        if stop_requested:
            raise Interrupted(f"{len(cells) - len(waiting)} of {len(cells)} runs begun", stop_requested[0])
    engine.close()
    return failed


def _begin(place: str, cell: Cell, beginning: int, logs: bool) -> _Begun:
    log = cell.directory.with_name(f"{cell.directory.name}.log") if logs else None
    if log and beginning == 1:
        log.unlink(missing_ok=True)  # of a call before
    print(f"{place}: training" + (f", see {log}" if log else ""), flush=True)
    return _Begun(place, cell, log, beginning)


def _ended(running: dict[Training, _Begun]) -> list[tuple[_Begun, int]]:
    """Those that are over, with their exit status; they are running no longer."""
    statuses = {training: training.poll() for training in running}
    return [(running.pop(training), status) for training, status in statuses.items() if status is not None]


def _is_killed(status: int) -> bool:
    """By a signal, at once or after it has saved its state, as where a cluster needs the machine for others."""
    return status < 0 or status in (128 + signal.SIGINT, 128 + signal.SIGTERM)


def _conclude(begun: _Begun, status: int, stopped: bool) -> bool:
    """Says how it ended and keeps its record; whether it failed."""
    if not status:
        keep_record(begun.cell)
    if begun.log is not None or stopped:
        print(f"{begun.place}: {'stopped' if stopped else 'failed' if status else 'done'}", flush=True)
    if status and (line := begun.last_line()):
        print(line, file=sys.stderr)
    return bool(status) and not stopped


def _report(running: Sequence[_Begun], done: int, total: int) -> None:
    """Where all runs are, each by the last line that it has printed."""
    print(f"{done} of {total} runs over, {len(running)} begun:", flush=True)
    for begun in running:
        print(f"  {begun.place}: {begun.last_line() or 'waits for its place'}", flush=True)
