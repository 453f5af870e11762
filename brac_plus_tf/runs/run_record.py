"""A run's directory: configuration, host facts, metrics, checkpoints, evaluation; everything a reader needs later.

operative_config.gin  run.json  metrics.csv  timing.csv  tensorboard/  checkpoints/  evaluation.json  saved_model/
"""

import contextlib
import csv
import difflib
import io
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import tensorflow as tf
from absl import logging

from brac_plus_tf import __version__
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.files import PACKAGE, append, lock_directory, write_atomically, write_json
from brac_plus_tf.runs.checkpoints import load_state, save_state

FORMAT = 1  # of the directory; a reader refuses a newer one
_HEADER = "stage,step,metric,value\n"
_TIMING = "timing.csv"
_KEPT_CHECKPOINTS = 3


class Position(NamedTuple):
    """How far a run has come: stages finished, and steps taken in the next one."""

    stage: int
    step: int


class RunRecord:
    """Writes one run directory. Holds a lock on it, so that no second process can."""

    def __init__(self, directory: Path) -> None:
        """Raises UserError if the directory cannot be made or is in use."""
        self.directory = directory
        self._checkpoints = directory / "checkpoints"
        self._lock = lock_directory(directory, "run", "--root_dir", "checkpoints")  # held as long as the run
        self._remove_leftovers()
        self._metrics = directory / "metrics.csv"
        self._tensorboard: tf.summary.SummaryWriter | None = None

    def _remove_leftovers(self) -> None:
        """What a killed process was about to rename into place; the lock says that it is gone."""
        for path in [*self.directory.glob(".*.tmp"), *self._checkpoints.glob(".*.tmp")]:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)

    def begin(self, operative_config: str, facts: dict[str, object]) -> None:
        """Fixes the configuration of a new run; of an existing one, checks that it is the same.

        Raises:
          UserError: showing the difference, if the directory holds a run of another configuration.
        """
        facts = {"format": FORMAT, **facts}
        config_file, facts_file = self.directory / "operative_config.gin", self.directory / "run.json"
        if facts_file.exists():
            facts_before = read_facts(self.directory)
            try:
                config_before = config_file.read_text()
            except OSError as error:
                raise UserError(f"{config_file}: cannot be read ({error.strerror}); remove the run to start") from error
            self._check_same(config_before, operative_config, facts_before, facts)
        else:
            write_atomically(config_file, operative_config.encode())
            write_json(facts_file, facts)

    def _check_same(self, old_config: str, new_config: str, old: dict[str, object], new: dict[str, object]) -> None:
        difference = [
            line
            for line in difflib.unified_diff(settings(old_config), settings(new_config), lineterm="", n=0)
            if re.match(r"[+-](?![+-])", line)
        ]
        for key in ("dataset", "environment", "seed"):
            if json.dumps(old.get(key)) != json.dumps(new[key]):
                difference += [f"-{key} {json.dumps(old.get(key))}", f"+{key} {json.dumps(new[key])}"]
        if difference:
            raise UserError(
                f"{self.directory}: holds a run of another configuration ({'; '.join(difference)}); use another "
                "--root_dir, or another Experiment.agent_name, or remove it"
            )

    # Metrics -----------------------------------------------------------------------------------------------------

    def write_metrics(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Appends one row per metric: long format, so that stages need not share columns."""
        append(self._metrics, "".join(f"{stage},{step},{name},{value!r}\n" for name, value in values.items()))
        self._write_summaries(stage, step, values)

    def _write_summaries(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        with self._tensorboard_errors():
            if self._tensorboard is None:
                self._tensorboard = tf.summary.create_file_writer(str(self.directory / "tensorboard"))
            with self._tensorboard.as_default(step):
                for name, value in values.items():
                    tf.summary.scalar(f"{stage}/{name}", value)

    @contextlib.contextmanager
    def _tensorboard_errors(self) -> Iterator[None]:
        try:
            yield
        except tf.errors.OpError as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{self.directory / 'tensorboard'}: cannot be written ({reason})") from error

    def write_timing(self, stage: str, step: int, steps: int, seconds: float) -> None:
        """Appends how long `steps` gradient steps took, up to `step`; apart from the metrics, which must repeat."""
        path = self.directory / _TIMING
        header = "" if path.exists() else "stage,step,steps,seconds\n"
        append(path, f"{header}{stage},{step},{steps},{seconds:.6f}\n")

    def flush(self) -> None:
        """Makes what was written visible to readers."""
        if self._tensorboard is not None:
            with self._tensorboard_errors():
                self._tensorboard.flush()

    def _rewind_metrics(self, size: int) -> None:
        """Drops rows written after the checkpoint and writes TensorBoard's events anew from what remains."""
        content = self._metrics.read_bytes()[:size] if self._metrics.exists() and size else _HEADER.encode()
        if len(content) < size:
            raise UserError(f"{self._metrics}: rows before the checkpoint are missing; restore it, or remove the run")
        write_atomically(self._metrics, content)
        for events in (self.directory / "tensorboard").glob("events.out.tfevents.*"):
            events.unlink()
        for row in read_metrics(self.directory):
            self._write_summaries(row.stage, row.step, {row.metric: row.value})

    # Checkpoints -------------------------------------------------------------------------------------------------

    def save(self, variables: Mapping[str, tf.Variable], position: Position) -> None:
        """Writes a checkpoint and drops all but the last few."""
        self.flush()
        record = {"stage": position.stage, "step": position.step, "metrics_size": self._metrics.stat().st_size}
        path = self._checkpoints / f"{position.stage}-{position.step:09d}.safetensors"
        save_state(path, variables, record)
        for old in self._existing()[:-_KEPT_CHECKPOINTS]:
            old.unlink()

    def restore(self, variables: Mapping[str, tf.Variable]) -> Position:
        """Loads the newest intact checkpoint, passing over damaged ones with a warning; a new run starts at zero.

        Raises:
          UserError: if checkpoints exist and none is usable.
        """
        errors = []
        for path in reversed(self._existing()):
            try:
                record = load_state(path, variables)
            except UserError as error:
                logging.warning("%s; the one before it is tried", error)
                errors.append(str(error))
                continue
            self._rewind_metrics(int(str(record["metrics_size"])))
            return Position(int(str(record["stage"])), int(str(record["step"])))
        if errors:
            raise UserError(f"{self._checkpoints}: no usable checkpoint ({errors[0]}); remove the run to start anew")
        self._rewind_metrics(0)
        return Position(0, 0)

    def _existing(self) -> list[Path]:
        paths = [path for path in self._checkpoints.iterdir() if re.fullmatch(r"\d+-\d+\.safetensors", path.name)]
        return sorted(paths, key=lambda path: [int(number) for number in path.stem.split("-")])


class MetricRow(NamedTuple):
    """One line of metrics.csv."""

    stage: str
    step: int
    metric: str
    value: float


def read_metrics(directory: Path) -> Iterator[MetricRow]:
    """The rows of a run's metrics.csv in the order they were written."""
    reader = csv.reader(io.StringIO((directory / "metrics.csv").read_text()))
    next(reader, None)
    for stage, step, metric, value in reader:
        yield MetricRow(stage, int(step), metric, float(value))


def read_facts(directory: Path) -> dict[str, object]:
    """A run's run.json.

    Raises:
      UserError: if it is missing, not JSON, or of a newer format than this version knows.
    """
    path = directory / "run.json"
    try:
        facts = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"{directory}: not a run directory, run.json cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(facts, dict) or not isinstance(facts.get("format"), int):
        raise UserError(f"{path}: not written by this package, the key 'format' is missing")
    if facts["format"] > FORMAT:
        raise UserError(f"{path}: written by a newer version (format {facts['format']}); upgrade brac_plus_tf")
    return facts


def read_speeds(directory: Path) -> dict[str, float]:
    """Gradient steps per second of each stage, the median over its calls; the first call, which compiles, is one."""
    rates: dict[str, list[float]] = {}
    for line in (directory / _TIMING).read_text().splitlines():
        # other lines are the head and what a killed process left
        if row := re.fullmatch(r"(\w+),\d+,(\d+),(\d+\.\d{6})", line):
            rates.setdefault(row[1], []).append(int(row[2]) / float(row[3]))
    return {stage: statistics.median(values) for stage, values in rates.items()}


def host_facts() -> dict[str, object]:
    """Versions and machine, for run.json."""
    packages = ["tensorflow", "tensorflow-probability", "keras", "numpy", "gin-config", "gymnasium", "mujoco"]
    installed = {distribution.metadata["Name"]: distribution.version for distribution in metadata.distributions()}
    return {
        "brac_plus_tf": __version__,
        "git_commit": _git_commit(),
        "python": sys.version.split()[0],
        "packages": {name: installed.get(name) for name in packages},
        "platform": platform.platform(),
        "processors": os.cpu_count(),
    }


def _git_commit() -> str | None:
    root = PACKAGE.parent
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def settings(config: str) -> list[str]:
    """A gin configuration's bindings, one per line, without the dataset's path: its contents are what counts."""
    lines = re.sub(r"\s*\\?\n[ \t]+", " ", config).splitlines()
    return [line for line in lines if line.strip() and not line.startswith(("#", "Experiment.dataset "))]
