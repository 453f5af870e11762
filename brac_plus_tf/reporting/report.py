"""What a dataset, a run, a selection or a comparison came to, as one page."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.data.advice import advice
from brac_plus_tf.data.dataset import OfflineDataset
from brac_plus_tf.data.summary import draw_histogram, summary
from brac_plus_tf.environments.tasks import Task
from brac_plus_tf.estimation.finished_run import read_estimate
from brac_plus_tf.estimation.selection import COLUMNS, candidate_row, read_selection
from brac_plus_tf.estimation.verdict import Interval
from brac_plus_tf.reporting.page import Html, drawing, page, panels, paragraph, preformatted, section, table
from brac_plus_tf.runs.curves import draw_runs, read_curves
from brac_plus_tf.runs.facts import read_facts
from brac_plus_tf.runs.run_record import read_warnings

_SHOWN = ("brac_plus_tf", "git_commit", "python", "platform", "processors")


def dataset_page(dataset: OfflineDataset, task: Task | None) -> str:
    """What `inspect_dataset` prints, its suggestion first, and the returns as a histogram."""
    rows = [*summary(dataset, task), *advice(dataset)]
    suggested = dict(rows)["suggestion"]
    return page(
        " + ".join(Path(name).name for name in dataset.origin.names),
        [
            paragraph(f"Suggestion: {suggested}", "verdict"),
            section("What it holds", [table([row for row in rows if row[0] != "suggestion"])]),
            section("Returns", [panels([lambda axes: draw_histogram(axes, dataset)], "histogram of returns")]),
        ],
    )


def run_page(run: Path) -> str:
    """Score or estimate, curves, warnings and settings of a run, finished or not.

    Raises:
      UserError: if the directory is no run's.
    """
    facts = read_facts(run)
    curves = read_curves(run)
    parts = [*_outcome(run), section("Curves", [drawing(draw_runs([curves], 1), "curves of the run's metrics")])]
    if warnings := read_warnings(run):
        parts.append(section("Warnings", [table([[warning.text] for warning in warnings])]))
    parts.append(section("How it was made", [table(_facts(facts)), _settings(run)]))
    return page(f"{curves.agent} on {curves.data}, seed {facts.get('seed')}", parts)


def selection_page(directory: Path) -> str:
    """Which of several policies was chosen, why, and what was known of each.

    Raises:
      UserError: if the directory holds no selection.
    """
    content = read_selection(directory)
    candidates = content["candidates"]
    chosen = [candidate["name"] for candidate in candidates].index(content["chosen"])
    rows = [candidate_row(candidate) for candidate in candidates]
    kind = "verdict" if content["reliable"] else "verdict doubtful"
    reasons = list(dict.fromkeys(reason for candidate in candidates for reason in candidate["why"]))
    parts = [paragraph(f"Chosen: {content['chosen']}: {content['why']}.", kind)]
    if reasons:
        parts.append(section("Why not every estimate is to be believed", [table([[reason] for reason in reasons])]))
    parts += [
        section("Candidates", [table(rows, COLUMNS, chosen), _legend(candidates[0])]),
        section(
            "Estimates with 95 % intervals",
            [panels([lambda axes: _draw_estimates(axes, candidates, chosen)], "estimates with intervals")],
        ),
    ]
    return page("Selection of a policy", parts)


def comparison_page(directory: Path) -> str:
    """The tables and curves of a comparison.

    Raises:
      UserError: if the directory holds none.
    """
    try:
        markdown = (directory / "table.md").read_text()
        rows = list(csv.DictReader(io.StringIO((directory / "scores.csv").read_text())))
    except (OSError, ValueError) as error:
        raise UserError(f"{directory}: not a comparison, its tables cannot be read ({error})") from error
    if not rows or not {"dataset", "agent", "seed", "unit", "mean"} <= set(rows[0]):
        raise UserError(f"{directory / 'scores.csv'}: not written by compare")
    parts = list(_tables(markdown))
    parts.append(
        section(
            "Every run",
            [panels([lambda axes, name=name: _draw_scores(axes, rows, name) for name in _names(rows)], "scores")],
        )
    )
    return page(f"Comparison: {', '.join(_names(rows))}", parts)


# Parts ----------------------------------------------------------------------------------------------------------------


def _outcome(run: Path) -> list[Html]:
    parts: list[Html] = []
    path = run / "evaluation.json"
    if path.exists():
        content: dict[str, Any] = json.loads(path.read_text())
        kind = "score" if "score_mean" in content else "return"
        mean, deviation, count = content[f"{kind}_mean"], content[f"{kind}_std"], content["episodes"]
        parts.append(
            paragraph(f"{kind} {mean:.1f} +- {deviation:.1f} in {count} episodes of {content['task']}", "verdict")
        )
    if judgement := read_estimate(run):
        kind = "verdict" if judgement["reliable"] else "verdict doubtful"
        parts.append(paragraph(f"By the data alone: {judgement['verdict']}.", kind))
        rows = [[name, str(Interval(**judgement[key]))] for name, key in _VALUES]
        parts += [table(rows), _legend(judgement), *(paragraph(reason) for reason in judgement["why"])]
    return parts or [paragraph("Not finished yet: neither evaluated nor judged by its data.", "verdict doubtful")]


_VALUES = (("this policy", "estimate"), ("a cloned policy", "clone"), ("the data", "data"))


def _legend(judgement: Mapping[str, Any]) -> Html:
    return paragraph(
        f"Estimate: discounted return (gamma {judgement['gamma']:g}) from the starts of {judgement['episodes']:,} "
        "episodes of the data, by fitted Q evaluation, with its 95 % interval; no simulator. A cloned policy's has to "
        "agree with what the data earned, or no estimate on these data is to be believed. D: divergence from the "
        "behaviour. Distance: of the actions from the data's, in halves of their range.",
        "small",
    )


def _draw_estimates(axes: Any, candidates: Sequence[Mapping[str, Any]], chosen: int) -> None:
    data = candidates[0]["data"]
    axes.axvspan(data["mean"] - data["half_width"], data["mean"] + data["half_width"], color="0.85", label="the data")
    for index, candidate in enumerate(candidates):
        value, color = candidate["estimate"], "#D55E00" if index == chosen else "#0072B2"
        axes.errorbar(value["mean"], -index, xerr=value["half_width"], color=color, marker="o", capsize=3)
    names = [str(candidate["name"]) for candidate in candidates]
    short = [name if len(name) < 40 else f"..{name[-38:]}" for name in names]
    axes.set_yticks(-np.arange(len(names)), short, parse_math=False, fontsize="small")
    axes.set_xlabel("estimated discounted return")
    axes.legend(frameon=False, fontsize="small")


def _names(rows: Sequence[Mapping[str, str]]) -> list[str]:
    return list(dict.fromkeys(row["dataset"] for row in rows))


def _draw_scores(axes: Any, rows: Sequence[Mapping[str, str]], dataset: str) -> None:
    here = [row for row in rows if row["dataset"] == dataset]
    agents = list(dict.fromkeys(row["agent"] for row in here))
    for row in here:
        axes.plot(agents.index(row["agent"]), float(row["mean"]), "o", color="#0072B2", alpha=0.7)
    axes.set_xticks(range(len(agents)), agents, rotation=30, ha="right", parse_math=False)
    axes.set_title(dataset, parse_math=False)
    unit = here[0]["unit"]
    axes.set_ylabel("estimate (no simulator)" if unit == "estimate" else unit)
    axes.grid(alpha=0.25, axis="y")


def _tables(markdown: str) -> list[Html]:
    """Paragraphs and tables of the Markdown that `compare` writes."""
    parts: list[Html] = []
    for block in markdown.strip().split("\n\n"):
        lines = block.splitlines()
        if lines[0].startswith("|"):
            cells = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines]
            parts.append(table([row for row in cells[1:] if set("".join(row)) != {"-"}], cells[0]))
        else:
            parts.append(paragraph(" ".join(lines)))
    return parts


def _facts(facts: Mapping[str, Any]) -> list[list[str]]:
    dataset, environment, host = facts.get("dataset"), facts.get("environment"), facts.get("host")
    rows = [["agent", str(facts.get("agent"))], ["seed", str(facts.get("seed"))], ["acts by", str(facts.get("action"))]]
    if isinstance(dataset, Mapping):
        rows += [["data", f"{', '.join(map(str, dataset['files']))} (SHA-256 {dataset['sha256']})"]]
    if isinstance(environment, Mapping):
        rows += [["environment", f"{environment['task']} on {environment.get('backend')}"]]
    if isinstance(host, Mapping):
        rows += [[name.replace("_", " "), str(host[name])] for name in _SHOWN if name in host]
    return rows


def _settings(run: Path) -> Html:
    try:
        text = (run / "operative_config.gin").read_text()
    except OSError:
        text = "not there"
    return preformatted("Every setting", text)
