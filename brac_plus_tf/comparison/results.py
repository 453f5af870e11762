"""What finished runs left, read and checked for whether it can be set side by side."""

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path

from brac_plus_tf.core.errors import UserError
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
    """What a finished run left. score: normalised, or the return where the task has no reference scores.

    score: of the last policy, mean of `episodes`. last_evaluations: mean score of the last ones during training, None
    if there were none.
    speeds: gradient steps per second of each stage. curve: (gradient step, score) of each evaluation.
    """

    cell: Cell
    score: float
    last_evaluations: float | None
    unit: str
    episodes: int
    speeds: dict[str, float]
    curve: tuple[tuple[int, float], ...]


def collect(cells: Sequence[Cell]) -> list[Result]:
    """Reads the runs' results and checks that they can be compared.

    Raises:
      UserError: if a run was not evaluated, or runs differ in a dataset's contents, simulator or number of episodes.
    """
    results: list[Result] = []
    facts_of_dataset: dict[str, tuple[Cell, dict[str, object]]] = {}
    for cell in cells:
        path = cell.directory / "evaluation.json"
        if not path.exists():
            raise UserError(f"{cell.directory}: trained without an environment, so there is no score to compare")
        evaluation, facts = json.loads(path.read_text()), read_facts(cell.directory)
        shared = {"dataset": facts["dataset"], "environment": facts["environment"], "episodes": evaluation["episodes"]}
        first = facts_of_dataset.setdefault(cell.dataset, (cell, shared))
        for key, value in shared.items():
            if value != first[1][key]:
                raise UserError(f"{cell.directory}: its {key} is not that of {first[0].directory}; remove one of them")
        results.append(_read_result(cell, evaluation))
    return results


def _read_result(cell: Cell, evaluation: dict) -> Result:
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
