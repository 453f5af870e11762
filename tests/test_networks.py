import numpy as np
import pytest
import tensorflow as tf
from fakes import linear_critic

from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.models.networks import (
    Actor,
    CriticNetwork,
    DeterministicActor,
    EnsembleMLP,
    ValueNetwork,
    normalized_relu,
    relu_then_normalized,
)
from brac_plus_tf.objectives.multipliers import GlobalMultiplier, StateMultiplier

B, E, N = 5, 3, 4
DIMENSIONS = Dimensions(observation=6, action=2)


def numpy_forward(weights: list[np.ndarray], member: int, inputs) -> np.ndarray:
    """ReLU network in float64 from get_weights(): kernels and biases, [E, in, out] and [E, out]."""
    kernels = [weight[member] for weight in weights if weight.ndim == 3]
    biases = [weight[member] for weight in weights if weight.ndim == 2]
    hidden = np.asarray(inputs, np.float64)
    for kernel, bias in zip(kernels[:-1], biases[:-1], strict=True):
        hidden = np.maximum(hidden @ kernel + bias, 0.0)
    return hidden @ kernels[-1] + biases[-1]


def with_random_biases(network):
    """Initial biases are zero, which would hide a bias that is not added."""
    generator = np.random.default_rng(7)
    network.set_weights([w + generator.normal(scale=0.3, size=w.shape).astype(w.dtype) for w in network.get_weights()])
    return network


def normal(*shape: int) -> tf.Tensor:
    return tf.constant(np.random.default_rng(0).normal(size=shape), tf.float32)


def make_ensemble(seed=0, name="net") -> EnsembleMLP:
    return with_random_biases(EnsembleMLP(E, 6, (8, 7), 2, seed, name))


