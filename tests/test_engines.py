"""Engines: what becomes of runs whose process, worker or caller is killed, here and on other machines."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest
import tiny
from processes import PROJECT, ForkedProcess, finish_process, start_process

from brac_plus_tf.comparison.engines import LocalEngine
from brac_plus_tf.comparison.records import Cell
from brac_plus_tf.comparison.slurm_engine import SlurmEngine
from brac_plus_tf.comparison.training import BEGINNINGS, train_all
from brac_plus_tf.comparison.workers import Order, Worker, order
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.files import lock_directory
from brac_plus_tf.core.stopping import Interrupted

# stands for brac_plus_tf.train: prints its own process, then does what its first argument says
PROGRAM = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
print(os.getpid(), os.getcwd(), os.environ["OMP_NUM_THREADS"], os.environ.get("ONLY_THERE"), flush=True)
if sys.argv[1].startswith("--seed="):
    time.sleep(60)
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    """PROGRAM in place of the training command, for processes that are started from here."""
    package = tmp_path / "fake" / "brac_plus_tf"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "train.py").write_text(PROGRAM)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.chdir(tmp_path)  # `python -m` looks there first


def wait_for(condition, seconds: float = 300.0):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


# Any engine ---------------------------------------------------------------------------------------------------------


class Recorded:
    """An engine whose runs end as `statuses` says, each a list for its beginnings; one at a time."""

    logs = False

    def __init__(self, statuses):
        self.statuses, self.begun, self.signals, self.current, self.closed = statuses, [], [], None, False

    def has_room(self):
        return self.current is None

    def start(self, arguments, directory, log):
        assert log is None and f"--seed={directory.name}" in arguments and "--more" in arguments
        self.begun.append(int(directory.name))
        self.current = self
        return type(
            "Running", (), {"poll": lambda _: self.poll(directory), "stop": lambda _, n: self.signals.append(n)}
        )()

    def poll(self, directory):
        status = self.statuses[int(directory.name)].pop(0)
        if status is not None:
            self.current = None
        return status

    def close(self):
        self.closed = True


def cells(*seeds):
    return {str(seed): Cell("bc", "d", seed, pathlib.Path("runs") / str(seed)) for seed in seeds}


def test_a_killed_run_is_begun_again_before_the_next_and_a_failed_one_stops_nothing():
    engine = Recorded({0: [None, -9, 143, 0], 1: [1], 2: [None, 0]})
    failed = train_all(cells(0, 1, 2), ["--more"], engine)
    assert engine.begun == [0, 0, 0, 1, 2] and engine.closed
    assert [cell.seed for cell in failed] == [1]


def test_a_run_that_is_killed_each_time_fails_in_the_end():
    engine = Recorded({0: [-9] * 99, 1: [0]})
    assert [cell.seed for cell in train_all(cells(0, 1), ["--more"], engine)] == [0]
    assert engine.begun == [0] * BEGINNINGS + [1]


def test_a_signal_is_passed_on_once_and_nothing_more_is_begun():
    class Slow(Recorded):
        def poll(self, directory):
            if len(self.statuses[0]) == 8:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().poll(directory)

    engine = Slow({0: [*[None] * 9, -15], 1: [0]})
    with pytest.raises(Interrupted, match="1 of 2 runs begun"):
        train_all(cells(0, 1), ["--more"], engine)
    assert engine.signals == [signal.SIGTERM] and engine.begun == [0]


def test_a_share_of_the_cores_is_free_again_when_its_run_is_over(program, tmp_path):
    engine = LocalEngine([[core] for core in sorted(os.sched_getaffinity(0))[:1]])
    for status in (0, 3):
        training = engine.start([str(status)], tmp_path, tmp_path / "log")
        assert not engine.has_room() or training.poll() is not None
        assert wait_for(lambda training=training: engine.has_room() and [training.poll()]) == [status]
    assert len((tmp_path / "log").read_text().splitlines()) == 2  # the second beginning is behind the first


# A worker -----------------------------------------------------------------------------------------------------------


def test_a_worker_runs_the_command_as_the_comparison_would(program, tmp_path, monkeypatch):
    monkeypatch.setenv("ONLY_THERE", "of the comparison")
    given = order(["3"], tmp_path / "run", tmp_path / "new" / "log", 2)
    monkeypatch.setenv("ONLY_THERE", "of the worker's machine")
    assert Worker().run(given) == 3
    process, line = (tmp_path / "new" / "log").read_text().split(maxsplit=1)
    assert line.strip() == f"{os.getcwd()} 2 of the worker's machine" and int(process) != os.getpid()


def test_what_the_workers_machine_lacks_comes_from_the_comparisons(program, tmp_path, monkeypatch):
    monkeypatch.setenv("ONLY_THERE", "of the comparison")
    given = order(["0"], tmp_path / "run", tmp_path / "log", 1)
    monkeypatch.delenv("ONLY_THERE")
    assert Worker().run(given) == 0
    assert (tmp_path / "log").read_text().strip().endswith(f"{os.getcwd()} 1 of the comparison")


def test_a_worker_without_the_shared_files_says_so(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    given = order(["0"], tmp_path, tmp_path / "log", 1)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gone").rmdir()
    with pytest.raises(UserError, match=r"gone: not on .*; all machines must see the same files"):
        Worker().run(given)


def test_a_worker_waits_for_a_process_that_still_has_the_run(program, tmp_path):
    holder = (
        "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, 2); print(flush=True); time.sleep(1.5)"
    )
    lock_directory(tmp_path / "run", "run", "--root_dir").close()
    other = subprocess.Popen([sys.executable, "-c", holder, str(tmp_path / "run" / ".lock")], stdout=subprocess.PIPE)
    other.stdout.readline()
    assert Worker().run(order(["0"], tmp_path / "run", tmp_path / "log", 1)) == 0
    assert other.poll() == 0  # it was gone before the command, which takes longer than that to start, had ended


def test_the_command_does_not_outlive_its_worker(program, tmp_path):
    log = tmp_path / "log"
    source = (
        "import sys, pathlib\n"
        "from brac_plus_tf.comparison.workers import Worker, Order\n"
        f"Worker().run(Order(('--seed=0',), {str(tmp_path)!r}, {str(tmp_path / 'run')!r}, {str(log)!r}, "
        f"(('PYTHONPATH', {str(tmp_path / 'fake')!r}),), 1))\n"
    )
    worker = subprocess.Popen([sys.executable, "-c", source], env=os.environ | {"PYTHONPATH": str(PROJECT)})
    process = int(wait_for(lambda: log.exists() and log.read_text().split())[0])
    worker.kill()
    worker.wait()
    wait_for(lambda: not is_running(process), 10.0)


def is_running(process: int) -> bool:
    """Whether there is such a process that has not ended."""
    try:
        return pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# SLURM: submitit's own stand-in for it, and the real one where there is one -------------------------------------------

SLURM = shutil.which("sinfo") and subprocess.run(["sinfo"], capture_output=True).returncode == 0


def test_a_job_ends_as_its_command_does_and_leaves_no_number(program, tmp_path):
    pytest.importorskip("submitit")
    engine = SlurmEngine(tmp_path / "jobs", 1, {}, cluster="local")
    for status in (0, 3):
        training = engine.start([str(status)], tmp_path / "run", tmp_path / "log")
        assert (tmp_path / "run.job").exists()
        assert wait_for(lambda training=training: [training.poll()] != [None] and [training.poll()]) == [status]
        assert not (tmp_path / "run.job").exists()


@pytest.mark.skipif(not SLURM, reason="no SLURM")
def test_what_slurm_refuses_is_said_in_one_line(program, tmp_path):
    engine = SlurmEngine(tmp_path / "jobs", 1, {"slurm_partition": "nowhere"})
    with pytest.raises(UserError, match=r"--engine=slurm: .*Invalid partition"):
        engine.start(["0"], tmp_path / "run", tmp_path / "log")
    assert not (tmp_path / "run.job").exists()
    with pytest.raises(UserError, match=r"--engine=slurm: .*partitoin"):
        SlurmEngine(tmp_path / "jobs", 1, {"partitoin": "nowhere"})


@pytest.mark.skipif(not SLURM, reason="no SLURM")
def test_a_job_outlives_the_comparison_which_finds_it_again_and_may_cancel_it(program, tmp_path):
    pytest.importorskip("submitit")
    engine, log = SlurmEngine(tmp_path / "jobs", 1, {}), tmp_path / "log"
    first = engine.start(["--seed=0"], tmp_path / "run", log)
    process = int(wait_for(lambda: log.exists() and log.read_text().split())[0])
    number = (tmp_path / "run.job").read_text()
    again = SlurmEngine(tmp_path / "jobs", 1, {}).start(["--seed=0"], tmp_path / "run", log)
    assert first.poll() is None and (tmp_path / "run.job").read_text() == number
    assert len(log.read_text().splitlines()) == 1 and again is not first
    first.stop(signal.SIGINT)
    assert wait_for(lambda: [first.poll()] != [None] and [first.poll()])[0] != 0
    wait_for(lambda: not is_running(process), 30.0)


# Ray: a cluster of two nodes ------------------------------------------------------------------------------------------

RUNS = """
Actor.hidden_sizes = (8,)
Critic.hidden_sizes = (8,)
Training.epochs = 30
Training.steps_per_epoch = 20
Training.batch_size = 8
Experiment.evaluation_episodes = 2
Experiment.final_episodes = 3
Loop.evaluation_epochs = 10
Loop.steps_per_call = 10
Loop.checkpoint_interval = 20
"""


def training_processes(root: pathlib.Path) -> list[int]:
    """The training commands whose runs are under `root`."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode().split("\0")
        except (OSError, ValueError):
            continue
        if "brac_plus_tf.train" in words and f"--root_dir={root}" in words:
            found.append(int(path.parent.name))
    return found


