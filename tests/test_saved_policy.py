import errno
import json
import os
import shutil
import subprocess
import sys
from operator import attrgetter

import numpy as np
import pytest
import tensorflow as tf
from tiny import DIMENSIONS, TinyAgent
from tiny import critic as critics

from brac_plus_tf.agents.base import Problem
from brac_plus_tf.agents.brac_plus import BRACPlus
from brac_plus_tf.agents.sac import SAC
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.randomness import standard_normal
from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.data.scaling import Scaling
from brac_plus_tf.models.behavior import VAEEnsemble
from brac_plus_tf.models.networks import Actor
from brac_plus_tf.objectives.multipliers import StateMultiplier
from brac_plus_tf.policies import saved_policy
from brac_plus_tf.policies.saved_policy import DeployedPolicy, LoadedPolicy, place_directory

# observations of scale 0.5 to 4 around (1, -2, 3); actions in [-1.5, 2.5] and [-1.25, -0.75]
SCALING = Scaling(
    observation_shift=np.array([1.0, -2.0, 3.0], np.float32),
    observation_scale=np.array([2.0, 4.0, 0.5], np.float32),
    action_center=np.array([0.5, -1.0], np.float32),
    action_half_range=np.array([2.0, 0.25], np.float32),
    reward_shift=-1.0,
    reward_scale=6.0,
)
FACTS = {"agent": "tiny", "seed": 3}


def observations(count: int) -> np.ndarray:
    generator = np.random.default_rng(count)
    return (SCALING.observation_shift + 3.0 * generator.normal(size=(count, 3))).astype(np.float32)


def act(
    policy: DeployedPolicy | LoadedPolicy, name: str, observation: np.ndarray, seed: int | np.ndarray
) -> np.ndarray:
    """Actions of a policy that remembers nothing."""
    action, state = policy.way(name).act(observation, (), seed)
    assert state == policy.way(name).initial_state(len(observation)) == ()
    return action


