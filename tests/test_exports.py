"""Exports for other runtimes: that they answer as the policy, refuse as they say, and that a wrong one is found."""

import dataclasses
import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
import tiny
from agents.test_every_agent import AGENTS
from remembering import RememberingAgent
from test_saved_model_check import OneWay

from brac_plus_tf.agents.base import Policy
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.data.scaling import Scaling
from brac_plus_tf.exports import client
from brac_plus_tf.exports.formats import FORMATS
from brac_plus_tf.exports.parity import LIMIT, Reference
from brac_plus_tf.exports.portable import portable_ways
from brac_plus_tf.policies.saved_policy import DeployedPolicy, LoadedPolicy
from brac_plus_tf.runs.experiment import run_data
from brac_plus_tf.runs.exporting import _observations, export

OTHERS = ("onnx", "litert")
HALF_RANGE = np.array([2.0, 0.25], np.float32)


def scaling(size: int) -> Scaling:
    return Scaling(
        np.linspace(-1.0, 3.0, size, dtype=np.float32),
        np.linspace(0.5, 2.0, size, dtype=np.float32),
        np.array([0.5, -1.0], np.float32),
        HALF_RANGE,
    )


def observations(size: int, count: int = 40) -> np.ndarray:
    own = scaling(size)
    normal = np.random.default_rng(0).normal(size=(count, size))
    return (own.observation_shift + own.observation_scale * normal).astype(np.float32)


def saved(directory, agent, size: int = 3) -> LoadedPolicy:
    DeployedPolicy(agent, Dimensions(size, 2), scaling(size)).save(directory / "source")
    return LoadedPolicy(directory / "source")


def written(directory, policy, name: str):
    folder = directory / name
    folder.mkdir()
    FORMATS[name].write(policy, folder)
    return folder


# The way to act of each kind: a Gaussian policy with candidates, a generative model's, a planner's with a plan for its
# state, a draw that is clipped, one action and nothing else, and a nested state of two types.
WAYS = {
    "brac_plus": {"mean", "max_q", "sample_with_noise", "max_q_with_noise"},
    "bcq": {"max_q", "max_q_with_noise", "sample_with_noise"},
    "mbop": {"clone", "plan_with_noise"},
    "iql": {"mean", "sample_with_noise"},
    "td3_bc": {"mean"},
    "remembering": {"plan", "mean", "best", "sample_with_noise"},
}


@pytest.mark.parametrize("name", WAYS)
def test_every_way_to_act_is_the_same_in_every_runtime(tmp_path, name):
    """Played in processes of their own; the policies' weights are random."""
    remembering = name == "remembering"
    agent, size = (RememberingAgent(), 3) if remembering else (AGENTS[name](0), 5)
    policy = saved(tmp_path, agent, size)
    assert set(portable_ways(policy)) == WAYS[name]
    reference = Reference(policy, observations(size))
    for runtime in ("saved_model", *OTHERS) if remembering else OTHERS:  # the one is a copy of what it is compared with
        parities = reference.compare(runtime, written(tmp_path, policy, runtime))
        assert set(parities) == WAYS[name]
        for way, parity in parities.items():
            assert parity.rows == 40 and parity.undecided <= 4 and parity.difference <= LIMIT, (runtime, way, parity)


BLOCKED = """
import sys
for absent in ("tensorflow", "brac_plus_tf", "keras", "tf_keras", "tensorflow_probability"):
    sys.modules[absent] = None  # importing it raises ImportError
sys.argv = sys.argv[1:]
exec(compile(open(sys.argv[0]).read(), sys.argv[0], "exec"), {"__name__": "__main__"})
"""


@pytest.mark.parametrize("runtime", OTHERS)
def test_actions_by_hand_where_there_is_neither_tensorflow_nor_this_package(tmp_path, runtime):
    """mean: tanh of the two first normalised entries; sample: half that and half the squashed noise."""
    policy = saved(tmp_path, tiny.TinyAgent())
    folder, given = written(tmp_path, policy, runtime), observations(3, 7)
    noise = np.random.default_rng(1).normal(size=(7, 2)).astype(np.float32)
    arrays = {"mean/observation": given[None], "sample_with_noise/observation": given[None]}
    np.savez(tmp_path / "given.npz", **arrays, **{"sample_with_noise/noise": noise})
    paths = [str(path) for path in (client.__file__, runtime, folder, tmp_path / "given.npz", tmp_path / "found.npz")]
    done = subprocess.run([sys.executable, "-I", "-c", BLOCKED, *paths], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "found.npz")
    own = scaling(3)
    mean = np.tanh(((given.astype(np.float64) - own.observation_shift) / own.observation_scale)[:, :2])
    np.testing.assert_allclose(found["mean/action"][0], [0.5, -1.0] + mean * HALF_RANGE, atol=1e-6)
    drawn = (0.5 * mean + 0.5 * np.tanh(noise.astype(np.float64))) * HALF_RANGE + [0.5, -1.0]
    np.testing.assert_allclose(found["sample_with_noise/action"][0], drawn, atol=1e-6)


