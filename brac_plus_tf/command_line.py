"""What every command shares: flags, one-line errors for the user, exit status.

A command imports what needs TensorFlow inside its functions: --help and a wrong flag are answered at once.
"""

import importlib
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from logging import Formatter, LogRecord
from pathlib import Path
from typing import Any

from absl import app, flags, logging

from brac_plus_tf.command_help import GIN_FILE, help_text
from brac_plus_tf.core.errors import UserError, plain
from brac_plus_tf.core.files import check_utf8
from brac_plus_tf.core.gin_files import find_gin_file
from brac_plus_tf.core.startup import start_tensorflow
from brac_plus_tf.core.stopping import Interrupted
from brac_plus_tf.environments.registry import without_renderer

_DEBUG = flags.DEFINE_bool("debug", False, "Show the traceback of an error instead of its one line.")
_IMPORT = flags.DEFINE_multi_string(
    "import", [], "Module of your own with agents, environments or anything else to register; may repeat."
)
flags.disclaim_key_flags()  # what the functions below define are the command's own


def run_command(main: Callable[[Sequence[str]], None]) -> None:
    """Runs `main` under absl: a UserError becomes one line on stderr and exit status 1, unless --debug."""
    if {"--help", "-help", "-h", "--helpfull", "--helpshort"} & set(sys.argv[1:]):
        sys.exit(_print_help(sys.modules["__main__"].__doc__ or ""))

    def guarded(argv: Sequence[str]) -> int:
        logging.set_verbosity(logging.WARNING)
        logging.get_absl_handler().setFormatter(_PlainFormatter())
        try:
            check_utf8(*sys.argv[1:], os.getcwd())
            start_tensorflow()
            _forget_configuration()
            _import_modules(_IMPORT.value)
            main(argv)
        except Interrupted as stop:
            print(f"stopped at {stop}; the same command goes on from there")
            return 128 + stop.signal_number
        except KeyboardInterrupt:  # before or after long work, which answers for itself
            print("stopped; the same command begins anew")
            return 128 + signal.SIGINT
        except (UserError, OSError) as error:  # a full disk or a lost directory is the user's to mend, too
            if _DEBUG.value:
                raise
            return _refuse(error)
        return 0

    app.run(guarded, flags_parser=_parse_flags)


class _PlainFormatter(Formatter):
    """A warning as a line for people, without process numbers and places in the source."""

    def format(self, record: LogRecord) -> str:
        return f"{record.levelname.lower()}: {record.getMessage()}"


def _print_help(documentation: str) -> int:
    try:
        print(help_text(documentation))
    except UserError as error:
        return _refuse(error)
    return 0


