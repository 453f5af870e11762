"""State files, which hold named variables and a small JSON record in one verified safetensors file, and a run's own.

Written under a temporary name, synced and renamed, so a reader finds the old file or the new one, never a part.
Reading one runs no code from it.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors
import safetensors.numpy
import tensorflow as tf
from absl import logging

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.files import write_atomically

_KEPT = 3  # a run's checkpoints: should the newest be damaged, there is one before it


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


def load_state(path: Path, variables: Mapping[str, tf.Variable], partly: bool = False) -> dict[str, object]:
    """Assigns every variable from `path` and returns the record; nothing is assigned unless everything fits.

    Args:
      partly: whether the file may hold more than is asked for.
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
    stored = {name: (array.shape, array.dtype.name) for name, array in arrays.items() if name in wanted or not partly}
    if wanted != stored:
        differing = sorted(name for name in wanted.keys() | stored.keys() if wanted.get(name) != stored.get(name))
        raise UserError(
            f"{path}: belongs to another configuration; {len(differing)} variables differ, first {differing[0]}"
        )
    for name, variable in variables.items():
        variable.assign(arrays[name])
    return json.loads(metadata["record"])


class Position(NamedTuple):
    """How far a run has come: stages finished, and steps taken in the next one."""

    stage: int
    step: int


class Checkpoints:
    """A run's last few states, each a state file named after its position."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def save(self, variables: Mapping[str, tf.Variable], position: Position, record: Mapping[str, object]) -> None:
        """Writes one, with a JSON-ready record, and drops all but the last few."""
        path = self._directory / f"{position.stage}-{position.step:09d}.safetensors"
        save_state(path, variables, record)
        for old in self._existing()[:-_KEPT]:
            old.unlink()

    def restore(
        self, variables: Mapping[str, tf.Variable], partly: bool = False
    ) -> tuple[Position, dict[str, object]] | None:
        """Loads the newest intact one, passing over damaged ones with a warning; None where there are none at all.

        Args:
          partly: whether it may hold more variables than these.
        Raises:
          UserError: if there are some and none is usable.
        """
        errors = []
        for path in reversed(self._existing()):
            try:
                record = load_state(path, variables, partly)
            except UserError as error:
                logging.warning("%s; the one before it is tried", error)
                errors.append(str(error))
                continue
            return _position(path), record
        if errors:
            raise UserError(f"{self._directory}: no usable checkpoint ({errors[0]}); remove the run to start anew")
        return None

    def newest_record(self) -> dict[str, object]:
        """The record of the newest one, without its variables; empty if there is none that can be read."""
        for path in reversed(self._existing() if self._directory.is_dir() else []):
            try:
                with safetensors.safe_open(str(path), framework="numpy") as file:
                    record: dict[str, object] = json.loads((file.metadata() or {}).get("record", "{}"))
            except (safetensors.SafetensorError, OSError, ValueError):
                continue
            return record
        return {}

    def _existing(self) -> list[Path]:
        paths = [path for path in self._directory.iterdir() if re.fullmatch(r"\d+-\d+\.safetensors", path.name)]
        return sorted(paths, key=_position)


def _position(path: Path) -> Position:
    return Position(*map(int, path.stem.split("-")))
