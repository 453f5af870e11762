"""Draws a figure of the BRAC+ paper from this package's own runs: its numbers as JSON, and SVG and PNG of them.

    python -m brac_plus_tf.figures --figure=5
    python -m brac_plus_tf.figures --figure=2b --records=results/ablations
    python -m brac_plus_tf.figures --figure=3,6 --runs=RUN,RUN --labels=global,state-wise

4 and 5 are arithmetic; 1, 2a, 2b, 2c and 8 are drawn from the kept records of a study; 3, 6 and 7 from finished runs of
BRAC+ with their data, and so is `values`, which the paper has not: Q beside what episodes really earn. --numbers draws
again from the JSON, without any of them.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from brac_plus_tf import command_line
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.extras import import_extra
from brac_plus_tf.core.gin_files import find_gin_file

if TYPE_CHECKING:  # it needs matplotlib
    from brac_plus_tf.paper.picture import Picture


def main(argv: Sequence[str]) -> None:
    """The command."""
    command_line.refuse_arguments(argv)
    import_extra("matplotlib.figure", "plot")
    from brac_plus_tf.paper.picture import read_picture, write_picture

    values = flags.FLAGS
    if values.numbers:
        pictures = [read_picture(path) for path in map(Path, values.numbers)]
    else:
        made = _makers(values)
        wrong = [name for name in values.figure if name not in made]
        if wrong or not values.figure:
            raise UserError(f"--figure: {wrong[0] if wrong else 'none'} is none of {', '.join(sorted(made))}")
        pictures = [made[name]() for name in values.figure]
    for picture in pictures:
        paths = write_picture(values.output, picture)
        print(f"{picture.caption}\nfigure: {paths[-1]}")


def _makers(values: flags.FlagValues) -> Mapping[str, Callable[[], "Picture"]]:
    from brac_plus_tf.paper import ablations, probes, toys

    labels = values.labels or [""] * len(values.runs)
    if len(labels) != len(values.runs):
        raise UserError(f"--labels: {len(labels)} for {len(values.runs)} runs; give one for each")

    def of_runs(make: Callable[[Sequence[probes.Probed]], "Picture"]) -> Callable[[], "Picture"]:
        def made() -> "Picture":
            if not values.runs:
                raise UserError("--runs: this figure needs finished runs of BRAC+")
            return make([probes.probe(Path(run), label) for run, label in zip(values.runs, labels, strict=True)])

        return made

    return {
        **{name: functools.partial(_ablation, values, name) for name in ablations.FIGURES},
        "3": of_runs(probes.divergence_histogram),
        "4": toys.extrapolation,
        "5": toys.divergence_shapes,
        "6": of_runs(probes.gradient_histogram),
        "7": of_runs(probes.episode_divergence),
        "values": of_runs(probes.values_along_episodes),
    }


def _ablation(values: flags.FlagValues, name: str) -> "Picture":
    from brac_plus_tf.comparison.plan import Study
    from brac_plus_tf.paper.ablations import figure
    from brac_plus_tf.runs import configuration

    study = configuration.build(Study, [str(find_gin_file(values.study))], [])
    sources = [command_line.split_sources(dataset, "+") for dataset in study.datasets]
    return figure(name, study, sources, values.records)


if __name__ == "__main__":
    flags.DEFINE_list("figure", [], "1, 2a, 2b, 2c, 3, 4, 5, 6, 7, 8 or values; several with commas.")
    flags.DEFINE_list("runs", [], "Directories of finished runs of BRAC+, for 3, 6, 7 and values.")
    flags.DEFINE_list("labels", [], "What the runs are called; default: their agents and seeds.")
    command_line.define_path("records", "results/ablations", "Kept records of the study, for 1, 2a, 2b, 2c and 8.")
    flags.DEFINE_string("study", "studies/ablations.gin", "The study whose records they are.")
    flags.DEFINE_list("numbers", [], "JSON files of figures, to draw them again.")
    command_line.define_path("output", "figures", "Directory for figure_N.json, .svg and .png.")
    command_line.run_command(main)
