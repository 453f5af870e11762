import numpy as np
import pytest
import tensorflow as tf

from brac_plus_tf.objectives.losses import (
    constrained_policy_loss,
    pessimistic_value,
    regularized_policy_loss,
    soft_policy_loss,
    squared_td_error,
    td_target,
)


def test_td_target_by_hand_and_a_terminal_drops_the_next_value():
    target = td_target(tf.constant([1.0, 2.0, 3.0]), tf.constant([1.0, 0.0, 1.0]), tf.constant([10.0, 7.0, -4.0]), 0.5)
    np.testing.assert_array_equal(target, [6.0, 2.0, 1.0])  # 1 + 5, 2 + 0, 3 - 2


def test_no_gradient_passes_a_td_target():
    inputs = [tf.constant([1.0, 2.0, 3.0]) for _ in range(3)]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        total = tf.reduce_sum(td_target(*inputs, 0.9))
    assert tape.gradient(total, inputs) == [None, None, None]


def test_squared_td_error_sums_over_critics_and_its_gradient_is_twice_the_error():
    q_values = tf.Variable([[1.0, 2.0, 3.0], [4.0, 0.0, 3.5]])  # K = 2, B = 3
    with tf.GradientTape() as tape:
        loss = squared_td_error(q_values, tf.constant([2.0, 2.0, 3.0]))
    np.testing.assert_array_equal(loss, [1.0 + 4.0, 0.0 + 4.0, 0.0 + 0.25])
    np.testing.assert_array_equal(tape.gradient(loss, q_values), [[-2.0, 0.0, 0.0], [4.0, -4.0, 1.0]])


def test_policy_loss_by_hand_with_no_gradient_to_the_multiplier():
    value, multiplier, divergence = tf.constant([1.0, -2.0]), tf.constant([3.0, 0.5]), tf.constant([2.0, 8.0])
    with tf.GradientTape() as tape:
        tape.watch([value, multiplier, divergence])
        loss = constrained_policy_loss(value, multiplier, divergence)
    np.testing.assert_array_equal(loss, [-1.0 + 6.0, 2.0 + 4.0])
    to_value, to_multiplier, to_divergence = tape.gradient(loss, [value, multiplier, divergence])
    np.testing.assert_array_equal(to_value, [-1.0, -1.0])
    np.testing.assert_array_equal(to_divergence, [3.0, 0.5])
    assert to_multiplier is None


def test_a_column_in_place_of_a_vector_is_refused():
    vector, column = tf.zeros([3]), tf.zeros([3, 1])
    for call in (
        lambda: td_target(vector, vector, column, 0.9),
        lambda: squared_td_error(tf.zeros([2, 3]), column),
        lambda: squared_td_error(tf.zeros([3, 2]), vector),
        lambda: constrained_policy_loss(vector, column, vector),
    ):
        with pytest.raises(ValueError, match="argument"):
            call()


def test_soft_policy_loss_by_hand_with_no_gradient_to_the_temperature():
    value, log_prob, temperature = tf.constant([1.0, -2.0]), tf.constant([-3.0, 4.0]), tf.constant(0.5)
    with tf.GradientTape() as tape:
        tape.watch([value, log_prob, temperature])
        loss = soft_policy_loss(value, log_prob, temperature)
    np.testing.assert_array_equal(loss, [-1.5 - 1.0, 2.0 + 2.0])
    to_value, to_log_prob, to_temperature = tape.gradient(loss, [value, log_prob, temperature])
    np.testing.assert_array_equal(to_value, [-1.0, -1.0])
    np.testing.assert_array_equal(to_log_prob, [0.5, 0.5])
    assert to_temperature is None


def test_regularized_policy_loss_by_hand_with_no_gradient_to_its_weights():
    value, divergence, log_prob = tf.constant([1.0, -2.0]), tf.constant([4.0, 0.5]), tf.constant([-3.0, 2.0])
    weights = [tf.constant(10.0), tf.constant(0.25)]
    with tf.GradientTape() as tape:
        tape.watch([divergence, *weights])
        loss = regularized_policy_loss(value, weights[0], divergence, weights[1], log_prob)
    np.testing.assert_array_equal(loss, [40.0 - 0.75 - 1.0, 5.0 + 0.5 + 2.0])
    to_divergence, *to_weights = tape.gradient(loss, [divergence, *weights])
    np.testing.assert_array_equal(to_divergence, [10.0, 10.0])
    assert to_weights == [None, None]


@pytest.mark.parametrize(("weight", "expected"), [(1.0, [1.5, 1.0]), (0.75, [2.0, 1.875]), (0.0, [3.5, 4.5])])
def test_pessimistic_value_mixes_minimum_and_maximum(weight, expected):
    np.testing.assert_array_equal(pessimistic_value(tf.constant([[1.5, 4.5], [3.5, 1.0]]), weight), expected)
