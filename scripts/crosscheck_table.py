"""The cross-check's table, for update_results.py: what d3rlpy's runs score beside this package's, as Markdown.

Its runs are kept in results/d3rlpy/ (d3rlpy_crosscheck.py), this package's by studies/gym_short.gin and crosscheck.gin.
"""

import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from brac_plus_tf.runs.outcome import LAST

# d3rlpy's agent -> the study here and the agent in it
COUNTERPARTS = {
    "bc": ("crosscheck", "td3_bc_short_protocol_cloning"),
    "td3_bc": ("gym_short", "td3_bc_short_protocol"),
    "iql": ("gym_short", "iql_short_protocol"),
    "rebrac": ("gym_short", "rebrac_short_protocol"),
    "cql": ("gym_short", "cql_short_protocol"),
    "bear": ("gym_short", "bear_short_protocol"),
}


class Run(NamedTuple):
    """Score of the last policy, and mean of the last evaluations on the way, where there are any."""

    last: float
    steady: float | None


Scores = dict[tuple[str, str], list[Run]]  # (dataset, agent) -> of the seeds, in order


def run_of(score: float, curve: Sequence[tuple[int, float]]) -> Run:
    """Of a record's score and curve."""
    return Run(score, statistics.fmean(value for _, value in curve[-LAST:]) if curve else None)


def their_scores(folder: Path) -> Scores:
    """Of d3rlpy's runs."""
    found: Scores = defaultdict(list)
    for path in sorted(folder.glob("*.json")):
        record = json.loads(path.read_text())
        place = record["dataset"].removesuffix(".hdf5"), record["agent"]
        found[place].append(run_of(record["score_mean"], record.get("curve", [])))
    return found


def our_scores(results: Path) -> Scores:
    """Of this package's, by the names of their counterparts."""
    found: Scores = defaultdict(list)
    for agent, (study, own) in COUNTERPARTS.items():
        for path in sorted((results / study).glob(f"*__{own}__*.json")):
            record = json.loads(path.read_text())
            run = run_of(record["evaluation"]["score_mean"], record.get("curve", []))
            found[path.name.partition("__")[0], agent].append(run)
    return found


def verdict(theirs: Sequence[float], ours: Sequence[float]) -> str:
    """Whether the ranges of the seeds meet."""
    if not theirs or not ours:
        return ""
    return "apart" if max(theirs) < min(ours) or max(ours) < min(theirs) else "meet"


def table(theirs: Scores, ours: Scores) -> str:
    """A row for each dataset and agent that both have."""
    rows = [
        "| dataset | agent | last policy: d3rlpy | here | ranges | last ten evaluations: d3rlpy | here | ranges |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for place in sorted(theirs.keys() & ours.keys(), key=lambda key: (key[0], list(COUNTERPARTS).index(key[1]))):
        both = theirs[place], ours[place]
        last = [[run.last for run in runs] for runs in both]
        steady = [[run.steady for run in runs if run.steady is not None] for runs in both]
        cells = [cell for kind in (last, steady) for cell in (*map(shown, kind), verdict(*kind))]
        rows.append(f"| {' | '.join([*place, *cells])} |")
    return "\n".join(rows)


def kept(results: Path) -> str:
    """The table of what is in a folder of results."""
    return table(their_scores(results / "d3rlpy"), our_scores(results))


def shown(scores: Sequence[float]) -> str:
    """Each seed's."""
    return ", ".join(f"{score:.1f}" for score in scores)
