"""What a dataset holds, in a table and as a histogram of its episodes' returns."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from brac_plus_tf.core.extras import import_extra
from brac_plus_tf.core.files import write_figure
from brac_plus_tf.data.dataset import OfflineDataset
from brac_plus_tf.environments.tasks import Task

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SATURATED = 0.999
_HISTOGRAM_BINS = 50


def summary(dataset: OfflineDataset, task: Task | None) -> list[tuple[str, str]]:
    """(what, value) pairs of a dataset; returns, rewards and bounds in the environment's units.

    Statistics of lengths, returns and the normalized score are over complete episodes, over all if none is complete.
    """
    origin, episodes = dataset.origin, dataset.episodes
    rows, complete = sum(origin.rows), int(episodes.complete.sum())
    counted = episodes.complete if complete else ~episodes.complete
    returns = episodes.returns[counted]
    terminals = int((dataset.transitions.discount == 0.0).sum())
    saturated = (np.abs(dataset.transitions.action) > _SATURATED).mean()
    score = "unknown"
    if task is not None and task.reference_score is not None:
        score = f"{np.mean(task.normalized_score(returns)):.1f}"
    return [
        *(("file", f"{path} ({count:,} rows)") for path, count in zip(origin.names, origin.rows, strict=True)),
        ("SHA-256", origin.sha256),
        ("task", f"{task.name} (at most {task.horizon} steps)" if task else "unknown"),
        ("observation, action entries", f"{dataset.dimensions.observation}, {dataset.dimensions.action}"),
        ("rows", f"{rows:,}"),
        ("transitions", f"{dataset.number_of_transitions:,}"),
        ("repeated transitions", _share(count_repeated(dataset), dataset.number_of_transitions)),
        ("episodes", f"{len(counted):,} ({complete:,} complete, {len(counted) - complete:,} unfinished)"),
        ("terminals", _share(terminals, rows)),
        ("timeouts", _share(complete - terminals, rows)),
        ("length: min, mean, max", _range(episodes.lengths[counted])),
        ("return: min, mean, max", _range(returns)),
        ("normalized score", score),
        ("reward: min, max", _rewards(dataset)),
        ("action bounds", _bounds(dataset)),
        ("saturated action entries", f"{100 * saturated:.2f} % beyond {_SATURATED} of the range"),
    ]


def count_repeated(dataset: OfflineDataset) -> int:
    """Transitions whose observation, action and reward all equal, bit for bit, those of an earlier one."""
    observation, action, reward, *_ = dataset.transitions
    rows = np.concatenate((observation, action, reward[:, None]), axis=1)
    as_bytes = rows.view(np.dtype((np.void, rows.itemsize * rows.shape[1])))
    return len(rows) - len(np.unique(as_bytes))


def draw_histogram(axes: "Axes", dataset: OfflineDataset) -> None:
    """The episodes' undiscounted returns."""
    # Rounded to float32: returns that differ in their last float64 bits only leave no room for bins between them.
    axes.hist(dataset.episodes.returns.astype(np.float32).astype(np.float64), bins=_HISTOGRAM_BINS)
    axes.set_xlabel("undiscounted return of an episode")
    axes.set_ylabel("episodes")
    axes.set_title(" + ".join(os.path.basename(path) for path in dataset.origin.names), parse_math=False)


def write_panels(path: Path, *panels: Callable[["Axes"], None]) -> None:
    """Draws each panel, all beside each other, as a PNG or SVG, by the path's ending.

    Raises:
      UserError: for another ending, if it cannot be written, or if there is nothing to draw with.
    """
    size = (6.4 if len(panels) == 1 else 4.4 * len(panels), 4.0)
    figure = import_extra("matplotlib.figure", "plot").Figure(figsize=size, layout="constrained")
    for draw, axes in zip(panels, figure.subplots(1, len(panels), squeeze=False).ravel(), strict=True):
        draw(axes)
    write_figure(path, figure)


def _rewards(dataset: OfflineDataset) -> str:
    rewards = dataset.transitions.reward
    lowest, highest = dataset.scaling.to_environment_reward(np.array([rewards.min(), rewards.max()]))
    constant = ": no action is better than another, and only behaviour cloning (bc/base.gin) can learn from them"
    return f"{lowest:.6g}, {highest:.6g}{constant * bool(lowest == highest)}"


def _bounds(dataset: OfflineDataset) -> str:
    one = np.ones(dataset.dimensions.action)
    bounds = np.stack([dataset.scaling.to_environment_action(sign * one) for sign in (-1, 1)], axis=1)
    different = np.unique(bounds, axis=0) if len(np.unique(bounds, axis=0)) == 1 else bounds
    return ", ".join(f"[{low:.4g}, {high:.4g}]" for low, high in different)


def _share(count: int, total: int) -> str:
    return f"{count:,} ({100 * count / total:.2f} %)"


def _range(values: np.ndarray) -> str:
    return f"{values.min():,.1f}, {values.mean():,.1f}, {values.max():,.1f}"
