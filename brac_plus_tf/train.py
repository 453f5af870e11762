"""Trains an agent on a dataset, evaluates it and exports its policy.

python -m brac_plus_tf.train --gin_file=gin_configs/brac_plus/hopper_medium_replay.gin
"""

from collections.abc import Sequence

from absl import flags

from brac_plus_tf.command_line import run_command
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.runs import configuration
from brac_plus_tf.runs.experiment import Experiment, run_experiment


def main(argv: Sequence[str]) -> None:
    """The command."""
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}: flags are written --name=value")
    values = flags.FLAGS
    # flags for the two settings changed most often are bindings by another name, so nothing is set in two ways
    shorthand = []
    if values.dataset:
        shorthand.append(f"Experiment.dataset = {tuple(values.dataset)!r}")
    if values.env:
        shorthand.append(f"Experiment.environment = {values.env!r}")
    experiment = configuration.build(Experiment, values.gin_file, [*shorthand, *values.gin_bindings])
    directory = run_experiment(experiment, values.root_dir, values.seed, values.gin_bindings)
    print(f"results: {directory}")


if __name__ == "__main__":
    flags.DEFINE_multi_string("gin_file", None, "gin file; may repeat, later ones win.", required=True)
    flags.DEFINE_multi_string("gin_bindings", [], "gin binding 'Name.parameter = value'; may repeat, wins over files.")
    flags.DEFINE_string("root_dir", "runs", "Directory under which {task}/{agent}/{seed}/ is made.")
    flags.DEFINE_integer("seed", 0, "Seed of initialisation, batches, noise and evaluation.", lower_bound=0)
    flags.DEFINE_list("dataset", None, "D4RL dataset name, HDF5 file(s) or minari:ID, instead of the gin file's.")
    flags.DEFINE_string("env", None, "Environment for evaluation, or 'none', instead of the gin file's.")
    run_command(main)
