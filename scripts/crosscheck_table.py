"""The cross-check's table: what d3rlpy's runs score beside this package's, as Markdown.

usage: python scripts/crosscheck_table.py RESULTS

RESULTS holds d3rlpy/ (scripts/d3rlpy_crosscheck.py) and the records of studies/gym_short.gin and crosscheck.gin.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

# d3rlpy's agent -> the study here and the agent in it
COUNTERPARTS = {
    "bc": ("crosscheck", "td3_bc_short_protocol_cloning"),
    "td3_bc": ("gym_short", "td3_bc_short_protocol"),
    "iql": ("gym_short", "iql_short_protocol"),
    "cql": ("gym_short", "cql_short_protocol"),
    "bear": ("gym_short", "bear_short_protocol"),
}
Scores = dict[tuple[str, str], list[float]]  # (dataset, agent) -> of the seeds, in order


def their_scores(folder: Path) -> Scores:
    """Of d3rlpy's runs."""
    found: Scores = defaultdict(list)
    for path in sorted(folder.glob("*.json")):
        record = json.loads(path.read_text())
        found[record["dataset"].removesuffix(".hdf5"), record["agent"]].append(record["score_mean"])
    return found


def our_scores(results: Path) -> Scores:
    """Of this package's, by the names of their counterparts."""
    found: Scores = defaultdict(list)
    for agent, (study, own) in COUNTERPARTS.items():
        for path in sorted((results / study).glob(f"*__{own}__*.json")):
            found[path.name.partition("__")[0], agent].append(json.loads(path.read_text())["evaluation"]["score_mean"])
    return found


def verdict(theirs: Sequence[float], ours: Sequence[float]) -> str:
    """Whether the ranges of the seeds meet."""
    return "apart" if max(theirs) < min(ours) or max(ours) < min(theirs) else "meet"


def table(theirs: Scores, ours: Scores) -> str:
    """A row for each dataset and agent that both have."""
    rows = ["| dataset | agent | d3rlpy 2.8.1, each seed | here, each seed | ranges |", "|---|---|---|---|---|"]
    for place in sorted(theirs.keys() & ours.keys(), key=lambda key: (key[0], list(COUNTERPARTS).index(key[1]))):
        seeds = (", ".join(f"{score:.1f}" for score in scores[place]) for scores in (theirs, ours))
        rows.append(f"| {' | '.join([*place, *seeds, verdict(theirs[place], ours[place])])} |")
    return "\n".join(rows)


def main() -> None:
    """Prints the table."""
    (results,) = map(Path, sys.argv[1:])
    print(table(their_scores(results / "d3rlpy"), our_scores(results)))


if __name__ == "__main__":
    main()
