"""Before anything else: one core for each worker of a parallel run, else TensorFlow's threads fight over all of them.

Its place also puts tests/ on the import path, so that tests in subfolders find `fakes` and its neighbours.
"""

import os

worker = os.environ.get("PYTEST_XDIST_WORKER")
if worker and hasattr(os, "sched_setaffinity"):
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})
