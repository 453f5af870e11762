"""Draws the curves of a run or several: score, divergence and threshold, multipliers, Q and losses, as PNG or SVG.

    python -m brac_plus_tf.plot runs/hopper-quickstart/brac_plus_short/0
    python -m brac_plus_tf.plot runs/hopper-quickstart/*/* --output=curves.svg

Runs may be unfinished; those of one agent, such as several seeds, share a colour.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from brac_plus_tf import command_line
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.extras import import_extra
from brac_plus_tf.core.files import write_figure


def main(argv: Sequence[str]) -> None:
    """The command."""
    import_extra("matplotlib.figure", "plot")
    from brac_plus_tf.runs.curves import draw_runs, read_curves

    runs = [Path(name) for name in argv[1:]]
    if not runs:
        raise UserError("no run is named; usage: python -m brac_plus_tf.plot RUN [RUN...]")
    output = flags.FLAGS.output or (runs[0] if len(runs) == 1 else Path()) / "curves.png"
    write_figure(output, draw_runs([read_curves(run) for run in runs]))
    print(f"figure: {output}")


if __name__ == "__main__":
    command_line.define_path("output", None, "PNG or SVG file. Default: curves.png, in the run or, for several, here.")
    command_line.run_command(main)
