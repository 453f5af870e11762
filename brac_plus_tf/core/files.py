"""Files written whole or not at all, and directories that one process works on at a time."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from brac_plus_tf.core.errors import UserError

PACKAGE = Path(__file__).resolve().parents[1]  # the folder that holds every module

if TYPE_CHECKING:  # few commands draw, and it takes a while to load
    from matplotlib.figure import Figure


def check_regular_file(path: str) -> None:
    """Raises UserError unless `path` is a regular file that can be opened."""
    if not os.path.exists(path):
        raise UserError(f"{path}: no such file; check the path")
    if not os.path.isfile(path):  # a pipe or a device would block, or never end
        raise UserError(f"{path}: not a regular file; give the path of one file")
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise UserError(f"{path}: cannot be opened ({error.strerror}); check its permissions") from error


def packaged(name: str) -> Path:
    """A file or folder that an installation holds inside the package, and a checkout beside it."""
    inside = PACKAGE / name
    return inside if inside.exists() else PACKAGE.parent / name


def lock_directory(directory: Path, work: str, flag: str, folder: str = ".") -> TextIO:
    """Makes the directory and `folder` in it; no other process can lock it until the returned file is closed.

    Args:
      work: what is done in it, and flag: which flag names it; for the messages.
    Raises:
      UserError: if it cannot be made or another process is working on it.
    """
    try:
        (directory / folder).mkdir(parents=True, exist_ok=True)
        lock = open(directory / ".lock", "w")
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(f"{directory}: another process is working on this {work}; wait for it or stop it") from error
    except OSError as error:
        raise UserError(f"{directory}: cannot be used ({error.strerror}); choose another {flag}") from error
    return lock


@contextlib.contextmanager
def written_atomically(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` to write under; synced and renamed to `path` if the block ends well.

    Raises:
      UserError: if it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # on a disk that may only be read nothing can be removed either
            temporary.unlink()
        if isinstance(error, OSError):
            reason = error.strerror or error
            raise UserError(f"{path}: cannot be written ({reason}); free space or choose another directory") from error
        raise


def write_atomically(path: Path, content: bytes) -> None:
    """Puts `content` at `path` by way of a synced temporary file beside it."""
    with written_atomically(path) as temporary, open(temporary, "wb") as file:
        file.write(content)


def check_utf8(*names: str | Path) -> None:
    """Raises UserError for a name whose bytes are no UTF-8, which run records, gin and TensorFlow would not hold."""
    for name in names:
        try:
            str(name).encode()
        except UnicodeEncodeError as error:
            raise UserError(f"{str(name)!a}: its name is not UTF-8; rename or move it") from error


def write_figure(path: Path, figure: "Figure") -> None:
    """Puts the figure at `path`, as a PNG or SVG by its ending; equal figures give equal bytes.

    Raises:
      UserError: for another ending, or if it cannot be written.
    """
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("png", "svg"):
        raise UserError(f"{path}: figures are written as .png or .svg; choose one of these endings")
    import matplotlib

    metadata = {"png": {"Software": None}, "svg": {"Date": None}}[kind]
    with written_atomically(path) as temporary, matplotlib.rc_context({"svg.hashsalt": "brac_plus_tf"}):
        figure.savefig(temporary, format=kind, dpi=120, metadata=metadata)


def append(path: Path, text: str) -> None:
    """Adds `text` at the end of the file at `path`; a part of it may remain if that fails.

    Raises:
      UserError: if it cannot be written.
    """
    try:
        with open(path, "a") as file:
            file.write(text)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); free space, then the same command goes on"
        ) from error


def write_json(path: Path, content: object) -> None:
    """Writes `content` to `path`, readable by people, whole or not at all."""
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())
