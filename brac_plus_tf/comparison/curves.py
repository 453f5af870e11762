"""A comparison's learning curves."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from brac_plus_tf.comparison.results import Result, names
from brac_plus_tf.runs.curves import look_of, mean_curve


def draw_curves(results: Sequence[Result]) -> Figure:
    """A panel for each dataset; for each agent the mean over seeds, and their range as a band."""
    agents, datasets = names(results, "agent"), names(results, "dataset")
    figure = Figure(figsize=(5.0 * len(datasets), 4.0), layout="constrained")
    panels = figure.subplots(1, len(datasets), squeeze=False)[0]
    for panel, dataset in zip(panels, datasets, strict=True):
        here = [result for result in results if result.cell.dataset == dataset]
        for agent in names(here, "agent"):
            color, line = look_of(agents.index(agent))
            curves = [_arrays(result.curve) for result in here if result.cell.agent == agent]
            steps, means = mean_curve(curves)
            panel.plot(steps, means, label=agent, color=color, linestyle=line)
            if len(curves) > 1:
                values = [value[np.isin(at, steps)] for at, value in curves]
                panel.fill_between(steps, np.min(values, 0), np.max(values, 0), color=color, alpha=0.2, linewidth=0)
        panel.set(title=dataset, xlabel="gradient steps", ylabel=here[0].unit)
        panel.grid(alpha=0.25, linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
    handles = {label: line for panel in panels for line, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(list(handles.values()), list(handles), loc="outside upper center", ncols=6, frameon=False)
    return figure


def _arrays(curve: Sequence[tuple[int, float]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([step for step, _ in curve]), np.array([value for _, value in curve])