def squash_by_hand(observation: np.ndarray) -> np.ndarray:
    """tanh of the two first normalised entries, in the environment's units, in float64."""
    normalised = (observation[:, :2].astype(np.float64) - [1.0, -2.0]) / [2.0, 4.0]
    return np.tanh(normalised) * [2.0, 0.25] + [0.5, -1.0]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The policy of TinyAgent and its export."""
    policy, directory = DeployedPolicy(TinyAgent(), DIMENSIONS, SCALING), tmp_path_factory.mktemp("tiny") / "policy"
    policy.save(directory, FACTS)
    return policy, directory


# In the environment's units -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 7])
def test_normalisation_and_action_scaling_by_hand(tiny, count):
    policy, directory = tiny
    observation = observations(count)
    expected = squash_by_hand(observation)
    np.testing.assert_allclose(act(policy, "mean", observation, 0), expected, atol=1e-6)
    signature = tf.saved_model.load(str(directory)).signatures["serving_default"]
    np.testing.assert_allclose(signature(observation=tf.constant(observation))["action"], expected, atol=1e-6)
    np.testing.assert_allclose(act(LoadedPolicy(directory), "mean", observation, 0), expected, atol=1e-6)


def test_every_way_to_act_is_scaled(tiny):
    """The draws lie within half the range around half the squashed mean; "best" is tanh of the variable."""
    _, directory = tiny
    loaded, observation = LoadedPolicy(directory), observations(50)
    sample, mean = act(loaded, "sample", observation, np.arange(50)), squash_by_hand(observation)
    middle = 0.5 * (mean - [0.5, -1.0]) + [0.5, -1.0]
    assert (np.abs(sample - middle) <= np.array([1.0, 0.125]) + 1e-6).all()
    assert (np.abs(sample - middle).max(axis=0) > [0.8, 0.1]).all()
    weight = np.random.default_rng(0).normal(size=3)[:2]  # as TinyAgent draws it for seed 0
    np.testing.assert_allclose(
        act(loaded, "best", observation, 0), np.tile(np.tanh(weight) * [2.0, 0.25] + [0.5, -1.0], (50, 1)), atol=1e-6
    )


def test_the_default_way_to_act_comes_first_and_is_what_is_served(tmp_path):
    policy, observation = DeployedPolicy(TinyAgent(), DIMENSIONS, SCALING, default="best"), observations(4)
    policy.save(tmp_path / "policy")
    loaded = LoadedPolicy(tmp_path / "policy")
    assert policy.actions == loaded.actions == ["best", "mean", "sample"]
    weight = np.random.default_rng(0).normal(size=3)[:2]  # as TinyAgent draws it for seed 0
    best = np.tile(np.tanh(weight) * [2.0, 0.25] + [0.5, -1.0], (4, 1))
    signatures = tf.saved_model.load(str(tmp_path / "policy")).signatures
    served = signatures["serving_default"](observation=tf.constant(observation))["action"]
    for actions in (policy.act(observation), loaded.act(observation), served):
        np.testing.assert_allclose(actions, best, atol=1e-6)
    mean = signatures["mean"](observation=tf.constant(observation))["action"]
    np.testing.assert_allclose(mean, squash_by_hand(observation), atol=1e-6)
    with pytest.raises(UserError, match="'max_q' is none of this policy's ways to act: mean, sample, best"):
        DeployedPolicy(TinyAgent(), DIMENSIONS, SCALING, default="max_q")


def test_draws_follow_the_seed(tiny):
    policy, directory = tiny
    loaded, observation = LoadedPolicy(directory), observations(7)
    draws = [act(loaded, "sample", observation, seed) for seed in (0, 1, 2, 1)]
    np.testing.assert_array_equal(draws[1], draws[3])
    assert all(np.abs(draws[i] - draws[j]).max() > 1e-3 for i, j in ((0, 1), (0, 2), (1, 2)))
    np.testing.assert_array_equal(act(policy, "sample", observation, 1), draws[1])


@pytest.mark.parametrize("kind", ["live", "loaded"])
def test_rows_share_a_seed_or_have_one_each(tiny, kind):
    policy = tiny[0] if kind == "live" else LoadedPolicy(tiny[1])
    way, equal = policy.way("sample"), np.repeat(observations(1), 6, axis=0)
    shared, _ = way.act(equal, (), 4)
    np.testing.assert_array_equal(shared, np.repeat(shared[:1], 6, axis=0))
    own, _ = way.act(equal, (), np.array([4, 5, 6, 4, 7, 8]))
    np.testing.assert_array_equal(own[[0, 3]], shared[:2])
    assert len({tuple(row) for row in own}) == 5
    with pytest.raises(tf.errors.InvalidArgumentError):  # neither one seed nor one for each row
        way.act(equal, (), np.array([4, 5]))


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_observations_that_are_not_finite_are_an_error(tiny, broken):
    policy, directory = tiny
    observation = observations(4)
    observation[2, 2] = broken  # an entry that this policy does not even use
    for name in ("mean", "sample", "best"):
        with pytest.raises(tf.errors.InvalidArgumentError, match="NaN or infinite"):
            act(policy, name, observation, 0)
        with pytest.raises(tf.errors.InvalidArgumentError, match="NaN or infinite"):
            act(LoadedPolicy(directory), name, observation, 0)


@pytest.mark.parametrize("shape", [(4, 1), (3, 1), (4, 2), (4, 4), (3,), (1,)])
def test_observations_of_another_width_are_an_error(tiny, shape):
    """A single column would otherwise be broadcast into a valid observation."""
    policy, directory = tiny
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[\?,3\]"):
        act(policy, "mean", np.zeros(shape, np.float32), 0)
    for name in ("mean", "sample", "best"):
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[\?,3\]"):
            act(LoadedPolicy(directory), name, np.zeros(shape, np.float32), 0)


def test_the_export_is_of_its_moment_and_the_live_policy_is_not(tmp_path):
    agent = TinyAgent()
    policy = DeployedPolicy(agent, DIMENSIONS, SCALING)
    policy.save(tmp_path / "policy", {})
    agent.weight.assign([0.0, 0.0, 0.0])
    np.testing.assert_allclose(act(policy, "best", observations(1), 0), [[0.5, -1.0]], atol=1e-6)
    weight = np.random.default_rng(0).normal(size=3)[:2]
    frozen = act(LoadedPolicy(tmp_path / "policy"), "best", observations(1), 0)
    np.testing.assert_allclose(frozen, [np.tanh(weight) * [2.0, 0.25] + [0.5, -1.0]], atol=1e-6)


# Files --------------------------------------------------------------------------------------------------------------


def test_metadata_by_hand(tiny):
    content = json.loads((tiny[1] / "policy.json").read_text())
    assert content == {
        "observation_size": 3,
        "action_size": 2,
        "actions": ["mean", "sample", "best"],
        "scaling": {
            "observation_shift": [1.0, -2.0, 3.0],
            "observation_scale": [2.0, 4.0, 0.5],
            "action_center": [0.5, -1.0],
            "action_half_range": [2.0, 0.25],
            "reward_shift": -1.0,
            "reward_scale": 6.0,
        },
        "agent": "tiny",
        "seed": 3,
    }


def test_signatures_ask_for_a_seed_only_where_it_counts(tiny):
    signatures = tf.saved_model.load(str(tiny[1])).signatures
    inputs = {name: set(signature.structured_input_signature[1]) for name, signature in signatures.items()}
    assert all(set(signature.structured_outputs) == {"action"} for signature in signatures.values())
    drawn = {"sample": {"observation", "seed"}, "sample_with_noise": {"observation", "noise"}}
    assert inputs == {name: {"observation"} for name in ("serving_default", "mean", "best")} | drawn


def test_an_export_of_an_earlier_version_acts_as_it_did(tiny, tmp_path):
    """The first way to act had no signature of its own name there."""
    model = tf.saved_model.load(str(tiny[1]))
    signatures = {name: signature for name, signature in model.signatures.items() if name != "mean"}
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    tf.saved_model.save(model, str(tmp_path / "old"), signatures=signatures, options=options)
    shutil.copy(tiny[1] / "policy.json", tmp_path / "old")
    loaded, observation = LoadedPolicy(tmp_path / "old"), observations(4)
    np.testing.assert_allclose(act(loaded, "mean", observation, 0), squash_by_hand(observation), atol=1e-6)
    assert set(loaded.deterministic()) == {"mean", "best", "sample_with_noise"}
    assert not np.allclose(act(loaded, "best", observation, 0), squash_by_hand(observation), atol=1e-2)


def test_noise_may_be_given_instead_of_a_seed(tiny):
    """sample is half the squashed mean and half the squashed noise, a row of which may serve all observations."""
    signature = tf.saved_model.load(str(tiny[1])).signatures["sample_with_noise"]
    observation, noise = observations(6), np.random.default_rng(1).normal(size=(6, 2)).astype(np.float32)
    mean = (squash_by_hand(observation) - [0.5, -1.0]) / [2.0, 0.25]
    for given in (noise, noise[:1]):
        found = signature(observation=tf.constant(observation), noise=tf.constant(given))["action"]
        expected = (0.5 * mean + 0.5 * np.tanh(given.astype(np.float64))) * [2.0, 0.25] + [0.5, -1.0]
        np.testing.assert_allclose(found, expected, atol=1e-6)
    for wrong, message in ((noise[:, :1], r"\[\?,2\]"), (np.full_like(noise, np.nan), "noise holds NaN")):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            signature(observation=tf.constant(observation), noise=tf.constant(wrong))


def test_what_does_not_draw_holds_its_noise_as_numbers(tmp_path):
    """The candidates of the best of several draws are no operation of the graph: a runtime without them can act."""
    agent = SAC(Problem(DIMENSIONS), 0, actor=Actor((8,)), critic=critics((8,)))
    DeployedPolicy(agent, DIMENSIONS, SCALING).save(tmp_path / "policy")
    signatures = tf.saved_model.load(str(tmp_path / "policy")).signatures
    drawing = {name for name, function in signatures.items() if _draws(function)}
    assert drawing == {"sample"} and {"max_q", "max_q_with_noise", "sample_with_noise"} < set(signatures)
    observation = tf.constant(observations(5))
    noise = standard_normal([1, 20], tf.zeros([2], tf.int32))
    best = signatures["max_q"](observation=observation)["action"]
    same, other = (signatures["max_q_with_noise"](observation=observation, noise=z)["action"] for z in (noise, -noise))
    np.testing.assert_array_equal(same, best)
    assert np.abs(other - best).max() > 0.01


def _draws(function) -> bool:
    graph = function.graph.as_graph_def()
    nodes = [*graph.node, *(node for inner in attrgetter("library.function")(graph) for node in inner.node_def)]
    return any("Random" in node.op or node.op == "Erfinv" for node in nodes)  # which makes normal draws of bits


def test_only_what_acting_reads_is_exported(tiny):
    """Of TinyAgent's variables the policies read `weight` alone."""
    assert exported_shapes(tiny[1]) == [[3]]


