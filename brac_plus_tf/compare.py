"""Trains several agents on several datasets with several seeds, as far as not done yet, and writes one table of them.

python -m brac_plus_tf.compare --agents=bc,brac_p,brac_v,bear,cql,brac_plus --datasets=hopper-medium-replay-v0 \
    --seeds=0,1,2 --gin_file=short_protocol.gin
"""

import contextlib
import itertools
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import gin
from absl import flags

from brac_plus_tf.command_line import run_command
from brac_plus_tf.comparison.comparison import Cell, collect, require_libraries, write_comparison
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.stopping import Interrupted, stop_requests
from brac_plus_tf.data.download import is_dataset_name
from brac_plus_tf.runs import configuration
from brac_plus_tf.runs.experiment import task_label
from brac_plus_tf.runs.facts import read_facts


def gin_files(agent: str, dataset: str, more: Sequence[str]) -> list[str]:
    """The files that configure `agent`, a folder of gin_configs/ or one file of it (`cql/rho`).

    Of a folder the first there is: the task's file for a D4RL name, the file of the robot that the dataset's name
    begins with, base.gin. Then each of `more`, a file of the agent's folder or a path.

    Raises:
      UserError: if there is no such agent or file.
    """
    folder, _, variant = agent.partition("/")
    task = re.sub(r"-v\d+$", "", dataset).replace("-", "_")
    robot = task_label([dataset]).removeprefix("minari-").partition("-")[0]
    names = [variant] if variant else [task] * is_dataset_name(dataset) + [robot, "base"]
    own = [path for name in names if (path := configuration.GIN_CONFIGS / folder / f"{name}.gin").is_file()]
    if not folder or not own:
        known = sorted(path.name for path in configuration.GIN_CONFIGS.iterdir() if (path / "base.gin").exists())
        raise UserError(f"--agents: no gin_configs/{folder}/{names[-1]}.gin; agents are {', '.join(known)}")
    files = [str(own[0])]
    for name in more:
        beside = configuration.GIN_CONFIGS / folder / name
        if not beside.is_file() and not Path(name).is_file():
            raise UserError(f"--gin_file: {name} is neither in gin_configs/{folder}/ nor a file")
        files.append(str(beside if beside.is_file() else name))
    return files


def plan(
    agents: Sequence[str], datasets: Sequence[str], seeds: Sequence[int], more: Sequence[str], root_dir: str
) -> list[Cell]:
    """Every run of the comparison, with the files that configure it."""
    suffix = "".join(f"_{Path(name).stem}" for name in more)
    return [
        Cell(
            agent=agent,
            dataset=task_label(dataset.split("+")),
            seed=seed,
            directory=Path(root_dir) / task_label(dataset.split("+")) / (agent.replace("/", "_") + suffix) / str(seed),
            source=dataset,
            gin_files=tuple(gin_files(agent, dataset, more)),
        )
        for dataset, seed, agent in itertools.product(datasets, seeds, agents)
    ]


def is_done(cell: Cell, bindings: Sequence[str]) -> bool:
    """Whether the run is finished, under the very configuration that the command would give it."""
    if not (cell.directory / "evaluation.json").exists() or not (cell.directory / "saved_model").exists():
        return False
    configuration.parse(cell.gin_files, _bindings(cell, bindings))
    same = read_facts(cell.directory).get("configuration") == configuration.fingerprint()
    gin.clear_config()
    return same


def _bindings(cell: Cell, bindings: Sequence[str]) -> list[str]:
    dataset = f"Experiment.dataset = {tuple(cell.source.split('+'))!r}"
    return [dataset, f"Experiment.agent_name = {cell.directory.parent.name!r}", *bindings]


def core_shares(cores: Sequence[int], jobs: int) -> list[list[int]]:
    """The cores dealt out to `jobs` processes: two that share all cores slow each other down by far more than half.

    Raises:
      UserError: if there are fewer cores than processes.
    """
    if jobs > len(cores):
        raise UserError(f"--jobs={jobs}: there are {len(cores)} cores, and each run needs one of its own")
    return [list(cores[first::jobs]) for first in range(jobs)]


def start_training(
    cell: Cell, root_dir: str, bindings: Sequence[str], cores: Sequence[int], log: Path | None
) -> subprocess.Popen[bytes]:
    """Starts the training command for one cell on `cores`; what it prints goes to the file `log`, if one is given."""
    command = [sys.executable, "-m", "brac_plus_tf.train", f"--root_dir={root_dir}", f"--seed={cell.seed}"]
    command += [f"--gin_file={file}" for file in cell.gin_files]
    command += [f"--gin_bindings={binding}" for binding in _bindings(cell, bindings)]
    ours = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)  # a child starts with its parent's
    try:
        with contextlib.ExitStack() as stack:
            output = None
            if log is not None:
                log.parent.mkdir(parents=True, exist_ok=True)
                output = stack.enter_context(open(log, "wb"))
            # a session of its own: Ctrl-C reaches it once, through us, and it saves its state before it stops
            return subprocess.Popen(command, start_new_session=True, stdout=output, stderr=output)
    finally:
        os.sched_setaffinity(0, ours)


