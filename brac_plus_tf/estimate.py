"""Judges a policy by recorded data alone: what it would earn, with an interval, beside what the data earned.

    python -m brac_plus_tf.estimate --run_dir=runs/my_data/brac_plus_short/0
    python -m brac_plus_tf.estimate --policy=my_policy --dataset=my_data.hdf5 --output=my_estimate

The value is the sum of discounted rewards from the starts of the data's episodes, by fitted Q evaluation. A cloned
policy is judged in the same way: where its value is not what the data earned, no estimate on these data is to be
believed, and the verdict says so. Settings: gin_configs/estimate.gin.
"""

from collections.abc import Sequence

from absl import flags

from brac_plus_tf import command_line
from brac_plus_tf.core.errors import UserError


def main(argv: Sequence[str]) -> None:
    """The command."""
    import gin

    from brac_plus_tf.data.loading import load_dataset
    from brac_plus_tf.data.sources import dataset_task
    from brac_plus_tf.estimation.estimate import Estimation, estimate, report_lines
    from brac_plus_tf.policies.saved_policy import LoadedPolicy
    from brac_plus_tf.runs import configuration
    from brac_plus_tf.runs.experiment import Experiment
    from brac_plus_tf.runs.finished import saved_model
    from brac_plus_tf.runs.trainer import Loop

    command_line.refuse_arguments(argv)
    values = flags.FLAGS
    run, policy, output = values.run_dir, values.policy, values.output
    if (run is None) == (policy is None):
        raise UserError("name what is to be judged: either --run_dir or --policy")
    if policy and not (values.dataset and output):
        raise UserError("--policy needs --dataset, the data to judge it by, and --output, where the estimate is kept")
    own = [str(run / "operative_config.gin")] if run else []  # which says how its data are read
    configuration.parse([*own, "estimate.gin"], values.gin_bindings)
    names = values.dataset or gin.query_parameter(f"{Experiment.__name__}.dataset")
    names = (names,) if isinstance(names, str) else tuple(names)
    given = None if policy == "behavior" else LoadedPolicy(saved_model(run) if run else policy)
    dataset = gin.get_configurable(load_dataset)(names, None if values.env == "none" else dataset_task(names[0]))
    directory = output or run / "estimate"
    settings, loop = gin.get_configurable(Estimation)(), gin.get_configurable(Loop)()
    configuration.check_effective(values.gin_bindings, gin.operative_config_str())
    cache = directory.parent / "stage_cache" if output else run.parents[2] / "stage_cache"
    content = estimate(directory, cache, dataset, given, values.action, values.seed, settings, loop)
    print(report_lines(content))
    print(f"results: {directory / 'estimate.json'}")


if __name__ == "__main__":
    command_line.define_path("run_dir", None, "Directory of a finished run.")
    flags.DEFINE_string("policy", None, "Exported policy, or 'behavior' for a cloned one, instead of a run's.")
    command_line.define_sources("dataset", "D4RL name, HDF5 file(s) or minari:ID; default: the run's.")
    flags.DEFINE_string("action", None, "Which of the policy's ways to act; default: its first.")
    flags.DEFINE_integer("seed", 0, "Seed of the networks, the batches and the bootstrap samples.", lower_bound=0)
    command_line.define_path("output", None, "Directory for the estimate; default: estimate/ in the run.")
    command_line.define_data_flags()
    command_line.run_command(main)
