"""What a run says of itself for later readers: run.json, and the settings that make two runs the same."""

import ast
import json
import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from brac_plus_tf import __version__
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.files import PACKAGE

FORMAT = 1  # of a run's directory; a reader refuses a newer one


def read_facts(directory: Path) -> dict[str, object]:
    """A run's run.json.

    Raises:
      UserError: if it is missing, not JSON, or of a newer format than this version knows.
    """
    path = directory / "run.json"
    try:
        facts = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"{directory}: not a run directory, run.json cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(facts, dict) or not isinstance(facts.get("format"), int):
        raise UserError(f"{path}: not written by this package, the key 'format' is missing")
    if facts["format"] > FORMAT:
        raise UserError(f"{path}: written by a newer version (format {facts['format']}); upgrade brac_plus_tf")
    return facts


def host_facts() -> dict[str, object]:
    """Versions and machine, for run.json."""
    packages = ["tensorflow", "tensorflow-probability", "keras", "numpy", "gin-config", "gymnasium", "mujoco"]
    installed = {distribution.metadata["Name"]: distribution.version for distribution in metadata.distributions()}
    return {
        "brac_plus_tf": __version__,
        "git_commit": _git_commit(),
        "python": sys.version.split()[0],
        "packages": {name: installed.get(name) for name in packages},
        "platform": platform.platform(),
        "processors": os.cpu_count(),
    }


def _git_commit() -> str | None:
    root = PACKAGE.parent
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def settings(config: str) -> list[str]:
    """A gin configuration's bindings, one per line, without the dataset's path: its contents are what counts."""
    return [line for line in _bindings(config) if not line.startswith(_DATA)]


def recorded_data(config: str) -> Any:
    """The literal that a gin configuration's `Experiment.dataset` is, () for none; nothing else of it is evaluated.

    Raises:
      ValueError, SyntaxError: if it is no literal.
    """
    for line in _bindings(config):
        if line.startswith(_DATA):
            return ast.literal_eval(line.partition("=")[2].strip())
    return ()


_DATA = "Experiment.dataset "


def _bindings(config: str) -> list[str]:
    """One per line, those that go over several lines joined."""
    lines = re.sub(r"\s*\\?\n[ \t]+", " ", config).splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]
