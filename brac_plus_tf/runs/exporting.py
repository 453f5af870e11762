"""A finished run's policy put where it is deployed, in the formats that are asked for, each compared with it before."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.randomness import initializer_seed
from brac_plus_tf.exports.formats import FORMATS
from brac_plus_tf.exports.parity import Parity, Reference
from brac_plus_tf.policies.saved_policy import LoadedPolicy, placed_directory, refuse_existing
from brac_plus_tf.runs.contract import write_contract
from brac_plus_tf.runs.experiment import run_data
from brac_plus_tf.runs.facts import read_facts
from brac_plus_tf.runs.finished import saved_model

_ROWS = 1000  # of the data, that an export is compared on


def export(
    run_dir: Path, output: Path, source: Path | None = None, formats: Sequence[str] = ("saved_model",)
) -> list[str]:
    """Puts the run's policy, its contract and its model card at `output`, whole or not at all.

    Each format is loaded in its own runtime and compared with the policy before; the lines returned say how it went.

    Args:
      source: another export of the run than that of its last policy. formats: of `FORMATS`.
    Raises:
      UserError: if the run has none, it cannot be loaded or made of a format, answers otherwise there, or `output`
        exists or cannot be written.
    """
    read_facts(run_dir)
    policy = LoadedPolicy(source or saved_model(run_dir))
    refuse_existing(output)
    for name in formats:
        FORMATS[name].check_installed()
    observation, rows = _observations(run_dir, policy)
    reference = Reference(policy, observation)
    lines, parities = [f"compared on {rows}"], dict[str, Mapping[str, Parity]]()
    try:
        with placed_directory(output) as temporary:
            for name in formats:
                folder = temporary / FORMATS[name].folder
                folder.mkdir(parents=True, exist_ok=True)
                FORMATS[name].write(policy, folder)
                parities[name] = reference.compare(name, folder)
                lines += [f"  {name}, {way}: {_told(parity)}" for way, parity in parities[name].items()]
            write_contract(temporary, run_dir, policy, parities)
    except OSError as error:
        raise UserError(f"{output}: cannot be written ({error.strerror or error})") from error
    return lines


def _told(parity: Parity) -> str:
    undecided = f", {parity.undecided} left out, where two answers are equally good" if parity.undecided else ""
    return f"{parity.rows:,} rows, largest difference {parity.difference:.1e} of half the action's range{undecided}"


def _observations(run_dir: Path, policy: LoadedPolicy) -> tuple[np.ndarray, str]:
    """Rows [N, O], raw, to compare by, and what they are: of the data that the run has learned from, if they can be."""
    generator = np.random.default_rng(initializer_seed(0, "rows of a comparison"))
    try:
        dataset = run_data(run_dir)
        rows = generator.integers(dataset.number_of_transitions, size=_ROWS)
        return dataset.transitions.observation[rows], "rows of the data"
    except UserError as error:
        normal = generator.normal(size=(_ROWS, policy.dimensions.observation))
        own = policy.scaling.observation_shift + policy.scaling.observation_scale * normal
        return own.astype(np.float32), f"made-up observations, for the data cannot be read ({error})"