def train_all(
    cells: Mapping[str, Cell], root_dir: str, bindings: Sequence[str], shares: Sequence[Sequence[int]]
) -> list[Cell]:
    """Trains cells, given by what to call them in messages, one on each share of the cores; returns those that failed.

    Raises:
      Interrupted: after SIGINT or SIGTERM, once every process has saved its state.
    """
    free, waiting, failed, passed_on = list(shares), list(cells.items()), list[Cell](), False
    running: dict[subprocess.Popen[bytes], tuple[str, Cell, Sequence[int], Path | None]] = {}
    with stop_requests() as stop_requested:
        while running or (waiting and not stop_requested):
            while waiting and free and not stop_requested:
                (place, cell), cores = waiting.pop(0), free.pop(0)
                log = cell.directory.with_name(f"{cell.directory.name}.log") if len(shares) > 1 else None
                print(f"{place}: training" + (f", see {log}" if log else ""), flush=True)
                running[start_training(cell, root_dir, bindings, cores, log)] = place, cell, cores, log
            if stop_requested and not passed_on:
                passed_on = True
                for process in running:
                    process.send_signal(stop_requested[0])
            time.sleep(0.05)
            for process in [process for process in running if process.poll() is not None]:
                place, cell, cores, log = running.pop(process)
                free.append(cores)
                if process.returncode and not stop_requested:
                    failed.append(cell)
                if log is not None or stop_requested:
                    outcome = "stopped" if stop_requested else "failed" if process.returncode else "done"
                    print(f"{place}: {outcome}", flush=True)
                if log is not None and process.returncode:
                    print(log.read_text(errors="replace").strip().rpartition("\n")[2], file=sys.stderr)
        if stop_requested:
            raise Interrupted(f"{len(cells) - len(waiting)} of {len(cells)} runs begun", stop_requested[0])
    return failed


def main(argv: Sequence[str]) -> None:
    """The command."""
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}: flags are written --name=value")
    values = flags.FLAGS
    require_libraries()
    if any(re.match(r"\s*Experiment\.(agent_name|dataset)\b", binding) for binding in values.gin_bindings):
        raise UserError("--gin_bindings: Experiment.agent_name and Experiment.dataset are set by the comparison itself")
    seeds = [_seed(text) for text in values.seeds]
    for name, given in (("agents", values.agents), ("datasets", values.datasets), ("seeds", seeds)):
        if not given or len(set(given)) < len(given):
            raise UserError(f"--{name}: name each one once, at least one")
    shares = core_shares(sorted(os.sched_getaffinity(0)), values.jobs)
    cells = plan(values.agents, values.datasets, seeds, values.gin_file, values.root_dir)
    for cell in cells:  # all are parsed before the first one trains
        configuration.parse(cell.gin_files, _bindings(cell, values.gin_bindings))

    missing = {}
    for number, cell in enumerate(cells, start=1):
        place = f"[{number}/{len(cells)}] {cell.agent} on {cell.dataset}, seed {cell.seed}"
        if is_done(cell, values.gin_bindings):
            print(f"{place}: done before", flush=True)
        else:
            missing[place] = cell
    failed = train_all(missing, values.root_dir, values.gin_bindings, shares)
    finished = [cell for cell in cells if cell not in failed]
    if not finished:
        raise UserError("every run failed; its message is above")
    path = write_comparison(collect(finished), Path(values.output))
    print(path.read_text())
    print(f"results: {values.output}")
    if failed:
        names = ", ".join(str(cell.directory) for cell in failed)
        raise UserError(f"{len(failed)} of {len(cells)} runs failed and are missing in the table: {names}")


def _seed(text: str) -> int:
    if not re.fullmatch(r"\d+", text):
        raise UserError(f"--seeds: {text!r} is not a whole number of at least 0")
    return int(text)


if __name__ == "__main__":
    flags.DEFINE_list("agents", None, "Folders of gin_configs/, or single files of theirs: cql/rho.", required=True)
    flags.DEFINE_list("datasets", None, "D4RL names, HDF5 files, minari:ID; a + joins several to one.", required=True)
    flags.DEFINE_list("seeds", ["0"], "Seeds of the runs.")
    flags.DEFINE_multi_string("gin_file", [], "After the agent's own: a file of its folder, or a path; may repeat.")
    flags.DEFINE_multi_string("gin_bindings", [], "gin binding for every run; may repeat, wins over files.")
    flags.DEFINE_string("root_dir", "runs", "Where the run directories are.")
    flags.DEFINE_integer("jobs", 1, "Runs trained at a time, each on its share of the cores.", lower_bound=1)
    flags.DEFINE_string("output", "comparison", "Directory for table.md, scores.csv and curves.png.")
    run_command(main)
