"""Training the runs of a comparison, each by the training command in a process of its own."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from brac_plus_tf.comparison.records import Cell, keep_record
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.stopping import Interrupted, stop_requests


def core_shares(cores: Sequence[int], jobs: int) -> list[list[int]]:
    """The cores dealt out to `jobs` processes: two that share all cores slow each other down by far more than half.

    Raises:
      UserError: if there are fewer cores than processes.
    """
    if jobs > len(cores):
        there = "there is 1 core" if len(cores) == 1 else f"there are {len(cores)} cores"
        raise UserError(f"--jobs={jobs}: {there}, and each run needs one of its own")
    return [list(cores[first::jobs]) for first in range(jobs)]


def start_training(
    cell: Cell, arguments: Sequence[str], cores: Sequence[int], log: Path | None
) -> subprocess.Popen[bytes]:
    """Starts the training command for one cell on `cores`; what it prints goes to the file `log`, if one is given."""
    command = [sys.executable, "-m", "brac_plus_tf.train", f"--seed={cell.seed}", *arguments]
    command += [f"--gin_file={file}" for file in cell.gin_files]
    command += [f"--gin_bindings={binding}" for binding in cell.bindings]
    ours = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)  # a child starts with its parent's
    try:
        with contextlib.ExitStack() as stack:
            output = None
            if log is not None:
                log.parent.mkdir(parents=True, exist_ok=True)
                output = stack.enter_context(open(log, "wb"))
            # a session of its own: Ctrl-C reaches it once, through us, and it saves its state before it stops
            return subprocess.Popen(command, start_new_session=True, stdout=output, stderr=output)
    finally:
        os.sched_setaffinity(0, ours)


def train_all(cells: Mapping[str, Cell], arguments: Sequence[str], shares: Sequence[Sequence[int]]) -> list[Cell]:
    """Trains cells, given by what to call them in messages, one on each share of the cores; returns those that failed.

    Args:
      arguments: of the training command, for every run.
    Raises:
      Interrupted: after SIGINT or SIGTERM, once every process has saved its state.
    """
    free, waiting, failed, passed_on = list(shares), list(cells.items()), list[Cell](), False
    running: dict[subprocess.Popen[bytes], tuple[str, Cell, Sequence[int], Path | None]] = {}
    with stop_requests() as stop_requested:
        while running or (waiting and not stop_requested):
            while waiting and free and not stop_requested:
                (place, cell), cores = waiting.pop(0), free.pop(0)
                log = cell.directory.with_name(f"{cell.directory.name}.log") if len(shares) > 1 else None
                print(f"{place}: training" + (f", see {log}" if log else ""), flush=True)
                running[start_training(cell, arguments, cores, log)] = place, cell, cores, log
            if stop_requested and not passed_on:
                passed_on = True
                for process in running:
                    process.send_signal(stop_requested[0])
            time.sleep(0.05)
            for process in [process for process in running if process.poll() is not None]:
                place, cell, cores, log = running.pop(process)
                free.append(cores)
                if process.returncode and not stop_requested:
                    failed.append(cell)
                elif not process.returncode:
                    keep_record(cell)
                if log is not None or stop_requested:
                    outcome = "stopped" if stop_requested else "failed" if process.returncode else "done"
                    print(f"{place}: {outcome}", flush=True)
                if log is not None and process.returncode:
                    print(log.read_text(errors="replace").strip().rpartition("\n")[2], file=sys.stderr)
        if stop_requested:
            raise Interrupted(f"{len(cells) - len(waiting)} of {len(cells)} runs begun", stop_requested[0])
    return failed
