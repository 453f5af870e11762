import numpy as np
import pytest
import tensorflow as tf
from fakes import central_difference, linear_critic
from scipy.special import expit

from brac_plus_tf.models.networks import EnsembleMLP
from brac_plus_tf.models.optimization import build_adam, gradient_step
from brac_plus_tf.objectives.penalties import (
    GradientPenalty,
    NoPenalty,
    action_gradient_penalty,
    heaviside,
    lipschitz_penalty,
    normalized_softplus,
    of_weighted_rows,
    sigmoid,
    smooth_norm,
    squared_norm,
)

B, A = 4, 2
OBSERVATION = tf.constant([[0.0, 2.0, 0.0], [0.0, -1.0, 5.0], [1.0, 0.0, 0.0], [3.0, 0.5, 1.0]])
ACTION = tf.constant([[0.5, 0.5], [-0.5, 0.25], [1.0, -1.0], [0.0, 0.0]])
EXCESS = tf.constant([-2.0, 0.0, 1e-6, 3.0])


def test_masks_by_hand():
    np.testing.assert_array_equal(heaviside(EXCESS), [0.0, 0.0, 1.0, 1.0])  # 0 itself is not above the threshold
    np.testing.assert_allclose(sigmoid(EXCESS), expit([-2.0, 0.0, 1e-6, 3.0]), rtol=1e-6)
    softplus = np.logaddexp(0.0, [-2.0, 0.0, 1e-6, 3.0])
    np.testing.assert_allclose(normalized_softplus(EXCESS), softplus / softplus[3], rtol=1e-5)
    np.testing.assert_array_equal(normalized_softplus(tf.fill([3], -200.0)), [0.0, 0.0, 0.0])  # underflow, no 0 / 0


def test_sizes_by_hand():
    gradient = tf.constant([[3.0, -4.0], [0.0, 0.0], [0.0, 0.5]])
    np.testing.assert_array_equal(squared_norm(gradient), [25.0, 0.0, 0.25])
    np.testing.assert_allclose(smooth_norm(gradient), [5.0, 1e-6, 0.5], rtol=1e-6)


def test_penalty_of_the_smaller_of_two_linear_critics():
    # Q_1 = o1 + a0 with gradient (1, 0); Q_2 = 3 a0 - 4 a1 with gradient (3, -4)
    # values (2.5, -0.5), (-1.5, -2.5), (1, 7), (0.5, 0): the second, second, first, second is smaller
    critic = linear_critic([[0, 1, 0, 1, 0], [0, 0, 0, 3, -4]])
    mask = tf.constant([1.0, 0.5, 1.0, 0.0])
    penalty = action_gradient_penalty(critic.minimum, OBSERVATION, ACTION, mask)
    np.testing.assert_allclose(penalty, [25.0, 12.5, 1.0, 0.0], rtol=1e-6)
    penalty = action_gradient_penalty(critic.minimum, OBSERVATION, ACTION, mask, smooth_norm)
    np.testing.assert_allclose(penalty, [5.0, 2.5, 1.0, 0.0], rtol=1e-6)


def test_lipschitz_penalty_is_one_sided_and_measured_in_between():
    # c = |a|^2: gradient 2 a at a = first + share (second - first)
    first, second = tf.constant([[0.0, 0.0], [2.0, 0.0], [0.0, 1.0]]), tf.constant([[3.0, 4.0], [0.0, 2.0], [0.0, 0.0]])
    share = tf.constant([1.0, 0.5, 0.75])  # at (3, 4), (1, 1) and (0, 1/4): norms 10, sqrt 8 and 1/2
    penalty = lipschitz_penalty(
        lambda o, a: tf.reduce_sum(tf.square(a), axis=1) + o[:, 0], OBSERVATION[:3], first, second, share
    )
    np.testing.assert_allclose(penalty, [81.0, (np.sqrt(8.0) - 1.0) ** 2, 0.0], rtol=1e-5)


