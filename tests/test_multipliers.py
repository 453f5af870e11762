import math

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import expit

from brac_plus_tf.agents.thresholds import AbsoluteThreshold, RelativeThreshold
from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.models.optimization import build_adam, gradient_step
from brac_plus_tf.objectives.losses import constrained_policy_loss
from brac_plus_tf.objectives.multipliers import (
    GlobalMultiplier,
    MaximumEntropy,
    MinimumEntropy,
    Multiplier,
    StateMultiplier,
    StraightThrough,
    softplus_inverse,
    through_softplus,
)


@pytest.mark.parametrize("value", [10.0**power for power in range(-6, 4)])
def test_softplus_inverse_round_trip(value):
    assert math.isclose(np.logaddexp(0.0, softplus_inverse(value)), value, rel_tol=1e-12)


#                  far below the floor, below, above, at rest level, positive
RAW = np.array([-30.0, -30.0, -5.1, -4.9, -4.9, 2.0], np.float32)
VIOLATION = np.array([-2.0, 3.0, -1.0, -1.0, 0.5, -4.0], np.float32)


def loss_and_gradients(dual_loss):
    raw, violation = tf.constant(RAW), tf.constant(VIOLATION)
    with tf.GradientTape() as tape:
        tape.watch([raw, violation])
        loss = dual_loss(raw, violation)
    return loss.numpy(), *tape.gradient(loss, [raw, violation])


def test_straight_through_by_hand_with_its_floor():
    loss, to_raw, to_violation = loss_and_gradients(StraightThrough())
    # -x v, but nothing from a slack state below -5: first and third
    np.testing.assert_allclose(loss, [0.0, 90.0, 0.0, -4.9, 2.45, 8.0], rtol=1e-6)
    np.testing.assert_allclose(to_raw, [0.0, -3.0, 0.0, 1.0, -0.5, 4.0], rtol=1e-6)  # -v
    assert to_violation is None


def test_straight_through_floor_is_an_argument():
    raw, violation = tf.constant([-3.5, -2.5]), tf.constant([-1.0, -1.0])
    np.testing.assert_allclose(StraightThrough(floor=-3.0)(raw, violation), [0.0, -2.5])


def test_through_softplus_gradient_carries_the_sigmoid():
    loss, to_raw, to_violation = loss_and_gradients(through_softplus)
    np.testing.assert_allclose(loss, -np.logaddexp(0.0, RAW) * VIOLATION, rtol=1e-5)
    np.testing.assert_allclose(to_raw, -expit(RAW.astype(np.float64)) * VIOLATION, rtol=1e-5)
    assert to_violation is None


def multiplier_after(dual_loss, phases: list[tuple[int, float]]) -> list[float]:
    """alpha after each phase of (steps, violation), under the package's own optimiser."""
    rule = GlobalMultiplier(learning_rate=1e-2, dual_loss=dual_loss)
    network = rule.build(Dimensions(3, 2), 0)
    optimizer = build_adam(rule.learning_rate, network.trainable_variables)

    @tf.function
    def hold(steps, violation):
        for _ in tf.range(steps):
            gradient_step(
                lambda: (tf.reduce_mean(rule.loss(network(tf.zeros([5, 3])), tf.fill([5], violation))), {}),
                network.trainable_variables,
                optimizer,
            )

    values = []
    for steps, violation in phases:
        hold(tf.constant(steps), tf.constant(violation))
        values.append(float(np.logaddexp(0.0, float(network.variables[0]))))
    return values


def test_after_a_long_slack_phase_only_the_straight_through_multiplier_comes_back():
    """Section 12's trial in small: constraint slack for 10000 steps, then violated for 400; alpha = 1 is needed."""
    phases = [(10_000, -1.0), (400, 1.0)]
    rested, returned = multiplier_after(StraightThrough(), phases)
    assert np.log1p(np.exp(-5.5)) < rested < 0.01  # resting at the floor, x = -5
    assert returned > 1.0
    rested, returned = multiplier_after(through_softplus, phases)
    assert rested < 0.001
    assert returned < 0.001


