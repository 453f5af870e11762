"""What finished runs left, read and checked for whether it can be set side by side."""

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.estimation.finished_run import read_estimate
from brac_plus_tf.runs.facts import read_facts
from brac_plus_tf.runs.metrics_log import read_metrics, read_speeds

_PUBLISHED = json.loads((Path(__file__).parent / "published_scores.json").read_text())


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of a comparison, and what the training command is given for it. dataset: its directory's name."""

    agent: str
    dataset: str
    seed: int
    directory: Path
    gin_files: tuple[str, ...] = ()
    bindings: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Result:
    """What a finished run left. score: normalised, or the return where the task has no reference scores, or what the
    data let expect of the discounted return where there was no environment; `unit` says which.

    score: of the last policy, mean of `episodes`. last_evaluations: mean score of the last ones during training, None
    if there were none.
    speeds: gradient steps per second of each stage. curve: (gradient step, score) of each evaluation.
    judgement: estimate.json's content, None for a run that an environment has evaluated.
    """

    cell: Cell
    score: float
    last_evaluations: float | None
    unit: str
    episodes: int
    speeds: dict[str, float]
    curve: tuple[tuple[int, float], ...]
    judgement: dict[str, Any] | None = None


ESTIMATE = "estimate"  # the unit of what no environment has measured


def has_result(run: Path) -> bool:
    """Whether there is something to compare: an evaluation or, without an environment, an estimate."""
    return (run / "evaluation.json").exists() or read_estimate(run) is not None


def collect(cells: Sequence[Cell]) -> list[Result]:
    """Reads the runs' results and checks that they can be compared.

    Raises:
      UserError: if a run was neither evaluated nor judged by its data, or runs differ in a dataset's contents,
        simulator, number of episodes or discount.
    """
    results: list[Result] = []
    facts_of_dataset: dict[str, tuple[Cell, dict[str, object]]] = {}
    for cell in cells:
        facts = read_facts(cell.directory)
        evaluation, judgement = _evaluation(cell.directory), read_estimate(cell.directory)
        content = evaluation or judgement
        if content is None:
            raise UserError(f"{cell.directory}: neither evaluated nor judged by its data: there is nothing to compare")
        shared = {"dataset": facts["dataset"], "environment": facts["environment"], "episodes": content["episodes"]}
        shared["gamma"] = content.get("gamma")
        first = facts_of_dataset.setdefault(cell.dataset, (cell, shared))
        for key, value in shared.items():
            if value != first[1][key]:
                raise UserError(f"{cell.directory}: its {key} is not that of {first[0].directory}; remove one of them")
        results.append(_read_evaluation(cell, content) if evaluation else _read_judgement(cell, content))
    return results


def _evaluation(run: Path) -> dict[str, Any] | None:
    path = run / "evaluation.json"
    return json.loads(path.read_text()) if path.exists() else None


def _read_judgement(cell: Cell, judgement: dict[str, Any]) -> Result:
    mean, episodes = judgement["estimate"]["mean"], judgement["episodes"]
    return Result(cell, mean, None, ESTIMATE, episodes, read_speeds(cell.directory), (), judgement)


def _read_evaluation(cell: Cell, evaluation: dict[str, Any]) -> Result:
    unit = "score" if "score_mean" in evaluation else "return"
    rows = [row for row in read_metrics(cell.directory) if row.metric == f"evaluation/{unit}_mean"]
    return Result(
        cell=cell,
        score=evaluation[f"{unit}_mean"],
        last_evaluations=evaluation["last_evaluations"].get(f"{unit}_mean"),
        unit=unit,
        episodes=evaluation["episodes"],
        speeds=read_speeds(cell.directory),
        curve=tuple((row.step, row.value) for row in rows),
    )


def published_score(dataset: str, agent: str) -> float | None:
    """The paper's number for an agent's gin folder (or file: `cql/rho`) on a D4RL dataset of any version."""
    return _PUBLISHED["scores"].get(re.sub(r"-v\d+$", "", dataset), {}).get(agent)


def names(results: Sequence[Result], attribute: str) -> list[str]:
    """The different agents or datasets, in order."""
    return list(dict.fromkeys(getattr(result.cell, attribute) for result in results))
