"""What comes of a trained run: its last policy, evaluated and exported, and what a person reads of it at the end."""

import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from brac_plus_tf.core.files import write_json
from brac_plus_tf.core.stopping import stoppable
from brac_plus_tf.environments.tasks import Task
from brac_plus_tf.policies.saved_policy import DeployedPolicy
from brac_plus_tf.runs.metrics_log import read_metrics
from brac_plus_tf.runs.progress import standard_error
from brac_plus_tf.runs.run_record import RunRecord, Warned


class FinalEvaluation(Protocol):
    """Evaluates the last policy."""

    def final(self) -> dict[str, object]:
        """evaluation.json's content, but for the evaluations before it."""


def finish(
    record: RunRecord, evaluation: FinalEvaluation | None, policy: DeployedPolicy, facts: dict[str, object]
) -> None:
    """Evaluates and exports the last policy of a trained run; skips what is there.

    Raises:
      Interrupted: after SIGINT; nothing half-written stays.
    """
    if evaluation and not (record.directory / "evaluation.json").exists():
        with stoppable("the last evaluation"):
            results = {**evaluation.final(), "last_evaluations": last_evaluations(record.directory)}
        write_json(record.directory / "evaluation.json", results)
    if not (record.directory / "saved_model").exists():
        with stoppable("the export of the policy"):
            policy.save(record.directory / "saved_model", facts)


def snapshots(policy: DeployedPolicy, record: RunRecord, facts: dict[str, object]) -> Callable[[int], None]:
    """Exports the policy of a step into the run's `snapshots/STEP`; what a stopped run had made is there already."""

    def export(step: int) -> None:
        directory = record.directory / "snapshots" / f"{step:08d}"
        if not directory.exists():
            policy.save(directory, {**facts, "step": step})

    return export


LAST = 10  # evaluations that are told beside the last policy's


def last_evaluations(directory: Path, count: int = LAST) -> dict[str, float]:
    """Means of the last `count` evaluations during training; single evaluations swing by several points."""
    rows: dict[str, list[float]] = {}
    for row in read_metrics(directory):
        if row.metric.startswith("evaluation/"):
            rows.setdefault(row.metric.removeprefix("evaluation/"), []).append(row.value)
    return {"count": min(count, *map(len, rows.values())) if rows else 0} | {
        key: float(np.mean(values[-count:])) for key, values in rows.items()
    }


# The last words ---------------------------------------------------------------------------------------------------


def summary(
    directory: Path, warnings: Sequence[Warned], task: Task | None, data_returns: np.ndarray | None = None
) -> str:
    """What a run came to, beside its data, and what to look at next.

    Args:
      task: the one it was evaluated in. data_returns: [P] of the data's whole episodes, if it learned from data.
    """
    where = shlex.quote(str(directory))
    lines = _policy_lines(directory, where)
    if data_returns is not None and len(data_returns):
        lines += [("data", _data_line(data_returns, task))]
    lines += [
        ("curves", f"python -m brac_plus_tf.plot {where}"),
        ("", f"tensorboard --logdir={where}/tensorboard"),
        ("deploy", f"python -m brac_plus_tf.export --run_dir={where} --output=my_policy"),
    ]
    lines += [("" if index else "warnings", warning.text) for index, warning in enumerate(warnings)]
    return "\n".join(f"{label:8s} {text}" for label, text in lines)


def _policy_lines(directory: Path, where: str) -> list[tuple[str, str]]:
    path = directory / "evaluation.json"
    if not path.exists():
        command = f"python -m brac_plus_tf.evaluate --run_dir={where} --env=ID"
        return [("policy", f"no score: it was trained without an environment; {command} finds one")]
    content: dict[str, Any] = json.loads(path.read_text())
    kinds = [kind for kind in ("score", "return") if f"{kind}_mean" in content]
    spread = ", ".join(f"{kind} {content[f'{kind}_mean']:.1f} +- {content[f'{kind}_std']:.1f}" for kind in kinds)
    episodes, first = content["episodes"], kinds[0]
    note = f"mean and standard deviation of {_episodes(episodes)}"
    if episodes > 1:
        note += f"; standard error {standard_error(content[f'{first}_std'], episodes):.1f}"
    lines = [("policy", f"{spread} ({note})")]
    before = content["last_evaluations"]
    if before["count"] > 1 and (mean := before.get(f"{first}_mean")) is not None:
        lines += [("", f"{first} {mean:.1f} (mean of the last {before['count']} evaluations)")]
    return lines


def _data_line(returns: np.ndarray, task: Task | None) -> str:
    mean = float(returns.mean())
    score = f"score {task.normalized_score(mean):.1f}, " if task and task.reference_score is not None else ""
    return f"{score}return {mean:.1f} (mean of {_episodes(len(returns))})"


def _episodes(count: int) -> str:
    return f"{count:,} episode" + ("" if count == 1 else "s")