def parent(process: int) -> int:
    return int(pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    try:
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 80_000_000})
        made.add_node(num_cpus=1, object_store_memory=80_000_000)
    except Exception as error:  # a machine without shared memory or ports: Ray's own trouble
        pytest.skip(f"Ray does not start here: {error}")
    yield made
    made.shutdown()
    assert not ray.is_initialized()


def test_a_run_on_a_cluster_is_stopped_and_one_that_waits_never_begins(cluster, program, tmp_path):
    from brac_plus_tf.comparison.ray_engine import RayEngine, RayTraining

    engine = RayEngine(cluster.address, 1)
    try:
        logs = [tmp_path / f"{seed}.log" for seed in range(3)]
        first, second = (engine.start(["--seed=0"], log.with_suffix(""), log) for log in logs[:2])
        wait_for(lambda: all(log.exists() and log.read_text() for log in logs[:2]))
        third = engine.start(["--seed=0"], logs[2].with_suffix(""), logs[2])  # both nodes are taken
        assert engine.has_room() and first.poll() is None
        for training in (third, second):
            training.stop(signal.SIGTERM)
        assert wait_for(lambda: [second.poll()] != [None] and [second.poll()]) == [
            143
        ]  # as the program ends by SIGTERM
        assert wait_for(lambda: [third.poll()] != [None] and [third.poll()])[0] < 0 and not logs[2].exists()
        assert first.poll() is None
        following = engine.start(["3"], tmp_path / "run", tmp_path / "other.log")  # in the second one's place
        assert wait_for(lambda: [following.poll()] != [None] and [following.poll()]) == [3]
        elsewhere = Order(("0",), "/not/there", str(tmp_path / "run"), str(tmp_path / "lost.log"), (), 1)
        lost = RayTraining(engine._ray, engine._actor.remote(), elsewhere)
        assert wait_for(lambda: [lost.poll()] != [None] and [lost.poll()]) == [1]
        assert "error: /not/there: not on" in (tmp_path / "lost.log").read_text()
        first.stop(signal.SIGTERM)
        wait_for(lambda: first.poll() is not None)
    finally:
        engine.close()


