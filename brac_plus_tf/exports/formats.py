"""The formats that a policy is exported to: how each is made, and what it loses."""

import contextlib
import dataclasses
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.extras import import_extra
from brac_plus_tf.exports.portable import portable_ways
from brac_plus_tf.policies.saved_policy import LoadedPolicy

_OPSET = 17  # of ONNX; as old as onnxruntime of 2022 reads


@dataclasses.dataclass(frozen=True)
class Format:
    """A file format of policies.

    write: (the policy, directory to fill). folder: of its files in an export.
    refuses: what becomes of inputs that are wrong. extra: with which its packages come.
    """

    write: Callable[[LoadedPolicy, Path], None]
    folder: str
    refuses: str
    packages: tuple[str, ...] = ()
    extra: str = ""

    def check_installed(self) -> None:
        """Raises MissingPackageError if its packages are not there."""
        for package in self.packages:
            import_extra(package, self.extra)


def _copy(policy: LoadedPolicy, directory: Path) -> None:
    shutil.copytree(policy.directory, directory, dirs_exist_ok=True)


def _write_litert(policy: LoadedPolicy, directory: Path) -> None:
    """One file; its signatures share their weights."""
    signatures = portable_ways(policy)
    with tempfile.TemporaryDirectory() as temporary:
        module = tf.Module()
        module.policy = policy.model  # the variables that the functions read
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        tf.saved_model.save(module, temporary, signatures=signatures, options=options)
        converter = tf.lite.TFLiteConverter.from_saved_model(temporary, signature_keys=list(signatures))
        try:
            with _quiet("tensorflow"):
                content = converter.convert()
        except Exception as error:  # the converter's own class is private to TensorFlow
            raise UserError(f"this policy cannot be made a LiteRT file: {_first_line(error)}") from error
    (directory / "policy.tflite").write_bytes(content)


def _write_onnx(policy: LoadedPolicy, directory: Path) -> None:
    """A file for each way to act."""
    for name, way in portable_ways(policy).items():
        (directory / f"{name}.onnx").write_bytes(_onnx(name, way))


def _onnx(name: str, way: Any) -> bytes:
    convert = import_extra("tf2onnx", "onnx").convert
    specs: Mapping[str, tf.TensorSpec] = way.structured_input_signature[1]

    def renamed(*given: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = way(**dict(zip(specs, given, strict=True)))
        return {"action" if name == "action" else f"next_{name}": values for name, values in outputs.items()}

    # names of inputs are taken from what is positional
    function = tf.function(renamed, autograph=False)
    signature = [tf.TensorSpec(spec.shape, spec.dtype, name=one) for one, spec in specs.items()]
    try:
        with _quiet("tf2onnx"):
            model, _ = convert.from_function(function, input_signature=signature, opset=_OPSET)
    except Exception as error:  # of many classes
        raise UserError(f"this policy's way to act {name!r} cannot be made ONNX: {_first_line(error)}") from error
    content: bytes = model.SerializeToString()
    return content


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


_NAN = "a row that holds NaN or infinite values is answered by NaN; another width is an error of the runtime's"

FORMATS = {
    "saved_model": Format(
        _copy, ".", "observations of another width, and values that are NaN or infinite, are an error of TensorFlow's"
    ),
    "onnx": Format(_write_onnx, "onnx", _NAN, ("tf2onnx", "onnxruntime"), "onnx"),
    "litert": Format(_write_litert, "litert", _NAN, ("ai_edge_litert",), "litert"),
}