def test_forward_pass_is_a_numpy_relu_network():
    network, inputs = make_ensemble(), normal(B, 6)
    outputs = network(inputs)
    assert outputs.shape == [E, B, 2]
    for member in range(E):
        expected = numpy_forward(network.get_weights(), member, inputs)
        np.testing.assert_allclose(outputs[member], expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(network.member(member)(inputs), expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(network.member(tf.constant(member))(inputs), expected, rtol=1e-4, atol=1e-5)


def test_leading_axes_are_free():
    network, inputs = make_ensemble(), normal(N, B, 6)
    expected = numpy_forward(network.get_weights(), 1, inputs)
    np.testing.assert_allclose(network.member(1)(inputs), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(network(inputs)[1], expected, rtol=1e-4, atol=1e-5)
    unknown = tf.function(network.member(1), input_signature=[tf.TensorSpec([None, None, 6])])
    np.testing.assert_allclose(unknown(inputs), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "take",
    [
        lambda network: network.member(1),
        lambda network: network.member(tf.constant(1)),
        lambda network: network.every_member()[1],
    ],
    ids=["integer", "tensor", "every"],
)
def test_a_member_depends_on_its_own_slice_of_the_weights_only(take):
    network, inputs = make_ensemble(), normal(B, 6)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(tf.square(take(network)(inputs)))
    gradients = tape.gradient(total, [weight.value for weight in network.trainable_variables])
    assert len(gradients) == 6
    for gradient in gradients:
        gradient = tf.convert_to_tensor(gradient).numpy()
        assert np.all(gradient[[0, 2]] == 0.0)
        assert np.any(gradient[1] != 0.0)


def test_a_gradient_through_every_member_is_the_finite_difference():
    """Of each member's own loss, weighted apart so that no two could be mistaken for one another."""
    network, inputs = make_ensemble(), normal(B, 6)

    def loss() -> tf.Tensor:
        outputs = [member(inputs) for member in network.every_member()]
        return tf.add_n([(index + 1.0) * tf.reduce_sum(tf.square(o)) for index, o in enumerate(outputs)])

    kernel = network.trainable_variables[2].value  # of the second layer, [E, 8, 7]
    with tf.GradientTape() as tape:
        value = loss()
    gradient = tape.gradient(value, kernel).numpy()
    for member in range(E):
        step = np.zeros(kernel.shape, np.float32)
        step[member, 3, 2] = 1e-2
        kernel.assign_add(step)
        above = loss()
        kernel.assign_sub(2.0 * step)
        below = loss()
        kernel.assign_add(step)
        np.testing.assert_allclose(gradient[member, 3, 2], (above - below) / 2e-2, rtol=2e-2, atol=1e-2)


def test_initial_weights_follow_from_seed_and_name_and_differ_between_members():
    kernel = EnsembleMLP(E, 6, (8,), 2, 0, "net").get_weights()[0]
    np.testing.assert_array_equal(kernel, EnsembleMLP(E, 6, (8,), 2, 0, "net").get_weights()[0])
    others = [EnsembleMLP(E, 6, (8,), 2, 1, "net"), EnsembleMLP(E, 6, (8,), 2, 0, "other")]
    kernels = [*kernel, *(member for other in others for member in other.get_weights()[0])]
    distance = [np.abs(a - b).mean() for i, a in enumerate(kernels) for b in kernels[:i]]
    assert len(kernels) == 9 and min(distance) > 0.1  # independent draws from U(-0.65, 0.65): about 0.44


def test_initial_weights_are_glorot_uniform_per_member_not_per_stack():
    network = EnsembleMLP(E, 60, (90,), 50, 0, "net")
    kernels = [weight for weight in network.get_weights() if weight.ndim == 3]
    for kernel, fans in zip(kernels, [60 + 90, 90 + 50], strict=True):
        limit = np.sqrt(6.0 / fans)  # Glorot and Bengio (2010), Eq. 16
        for member in kernel:
            assert 0.99 * limit < np.abs(member).max() <= limit
            assert member.std() == pytest.approx(limit / np.sqrt(3.0), rel=0.03)  # of a uniform distribution
    assert all(np.all(weight == 0.0) for weight in network.get_weights() if weight.ndim == 2)


def test_actor_gives_the_mean_unbounded_and_deviations_within_their_range():
    actor = with_random_biases(Actor(hidden_sizes=(8,), log_std_range=(-3.0, 1.0)).build(DIMENSIONS, 0))
    observation = 30.0 * normal(B, 6)
    mean, std = actor(observation)
    outputs = numpy_forward(actor.get_weights(), 0, observation)
    np.testing.assert_allclose(mean, outputs[:, :2], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(std, np.exp(-1.0 + 2.0 * np.tanh(outputs[:, 2:])), rtol=1e-3)
    distribution = actor.distribution(observation)
    assert (distribution.batch_shape, distribution.event_shape) == ([B], [2])
    np.testing.assert_array_equal(distribution.mean(), mean)
    np.testing.assert_array_equal(distribution.stddev(), std)


def test_critic_gives_one_value_per_member_and_state_and_its_minimum():
    critic = with_random_biases(CriticNetwork((8,), 3, DIMENSIONS, 0))
    observation, action = normal(N, B, 6), normal(N, B, 2)
    inputs = np.concatenate([observation, action], axis=-1)
    expected = np.stack([numpy_forward(critic.get_weights(), j, inputs)[..., 0] for j in range(3)])
    np.testing.assert_allclose(critic(observation, action), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(critic.minimum(observation, action), expected.min(axis=0), rtol=1e-4, atol=1e-5)
    assert set(expected.argmin(axis=0).ravel()) == {0, 1, 2}  # each member is the least somewhere


def test_the_normalised_relu_is_layer_normalisation_and_then_relu():
    inputs = 5.0 * normal(N, B, 7) + 3.0
    expected = tf.nn.relu(tf.keras.layers.LayerNormalization(epsilon=1e-5, center=False, scale=False)(inputs))
    np.testing.assert_allclose(normalized_relu(inputs), expected, rtol=1e-4, atol=1e-5)
    other = tf.keras.layers.LayerNormalization(epsilon=1e-5, center=False, scale=False)(tf.nn.relu(inputs))
    np.testing.assert_allclose(relu_then_normalized(inputs), other, rtol=1e-4, atol=1e-5)
    # by hand: mean 2, variance 2/3
    root = np.sqrt(1.5)
    np.testing.assert_allclose(normalized_relu(tf.constant([[1.0, 2.0, 3.0]])), [[0.0, 0.0, root]], rtol=1e-4)
    np.testing.assert_array_equal(normalized_relu(tf.constant([[4.0, 4.0]])), [[0.0, 0.0]])


def test_a_critic_takes_the_activation_it_was_given_in_every_hidden_layer():
    plain, normalised = (
        with_random_biases(CriticNetwork((8, 8), 2, DIMENSIONS, 0, activation=activation))
        for activation in (tf.nn.relu, normalized_relu)
    )
    weights = plain.get_weights()
    normalised.set_weights(weights)
    observation, action = normal(B, 6), normal(B, 2)
    hidden = np.stack([np.concatenate([observation, action], axis=-1)] * 2)
    kernels, biases = ([w for w in weights if w.ndim == n] for n in (3, 2))
    for kernel, bias in zip(kernels[:-1], biases[:-1], strict=True):
        hidden = np.einsum("ebi,eio->ebo", hidden, kernel) + bias[:, None]
        hidden = tf.nn.relu(tf.keras.layers.LayerNormalization(epsilon=1e-5, center=False, scale=False)(hidden)).numpy()
    expected = np.einsum("ebi,eio->ebo", hidden, kernels[-1]) + biases[-1][:, None]
    np.testing.assert_allclose(normalised(observation, action), expected[..., 0], rtol=1e-3, atol=1e-4)
    # growing inputs grow a plain critic and not this one
    far = [1e4 * observation, 1e4 * action]
    assert np.abs(plain(*far)).max() > 1e3 and np.abs(normalised(*far)).max() < 1e2


def test_minimum_of_two_hand_weighted_critics():
    critic = linear_critic([[0, 1, 0, 1, 0], [0, 0, 0, 0, 2]], [0.0, 3.0])  # o1 + a0 and 2 a1 + 3
    observation = np.array([[9.0, 1.0, 9.0], [9.0, 5.0, 9.0]], np.float32)
    action = np.array([[0.5, 0.25], [-0.5, -1.0]], np.float32)
    np.testing.assert_array_equal(critic(observation, action), [[1.5, 4.5], [3.5, 1.0]])
    np.testing.assert_array_equal(critic.minimum(observation, action), [1.5, 1.0])


def test_a_deterministic_actor_is_tanh_of_its_network_at_any_leading_axes():
    actor = with_random_biases(DeterministicActor((8,)).build(DIMENSIONS, 0))
    observation = normal(N, B, 6)
    expected = np.tanh(numpy_forward(actor.get_weights(), 0, observation))
    assert expected.shape == (N, B, 2)
    np.testing.assert_allclose(actor(observation), expected, rtol=1e-4, atol=1e-5)


def test_a_value_network_gives_one_number_per_state():
    value = with_random_biases(ValueNetwork((8,), DIMENSIONS, 0))
    observation = normal(B, 6)
    np.testing.assert_allclose(
        value(observation), numpy_forward(value.get_weights(), 0, observation)[:, 0], rtol=1e-4, atol=1e-5
    )


def test_target_critic_of_equal_seed_and_name_starts_as_an_exact_copy():
    first, second = (CriticNetwork((8,), 2, DIMENSIONS, 4) for _ in range(2))
    for weight, copy in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, copy)
    values = first(normal(B, 6), normal(B, 2))
    assert not np.allclose(values[0], values[1])  # yet the two critics of a pair differ


@pytest.mark.parametrize("rule", [StateMultiplier(hidden_sizes=(8,)), GlobalMultiplier()])
def test_multipliers_start_near_their_initial_value(rule):
    network = rule.build(DIMENSIONS, 0)
    raw = network(np.zeros([B, 6], np.float32))
    assert raw.shape == [B]
    np.testing.assert_allclose(np.log1p(np.exp(raw)), np.full(B, 10.0), rtol=1e-6)  # alpha = softplus(x)
    assert np.abs(network(normal(B, 6)).numpy() - 10.0).max() < 2.0


def test_state_multiplier_varies_over_states_and_the_global_one_does_not():
    observation = normal(B, 6)
    assert np.ptp(StateMultiplier(hidden_sizes=(8,)).build(DIMENSIONS, 0)(observation)) > 0.1
    assert np.ptp(GlobalMultiplier().build(DIMENSIONS, 0)(observation)) == 0.0


def test_multiplier_losses_by_hand():
    raw = tf.constant([1.0, 1.0, 1.0])
    violation = tf.constant([3.0, -2.0, 5.0])  # mean 2
    np.testing.assert_allclose(StateMultiplier().loss(raw, violation), [-3.0, 2.0, -5.0])
    np.testing.assert_allclose(GlobalMultiplier().loss(raw, violation), [-2.0, -2.0, -2.0])


def test_global_multiplier_gradient_is_minus_the_mean_violation():
    rule = GlobalMultiplier()
    network = rule.build(DIMENSIONS, 0)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(rule.loss(network(normal(4, 6)), tf.constant([3.0, -2.0, 5.0, 0.0])))
    np.testing.assert_allclose(tape.gradient(loss, network.variables[0].value), -1.5, rtol=1e-6)
