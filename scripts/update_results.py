"""Makes everything that is made from the kept records anew: studies' tables, curves and figures, and documents' tables.

usage: python scripts/update_results.py

A run that two studies have in common is kept by both: what one has is copied to the other, if it is by the same
settings. In README.md and docs/ a line `<!-- scores: STUDY -->` has the table of its agents and datasets after it, one
`<!-- runs: STUDY[+STUDY] DATASET -->` that of all seeds, `<!-- crosscheck -->` that of d3rlpy's beside this package's.
"""

import dataclasses
import functools
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import crosscheck_table
import numpy as np

from brac_plus_tf.comparison.plan import Study, is_done, plan
from brac_plus_tf.comparison.records import Cell
from brac_plus_tf.comparison.results import Result, by_agent, collect, published_score
from brac_plus_tf.comparison.statistics import interquartile_mean, mean
from brac_plus_tf.comparison.tables import (
    aggregate_entry,
    improvement_entry,
    table_lines,
    whole_datasets,
    with_interval,
)
from brac_plus_tf.paper import ablations
from brac_plus_tf.runs import configuration

PROJECT = Path(__file__).resolve().parents[1]
DOCUMENTS = ("README.md", "docs/results.md", "docs/steadiness.md")
MARK = re.compile(
    r"(<!-- (?:scores: (?P<whole>\w+)|runs: (?P<studies>[\w+]+) (?P<dataset>[\w+-]+)|crosscheck) -->\n)(?:\|.*\n)*"
)
HEADER = (
    "| agent | last policy, seeds | mean [95 % interval] | last ten, worst | published | steps/s |\n"
    "|---|---|---|---|---|---|\n"
)
LABELS = {
    "bc": "BC",
    "td3_bc": "TD3+BC",
    "iql": "IQL",
    "rebrac": "ReBRAC",
    "brac_p": "BRAC-p",
    "brac_v": "BRAC-v",
    "cql": "CQL(H)",
    "bear": "BEAR",
    "mopo": "MOPO",
    "mbop": "MBOP",
    "brac_plus": "BRAC+",
    "brac_plus mmd global": "MMD, one multiplier, no penalty (figure 2a)",
    "brac_plus kl global": "bound on KL, one multiplier, no penalty (2a, 2b)",
    "brac_plus kl state": "bound on KL, a multiplier for each state, no penalty (2b, 2c, 1)",
    "brac_plus entropy as the data": "BRAC+, a policy that may be as random as the data (8)",
    "brac_plus steady": "BRAC+ by `steady.gin`",
    "brac_p slowing": "BRAC-p, slowing down as `steady.gin` does",
    "brac_v slowing": "BRAC-v, slowing down as `steady.gin` does",
    "brac_p discount": "BRAC-p, discount 0.995",
    "brac_v discount": "BRAC-v, discount 0.995",
}
# of the agents that the BRAC+ paper has not, from their own papers, on D4RL's -v2 data
OWN_PAPERS = {
    "hopper-medium-replay": {"td3_bc": 60.9, "iql": 94.7, "rebrac": 98.1},
    "halfcheetah-medium-replay": {"td3_bc": 44.6, "iql": 44.2, "rebrac": 51.0},
    "hopper-medium": {"td3_bc": 59.3, "iql": 66.3, "rebrac": 102.0},
    "halfcheetah-medium": {"td3_bc": 48.3, "iql": 47.4, "rebrac": 65.6},
    "hopper-medium+hopper-expert": {"td3_bc": 98.0, "iql": 91.5, "rebrac": 107.0},
    "halfcheetah-medium+halfcheetah-expert": {"td3_bc": 90.7, "iql": 86.7, "rebrac": 101.1},
    "hopper-random": {"td3_bc": 8.5, "rebrac": 8.1},
    "halfcheetah-random": {"td3_bc": 11.0, "rebrac": 29.5},
}


def studies() -> list[str]:
    """Names of those that have records."""
    return [path.stem for path in sorted((PROJECT / "studies").glob("*.gin")) if any(_records(path.stem))]


@functools.cache  # a study is asked for once for each table that it has a part in
def cells(study: str) -> list[Cell]:
    """All runs that the study plans."""
    return plan(*content(study), Path("runs"), records=PROJECT / "results" / study)


def content(study: str) -> tuple[Study, list[list[str]]]:
    """The study, and the sources of each of its datasets."""
    found = configuration.build(Study, [str(PROJECT / "studies" / f"{study}.gin")], [])
    return found, [dataset.split("+") for dataset in found.datasets]


