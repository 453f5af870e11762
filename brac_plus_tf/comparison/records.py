"""A finished run as one small file: all that tables and curves are made from, and what made it."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.files import write_json
from brac_plus_tf.estimation.finished_run import read_estimate
from brac_plus_tf.runs.facts import read_facts, settings
from brac_plus_tf.runs.metrics_log import read_metrics, read_speeds

FORMAT = 1
_EVALUATION = "evaluation.json"
_EACH = ("returns", "scores", "lengths")  # an evaluation's lists of episodes, which are most of a run's bytes


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of a comparison, and what the training command is given for it. dataset: its directory's name.

    record: where what is left of it is kept, or None.
    """

    agent: str
    dataset: str
    seed: int
    directory: Path
    gin_files: tuple[str, ...] = ()
    bindings: tuple[str, ...] = ()
    record: Path | None = None


def record_of(run: Path) -> dict[str, Any] | None:
    """What is kept of a finished run; None where there is neither an evaluation nor an estimate.

    It holds run.json, the settings, evaluation.json but for its single episodes, estimate.json, the curve as (gradient
    step, score), Q's as (gradient step, mean) at the same steps, and gradient steps per second of each stage. The curve
    is of returns where the task has no scores.
    """
    evaluation, estimate = _evaluation(run), read_estimate(run)
    if evaluation is None and estimate is None:
        return None
    curve, values = [], []
    if evaluation:
        metric, rows = f"evaluation/{'score' if 'score_mean' in evaluation else 'return'}_mean", list(read_metrics(run))
        curve = [(row.step, row.value) for row in rows if row.metric == metric]
        looked = {(row.stage, row.step) for row in rows if row.metric == metric}
        values = [(row.step, row.value) for row in rows if row.metric == "q_mean" and (row.stage, row.step) in looked]
        evaluation = {key: value for key, value in evaluation.items() if key not in _EACH}
    config = run / "operative_config.gin"
    return {
        "record": FORMAT,
        "run": read_facts(run),
        "settings": settings(config.read_text()) if config.exists() else [],
        "evaluation": evaluation,
        "estimate": estimate,
        "curve": curve,
        "value_curve": values,
        "steps_per_second": read_speeds(run),
    }


def finished_facts(run: Path) -> dict[str, Any] | None:
    """run.json's content of a run that has been evaluated or judged; None for any other."""
    if not (run / _EVALUATION).exists() and read_estimate(run) is None:
        return None
    return dict(read_facts(run))


def find_record(cell: Cell) -> dict[str, Any] | None:
    """Of the run's own directory, if it is finished there, else the one that was kept; None if there is neither.

    Raises:
      UserError: if what was kept is none of this package's records.
    """
    return record_of(cell.directory) or kept_record(cell)


def kept_record(cell: Cell) -> dict[str, Any] | None:
    """What was kept of it, whether or not its directory is there. Raises UserError as `find_record`."""
    if cell.record is None or not cell.record.exists():
        return None
    try:
        content: dict[str, Any] = json.loads(cell.record.read_text())
        if content["record"] != FORMAT:
            raise UserError(f"{cell.record}: of format {content['record']}, this version reads {FORMAT}")
    except (ValueError, TypeError, LookupError) as error:
        raise UserError(f"{cell.record}: no record of a run ({error}); remove it") from error
    return content


def keep_record(cell: Cell) -> None:
    """Writes the finished run's record, if it is to be kept somewhere."""
    if cell.record is not None and (content := record_of(cell.directory)):
        cell.record.parent.mkdir(parents=True, exist_ok=True)
        write_json(cell.record, content)


def _evaluation(run: Path) -> dict[str, Any] | None:
    path = run / _EVALUATION
    return json.loads(path.read_text()) if path.exists() else None