def solve(rule, slopes: list[float], bound: float, steps: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Maximises slopes . x subject to rule's constraint on D(s) = x(s)^2 / 2; returns x and alpha per state.

    States are one-hot observations, so a multiplier network without hidden layer has one value per state.
    """
    states = len(slopes)
    observation, slope = tf.eye(states), tf.constant(slopes)
    network = rule.build(Dimensions(states, 2), 0)
    optimizer = build_adam(rule.learning_rate, network.trainable_variables)
    x = tf.Variable(tf.ones([states]))

    @tf.function
    def run():
        for _ in tf.range(steps):
            multiplier = tf.nn.softplus(network(observation))
            with tf.GradientTape() as tape:
                divergence = tf.square(x) / 2.0
                policy_loss = tf.reduce_sum(constrained_policy_loss(slope * x, multiplier, divergence))
            x.assign_sub(0.05 * tape.gradient(policy_loss, x))
            gradient_step(
                lambda violation=divergence - bound: (tf.reduce_mean(rule.loss(network(observation), violation)), {}),
                network.trainable_variables,
                optimizer,
            )

    run()
    return x.numpy(), np.logaddexp(0.0, network(observation).numpy())


@pytest.mark.parametrize("dual_loss", [StraightThrough(), through_softplus])
def test_state_multipliers_converge_to_each_states_own_optimum(dual_loss):
    # max c x s.t. x^2 / 2 <= 2: x = 2 in every state, and c - alpha x = 0 gives alpha = c / 2
    rule = StateMultiplier(hidden_sizes=(), learning_rate=5e-3, initial=3.0, dual_loss=dual_loss)
    x, multiplier = solve(rule, [1.0, 2.0, 6.0], bound=2.0)
    np.testing.assert_allclose(x, [2.0, 2.0, 2.0], rtol=0.02)
    np.testing.assert_allclose(multiplier, [0.5, 1.0, 3.0], rtol=0.02)


def test_a_global_multiplier_converges_to_the_optimum_of_the_mean_constraint():
    # x = c / alpha and mean(x^2) / 2 = bound: alpha = sqrt(mean(c^2) / (2 bound)); c = 1, 2, 5, bound = 5/4: alpha = 2
    rule = GlobalMultiplier(learning_rate=5e-3, initial=3.0)
    x, multiplier = solve(rule, [1.0, 2.0, 5.0], bound=1.25)
    np.testing.assert_allclose(multiplier, [2.0, 2.0, 2.0], rtol=0.02)
    np.testing.assert_allclose(x, [0.5, 1.0, 2.5], rtol=0.02)


@pytest.mark.parametrize(
    ("constraint", "mean_entropy", "expected_multiplier", "slope"),
    [
        (MaximumEntropy, 3.0, 2.5, 2.0),  # too random by 5: beta 2 + 0.1 * 5, penalty + beta H
        (MaximumEntropy, -7.0, 1.5, 2.0),  # below the bound by 5
        (MaximumEntropy, -100.0, 0.0, 2.0),  # 2 - 9.8 is projected to 0
        (MinimumEntropy, 3.0, 1.5, -2.0),  # wide enough: beta falls, penalty - beta H
        (MinimumEntropy, -7.0, 2.5, -2.0),  # too narrow by 5
        (MinimumEntropy, 100.0, 0.0, -2.0),
    ],
)
def test_entropy_multiplier_by_hand(constraint, mean_entropy, expected_multiplier, slope):
    constraint = constraint(target=-2.0, learning_rate=0.1)
    after = constraint.next_multiplier(tf.constant(2.0), tf.constant(mean_entropy), tf.constant(-2.0))
    assert float(after) == pytest.approx(expected_multiplier, rel=1e-6)
    multiplier, entropy = tf.constant(2.0), tf.constant([1.0, 4.0, -3.0])
    with tf.GradientTape() as tape:
        tape.watch([multiplier, entropy])
        penalty = constraint.penalty(multiplier, entropy)
    np.testing.assert_allclose(penalty, slope * np.array([1.0, 4.0, -3.0]))
    to_multiplier, to_entropy = tape.gradient(penalty, [multiplier, entropy])
    np.testing.assert_allclose(to_entropy, [slope] * 3)
    assert to_multiplier is None


def test_thresholds():
    assert AbsoluteThreshold(2.4).resolve(1.5) == 2.4
    assert RelativeThreshold(0.5).resolve(1.5) == 2.0


@pytest.mark.parametrize("logarithmic", [False, True])
@pytest.mark.parametrize("violation", [2.0, -0.5])
def test_a_scalar_multiplier_rises_while_violated_and_falls_while_slack(logarithmic, violation):
    """Adam's first step is its rate, of the multiplier or of its logarithm; at a rate of 0 it stays."""
    multiplier = Multiplier(initial=3.0, learning_rate=0.25, logarithmic=logarithmic).build()
    multiplier.ascend(tf.constant(violation))
    step = math.copysign(0.25, violation)
    assert float(multiplier()) == pytest.approx(3.0 * math.exp(step) if logarithmic else 3.0 + step, rel=1e-5)
    fixed = Multiplier(initial=3.0, learning_rate=0.0, logarithmic=logarithmic).build()
    fixed.ascend(tf.constant(violation))
    assert float(fixed()) == pytest.approx(3.0, rel=1e-6)


@pytest.mark.parametrize("logarithmic", [False, True])
def test_a_scalar_multiplier_comes_back_from_the_end_of_its_range_at_once(logarithmic):
    multiplier = Multiplier(1.0, 0.1, minimum=0.5, maximum=1.5, logarithmic=logarithmic).build()
    for _ in range(50):
        multiplier.ascend(tf.constant(1.0))
    assert float(multiplier()) == pytest.approx(1.5, rel=1e-6)
    for _ in range(60):  # Adam's own moments turn within these
        multiplier.ascend(tf.constant(-1.0))
    assert float(multiplier()) == pytest.approx(0.5, rel=1e-6)


def test_what_an_entropy_constraint_lets_fall():
    """A bound from above lets E[H] fall however far, one from below as far as the bound."""
    target = tf.constant(-3.0)
    assert MaximumEntropy(target=-3.0).least(target).numpy() == -np.inf
    assert MinimumEntropy(target=-3.0).least(target).numpy() == -3.0


@pytest.mark.parametrize("rule", [StateMultiplier((8,), initial=2.5), GlobalMultiplier(initial=2.5)])
def test_multipliers_start_where_they_are_told(rule):
    """alpha = softplus(x), in a state of zeros, where a network without hidden biases has its last bias alone."""
    network = rule.build(Dimensions(3, 1), 0)
    np.testing.assert_allclose(np.log1p(np.exp(network(tf.zeros([2, 3])))), [2.5, 2.5], rtol=1e-5)


def test_no_loss_reaches_a_learned_multiplier():
    multiplier = Multiplier(initial=1.5).build()
    with tf.GradientTape() as tape:
        loss = 2.0 * multiplier()
    assert float(loss) == 3.0 and tape.gradient(loss, multiplier.variables[0]) is None
