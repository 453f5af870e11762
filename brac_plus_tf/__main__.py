"""BRAC+ and its relatives on TensorFlow 2. One command after the other makes data, trains, compares and deploys."""

import difflib
import runpy
import sys

from brac_plus_tf.command_help import command_list

COMMANDS = (
    "train",
    "evaluate",
    "estimate",
    "select",
    "export",
    "act",
    "compare",
    "plot",
    "figures",
    "report",
    "inspect_dataset",
    "convert_to_minari",
    "train_online",
    "collect_data",
)


def main() -> int | None:
    """The console command `brac-plus COMMAND ...`: the same as `python -m brac_plus_tf.COMMAND ...`."""
    command = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if command in COMMANDS:
        sys.argv[:2] = [command]
        runpy.run_module(f"brac_plus_tf.{command}", run_name="__main__", alter_sys=True)
    elif command in ("-h", "--help"):
        print(f"{__doc__}\n\n{command_list(COMMANDS)}\n\nCOMMAND --help says more of each.")
    else:
        close = difflib.get_close_matches(command, COMMANDS, n=1)
        print(
            f"error: no command {command!r}; {f'did you mean {close[0]}?' if close else '--help lists them'}",
            file=sys.stderr,
        )
        return 1
    return None


if __name__ == "__main__":
    sys.exit(main())
