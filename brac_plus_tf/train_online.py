"""Trains an agent in a simulator and keeps its policy and everything it saw, as a dataset.

python -m brac_plus_tf.train_online --env=Hopper-v4 --total_steps=300000 --eval_target=1000
"""

from collections.abc import Sequence

from absl import flags

from brac_plus_tf import command_line


def main(argv: Sequence[str]) -> None:
    """The command."""
    from brac_plus_tf.runs import configuration, smoke
    from brac_plus_tf.runs.online import OnlineExperiment, run_online

    command_line.refuse_arguments(argv)
    values = flags.FLAGS
    # flags for the settings changed most often are bindings by another name, so nothing is set in two ways
    shorthand = {"environment": values.env, "total_steps": values.total_steps, "eval_target": values.eval_target}
    given = [f"OnlineExperiment.{name} = {value!r}" for name, value in shorthand.items() if value is not None]
    shorter = smoke.bindings(OnlineExperiment) if values.smoke else []
    experiment = configuration.build(OnlineExperiment, values.gin_file, [*shorter, *given, *values.gin_bindings])
    directory = run_online(experiment, values.root_dir, values.seed, values.gin_bindings)
    print(f"results: {directory} (saved_model, replay.hdf5, curves.png, evaluation.json)")


if __name__ == "__main__":
    flags.DEFINE_string("env", None, "Environment to learn in, such as Hopper-v4.", required=True)
    command_line.define_gin_files(["sac/online.gin"])
    command_line.define_training_flags()
    flags.DEFINE_integer("seed", 0, "Seed of initialisation, episodes, batches and noise.", lower_bound=0)
    flags.DEFINE_integer("total_steps", None, "Environment steps, instead of the gin file's.", lower_bound=1)
    flags.DEFINE_float("eval_target", None, "Return at which the policy and the data are saved on the way.")
    command_line.run_command(main)
