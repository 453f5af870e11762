"""Trains several agents on several datasets with several seeds, as far as not done yet, and writes one table of them.

python -m brac_plus_tf.compare --agents=bc,brac_p,brac_v,bear,cql,brac_plus --datasets=hopper-medium-replay-v0 \
    --seeds=0,1,2 --gin_file=short_protocol.gin
"""

import itertools
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import gin
from absl import flags

from brac_plus_tf import configuration
from brac_plus_tf.command_line import run_command
from brac_plus_tf.comparison import Cell, collect, require_libraries, write_comparison
from brac_plus_tf.dataset_download import is_dataset_name
from brac_plus_tf.experiment import task_label
from brac_plus_tf.run_record import read_facts
from brac_plus_tf.types import UserError


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


def train(cell: Cell, root_dir: str, bindings: Sequence[str]) -> int:
    """Runs the training command for one cell and returns its exit status; passes signals on to it."""
    command = [sys.executable, "-m", "brac_plus_tf.train", f"--root_dir={root_dir}", f"--seed={cell.seed}"]
    command += [f"--gin_file={file}" for file in cell.gin_files]
    command += [f"--gin_bindings={binding}" for binding in _bindings(cell, bindings)]
    # a session of its own: Ctrl-C reaches it once, through us, and it saves its state before it stops
    process = subprocess.Popen(command, start_new_session=True)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, lambda number, frame: process.send_signal(number))
    try:
        return process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
    cells = plan(values.agents, values.datasets, seeds, values.gin_file, values.root_dir)
    for cell in cells:  # all are parsed before the first one trains
        configuration.parse(cell.gin_files, _bindings(cell, values.gin_bindings))

    failed = []
    for number, cell in enumerate(cells, start=1):
        done = is_done(cell, values.gin_bindings)
        place = f"[{number}/{len(cells)}] {cell.agent} on {cell.dataset}, seed {cell.seed}"
        print(f"{place}: {'done before' if done else 'training'}", flush=True)
        status = 0 if done else train(cell, values.root_dir, values.gin_bindings)
        if status > 128 or status < 0:
            print(f"{place}: stopped; the same command goes on from there")
            sys.exit(status if status > 0 else 128 - status)
        if status:
            failed.append(cell)
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
    flags.DEFINE_string("output", "comparison", "Directory for table.md, scores.csv and curves.png.")
    run_command(main)
