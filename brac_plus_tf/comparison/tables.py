"""A comparison as tables: for people in Markdown, for programs as CSV."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from brac_plus_tf.comparison.results import Result, by_agent, names, published_score
from brac_plus_tf.comparison.statistics import (
    Aggregate,
    Scores,
    interquartile_mean,
    interval,
    mean,
    median,
    optimality_gap,
    probability_of_improvement,
)
from brac_plus_tf.estimation.verdict import Interval

# over tasks; less of the last is better
_AGGREGATES: dict[str, Aggregate] = {
    "IQM": interquartile_mean,
    "median": median,
    "mean": mean,
    "optimality gap": optimality_gap,
}


def scores_csv(results: Sequence[Result]) -> str:
    """A row for each run."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    swings = ["last_evaluations", "worst_of_last", "drop_from_peak"]
    writer.writerow(["dataset", "agent", "seed", "unit", "mean", *swings, "published", "stage_steps_per_second", "run"])
    for result in results:
        cell, speeds = result.cell, " ".join(f"{stage}:{speed:.1f}" for stage, speed in result.speeds.items())
        published = published_score(cell.dataset, cell.agent)
        scores = [result.unit, result.score, result.last_evaluations, result.worst, result.drop]
        scores.append("" if published is None else published)
        writer.writerow([cell.dataset, cell.agent, cell.seed, *scores, speeds, cell.directory])
    return text.getvalue()


def markdown(results: Sequence[Result]) -> str:
    """The table of scores, and below it aggregates over datasets, the last evaluations and the speeds."""
    datasets, runs = names(results, "dataset"), by_agent(results)
    seeds = len({result.cell.seed for result in results})
    judged = any(result.judgement for result in results)

    def table(entry: Callable[[list[Result]], str]) -> list[str]:
        return table_lines(
            ["dataset", *runs], [[name, *(entry(each[name]) for each in runs.values())] for name in datasets]
        )

    lines = [_caption(results, seeds), "", *table(_score_entry)]
    if judged:
        lines += ["", "Estimates of the data and of a cloned policy, by the same data:", ""]
        lines += table_lines(["dataset", "data", "cloned policy"], [_of_data(name, results) for name in datasets])
    elif all(result.unit == "score" for result in results):
        lines += _over_datasets(runs, seeds)
    if not judged:
        lines += [
            "",
            "Mean of the last 10 evaluations of each run, which follow a policy's swings less than its last one, the "
            "worst of these, and how far the last policy is below the best evaluation on the way, means over seeds:",
            "",
            *table(_last_evaluations_entry),
        ]
    lines += ["", "Gradient steps per second of each stage, median over the run:", "", *table(_speed_entry)]
    return "\n".join(lines) + "\n"


def _over_datasets(runs: Mapping[str, Mapping[str, list[Result]]], seeds: int) -> list[str]:
    """Aggregates, and agents against each other. runs: agent -> dataset -> its runs there."""
    lines: list[str] = []
    datasets = list(next(iter(runs.values())))
    if seeds > 1 or len(datasets) > 1:
        whole = whole_datasets(runs, seeds)
        over = "all of the above" if len(whole) == len(datasets) else ", ".join(whole) or "no dataset"
        lines += [
            "",
            f"Over {over}{' and all seeds' if seeds > 1 else ''}: interquartile mean of all runs, median and mean of "
            "the datasets' means, and optimality gap, by how much all runs miss 100 on average (less is better):",
            "",
        ]
        lines += table_lines(
            ["", *runs],
            [
                [name, *(aggregate_entry(column, whole, seeds, aggregate) for column in runs.values())]
                for name, aggregate in _AGGREGATES.items()
            ],
        )
    if seeds > 1 and len(runs) > 1:
        lines += [
            "",
            "Probability that a run of the row's agent is above one of the column's, mean over the datasets that both "
            "have:",
            "",
        ]
        lines += _improvements({agent: list(columns.values()) for agent, columns in runs.items()})
    return lines


def whole_datasets(runs: Mapping[str, Mapping[str, list[Result]]], seeds: int) -> list[str]:
    """The datasets on which no agent lacks a seed, but for agents that lack some everywhere."""
    whole = {agent: [name for name, found in each.items() if len(found) == seeds] for agent, each in runs.items()}
    begun = [names_ for names_ in whole.values() if names_]
    return [name for name in next(iter(runs.values())) if begun and all(name in names_ for names_ in begun)]


def _caption(results: Sequence[Result], seeds: int) -> str:
    if results[0].judgement:
        return _caption_of_estimates(results[0].judgement, seeds)
    units, episodes = ({str(getattr(result, name)) for result in results} for name in ("unit", "episodes"))
    return (
        f"Normalised {' and '.join(sorted(units))} of the last policy, mean of {', '.join(sorted(episodes))} episodes, "
        f"{seeds} seed{'s; in brackets the 95 % interval over them' if seeds > 1 else ''}. "
        "Paper: the published number, on D4RL's own dataset of that name."
    )


