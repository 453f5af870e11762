"""Copies a finished run's policy to where it is deployed, as a SavedModel that TensorFlow alone can load.

python -m brac_plus_tf.export --run_dir=runs/my_data/brac_plus_short/0 --output=my_policy
"""

from collections.abc import Sequence

from absl import flags

from brac_plus_tf import command_line


def main(argv: Sequence[str]) -> None:
    """The command."""
    from brac_plus_tf.runs.finished import export

    command_line.refuse_arguments(argv)
    export(flags.FLAGS.run_dir, flags.FLAGS.output)
    print(f"policy: {flags.FLAGS.output}")


if __name__ == "__main__":
    command_line.define_path("run_dir", None, "Directory of a finished run.", required=True)
    command_line.define_path("output", None, "Directory to make.", required=True)
    command_line.run_command(main)
