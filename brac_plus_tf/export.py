"""Puts a finished run's policy where it is deployed: for TensorFlow, ONNX Runtime or LiteRT.

    python -m brac_plus_tf.export --run_dir=runs/my_data/brac_plus_short/0 --output=my_policy
    python -m brac_plus_tf.export --run_dir=runs/my_data/brac_plus_short/0 --output=my_policy --format=onnx,litert

Each format is loaded again in a process of its own, with its own runtime, and its answers to rows of the data are
compared with the policy's; only if they are the same is anything written. `policy_contract.json` and `MODEL_CARD.md`
beside the policy say what whoever deploys it has to know.
"""

from collections.abc import Sequence

from absl import flags

from brac_plus_tf import command_line
from brac_plus_tf.core.errors import UserError

_FORMATS = ("saved_model", "onnx", "litert")  # the names of brac_plus_tf.exports.formats, which imports TensorFlow


def main(argv: Sequence[str]) -> None:
    """The command."""
    from brac_plus_tf.runs.exporting import export

    command_line.refuse_arguments(argv)
    values = flags.FLAGS
    if unknown := [name for name in values.format if name not in _FORMATS]:
        raise UserError(f"--format: {unknown[0]!r} is none of {', '.join(_FORMATS)}")
    for line in export(values.run_dir, values.output, formats=list(dict.fromkeys(values.format))):
        print(line)
    print(f"policy: {values.output}")


if __name__ == "__main__":
    command_line.define_path("run_dir", None, "Directory of a finished run.", required=True)
    command_line.define_path("output", None, "Directory to make.", required=True)
    flags.DEFINE_list("format", ["saved_model"], f"One or several of {', '.join(_FORMATS)}.")
    command_line.run_command(main)
