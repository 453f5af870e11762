"""A page in one file: text, tables and drawings, without scripts, fonts or anything else from elsewhere."""

import html
import io
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NewType

from brac_plus_tf.core.extras import import_extra

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Html = NewType("Html", str)  # markup: only the functions here make it, from text that they escape

# Nothing is fetched and no script runs, whatever a name in the data holds.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 0 auto; padding: 0 1rem 3rem; }
h1 { font-size: 1.5rem; overflow-wrap: anywhere; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.verdict { border-left: .4rem solid #0072B2; background: #eef5fa; padding: .6rem 1rem; overflow-wrap: anywhere; }
.doubtful { border-color: #D55E00; background: #fdf1ea; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; }
td { overflow-wrap: anywhere; } th { white-space: nowrap; }
th, td { text-align: left; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid #ddd; vertical-align: top; }
tr.chosen { background: #eef5fa; font-weight: 600; }
svg { max-width: 100%; height: auto; } pre { overflow-x: auto; background: #f5f5f5; padding: .6rem; font-size: .8rem; }
.small { color: #666; font-size: .85rem; }
"""


def paragraph(text: str, kind: str = "") -> Html:
    """A line of prose; kind: `verdict`, `verdict doubtful` or `small`."""
    return Html(f'<p class="{html.escape(kind)}">{html.escape(text)}</p>')


def table(rows: Sequence[Sequence[str]], header: Sequence[str] = (), chosen: int | None = None) -> Html:
    """Rows of cells; chosen: number of the one that stands out."""
    head = f"<tr>{''.join(f'<th>{html.escape(cell)}</th>' for cell in header)}</tr>" if header else ""
    lines = (
        f"<tr{' class=chosen' if index == chosen else ''}>"
        f"{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>"
        for index, row in enumerate(rows)
    )
    return Html(f'<div class="scroll"><table>{head}{"".join(lines)}</table></div>')


def preformatted(title: str, text: str) -> Html:
    """Text that is opened by its title."""
    return Html(f"<details><summary>{html.escape(title)}</summary><pre>{html.escape(text)}</pre></details>")


_numbers = itertools.count()


def drawing(figure: "Figure", description: str) -> Html:
    """A figure as part of the page; description: for those who do not see it."""
    import matplotlib

    text = io.StringIO()
    # each with a salt of its own: marks that figures define for themselves must not be taken for another's
    with matplotlib.rc_context({"svg.hashsalt": f"figure {next(_numbers)}", "svg.fonttype": "path"}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    return Html(svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(description)}"', 1))


def panels(draw: Sequence[Callable], description: str) -> Html:
    """Drawings below each other, as a phone shows them; each gets its axes."""
    figures = []
    for one in draw:
        figure = import_extra("matplotlib.figure", "plot").Figure(figsize=(6.4, 3.6), layout="constrained")
        one(figure.subplots())
        figures.append(drawing(figure, description))
    return Html("".join(figures))


def section(heading: str, parts: Iterable[Html]) -> Html:
    """Parts below a heading."""
    return Html(f"<h2>{html.escape(heading)}</h2>{''.join(parts)}")


def page(title: str, parts: Iterable[Html]) -> str:
    """The whole file."""
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><h1>{html.escape(title)}</h1>{''.join(parts)}</body></html>\n"
    )
