"""The text of --help, of the flags that a command has and of what their values may be; TensorFlow is not imported."""

import ast
import collections
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

from absl import flags

from brac_plus_tf.core import gin_files
from brac_plus_tf.environments.tasks import TASKS

GIN_FILE = "gin file"  # the type of a flag whose value is the name of one
_NAME_WIDTH = 18


def help_text(documentation: str) -> str:
    """The help of the running command: its module's documentation, its flags, then what they may name."""
    own = _own_flags()
    parts = [documentation.strip(), _flag_section(own)]
    if "gin_file" in own or "agents" in own:
        parts.append(_agent_section())
    if "env" in own:
        parts.append(_environment_section())
    if chosen := _chosen_gin_files(own, sys.argv[1:]):
        parts.append(_settings_section(chosen))
    return "\n\n".join(parts)


def _own_flags() -> dict[str, flags.Flag]:
    """Flags of the command and of this package, not those of libraries; required ones first."""
    by_module = flags.FLAGS.flags_by_module_dict()
    shared = [module for module in by_module if module.startswith("brac_plus_tf.")]
    found = [flag for module in (sys.argv[0], *shared) for flag in by_module.get(module, [])]
    return {flag.name: flag for flag in sorted(found, key=lambda flag: not _is_required(flag))}


def _is_required(flag: flags.Flag) -> bool:
    return flag.default is None and any(not validator.checker(None) for validator in flag.validators)


def _flag_section(own: dict[str, flags.Flag]) -> str:
    lines = ["Flags, required ones marked with *:"]
    for name, flag in own.items():
        empty = flag.default is None or flag.default is False or flag.default == []
        default = "" if empty else f" Default: {flag.default_as_str}."
        text = (flag.help or "").partition(";\n")[0]  # absl adds a line to flags that may repeat
        lines.append(_entry(f"{'*' if _is_required(flag) else ' '} --{name}", f"{text}{default}"))
    return "\n".join(lines)


def _agent_section() -> str:
    folders: dict[str, list[str]] = collections.defaultdict(list)
    for name in gin_files.package_files():
        folder, _, file = name.rpartition("/")
        folders[folder].append(file.removesuffix(".gin"))
    lines = ["Agents are folders, and --gin_file names a file in one, as in --gin_file=bc/base.gin:"]
    for folder, files in folders.items():
        if folder and "base" in files:
            lines.append(_entry(f"  {folder}", f"{gin_files.description(gin_files.CONFIGS / folder / 'base.gin')}."))
            lines.append(_entry("", f"{', '.join(files)}"))
    return "\n".join(lines)


def _environment_section() -> str:
    plain = [name for name, task in TASKS.items() if not task.is_d4rl]
    versions: dict[str, list[str]] = collections.defaultdict(list)
    for name, task in TASKS.items():
        if task.is_d4rl:
            base, _, version = name.rpartition("-v")
            versions[base].append(version)
    names = [f"{base}-v{'|'.join(found)}" for base, found in versions.items()]
    lines = ["Environments:", _wrapped(", ".join(plain), "    ")]
    lines += ["Those of D4RL, each of which also names its dataset:", _wrapped(", ".join(names), "    ")]
    return "\n".join([*lines, "Any other of flat Box spaces: an id that gymnasium knows, module:id or module:factory."])


def _chosen_gin_files(own: dict[str, flags.Flag], arguments: Sequence[str]) -> list[str]:
    """What --gin_file says on the command line, which may lack other flags that are required."""
    if "gin_file" not in own or own["gin_file"].parser.flag_type() != GIN_FILE:
        return []
    given = [argument.lstrip("-").partition("=") for argument in arguments]
    following = [*arguments[1:], ""]
    return [
        value if equals else next_one
        for (name, equals, value), next_one in zip(given, following, strict=True)
        if name == "gin_file"
    ]


def _settings_section(names: Sequence[str]) -> str:
    bindings: dict[str, str] = {}
    for name in names:
        bindings |= gin_files.settings(gin_files.find_gin_file(name))
    lines = [f"Settings of {' and '.join(names)}, to be changed by --gin_bindings='NAME = VALUE':"]
    return "\n".join([*lines, *(f"    {key} = {value}" for key, value in bindings.items())])


def _entry(name: str, text: str) -> str:
    """A name and its description in two columns."""
    indent = " " * (_NAME_WIDTH + 4)
    wrapped = _wrapped(text, indent)
    first = name.ljust(len(indent))
    return first + wrapped[len(indent) :] if len(name) < len(indent) else f"{name}\n{wrapped}"


def _wrapped(text: str, indent: str) -> str:
    width = min(shutil.get_terminal_size((100, 24)).columns, 120)
    return textwrap.fill(text, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)


def command_list(commands: Iterable[str]) -> str:
    """The commands with the first line of each one's documentation, which is read without importing it."""
    lines = []
    for command in commands:
        tree = ast.parse(Path(__file__).with_name(f"{command}.py").read_text())
        lines.append(_entry(f"  {command}", (ast.get_docstring(tree) or "").partition("\n")[0]))
    return "\n".join(lines)