def exported_shapes(directory) -> list[list[int]]:
    """Shapes of the variables in a SavedModel, from its checkpoint."""
    variables = tf.train.list_variables(str(directory / "variables" / "variables"))
    return sorted(shape for name, shape in variables if "CHECKPOINTABLE_OBJECT_GRAPH" not in name)


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_what_is_there_already_stays(tmp_path, kind):
    target = tmp_path / "policy"
    if kind == "directory":
        target.mkdir()
        (target / "note").write_text("mine")
    else:
        target.write_text("mine")
    with pytest.raises(UserError, match="already exists") as error:
        DeployedPolicy(TinyAgent(), DIMENSIONS, SCALING).save(target, {})
    assert str(target) in str(error.value)
    assert (target / "note" if kind == "directory" else target).read_text() == "mine"
    assert os.listdir(tmp_path) == ["policy"]


def save_half(module, directory, signatures, options):
    os.makedirs(directory)
    with open(os.path.join(directory, "saved_model.pb"), "wb") as file:
        file.write(b"half")
    raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")


def refuse(*arguments):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("target", "name", "replacement"),
    [
        (tf.saved_model, "save", save_half),
        (saved_policy.os, "replace", refuse),
        (saved_policy.Path, "write_text", refuse),
    ],
)
def test_a_failed_save_leaves_nothing_behind(tmp_path, monkeypatch, target, name, replacement):
    policy = DeployedPolicy(TinyAgent(), DIMENSIONS, SCALING)
    with monkeypatch.context() as patch:
        patch.setattr(target, name, replacement)
        with pytest.raises(UserError, match="No space left") as error:
            policy.save(tmp_path / "policy", {})
    assert str(tmp_path / "policy") in str(error.value)
    assert os.listdir(tmp_path) == []