def test_lipschitz_penalty_teaches_the_critic_and_not_the_actions():
    weight, actions = tf.Variable(3.0), [tf.ones([3, 1]), tf.zeros([3, 1])]
    with tf.GradientTape() as tape:
        tape.watch(actions)
        penalty = lipschitz_penalty(lambda o, a: weight * a[:, 0], tf.zeros([3, 2]), *actions, tf.fill([3], 0.5))
        total = tf.reduce_sum(penalty)
    to_weight, *to_actions = tape.gradient(total, [weight, *actions])
    assert float(to_weight) == pytest.approx(3 * 2 * (3.0 - 1.0), rel=1e-5)  # d/dw of 3 (w - 1)^2
    assert to_actions == [None, None]


def test_penalty_of_a_quadratic_critic():
    # Q = -|a - c|^2 + o1 a1: gradient -2 (a - c) + (0, o1), by state
    center = np.array([0.25, -0.5])
    penalty = action_gradient_penalty(
        lambda o, a: -tf.reduce_sum(tf.square(a - center), axis=1) + o[:, 1] * a[:, 1],
        OBSERVATION,
        ACTION,
        tf.ones([B]),
    )
    gradient = -2.0 * (ACTION.numpy() - center) + np.array([[0, 2.0], [0, -1.0], [0, 0.0], [0, 0.5]])
    np.testing.assert_allclose(penalty, np.sum(gradient**2, axis=1), rtol=1e-6)


@pytest.mark.parametrize("size", [squared_norm, smooth_norm])
def test_gradient_with_respect_to_critic_weights_is_that_of_finite_differences(size):
    """min of two tanh networks in float64; weights as one vector: two heads over hidden 6, inputs 3 + 2."""
    generator = np.random.default_rng(0)
    at = generator.normal(size=2 * (5 * 6 + 6))
    observation, action = generator.normal(size=[5, 3]), generator.uniform(-1, 1, size=[5, A])
    mask = tf.constant([1.0, 0.5, 0.0, 2.0, 1.0], tf.float64)

    def mean_penalty(weights):
        def value(observation, action):
            inputs = tf.concat([observation, action], axis=1)
            heads = tf.reshape(weights, [2, 36])
            return tf.reduce_min(
                [
                    tf.linalg.matvec(tf.tanh(inputs @ tf.reshape(head[:30], [5, 6])), head[30:])
                    for head in tf.unstack(heads)
                ],
                axis=0,
            )

        return tf.reduce_mean(action_gradient_penalty(value, tf.constant(observation), tf.constant(action), mask, size))

    weights = tf.Variable(at)
    with tf.GradientTape() as tape:
        penalty = mean_penalty(weights)
    expected = central_difference(lambda x: mean_penalty(tf.constant(x)), at)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(tape.gradient(penalty, weights), expected, rtol=1e-5, atol=1e-8)


def test_no_gradient_reaches_the_policy_the_action_or_the_mask():
    critic = linear_critic([[0, 1, 0, 1, 0], [0, 0, 0, 3, -4]])
    policy_mean, excess = tf.Variable(ACTION), tf.constant([1.0, 2.0, 3.0, 4.0])

    def quadratic(observation, action):  # its action gradient depends on the action, which could carry a gradient
        return critic.minimum(observation, action) * tf.reduce_sum(action, axis=1)

    with tf.GradientTape() as tape:
        tape.watch([OBSERVATION, excess])
        action = policy_mean + 0.1
        penalty = GradientPenalty(mask=sigmoid)(quadratic, OBSERVATION, action, excess)
    kernel = critic.trainable_variables[0].value
    to_policy, to_action, to_mask, to_critic = tape.gradient(penalty, [policy_mean, action, excess, kernel])
    assert (to_policy, to_action, to_mask) == (None, None, None)
    assert np.any(to_critic != 0.0)


