"""Trains several agents on several datasets with several seeds, skips finished runs, and writes one table of them.

    python -m brac_plus_tf.compare --agents=bc,brac_p,cql,brac_plus --datasets=my_data.hdf5 --seeds=0,1,2 \\
        --gin_file=short_protocol.gin
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from brac_plus_tf import command_line
from brac_plus_tf.core.errors import UserError


def main(argv: Sequence[str]) -> None:
    """The command."""
    from brac_plus_tf.comparison.plan import check_comparable, is_done, plan
    from brac_plus_tf.comparison.report import require_libraries, write_comparison
    from brac_plus_tf.comparison.results import collect
    from brac_plus_tf.comparison.training import core_shares, train_all
    from brac_plus_tf.runs.smoke import SUFFIX

    command_line.refuse_arguments(argv)
    values = flags.FLAGS
    require_libraries()
    seeds = _checked_seeds(values)
    shares = core_shares(sorted(os.sched_getaffinity(0)), values.jobs)
    datasets = [command_line.split_sources(dataset, "+") for dataset in values.datasets]
    cells = plan(values.agents, datasets, seeds, values.gin_file, values.root_dir, values.gin_bindings, values.smoke)
    places = {
        f"[{number}/{len(cells)}] {cell.agent} on {cell.dataset}, seed {cell.seed}": cell
        for number, cell in enumerate(cells, start=1)
    }
    missing = {place: cell for place, cell in places.items() if not is_done(cell)}
    if missing:
        check_comparable(cells)
    for place in (place for place in places if place not in missing):
        print(f"{place}: done before", flush=True)
    imports = [f"--import={module}" for module in command_line.flag_value("import")]
    failed = train_all(missing, [f"--root_dir={values.root_dir}", *imports], shares)
    finished = [cell for cell in cells if cell not in failed]
    if not finished:
        raise UserError("every run failed; its message is above")
    output = Path(f"{values.output}{SUFFIX}") if values.smoke else values.output
    print(write_comparison(collect(finished), output).read_text())
    print(f"results: {output}")
    if failed:
        names = ", ".join(str(cell.directory) for cell in failed)
        raise UserError(f"{len(failed)} of {len(cells)} runs failed and are missing in the table: {names}")


def _checked_seeds(values: flags.FlagValues) -> list[int]:
    """The seeds, after a look at the flags that go together."""
    if any(re.match(r"\s*Experiment\.(agent_name|dataset)\b", binding) for binding in values.gin_bindings):
        raise UserError("--gin_bindings: Experiment.agent_name and Experiment.dataset are set by the comparison itself")
    for text in values.seeds:
        if not re.fullmatch(r"\d+", text):
            raise UserError(f"--seeds: {text!r} is not a whole number of at least 0")
    seeds = [int(text) for text in values.seeds]
    for name, given in (("agents", values.agents), ("datasets", values.datasets), ("seeds", seeds)):
        if not given or len(set(given)) < len(given):
            raise UserError(f"--{name}: name each one once, at least one")
    return seeds


if __name__ == "__main__":
    flags.DEFINE_list("agents", None, "Folders of gin files, or single files of theirs: cql/rho.", required=True)
    command_line.define_sources(
        "datasets", "D4RL names, HDF5 files, minari:ID; a + joins several to one.", required=True
    )
    flags.DEFINE_list("seeds", ["0"], "Seeds of the runs.")
    flags.DEFINE_multi_string("gin_file", [], "After the agent's own: a file of its folder, or any other; may repeat.")
    command_line.define_training_flags()
    flags.DEFINE_integer("jobs", 1, "Runs trained at a time, each on its share of the cores.", lower_bound=1)
    command_line.define_path("output", "comparison", "Directory for table.md, scores.csv and curves.png.")
    command_line.run_command(main)
