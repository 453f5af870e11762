"""What finished runs left, read and checked for whether it can be set side by side."""

import dataclasses
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from brac_plus_tf.comparison.records import Cell, find_record
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.runs.outcome import LAST

_PUBLISHED = json.loads((Path(__file__).parent / "published_scores.json").read_text())


@dataclasses.dataclass(frozen=True)
class Result:
    """What a finished run left. score: normalised, or the return where the task has no reference scores, or what the
    data let expect of the discounted return where there was no environment; `unit` says which.

    score: of the last policy, mean of `episodes`. last_evaluations: mean score of the last ones during training, None
    if there were none.
    speeds: gradient steps per second of each stage. curve: (gradient step, score) of each evaluation; value_curve:
    (gradient step, mean of Q) at the same, empty where there is no Q.
    judgement: estimate.json's content, None for a run that an environment has evaluated.
    """

    cell: Cell
    score: float
    last_evaluations: float | None
    unit: str
    episodes: int
    speeds: dict[str, float]
    curve: tuple[tuple[int, float], ...]
    value_curve: tuple[tuple[int, float], ...] = ()
    judgement: dict[str, Any] | None = None

    @property
    def worst(self) -> float | None:
        """Of the last ten evaluations during training; None if there were none."""
        return min((value for _, value in self.curve[-LAST:]), default=None)

    @property
    def drop(self) -> float | None:
        """By how much the last policy is below the best evaluation on the way; None if there was none."""
        return max(value for _, value in self.curve) - self.score if self.curve else None


ESTIMATE = "estimate"  # the unit of what no environment has measured


def collect(cells: Sequence[Cell]) -> list[Result]:
    """Reads what the runs left and checks that it can be compared.

    Raises:
      UserError: if a run was neither evaluated nor judged by its data, runs differ in a dataset's contents, simulator,
        number of episodes or discount, or seeds of an agent on a dataset in their settings.
    """
    results: list[Result] = []
    terms_of: dict[tuple[str, ...], tuple[Cell, dict[str, object]]] = {}
    for cell in cells:
        record = find_record(cell)
        if record is None:
            raise UserError(f"{cell.directory}: neither evaluated nor judged by its data: there is nothing to compare")
        facts, content = record["run"], record["evaluation"] or record["estimate"]
        shared = {"dataset": facts["dataset"], "environment": facts["environment"], "episodes": content["episodes"]}
        shared["gamma"] = content.get("gamma")
        own = {"configuration": facts.get("configuration")}
        for place, terms in (((cell.dataset,), shared), ((cell.dataset, cell.agent), own)):
            first = terms_of.setdefault(place, (cell, terms))
            for key, value in terms.items():
                if value != first[1][key]:
                    raise UserError(
                        f"{cell.directory}: its {key} is not that of {first[0].directory}; remove one of them"
                    )
        results.append(_read_evaluation(cell, record) if record["evaluation"] else _read_judgement(cell, record))
    return results


def _read_judgement(cell: Cell, record: dict[str, Any]) -> Result:
    judgement = record["estimate"]
    mean, episodes = judgement["estimate"]["mean"], judgement["episodes"]
    return Result(cell, mean, None, ESTIMATE, episodes, record["steps_per_second"], (), judgement=judgement)


def _read_evaluation(cell: Cell, record: dict[str, Any]) -> Result:
    evaluation = record["evaluation"]
    unit = "score" if "score_mean" in evaluation else "return"
    return Result(
        cell=cell,
        score=evaluation[f"{unit}_mean"],
        last_evaluations=evaluation["last_evaluations"].get(f"{unit}_mean"),
        unit=unit,
        episodes=evaluation["episodes"],
        speeds=record["steps_per_second"],
        curve=_pairs(record["curve"]),
        value_curve=_pairs(record.get("value_curve", ())),  # records of before have none
    )


def _pairs(curve: Iterable[Sequence[float]]) -> tuple[tuple[int, float], ...]:
    return tuple((int(step), value) for step, value in curve)


def published_score(dataset: str, agent: str) -> float | None:
    """The paper's number for an agent's gin folder (or file: `cql/rho`) on a D4RL dataset of any version.

    Data of a robot's medium and expert policies, given as two, are its medium-expert dataset.
    """
    name = re.sub(r"^(\w+)-medium\+\1-expert$", r"\1-medium-expert", re.sub(r"-v\d+$", "", dataset))
    return _PUBLISHED["scores"].get(name, {}).get(agent)


def names(results: Sequence[Result], attribute: str) -> list[str]:
    """The different agents or datasets, in order."""
    return list(dict.fromkeys(getattr(result.cell, attribute) for result in results))


def by_agent(results: Sequence[Result]) -> dict[str, dict[str, list[Result]]]:
    """agent -> dataset -> its runs there; every agent has every dataset, in order."""
    datasets = names(results, "dataset")
    runs: dict[str, dict[str, list[Result]]] = {agent: {d: [] for d in datasets} for agent in names(results, "agent")}
    for result in results:
        runs[result.cell.agent][result.cell.dataset].append(result)
    return runs
