"""Curves of one run or several: what was measured while they trained, a panel for each metric.

Every stage is drawn, one after the other along one axis of gradient steps; of a running or stopped run, what there is.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter
from matplotlib.transforms import ScaledTranslation

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.runs.facts import read_facts
from brac_plus_tf.runs.metrics_log import read_metrics
from brac_plus_tf.runs.progress import is_loss

# Okabe and Ito's colours, which people of any colour vision tell apart; without yellow, too faint for a line
_COLUMNS = 3
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
Line = Literal["-", "-."]
Series = tuple[np.ndarray, np.ndarray]  # steps [T], values [T]


@dataclasses.dataclass(frozen=True)
class RunCurves:
    """What a run has measured so far.

    data: names of its files, or its task. series: by metric; steps count through all stages, and NaN parts one stage's
    values from another's. stages: each one's first step, in order. online: whether its steps are the environment's too.
    """

    agent: str
    data: str
    series: Mapping[str, Series]
    stages: Mapping[str, int]
    online: bool


def read_curves(directory: Path) -> RunCurves:
    """Reads a run, finished or not.

    Raises:
      UserError: if the directory is no run's, or nothing has been measured yet.
    """
    facts = read_facts(directory)
    points: dict[str, list[tuple[float, float]]] = {}
    stages: dict[str, int] = {}
    last, stage_of = 0, dict[str, str]()
    try:
        for row in read_metrics(directory):
            start = stages.setdefault(row.stage, last)
            last = max(last, start + row.step)
            if stage_of.setdefault(row.metric, row.stage) != row.stage:
                points[row.metric].append((start + 0.5, math.nan))  # after the one's last step
                stage_of[row.metric] = row.stage
            points.setdefault(row.metric, []).append((start + row.step, row.value))
    except OSError as error:
        raise UserError(f"{directory}: metrics.csv cannot be read ({error.strerror})") from error
    if not points:
        raise UserError(f"{directory}: nothing has been measured yet")
    series = {name: (np.array([at for at, _ in some]), np.array([y for _, y in some])) for name, some in points.items()}
    return RunCurves(str(facts.get("agent")), _data(facts), series, stages, facts.get("dataset") is None)


def _data(facts: Mapping[str, object]) -> str:
    dataset, environment = facts.get("dataset"), facts.get("environment")
    if isinstance(dataset, dict):
        return " + ".join(file.removesuffix(".hdf5") for file in dataset["files"])
    return str(environment["task"]) if isinstance(environment, dict) else "no data"


# Which panels --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Panel:
    """One metric.

    spread: name of the standard deviation drawn as a band. bound: of the threshold drawn beside it. wide: the axis is
    logarithmic if the largest value is more than so many times the smallest.
    """

    title: str
    metric: str
    spread: str = ""
    bound: str = ""
    wide: float = math.inf


def panels(metrics: Sequence[str]) -> list[Panel]:
    """The panels for these metrics, by their names: the score, divergences, multipliers, Q, losses."""
    kind = "score" if "evaluation/score_mean" in metrics else "return"
    wanted = [Panel(kind, f"evaluation/{kind}_mean", spread=f"evaluation/{kind}_std")]
    wanted += [Panel("divergence", "divergence_mean", bound="divergence_threshold", wide=20.0)]
    multipliers = [name for name in metrics if "multiplier" in name or name == "temperature"]
    multipliers.sort(key=lambda name: not name.startswith("multiplier"))  # the divergence's own first
    wanted += [Panel(_words(name), name, wide=100.0) for name in multipliers]
    wanted += [Panel("Q", "q_mean")]
    wanted += [Panel(_words(name), name) for name in metrics if is_loss(name)]
    return [panel for panel in wanted if panel.metric in metrics]


def _words(name: str) -> str:
    return name.removesuffix("_mean").replace("_", " ")


# Drawing -------------------------------------------------------------------------------------------------------------


def draw_runs(runs: Sequence[RunCurves], most_columns: int = _COLUMNS) -> Figure:
    """A figure of all of them; runs of one agent on the same data, as of several seeds, share a colour."""
    several = len({run.data for run in runs}) > 1
    groups: dict[str, list[RunCurves]] = {}
    for run in runs:
        groups.setdefault(f"{run.agent} on {run.data}" if several else run.agent, []).append(run)
    shown = panels(list(dict.fromkeys(name for run in runs for name in run.series)))
    columns = min(most_columns, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(4.4 * columns, 0.8 + 2.6 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, squeeze=False).ravel().tolist()
    for axes, panel in zip(grid, shown, strict=False):
        for index, members in enumerate(groups.values()):
            draw_group(axes, panel, members, *look_of(index))
        _finish(axes, panel)
    _mark_stages(grid[: len(shown)], runs)
    for index, axes in enumerate(grid):
        if index >= len(shown):
            axes.remove()
        elif index + columns >= len(shown):  # nothing stands below it
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("environment steps" if all(run.online for run in runs) else "gradient steps")
    _add_legend(figure, groups, shown, "" if several else runs[0].data)
    return figure


def draw_group(axes: Axes, panel: Panel, runs: Sequence[RunCurves], color: str, line: Line) -> None:
    """One run as a line, with its spread; several as thin lines, and their mean at the steps that all have."""
    curves = [run.series[panel.metric] for run in runs if panel.metric in run.series]
    bounds = [run.series[panel.bound] for run in runs if panel.bound in run.series]
    for steps, values in curves:
        style = {"linewidth": 0.7, "alpha": 0.5} if len(curves) > 1 else _style(steps)
        axes.plot(steps, values, color=color, linestyle=line, **style)
    if len(curves) > 1:
        mean = mean_curve(curves)
        axes.plot(*mean, color=color, linestyle=line, **_style(mean[0]))
    elif panel.spread in runs[0].series:
        steps, values = curves[0]
        deviations = runs[0].series[panel.spread][1]
        axes.fill_between(steps, values - deviations, values + deviations, color=color, alpha=0.2, linewidth=0)
    if bounds:
        axes.plot(*mean_curve(bounds), color=color, linewidth=1.2, linestyle="--")


def look_of(index: int) -> tuple[str, Line]:
    """Colour and line of a group, by its place among them; where there are more than colours, the line differs."""
    return COLORS[index % len(COLORS)], "-." if index // len(COLORS) % 2 else "-"


def mean_curve(curves: Sequence[Series]) -> Series:
    """The mean of several curves at the steps that all of them have."""
    values = [dict(zip(steps.tolist(), some.tolist(), strict=True)) for steps, some in curves]
    common = sorted(set.intersection(*(set(one) for one in values)))
    return np.array(common), np.array([np.mean([one[step] for one in values]) for step in common])


def _style(steps: np.ndarray) -> dict[str, Any]:
    """A curve of few points shows them: one alone would not be seen."""
    return {"linewidth": 1.6, "marker": "." if len(steps) <= 30 else ""}


def _finish(axes: Axes, panel: Panel) -> None:
    axes.set_title(panel.title, fontsize="medium")
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlim(left=0)
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.lines])
    if np.nanmin(values) > 0.0 and np.nanmax(values) > panel.wide * np.nanmin(values):
        axes.set_yscale("log")


def _mark_stages(grid: Sequence[Axes], runs: Sequence[RunCurves]) -> None:
    """Where the stages begin, with their names in the first panel; not where runs differ in it."""
    stages = max((run.stages for run in runs), key=len)  # of a run that is furthest on
    if len(stages) < 2 or any(not run.stages.items() <= stages.items() for run in runs):
        return
    for name, start in stages.items():
        for axes in grid:
            if start:
                axes.axvline(start, color="0.6", linewidth=0.8, linestyle=":", zorder=0)
        beside = grid[0].get_xaxis_transform() + ScaledTranslation(2 / 72, -2 / 72, grid[0].figure.dpi_scale_trans)
        style = {"rotation": 90, "va": "top", "ha": "left", "fontsize": "x-small", "color": "0.4"}
        grid[0].text(start, 1.0, _words(name), style, transform=beside)


def _add_legend(figure: Figure, groups: Mapping[str, Sequence[RunCurves]], shown: Sequence[Panel], title: str) -> None:
    handles: list[Artist] = []
    for index, (label, runs) in enumerate(groups.items()):
        text = f"{label}, mean of {len(runs)} runs" if len(runs) > 1 else label
        color, line = look_of(index)
        handles.append(Line2D([], [], color=color, linestyle=line, linewidth=1.6, label=text))
    alone = [len(runs) == 1 for runs in groups.values()]
    if not all(alone):
        handles.append(Line2D([], [], color="0.5", linewidth=0.7, label="one run"))
    if any(panel.spread for panel in shown) and any(alone):
        handles.append(Patch(color="0.5", alpha=0.3, label="standard deviation of the episodes"))
    if any(panel.bound in run.series for panel in shown for runs in groups.values() for run in runs):
        handles.append(Line2D([], [], color="0.4", linewidth=1.2, linestyle="--", label="threshold"))
    columns = min(5 if figure.get_figwidth() > 8.0 else 2, len(handles))
    plain(figure.legend(handles=handles, loc="outside upper center", ncols=columns, frameon=False, title=title or None))


def plain(legend: Legend) -> None:
    """Names are shown as they are: a dollar sign in one begins no formula."""
    for text in (*legend.get_texts(), legend.get_title()):
        text.set_parse_math(False)
