"""What a policy's graph may hold: before it is trained, when it is saved and when it is loaded.

Programs that come from elsewhere, whose files were made without this package's check, are in test_bad_input.py.
"""

import os
from operator import attrgetter

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tiny import DIMENSIONS, TinyAgent

from brac_plus_tf.agents.base import Policy, stateless
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.data.scaling import Scaling
from brac_plus_tf.policies import saved_policy
from brac_plus_tf.policies.saved_model_check import check_saved_model
from brac_plus_tf.policies.saved_policy import DeployedPolicy, LoadedPolicy

SCALING = Scaling(np.zeros(3, np.float32), np.ones(3, np.float32), np.zeros(2, np.float32), np.ones(2, np.float32))


VARIABLE = tf.Variable(0.0)


class OneWay(TinyAgent):
    """An agent that acts by a given function of the observation."""

    def __init__(self, act):
        super().__init__()
        self._way = act if isinstance(act, Policy) else stateless(lambda observation, noise: act(observation))

    def policies(self):
        return {"plan": self._way}

    def components(self):
        return super().components() | {"more": [VARIABLE]}


def looped(observation):
    """a = tanh(o + 0.5 + 0.25 + .. + 2^-4) in a loop of as many steps as a tensor says."""
    _, total = tf.while_loop(
        lambda step, _: step < tf.reduce_sum(tf.ones([4], tf.int32)),
        lambda step, total: (step + 1, total + 2.0 ** -tf.cast(step + 1, tf.float32)),
        (tf.constant(0), observation[:, :2]),
    )
    return tf.tanh(total)


def mapped(observation):
    return tf.map_fn(lambda row: tf.tanh(row[:2]), observation)


def branched(observation):
    return tf.cond(tf.reduce_sum(observation) < 1e9, lambda: tf.tanh(observation[:, :2]), lambda: observation[:, 1:])


def contracted(observation):
    """einsum with the identity, then differences of cumulative sums and products of ones: the entries themselves."""
    entries = tf.einsum("bi,ij->bj", observation, tf.eye(3)) * tf.math.cumprod(tf.ones([3]))
    sums = tf.cumsum(entries, axis=1)
    return tf.tanh(sums[:, :2] - tf.pad(sums[:, :1], [[0, 0], [1, 0]]))


def sorted_candidates(observation):
    """The second largest of four shifted copies, gathered: a planner's best."""
    candidates = observation[None, :, :2] + tf.reshape([-1.0, 0.0, 1.0, -2.0], [4, 1, 1])
    return tf.tanh(tf.sort(candidates, axis=0, direction="DESCENDING")[1])


ALLOWED = [looped, mapped, branched, contracted, sorted_candidates]


@pytest.mark.parametrize("act", ALLOWED, ids=lambda act: act.__name__)
def test_what_a_planner_needs_is_saved_and_loaded(tmp_path, act):
    policy = DeployedPolicy(OneWay(act), DIMENSIONS, SCALING)
    policy.save(tmp_path / "policy", {})
    observation = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    shift = 0.9375 if act is looped else 0.0
    for way in (policy.way("plan"), LoadedPolicy(tmp_path / "policy").way("plan")):
        action, _ = way.act(observation, (), 0)
        np.testing.assert_allclose(action, np.tanh(observation[:, :2].astype(np.float64) + shift), atol=1e-6)


def reads_a_file(observation):
    size = tf.strings.length(tf.io.read_file("/etc/hostname"))
    return tf.tanh(observation[:, :2] + 0.0 * tf.cast(size, tf.float32))


def writes_a_file(observation):
    with tf.control_dependencies([tf.io.write_file("stolen.txt", "text")]):
        return tf.tanh(observation[:, :2])


def calls_python(observation):
    return tf.ensure_shape(tf.py_function(lambda rows: rows[:, :2], [observation], tf.float32), [None, 2])


def calls_numpy(observation):
    return tf.ensure_shape(tf.numpy_function(lambda rows: rows[:, :2], [observation], tf.float32), [None, 2])


def prints(observation):
    tf.print(observation)
    return observation[:, :2]


def changes_a_variable(observation):
    with tf.control_dependencies([VARIABLE.assign_add(1.0)]):
        return observation[:, :2] + VARIABLE


def draws_with_a_state(observation):
    return tf.random.uniform(tf.shape(observation[:, :2]))


def writes_inside_a_loop(observation):
    return tf.map_fn(lambda row: writes_a_file(row[None])[0], observation)


def writes_in_a_branch(observation):
    return tf.cond(tf.reduce_sum(observation) < 0, lambda: writes_a_file(observation), lambda: observation[:, :2])


def writes_in_a_function(observation):
    return tf.function(writes_a_file)(observation)


