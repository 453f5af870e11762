"""Judges a policy by recorded data alone: what it would earn, with an interval, beside what the data earned.

    python -m brac_plus_tf.estimate --run_dir=runs/my_data/brac_plus_short/0
    python -m brac_plus_tf.estimate --policy=my_policy --dataset=my_data.hdf5 --output=my_estimate

The value is the sum of discounted rewards from the starts of the data's episodes, by fitted Q evaluation. A cloned
policy is judged in the same way: where its value is not what the data earned, no estimate on these data is to be
believed, and the verdict says so. With --model, a run of mopo or mbop on such data, its model gives a second opinion.
Settings: gin_configs/estimate.gin.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from brac_plus_tf import command_line
from brac_plus_tf.core.errors import UserError


def main(argv: Sequence[str]) -> None:
    """The command."""
    from brac_plus_tf.estimation.estimate import report_lines
    from brac_plus_tf.estimation.finished_run import FILE, Question, estimate_policy, estimate_run

    command_line.refuse_arguments(argv)
    values = flags.FLAGS
    run, policy, output = values.run_dir, values.policy, values.output
    if (run is None) == (policy is None):
        raise UserError("name what is to be judged: either --run_dir or --policy")
    if policy and not (values.dataset and output):
        raise UserError("--policy needs --dataset, the data to judge it by, and --output, where the estimate is kept")
    bindings = tuple(values.gin_bindings)
    question = Question(
        values.dataset or (), values.env or "", values.action or "", values.seed, bindings, values.model
    )
    if run:
        content = estimate_run(run, question, output)
    else:
        content = estimate_policy(None if policy == "behavior" else Path(policy), question, output)
    print(report_lines(content))
    print(f"results: {(output or run / 'estimate') / FILE}")


if __name__ == "__main__":
    command_line.define_path("run_dir", None, "Directory of a finished run.")
    flags.DEFINE_string("policy", None, "Exported policy, or 'behavior' for a cloned one, instead of a run's.")
    command_line.define_sources("dataset", "D4RL name, HDF5 file(s) or minari:ID; default: the run's.")
    flags.DEFINE_string("action", None, "Which of the policy's ways to act; default: its first.")
    flags.DEFINE_integer("seed", 0, "Seed of the networks, the batches and the bootstrap samples.", lower_bound=0)
    command_line.define_path("model", None, "Run of mopo or mbop whose model gives a second opinion.")
    command_line.define_path("output", None, "Directory for the estimate; default: estimate/ in the run.")
    command_line.define_data_flags()
    command_line.run_command(main)
