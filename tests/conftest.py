"""Before anything else: how TensorFlow compiles, and one core for each worker of a parallel run, else its threads fight
over all of them.

Its place also puts tests/ on the import path, so that tests in subfolders find `fakes` and its neighbours.
"""

import gc
import os
import signal

from processes import CORES

# Hundreds of tiny stages are compiled here, for a few steps each. These two leave out what makes machine code fast: a
# stage is there in a fourth of the time, from the same operations in the same order. An environment that says something
# itself goes before them.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false")

# A shell's background job is born deaf to Ctrl-C, which some tests send.
signal.signal(signal.SIGINT, signal.default_int_handler)

worker = os.environ.get("PYTEST_XDIST_WORKER")
if worker:
    os.sched_setaffinity(0, {sorted(CORES)[int(worker.removeprefix("gw")) % len(CORES)]})


def pytest_collection_finish():
    """What is there when the tests begin stays to the end: no use in looking through it for garbage again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


# Files that take minutes, the longest first: begun last, one of them would run alone while the other core is idle.
LONG = tuple(
    "test_kills test_readme test_engines test_compare test_commands test_collection test_brac_plus test_surroundings "
    "test_select test_paper_figures test_outsiders test_exports test_configs".split()
)


def pytest_collection_modifyitems(items):
    """Long files first, the others as they were."""
    places = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONG)))
