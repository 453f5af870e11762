"""A comparison as files that belong together."""

from collections.abc import Sequence
from pathlib import Path

from brac_plus_tf.comparison.results import Result, names
from brac_plus_tf.comparison.tables import markdown, scores_csv
from brac_plus_tf.core.extras import import_extra
from brac_plus_tf.core.files import write_atomically, write_figure


def require_libraries() -> None:
    """Raises UserError if what draws is not installed."""
    import_extra("matplotlib.figure", "compare")


def write_comparison(results: Sequence[Result], directory: Path) -> Path:
    """Writes table.md, scores.csv, curves.png and, of scores, profiles.png into `directory`; returns the table's path.

    The profiles are over the datasets on which every agent has finished runs, if there is any.
    """
    from brac_plus_tf.comparison.curves import draw_curves, draw_profiles  # needs what `require_libraries` asks for

    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(directory / "scores.csv", scores_csv(results).encode())
    write_figure(directory / "curves.png", draw_curves(results))
    if shared := _on_shared_datasets(results):
        write_figure(directory / "profiles.png", draw_profiles(shared))
    write_atomically(directory / "table.md", markdown(results).encode())
    return directory / "table.md"


def _on_shared_datasets(results: Sequence[Result]) -> list[Result]:
    """Scores on the datasets that every agent has runs on."""
    agents = len(names(results, "agent"))
    scored = [result for result in results if result.unit == "score"]
    return [
        result
        for result in scored
        if len({other.cell.agent for other in scored if other.cell.dataset == result.cell.dataset}) == agents
    ]