def _caption_of_estimates(judgement: Mapping[str, Any], seeds: int) -> str:
    interval_of = "the 95 % interval over seeds" if seeds > 1 else "+- the half of its 95 % interval"
    return (
        f"Estimates, no simulator: what the data let expect of the discounted return (gamma {judgement['gamma']:g}) of "
        f"the last policy from the starts of their episodes, by fitted Q evaluation; {seeds} "
        f"seed{'s' if seeds > 1 else ''}, {interval_of}, and the verdict beside what the data earned."
    )


def table_lines(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Of a table in Markdown."""
    return ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)]


def with_interval(scores: Scores, aggregate: Aggregate) -> str:
    """`66.7 [65.5, 70.9]`; the number alone where no task has two runs."""
    text = f"{aggregate(scores):.1f}"
    if max(map(len, scores)) > 1:
        low, high = interval(aggregate, scores)
        text += f" [{low:.1f}, {high:.1f}]"
    return text


def _of_data(name: str, results: Sequence[Result]) -> list[str]:
    judgement = next(result.judgement for result in results if result.judgement and result.cell.dataset == name)
    return [name, str(Interval(**judgement["data"])), str(Interval(**judgement["clone"]))]


def _estimate_entry(judgements: list[dict[str, Any]]) -> str:
    verdicts = ", ".join(dict.fromkeys(judgement["verdict"] for judgement in judgements))
    if len(judgements) == 1:
        return f"{Interval(**judgements[0]['estimate'])} ({verdicts})"
    values = [np.array([judgement["estimate"]["mean"] for judgement in judgements])]
    low, high = interval(mean, values)
    return f"{mean(values):.4g} [{low:.4g}, {high:.4g}] ({verdicts})"


def _scores(runs: list[Result]) -> np.ndarray:
    return np.array([run.score for run in runs])


def improvement_entry(own: Sequence[list[Result]], other: Sequence[list[Result]]) -> str:
    """P(own > other), of runs on each dataset, over the datasets that both have."""
    both = [(_scores(ours), _scores(theirs)) for ours, theirs in zip(own, other, strict=True) if ours and theirs]
    if not both:
        return "missing"
    scores = [ours for ours, _ in both], [theirs for _, theirs in both]
    low, high = interval(probability_of_improvement, *scores)
    part = f" ({len(both)} of {len(own)} datasets)" if len(both) < len(own) else ""
    return f"{probability_of_improvement(*scores):.2f} [{low:.2f}, {high:.2f}]{part}"


def _improvements(runs: Mapping[str, list[list[Result]]]) -> list[str]:
    """P(row > column) with its interval above the diagonal; what is below it is 1 less that."""

    def entry(row: int, column: int, own: list[list[Result]], other: list[list[Result]]) -> str:
        return "" if row >= column else improvement_entry(own, other)

    rows = [
        [agent, *(entry(row, column, own, other) for column, other in enumerate(runs.values()))]
        for row, (agent, own) in enumerate(runs.items())
    ]
    return table_lines(["", *runs], rows[:-1])


def _score_entry(runs: list[Result]) -> str:
    if not runs:
        return "missing"
    if judgements := [run.judgement for run in runs if run.judgement]:
        return _estimate_entry(judgements)
    text = with_interval([_scores(runs)], mean)
    published = published_score(runs[0].cell.dataset, runs[0].cell.agent)
    return text if published is None else f"{text} (paper {published:g})"


def _last_evaluations_entry(runs: list[Result]) -> str:
    values = [run.last_evaluations for run in runs if run.last_evaluations is not None]
    if not values:
        return "none"
    worst, drop = (np.mean([getattr(run, name) for run in runs if run.curve]) for name in ("worst", "drop"))
    return f"{with_interval([np.array(values)], mean)}, worst {worst:.1f}, drop {drop:.1f}"


def aggregate_entry(runs: Mapping[str, list[Result]], datasets: Sequence[str], seeds: int, aggregate: Aggregate) -> str:
    """Over these datasets, of an agent's runs on each; or how many runs are missing, if one of these lacks a seed."""
    if not datasets or any(len(runs[name]) < seeds for name in datasets):
        missing = sum(seeds - len(found) for found in runs.values())
        return f"{missing} run{'s' if missing > 1 else ''} missing"
    return with_interval([_scores(runs[name]) for name in datasets], aggregate)


def _speed_entry(runs: list[Result]) -> str:
    stages = dict.fromkeys(stage for run in runs for stage in run.speeds)
    medians = {stage: np.median([run.speeds[stage] for run in runs if stage in run.speeds]) for stage in stages}
    return ", ".join(f"{stage} {speed:.0f}" for stage, speed in medians.items())
