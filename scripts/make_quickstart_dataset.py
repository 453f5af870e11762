"""Makes the quickstart's dataset: everything that soft actor-critic saw while it learnt Hopper-v4 from scratch.

usage: python scripts/make_quickstart_dataset.py [--seed=0] [--steps=60000] [--output=FILE]

It is the replay.hdf5 of `python -m brac_plus_tf.train_online --env=Hopper-v4`, like D4RL's medium-replay: episodes from
clumsy to fair, in the order they were played. The same seed on the same machine and packages gives the same file, byte
for byte.
"""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from brac_plus_tf.command_line import run_command
from brac_plus_tf.runs import configuration
from brac_plus_tf.runs.online import OnlineExperiment, run_online

_OUTPUT = Path(__file__).resolve().parents[1] / "quickstart" / "hopper-quickstart.hdf5"


def main(argv: Sequence[str]) -> None:
    """The command."""
    del argv
    options, output = flags.FLAGS, Path(flags.FLAGS.output)
    given = ["OnlineExperiment.environment = 'Hopper-v4'", f"OnlineExperiment.total_steps = {options.steps}"]
    bindings = [*given, *options.gin_bindings]
    experiment = configuration.build(OnlineExperiment, ["sac/online.gin"], bindings)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".learning-", dir=output.parent) as folder:
        run = run_online(experiment, folder, options.seed, options.gin_bindings)
        os.replace(run / "replay.hdf5", output)
    print(f"dataset: {output}, {output.stat().st_size:,} bytes")


if __name__ == "__main__":
    flags.DEFINE_integer("seed", 0, "Seed of weights, noise, batches and episodes.", lower_bound=0)
    flags.DEFINE_integer("steps", 60_000, "Environment steps, one row each.", lower_bound=1)
    flags.DEFINE_multi_string("gin_bindings", [], "gin binding of sac/online.gin's settings; may repeat.")
    flags.DEFINE_string("output", str(_OUTPUT), "File to write.")
    run_command(main)
