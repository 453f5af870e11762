"""What whoever deploys a policy has to know of it: for programs as JSON, for people as a model card."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.exports.formats import FORMATS
from brac_plus_tf.exports.parity import Parity
from brac_plus_tf.policies.saved_policy import METADATA, LoadedPolicy
from brac_plus_tf.runs.facts import read_facts

CONTRACT, CARD = "policy_contract.json", "MODEL_CARD.md"


def write_contract(
    directory: Path, run: Path, policy: LoadedPolicy, parities: Mapping[str, Mapping[str, Parity]]
) -> None:
    """Writes both into an export's directory; the arguments are those of `contract`."""
    content = contract(run, policy, parities)
    (directory / CONTRACT).write_text(json.dumps(content, indent=2) + "\n")
    (directory / CARD).write_text(model_card(content))


def contract(run: Path, policy: LoadedPolicy, parities: Mapping[str, Mapping[str, Parity]]) -> dict[str, Any]:
    """Signatures, units, ranges, where the policy comes from, and what is known of its worth.

    Args:
      run: that the policy comes from. policy: that is exported. parities: of each format and way to act.
    """
    facts: dict[str, Any] = json.loads((policy.directory / METADATA).read_text())
    scaling = policy.scaling
    low, high = (scaling.action_center + sign * scaling.action_half_range for sign in (-1.0, 1.0))
    last = "step" not in facts  # what is known of the run's last policy says nothing of a snapshot
    return {
        "format": 1,
        "signatures": policy.signatures(),
        "ways_to_act": dict(zip(policy.actions, ["serving_default", *policy.actions[1:]], strict=True)),
        "observation": {
            "unit": "the environment's; normalisation is inside",
            "shift": scaling.observation_shift.tolist(),
            "scale": scaling.observation_scale.tolist(),
        },
        "action": {"unit": "the environment's", "low": low.tolist(), "high": high.tolist()},
        "noise": "draws from N(0, 1), a row for each observation, or one for all of them in TensorFlow's format",
        "initial_state": {name: _initial_state(policy, name) for name in policy.deterministic()},
        "formats": {name: _format(name, own) for name, own in parities.items()},
        "seed": "one for each row where draws are to be independent; rows of one seed share their noise",
        "fingerprint": fingerprint(policy.directory),
        "agent": facts.get("agent"),
        "training_seed": facts.get("seed"),
        "step": facts.get("step"),
        "dataset": facts.get("dataset"),
        "environment": facts.get("environment"),
        "configuration": facts.get("configuration"),
        "host": read_facts(run).get("host"),
        "evaluation": _read(run / "evaluation.json", ("task", "action", "episodes", *_SCORES)) if last else None,
        "estimate": _read(run / "estimate" / "estimate.json", _ESTIMATE) if last else None,
    }


_SCORES = ("return_mean", "return_std", "score_mean", "score_std")
_ESTIMATE = ("action", "gamma", "estimate", "data", "clone", "episodes", "reliable", "verdict", "why")


def _format(name: str, parities: Mapping[str, Parity]) -> dict[str, Any]:
    compared = {way: parity._asdict() for way, parity in parities.items()}
    return {"folder": FORMATS[name].folder, "wrong_inputs": FORMATS[name].refuses, "compared": compared}


def _initial_state(policy: LoadedPolicy, name: str) -> dict[str, Any]:
    """Of one episode."""
    return {state: leaf.tolist() for state, leaf in policy.initial_state(name, 1).items()}


def _read(path: Path, keys: tuple[str, ...]) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text())
        return {key: content[key] for key in keys if key in content}
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: not valid JSON ({error})") from error


def fingerprint(directory: Path) -> str:
    """SHA-256 of the graph and the weights, in the order of their files' names."""
    digest = hashlib.sha256()
    for path in [directory / "saved_model.pb", *sorted((directory / "variables").iterdir())]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def model_card(content: Mapping[str, Any]) -> str:
    """The contract, as people read it."""
    dataset, environment = content["dataset"] or {}, content["environment"] or {}
    lines = [
        f"# A policy by {content['agent']}",
        "",
        f"It takes observations of {len(content['observation']['shift'])} entries and gives actions of "
        f"{len(content['action']['low'])}, both in the environment's units. `{CONTRACT}` has every signature.",
        "",
        "| way to act | signature | inputs | outputs |",
        "|---|---|---|---|",
    ]
    for way, signature in content["ways_to_act"].items():
        tensors = content["signatures"][signature]
        cells = [", ".join(f"{name} {spec['shape']}" for name, spec in tensors[kind].items()) for kind in _KINDS]
        lines.append(f"| {way} | `{signature}` | {cells[0]} | {cells[1]} |")
    lines += ["", "| format | folder | way to act | rows compared | largest difference, of half the action's range |"]
    lines += ["|---|---|---|---|---|"]
    for name, made in content["formats"].items():
        for way, compared in made["compared"].items():
            rows = compared["rows"] - compared["undecided"]
            lines.append(f"| {name} | {made['folder']} | {way} | {rows} | {compared['difference']:.1e} |")
    lines += ["", "## Made from", ""]
    lines += [f"- data: {', '.join(dataset.get('files', ['none']))}, SHA-256 {dataset.get('sha256')}"]
    lines += [f"- settings: SHA-256 {content['configuration']}, seed {content['training_seed']}"]
    lines += [f"- environment: {environment.get('task', 'none')}", "", "## What it is worth", ""]
    lines += _worth(content)
    lines += ["", "## Where it may fail", ""]
    lines += ["It was learned from the data above alone: where they hold nothing, its actions mean nothing.", ""]
    lines += [f"- {name}: {made['wrong_inputs']}" for name, made in content["formats"].items()]
    lines += [f"- fingerprint of graph and weights, SHA-256: {content['fingerprint']}"]
    return "\n".join(lines) + "\n"


_KINDS = ("inputs", "outputs")


def _worth(content: Mapping[str, Any]) -> list[str]:
    lines = []
    if evaluation := content["evaluation"]:
        kind = "score" if "score_mean" in evaluation else "return"
        spread = f"{evaluation[f'{kind}_mean']:.1f} +- {evaluation[f'{kind}_std']:.1f}"
        lines.append(f"- {kind} {spread} in {evaluation['episodes']} episodes of {evaluation['task']}")
    if estimate := content["estimate"]:
        value, data = estimate["estimate"], estimate["data"]
        lines.append(
            f"- by the data alone: {estimate['verdict']}; discounted return {value['mean']:.4g} +- "
            f"{value['half_width']:.2g} where the data earned {data['mean']:.4g} +- {data['half_width']:.2g}"
        )
    return lines or ["- not known: neither evaluated nor judged by its data"]
