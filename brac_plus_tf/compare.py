"""Trains several agents on several datasets with several seeds, skips finished runs, and writes one table of them.

    python -m brac_plus_tf.compare --agents=bc,brac_p,cql,brac_plus --datasets=my_data.hdf5 --seeds=0,1,2 \\
        --gin_file=short_protocol.gin
    python -m brac_plus_tf.compare --study=studies/gym_short.gin --data_dir=DATA --records=results/gym_short
"""

import dataclasses
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from brac_plus_tf import command_line
from brac_plus_tf.core.errors import UserError

if TYPE_CHECKING:  # they need TensorFlow
    from brac_plus_tf.comparison.engines import Engine
    from brac_plus_tf.comparison.plan import Study

# which engines each of these flags is for
_ENGINES = {"jobs": ("local",), "cores": ("ray", "slurm"), "ray_address": ("ray",), "slurm": ("slurm",)}


def main(argv: Sequence[str]) -> None:
    """The command."""
    from brac_plus_tf.comparison.plan import check_comparable, is_done, plan
    from brac_plus_tf.comparison.records import keep_record
    from brac_plus_tf.comparison.report import require_libraries, write_comparison
    from brac_plus_tf.comparison.results import collect
    from brac_plus_tf.comparison.training import train_all
    from brac_plus_tf.runs.smoke import SUFFIX

    command_line.refuse_arguments(argv)
    values = flags.FLAGS
    require_libraries()
    study = _study(values)
    _check_engine(values)
    cells = plan(study, _sources(study.datasets, values.data_dir), values.root_dir, values.smoke, values.records)
    places = {
        f"[{number}/{len(cells)}] {cell.agent} on {cell.dataset}, seed {cell.seed}": cell
        for number, cell in enumerate(cells, start=1)
    }
    missing = {place: cell for place, cell in places.items() if not is_done(cell)}
    engine = _engine(values) if missing and values.engine != "none" else None
    if engine:
        check_comparable(cells)
    for place in (place for place in places if place not in missing):
        keep_record(places[place])
        print(f"{place}: done before", flush=True)
    imports = [f"--import={module}" for module in command_line.flag_value("import")]
    failed = train_all(missing, [f"--root_dir={values.root_dir}", *imports], engine) if engine else []
    absent = failed if engine else list(missing.values())
    finished = [cell for cell in cells if cell not in absent]
    if not finished:
        raise UserError("every run failed; its message is above" if engine else "none of the runs is there")
    output = Path(f"{values.output}{SUFFIX}") if values.smoke else values.output
    print(write_comparison(collect(finished), output).read_text())
    print(f"results: {output}")
    if absent and not engine:
        print(f"{len(absent)} of {len(cells)} runs are not there; without --engine=none they are trained")
    if failed:
        names = ", ".join(str(cell.directory) for cell in failed)
        raise UserError(f"{len(failed)} of {len(cells)} runs failed and are missing in the table: {names}")


def _check_engine(values: flags.FlagValues) -> None:
    for name, engines in _ENGINES.items():
        if values[name].present and values.engine not in engines:
            raise UserError(f"--{name}: is for --engine={' or '.join(engines)}, not for {values.engine}")
    for option in values.slurm:
        if not re.fullmatch(r"\w+=.+", option):
            raise UserError(f"--slurm={option}: give name=value, such as slurm_partition=cpu")


def _engine(values: flags.FlagValues) -> "Engine":
    from brac_plus_tf.comparison.engines import LocalEngine, core_shares
    from brac_plus_tf.comparison.ray_engine import RayEngine
    from brac_plus_tf.comparison.slurm_engine import SlurmEngine

    made: dict[str, Callable[[], Engine]] = {
        "local": lambda: LocalEngine(core_shares(sorted(os.sched_getaffinity(0)), values.jobs)),
        "ray": lambda: RayEngine(values.ray_address, values.cores),
        "slurm": lambda: SlurmEngine(
            values.root_dir / "slurm", values.cores, dict(option.split("=", 1) for option in values.slurm)
        ),
    }
    return made[values.engine]()


def _study(values: flags.FlagValues) -> "Study":
    """What the study's file says or else the flags, after a look at what goes together."""
    from brac_plus_tf.comparison.plan import Study
    from brac_plus_tf.runs import configuration

    if any(re.match(r"\s*Experiment\.(agent_name|dataset)\b", binding) for binding in values.gin_bindings):
        raise UserError("--gin_bindings: Experiment.agent_name and Experiment.dataset are set by the comparison itself")
    given = [name for name in ("agents", "datasets", "seeds", "gin_file", "grid") if values[name].present]
    if values.study:
        if given:
            raise UserError(f"--{given[0]}: the study says that; give --study without it")
        study = configuration.build(Study, [values.study], [])
    else:
        for text in values.seeds:
            if not re.fullmatch(r"\d+", text):
                raise UserError(f"--seeds: {text!r} is not a whole number of at least 0")
        seeds = tuple(int(text) for text in values.seeds)
        named = tuple(values.agents or ()), tuple(values.datasets or ()), seeds, tuple(values.gin_file)
        study = Study(*named, grid=tuple(values.grid))
    for name in ("agents", "datasets", "seeds"):
        each = getattr(study, name)
        if not each or len(set(each)) < len(each):
            raise UserError(f"--{name}: name each one once, at least one, or give --study")
    return dataclasses.replace(study, bindings=(*study.bindings, *values.gin_bindings))


def _sources(datasets: Sequence[str], folder: Path | None) -> list[tuple[str, ...]]:
    """The sources of each dataset, in the folder if there is one."""
    parts = (command_line.split_sources(dataset, "+") for dataset in datasets)
    return [tuple(str(folder / source) if folder else source for source in sources) for sources in parts]


if __name__ == "__main__":
    flags.DEFINE_list("agents", None, "Folders of gin files, or single files of theirs: cql/rho.")
    command_line.define_sources("datasets", "D4RL names, HDF5 files, minari:ID; a + joins several to one.")
    command_line.define_path("study", None, "gin file that says all of these (studies/), instead of the flags.")
    command_line.define_path("data_dir", None, "Folder of the datasets.")
    flags.DEFINE_list("seeds", ["0"], "Seeds of the runs.")
    flags.DEFINE_multi_string("gin_file", [], "After the agent's own: a file of its folder, or any other; may repeat.")
    flags.DEFINE_multi_string(
        "grid", [], "Name.parameter=value,value: a variant of each agent for each value; may repeat, for combinations."
    )
    command_line.define_training_flags()
    flags.DEFINE_enum(
        "engine", "local", ["local", "ray", "slurm", "none"], "Where runs are trained; none: what is there is compared."
    )
    flags.DEFINE_integer("jobs", 1, "local: runs trained at a time, each on its share of the cores.", lower_bound=1)
    flags.DEFINE_integer("cores", 1, "ray, slurm: cores of each run.", lower_bound=1)
    flags.DEFINE_string("ray_address", None, "Cluster, such as 10.0.0.1:6379; default: one of this machine's cores.")
    flags.DEFINE_list("slurm", [], "Options of the jobs, such as slurm_partition=cpu,timeout_min=600.")
    command_line.define_path(
        "records", None, "Directory for a small file of each finished run, which does for the run."
    )
    command_line.define_path("output", "comparison", "Directory for table.md, scores.csv, curves.png and profiles.png.")
    command_line.run_command(main)