def share_records() -> Iterator[Path]:
    """Copies what studies have in common; gives the copies.

    Raises:
      UserError: if a record of that name is by other settings than the study's.
    """
    kept = {path.name: path for study in studies() for path in _records(study)}
    for study in studies():
        for cell in cells(study):
            assert cell.record is not None
            source = kept.get(cell.record.name)
            if source and not cell.record.exists() and is_done(dataclasses.replace(cell, record=source)):
                shutil.copyfile(source, cell.record)
                yield cell.record


def table(names: Sequence[str], dataset: str) -> str:
    """One row for each agent that has runs on the dataset, in the order of LABELS; of two studies the larger set."""
    found: dict[str, list[Result]] = {}
    for study in names:
        done = [cell for cell in cells(study) if cell.dataset == dataset and is_done(cell)]
        for agent in dict.fromkeys(cell.agent for cell in done):
            results = collect([cell for cell in done if cell.agent == agent])
            found[agent] = max(found.get(agent, []), results, key=len)
    rows = [_row(dataset, agent, found[agent]) for agent in LABELS if agent in found]
    return HEADER + "".join(rows)


def scores_table(study: str) -> str:
    """One row for each agent of the study, in the order of LABELS: its mean wherever all its seeds are done.

    Over the datasets where every agent's are: its IQM, and the probability that a run of it is above one of BRAC+'s;
    with 95 % intervals.
    """
    planned = cells(study)
    seeds = len({cell.seed for cell in planned})
    found = by_agent(collect([cell for cell in planned if is_done(cell)]))
    runs = {agent: found[agent] for agent in LABELS if agent in found}
    whole = whole_datasets(runs, seeds)
    datasets = [name for name in found["brac_plus"] if any(len(each[name]) == seeds for each in runs.values())]
    rows = [
        [
            LABELS[agent],
            *(aggregate_entry(each, [name], seeds, mean) if len(each[name]) == seeds else "" for name in datasets),
            aggregate_entry(each, whole, seeds, interquartile_mean),
            ""
            if agent == "brac_plus"
            else improvement_entry(*([of[d] for d in whole] for of in (each, runs["brac_plus"]))),
        ]
        for agent, each in runs.items()
    ]
    return "\n".join(table_lines(["agent", *datasets, "IQM", "above BRAC+"], rows)) + "\n"


def _row(dataset: str, agent: str, results: Sequence[Result]) -> str:
    scores = np.array([result.score for result in results])
    lasts = np.mean([result.last_evaluations for result in results if result.last_evaluations is not None])
    worst = np.mean([result.worst for result in results if result.worst is not None])
    published = OWN_PAPERS.get(dataset, {}).get(agent, published_score(dataset, agent))
    cells_ = (
        LABELS[agent],
        ", ".join(f"{score:.1f}" for score in scores),
        with_interval([scores], mean),
        f"{lasts:.1f}, worst {worst:.1f}",
        "" if published is None else f"{published:g}",
        f"{np.median([list(result.speeds.values())[-1] for result in results]):.0f}",
    )
    return f"| {' | '.join(cells_)} |\n"


def filled(text: str) -> str:
    """The document with the tables that the records give today."""
    return MARK.sub(lambda found: found[1] + _asked_for(found), text)


def _asked_for(mark: re.Match[str]) -> str:
    if mark["whole"]:
        return scores_table(mark["whole"])
    if mark["studies"]:
        return table(mark["studies"].split("+"), mark["dataset"])
    return crosscheck_table.kept(PROJECT / "results") + "\n"


def _records(study: str) -> Iterator[Path]:
    return iter(sorted((PROJECT / "results" / study).glob("*__*.json")))


def run(module: str, *arguments: str) -> None:
    """A command of the package, in the checkout."""
    command = [sys.executable, "-m", f"brac_plus_tf.{module}", *arguments]
    subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    """Does it, and says what has changed."""
    for path in share_records():
        print(f"copied: {path.relative_to(PROJECT)}")
    for study in studies():
        places = f"--records=results/{study}", f"--output=results/{study}"
        run("compare", f"--study=studies/{study}.gin", "--engine=none", *places)
        print(f"made: results/{study}")
    run("figures", f"--figure={','.join(ablations.FIGURES)}", "--records=results/ablations", "--output=results/figures")
    print("made: results/figures")
    for name in DOCUMENTS:
        path = PROJECT / name
        before = path.read_text()
        if (after := filled(before)) != before:
            path.write_text(after)
            print(f"changed: {name}")


if __name__ == "__main__":
    main()
