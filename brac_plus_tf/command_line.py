"""What every command shares: flags, one-line errors for the user, exit status."""

import sys
from collections.abc import Callable, Sequence

from absl import app, flags, logging

from brac_plus_tf.types import UserError

_DEBUG = flags.DEFINE_bool("debug", False, "Show the traceback of an error instead of its one line.")


def run_command(main: Callable[[Sequence[str]], None]) -> None:
    """Runs `main` under absl: a UserError becomes one line on stderr and exit status 1, unless --debug."""

    def guarded(argv: Sequence[str]) -> int:
        logging.set_verbosity(logging.WARNING)
        try:
            main(argv)
        except UserError as error:
            if _DEBUG.value:
                raise
            print("error: " + " ".join(str(error).split()), file=sys.stderr)
            return 1
        return 0

    app.run(guarded)
