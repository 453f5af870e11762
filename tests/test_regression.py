"""Regression by an ensemble, with linear members whose answers are worked out by NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from brac_plus_tf.models.regression import Regression, RegressionNetwork

INPUTS = np.array([[1.0, 5.0], [3.0, 5.0], [5.0, 5.0]], np.float32)  # mean (3, 5), deviation (sqrt(8 / 3), 0)
OUTPUTS = np.array([[10.0], [30.0], [20.0]], np.float32)  # mean 20, deviation sqrt(200 / 3)
SLOPES, OFFSETS = np.array([[2.0, 0.5], [-1.0, 0.25]]), np.array([0.5, -0.5])


@pytest.fixture
def network() -> RegressionNetwork:
    network = Regression(members=2, hidden_sizes=()).build(2, 1, seed=0, name="linear")
    network.fit_scales(INPUTS, OUTPUTS)
    kernel, bias = network.network.variables
    kernel.assign(SLOPES[:, :, None])
    bias.assign(OFFSETS[:, None])
    return network


def by_hand(member: int, inputs: np.ndarray) -> np.ndarray:
    """Both sides are standardised; an entry that never varies is divided by 1e-6."""
    standardised = (inputs - [3.0, 5.0]) / [np.sqrt(8.0 / 3.0), 1e-6]
    return 20.0 + np.sqrt(200.0 / 3.0) * (standardised @ SLOPES[member] + OFFSETS[member])[..., None]


def test_all_members_on_the_same_rows(network):
    expected = np.stack([by_hand(member, INPUTS) for member in range(2)])
    np.testing.assert_allclose(network(tf.constant(INPUTS)), expected, rtol=1e-5)


def test_each_member_on_its_own_rows(network):
    own = np.stack([INPUTS, np.add(INPUTS[::-1], [1.0, 0.0])]).astype(np.float32)
    expected = np.stack([by_hand(member, own[member]) for member in range(2)])
    np.testing.assert_allclose(network(tf.constant(own)), expected, rtol=1e-5)


def test_errors_are_in_deviations_of_the_outputs(network):
    """A prediction that lies one deviation off counts 1, whatever the outputs' units."""
    own = tf.stack([INPUTS, INPUTS])
    off = np.sqrt(200.0 / 3.0) * np.array([[1.0], [-1.0], [3.0]])
    outputs = np.stack([by_hand(0, INPUTS) + off, by_hand(1, INPUTS) - 2.0 * off]).astype(np.float32)
    np.testing.assert_allclose(network.squared_error(own, tf.constant(outputs)), [11.0 / 3.0, 44.0 / 3.0], rtol=1e-5)
