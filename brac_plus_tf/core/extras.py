"""Packages that only some commands need and a plain installation leaves out."""

import contextlib
import importlib
import io
from typing import Any

from brac_plus_tf.core.errors import UserError


class MissingPackageError(UserError):
    """A package that only some work needs is not installed."""


def import_extra(module: str, extra: str) -> Any:
    """The module of that name, which comes with one of the package's extras.

    Raises:
      MissingPackageError: naming the extra, if it is not installed.
    """
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # hides the notices printed while importing
            return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise MissingPackageError(f"the package {package} is missing: pip install 'brac_plus_tf[{extra}]'") from error
