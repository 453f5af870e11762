"""Records a policy, or a mixture of it and noise, in a simulator as a dataset.

python -m brac_plus_tf.collect_data --policy=my_policy --mixture=eps1 --env=Hopper-v4 --n_samples=1000000 \
    --output=hopper-eps1.hdf5
"""

import os
from collections.abc import Sequence
from pathlib import Path

import gin
from absl import flags

from brac_plus_tf.collection.recording import Collection, Plan
from brac_plus_tf.collection.shards import collect
from brac_plus_tf.command_line import run_command
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.environments.tasks import find_task
from brac_plus_tf.policies.saved_policy import LoadedPolicy
from brac_plus_tf.runs import configuration
from brac_plus_tf.runs.facts import read_facts


def mixture_file(name: str) -> str:
    """The gin file of one of the mixtures, or a file of the user's own.

    Raises:
      UserError: if there is neither.
    """
    folder = configuration.GIN_CONFIGS / "collection"
    for path in (folder / f"{name}.gin", Path(name)):
        if path.is_file():
            return str(path)
    known = ", ".join(sorted(path.stem for path in folder.glob("*.gin")))
    raise UserError(f"--mixture: {name!r} is none of {known}, nor a gin file")


def policy_directory(name: str) -> Path | None:
    """Where the exported policy is: there, or inside a run directory; None for "random"."""
    if name == "random":
        return None
    if (Path(name) / "run.json").exists():
        read_facts(Path(name))
        return Path(name) / "saved_model"
    return Path(name)


def main(argv: Sequence[str]) -> None:
    """The command."""
    del argv
    values = flags.FLAGS
    collection = configuration.build(Collection, [mixture_file(values.mixture)], values.gin_bindings)
    configuration.check_effective(values.gin_bindings, gin.operative_config_str())
    task, policy, output = find_task(values.env), policy_directory(values.policy), Path(values.output)
    if policy is not None:
        loaded = LoadedPolicy(policy)
        loaded.way(collection.action)
        loaded.check_fits(task)
    plan = Plan(task, values.backend, policy, collection, values.n_samples, values.seed)
    collect(plan, output, values.workers)
    print(f"dataset: {output}")


if __name__ == "__main__":
    flags.DEFINE_string("policy", None, "Exported policy, run directory, or 'random'.", required=True)
    flags.DEFINE_string("env", None, "Environment, such as Hopper-v4.", required=True)
    flags.DEFINE_string("output", None, "HDF5 file to write.", required=True)
    flags.DEFINE_string("mixture", "pure", "pure, eps1, eps3, gaussian1, gaussian3, or a gin file of your own.")
    flags.DEFINE_integer("n_samples", 1_000_000, "Environment steps, one row each.", lower_bound=1)
    flags.DEFINE_multi_string("gin_bindings", [], "gin binding 'Name.parameter = value'; may repeat, wins over files.")
    flags.DEFINE_integer("seed", 0, "Seed of episodes, noise and the policy's draws.", lower_bound=0)
    flags.DEFINE_integer("workers", os.cpu_count() or 1, "Processes; the data do not depend on it.", lower_bound=1)
    flags.DEFINE_string("backend", "auto", "'auto', 'gymnasium' or 'd4rl'.")
    run_command(main)
