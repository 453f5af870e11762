"""Where the runs of a comparison are trained: on this machine's cores, or by an engine that has several machines."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from brac_plus_tf.core.errors import UserError


class Training(Protocol):
    """One training command that is waiting for its place or running."""

    def poll(self) -> int | None:
        """Its exit status, negative if it or the machine under it was killed; None as long as it is not over."""
        ...

    def stop(self, signal_number: int) -> None:
        """Asks it to save its state and to end; one that has not begun never begins."""
        ...


class Engine(Protocol):
    """Begins training commands. logs: whether what each prints goes to a file of its own."""

    logs: bool

    def has_room(self) -> bool:
        """Whether another one may be given to it now; it may let it wait."""
        ...

    def start(self, arguments: Sequence[str], directory: Path, log: Path | None) -> Training:
        """Begins `python -m brac_plus_tf.train arguments`, whose run is `directory`; `log` takes what it prints."""
        ...

    def close(self) -> None:
        """Gives back what the engine holds, when no run is left."""
        ...


def core_shares(cores: Sequence[int], jobs: int) -> list[list[int]]:
    """The cores dealt out to `jobs` processes: two that share all cores slow each other down by far more than half.

    Raises:
      UserError: if there are fewer cores than processes.
    """
    if jobs > len(cores):
        there = "there is 1 core" if len(cores) == 1 else f"there are {len(cores)} cores"
        raise UserError(f"--jobs={jobs}: {there}, and each run needs one of its own")
    return [list(cores[first::jobs]) for first in range(jobs)]


class LocalEngine:
    """Processes of this machine, each on its share of the cores; with one share they print to our own output."""

    def __init__(self, shares: Sequence[Sequence[int]]) -> None:
        self._shares = shares
        self._running: list[LocalTraining | None] = [None] * len(shares)
        self.logs = len(shares) > 1

    def has_room(self) -> bool:
        """Whether a share of the cores has nothing to do."""
        return any(self._is_free(place) for place in range(len(self._shares)))

    def start(self, arguments: Sequence[str], directory: Path, log: Path | None) -> "LocalTraining":
        """See `Engine`."""
        del directory
        place = next(place for place in range(len(self._shares)) if self._is_free(place))
        training = self._running[place] = LocalTraining(arguments, self._shares[place], log)
        return training

    def close(self) -> None:
        """Nothing is held."""

    def _is_free(self, place: int) -> bool:
        training = self._running[place]
        return training is None or training.poll() is not None


class LocalTraining:
    """A process on `cores`."""

    def __init__(self, arguments: Sequence[str], cores: Sequence[int], log: Path | None) -> None:
        command = [sys.executable, "-m", "brac_plus_tf.train", *arguments]
        ours = os.sched_getaffinity(0)
        os.sched_setaffinity(0, cores)  # a child starts with its parent's
        try:
            with contextlib.ExitStack() as stack:
                output = stack.enter_context(open_log(log)) if log else None
                # a session of its own: Ctrl-C reaches it once, through us, and it saves its state before it stops
                self._process = subprocess.Popen(command, start_new_session=True, stdout=output, stderr=output)
        finally:
            os.sched_setaffinity(0, ours)

    def poll(self) -> int | None:
        """See `Training`."""
        return self._process.poll()

    def stop(self, signal_number: int) -> None:
        """See `Training`."""
        self._process.send_signal(signal_number)


def open_log(path: Path) -> contextlib.AbstractContextManager:
    """The file for what a run prints, behind what an earlier beginning of it has printed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return open(path, "ab")


def log_error(path: Path, message: object) -> None:
    """Adds a line to the log of a run that could not even begin."""
    with open_log(path) as log:
        log.write(f"error: {message}\n".encode())
