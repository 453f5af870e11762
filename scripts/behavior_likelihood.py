"""How well conditional VAEs of several shapes foretell the actions of held-out episodes, as a table.

python scripts/behavior_likelihood.py --datasets=DATA,DATA+DATA --output=DIR [--steps=8000,40000]
                                      [--components=1,2,4] [--free_nats=0,0.25]

A tenth of the episodes is held out. Each row: held-out log-likelihood of pre-tanh actions, nats per action, by 64
importance samples of the latent; how many latents are in use; the mean divergence of the latents from their prior.
One member, the rates of stage 1 and batches of 100. Rows that are there are not made again.
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from absl import flags

from brac_plus_tf import command_line
from brac_plus_tf.agents.base import Stage, member_rows
from brac_plus_tf.core.files import write_atomically, write_json
from brac_plus_tf.core.randomness import base_seed
from brac_plus_tf.core.types import Metrics, Transition
from brac_plus_tf.data.dataset import OfflineDataset
from brac_plus_tf.data.loading import load_dataset
from brac_plus_tf.data.sources import source_label
from brac_plus_tf.models.behavior import VAEEnsemble, fit_ensemble
from brac_plus_tf.models.distributions import inverse_tanh
from brac_plus_tf.models.optimization import Fit
from brac_plus_tf.runs.compiled_stage import compile_stage

SAMPLES, HELD_OUT, CALL = 64, 5000, 500


def fit(data: OfflineDataset, shape: VAEEnsemble, steps: int, seed: int) -> tuple[object, dict[str, float]]:
    """A trained ensemble and the metrics of its last steps."""
    ensemble, settings = shape.build(data.dimensions, seed), Fit(steps=steps)
    optimizer = settings.adam(ensemble.trainable_variables)

    def update(batch: Transition, own: tf.Tensor) -> Metrics:
        action = inverse_tanh(batch.action, shape.action_margin)
        return fit_ensemble(ensemble, optimizer, batch.observation, action, own)

    stage = Stage("behavior", steps, member_rows(shape.members, settings.batch_size), update, CALL)
    run_steps = compile_stage(stage, data, base_seed(seed), True)
    for first in range(0, steps, CALL):
        last = run_steps(first, CALL)
    return ensemble, {name: value / CALL for name, value in last.items()}


def measure(held_out: OfflineDataset, ensemble: object, shape: VAEEnsemble) -> dict[str, float]:
    """Of rows that were not learned from."""
    generator = np.random.default_rng(0)
    rows = generator.permutation(held_out.number_of_transitions)[:HELD_OUT]
    observation = tf.constant(held_out.transitions.observation[rows])
    action = inverse_tanh(tf.constant(held_out.transitions.action[rows]), shape.action_margin)
    member = ensemble.member(0)  # type: ignore[attr-defined]
    likelihood = member.log_prob(observation, action, SAMPLES, base_seed(0)).numpy()
    terms = member.negative_elbo(observation, action, base_seed(0))
    return {
        "log_likelihood": float(likelihood.mean()),
        "standard_error": float(likelihood.std() / np.sqrt(len(rows))),
        "active_units": float(terms["active_units"]),
        "latent_kl": float(tf.reduce_mean(terms["latent_kl"])),
    }


def markdown(rows: Sequence[Mapping[str, object]]) -> str:
    """The table."""
    names = [
        "dataset",
        "steps",
        "components",
        "free_nats",
        "log_likelihood",
        "standard_error",
        "active_units",
        "latent_kl",
    ]
    lines = ["| " + " | ".join(name.replace("_", " ") for name in names) + " |", "|" + "---|" * len(names)]
    for row in rows:
        cells = [f"{row[name]:.3f}" if isinstance(row[name], float) else str(row[name]) for name in names]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str]) -> None:
    """The script."""
    command_line.refuse_arguments(argv)
    values, path = flags.FLAGS, flags.FLAGS.output / "likelihood.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    grid = itertools.product(values.datasets, values.steps, values.components, values.free_nats)
    for name, steps, components, free in grid:
        sources = command_line.split_sources(name, "+")
        what = {
            "dataset": "+".join(map(source_label, sources)),
            "steps": int(steps),
            "components": int(components),
            "free_nats": float(free),
        }
        if any(what.items() <= row.items() for row in rows):
            continue
        data = load_dataset(list(sources), None, normalize_observations=True, allow_longer_episodes=True)
        training, held_out = data.split_episodes(0.1, values.seed)
        shape = VAEEnsemble(1, (256, 256), mixture_components=int(components), free_nats=float(free))
        ensemble, _ = fit(training, shape, int(steps), values.seed)
        rows.append(what | measure(held_out, ensemble, shape))
        print(json.dumps(rows[-1]), flush=True)
        values.output.mkdir(parents=True, exist_ok=True)
        write_json(path, rows)
        write_atomically(Path(values.output) / "likelihood.md", markdown(rows).encode())
    print(f"results: {values.output}")


if __name__ == "__main__":
    flags.DEFINE_list("datasets", None, "Datasets; a + joins several to one.", required=True)
    flags.DEFINE_list("steps", ["40000"], "Gradient steps.")
    flags.DEFINE_list("components", ["1"], "Gaussians in the decoder.")
    flags.DEFINE_list("free_nats", ["0"], "VAEEnsemble.free_nats.")
    flags.DEFINE_integer("seed", 100, "Of the split, the weights and the batches.")
    command_line.define_path("output", None, "Directory for likelihood.json and likelihood.md.", required=True)
    command_line.run_command(main)
