"""Chooses between policies by recorded data alone, and exports the chosen one with one page that says why.

Thresholds are tried out on your own data, the stages before the main one shared:
    python -m brac_plus_tf.select --thresholds=0.5,1,2,4 --dataset=my_data.hdf5 --env=none
Runs that are there, whatever their agents and seeds; a snapshot of a run is a candidate, too:
    python -m brac_plus_tf.select --runs=runs/my_data/cql/0,runs/my_data/td3_bc/0 --dataset=my_data.hdf5
With real episodes beside the estimates, dealt out to the candidates that may yet be the best:
    python -m brac_plus_tf.select --runs=runs/my_data/cql/0,runs/my_data/td3_bc/0 --env=Hopper-v4 --episodes=50

What an earlier call has trained or estimated is not done again.
"""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from brac_plus_tf import command_line
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.extras import import_extra

_MARGIN = "RelativeThreshold.margin"


def main(argv: Sequence[str]) -> None:
    """The command."""
    import_extra("matplotlib.figure", "plot")  # rather than to miss it at the end
    from brac_plus_tf.core.files import write_atomically, write_json
    from brac_plus_tf.estimation.finished_run import Question
    from brac_plus_tf.estimation.selection import candidates_of, choose, content_of, judge_candidate, table
    from brac_plus_tf.reporting.report import selection_page
    from brac_plus_tf.runs.exporting import export

    command_line.refuse_arguments(argv)
    values = flags.FLAGS
    task = _checked_task(values)
    paths = _train(values) if values.thresholds else [Path(path).expanduser() for path in values.runs]
    candidates = candidates_of(paths, same_data=not values.dataset)
    bindings = tuple(values.estimate_bindings)
    question = Question(values.dataset or (), values.env or "", values.action or "", 0, bindings)
    judged = []
    for number, candidate in enumerate(candidates, start=1):
        print(f"[{number}/{len(candidates)}] {candidate.name}", flush=True)
        judged.append(judge_candidate(candidate, question))
    choice, played = choose(judged), None
    if task:
        from brac_plus_tf.estimation.episodes import choose_by_playing

        choice, played = choose_by_playing(judged, task, values.episodes, values.seed, values.backend)
    print(table(judged, choice, played))
    chosen = candidates[choice.chosen]
    print(f"chosen: {chosen.name}: {choice.why}")
    values.output.mkdir(parents=True, exist_ok=True)
    write_json(values.output / "selection.json", content_of(judged, choice, played))
    write_atomically(values.output / "report.html", selection_page(values.output).encode())
    export(chosen.run, values.output / "policy", chosen.policy)
    print(f"results: {values.output}")


def _checked_task(values: flags.FlagValues) -> Any:
    """What the episodes are played in, None for none, after a look at the flags that go together."""
    policy: Path = values.output / "policy"
    if policy.exists():
        raise UserError(f"{policy}: there is a policy already; remove it, or name another --output")
    if bool(values.runs) == bool(values.thresholds):
        raise UserError("name what is to be chosen from: either --runs, or --thresholds to train with")
    if values.thresholds and not values.dataset:
        raise UserError("--thresholds needs --dataset, the data to learn from")
    if not values.episodes:
        return None
    if values.env in (None, "none"):
        raise UserError("--episodes needs --env, where they are played")
    return command_line.named_task()


def _train(values: flags.FlagValues) -> list[Path]:
    """Runs of BRAC+ that differ in their threshold alone, one after another; the first stages are shared."""
    from brac_plus_tf.comparison.engines import LocalEngine
    from brac_plus_tf.comparison.records import Cell
    from brac_plus_tf.comparison.training import train_all
    from brac_plus_tf.runs import configuration, smoke
    from brac_plus_tf.runs.experiment import Experiment, task_label

    cells = {}
    for text in values.thresholds:
        try:
            margin = float(text)
        except ValueError as error:
            raise UserError(f"--thresholds: {text!r} is not a number") from error
        own = [f"Experiment.dataset = {tuple(values.dataset)!r}", f"{_MARGIN} = {margin!r}"]
        own += smoke.bindings(Experiment) if values.smoke else []
        own += [f"Experiment.environment = {values.env!r}"] if values.env else []
        # what the training command would refuse, it refuses before the first of them is trained
        experiment = configuration.build(Experiment, values.gin_file, [*own, *values.gin_bindings])
        # after the user's bindings: a name of theirs is kept, and the margin added to it
        named = dataclasses.replace(experiment, agent_name=f"{experiment.agent_name}_margin_{margin:g}")
        bindings = (*own, *values.gin_bindings, f"Experiment.agent_name = {named.agent_name!r}")
        data = task_label(values.dataset)
        directory = values.root_dir / data / named.run_name / str(values.seed)
        cell = Cell(experiment.agent_name, data, values.seed, directory, tuple(values.gin_file), bindings)
        cells[f"threshold {margin:g}"] = cell
    imports = [f"--import={module}" for module in command_line.flag_value("import")]
    engine = LocalEngine([sorted(os.sched_getaffinity(0))])
    failed = train_all(cells, [f"--root_dir={values.root_dir}", "--estimate=none", *imports], engine)
    if failed:
        raise UserError(f"{len(failed)} of {len(cells)} runs failed; their message is above")
    return [cell.directory for cell in cells.values()]


if __name__ == "__main__":
    flags.DEFINE_list("runs", [], "Directories of finished runs, or of snapshots in them.")
    flags.DEFINE_list("thresholds", [], "Margins of the threshold in nats, to train BRAC+ with.")
    command_line.define_sources("dataset", "Data to judge by, and for --thresholds to learn from; default: the runs'.")
    command_line.define_gin_files(["brac_plus/short.gin"])
    command_line.define_training_flags()
    flags.DEFINE_integer("seed", 0, "Seed of the training and of the episodes.", lower_bound=0)
    flags.DEFINE_multi_string(
        "estimate_bindings", [], "gin binding of the estimates, as the command estimate takes it."
    )
    flags.DEFINE_string("action", None, "Which of the policies' ways to act; default: what each run is evaluated by.")
    command_line.define_simulator_flags("Environment of the data and of --episodes, or 'none'.")
    flags.DEFINE_integer("episodes", 0, "Real episodes to play in all, beside the estimates.", lower_bound=0)
    command_line.define_task_flags()
    command_line.define_path("output", "selection", "Directory for selection.json, the page and the policy.")
    command_line.run_command(main)
