"""Every command in odd surroundings: what the environment says or does not say, and where one stands."""

import os
import pathlib
import subprocess
import sys

import pytest
from processes import LIMIT, PROJECT
from tiny import write_hopper_dataset

NAMES = ("inspect_dataset", "train", "evaluate", "export", "plot", "convert_to_minari", "train_online", "collect_data")
# settings of the environment (None: not set), and where the commands are started: in a folder of that name below the
# test's own, or in one where nobody can write
SURROUNDINGS = {
    "nothing set, in a directory that is read-only": (
        {"HOME": None, "LANG": None, "LC_ALL": "C", "TERM": "dumb", "USER": None},
        "/proc",
    ),
    "no home to write to, umlauts and blanks": ({"HOME": "/proc/1", "XDG_CACHE_HOME": None}, "größe und höhe"),
}


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_every_command(tmp_path, name):
    changes, where = SURROUNDINGS[name]
    place = pathlib.Path(where) if where.startswith("/") else tmp_path / where
    place.mkdir(exist_ok=True)
    written = tmp_path / where / "out" if place != pathlib.Path(where) else tmp_path / "out"
    written.mkdir()
    dataset = write_hopper_dataset(written / "hopper data.hdf5")
    environment = os.environ | {"MINARI_DATASETS_PATH": str(written / "minari"), "MPLCONFIGDIR": None} | changes
    paths = os.pathsep.join([str(PROJECT), str(PROJECT / "tests")])
    environment = {key: value for key, value in environment.items() if value is not None} | {"PYTHONPATH": paths}
    command = [sys.executable, str(PROJECT / "tests" / "every_command.py"), dataset, str(written)]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr
    statuses = dict(
        line.split(": ") for line in done.stdout.splitlines() if line.partition(": ")[0] in (*NAMES, "compare")
    )
    assert statuses == dict.fromkeys((*NAMES, "compare"), "0"), done.stdout
    assert (written / "made.hdf5").exists() and (written / "policy" / "saved_model.pb").exists()
    if place != pathlib.Path(where):  # nothing is left where it was not asked for
        assert [path.name for path in place.iterdir()] == ["out"]
