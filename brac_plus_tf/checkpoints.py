"""State files: named variables and a small JSON record in one verified safetensors file.

Written under a temporary name, synced and renamed, so a reader finds the old file or the new one, never a part.
Reading one runs no code from it.
"""

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np
import safetensors
import safetensors.numpy
import tensorflow as tf

from brac_plus_tf.types import UserError

if TYPE_CHECKING:  # few commands draw, and it takes a while to load
    from matplotlib.figure import Figure


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


def write_figure(path: Path, figure: "Figure") -> None:
    """Puts the figure at `path` as a PNG; equal figures give equal bytes."""
    with written_atomically(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120, metadata={"Software": None})


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


def _digest(arrays: Mapping[str, np.ndarray], record: str) -> str:
    digest = hashlib.sha256(record.encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}:{array.dtype}:{array.shape};".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def save_state(path: Path, variables: Mapping[str, tf.Variable], record: Mapping[str, object]) -> None:
    """Writes all variables and `record` (JSON-ready) to `path`.

    Raises:
      UserError: if the file cannot be written, or a value is not finite: nothing could go on from it.
    """
    # np.array(order="C") also copies: the file holds the values of this moment
    arrays = {name: np.array(variable.numpy(), order="C") for name, variable in variables.items()}
    broken = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if broken:
        raise UserError(f"{path}: not written, {len(broken)} variables are not finite, first {broken[0]}")
    text = json.dumps(record, sort_keys=True)
    metadata = {"record": text, "sha256": _digest(arrays, text)}
    write_atomically(path, safetensors.numpy.save(arrays, metadata))


def load_state(path: Path, variables: Mapping[str, tf.Variable]) -> dict[str, object]:
    """Assigns every variable from `path` and returns the record; nothing is assigned unless everything fits.

    Raises:
      UserError: if the file is unreadable, damaged, or holds other variables than asked for.
    """
    try:
        with safetensors.safe_open(str(path), framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable state file ({error})") from error
    if metadata.get("sha256") != _digest(arrays, metadata.get("record", "")):
        raise UserError(f"{path}: damaged, its contents do not match their checksum")
    wanted = {name: (tuple(variable.shape), tf.as_dtype(variable.dtype).name) for name, variable in variables.items()}
    stored = {name: (array.shape, array.dtype.name) for name, array in arrays.items()}
    if wanted != stored:
        differing = sorted(name for name in wanted.keys() | stored.keys() if wanted.get(name) != stored.get(name))
        raise UserError(
            f"{path}: belongs to another configuration; {len(differing)} variables differ, first {differing[0]}"
        )
    for name, variable in variables.items():
        variable.assign(arrays[name])
    return json.loads(metadata["record"])
