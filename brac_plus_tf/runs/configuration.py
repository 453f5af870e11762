"""Reading gin: files, bindings from the command line, and the check that every such binding counts."""

import hashlib
import importlib
import io
import pkgutil
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import gin

import brac_plus_tf.agents
import brac_plus_tf.data.loading
import brac_plus_tf.environments.environment
import brac_plus_tf.runs.trainer
from brac_plus_tf.core.errors import UserError, plain
from brac_plus_tf.core.gin_files import find_gin_file, sections
from brac_plus_tf.runs.facts import settings

R = TypeVar("R")

for _module in pkgutil.iter_modules(brac_plus_tf.agents.__path__):  # each algorithm registers itself with gin
    importlib.import_module(f"brac_plus_tf.agents.{_module.name}")


class _Section(io.StringIO):
    """A part of a gin file, with the file's name for messages."""

    def __init__(self, path: Path, text: str) -> None:
        super().__init__(text)
        self.name = str(path)


def parse(files: Sequence[str], bindings: Sequence[str]) -> None:
    """Reads gin files in order, then `bindings`, which win; see `gin_files` for what the names in files mean.

    Raises:
      UserError: for a missing file, a syntax error, or a name that nothing has.
    """
    gin.clear_config()
    try:
        for name in files:
            for path, text in sections(find_gin_file(name)):
                gin.parse_config(_Section(path, text))
        gin.parse_config_files_and_bindings([], list(bindings))
    except (OSError, ValueError, SyntaxError, AttributeError, TypeError, RuntimeError, ImportError) as error:
        raise UserError(f"gin: {plain(error)}") from error


def build(settings: Callable[[], R], files: Sequence[str], bindings: Sequence[str]) -> R:
    """What gin files and bindings make of `settings`, a class such as `Experiment`.

    Raises:
      UserError: for whatever is wrong with them.
    """
    parse(files, bindings)
    try:
        return settings()
    except UserError as error:
        raise UserError(plain(error)) from error
    except RuntimeError as error:  # gin's, for what must be bound and is not
        raise UserError(f"{plain(error)}; give it by its flag or bind it") from error
    except (TypeError, ValueError) as error:
        raise UserError(f"gin: {plain(error)}") from error


def fingerprint() -> str:
    """SHA-256 of what was parsed: equal for equal settings, whatever the dataset's path."""
    return hashlib.sha256("\n".join(settings(gin.config_str())).encode()).hexdigest()


def scopes_of(parameter: str) -> set[str]:
    """The scopes in which what was parsed binds `Name.parameter`; "" for none around it."""
    parts = (key.rpartition("/") for key in _keys(gin.config_str()))
    return {scope for scope, _, name in parts if name == parameter}


def check_effective(bindings: Sequence[str], operative_config: str) -> None:
    """Checks that each command-line binding reached something that was built.

    A binding without scope also counts where it reached an object of some scope (`Fit.x` -> `behavior/Fit.x`).

    Raises:
      UserError: naming a binding of an object that the configuration does not use.
    """
    used, bound = _keys(operative_config), _keys(gin.config_str())
    reached = used | {key.rpartition("/")[2] for key in used - bound}
    for binding in bindings:
        for statement in binding.splitlines():
            key = _key(statement)
            if key and "." in key and key not in reached:
                raise UserError(f"gin binding '{statement.strip()}' has no effect: this configuration does not use it")


def _keys(config: str) -> set[str]:
    return {_key(line) for line in config.splitlines() if "=" in line and not line.startswith("#")}


def _key(statement: str) -> str:
    """`scope/module.Name.parameter = value` -> `scope/Name.parameter`; empty for anything else."""
    match = re.match(r"\s*((?:[\w./]+/)?)([\w.]+)\s*=", statement)
    if not match:
        return ""
    return match[1] + ".".join(match[2].split(".")[-2:])