def test_a_directory_is_placed_whole(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("content")
    place_directory(source, tmp_path / "new" / "place")
    assert (tmp_path / "new" / "place" / "file").read_text() == "content"
    assert not source.exists()


def damaged_copies(directory):
    """(what, damage) for copies of an export."""
    yield "no metadata", lambda: (directory / "policy.json").unlink()
    yield "metadata of something else", lambda: (directory / "policy.json").write_text('{"name": "x"}')
    yield "metadata is a list", lambda: (directory / "policy.json").write_text("[1]")
    yield "metadata cut", lambda: (directory / "policy.json").write_text('{"observation')
    yield "no model", lambda: (directory / "saved_model.pb").unlink()
    yield "model cut", lambda: truncate(directory / "saved_model.pb")
    yield "variables cut", lambda: truncate(directory / "variables" / "variables.data-00000-of-00001")
    yield "no variables", lambda: (directory / "variables" / "variables.index").unlink()


def truncate(path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("index", range(8))
def test_what_is_no_export_is_refused(tiny, tmp_path, index):
    copy = tmp_path / "copy"
    saved_policy.shutil.copytree(tiny[1], copy)
    _, damage = list(damaged_copies(copy))[index]
    damage()
    with pytest.raises(UserError, match="not an exported policy") as error:
        LoadedPolicy(copy)
    assert str(copy) in str(error.value)


def test_an_unknown_way_to_act_is_refused(tiny):
    with pytest.raises(UserError, match="'max_q' is none of this policy's ways to act: mean, sample, best"):
        LoadedPolicy(tiny[1]).way("max_q")


# BRAC+'s own policies, loaded by TensorFlow alone ---------------------------------------------------------------------

LOADER = """
import sys
for absent in ("brac_plus_tf", "tensorflow_probability", "gin", "tf_keras", "safetensors"):
    sys.modules[absent] = None  # importing it raises ImportError
import json, numpy as np, tensorflow as tf
directory, inputs, outputs = sys.argv[1:]
model = tf.saved_model.load(directory)
batches, results, errors = np.load(inputs), {}, {}
for name, signature in model.signatures.items():
    for key, observation in batches.items():
        inputs = signature.structured_input_signature[1]
        given = {"seed": tf.constant(11)} if "seed" in inputs else {}
        given |= {"noise": tf.zeros([1, inputs["noise"].shape[1]])} if "noise" in inputs else {}
        results[f"{name}/{key}"] = signature(observation=tf.constant(observation), **given)["action"].numpy()
for what, observation in {"nan": np.full([2, 3], np.nan, np.float32), "width": np.zeros([2, 1], np.float32)}.items():
    try:
        model.signatures["serving_default"](observation=tf.constant(observation))
    except Exception as error:
        errors[what] = type(error).__name__
again = model.signatures["sample"](observation=tf.constant(batches["seven"]), seed=tf.constant(11))["action"].numpy()
other = model.signatures["sample"](observation=tf.constant(batches["seven"]), seed=tf.constant(12))["action"].numpy()
np.savez(outputs, again=again, other=other, **results)
print(json.dumps(errors))
"""


def test_brac_plus_policies_in_a_process_that_knows_only_tensorflow(tmp_path):
    agent = BRACPlus(
        Problem(Dimensions(3, 2)),
        5,
        actor=Actor((8, 8)),
        critic=critics((6, 6)),
        behavior=VAEEnsemble(hidden_sizes=(8,)),
        multiplier=StateMultiplier((8,)),
    )
    policy = DeployedPolicy(agent, Dimensions(3, 2), SCALING)
    policy.save(tmp_path / "policy", {})
    # actor 3-8-8-4 and two critics 5-6-6-1, with biases; no targets, multipliers, behaviour model or Adam slots
    actor, critic = 3 * 8 + 8 + 8 * 8 + 8 + 8 * 4 + 4, 2 * (5 * 6 + 6 + 6 * 6 + 6 + 6 + 1)
    assert sum(int(np.prod(shape)) for shape in exported_shapes(tmp_path / "policy")) == actor + critic

    batches = {"one": observations(1), "seven": observations(7)}
    np.savez(tmp_path / "inputs.npz", **batches)
    (tmp_path / "elsewhere").mkdir()
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {
        "TF_CPP_MIN_LOG_LEVEL": "3"
    }
    arguments = [str(tmp_path / name) for name in ("policy", "inputs.npz", "outputs.npz")]
    done = subprocess.run(
        [sys.executable, "-c", LOADER, *arguments],
        cwd=tmp_path / "elsewhere",
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"nan": "InvalidArgumentError", "width": "InvalidArgumentError"}

    results = np.load(tmp_path / "outputs.npz")
    for signature, name, seed in (("serving_default", "mean", 0), ("sample", "sample", 11), ("max_q", "max_q", 0)):
        for key, observation in batches.items():
            live = act(policy, name, observation, seed)
            assert live.shape == (len(observation), 2)
            np.testing.assert_allclose(results[f"{signature}/{key}"], live, atol=1e-6, err_msg=f"{name} {key}")
    np.testing.assert_array_equal(results["again"], results["sample/seven"])
    assert np.abs(results["other"] - results["again"]).max() > 1e-3
    assert np.abs(results["max_q/seven"] - results["serving_default/seven"]).max() > 1e-3


def test_max_q_takes_the_best_of_the_draws_by_the_critic(tmp_path):
    """With Q = the sum of the actions the chosen draws lie above the mean in almost every state."""
    agent = BRACPlus(
        Problem(Dimensions(3, 2)),
        5,
        actor=Actor((8,)),
        critic=critics(()),
        behavior=VAEEnsemble(hidden_sizes=(8,)),
        multiplier=StateMultiplier((8,)),
    )
    kernel = np.array([0.0, 0.0, 0.0, 1.0, 1.0], np.float32)[None, :, None]
    agent.critic.set_weights([np.repeat(kernel, 2, axis=0), np.zeros([2, 1], np.float32)])
    policy = DeployedPolicy(agent, Dimensions(3, 2), SCALING)
    observation = observations(200)
    best, mean = (act(policy, name, observation, 0) for name in ("max_q", "mean"))
    gain = ((best - mean) / SCALING.action_half_range).sum(axis=1)
    assert (gain > 0.0).mean() > 0.99
