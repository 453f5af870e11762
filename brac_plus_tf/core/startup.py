"""TensorFlow's start without its notices, in which the one line that a user should read goes under."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_NOTICES = [
    r"WARNING: All log messages before absl::InitializeLog\(\)",
    r"I[0-9]{4} .*\.cc:[0-9]+\] ",
    "To enable the following instructions:",
]
_NO_GPU = r"E[0-9]{4} .*\] failed call to cuInit: "


def start_tensorflow() -> None:
    """Imports TensorFlow and lets it look for its devices, both without notices."""
    if "tensorflow" not in sys.modules:
        with _without_notices():
            import tensorflow as tf

            tf.config.list_physical_devices()
            tf.get_logger().setLevel("WARNING")  # each export would say where its assets are


@contextlib.contextmanager
def _without_notices() -> Iterator[None]:
    """Keeps TensorFlow's notices off stderr; all else passes, and with TF_CPP_MIN_LOG_LEVEL at 0 or 1 everything does.

    They come from C++, some before any setting of TensorFlow's is read, so that only the file descriptor is left to
    catch them at. It is read by another process: what TensorFlow says before it aborts has to get through.
    """
    grep = shutil.which("grep")
    if grep is None or os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2") in ("0", "1"):
        yield
        return
    # where there is a GPU, a driver that does not answer is an error
    patterns = _NOTICES if list(Path("/dev").glob("nvidia*")) else [*_NOTICES, _NO_GPU]
    command = [grep, "--line-buffered", "--invert-match", "--extended-regexp", f"^({'|'.join(patterns)})"]
    sys.stderr.flush()
    stderr = os.dup(2)
    # a session of its own: Ctrl-C must not end it before us
    reader = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=stderr, start_new_session=True)
    assert reader.stdin is not None
    os.dup2(reader.stdin.fileno(), 2)
    reader.stdin.close()
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(stderr, 2)
        os.close(stderr)
        reader.wait()