@pytest.mark.parametrize("size", [squared_norm, smooth_norm])
def test_gradient_is_finite_where_the_critic_is_flat(size):
    slope = tf.Variable([0.0, 0.0])  # Q = slope . a: a minimum of the penalty, so its gradient is 0, not NaN
    with tf.GradientTape() as tape:
        penalty = action_gradient_penalty(
            lambda _, a: tf.linalg.matvec(a, slope), OBSERVATION, ACTION, tf.ones([B]), size
        )
    np.testing.assert_array_equal(tape.gradient(penalty, slope), [0.0, 0.0])


def test_gradient_penalty_applies_its_mask_and_size_but_not_lambda():
    critic = linear_critic([[0, 1, 0, 0, 2], [0, 1, 0, 0, 2]])
    penalty = GradientPenalty(weight=7.0)(critic.minimum, OBSERVATION, ACTION, EXCESS)
    np.testing.assert_allclose(penalty, [0.0, 0.0, 4.0, 4.0], rtol=1e-6)
    penalty = GradientPenalty(weight=7.0, size=smooth_norm)(critic.minimum, OBSERVATION, ACTION, EXCESS)
    np.testing.assert_allclose(penalty, [0.0, 0.0, 2.0, 2.0], rtol=1e-6)


def weighted_rows_at(weights, slopes, upstream, seen, compiled):
    """weight_i sum_j (s_ij w_j)^2 by `of_weighted_rows`, and the gradient of sum_i upstream_i of it with respect to w.

    seen: collects the numbers of rows that the function is traced with. compiled: as a stage is.
    """
    slope = tf.Variable([2.0, -3.0])

    def penalty(weight, rows):
        seen.add(rows.shape[0])
        return weight * tf.reduce_sum(tf.square(rows * slope), axis=1)

    def values_and_gradient(weight, rows, upstream):
        with tf.GradientTape() as tape:
            values = of_weighted_rows(penalty, weight, rows)
            total = tf.reduce_sum(upstream * values)
        return values, tape.gradient(total, slope)

    given = [tf.constant(array, tf.float32) for array in (weights, slopes, upstream)]
    if compiled:
        traced = tf.function(values_and_gradient, autograph=False).get_concrete_function(*given)
        values_and_gradient = tf.function(lambda *tensors: traced(*tensors), jit_compile=True, autograph=False)
    return [tensor.numpy() for tensor in values_and_gradient(*given)]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("heavy", [[], [5], [6, 1], [6, 1, 3], range(8)])
def test_rows_of_weight_zero_are_left_out_and_change_nothing(heavy, compiled):
    """By hand, with w = (2, -3): weight (4 s_0^2 + 9 s_1^2), and its gradient 2 w_j sum_i u_i weight_i s_ij^2."""
    generator, seen = np.random.default_rng(0), set()
    rows, upstream, weights = generator.normal(size=(8, 2)), generator.normal(size=8), np.zeros(8)
    weights[list(heavy)] = generator.uniform(0.5, 2.0, size=len(heavy))
    values, gradient = weighted_rows_at(weights, rows, upstream, seen, compiled)
    np.testing.assert_allclose(values, weights * (4.0 * rows[:, 0] ** 2 + 9.0 * rows[:, 1] ** 2), rtol=1e-5)
    expected = 2.0 * np.array([2.0, -3.0]) * ((upstream * weights) @ rows**2)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)
    # without a graph only the branch that is taken runs
    assert seen == ({2, 8} if compiled else {2} if len(heavy) <= 2 else {8})


@pytest.mark.parametrize("compiled", [False, True])
def test_what_is_not_a_number_where_the_weight_is_zero_goes_nowhere(compiled):
    rows, weights = np.ones((8, 2)), np.zeros(8)
    rows[3], weights[5] = np.nan, 1.0
    values, gradient = weighted_rows_at(weights, rows, np.ones(8), set(), compiled)
    np.testing.assert_allclose(values, [0, 0, 0, 0, 0, 13, 0, 0])
    np.testing.assert_allclose(gradient, [4.0, -6.0])


