"""Trains an agent on a dataset, evaluates it and exports its policy.

Your own data, without a simulator; first with --smoke, to see in a minute whether all is in place. The policy is then
judged by the data alone, as `estimate` does it:
    python -m brac_plus_tf.train --gin_file=brac_plus/short.gin --dataset=my_data.hdf5 --env=none
A task of D4RL, whose file is in $D4RL_DATASET_DIR or ~/.d4rl/datasets:
    python -m brac_plus_tf.train --gin_file=brac_plus/hopper_medium_replay.gin
"""

from collections.abc import Sequence

from absl import flags

from brac_plus_tf import command_line


def main(argv: Sequence[str]) -> None:
    """The command."""
    from brac_plus_tf.estimation.finished_run import Question, judge_finished
    from brac_plus_tf.runs import configuration, smoke
    from brac_plus_tf.runs.experiment import Experiment, run_experiment

    command_line.refuse_arguments(argv)
    values = flags.FLAGS
    # flags for the two settings changed most often are bindings by another name, so nothing is set in two ways
    shorthand = []
    if values.dataset:
        shorthand.append(f"Experiment.dataset = {tuple(values.dataset)!r}")
    if values.env:
        shorthand.append(f"Experiment.environment = {values.env!r}")
    shorter = smoke.bindings(Experiment) if values.smoke else []
    experiment = configuration.build(Experiment, values.gin_file, [*shorter, *shorthand, *values.gin_bindings])
    directory = run_experiment(experiment, values.root_dir, values.seed, values.gin_bindings)
    if values.estimate == "auto" and not (directory / "evaluation.json").exists():
        print(judge_finished(directory, Question(environment=values.env or "")))
    print(f"results: {directory}")


if __name__ == "__main__":
    command_line.define_gin_files(None, required=True)
    command_line.define_training_flags()
    flags.DEFINE_integer("seed", 0, "Seed of initialisation, batches, noise and evaluation.", lower_bound=0)
    command_line.define_sources("dataset", "D4RL name, HDF5 file(s) or minari:ID, instead of the gin file's.")
    flags.DEFINE_string("env", None, "Environment for evaluation, or 'none', instead of the gin file's.")
    estimate = "auto: where no environment evaluates the policy, the data judge it; none: nothing does."
    flags.DEFINE_enum("estimate", "auto", ["auto", "none"], estimate)
    command_line.run_command(main)
