"""Figures that set variants of an agent side by side: curves of the runs of a study, by their kept records."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from brac_plus_tf.comparison.plan import Study, is_done, plan
from brac_plus_tf.comparison.records import Cell
from brac_plus_tf.comparison.results import Result, collect
from brac_plus_tf.comparison.statistics import interval, mean
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.paper.picture import Line, Panel, Picture, rounded

Curve = Sequence[tuple[int, float]]

_PENALTY = (
    {"kl state": "without penalty", "": "with gradient penalty"},
    "BRAC+ with and without gradient penalty.",
)
# variants of the study and what a curve of each is called; the caption; whether Q is shown, too
FIGURES: dict[str, tuple[dict[str, str], str, bool]] = {
    "1": (*_PENALTY, True),
    "2a": (
        {"mmd global": "MMD", "kl global": "bound on KL"},
        "Held to the data by the MMD and by the bound on KL; one multiplier, no gradient penalty.",
        False,
    ),
    "2b": (
        {"kl global": "global", "kl state": "state-wise"},
        "One multiplier and one a state; no gradient penalty.",
        False,
    ),
    "2c": (*_PENALTY, False),
    "8": (
        {"": "log 4 per entry narrower than the data", "entropy as the data": "as wide as the data"},
        "BRAC+ by how random its policy may be.",
        False,
    ),
}


def figure(name: str, study: Study, sources: Sequence[Sequence[str]], records: Path) -> Picture:
    """One of FIGURES, of the runs of the study that are kept; see `kept_results`."""
    variants, caption, value = FIGURES[name]
    results = kept_results(study, sources, records, list(variants))
    (agent,) = study.agents
    named = {" ".join([agent, variant]).strip(): words for variant, words in variants.items()}
    return ablation(name, caption, results, named, value)


def kept_results(
    study: Study, sources: Sequence[Sequence[str]], records: Path, variants: Sequence[str]
) -> list[Result]:
    """Those of the study's runs of these variants whose records are kept; sources: of each of the study's datasets.

    Raises:
      UserError: if the study has no such variant, none of the runs is kept, one has other settings, or they cannot be
        compared.
    """
    for variant in variants:
        if variant not in study.variants:
            raise UserError(f"the study has no variant {variant!r}, only {', '.join(map(repr, study.variants))}")
    cells = [cell for cell in plan(study, sources, Path(), records=records) if _variant(cell, study) in variants]
    kept = [cell for cell in cells if is_done(cell)]
    if not kept:
        raise UserError(
            f"{records}: holds none of the study's runs; compare --study with --records={records} keeps them"
        )
    return collect(kept)


def _variant(cell: Cell, study: Study) -> str:
    return next(name for name in sorted(study.variants, key=len, reverse=True) if cell.agent.endswith(name))


def ablation(
    figure: str, caption: str, results: Sequence[Result], names: Mapping[str, str], value: bool = False
) -> Picture:
    """A panel for each dataset: mean over seeds of the evaluations on the way, with its 95 % bootstrap interval.

    Args:
      names: what each agent's curve is called, in this order. value: a second panel each, of the mean of Q.
    """
    panels = []
    for dataset in dict.fromkeys(result.cell.dataset for result in results):
        here = [result for result in results if result.cell.dataset == dataset]
        lines = _lines(here, names, lambda result: result.curve)
        panels.append(Panel(dataset, "gradient steps of the main stage", here[0].unit, lines))
        if value and all(result.value_curve for result in here):
            lines = _lines(here, names, lambda result: result.value_curve)
            panels.append(Panel(dataset, "gradient steps of the main stage", "mean of Q", lines))
    seeds = sorted({result.cell.seed for result in results})
    return Picture(
        figure,
        f"{caption} Mean over seeds {', '.join(map(str, seeds))} as far as they are kept, with the 95 % bootstrap "
        f"interval of the mean; evaluations of the policies on the way (the paper's figure {figure}).",
        tuple(panels),
    )


def _lines(results: Sequence[Result], names: Mapping[str, str], curve: Callable[[Result], Curve]) -> tuple[Line, ...]:
    lines = []
    for agent, name in names.items():
        curves = [dict(curve(result)) for result in results if result.cell.agent == agent]
        if not curves:
            continue
        steps = sorted(set.intersection(*map(set, curves)))
        scores = [np.array([one[step] for one in curves]) for step in steps]
        bounds = [interval(mean, [values]) for values in scores] if len(curves) > 1 else []
        low, high = (rounded([bound[side] for bound in bounds]) for side in (0, 1))
        label = f"{name} ({len(curves)} seed{'s' if len(curves) > 1 else ''})"
        lines.append(Line(label, tuple(map(float, steps)), rounded([v.mean() for v in scores]), low, high))
    return tuple(lines)
