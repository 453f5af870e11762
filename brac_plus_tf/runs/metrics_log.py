"""A run's figures over time: metrics.csv, the same for TensorBoard, and timing.csv.

What repeats with the seed, and what does not, are kept apart: metrics.csv of equal runs is equal byte for byte.
"""

import contextlib
import csv
import io
import re
import statistics
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import tensorflow as tf

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.files import append, write_atomically

_HEADER = "stage,step,metric,value\n"
_TIMING = "timing.csv"


class MetricRow(NamedTuple):
    """One line of metrics.csv."""

    stage: str
    step: int
    metric: str
    value: float


class MetricsLog:
    """Writes them; opened by the one process that works on the run."""

    def __init__(self, directory: Path) -> None:
        self._directory, self._path = directory, directory / "metrics.csv"
        self._tensorboard: tf.summary.SummaryWriter | None = None

    @property
    def size(self) -> int:
        """Of metrics.csv, in bytes: how much of it belongs to a checkpoint made now."""
        return self._path.stat().st_size

    def write(self, rows: Sequence[MetricRow]) -> None:
        """Appends them: one metric a row, so that stages need not share columns."""
        append(self._path, "".join(f"{row.stage},{row.step},{row.metric},{row.value!r}\n" for row in rows))
        self._write_summaries(rows)

    def _write_summaries(self, rows: Iterable[MetricRow]) -> None:
        with self._tensorboard_errors():
            if self._tensorboard is None:
                self._tensorboard = tf.summary.create_file_writer(str(self._directory / "tensorboard"))
            with self._tensorboard.as_default():
                for row in rows:
                    tf.summary.scalar(f"{row.stage}/{row.metric}", row.value, row.step)

    @contextlib.contextmanager
    def _tensorboard_errors(self) -> Iterator[None]:
        try:
            yield
        except tf.errors.OpError as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{self._directory / 'tensorboard'}: cannot be written ({reason})") from error

    def write_timing(self, stage: str, step: int, steps: int, seconds: float) -> None:
        """Appends how long `steps` gradient steps took, up to `step`; apart from the metrics, which must repeat."""
        path = self._directory / _TIMING
        header = "" if path.exists() else "stage,step,steps,seconds\n"
        append(path, f"{header}{stage},{step},{steps},{seconds:.6f}\n")

    def flush(self) -> None:
        """Makes what was written visible to readers."""
        if self._tensorboard is not None:
            with self._tensorboard_errors():
                self._tensorboard.flush()

    def rewind(self, size: int) -> None:
        """Drops all but the first `size` bytes and writes TensorBoard's events anew from what remains."""
        content = self._path.read_bytes()[:size] if self._path.exists() and size else _HEADER.encode()
        if len(content) < size:
            raise UserError(f"{self._path}: rows before the checkpoint are missing; restore it, or remove the run")
        write_atomically(self._path, content)
        for events in (self._directory / "tensorboard").glob("events.out.tfevents.*"):
            events.unlink()
        self._write_summaries(read_metrics(self._directory))


def read_metrics(directory: Path) -> Iterator[MetricRow]:
    """The rows of a run's metrics.csv in the order they were written; a line that is being written is left out."""
    whole_lines = (directory / "metrics.csv").read_text().rpartition("\n")[0]
    reader = csv.reader(io.StringIO(whole_lines))
    next(reader, None)
    for stage, step, metric, value in reader:
        yield MetricRow(stage, int(step), metric, float(value))


def read_speeds(directory: Path) -> dict[str, float]:
    """Gradient steps per second of each stage, the median over its calls; the first call, which compiles, is one."""
    rates: dict[str, list[float]] = {}
    for line in (directory / _TIMING).read_text().splitlines():
        # other lines are the head and what a killed process left
        if row := re.fullmatch(r"(\w+),\d+,(\d+),(\d+\.\d{6})", line):
            rates.setdefault(row[1], []).append(int(row[2]) / float(row[3]))
    return {stage: statistics.median(values) for stage, values in rates.items()}
