"""A figure as its numbers: what is committed of it, and from which it is drawn again without any run."""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.files import write_figure, write_json
from brac_plus_tf.runs.curves import look_of, plain


@dataclasses.dataclass(frozen=True)
class Line:
    """y [N] over x [N]. low, high: an interval about y, or empty. kind: line, points or, for histograms, steps.

    black: what the others are measured by, such as the truth.
    """

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    kind: str = "line"
    black: bool = False


@dataclasses.dataclass(frozen=True)
class Panel:
    """One pair of axes. marks: what stands at a value, across the panel: at x if upright, else at y."""

    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    marks: tuple[tuple[str, float], ...] = ()
    upright: bool = True


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure of the paper. caption: what it shows, of which runs and seeds, and what its bands are."""

    figure: str
    caption: str
    panels: tuple[Panel, ...]


def read_picture(path: Path) -> Picture:
    """What `write_picture` has written. Raises UserError for anything else."""
    try:
        content = json.loads(path.read_text())
        panels = tuple(_panel(panel) for panel in content["panels"])
        return Picture(content["figure"], content["caption"], panels)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{path}: not the numbers of a figure ({error}); make it anew") from error


def _panel(content: dict[str, Any]) -> Panel:
    lines = tuple(_line(**line) for line in content["lines"])
    marks = tuple((label, value) for label, value in content["marks"])
    return Panel(**content | {"lines": lines, "marks": marks})


def _line(**content: Any) -> Line:
    return Line(**content | {name: tuple(content[name]) for name in ("x", "y", "low", "high")})


def write_picture(directory: Path, picture: Picture) -> list[Path]:
    """Writes figure_{N}.json, .svg and .png; returns their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    base = directory / f"figure_{picture.figure}"
    paths = [base.with_suffix(suffix) for suffix in (".json", ".svg", ".png")]
    write_json(paths[0], dataclasses.asdict(picture))
    for path in paths[1:]:
        write_figure(path, draw(picture))
    return paths


def draw(picture: Picture) -> Figure:
    """The panels side by side; a label has one colour in all of them."""
    figure = Figure(figsize=(4.8 * len(picture.panels), 4.0), layout="constrained")
    grid = figure.subplots(1, len(picture.panels), squeeze=False)[0]
    labels = list(dict.fromkeys(line.label for panel in picture.panels for line in panel.lines if not line.black))
    for axes, panel in zip(grid, picture.panels, strict=True):
        for line in panel.lines:
            color, style = ("black", "-") if line.black else look_of(labels.index(line.label))
            _draw_line(axes, line, color, style)
        for label, value in panel.marks:
            mark = axes.axvline if panel.upright else axes.axhline
            mark(value, color="0.4", linestyle="--", linewidth=1.2, label=label)
        axes.set_title(panel.title, fontsize="medium", parse_math=False)
        axes.set(xlabel=panel.x_label, ylabel=panel.y_label)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    handles = {label: handle for axes in grid for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    width = 110 * len(picture.panels) // (10 + max(map(len, handles), default=1))  # in letters
    columns = max(1, min(2 * len(picture.panels), width // 2))
    plain(
        figure.legend(list(handles.values()), list(handles), loc="outside upper center", ncols=columns, frameon=False)
    )
    return figure


def _draw_line(axes: Axes, line: Line, color: str, style: str) -> None:
    if line.kind == "points":
        axes.plot(line.x, line.y, ".", color=color, markersize=4, label=line.label)
    elif line.kind == "steps":
        axes.stairs(
            line.y, (*line.x, line.x[-1] + (line.x[-1] - line.x[-2])), color=color, label=line.label, linewidth=1.6
        )
    else:
        axes.plot(line.x, line.y, linestyle=style, color=color, linewidth=1.6, label=line.label)
    if line.low:
        axes.fill_between(line.x, line.low, line.high, color=color, alpha=0.2, linewidth=0)


def rounded(values: Iterable[float]) -> tuple[float, ...]:
    """To six digits: a figure shows three."""
    return tuple(float(f"{value:.6g}") for value in values)
