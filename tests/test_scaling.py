"""Maps between units, by hand, and the same bits from arrays and from tensors."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf
from dataset_files import small_task
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.types import Transition
from brac_plus_tf.data.scaling import Scaling, action_range, task_scaling

float32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


def make_scaling(**changes) -> Scaling:
    """Observation (o - (1, -2)) / (2, 0.5); actions in [-2, 6] and [0, 1]; reward (r + 3) / 4."""
    values = {
        "observation_shift": [1, -2],
        "observation_scale": [2, 0.5],
        "action_center": [2, 0.5],
        "action_half_range": [4, 0.5],
    }
    arrays = {name: np.array(value, np.float32) for name, value in values.items()}
    return Scaling(**(arrays | {"reward_shift": -3.0, "reward_scale": 4.0} | changes))


def test_by_hand():
    scaling = make_scaling()
    np.testing.assert_array_equal(scaling.normalize_observation([[5, -1], [1, -2]]), [[2, 2], [0, 0]])
    np.testing.assert_array_equal(scaling.to_environment_observation([[2, 2], [0, 0]]), [[5, -1], [1, -2]])
    environment, network = [[-2, 0], [6, 1], [3, 0.75]], [[-1, -1], [1, 1], [0.25, 0.5]]
    np.testing.assert_array_equal(scaling.from_environment_action(environment), network)
    np.testing.assert_array_equal(scaling.to_environment_action(network), environment)
    assert scaling.to_environment_action(np.zeros((3, 2), np.float64)).dtype == np.float32
    np.testing.assert_array_equal(scaling.rescale_reward([-3, 1, 7]), [0, 1, 2.5])
    np.testing.assert_array_equal(scaling.to_environment_reward([0, 1, 2.5]), [-3, 1, 7])


def test_a_whole_batch_by_hand():
    def batch() -> Transition:
        return Transition(
            observation=np.array([[5, -1]], np.float32),
            action=np.array([[6.000002, 0.75]], np.float32),  # beyond the bound by rounding
            reward=np.array([7], np.float32),
            discount=np.array([0], np.float32),
            next_observation=np.array([[3, -2]], np.float32),
            next_action=np.array([[3, -0.0000001]], np.float32),
        )

    expected = ([[2, 2]], [[1, 0.5]], [2.5], [0], [[1, 0]], [[0.25, -1]])
    arrays, tensors = batch(), Transition(*map(tf.constant, batch()))
    for actual, wanted in zip(make_scaling().to_network(arrays), expected, strict=True):
        np.testing.assert_array_equal(actual, np.array(wanted, np.float32))
    for actual, wanted in zip(make_scaling().to_network(tensors), expected, strict=True):
        np.testing.assert_array_equal(actual, np.array(wanted, np.float32))
    np.testing.assert_array_equal(arrays.observation, expected[0])  # in place, as said
    np.testing.assert_array_equal(tensors.observation, [[5, -1]])


def test_only_to_network_changes_what_it_is_given():
    scaling = make_scaling()
    for method in (
        scaling.normalize_observation,
        scaling.to_environment_observation,
        scaling.from_environment_action,
        scaling.to_environment_action,
        scaling.rescale_reward,
        scaling.to_environment_reward,
    ):
        given = np.full((2, 2), 5, np.float32)
        assert not np.array_equal(method(given), given)
        np.testing.assert_array_equal(given, 5)


@given(st.integers(0, 2**31))
def test_tensors_and_arrays_have_the_same_bits(seed):
    generator = np.random.default_rng(seed)
    scaling = Scaling(
        *(generator.uniform(0.1, 3.0, 2).astype(np.float32) for _ in range(4)),
        reward_shift=float(np.float32(generator.normal())),
        reward_scale=float(np.float32(generator.uniform(0.1, 3.0))),
    )
    shapes = ((5, 2), (5, 2), 5, 5, (5, 2), (5, 2))
    batch = Transition(*(generator.normal(size=shape).astype(np.float32) for shape in shapes))
    tensors = scaling.to_network(Transition(*map(tf.constant, batch)))
    actions = scaling.to_environment_action(tf.constant(batch.action)).numpy()
    assert actions.tobytes() == scaling.to_environment_action(batch.action).tobytes()
    arrays = scaling.to_network(Transition(*(array.copy() for array in batch)))
    for array, tensor in zip(arrays, tensors, strict=True):
        assert tf.is_tensor(tensor) and array.tobytes() == tensor.numpy().tobytes()


@given(hnp.arrays(np.float32, (4, 3), elements=float32), float32, float32)
def test_survives_json_bit_for_bit(arrays, reward_shift, reward_scale):
    scaling = Scaling(*arrays, reward_shift=reward_shift, reward_scale=reward_scale)
    text = scaling.to_json()
    again = Scaling.from_json(text)
    for field in dataclasses.fields(Scaling):
        before, after = getattr(scaling, field.name), getattr(again, field.name)
        assert np.asarray(before).tobytes() == np.asarray(after).tobytes()
    assert again.observation_shift.dtype == np.float32 and isinstance(json.loads(text), dict)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"observation_shift": "x"}', "null", '"text"'])
def test_refuses_other_json(text):
    with pytest.raises(UserError, match="scaling: not a JSON object as written by this package"):
        Scaling.from_json(text)


@given(hnp.arrays(np.float32, (5, 2), elements=st.floats(-1, 1, width=32)))
def test_actions_return_from_the_environment_and_back(actions):
    scaling = make_scaling()
    there_and_back = scaling.from_environment_action(scaling.to_environment_action(actions))
    np.testing.assert_allclose(there_and_back, actions, atol=1e-6)


def test_action_ranges_by_hand():
    center, half_range = action_range([-2, 0], [6, 1], 2)
    assert center.tolist() == [2, 0.5] and half_range.tolist() == [4, 0.5] and center.dtype == np.float32
    center, half_range = action_range(-1.0, [1, 3, 5], 3)
    assert center.tolist() == [0, 1, 2] and half_range.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        ([0, 0], 1.0, "give one number, or one for each of 3 entries"),
        (1.0, 1.0, "the low ones below the high ones"),
        ([-1, -1, 2], 1.0, "the low ones below the high ones"),
        (-np.inf, 1.0, "must be finite"),
        (-1.0, np.nan, "must be finite"),
    ],
)
def test_impossible_action_ranges(low, high, message):
    with pytest.raises(UserError, match=message):
        action_range(low, high, 3)


def test_a_tasks_scaling_touches_actions_alone():
    scaling = task_scaling(small_task(action_low=-1.0, action_high=3.0))
    assert scaling.normalize_observation([[3, 4]]).tolist() == [[3, 4]]
    assert scaling.rescale_reward([5]).tolist() == [5]
    assert scaling.from_environment_action([[-1, 1, 3]]).tolist() == [[-1, 0, 1]]
