"""TensorFlow's notices are kept off stderr, and nothing else is."""

import os
import pathlib
import subprocess
import sys

import pytest
from tiny import PROJECT

NOTICES = """\
WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1795646242.281066    7453 cudart_stub.cc:31] Could not find cuda drivers on your machine
I0000 00:00:1795646242.394440    7453 cpu_feature_guard.cc:227] This TensorFlow binary is optimized to use available CPU
To enable the following instructions: AVX2 FMA, in other operations, rebuild TensorFlow
"""
NO_GPU = (
    "E0000 00:00:1795646249.2  7453 cuda_platform.cc:52] failed call to cuInit: INTERNAL: CUDA error: Failed call\n"
)
ERRORS = """\
E0000 00:00:1795646249.2  7453 cuda_dnn.cc:52] the library is of another version
F0000 00:00:1795646249.2  7453 cpu_feature_guard.cc:90] compiled to use AVX instructions, which are not available
Illegal instruction, I0000 or To enable the following instructions: in a line
"""
CODE = """
import os, signal, sys
from brac_plus_tf.core.startup import _without_notices
with _without_notices():
    os.write(2, sys.argv[1].encode())
    if sys.argv[2:]:
        os.kill(os.getpid(), signal.SIGABRT)
print("written after", file=sys.stderr)
os.write(2, b"I0000 late.cc:1] notice\\n")
"""
AFTER = "written after\nI0000 late.cc:1] notice\n"
HAS_GPU = bool(list(pathlib.Path("/dev").glob("nvidia*")))


def stderr(text: str, *more: str, **settings: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    environment |= {"PYTHONPATH": str(PROJECT), **settings}
    command = [sys.executable, "-c", CODE, text, *more]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60).stderr


def test_notices_are_dropped_and_errors_shown():
    assert stderr(NOTICES + ERRORS + NOTICES) == ERRORS + AFTER


@pytest.mark.skipif(HAS_GPU, reason="there is a GPU, where a driver that does not answer is an error")
def test_a_machine_without_a_gpu_need_not_say_so():
    assert stderr(NO_GPU) == AFTER


def test_the_last_words_before_an_abort_get_through():
    assert stderr(NOTICES + ERRORS, "abort") == ERRORS


@pytest.mark.parametrize("settings", [{"TF_CPP_MIN_LOG_LEVEL": "0"}, {"PATH": "/nowhere"}])
def test_all_is_shown_to_whoever_asks_and_where_nothing_can_filter(settings):
    assert stderr(NOTICES + ERRORS, **settings) == NOTICES + ERRORS + AFTER
