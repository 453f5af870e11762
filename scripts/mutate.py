"""Plants faults in the package, one at a time, and says which of them the nearest tests notice.

python scripts/mutate.py                            every mutant of tests/mutants.toml
python scripts/mutate.py --only='agents/cql|gap'    those whose file or description matches
python scripts/mutate.py --report=FILE.md           also writes the table there

An entry of the list replaces `old`, which stands once in `file`, by `new`; `tests` are the files nearest to it. Work
goes on in copies of the checkout, which itself is never touched. A mutant counts as killed if one of the tests fails;
tests that take over --timeout seconds are reported as such, and do not count. Ends with status 1 if one survives.
"""

import concurrent.futures
import contextlib
import multiprocessing
import os
import pathlib
import re
import shutil
import sys
import tempfile
import threading
from typing import NamedTuple

import pytest
from absl import app, flags
from rich.progress import track

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # comes with pytest there

PROJECT = pathlib.Path(__file__).resolve().parents[1]
COPIED = ("brac_plus_tf", "gin_configs", "quickstart", "scripts", "studies", "tests", "examples")
COPIED_TEXTS = ("README.md", "CONTRIBUTING.md", "MANIFEST.in", "pyproject.toml", "setup.py")

_OUTCOMES: dict[int | None, str] = {pytest.ExitCode.OK: "survived", pytest.ExitCode.TESTS_FAILED: "killed"}
_SERVER = multiprocessing.get_context("forkserver")  # its processes begin with TensorFlow imported and nothing run

_LIST = flags.DEFINE_string("list", str(PROJECT / "tests" / "mutants.toml"), "The mutants.")
_ONLY = flags.DEFINE_string("only", "", "Regular expression: only mutants whose file or description it finds.")
_JOBS = flags.DEFINE_integer("jobs", 2, "How many at a time.", lower_bound=1)
_TIMEOUT = flags.DEFINE_float("timeout", 600.0, "Seconds for the tests of one mutant.")
_REPORT = flags.DEFINE_string("report", None, "A Markdown file for the table.")


class Mutant(NamedTuple):
    """One fault."""

    file: str
    what: str
    old: str
    new: str
    tests: list[str]


def read_mutants(path: pathlib.Path) -> list[Mutant]:
    """The list, each entry checked against the checkout; ends the program where one no longer fits."""
    mutants = [Mutant(**entry) for entry in tomllib.loads(path.read_text())["mutant"]]
    for mutant in mutants:
        found = (PROJECT / mutant.file).read_text().count(mutant.old)
        if found != 1:
            sys.exit(f"{path.name}: {mutant.file} ({mutant.what}): `old` stands there {found} times, not once")
        if missing := [name for name in mutant.tests if not (PROJECT / name).exists()]:
            sys.exit(f"{path.name}: {mutant.file} ({mutant.what}): no such test file: {missing[0]}")
    return mutants


class Copies:
    """A copy of the checkout for each thread."""

    def __init__(self, parent: pathlib.Path) -> None:
        self._parent, self._local = parent, threading.local()

    def mine(self) -> pathlib.Path:
        """This thread's, made at first use."""
        if not hasattr(self._local, "path"):
            path = pathlib.Path(tempfile.mkdtemp(dir=self._parent))
            for name in COPIED:
                source = PROJECT / name
                if source.is_dir():
                    shutil.copytree(source, path / name, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(source, path)
            for name in COPIED_TEXTS:
                shutil.copy(PROJECT / name, path)
            self._local.path = path
        return self._local.path


def outcome(mutant: Mutant, copies: Copies) -> str:
    """killed, survived, timeout, or broken where the tests could not even begin."""
    checkout = copies.mine()
    path = checkout / mutant.file
    original = path.read_text()
    path.write_text(original.replace(mutant.old, mutant.new))
    process = _SERVER.Process(target=run_tests, args=(str(checkout), mutant.tests))
    try:
        process.start()
        process.join(_TIMEOUT.value)
        if process.is_alive():
            return "timeout"
        return _OUTCOMES.get(process.exitcode, "broken")
    finally:
        process.kill()
        process.join()
        path.write_text(original)


def run_tests(checkout: str, tests: list[str]) -> None:
    """In a process of its own: the tests of a copy, until one fails; ends with pytest's exit status."""
    os.chdir(checkout)
    # without it a module of the same size written within the same second would be taken from its cache
    sys.dont_write_bytecode = True
    sys.path[:0] = [checkout, os.path.join(checkout, "tests")]
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        status = pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests])
    os._exit(status)


def table(results: list[tuple[Mutant, str]]) -> str:
    """Markdown: by room what was planted and killed, then each mutant that was not."""
    lines = ["| room | planted | killed | share |", "|---|---|---|---|"]
    rooms = sorted({mutant.file.split("/")[1] for mutant, _ in results})
    for room in (*rooms, "all"):
        here = [how for mutant, how in results if room in ("all", mutant.file.split("/")[1])]
        killed = here.count("killed")
        lines.append(f"| {room} | {len(here)} | {killed} | {killed / len(here):.0%} |")
    left = [f"- {how}: {mutant.file}: {mutant.what}" for mutant, how in results if how != "killed"]
    return "\n".join([*lines, "", *left]).rstrip() + "\n"


def main(arguments: list[str]) -> None:
    """The script."""
    if len(arguments) > 1:
        sys.exit(f"mutate.py: unexpected argument {arguments[1]!r}")
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    _SERVER.set_forkserver_preload(["tensorflow", "tensorflow_probability", "gymnasium", "h5py", "scipy.stats"])
    pattern = re.compile(_ONLY.value)
    mutants = [m for m in read_mutants(pathlib.Path(_LIST.value)) if pattern.search(f"{m.file} {m.what}")]
    if not mutants:
        sys.exit(f"mutate.py: --only={_ONLY.value} finds none")
    with tempfile.TemporaryDirectory() as parent, concurrent.futures.ThreadPoolExecutor(_JOBS.value) as pool:
        copies = Copies(pathlib.Path(parent))
        waiting = {pool.submit(outcome, mutant, copies): mutant for mutant in mutants}
        for job in track(concurrent.futures.as_completed(waiting), "mutants", len(waiting)):
            print(f"{job.result():8s} {waiting[job].file}: {waiting[job].what}", flush=True)
        text = table([(mutant, job.result()) for job, mutant in waiting.items()])
    print(text, end="")
    if _REPORT.value:
        pathlib.Path(_REPORT.value).write_text(text)
    sys.exit("\n- " in text)


if __name__ == "__main__":
    app.run(main)
