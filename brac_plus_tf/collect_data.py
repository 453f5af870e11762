"""Records a policy, or a mixture of it and noise, in a simulator as a dataset.

    python -m brac_plus_tf.collect_data --policy=my_policy --mixture=eps1 --env=Hopper-v4 --n_samples=1000000 \\
        --output=hopper-eps1.hdf5
"""

import os
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from brac_plus_tf import command_line
from brac_plus_tf.core import gin_files
from brac_plus_tf.core.errors import UserError


def mixture_file(name: str) -> str:
    """The gin file of one of the mixtures, or a file of the user's own.

    Raises:
      UserError: if there is neither.
    """
    folder = gin_files.CONFIGS / "collection"
    for path in (folder / f"{name}.gin", Path(name).expanduser()):
        if path.is_file():
            return str(path)
    known = ", ".join(sorted(path.stem for path in folder.glob("*.gin")))
    raise UserError(f"--mixture: {name!r} is none of {known}, nor a gin file")


def policy_directory(name: str) -> Path | None:
    """Where the exported policy is: there, or inside a run directory; None for "random"."""
    from brac_plus_tf.runs.facts import read_facts

    if name == "random":
        return None
    path = Path(name).expanduser()
    if (path / "run.json").exists():
        read_facts(path)
        return path / "saved_model"
    return path


def main(argv: Sequence[str]) -> None:
    """The command."""
    import gin

    from brac_plus_tf.collection.recording import Collection, Plan
    from brac_plus_tf.collection.shards import collect
    from brac_plus_tf.environments.tasks import find_task
    from brac_plus_tf.policies.saved_policy import LoadedPolicy
    from brac_plus_tf.runs import configuration

    command_line.refuse_arguments(argv)
    values = flags.FLAGS
    collection = configuration.build(Collection, [mixture_file(values.mixture)], values.gin_bindings)
    task, policy = find_task(values.env), policy_directory(values.policy)
    configuration.check_effective(values.gin_bindings, gin.operative_config_str())
    if policy is not None:
        loaded = LoadedPolicy(policy)
        loaded.way(collection.action)
        loaded.check_fits(task)
    collect(
        Plan(task, values.backend, policy, collection, values.n_samples, values.seed), values.output, values.workers
    )
    print(f"dataset: {values.output}")


if __name__ == "__main__":
    flags.DEFINE_string("policy", None, "Exported policy, run directory, or 'random'.", required=True)
    command_line.define_simulator_flags("Environment, such as Hopper-v4.", required=True)
    command_line.define_path("output", None, "HDF5 file to write.", required=True)
    flags.DEFINE_string("mixture", "pure", "pure, eps1, eps3, gaussian1, gaussian3, or a gin file of your own.")
    flags.DEFINE_integer("n_samples", 1_000_000, "Environment steps, one row each.", lower_bound=1)
    command_line.define_gin_bindings()
    flags.DEFINE_integer("seed", 0, "Seed of episodes, noise and the policy's draws.", lower_bound=0)
    flags.DEFINE_integer("workers", os.cpu_count() or 1, "Processes; the data do not depend on it.", lower_bound=1)
    command_line.run_command(main)
