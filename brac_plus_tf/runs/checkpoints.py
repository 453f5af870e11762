"""State files: named variables and a small JSON record in one verified safetensors file.

Written under a temporary name, synced and renamed, so a reader finds the old file or the new one, never a part.
Reading one runs no code from it.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
import tensorflow as tf

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.files import write_atomically


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
