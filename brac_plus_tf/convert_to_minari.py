"""Writes a dataset as a local Minari dataset.

    python -m brac_plus_tf.convert_to_minari my_data.hdf5 my_robot/collected-v0 --algorithm=SAC

The first argument is anything that training takes, the second a new ID, (namespace/)name-v(number). What training would
refuse is refused. Of a D4RL task the gymnasium environment that it runs on is recorded, so name the task with --env
where it matters.
"""

from collections.abc import Sequence

from absl import flags

from brac_plus_tf import command_line
from brac_plus_tf.core.errors import UserError


def main(argv: Sequence[str]) -> None:
    """Converts argv[1] to the dataset argv[2] and prints what was written."""
    import numpy as np

    from brac_plus_tf.data.episodes import cut_rows
    from brac_plus_tf.data.minari_reader import PREFIX
    from brac_plus_tf.data.minari_writer import Header, check_new, write_dataset
    from brac_plus_tf.data.sources import read_rows

    if len(argv) != 3:
        raise UserError("give two arguments; usage: python -m brac_plus_tf.convert_to_minari SOURCE ID")
    _, source, dataset_id = argv
    check_new(dataset_id)
    dataset, task = command_line.load_named_data([source])
    one = np.ones(dataset.dimensions.action, np.float32)
    low, high = (dataset.scaling.to_environment_action(sign * one) for sign in (-1, 1))
    rows = read_rows(source, dataset.dimensions)
    cuts = cut_rows(rows, task.horizon if task else None)
    episodes, steps = write_dataset(dataset_id, rows, cuts, Header(task, low, high, flags.FLAGS.algorithm))
    left_out = len(rows) - steps
    print(f"{PREFIX}{dataset_id}: {episodes:,} episodes, {steps:,} steps")
    if left_out:
        print(f"rows left out: {left_out:,}, last of their episodes, whose next observation was not recorded")


if __name__ == "__main__":
    flags.DEFINE_string("algorithm", None, "Name of the algorithm that made the data, for the dataset's metadata.")
    command_line.define_data_flags()
    command_line.run_command(main)