REFUSED = {
    reads_a_file: "ReadFile",
    writes_a_file: "WriteFile",
    calls_python: "EagerPyFunc",
    calls_numpy: "PyFunc",
    prints: "StringFormat",
    changes_a_variable: "AssignAddVariableOp",
    draws_with_a_state: "RandomUniform",
    writes_inside_a_loop: "WriteFile",
    writes_in_a_branch: "WriteFile",
    writes_in_a_function: "WriteFile",
}


@pytest.mark.parametrize("act", REFUSED, ids=lambda act: act.__name__)
def test_what_does_more_than_compute_is_refused_before_training(act):
    with pytest.raises(UserError, match=f"way to act 'plan'.*holds the operation {REFUSED[act]}"):
        DeployedPolicy(OneWay(act), DIMENSIONS, SCALING)


@pytest.mark.parametrize("act", REFUSED, ids=lambda act: act.__name__)
def test_what_does_more_than_compute_is_not_saved(tmp_path, monkeypatch, act):
    """Even if nobody had looked before training."""
    with monkeypatch.context() as patch:
        patch.setattr(saved_policy, "check_function", lambda function, what: None)
        policy = DeployedPolicy(OneWay(act), DIMENSIONS, SCALING)
    with pytest.raises(UserError, match=REFUSED[act]):
        policy.save(tmp_path / "policy", {})
    assert os.listdir(tmp_path) == []


def test_a_variable_that_the_agent_does_not_list_is_named_before_training():
    """It would be neither in a checkpoint nor in the export, which TensorFlow says when everything else is done."""
    forgotten = tf.Variable([1.0, 1.0], name="forgotten")
    with pytest.raises(UserError, match=r"way to act 'plan'.*'forgotten.*none of the agent"):
        DeployedPolicy(OneWay(lambda observation: observation[:, :2] * forgotten), DIMENSIONS, SCALING)


def test_an_initial_state_that_does_more_than_compute_is_refused():
    def initial_state(count):
        return tf.random.uniform([count, 2]) if tf.is_tensor(count) else tf.zeros([count, 2])

    policy = Policy(lambda observation, state, seed: (observation[:, :2], state), initial_state)
    with pytest.raises(UserError, match="holds the operation RandomUniform"):
        DeployedPolicy(OneWay(policy), DIMENSIONS, SCALING)


# Programs written by hand: each place where a function can be named --------------------------------------------------


def program(operation):
    """A SavedModel of one function, `found`, whose one operation is given, and that nothing names yet."""
    model = saved_model_pb2.SavedModel()
    graph = model.meta_graphs.add()
    add_function(graph, "found", operation)
    graph.object_graph_def.nodes.add().user_object.identifier = "_generic_user_object"
    return model, graph


def add_function(graph, name, operation):
    """A function of that name whose one operation is given, and returned."""
    function = attrgetter("library.function")(graph.graph_def).add()
    function.signature.name = name
    return function.node_def.add(name="only", op=operation)


def by_the_graph(graph):
    graph.object_graph_def.concrete_functions["found"].SetInParent()


def by_a_function(graph):
    graph.object_graph_def.nodes.add().function.concrete_functions.append("found")


def by_a_bare_function(graph):
    graph.object_graph_def.nodes.add().bare_concrete_function.concrete_function_name = "found"


def by_a_call(graph):
    caller(graph, "PartitionedCall").attr["f"].func.name = "found"


def by_a_list_of_branches(graph):
    caller(graph, "Case").attr["branches"].list.func.add().name = "found"


def caller(graph, operation):
    """The one operation of another function, which an object names."""
    graph.object_graph_def.nodes.add().function.concrete_functions.append("caller")
    return add_function(graph, "caller", operation)


@pytest.mark.parametrize(
    "named",
    [by_the_graph, by_a_function, by_a_bare_function, by_a_call, by_a_list_of_branches],
    ids=lambda f: f.__name__,
)
def test_a_function_is_looked_into_wherever_it_is_named(tmp_path, named):
    for operation in ("Tanh", "WriteFile"):
        model, graph = program(operation)
        named(graph)
        (tmp_path / "saved_model.pb").write_bytes(model.SerializeToString())
        if operation == "Tanh":
            check_saved_model(tmp_path)
        else:
            with pytest.raises(UserError, match="holds the operation WriteFile"):
                check_saved_model(tmp_path)


def saver(node):
    node.registered_saver = "my_saver"


def saveable(node):
    node.saveable_objects["weights"].SetInParent()


def asset(node):
    node.asset.SetInParent()


@pytest.mark.parametrize("change", [saver, saveable, asset], ids=lambda f: f.__name__)
def test_an_object_that_would_restore_itself_is_refused(tmp_path, change):
    model, graph = program("Tanh")
    change(graph.object_graph_def.nodes[0])
    (tmp_path / "saved_model.pb").write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match="holds an object"):
        check_saved_model(tmp_path)
