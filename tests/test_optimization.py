import numpy as np
import pytest
import tensorflow as tf

from brac_plus_tf.models.optimization import Fit, build_adam, copy_variables, decayed, gradient_step, soft_update


def layer(*values: float) -> list:
    """Scalar Keras weights, as the networks hold them."""
    holder = tf.keras.layers.Layer()
    return [holder.add_weight(shape=(), initializer=tf.keras.initializers.Constant(value)) for value in values]


def listed(variables) -> list[float]:
    return [float(variable) for variable in variables]


def test_first_adam_step_is_the_learning_rate_against_the_sign_of_the_gradient():
    # bias-corrected moments of the first step are g and g^2: step = lr g / (|g| + 1e-7)
    variables = [tf.Variable([1.0, 1.0, 1.0])]
    optimizer = build_adam(0.01, variables)
    loss, auxiliary = gradient_step(
        lambda: (tf.reduce_sum(variables[0] * [2.0, -500.0, 0.0]), {"seen": tf.constant(3.0)}), variables, optimizer
    )
    np.testing.assert_allclose(variables[0], [0.99, 1.01, 1.0], rtol=1e-6)
    assert (float(loss), float(auxiliary["seen"])) == (-498.0, 3.0)


def test_second_adam_step_by_hand():
    # gradients 1 then -1: m = 0.9 * 0.1 - 0.1 = -0.01, v = 0.999 * 0.001 + 0.001 = 0.001999;
    # corrected by 1 - 0.9^2 = 0.19 and 1 - 0.999^2 = 0.001999: step = -lr (-0.01 / 0.19) / 1
    variables = layer(0.0)
    optimizer = build_adam(0.1, variables)
    for sign in (1.0, -1.0):
        gradient_step(lambda sign=sign: (sign * variables[0], {}), variables, optimizer)
    assert listed(variables)[0] == pytest.approx(-0.1 + 0.1 * 0.01 / 0.19, abs=1e-6)


def test_gradient_step_moves_its_own_variables_only():
    mine, others = layer(1.0, 2.0), layer(3.0)
    before = gradient_step(lambda: ((mine[0] + mine[1]) * others[0], {}), mine, build_adam(0.5, mine))
    assert float(before[0]) == 9.0  # the loss before the step
    np.testing.assert_allclose(listed(mine), [0.5, 1.5], rtol=1e-4)
    assert listed(others) == [3.0]


def test_adam_slots_exist_before_the_first_step():
    variables = layer(1.0, 2.0)
    optimizer = build_adam(0.1, variables)
    before = len(optimizer.variables)
    gradient_step(lambda: (variables[0] * variables[1], {}), variables, optimizer)
    assert len(optimizer.variables) == before == 2 + 2 * 2  # iteration, learning rate; two moments each


def test_soft_update_by_hand():
    source, target = layer(10.0, -2.0), layer(0.0, 6.0)
    soft_update(source, target, 0.25)
    assert listed(target) == [2.5, 4.0]
    soft_update(source, target, 0.25)
    assert listed(target) == [4.375, 2.5]
    assert listed(source) == [10.0, -2.0]


def test_copy_variables_copies_once_and_does_not_tie():
    source, target = layer(0.1, 0.2), layer(0.0, 0.0)
    copy_variables(source, target)
    source[0].assign(5.0)
    np.testing.assert_array_equal(np.float32(listed(target)), np.float32([0.1, 0.2]))


@pytest.mark.parametrize("move", [copy_variables, lambda source, target: soft_update(source, target, 0.5)])
def test_lists_of_different_length_are_refused(move):
    with pytest.raises(ValueError, match="zip"):
        move(layer(1.0, 2.0), layer(3.0))


def learning_rates(fit: Fit) -> np.ndarray:
    """The learning rate in force at each of the stage's steps, read off the optimiser."""
    optimizer = fit.adam(layer(0.0))
    rates = []
    for step in range(fit.steps):
        optimizer.iterations.assign(step)
        rates.append(float(optimizer.learning_rate))
    return np.array(rates)


def test_default_learning_rate_drops_at_each_fifth():
    rates = learning_rates(Fit(steps=50, learning_rate=1e-3))
    expected = np.repeat([1e-3, 5e-4, 1e-4, 5e-5, 1e-5], 10)  # ALGORITHM section 2: x0.5, x0.1, x0.05, x0.01
    np.testing.assert_allclose(rates[5::10], expected[5::10], rtol=1e-6)  # amid each fifth
    assert np.sum(~np.isclose(rates, expected, rtol=1e-6)) <= 4  # Keras drops one step late at each boundary
    assert np.all(np.diff(rates) <= 0.0)


def test_a_single_factor_is_a_constant_learning_rate():
    np.testing.assert_allclose(learning_rates(Fit(steps=10, learning_rate=2e-3, decay=(0.5,))), 1e-3, rtol=1e-6)


def test_few_data_shorten_a_fit_to_so_many_passes():
    """2,000 rows, 60 times, in batches of 100: 1,200 steps. The rate's drops move with the end."""
    fit = Fit(steps=80_000, batch_size=100, most_passes=60.0)
    assert fit.for_data(2000) == Fit(1200, 100, most_passes=60.0)
    assert fit.for_data(1_000_000) == fit.for_data(None) == fit
    assert Fit(steps=80_000).for_data(5) == Fit(steps=80_000)
    assert fit.for_data(1).steps == 1
    rates = learning_rates(fit.for_data(100))  # 60 steps
    assert rates[6] == pytest.approx(1e-3) and rates[54] == pytest.approx(1e-5)


def test_a_fit_learns_at_its_scheduled_rate():
    # Adam's steps under a constant gradient have the size of the learning rate: halves of 0.1 and of 0.01
    fit = Fit(steps=4, learning_rate=0.1, decay=(1.0, 0.1))
    variables = layer(0.0)
    optimizer, path = fit.adam(variables), [0.0]
    for _ in range(fit.steps):
        gradient_step(lambda: (variables[0] * 1.0, {}), variables, optimizer)
        path += listed(variables)
    np.testing.assert_allclose(-np.diff(path)[[0, 1, 3]], [0.1, 0.1, 0.01], rtol=1e-4)


def test_a_decayed_rate_is_for_equal_parts_of_the_steps():
    schedule = decayed(0.2, (1.0, 0.5, 0.1), 30)
    rates = [float(schedule(step)) for step in (0, 9, 11, 19, 21, 29, 1000)]
    np.testing.assert_allclose(rates, [0.2, 0.2, 0.1, 0.1, 0.02, 0.02, 0.02], rtol=1e-6)
    assert decayed(0.2, (0.5,), 30) == 0.1


def test_steps_before_a_decay_have_the_rate_it_begins_with():
    schedule = decayed(0.2, (1.0, 0.5), 30, first=100)
    rates = [float(schedule(step)) for step in (0, 99, 114, 116, 129)]
    np.testing.assert_allclose(rates, [0.2, 0.2, 0.2, 0.1, 0.1], rtol=1e-6)
