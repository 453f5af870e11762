"""gin files on disk: which file a name means, what it includes, what it sets; all without importing TensorFlow.

gin itself looks for includes in the working directory first. Here an include means a neighbour of the file that has it,
else one of the package's files, wherever a command is started.
"""

import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from gin import config_parser

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.files import packaged

CONFIGS = packaged("gin_configs")
_INCLUDE = re.compile(r"include\s+(['\"])(.+?)\1")
_IMPORT = re.compile(r"(import|from)\s")


def find_gin_file(name: str, folder: Path | None = None) -> Path:
    """The file that `name` means: a path from `folder`, by default the working directory, or one of the package's.

    Raises:
      UserError: if there is neither, with the names that come close.
    """
    given = Path(name).expanduser()
    for root in (folder or Path(), CONFIGS):
        if (root / given).is_file():
            return (root / given).absolute()
    close = _close_names(name.removeprefix("gin_configs/"))
    hint = f"did you mean {' or '.join(close)}?" if close else "--help lists those of the package"
    raise UserError(f"gin file {name}: not in {folder or 'the working directory'}, nor one of the package's; {hint}")


def _close_names(name: str) -> list[str]:
    """Up to three of the package's files with a name like it, whatever their folder."""

    def likeness(file: str) -> float:
        pairs = ((name, file), (Path(name).name, Path(file).name))
        return max(difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)

    close = {file: score for file in package_files() if (score := likeness(file)) > 0.7}
    return sorted(close, key=lambda file: -close[file])[:3]


def package_files() -> list[str]:
    """Names of the gin files that come with the package: `brac_plus/short.gin`."""
    return sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.gin"))


def sections(path: Path, including: Sequence[Path] = ()) -> Iterator[tuple[Path, str]]:
    """The file and all that it includes as (file, gin text without includes), in the order of reading.

    A file's text is parted at its includes; each part keeps its line numbers and the file's imports up to there.

    Args:
      including: the files that led here, outermost first.
    Raises:
      UserError: for an include that is missing, a file that includes itself, or one that cannot be read.
    """
    if path in including:
        circle = " includes ".join(file.name for file in (*including, path))
        raise UserError(f"{including[-1]}: includes go in a circle: {circle}")
    try:
        lines = path.read_text().splitlines(keepends=True)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"gin file {path}: cannot be read ({error})") from error
    kept = [""] * len(lines)
    for number, line in enumerate(lines):
        if include := _INCLUDE.match(line):
            yield path, _lines(kept)
            kept = [text if _IMPORT.match(text) else "" for text in kept]
            try:
                included = find_gin_file(include[2], path.parent)
            except UserError as error:
                raise UserError(f"{path}, line {number + 1}: {error}") from error
            yield from sections(included, (*including, path))
        else:
            kept[number] = line
    yield path, _lines(kept)


def _lines(kept: Sequence[str]) -> str:
    return "".join(line or "\n" for line in kept)


class _AsWritten(config_parser.ParserDelegate):
    """References and macros as the texts that a file has for them."""

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> object:
        return _Text(f"@{scoped_configurable_name}{'()' if evaluate else ''}")

    def macro(self, macro_name: str) -> object:
        return _Text(f"%{macro_name}")


class _Text(str):
    """Shown without quotes."""

    def __repr__(self) -> str:
        return str(self)


def settings(path: Path) -> dict[str, str]:
    """What a gin file and its includes set, as `scope/Name.parameter` -> value as text; the last one wins.

    Raises:
      UserError: for what is no gin.
    """
    found = {}
    for file, text in sections(path):
        try:
            for statement in config_parser.ConfigParser(text, _AsWritten()):
                if isinstance(statement, config_parser.BindingStatement):
                    scope, selector, parameter, value, _ = statement
                    key = ".".join(filter(None, (selector, parameter)))
                    found["/".join(filter(None, (scope, key)))] = repr(value)
        except (SyntaxError, ValueError) as error:
            raise UserError(f"gin file {file}: {error}") from error
    return found


def description(path: Path) -> str:
    """The first sentence of a gin file's header."""
    header = re.match(r"(?:#.*\n)*", path.read_text())
    text = " ".join(line.lstrip("# ") for line in (header[0] if header else "").split("\n#\n")[0].splitlines())
    return re.split(r"(?<!Fig)(?<!App)\. ", text)[0].rstrip(".")
