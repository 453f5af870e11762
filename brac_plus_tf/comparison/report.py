"""A comparison as files that belong together."""

from collections.abc import Sequence
from pathlib import Path

from brac_plus_tf.comparison.results import Result
from brac_plus_tf.comparison.tables import markdown, scores_csv
from brac_plus_tf.core.extras import import_extra
from brac_plus_tf.core.files import write_atomically, write_figure


def require_libraries() -> None:
    """Raises UserError if what draws is not installed."""
    import_extra("matplotlib.figure", "compare")


def write_comparison(results: Sequence[Result], directory: Path) -> Path:
    """Writes table.md, scores.csv and curves.png into `directory`; returns the table's path."""
    from brac_plus_tf.comparison.curves import draw_curves  # needs what `require_libraries` asks for

    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(directory / "scores.csv", scores_csv(results).encode())
    write_figure(directory / "curves.png", draw_curves(results))
    write_atomically(directory / "table.md", markdown(results).encode())
    return directory / "table.md"
