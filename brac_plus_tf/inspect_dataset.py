"""Shows what a dataset holds, and whether training would accept it.

    python -m brac_plus_tf.inspect_dataset my_data.hdf5 [another.hdf5 ...] [--output=returns.png]

Exit status 0 and a table if training would accept the data, otherwise 1 and one line that says why.
"""

from collections.abc import Sequence

from absl import flags

from brac_plus_tf import command_line
from brac_plus_tf.core.errors import UserError


def main(argv: Sequence[str]) -> None:
    """Prints the table of the files named in argv[1:] and, with --output, draws their returns."""
    from brac_plus_tf.data.summary import format_table, summary, write_histogram

    if len(argv) < 2:
        raise UserError("no file given; usage: python -m brac_plus_tf.inspect_dataset FILE [FILE...]")
    dataset, task = command_line.load_named_data(argv[1:])
    output = flags.FLAGS.output
    if output:
        write_histogram(dataset, output)
    drawn = [("histogram of returns", str(output))] if output else []
    print(format_table([*summary(dataset, task), *drawn, ("verdict", "valid")]))


if __name__ == "__main__":
    # Defined here and not on import: flag names are global to a process, and other commands have some of the same.
    command_line.define_data_flags()
    command_line.define_path(
        "output", None, "PNG or SVG file for a histogram of the returns; without it none is drawn."
    )
    command_line.run_command(main)
