"""Processes of their own for commands and scripts: as a user starts them, or forked from one that is warm.

Importing TensorFlow costs a process seconds, more than many a command of the tests needs after it. `ForkedProcess` is a
copy of a server that has imported everything and computed nothing: TensorFlow has no threads yet that the copy would
lack. Beside its imports it is a process like any other, with arguments, environment, signals and exit status.
"""

import dataclasses
import importlib.util
import multiprocessing.forkserver
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from types import ModuleType
from unittest import mock

PROJECT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = PROJECT / "brac_plus_tf"
ROOMS = (path.relative_to(PROJECT).with_suffix("").parts for path in sorted(PACKAGE.glob("*/[!_]*.py")))
IMPORTED = ["processes", "matplotlib.pyplot", "gymnasium.envs.mujoco", *(".".join(parts) for parts in ROOMS)]
ENVIRONMENT = {"PYTHONPATH": f"{PROJECT}{os.pathsep}{PROJECT / 'tests'}", "TF_CPP_MIN_LOG_LEVEL": "3"}
CORES = os.sched_getaffinity(0)  # all; conftest.py takes the worker that imports this down to one
POPEN = subprocess.Popen
LIMIT = 600.0  # seconds, on a machine that has other work


def import_script(name: str) -> ModuleType:
    """scripts/{name}.py as a module of this process: executed once, for twice would define its flags twice."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, PROJECT / "scripts" / f"{name}.py")
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@dataclasses.dataclass
class Outcome:
    """How a command ended."""

    status: int
    stdout: str
    stderr: str


def start_process(module: str, *arguments: str, cwd: pathlib.Path) -> subprocess.Popen:
    """`python -m module arguments`, or a script's path in place of the module, with this checkout's package."""
    what = [module] if module.endswith(".py") else ["-m", module]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(
        [sys.executable, *what, *arguments], cwd=cwd, env=os.environ | ENVIRONMENT, text=True, **pipes
    )


class ForkedProcess:
    """The same from a warm start; has the part of `subprocess.Popen` that the tests use."""

    def __init__(
        self,
        module: str,
        *arguments: str,
        cwd: pathlib.Path,
        cores: set[int] | None = None,
        output: tuple[str, str] | None = None,
        new_session: bool = False,
    ) -> None:
        server = multiprocessing.get_context("forkserver")
        server.set_forkserver_preload(IMPORTED)
        with mock.patch.dict(os.environ, ENVIRONMENT):
            multiprocessing.forkserver.ensure_running()  # started once; a process from it may ask it for others
        self._folder = tempfile.TemporaryDirectory()
        self._output = output or tuple(os.path.join(self._folder.name, name) for name in ("stdout", "stderr"))
        start = Start(
            *(module, arguments, str(cwd), dict(os.environ | ENVIRONMENT), self._output),
            *(cores or os.sched_getaffinity(0), new_session),
        )
        self._process = server.Process(target=start.become)
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float = LIMIT) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout)
        return self.returncode

    def communicate(self, timeout: float = LIMIT) -> tuple[str, str]:
        self.wait(timeout)
        stdout, stderr = (pathlib.Path(path).read_text() for path in self._output)
        return stdout, stderr


@dataclasses.dataclass(frozen=True)
class Start:
    """All that makes a process: what it runs, where, and what it inherits."""

    module: str
    arguments: tuple[str, ...]
    cwd: str
    environment: Mapping[str, str]
    output: tuple[str, str]
    cores: set[int]
    new_session: bool

    def become(self) -> None:
        """Makes the calling process this one."""
        assert "tensorflow" in sys.modules, "the server could not import what it should"
        os.environ.clear()
        os.environ.update(self.environment)
        os.chdir(self.cwd)
        os.sched_setaffinity(0, self.cores)
        if self.new_session:
            os.setsid()
        for descriptor, path in enumerate(self.output, start=1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
        subprocess.Popen = self._popen  # what a command starts is as warm as itself
        sys.argv = [self.module, *self.arguments]
        sys.modules.pop(self.module, None)
        if self.module.endswith(".py"):
            sys.path.insert(0, str(pathlib.Path(self.module).parent))
            runpy.run_path(self.module, run_name="__main__")
        else:
            runpy.run_module(self.module, run_name="__main__", alter_sys=True)

    def _popen(self, command, **options) -> subprocess.Popen | ForkedProcess:
        if command[:2] != [sys.executable, "-m"]:
            return POPEN(command, **options)
        _, _, module, *arguments = command
        files = options["stdout"], options["stderr"]
        output = self.output if None in files else tuple(file.name for file in files)
        return ForkedProcess(
            module, *arguments, cwd=pathlib.Path.cwd(), output=output, new_session=options["start_new_session"]
        )


def finish_process(process: subprocess.Popen | ForkedProcess) -> Outcome:
    """Waits for a process."""
    stdout, stderr = process.communicate(timeout=LIMIT)
    return Outcome(process.returncode, stdout, stderr)
