"""Copies a finished run's policy to where it is deployed, as a SavedModel that TensorFlow alone can load.

python -m brac_plus_tf.export --run_dir=runs/hopper-medium-replay-v0/brac_plus/0 --output=my_policy
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from brac_plus_tf.command_line import run_command
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.policies.saved_policy import LoadedPolicy, place_directory, refuse_existing
from brac_plus_tf.runs.facts import read_facts


def export(run_dir: Path, output: Path) -> None:
    """Puts the run's SavedModel and its policy.json at `output`, whole or not at all.

    Raises:
      UserError: if the run has none, it cannot be loaded, or `output` exists or cannot be written.
    """
    read_facts(run_dir)
    source = run_dir / "saved_model"
    if not source.exists():
        raise UserError(f"{run_dir}: no saved_model yet, the run is not finished; start the training command again")
    LoadedPolicy(source)
    refuse_existing(output)
    temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, temporary)
        place_directory(temporary, output)
    except OSError as error:
        raise UserError(f"{output}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def main(argv: Sequence[str]) -> None:
    """The command."""
    del argv
    export(Path(flags.FLAGS.run_dir), Path(flags.FLAGS.output))
    print(f"policy: {flags.FLAGS.output}")


if __name__ == "__main__":
    flags.DEFINE_string("run_dir", None, "Directory of a finished run.", required=True)
    flags.DEFINE_string("output", None, "Directory to make.", required=True)
    run_command(main)
