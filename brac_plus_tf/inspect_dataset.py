"""Shows what a dataset holds, whether training would accept it, and what may suit it.

    python -m brac_plus_tf.inspect_dataset my_data.hdf5 [another.hdf5 ...] [--output=returns.png]
    python -m brac_plus_tf.inspect_dataset my_data.hdf5 --model=runs/my_data/mopo/0

With --model also what the model of their dynamics is worth that a run of mopo or mbop has learned from them.
Exit status 0 and a table if training would accept the data, otherwise 1 and one line that says why.
"""

from collections.abc import Sequence

from absl import flags

from brac_plus_tf import command_line
from brac_plus_tf.core.errors import UserError


def main(argv: Sequence[str]) -> None:
    """Prints the table of the files named in argv[1:] and, with --output, draws their returns."""
    from brac_plus_tf.core.columns import format_columns
    from brac_plus_tf.data.advice import advice
    from brac_plus_tf.data.summary import draw_histogram, summary, write_panels
    from brac_plus_tf.runs.model_report import draw_outputs, draw_steps, read_model_report, report_rows

    if len(argv) < 2:
        raise UserError("no file given; usage: python -m brac_plus_tf.inspect_dataset FILE [FILE...]")
    dataset, task = command_line.load_named_data(argv[1:])
    rows, panels = [*summary(dataset, task), *advice(dataset)], [lambda axes: draw_histogram(axes, dataset)]
    output, run = flags.FLAGS.output, flags.FLAGS.model
    if run:
        report = read_model_report(run, dataset.origin.sha256)
        rows += report_rows(report)
        panels += [lambda axes: draw_outputs(axes, report), lambda axes: draw_steps(axes, report)]
    if output:
        write_panels(output, *panels)
        rows.append(("figure" if run else "histogram of returns", str(output)))
    print(format_columns([*rows, ("verdict", "valid")]))


if __name__ == "__main__":
    # Defined here and not on import: flag names are global to a process, and other commands have some of the same.
    command_line.define_data_flags()
    command_line.define_path(
        "output", None, "PNG or SVG file for a histogram of the returns; without it none is drawn."
    )
    command_line.define_path("model", None, "Directory of a run of mopo or mbop on these data: its model's errors too.")
    command_line.run_command(main)
