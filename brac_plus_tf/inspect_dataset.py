"""Shows what a dataset holds, and whether training would accept it.

    python -m brac_plus_tf.inspect_dataset my_data.hdf5 [another.hdf5 ...]

Exit status 0 and a table if training would accept the data, otherwise 1 and one line that says why.
"""

import importlib.util
from collections.abc import Sequence

from absl import flags

from brac_plus_tf import command_line
from brac_plus_tf.core.errors import UserError


def main(argv: Sequence[str]) -> None:
    """Prints the table of the files named in argv[1:] and writes the histogram of their returns."""
    from brac_plus_tf.data.loading import load_dataset
    from brac_plus_tf.data.sources import dataset_task
    from brac_plus_tf.data.summary import format_table, summary, write_histogram

    options = flags.FLAGS
    if len(argv) < 2:
        raise UserError("no file given; usage: python -m brac_plus_tf.inspect_dataset FILE [FILE...]")
    task = command_line.named_task() or dataset_task(argv[1])
    dataset = load_dataset(
        argv[1:],
        task,
        allow_longer_episodes=options.allow_longer_episodes,
        action_low=options.action_low,
        action_high=options.action_high,
    )
    drawn: object = "none: pip install 'brac_plus_tf[plot]'"
    if importlib.util.find_spec("matplotlib"):
        drawn = write_histogram(dataset, options.output)
    print(format_table([*summary(dataset, task), ("histogram of returns", str(drawn)), ("verdict", "valid")]))


if __name__ == "__main__":
    # Defined here and not on import: flag names are global to a process, and other commands have some of the same.
    command_line.define_data_flags()
    command_line.define_path("output", ".", "Directory for the histogram of returns.")
    command_line.run_command(main)