@pytest.mark.parametrize("runtime", OTHERS)
@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_answered_by_nan_and_by_nothing_else(tmp_path, runtime, broken):
    """Entry 2 is one that TinyAgent does not look at. Noise counts, too, where it is given."""
    policy = saved(tmp_path, tiny.TinyAgent())
    folder, given = written(tmp_path, policy, runtime), observations(3, 6)
    noise = np.zeros([6, 2], np.float32)
    fine = client.RUNTIMES[runtime](folder, "sample_with_noise")({"observation": given, "noise": noise})["action"]
    for name, row in (("observation", 1), ("noise", 4)):
        wrong = {"observation": given.copy(), "noise": noise.copy()}
        wrong[name][row, -1] = broken
        action = client.RUNTIMES[runtime](folder, "sample_with_noise")(wrong)["action"]
        assert np.isnan(action[row]).all()
        np.testing.assert_array_equal(np.delete(action, row, axis=0), np.delete(fine, row, axis=0))


@pytest.mark.parametrize("runtime", OTHERS)
def test_another_width_is_an_error(tmp_path, runtime):
    """Of one column LiteRT would make three; ONNX Runtime and LiteRT have other messages, which are theirs."""
    policy = saved(tmp_path, tiny.TinyAgent())
    folder = written(tmp_path, policy, runtime)
    for width in (1, 2, 4, 6):
        with pytest.raises(Exception, match=r"(?i)dimension|out of bounds|prepare|broadcast"):
            client.RUNTIMES[runtime](folder, "mean")({"observation": np.zeros([6, width], np.float32)})


def test_a_state_is_given_back_at_the_next_step():
    """An answer that counts: the action is the observation plus how often it was asked."""

    def answer(inputs):
        assert set(inputs) == {"observation", "state_0", "noise"}
        return {"action": inputs["observation"] + inputs["state_0"], "state_0": inputs["state_0"] + 1}

    given = {"observation": np.array([[[10]], [[20]], [[30]]]), "state_0": np.array([[5]]), "noise": np.zeros([1, 2])}
    found = client.play(answer, given)
    np.testing.assert_array_equal(found["action"], [[[15]], [[26]], [[37]]])
    np.testing.assert_array_equal(found["state_0"], [[8]])


# A wrong export is found ----------------------------------------------------------------------------------------------


def test_an_export_of_another_policy_is_refused(tmp_path):
    (tmp_path / "other").mkdir()
    policy, other = saved(tmp_path, tiny.TinyAgent(seed=0)), saved(tmp_path / "other", tiny.TinyAgent(seed=1))
    reference = Reference(policy, observations(3))
    with pytest.raises(
        UserError, match=r"onnx: the way to act 'best' answers otherwise than the policy, by .* 1e-05 is"
    ):
        reference.compare("onnx", written(tmp_path / "other", other, "onnx"))


def test_a_file_that_its_runtime_cannot_read_is_refused(tmp_path):
    policy = saved(tmp_path, tiny.TinyAgent())
    folder = written(tmp_path, policy, "litert")
    (folder / "policy.tflite").write_bytes(b"nothing")
    with pytest.raises(UserError, match="litert: the export cannot be used by its own runtime"):
        Reference(policy, observations(3)).compare("litert", folder)


def side(observation) -> tf.Tensor:
    """Half of the range to the one or the other side, by the first entry."""
    return tf.where(observation[:, :1] > 1e-8, 0.5, -0.5) * tf.ones([1, 2])


def parity(reference: Reference, actions, again=None):
    """Of an export that answers the reference's inputs so; asked again by `again`, or as the policy never does."""
    play = again or (lambda given: {"action": reference._plays["plan"](given)["action"] + 10.0})
    return reference._parity("plan", actions, lambda given: {"plan": play(given["plan"])["action"]})


def flipped(reference: Reference, *places) -> np.ndarray:
    """The policy's answers, but for the other sign at these (step, row)."""
    actions = reference._answers["plan"].copy()
    for place in places:
        actions[place] *= -1.0
    return actions


