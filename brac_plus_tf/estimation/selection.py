"""Choosing between trained policies without a simulator: what is known of each, and which one is taken and why."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from brac_plus_tf.core.columns import format_columns
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.estimation.bandit import Pulled
from brac_plus_tf.estimation.finished_run import Question, estimate_run
from brac_plus_tf.estimation.verdict import Interval
from brac_plus_tf.policies.saved_policy import METADATA
from brac_plus_tf.runs.facts import read_facts
from brac_plus_tf.runs.finished import saved_model
from brac_plus_tf.runs.metrics_log import read_metrics


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A policy that may be chosen. run: whose it is. policy: its SavedModel. step: of a snapshot; None for the last."""

    name: str
    run: Path
    policy: Path
    step: int | None = None


@dataclasses.dataclass(frozen=True)
class Judged:
    """What the data say of a candidate.

    judgement: estimate.json's content. divergence, threshold: D's mean over the last steps and eps_KL, in the unit of
    the agent's divergence; violated: share of states beyond it. None for agents without.
    """

    candidate: Candidate
    judgement: dict[str, Any]
    divergence: float | None
    threshold: float | None
    violated: float | None

    @property
    def value(self) -> Interval:
        """Its estimated discounted return."""
        return Interval(**self.judgement["estimate"])


class Choice(NamedTuple):
    """chosen: number of the candidate. reliable: whether estimates decided. why: one line."""

    chosen: int
    reliable: bool
    why: str


def candidates_of(paths: Sequence[Path], same_data: bool) -> list[Candidate]:
    """The last policies of runs, and snapshots of theirs, where `snapshots/STEP` of a run is named.

    Args:
      same_data: whether they must have learned from the same data, by which each is then judged.
    Raises:
      UserError: if one is neither, two are the same, or their data differ.
    """
    found, data = [], dict[str, Path]()
    for path in paths:
        step = None
        if (path / METADATA).exists() and (path.parent.parent / "run.json").exists():
            run, policy, step = path.parent.parent, path, int(path.name) if path.name.isdigit() else None
        else:
            run, policy = path, saved_model(path)
        dataset = read_facts(run).get("dataset")
        data[str(dataset.get("sha256") if isinstance(dataset, dict) else None)] = path
        found.append(Candidate(str(path), run, policy, step))
    if not found or len({candidate.policy.resolve() for candidate in found}) < len(found):
        raise UserError("--runs: name each run once, at least one")
    if same_data and (len(data) > 1 or "None" in data):
        raise UserError(
            f"{' and '.join(map(str, data.values()))}: not learned from the same data; name some by --dataset"
        )
    return found


def judge_candidate(candidate: Candidate, question: Question) -> Judged:
    """Estimates a candidate, or reads what an earlier call has found out.

    Raises:
      UserError: as `estimate_run` does.
    """
    judgement = estimate_run(candidate.run, question, None, candidate.policy)
    last: dict[str, float] = {}
    for row in read_metrics(candidate.run):
        if row.stage == "main" and (candidate.step is None or row.step <= candidate.step):
            last[row.metric] = row.value
    return Judged(
        candidate,
        judgement,
        last.get("divergence_mean"),
        last.get("divergence_threshold"),
        last.get("violated_share"),
    )


def choose(judged: Sequence[Judged]) -> Choice:
    """The highest lower bound wins; of those whose intervals reach into the winner's, the one nearest to the data.

    Nearest is the smallest threshold where every candidate has one, else the smallest distance of the actions.
    Estimates that drift, or leave what rewards can sum to, do not count; where none counts, the nearest is taken.
    """
    by_threshold = all(one.threshold is not None for one in judged)

    def nearness(index: int) -> float:
        one = judged[index]
        return float(one.threshold if by_threshold and one.threshold is not None else one.judgement["distance"])

    measure = "the smallest threshold" if by_threshold else "the actions nearest to the data's"
    believed = [index for index, one in enumerate(judged) if one.judgement["reliable"]]
    if not believed:
        return Choice(
            min(range(len(judged)), key=nearness), False, f"no estimate is reliable on this data: it has {measure}"
        )
    best = max(believed, key=lambda index: judged[index].value.low)
    rivals = [index for index in believed if judged[index].value.overlaps(judged[best].value)]
    chosen = min(rivals, key=nearness)
    others = len(judged) - len(believed)
    dropped = f"; {others} not reliable and left out" if others else ""
    if len(rivals) == 1:
        return Choice(
            best, True, f"its estimate lies above all others{dropped}" if len(believed) > 1 else "the only one"
        )
    return Choice(chosen, True, f"of {len(rivals)} that estimates do not tell apart it has {measure}{dropped}")


COLUMNS = ("candidate", "estimate", "D", "threshold", "beyond it", "distance", "verdict", "episodes", "return")


def candidate_row(candidate: Mapping[str, Any]) -> list[str]:
    """What people read of a candidate of `selection.json`, in the order of `COLUMNS`."""

    def told(value: float | None, form: str = ".3g") -> str:
        return "-" if value is None else format(value, form)

    played = candidate["episodes_played"] or {}
    return [
        str(candidate["name"]),
        str(Interval(**candidate["estimate"])),
        told(candidate["divergence"]),
        told(candidate["threshold"]),
        told(candidate["violated_share"], ".0%"),
        told(candidate["distance"]),
        str(candidate["verdict"]),
        told(played.get("episodes"), "d"),
        told(played.get("return_mean"), ".4g"),
    ]


def table(judged: Sequence[Judged], choice: Choice, played: Pulled | None) -> str:
    """A line for each candidate; the chosen one has a star. played: the real episodes, if there were any."""
    return format_columns(table_rows(judged, choice, played))


def table_rows(judged: Sequence[Judged], choice: Choice, played: Pulled | None = None) -> list[list[str]]:
    """A header, and a row for each candidate."""
    shown = len(COLUMNS) - (0 if played else 2)  # without episodes, no columns of them
    rows = [["", *COLUMNS[:shown]]]
    for index, candidate in enumerate(content_of(judged, choice, played)["candidates"]):
        rows.append(["*" if index == choice.chosen else "", *candidate_row(candidate)[:shown]])
    return rows


def content_of(judged: Sequence[Judged], choice: Choice, played: Pulled | None = None) -> dict[str, Any]:
    """What `selection.json` holds."""
    episodes = [
        {"episodes": int(count), "return_mean": float(mean)}
        for count, mean in (zip(played.counts, played.means, strict=True) if played else [])
    ]
    return {
        "chosen": judged[choice.chosen].candidate.name,
        "reliable": choice.reliable,
        "why": choice.why,
        "episodes": sum(one["episodes"] for one in episodes),
        "candidates": [
            {
                "name": one.candidate.name,
                "run": str(one.candidate.run),
                "step": one.candidate.step,
                "threshold": one.threshold,
                "divergence": one.divergence,
                "violated_share": one.violated,
                "episodes_played": episodes[index] if episodes else None,
                **one.judgement,
            }
            for index, one in enumerate(judged)
        ],
    }


def read_selection(directory: Path) -> dict[str, Any]:
    """Raises UserError if `directory` holds no selection."""
    path = directory / "selection.json"
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a selection ({error})") from error
    return content