def _parse_flags(argv: Sequence[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        if twice := re.match(r"flag --(\w+)=.*: already defined as", str(error)):
            sys.exit(_refuse(UserError(f"--{twice[1]} is given twice; give it once, with commas between the sources")))
        missing = re.match(r"flag --(\w+)=None: ", str(error))
        sys.exit(_refuse(UserError(f"--{missing[1]} is required; --help tells what it takes") if missing else error))


def _refuse(error: Exception) -> int:
    print(f"error: {plain(error)}", file=sys.stderr)
    return 1


def _forget_configuration() -> None:
    """What this process has parsed before: it would lock the registry against what is imported now."""
    import gin

    gin.clear_config()


def _import_modules(names: Sequence[str]) -> None:
    if os.getcwd() not in map(os.path.abspath, sys.path):  # as `python -m` has it; the console command does not
        sys.path.append(os.getcwd())
    for name in names:
        try:
            with without_renderer():
                importlib.import_module(name)
        except ImportError as error:
            raise UserError(f"--import={name}: {error}") from error


def refuse_arguments(argv: Sequence[str]) -> None:
    """Raises UserError if there is anything beside flags."""
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}: flags are written --name=value")


# Flags ------------------------------------------------------------------------------------------------------------


class _PathParser(flags.ArgumentParser[Path]):
    """~ is the home directory: no shell expands it behind a =."""

    def parse(self, argument: str | Path) -> Path:
        return Path(argument).expanduser()

    def flag_type(self) -> str:
        return "path"


class _GinFileParser(flags.ArgumentParser[str]):
    """A gin file's absolute path."""

    def parse(self, argument: str) -> str:
        try:
            return str(find_gin_file(argument))
        except UserError as error:
            raise ValueError(str(error)) from error

    def flag_type(self) -> str:
        return GIN_FILE


class _SourcesParser(flags.ArgumentParser[tuple[str, ...]]):
    """Dataset sources that commas part."""

    def parse(self, argument: str | Sequence[str]) -> tuple[str, ...]:
        given = split_sources(argument, ",") if isinstance(argument, str) else argument
        return tuple(os.path.expanduser(source) for source in given)

    def flag_type(self) -> str:
        return "comma separated list of sources"


def split_sources(text: str, separator: str) -> tuple[str, ...]:
    """The sources between the separators; a file whose name has a separator in it is one source."""
    return (text,) if os.path.exists(os.path.expanduser(text)) else tuple(text.split(separator))


def define_path(name: str, default: str | None, help_line: str, required: bool = False) -> None:
    """A flag whose value is a Path."""
    flags.DEFINE(_PathParser(), name, default, help_line, serializer=flags.ArgumentSerializer(), required=required)


def define_sources(name: str, help_line: str, required: bool = False) -> None:
    """A flag whose value is a tuple of dataset sources."""
    # given twice it is refused: the last one would count, and the data be others than whoever wrote it thinks
    flags.DEFINE(
        _SourcesParser(),
        name,
        None,
        help_line,
        serializer=flags.ArgumentSerializer(),
        required=required,
        allow_overwrite=False,
    )


def define_gin_files(default: Sequence[str] | None, required: bool = False) -> None:
    """--gin_file: paths of gin files."""
    flags.DEFINE_multi(
        _GinFileParser(),
        flags.ArgumentSerializer(),
        "gin_file",
        default,
        "gin file, yours or one of the package's, such as brac_plus/short.gin; may repeat, later ones win.",
        required=required,
    )


def define_gin_bindings() -> None:
    """--gin_bindings."""
    flags.DEFINE_multi_string("gin_bindings", [], "gin binding 'Name.parameter = value'; may repeat, wins over files.")


def define_training_flags() -> None:
    """What every command that trains has: --gin_bindings, --root_dir and --smoke."""
    define_gin_bindings()
    define_path("root_dir", "runs", "Directory under which {dataset or task}/{agent}/{seed}/ is made.")
    flags.DEFINE_bool("smoke", False, "Only try whether everything works: a few steps of each stage, few episodes.")


def define_simulator_flags(env: str, env_default: str | None = None, required: bool = False) -> None:
    """--env, described as `env`, and --backend."""
    flags.DEFINE_string("env", env_default, env, required=required)
    flags.DEFINE_enum("backend", "auto", ["auto", "gymnasium", "d4rl"], "Simulator; auto: D4RL's own if installed.")


def define_task_flags() -> None:
    """--horizon and --reference_score, for commands without gin; the others have the bindings Task.horizon, .. ."""
    flags.DEFINE_integer("horizon", None, "Time limit of the environment that --env names, in steps.", lower_bound=1)
    flags.DEFINE_list("reference_score", None, "Its returns that score 0 and 100, such as 20,3000.")


def named_task() -> Any:
    """The task that --env, --horizon and --reference_score say; None without --env.

    Raises:
      UserError: if the others are given without --env, or the scores are not two numbers.
    """
    from brac_plus_tf.environments.tasks import ReferenceScore, find_task

    values = flags.FLAGS
    if not values.env:
        if values.horizon or values.reference_score:
            raise UserError("--horizon and --reference_score belong to what --env names; give it, too")
        return None
    try:
        low, high = map(float, values.reference_score or (0.0, 1.0))
    except ValueError as error:
        given = ",".join(values.reference_score)
        raise UserError(f"--reference_score={given}: give two numbers, what scores 0 and what scores 100") from error
    return find_task(values.env, values.horizon, ReferenceScore(low, high) if values.reference_score else None)


def define_data_flags() -> None:
    """What is said of data beside their source: --env, and --gin_bindings as training takes them."""
    flags.DEFINE_string("env", None, "Task the data belong to, or 'none'; default: what the data say, if known.")
    define_gin_bindings()


def load_named_data(names: Sequence[str], **settings: Any) -> tuple[Any, Any]:
    """The dataset of these names as training would read it, and its task, if one is known; see `define_data_flags`.

    Args:
      settings: of `load_dataset`, which bindings change.
    Raises:
      UserError: for whatever training would refuse.
    """
    import gin

    from brac_plus_tf.data.loading import load_dataset
    from brac_plus_tf.data.sources import dataset_task
    from brac_plus_tf.runs import configuration

    values = flags.FLAGS
    configuration.parse([], values.gin_bindings)
    task = None if values.env == "none" else dataset_task(names[0], values.env)
    dataset = gin.get_configurable(load_dataset)(names, task, **settings)
    configuration.check_effective(values.gin_bindings, gin.operative_config_str())
    return dataset, task


def flag_value(name: str) -> Any:
    """The value of a flag whose name is no identifier of Python's."""
    return flags.FLAGS[name].value
