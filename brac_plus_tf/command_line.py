"""What every command shares: flags, one-line errors for the user, exit status."""

import sys
from collections.abc import Callable, Sequence

from absl import app, flags, logging

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.stopping import Interrupted

_DEBUG = flags.DEFINE_bool("debug", False, "Show the traceback of an error instead of its one line.")


def run_command(main: Callable[[Sequence[str]], None]) -> None:
    """Runs `main` under absl: a UserError becomes one line on stderr and exit status 1, unless --debug."""

    def guarded(argv: Sequence[str]) -> int:
        logging.set_verbosity(logging.WARNING)
        try:
            main(argv)
        except Interrupted as stop:
            print(f"stopped at {stop}; the same command goes on from there")
            return 128 + stop.signal_number
        except (UserError, OSError) as error:  # a full disk or a lost directory is the user's to mend, too
            if _DEBUG.value:
                raise
            return _refuse(error)
        return 0

    app.run(guarded, flags_parser=_parse_flags)


def _parse_flags(argv: Sequence[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        sys.exit(_refuse(error))


def _refuse(error: Exception) -> int:
    print("error: " + " ".join(str(error).split()), file=sys.stderr)
    return 1