def reference_with_edges(directory, agent) -> Reference:
    """Rows 3, 5 and 8 lie where rounding decides; actions are about 0."""
    rows = observations(3)
    rows[[3, 5, 8], 0] = -1.0  # the shift: normalised it is 0
    rows[3, 0] = np.nextafter(np.float32(-1.0), np.float32(0))
    centered = dataclasses.replace(scaling(3), action_center=np.zeros(2, np.float32))
    DeployedPolicy(agent, Dimensions(3, 2), centered).save(directory / "source")
    return Reference(LoadedPolicy(directory / "source"), rows)


def test_rows_at_an_edge_may_be_answered_by_either_side_and_are_told(tmp_path):
    reference = reference_with_edges(tmp_path, OneWay(side))
    assert parity(reference, flipped(reference)) == (40, 0, 0.0)
    assert parity(reference, flipped(reference, (0, 3), (0, 5))) == (40, 2, 0.0)
    assert parity(reference, flipped(reference, (0, 3), (0, 4))) == (40, 1, pytest.approx(1.0))
    beside = flipped(reference)
    beside[0, 5] = 0.0  # neither side
    assert parity(reference, beside) == (40, 0, pytest.approx(0.5))


def test_a_tie_that_the_policy_always_breaks_in_one_way_may_be_broken_in_the_other(tmp_path):
    """As long as the export answers as the policy does once an observation is rounded otherwise."""
    reference = reference_with_edges(tmp_path, OneWay(side))
    other = flipped(reference, (0, 4))

    def mostly_the_same(given):
        actions = reference._plays["plan"](given)["action"]
        actions[:, 1::2] *= -1.0
        return {"action": actions}

    assert parity(reference, other, mostly_the_same) == (40, 1, 0.0)
    assert parity(reference, other) == (40, 0, pytest.approx(1.0))


def test_an_edge_in_a_later_step_of_an_episode_is_found(tmp_path):
    """Episode n sees row n - t in its step t."""
    counting = Policy(lambda observation, steps, noise: (side(observation), steps + 1), lambda count: tf.zeros([count]))
    reference = reference_with_edges(tmp_path, OneWay(counting))
    assert parity(reference, flipped(reference, (1, 4), (2, 5))) == (40, 2, 0.0)
    assert parity(reference, flipped(reference, (2, 3))) == (40, 0, pytest.approx(1.0))


def test_what_is_steep_is_no_edge(tmp_path):
    """tanh(20 o) at an observation that is changed by a thousandth is not what rounding explains."""
    reference = Reference(saved(tmp_path, OneWay(lambda rows: tf.tanh(20.0 * rows[:, :2]))), observations(3))
    (observation,) = (given.copy() for given in reference._inputs["plan"].values())
    row = int(np.abs(observation[0] - [-1.0, 1.0, 3.0])[:, :2].max(axis=1).argmin())  # where it is the steepest
    observation[0, row] *= 1.0 + 2.0**-10
    wrong = reference._plays["plan"]({"observation": observation})["action"]
    found = parity(reference, wrong)
    assert found.undecided == 0 and found.difference > 1e-3


def test_a_policy_that_answers_otherwise_in_most_rows_is_another(tmp_path):
    """Even if all of them lie at an edge."""
    rows = np.full([40, 3], -1.0, np.float32)
    reference = Reference(saved(tmp_path, OneWay(side)), rows)
    other = 2.0 * scaling(3).action_center - reference._answers["plan"]
    assert parity(reference, other) == (40, 0, pytest.approx(1.0))


def test_differences_are_of_half_the_actions_range_and_the_largest_counts(tmp_path):
    """6e-6 of half the range in one entry of one row."""
    policy = saved(tmp_path, OneWay(side))
    reference = Reference(policy, observations(3))
    own = reference._answers["plan"]
    moved = own.copy()
    moved[0, 7, 1] += np.float32(6e-6) * HALF_RANGE[1]
    assert parity(reference, moved).difference == pytest.approx(6e-6, rel=0.05)


# The command ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of a few steps on recorded data."""
    folder = tmp_path_factory.mktemp("exported")
    data = tiny.write_hopper_dataset(folder / "hopper.hdf5")
    settings = [f"--gin_bindings={binding}" for binding in tiny.BINDINGS]
    arguments = ["--smoke", "--env=none", "--estimate=none", "--gin_file=brac_plus/short.gin", *settings]
    outcome = tiny.run_here("train", *arguments, f"--dataset={data}", f"--root_dir={folder / 'runs'}")
    assert outcome.status == 0, outcome.stderr
    (directory,) = (folder / "runs" / "hopper").iterdir()
    return directory / "0"


