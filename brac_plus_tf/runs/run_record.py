"""A run's directory: configuration, host facts, metrics, checkpoints, evaluation; everything a reader needs later.

operative_config.gin  run.json  metrics.csv  timing.csv  tensorboard/  checkpoints/  evaluation.json  saved_model/
"""

import difflib
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow as tf

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.files import check_utf8, lock_directory, write_atomically, write_json
from brac_plus_tf.runs.checkpoints import Checkpoints, Position
from brac_plus_tf.runs.facts import FORMAT, read_facts, settings
from brac_plus_tf.runs.metrics_log import MetricRow, MetricsLog, read_metrics


class Warned(NamedTuple):
    """A warning that a stage gave. topic: what it is about, said once in a stage; "" for one said as it comes."""

    stage: str
    topic: str
    text: str


class StageReport(NamedTuple):
    """What a stage said beside the variables it wrote. Without evaluations: they are of the run's environment."""

    rows: list[MetricRow]
    warnings: list[Warned]

    @property
    def steps(self) -> int:
        """Those that it took."""
        return max((row.step for row in self.rows), default=0)

    @classmethod
    def from_json(cls, content: Any) -> "StageReport":
        """Back from JSON, which holds the same text for a number as metrics.csv: the shortest that gives it again."""
        rows, warnings = content
        return cls([MetricRow(*row) for row in rows], [Warned(*warning) for warning in warnings])


class RunRecord:
    """Writes one run directory. Holds a lock on it, so that no second process can.

    warnings: all that were given so far, by earlier processes, too, up to the checkpoint that this one began at.
    """

    def __init__(self, directory: Path) -> None:
        """Raises UserError if the directory cannot be made or is in use."""
        self.directory, self.warnings = directory, list[Warned]()
        self._lock = lock_directory(directory, "run", "--root_dir", "checkpoints")  # held as long as the run
        self._remove_leftovers()
        self._metrics, self._checkpoints = MetricsLog(directory), Checkpoints(directory / "checkpoints")

    def _remove_leftovers(self) -> None:
        """What a killed process was about to rename into place; the lock says that it is gone."""
        for path in [*self.directory.glob(".*.tmp"), *self.directory.glob("checkpoints/.*.tmp")]:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)

    def begin(self, operative_config: str, facts: dict[str, object]) -> None:
        """Fixes the configuration of a new run; of an existing one, checks that it is the same.

        Raises:
          UserError: showing the difference, if the directory holds a run of another configuration; if its name is not
            UTF-8.
        """
        check_utf8(self.directory.absolute())
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

    # What happens, as it happens -----------------------------------------------------------------------------------

    def write_metrics(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Appends one row per metric."""
        self._metrics.write([MetricRow(stage, step, metric, value) for metric, value in values.items()])

    def write_timing(self, stage: str, step: int, steps: int, seconds: float) -> None:
        """Appends how long `steps` gradient steps took, up to `step`; apart from the metrics, which must repeat."""
        self._metrics.write_timing(stage, step, steps, seconds)

    def flush(self) -> None:
        """Makes what was written visible to readers."""
        self._metrics.flush()

    def report(self, stage: str) -> StageReport:
        """What a finished stage said in this run."""
        own = [row for row in read_metrics(self.directory) if row.stage == stage]
        rows = [row for row in own if not row.metric.startswith("evaluation/")]
        return StageReport(rows, [warning for warning in self.warnings if warning.stage == stage])

    def repeat(self, report: StageReport) -> None:
        """Writes what a stage said in another run, as if it had been trained in this one."""
        self._metrics.write(report.rows)
        self.warnings += report.warnings

    # Checkpoints -------------------------------------------------------------------------------------------------

    def save(self, variables: Mapping[str, tf.Variable], position: Position) -> None:
        """Writes a checkpoint; what was written so far belongs to it."""
        self.flush()
        record = {"metrics_size": self._metrics.size, "warnings": self.warnings}
        self._checkpoints.save(variables, position, record)

    def restore(self, variables: Mapping[str, tf.Variable]) -> Position:
        """Takes everything back to the newest intact checkpoint; a new run starts at zero.

        Raises:
          UserError: if checkpoints exist and none is usable.
        """
        restored = self._checkpoints.restore(variables)
        position, record = restored or (Position(0, 0), {"metrics_size": 0, "warnings": []})
        written: Any = record
        self._metrics.rewind(written["metrics_size"])
        self.warnings = [Warned(*warning) for warning in written["warnings"]]
        return position


def read_warnings(run: Path) -> list[Warned]:
    """What a run had warned of when it last saved its state."""
    written: Any = Checkpoints(run / "checkpoints").newest_record()
    return [Warned(*warning) for warning in written.get("warnings", [])]