@pytest.mark.parametrize(
    ("rule", "weight", "mean_penalty", "expected"),
    [
        (GradientPenalty(weight=0.1), 0.1, 50.0, 0.1),  # fixed, as in the paper
        (GradientPenalty(weight=0.1, weight_rate=0.01, target=2.0), 0.5, 7.0, 0.55),  # + 0.01 * 5
        (GradientPenalty(weight=0.1, weight_rate=0.01, target=2.0), 0.5, 1.0, 0.49),  # - 0.01 * 1
        (GradientPenalty(weight=0.1, weight_rate=0.1, target=6.0), 0.5, 1.0, 0.1),  # 0.5 - 0.5 is held at 0.1
    ],
)
def test_next_weight_by_hand(rule, weight, mean_penalty, expected):
    np.testing.assert_allclose(rule.next_weight(tf.constant(weight), tf.constant(mean_penalty)), expected, rtol=1e-6)


def test_no_penalty_is_zero_and_does_not_call_the_critic():
    np.testing.assert_array_equal(NoPenalty()(None, OBSERVATION, ACTION, EXCESS), np.zeros(B))
    assert NoPenalty().weight == 0.0


def fit_sine(penalty_weight: float) -> tuple[float, float]:
    """The paper's toy regression (Appendix A, Fig. 4): mean |f'(x)| outside the data, error against the true curve.

    y = 5 sin(pi x) + N(0, 0.5) on x ~ U(-0.8, 0.8), 100 points; 100 others from U(-2, -0.8) u U(0.8, 2) carry the
    penalty only; ReLU network of two layers, hidden 64, Adam 0.01.
    """
    generator = np.random.default_rng(0)
    x = generator.uniform(-0.8, 0.8, size=[100, 1])
    y = 5.0 * np.sin(np.pi * x) + generator.normal(0.0, 0.5, size=x.shape)
    outside = generator.uniform(0.8, 2.0, size=[100, 1]) * generator.choice([-1.0, 1.0], size=[100, 1])
    x, y, outside = (tf.constant(value, tf.float32) for value in (x, y, outside))
    network = EnsembleMLP(1, 1, (64,), 1, 0, "regression")
    optimizer = build_adam(0.01, network.trainable_variables)

    def value(_, inputs):
        return network(inputs)[0, :, 0]

    def loss():
        squared_error = tf.reduce_mean(tf.square(value(None, x) - y[:, 0]))
        penalty = action_gradient_penalty(value, tf.zeros([100, 1]), outside, tf.ones([100]))
        return squared_error + penalty_weight * tf.reduce_mean(penalty), {}

    @tf.function(jit_compile=True)
    def fit():
        for _ in tf.range(2000):
            gradient_step(loss, network.trainable_variables, optimizer)

    fit()
    predict = network.member(0)
    # slopes by differences of the prediction, errors against the noiseless curve at fresh points
    slopes = (predict(outside + 1e-3) - predict(outside - 1e-3)) / 2e-3
    inside = tf.linspace(-0.8, 0.8, 201)[:, None]
    error = tf.reduce_mean(tf.square(predict(inside) - 5.0 * tf.sin(np.pi * inside)))
    return float(tf.reduce_mean(tf.abs(slopes))), float(error)


def test_toy_regression_is_flat_outside_the_data_with_the_penalty_and_as_good_inside():
    plain_slope, plain_error = fit_sine(0.0)
    slope, error = fit_sine(0.1)
    assert plain_slope > 3.0  # the curve leaves the data with a slope of 5 pi cos(0.8 pi) = -12.7
    assert slope < plain_slope / 5.0
    # the curve's own mean square over the data is 12.5 (1 - sin(1.6 pi) / 1.6 pi) = 14.9, the noise's variance 0.25
    assert plain_error < 0.4
    assert error < 0.4
