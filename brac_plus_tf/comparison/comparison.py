"""What finished runs have to say side by side: scores with intervals over seeds, speeds, learning curves."""

import csv
import dataclasses
import io
import json
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.extras import import_extra
from brac_plus_tf.core.files import write_atomically, write_figure
from brac_plus_tf.runs.facts import read_facts
from brac_plus_tf.runs.metrics_log import read_metrics, read_speeds

if TYPE_CHECKING:  # not part of a plain installation
    from matplotlib.figure import Figure

Aggregate = Callable[[np.ndarray], float]  # of scores [seeds, tasks]
_PUBLISHED = json.loads((Path(__file__).parent / "published_scores.json").read_text())
_RESAMPLES = 2000  # of the bootstrap: the ends of a 95 % interval are then good to about a twentieth of its width


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


def require_libraries() -> None:
    """Raises UserError if what draws or computes the statistics is not installed."""
    for module in ("rliable.library", "matplotlib.figure"):
        import_extra(module, "compare")


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


def interval(scores: np.ndarray, aggregate: Aggregate) -> tuple[float, float]:
    """95 % bootstrap interval of `aggregate` over runs, stratified by task. scores: [seeds, tasks]."""
    from rliable import library

    def function(sample: np.ndarray) -> np.ndarray:
        return np.array([aggregate(sample)])

    state = np.random.RandomState(0)  # the same table from the same runs
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", FutureWarning
        )  # rliable passes `random_state` on under a name that arch renamed
        bounds = library.get_interval_estimates({"": scores}, function, reps=_RESAMPLES, random_state=state)[1][""]
    return float(bounds[0, 0]), float(bounds[1, 0])


def interquartile_mean(scores: np.ndarray) -> float:
    """Mean of the middle half of all scores [seeds, tasks] (Agarwal et al. 2021)."""
    from rliable import metrics

    return float(metrics.aggregate_iqm(scores))


def write_comparison(results: Sequence[Result], directory: Path) -> Path:
    """Writes table.md, scores.csv and curves.png into `directory`; returns the table's path."""
    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(directory / "scores.csv", _csv(results).encode())
    write_figure(directory / "curves.png", _curves(results))
    write_atomically(directory / "table.md", _markdown(results).encode())
    return directory / "table.md"


# Tables ----------------------------------------------------------------------------------------------------------


def _csv(results: Sequence[Result]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["dataset", "agent", "seed", "unit", "mean", "last_evaluations", "published", "stage_steps_per_second", "run"]
    )
    for result in results:
        cell, speeds = result.cell, " ".join(f"{stage}:{speed:.1f}" for stage, speed in result.speeds.items())
        published = published_score(cell.dataset, cell.agent)
        scores = [result.unit, result.score, result.last_evaluations, "" if published is None else published]
        writer.writerow([cell.dataset, cell.agent, cell.seed, *scores, speeds, cell.directory])
    return text.getvalue()


def _markdown(results: Sequence[Result]) -> str:
    agents, datasets = _names(results, "agent"), _names(results, "dataset")
    seeds = len({result.cell.seed for result in results})
    units = {result.unit for result in results}
    episodes = {str(result.episodes) for result in results}
    runs: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        runs.setdefault((result.cell.dataset, result.cell.agent), []).append(result)

    def rows(entry: Callable[[list[Result]], str]) -> list[list[str]]:
        return [[name, *(entry(runs.get((name, agent), [])) for agent in agents)] for name in datasets]

    lines = [
        f"Normalised {' and '.join(sorted(units))} of the last policy, mean of {', '.join(sorted(episodes))} episodes, "
        f"{seeds} seed{'s; in brackets the 95 % interval over them' if seeds > 1 else ''}. "
        "Paper: the published number, on D4RL's own dataset of that name.",
        "",
        *_table(["dataset", *agents], rows(_score_entry)),
    ]
    if len(datasets) > 1 and units == {"score"}:
        lines += ["", f"Interquartile mean over tasks{' and seeds' if seeds > 1 else ''}:", ""]
        columns = {agent: [runs.get((name, agent), []) for name in datasets] for agent in agents}
        lines += _table(["", *agents], [["IQM", *(_iqm_entry(column, seeds) for column in columns.values())]])
    lines += [
        "",
        "Mean of the last 10 evaluations of each run, which follow a policy's swings less than its last one:",
        "",
    ]
    lines += _table(["dataset", *agents], rows(_last_evaluations_entry))
    lines += ["", "Gradient steps per second of each stage, median over the run:", ""]
    lines += _table(["dataset", *agents], rows(_speed_entry))
    return "\n".join(lines) + "\n"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)]


def _names(results: Sequence[Result], attribute: str) -> list[str]:
    return list(dict.fromkeys(getattr(result.cell, attribute) for result in results))


def _with_interval(scores: np.ndarray, aggregate: Aggregate) -> str:
    """scores: [seeds, tasks]."""
    text = f"{aggregate(scores):.1f}"
    if len(scores) > 1:
        low, high = interval(scores, aggregate)
        text += f" [{low:.1f}, {high:.1f}]"
    return text


def _score_entry(runs: list[Result]) -> str:
    if not runs:
        return "failed"
    text = _with_interval(np.array([[run.score] for run in runs]), _mean)
    published = published_score(runs[0].cell.dataset, runs[0].cell.agent)
    return text if published is None else f"{text} (paper {published:g})"


def _last_evaluations_entry(runs: list[Result]) -> str:
    values = [run.last_evaluations for run in runs if run.last_evaluations is not None]
    return _with_interval(np.array(values)[:, None], _mean) if values else "none"


def _mean(scores: np.ndarray) -> float:
    return float(np.mean(scores))


def _iqm_entry(runs_of_tasks: Sequence[list[Result]], seeds: int) -> str:
    if any(len(runs) < seeds for runs in runs_of_tasks):
        return "runs failed"
    return _with_interval(np.array([[run.score for run in runs] for runs in runs_of_tasks]).T, interquartile_mean)


def _speed_entry(runs: list[Result]) -> str:
    stages = dict.fromkeys(stage for run in runs for stage in run.speeds)
    medians = {stage: np.median([run.speeds[stage] for run in runs if stage in run.speeds]) for stage in stages}
    return ", ".join(f"{stage} {speed:.0f}" for stage, speed in medians.items())


# Curves ----------------------------------------------------------------------------------------------------------


def _curves(results: Sequence[Result]) -> "Figure":
    """A panel for each dataset; mean over seeds, and their range as a band."""
    datasets = _names(results, "dataset")
    figure = import_extra("matplotlib.figure", "compare").Figure(
        figsize=(5.0 * len(datasets), 4.0), layout="constrained"
    )
    panels = figure.subplots(1, len(datasets), squeeze=False)[0]
    for panel, dataset in zip(panels, datasets, strict=True):
        here = [result for result in results if result.cell.dataset == dataset]
        for agent in _names(here, "agent"):
            curves = [dict(result.curve) for result in here if result.cell.agent == agent]
            steps = sorted(set.intersection(*(set(curve) for curve in curves)))
            values = np.array([[curve[step] for step in steps] for curve in curves])
            (line,) = panel.plot(steps, values.mean(axis=0), label=agent)
            if len(curves) > 1:
                panel.fill_between(steps, values.min(axis=0), values.max(axis=0), color=line.get_color(), alpha=0.2)
        panel.set(title=dataset, xlabel="gradient steps", ylabel=here[0].unit)
        panel.grid(alpha=0.3)
    panels[-1].legend()
    return figure