def test_a_killed_worker_and_a_killed_caller_lose_nothing(cluster, tmp_path):
    (tmp_path / "tiny.gin").write_text(RUNS)
    dataset = tiny.write_hopper_dataset(tmp_path / "hopper.hdf5")
    arguments = ["--agents=sac", "--seeds=0,1", f"--datasets={dataset}", f"--gin_file={tmp_path / 'tiny.gin'}"]

    def compare(root, *more, process=start_process):
        named = [f"--root_dir={root}", f"--output={root / 'out'}"]
        return process("brac_plus_tf.compare", *arguments, *named, *more, cwd=tmp_path)

    there = ["--engine=ray", f"--ray_address={cluster.address}"]
    root = tmp_path / "cluster"
    caller = compare(root, *there)
    first = root / "hopper" / "sac_tiny" / "0" / "checkpoints"
    wait_for(lambda: first.exists() and any(first.iterdir()))
    both = training_processes(root)
    assert len({parent(process) for process in both}) == len(both) <= 2
    os.kill(parent(both[0]), signal.SIGKILL)
    assert wait_for(lambda: "killed; it goes on from its last checkpoint" in caller.stdout.readline())
    wait_for(lambda: training_processes(root))
    caller.kill()
    caller.communicate()
    ended = finish_process(compare(root, *there))
    assert ended.status == 0, ended.stderr
    whole = finish_process(compare(tmp_path / "here", process=ForkedProcess))
    assert whole.status == 0, whole.stderr
    for seed in ("0", "1"):
        for name in ("metrics.csv", "evaluation.json"):
            parts = ("hopper", "sac_tiny", seed, name)
            assert root.joinpath(*parts).read_bytes() == (tmp_path / "here").joinpath(*parts).read_bytes()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--engine=ray", "--jobs=1"], "--jobs: is for --engine=local, not for ray"),
        (["--cores=2"], "--cores: is for --engine=ray or slurm, not for local"),
        (["--engine=slurm", "--slurm=cpu"], "--slurm=cpu: give name=value, such as slurm_partition=cpu"),
    ],
)
def test_flags_of_another_engine_are_refused(tmp_path, flags, message):
    dataset = tiny.write_hopper_dataset(tmp_path / "hopper.hdf5")
    given = ["--agents=bc", f"--datasets={dataset}", f"--root_dir={tmp_path / 'runs'}"]
    outcome = tiny.run_here("compare", *given, *flags)
    assert (outcome.status, outcome.stderr) == (1, f"error: {message}\n") and not (tmp_path / "runs").exists()


def test_slurm_that_is_not_there_is_refused(tmp_path, monkeypatch):
    """In a process of its own; without a PATH TensorFlow cannot be kept from saying that there is no GPU."""
    monkeypatch.setenv("PATH", str(tmp_path))
    dataset = tiny.write_hopper_dataset(tmp_path / "hopper.hdf5")
    given = ["--agents=bc", f"--datasets={dataset}", f"--root_dir={tmp_path / 'runs'}", "--engine=slurm"]
    outcome = finish_process(start_process("brac_plus_tf.compare", *given, cwd=tmp_path))
    last = outcome.stderr.splitlines()[-1]
    assert outcome.status == 1 and last.startswith("error: --engine=slurm: ") and not (tmp_path / "runs").exists()
