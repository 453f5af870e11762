"""A comparison's learning curves and performance profiles."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from brac_plus_tf.comparison.results import Result, by_agent, names
from brac_plus_tf.comparison.statistics import performance_profile, profile_band
from brac_plus_tf.runs.curves import look_of, mean_curve, plain


def draw_curves(results: Sequence[Result]) -> Figure:
    """A panel for each dataset; for each agent the mean over seeds, and their range as a band.

    Of runs that no environment has evaluated, their estimates with intervals, beside what the data earned.
    """
    agents, datasets = names(results, "agent"), names(results, "dataset")
    figure = Figure(figsize=(5.0 * len(datasets), 4.0), layout="constrained")
    panels = figure.subplots(1, len(datasets), squeeze=False)[0]
    for panel, dataset in zip(panels, datasets, strict=True):
        here = [result for result in results if result.cell.dataset == dataset]
        if any(result.judgement for result in here):
            _draw_estimates(panel, here, agents)
            continue
        for agent in names(here, "agent"):
            color, line = look_of(agents.index(agent))
            curves = [_arrays(result.curve) for result in here if result.cell.agent == agent]
            steps, means = mean_curve(curves)
            panel.plot(steps, means, label=agent, color=color, linestyle=line)
            if len(curves) > 1:
                values = [value[np.isin(at, steps)] for at, value in curves]
                panel.fill_between(steps, np.min(values, 0), np.max(values, 0), color=color, alpha=0.2, linewidth=0)
        panel.set_title(dataset, parse_math=False)
        panel.set(xlabel="gradient steps", ylabel=here[0].unit)
        _tidy(panel)
    handles = {label: line for panel in panels for line, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    plain(figure.legend(list(handles.values()), list(handles), loc="outside upper center", ncols=6, frameon=False))
    return figure


def draw_profiles(results: Sequence[Result]) -> Figure:
    """For each agent the share of its runs that score more than tau, over tau, with 95 % bootstrap bands."""
    scores = np.array([result.score for result in results])
    thresholds = np.linspace(min(0.0, scores.min()), scores.max(), 201)
    figure = Figure(figsize=(7.0, 4.5), layout="constrained")
    panel = figure.subplots()
    for place, (agent, runs) in enumerate(by_agent(results).items()):
        tasks = [np.array([run.score for run in found]) for found in runs.values() if found]
        color, line = look_of(place)
        panel.plot(thresholds, performance_profile(tasks, thresholds), label=agent, color=color, linestyle=line)
        panel.fill_between(thresholds, *profile_band(tasks, thresholds), color=color, alpha=0.12, linewidth=0)
    panel.set(xlabel="score tau", ylabel="share of runs above tau", ylim=(0.0, 1.02))
    _tidy(panel)
    plain(figure.legend(loc="outside right upper", frameon=False))
    return figure


def _draw_estimates(panel: Axes, results: Sequence[Result], agents: Sequence[str]) -> None:
    """A point with its interval for each run, and the band of what the data earned."""
    for result in results:
        assert result.judgement
        estimate, place = result.judgement["estimate"], agents.index(result.cell.agent)
        seeds = [other.cell.seed for other in results if other.cell.agent == result.cell.agent]
        shift = 0.12 * (seeds.index(result.cell.seed) - (len(seeds) - 1) / 2.0)
        color, _ = look_of(place)
        panel.errorbar(place + shift, estimate["mean"], estimate["half_width"], color=color, marker="o", capsize=3)
    data = results[0].judgement["data"]  # type: ignore[index]
    low, high = data["mean"] - data["half_width"], data["mean"] + data["half_width"]
    panel.axhspan(low, high, color="0.8", zorder=0, label="the data")
    panel.set_xticks(range(len(agents)), agents, rotation=30, ha="right", parse_math=False)
    panel.set_title(results[0].cell.dataset, parse_math=False)
    panel.set_ylabel("estimated discounted return (no simulator)")
    _tidy(panel, grid="y")


def _tidy(panel: Axes, grid: Literal["both", "y"] = "both") -> None:
    """A faint grid, and no frame above and at the right."""
    panel.grid(alpha=0.25, linewidth=0.6, axis=grid)
    panel.spines[["top", "right"]].set_visible(False)


def _arrays(curve: Sequence[tuple[int, float]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([step for step, _ in curve]), np.array([value for _, value in curve])
