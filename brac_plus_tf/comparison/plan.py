"""Which runs a comparison consists of, which files configure them, and which of them are finished."""

import dataclasses
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import gin

from brac_plus_tf.comparison.records import Cell, finished_facts, kept_record
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.gin_files import CONFIGS, find_gin_file
from brac_plus_tf.core.settings import HyperParameters
from brac_plus_tf.data.d4rl_names import is_d4rl_name
from brac_plus_tf.data.dataset import OfflineDataset
from brac_plus_tf.estimation.judged_policy import check_judgeable
from brac_plus_tf.policies.saved_policy import DeployedPolicy
from brac_plus_tf.runs import configuration, smoke
from brac_plus_tf.runs.experiment import Experiment, evaluation_task, sources_of, task_label

_NAME_ONE = "--gin_bindings=\"Experiment.environment = 'Hopper-v4'\""


def gin_files(agent: str, sources: Sequence[str], more: Sequence[str]) -> list[str]:
    """The files that configure `agent`, a folder of gin files or one file of it (`cql/rho`).

    The folder is looked for in the working directory, then in the package. Of a folder the first there is: the task's
    file for a D4RL name, the file of the robot that the dataset's name begins with, base.gin. Then each of `more`, a
    file of the agent's folder or one as `find_gin_file` finds it.

    Raises:
      UserError: if there is no such agent or file.
    """
    folder, _, variant = agent.partition("/")
    robot = task_label(sources).removeprefix("minari-").partition("-")[0]
    names = [robot, "base"]
    if len(sources) == 1 and is_d4rl_name(sources[0]):
        names.insert(0, re.sub(r"-v\d+$", "", sources[0]).replace("-", "_"))
    if variant:
        names = [variant]
    roots = [root for root in (Path(folder), CONFIGS / folder) if folder]
    own = [path for root in roots for name in names if (path := root / f"{name}.gin").is_file()]
    if not own:
        known = sorted(path.name for path in CONFIGS.iterdir() if (path / "base.gin").exists())
        raise UserError(f"--agents: no gin file {folder}/{names[-1]}.gin; agents are {', '.join(known)}")
    beside = [own[0].parent / name for name in more]
    return [
        str(own[0]),
        *(str(path if path.is_file() else find_gin_file(name)) for path, name in zip(beside, more, strict=True)),
    ]


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Study(HyperParameters):
    """A comparison that is published: what `compare` is given, in a file.

    agents, datasets, seeds, gin_files: as their flags take them. datasets: of a folder that --data_dir names.
    bindings: for every run. grid: as --grid takes it.
    variants: of each agent, by what to call them, with bindings and gin files (which end in .gin) of their own; "" for
    the agent as it is.
    """

    agents: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    gin_files: tuple[str, ...] = ()
    bindings: tuple[str, ...] = ()
    grid: tuple[str, ...] = ()
    variants: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=lambda: {"": ()})


def plan(
    study: Study,
    datasets: Sequence[Sequence[str]],
    root_dir: Path,
    smoke_run: bool = False,
    records: Path | None = None,
) -> list[Cell]:
    """Every run of the comparison, with what configures it.

    Args:
      datasets: the sources of each that the study names. records: directory in which what is left of a run is kept.
    Raises:
      UserError: if there is no such agent or file, or the grid cannot be read.
    """
    cells = []
    shorter = smoke.bindings(Experiment) if smoke_run else []
    every = itertools.product(datasets, study.seeds, study.agents, _variants(study))
    for sources, seed, agent, variant in every:
        label = task_label(sources)
        parts = [agent.replace("/", "_"), *(Path(file).stem for file in study.gin_files), *variant.words]
        name = "_".join(re.sub(r"[^\w.+-]", "_", part) for part in parts)
        data = [f"Experiment.dataset = {tuple(sources)!r}", f"Experiment.agent_name = {name!r}"]
        cells.append(
            Cell(
                agent=" ".join([agent, *variant.words]),
                dataset=label,
                seed=seed,
                directory=root_dir / label / (f"{name}{smoke.SUFFIX}" if smoke_run else name) / str(seed),
                gin_files=tuple(gin_files(agent, sources, [*study.gin_files, *variant.gin_files])),
                bindings=(*shorter, *data, *study.bindings, *variant.bindings),
                record=records / f"{label}__{name}__{seed}.json" if records and not smoke_run else None,
            )
        )
    return cells


class _Variant(NamedTuple):
    """What an agent is called beside its name, and what it is given beside its files."""

    words: tuple[str, ...]
    gin_files: tuple[str, ...]
    bindings: tuple[str, ...]


