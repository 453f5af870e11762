"""The training command on another machine that sees the same files: what the engines of many machines run there."""

import dataclasses
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from brac_plus_tf.comparison.engines import open_log
from brac_plus_tf.core.errors import UserError

_PATIENCE = 60.0  # seconds that a process which has lost its machine, or was killed, may take to be gone
_PR_SET_PDEATHSIG = 1


@dataclasses.dataclass(frozen=True)
class Order:
    """A training command, from which machine ever. place: working directory. run, log: of the run; absolute paths.

    variables: of the environment in which the comparison was called. cores: how many the run may use.
    """

    arguments: tuple[str, ...]
    place: str
    run: str
    log: str
    variables: tuple[tuple[str, str], ...]
    cores: int


def order(arguments: Sequence[str], run: Path, log: Path, cores: int) -> Order:
    """Of this process: from its directory, with its environment."""
    paths = str(run.absolute()), str(log.absolute())
    return Order(tuple(arguments), os.getcwd(), *paths, tuple(os.environ.items()), cores)


class Worker:
    """Carries out one order; `stop` comes from another thread."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = 0

    def run(self, given: Order) -> int:
        """Runs the command to its end; its exit status.

        Raises:
          UserError: if the directory of the comparison is not to be seen from here.
        """
        if not os.path.isdir(given.place):
            raise UserError(f"{given.place}: not on {os.uname().nodename}; all machines must see the same files")
        _wait_for(Path(given.run))
        # a process that outlived us would hold the run's directory against the one that takes its place
        command = [sys.executable, "-c", _LAUNCH, str(os.getpid()), "-m", "brac_plus_tf.train", *given.arguments]
        with open_log(Path(given.log)) as log:
            self._process = subprocess.Popen(
                command, cwd=given.place, env=_environment(given), stdout=log, stderr=log, start_new_session=True
            )
        if self._stopped:  # before there was a process to pass it on to
            self._process.send_signal(self._stopped)
        return self._process.wait()

    def stop(self, signal_number: int) -> None:
        """Passes the signal on."""
        self._stopped = signal_number
        if self._process is not None:
            self._process.send_signal(signal_number)


# executed before the command: the kernel kills it when the worker, its parent, is gone, and it may be gone already
_LAUNCH = f"""
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl({_PR_SET_PDEATHSIG}, signal.SIGKILL)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


def _environment(given: Order) -> dict[str, str]:
    """This machine's variables, then those of the comparison that it lacks; PYTHONPATH is the comparison's."""
    theirs = {name: value for name, value in given.variables if not name.startswith(("RAY_", "SLURM_", "CUDA_"))}
    limits = dict.fromkeys(("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"), str(given.cores))
    path = {"PYTHONPATH": theirs.get("PYTHONPATH", "")}
    return theirs | dict(os.environ) | path | limits


def _wait_for(run: Path) -> None:
    """Until no other process works in the run's directory; training itself refuses one that is still taken then."""
    deadline = time.monotonic() + _PATIENCE
    while (run / ".lock").exists() and time.monotonic() < deadline:
        with open(run / ".lock") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                time.sleep(0.2)
