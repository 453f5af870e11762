"""Makes everything that is made from the kept records anew: each study's tables and curves, and the documents' tables.

usage: python scripts/update_results.py

A run that two studies have in common is kept by both: what one has is copied to the other, if it is by the same
settings. In README.md and docs/ a line `<!-- runs: STUDY[+STUDY] DATASET -->` has the table of these runs after it, and
`<!-- crosscheck -->` that of d3rlpy's runs beside this package's.
"""

import dataclasses
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
from brac_plus_tf.comparison.results import Result, collect, published_score
from brac_plus_tf.comparison.statistics import interval, mean
from brac_plus_tf.runs import configuration

PROJECT = Path(__file__).resolve().parents[1]
DOCUMENTS = ("README.md", "docs/comparison.md", "docs/steadiness.md")
MARK = re.compile(r"(<!-- (?:runs: (?P<studies>[\w+]+) (?P<dataset>[\w+-]+)|crosscheck) -->\n)(?:\|.*\n)*")
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
}
# of the agents that the BRAC+ paper has not, from their own papers, on D4RL's -v2 data
OWN_PAPERS = {
    ("hopper-medium-replay", "td3_bc"): 60.9,
    ("hopper-medium-replay", "iql"): 94.7,
    ("hopper-medium-replay", "rebrac"): 98.1,
    ("halfcheetah-medium-replay", "td3_bc"): 44.6,
    ("halfcheetah-medium-replay", "iql"): 44.2,
    ("halfcheetah-medium-replay", "rebrac"): 51.0,
}


def studies() -> list[str]:
    """Names of those that have records."""
    return [path.stem for path in sorted((PROJECT / "studies").glob("*.gin")) if any(_records(path.stem))]


def cells(study: str) -> list[Cell]:
    """All runs that the study plans."""
    content = configuration.build(Study, [str(PROJECT / "studies" / f"{study}.gin")], [])
    sources = [dataset.split("+") for dataset in content.datasets]
    return plan(content, sources, Path("runs"), records=PROJECT / "results" / study)


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


def _row(dataset: str, agent: str, results: Sequence[Result]) -> str:
    scores = np.array([result.score for result in results])
    low, high = interval(mean, [scores])
    lasts = np.mean([result.last_evaluations for result in results if result.last_evaluations is not None])
    worst = np.mean([result.worst for result in results if result.worst is not None])
    published = OWN_PAPERS.get((dataset, agent), published_score(dataset, agent))
    cells_ = (
        LABELS[agent],
        ", ".join(f"{score:.1f}" for score in scores),
        f"{scores.mean():.1f} [{low:.1f}, {high:.1f}]",
        f"{lasts:.1f}, worst {worst:.1f}",
        "" if published is None else f"{published:g}",
        f"{np.median([list(result.speeds.values())[-1] for result in results]):.0f}",
    )
    return f"| {' | '.join(cells_)} |\n"


def filled(text: str) -> str:
    """The document with the tables that the records give today."""
    return MARK.sub(lambda found: found[1] + _asked_for(found), text)


def _asked_for(mark: re.Match[str]) -> str:
    if mark["studies"]:
        return table(mark["studies"].split("+"), mark["dataset"])
    return crosscheck_table.kept(PROJECT / "results") + "\n"


def _records(study: str) -> Iterator[Path]:
    return iter(sorted((PROJECT / "results" / study).glob("*__*.json")))


def main() -> None:
    """Does it, and says what has changed."""
    for path in share_records():
        print(f"copied: {path.relative_to(PROJECT)}")
    for study in studies():
        command = ["brac_plus_tf.compare", f"--study=studies/{study}.gin", "--engine=none"]
        places = [f"--records=results/{study}", f"--output=results/{study}"]
        subprocess.run([sys.executable, "-m", *command, *places], cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)
        print(f"made: results/{study}")
    for name in DOCUMENTS:
        path = PROJECT / name
        before = path.read_text()
        if (after := filled(before)) != before:
            path.write_text(after)
            print(f"changed: {name}")


if __name__ == "__main__":
    main()