def _variants(study: Study) -> list[_Variant]:
    """Each of the study's variants at each point of its grid."""
    found = []
    for (name, given), point in itertools.product(study.variants.items(), grid_points(study.grid)):
        files = tuple(text for text in given if text.endswith(".gin"))
        words = [*([name] if name else []), *(f"{parameter.rpartition('.')[2]}={value}" for parameter, value in point)]
        own = [text for text in given if text not in files]
        found.append(_Variant(tuple(words), files, (*own, *(f"{parameter} = {value}" for parameter, value in point))))
    return found


def grid_points(grid: Sequence[str]) -> list[tuple[tuple[str, str], ...]]:
    """All combinations of the values, as (name, value) of gin; a single empty one without a grid.

    Args:
      grid: `Name.parameter=value,value,..` each; a comma inside brackets belongs to its value.
    Raises:
      UserError: for another form, or a value that is given twice.
    """
    axes = []
    for text in grid:
        name, equals, values = (part.strip() for part in text.partition("="))
        found = [value.strip() for value in re.findall(r"(?:[^,(\[]|\([^)]*\)|\[[^\]]*\])+", values)]
        if not (equals and re.fullmatch(r"[\w./]+\.\w+", name) and found and len(set(found)) == len(found)):
            raise UserError(f"--grid={text}: give Name.parameter=value,value with different values")
        axes.append([(name, value) for value in found])
    return list(itertools.product(*axes))


def check_comparable(cells: Sequence[Cell]) -> None:
    """Checks, before hours of training, what `collect` would find after them; also that the data can be read.

    Raises:
      UserError: for whatever the training command would refuse at once, if runs on the same data would be evaluated
        in another environment or in another number of episodes, or if, without an environment, a policy could not be
        judged by its data.
    """
    first: dict[str, tuple[str, dict[str, object]]] = {}
    datasets: dict[str, OfflineDataset] = {}
    kind: tuple[str, bool] | None = None  # whether there is no environment, and who said so first
    for cell in [cell for cell in cells if cell.seed == cells[0].seed]:  # those of other seeds differ in nothing else
        experiment = configuration.build(Experiment, cell.gin_files, cell.bindings)
        sources = sources_of(experiment.dataset)
        place = f"{cell.agent} on {cell.dataset}"
        task = evaluation_task(experiment.environment, sources)
        if cell.dataset not in datasets:
            datasets[cell.dataset] = experiment.load_dataset(sources, task)
        terms: dict[str, object] = {"environment": None}
        if task is None:
            _check_judgeable(place, experiment, datasets[cell.dataset])
        else:
            backend = experiment.make_environment(task).backend
            terms = {"environment": f"{task.name} ({backend})", "final_episodes": experiment.final_episodes}
        if (task is None) != (kind := kind or (place, task is None))[1]:
            one, other = ("an estimate", "a score") if task is None else ("a score", "an estimate")
            raise UserError(f"{place} would have {one}, {kind[0]} {other}: compare them apart")
        before, expected = first.setdefault(cell.dataset, (place, terms))
        for name, value in terms.items():
            if value != expected[name]:
                raise UserError(f"{place}: Experiment.{name} is {value}, for {before} it is {expected[name]}")


def _check_judgeable(place: str, experiment: Experiment, dataset: OfflineDataset) -> None:
    agent = experiment.agent_for(dataset, None, 0)
    action = experiment.way_to_act
    try:
        check_judgeable(DeployedPolicy(agent, dataset.dimensions, dataset.scaling), action, dataset)
    except UserError as error:
        raise UserError(f"{place}: no environment is known, and {error}; name one: {_NAME_ONE}") from error


def is_done(cell: Cell) -> bool:
    """Whether the run is finished, or its record kept, under the configuration that the training command would have.

    Raises:
      UserError: if the record is one of other settings, which the run's own would replace.
    """
    kept, facts = kept_record(cell), finished_facts(cell.directory)
    if not facts and not kept:
        return False
    configuration.parse(cell.gin_files, cell.bindings)
    own = configuration.fingerprint()
    gin.clear_config()
    if kept and kept["run"].get("configuration") != own:
        raise UserError(f"{cell.record}: the record of a run with other settings; give another --records, or remove it")
    unfinished = (cell.directory / "run.json").exists() and not (cell.directory / "saved_model").exists()
    return not unfinished and (facts or kept["run"]).get("configuration") == own  # type: ignore[index]
