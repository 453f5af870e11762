"""Before anything else: one core for each worker of a parallel run, else TensorFlow's threads fight over all of them.

Its place also puts tests/ on the import path, so that tests in subfolders find `fakes` and its neighbours.
"""

import gc
import os

from processes import CORES

worker = os.environ.get("PYTEST_XDIST_WORKER")
if worker:
    os.sched_setaffinity(0, {sorted(CORES)[int(worker.removeprefix("gw")) % len(CORES)]})


def pytest_collection_finish():
    """What is there when the tests begin stays to the end: no use in looking through it for garbage again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