def test_formats_are_written_side_by_side_with_what_was_found_of_each(run, tmp_path):
    lines = export(run, tmp_path / "policy", formats=["onnx", "saved_model"])
    assert lines[0] == "compared on rows of the data" and len(lines) == 1 + 2 * 4
    assert lines[1].startswith("  onnx, mean: 1,000 rows, largest difference ")
    assert {path.name for path in (tmp_path / "policy" / "onnx").iterdir()} == {
        *("mean.onnx", "max_q.onnx", "sample_with_noise.onnx", "max_q_with_noise.onnx")
    }
    content = json.loads((tmp_path / "policy" / "policy_contract.json").read_text())
    assert list(content["formats"]) == ["onnx", "saved_model"]
    assert content["formats"]["onnx"]["folder"] == "onnx" and content["formats"]["saved_model"]["folder"] == "."
    compared = content["formats"]["onnx"]["compared"]["mean"]
    assert compared["rows"] == 1000 and 0.0 < compared["difference"] <= LIMIT
    assert "| onnx | onnx | mean | 1000 |" in (tmp_path / "policy" / "MODEL_CARD.md").read_text()
    assert LoadedPolicy(tmp_path / "policy").actions == ["mean", "sample", "max_q"]


def test_a_format_alone_leaves_no_saved_model(run, tmp_path):
    export(run, tmp_path / "policy", formats=["litert"])
    assert {path.name for path in (tmp_path / "policy").iterdir()} == {
        "litert",
        "policy_contract.json",
        "MODEL_CARD.md",
    }


def test_nothing_is_written_where_a_format_answers_otherwise(run, tmp_path, monkeypatch):
    other = saved(tmp_path, tiny.TinyAgent())
    wrong = dataclasses.replace(FORMATS["onnx"], write=lambda policy, folder: written(tmp_path, other, "litert"))
    monkeypatch.setitem(FORMATS, "onnx", wrong)
    with pytest.raises(UserError, match="onnx: the export cannot be used by its own runtime"):
        export(run, tmp_path / "policy", formats=["saved_model", "onnx"])
    assert not [path for path in tmp_path.iterdir() if "policy" in path.name]


def test_rows_are_made_up_where_the_data_are_gone(run, tmp_path):
    config = run / "operative_config.gin"
    text = config.read_text()
    try:
        config.write_text(text.replace("hopper.hdf5", "gone.hdf5"))
        lines = export(run, tmp_path / "policy")
    finally:
        config.write_text(text)
    assert lines[0].startswith("compared on made-up observations, for the data cannot be read (") and "gone" in lines[0]


def test_made_up_rows_are_in_the_datas_units(tmp_path):
    """About as many standard deviations about the mean as the networks have seen."""
    shift, scale = np.array([100.0, -3.0], np.float32), np.array([0.1, 20.0], np.float32)
    scaling = Scaling(shift, scale, np.zeros(1, np.float32), np.ones(1, np.float32))
    policy = SimpleNamespace(dimensions=Dimensions(2, 1), scaling=scaling)
    rows, what = _observations(tmp_path / "gone", policy)
    np.testing.assert_allclose(rows.mean(axis=0), shift, atol=0.15 * scale.max())
    np.testing.assert_allclose(rows.std(axis=0), scale, rtol=0.1)
    assert what.startswith("made-up observations")


def test_rows_are_drawn_from_all_of_the_data(run):
    rows, what = _observations(run, None)
    observation = run_data(run).transitions.observation
    place = (rows[:, None] == observation[None]).all(axis=2)
    assert what == "rows of the data" and len(rows) == 1000 and place.any(axis=1).all()
    # of n rows a thousand draws miss (1 - 1 / n)^1000
    expected = len(observation) * (1.0 - (1.0 - 1.0 / len(observation)) ** 1000)
    assert place.any(axis=0).sum() == pytest.approx(expected, rel=0.1)


def test_an_unknown_format_is_refused(run, tmp_path):
    outcome = tiny.run_here("export", f"--run_dir={run}", f"--output={tmp_path / 'policy'}", "--format=onnx,torch")
    assert outcome.status == 1
    assert "--format: 'torch' is none of saved_model, onnx, litert" in outcome.stderr


def test_a_format_without_its_packages_names_the_extra(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(UserError, match=r"tf2onnx is missing: pip install 'brac_plus_tf\[onnx\]'"):
        export(run, tmp_path / "policy", formats=["onnx"])


def test_the_command_knows_the_formats_there_are():
    from brac_plus_tf import export as command

    assert command._FORMATS == tuple(FORMATS)
