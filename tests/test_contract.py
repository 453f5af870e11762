"""What goes with an export: its contract against the SavedModel itself, and the card made of it."""

import hashlib
import json

import numpy as np
import pytest
import tensorflow as tf
import tiny
from remembering import RememberingAgent

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.data.scaling import Scaling
from brac_plus_tf.policies.saved_policy import DeployedPolicy, LoadedPolicy
from brac_plus_tf.runs.contract import CARD, CONTRACT, model_card
from brac_plus_tf.runs.exporting import export

SIZES = Dimensions(3, 1)
SCALING = Scaling(
    np.array([1.0, 2.0, 3.0], np.float32),
    np.array([2.0, 0.5, 4.0], np.float32),
    np.array([0.5], np.float32),
    np.array([1.5], np.float32),
)
FACTS = {"agent": "tiny", "seed": 3, "dataset": {"files": ["mine.hdf5"], "sha256": "ab"}, "configuration": "cd"}
EVALUATION = {
    "task": "Hopper-v4",
    "action": "mean",
    "episodes": 100,
    "return_mean": 5.0,
    "return_std": 1.0,
}
RETURNS = {"returns": [4.0, 6.0]}
ESTIMATE = {
    "action": "mean",
    "gamma": 0.99,
    "estimate": {"mean": 9.0, "half_width": 0.5},
    "data": {"mean": 5.0, "half_width": 0.25},
    "clone": {"mean": 5.0, "half_width": 0.25},
    "episodes": 40,
    "reliable": True,
    "verdict": "better than the data",
    "why": [],
}


def a_run(folder, agent, **files):
    """A finished run with an exported policy."""
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"format": 1, "host": {"brac_plus_tf": "1"}, **FACTS}))
    for name, content in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(exist_ok=True)
        path.with_suffix(".json").write_text(json.dumps(content))
    DeployedPolicy(agent, SIZES, SCALING).save(folder / "saved_model", FACTS)
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("contract")
    run = a_run(folder / "run", RememberingAgent(SIZES), evaluation=EVALUATION | RETURNS, estimate__estimate=ESTIMATE)
    export(run, folder / "policy")
    return folder, json.loads((folder / "policy" / CONTRACT).read_text())


def test_signatures_are_the_saved_models(exported):
    folder, contract = exported
    signatures = tf.saved_model.load(str(folder / "policy")).signatures
    assert set(contract["signatures"]) == set(signatures) and set(contract["ways_to_act"].values()) <= set(signatures)
    for name, function in signatures.items():
        told = contract["signatures"][name]
        specs = {"inputs": function.structured_input_signature[1], "outputs": function.structured_outputs}
        for kind, expected in specs.items():
            dtypes = {key: spec["dtype"] for key, spec in told[kind].items()}
            assert dtypes == {key: spec.dtype.name for key, spec in expected.items()}
            assert all(spec.shape.is_compatible_with(told[kind][key]["shape"]) for key, spec in expected.items())
    assert contract["signatures"]["serving_default"]["inputs"]["observation"]["shape"] == [None, 3]
    assert list(contract["ways_to_act"]) == ["plan", "mean", "sample", "best"]


def test_ranges_and_normalisation(exported):
    _, contract = exported
    assert (contract["action"]["low"], contract["action"]["high"]) == ([-1.0], [2.0])  # 0.5 -+ 1.5
    assert contract["observation"]["shift"] == [1.0, 2.0, 3.0] and contract["observation"]["scale"] == [2.0, 0.5, 4.0]


def test_where_it_comes_from_and_what_it_is_worth(exported):
    _, contract = exported
    assert contract["dataset"] == FACTS["dataset"] and contract["configuration"] == "cd" and contract["step"] is None
    assert contract["evaluation"] == EVALUATION
    assert contract["estimate"] == ESTIMATE and contract["host"] == {"brac_plus_tf": "1"}


def test_the_fingerprint_is_of_graph_and_weights(exported, tmp_path):
    folder, contract = exported
    digest = hashlib.sha256()
    files = [folder / "policy" / "saved_model.pb", *sorted((folder / "policy" / "variables").iterdir())]
    for path in files:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    assert contract["fingerprint"] == digest.hexdigest() and len(files) > 2
    agent = RememberingAgent(SIZES)
    agent.weight.assign_add(tf.ones_like(agent.weight))
    export(a_run(tmp_path / "run", agent), tmp_path / "policy")
    assert json.loads((tmp_path / "policy" / CONTRACT).read_text())["fingerprint"] != contract["fingerprint"]


def test_the_card_says_it_in_words(exported):
    folder, contract = exported
    card = (folder / "policy" / CARD).read_text()
    assert card.startswith("# A policy by tiny") and contract["fingerprint"] in card
    assert "| plan | `serving_default` | observation [None, 3], state_0 [None, 1], state_1 [None] |" in card
    assert "- return 5.0 +- 1.0 in 100 episodes of Hopper-v4" in card
    assert "better than the data; discounted return 9 +- 0.5 where the data earned 5 +- 0.25" in card
    assert "- data: mine.hdf5, SHA-256 ab" in card


def test_the_card_does_not_count_rows_that_were_left_out(exported):
    _, contract = exported
    compared = {"mean": {"rows": 50, "undecided": 7, "difference": 2.5e-6}}
    formats = {"saved_model": contract["formats"]["saved_model"] | {"compared": compared}}
    assert "| saved_model | . | mean | 43 | 2.5e-06 |" in model_card(contract | {"formats": formats})


def test_an_export_with_its_papers_is_a_policy_as_before(exported):
    folder, _ = exported
    observation = np.ones((2, 3), np.float32)
    policies = [LoadedPolicy(folder / place) for place in ("policy", "run/saved_model")]
    for way in ("mean", "plan"):
        actions = [p.way(way).act(observation, p.way(way).initial_state(2), np.zeros(2, np.int32))[0] for p in policies]
        np.testing.assert_array_equal(*actions)


def test_a_snapshot_is_not_judged_by_what_the_last_policy_scored(tmp_path):
    run = a_run(tmp_path / "run", tiny.TinyAgent(SIZES), evaluation=EVALUATION, estimate__estimate=ESTIMATE)
    DeployedPolicy(tiny.TinyAgent(SIZES), SIZES, SCALING).save(run / "snapshots" / "5", {**FACTS, "step": 5})
    export(run, tmp_path / "policy", run / "snapshots" / "5")
    contract = json.loads((tmp_path / "policy" / CONTRACT).read_text())
    assert (contract["step"], contract["evaluation"], contract["estimate"]) == (5, None, None)
    assert "- not known: neither evaluated nor judged" in (tmp_path / "policy" / CARD).read_text()


def test_broken_results_are_refused_and_nothing_is_left(tmp_path):
    run = a_run(tmp_path / "run", tiny.TinyAgent(SIZES), evaluation=EVALUATION)
    (run / "evaluation.json").write_text("{")
    with pytest.raises(UserError, match=r"evaluation\.json: not valid JSON"):
        export(run, tmp_path / "policy")
    assert not (tmp_path / "policy").exists() and not list(tmp_path.glob(".policy*"))
