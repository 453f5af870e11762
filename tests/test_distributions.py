import numpy as np
import pytest
import tensorflow as tf
from fakes import assert_mean, central_difference, gaussian_kl
from scipy import stats
from scipy.special import logsumexp

from brac_plus_tf.models.distributions import (
    diagonal_gaussian,
    draw_gaussian,
    gaussian_mixture,
    gaussian_to_mixture_kl_bound,
    inverse_tanh,
    split_gaussian,
    tanh_log_prob,
)

MEAN, STD = np.array([0.3, -0.8]), np.array([0.5, 0.35])  # A = 2, float64 throughout


def test_tanh_log_prob_is_scipys_density_times_a_numerical_jacobian():
    u = np.random.default_rng(0).normal(MEAN, STD, size=[5, 2])
    # p_a(a) = p_u(u) |du/da| and |du/da| = 1 / |d tanh / du|, by central differences
    step = 1e-6
    slope = (np.tanh(u + step) - np.tanh(u - step)) / (2 * step)
    expected = stats.norm.logpdf(u, MEAN, STD).sum(axis=1) - np.log(slope).sum(axis=1)
    np.testing.assert_allclose(tanh_log_prob(diagonal_gaussian(MEAN, STD), tf.constant(u)), expected, rtol=1e-7)


def test_tanh_density_integrates_to_one_over_the_action_square():
    cells = 400
    axis = (np.arange(cells) + 0.5) / cells * 2 - 1
    action = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1)
    density = np.exp(tanh_log_prob(diagonal_gaussian(MEAN, STD), tf.constant(np.arctanh(action))))
    assert density.sum() * (2 / cells) ** 2 == pytest.approx(1.0, abs=1e-4)
    mean_action = np.sum(density[..., None] * action, axis=(0, 1)) * (2 / cells) ** 2
    # E[tanh(u)] by quadrature in u-space, where no Jacobian takes part
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    expected = np.tanh(MEAN + STD * nodes[:, None]).T @ weights / np.sqrt(2 * np.pi)
    np.testing.assert_allclose(mean_action, expected, atol=1e-4)


def test_tanh_log_prob_is_exact_where_the_action_rounds_to_one():
    u = np.array([[20.0, -20.0], [-20.0, 0.5]])
    # -log(1 - tanh(u)^2) = 2 log cosh(u), with log cosh evaluated by logaddexp in float64
    log_cosh = np.logaddexp(u, -u) - np.log(2.0)
    expected = stats.norm.logpdf(u, 1.0, 8.0).sum(axis=1) + 2.0 * log_cosh.sum(axis=1)
    with tf.GradientTape() as tape:
        single = tf.constant(u, tf.float32)
        tape.watch(single)
        value = tanh_log_prob(diagonal_gaussian(tf.ones([2, 2]), tf.fill([2, 2], 8.0)), single)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    # d/du: -(u - 1) / 64 + 2 tanh(u)
    np.testing.assert_allclose(tape.gradient(value, single), -(u - 1) / 64 + 2 * np.tanh(u), rtol=1e-5)


def test_inverse_tanh_inverts_inside_and_clips_at_the_margin():
    u = np.array([[-3.0, 0.0, 0.4, 2.5]])
    np.testing.assert_allclose(inverse_tanh(tf.constant(np.tanh(u)), 1e-3), u, rtol=1e-9)
    # atanh(1 - m) = log((2 - m) / m) / 2
    edge = 0.5 * np.log((2 - 1e-3) / 1e-3)
    clipped = inverse_tanh(tf.constant([[-1.0, 1.0, 0.9999, -7.0]], tf.float64), 1e-3)
    np.testing.assert_allclose(clipped, [[-edge, edge, edge, -edge]], rtol=1e-9)


def test_draws_of_a_gaussian_have_its_moments_and_pass_their_gradient_on():
    mean, std = tf.Variable(MEAN), tf.Variable(STD)
    seed = tf.constant([1, 2], tf.int32)
    with tf.GradientTape(persistent=True) as tape:
        draws = draw_gaussian(diagonal_gaussian(mean, std), seed, 5000)
        total = tf.reduce_sum(draws)
    noise = (draws.numpy() - MEAN) / STD
    assert_mean(draws.numpy(), MEAN)
    assert_mean((draws.numpy() - MEAN) ** 2, STD**2)
    assert_mean(noise[:, 0] * noise[:, 1], 0.0)
    assert stats.kstest(noise.ravel(), "norm").pvalue > 1e-4
    # u = mean + std noise: d/d mean = 1, d/d std = noise, each summed over the draws
    np.testing.assert_allclose(tape.gradient(total, mean), [5000, 5000])
    np.testing.assert_allclose(tape.gradient(total, std), noise.sum(axis=0), rtol=1e-6)
    assert draw_gaussian(diagonal_gaussian(tf.zeros([5, 2]), tf.ones([5, 2])), seed).shape == [5, 2]


def test_split_gaussian_takes_means_then_scales_within_their_range():
    raw = tf.constant([[1.5, -2.5, 0.0, 100.0], [7.0, 0.0, -100.0, np.arctanh(0.5)]], tf.float64)
    mean, std = split_gaussian(raw, (-4.0, 2.0))
    np.testing.assert_array_equal(mean, [[1.5, -2.5], [7.0, 0.0]])
    # raw 0 -> the middle -1; +-100 -> the ends; atanh(1/2) -> three quarters of the way, 1/2
    np.testing.assert_allclose(np.log(std), [[-1.0, 2.0], [-4.0, 0.5]], rtol=1e-12)


def test_a_saturated_scale_keeps_a_gradient():
    raw = tf.Variable([[0.0, 0.0, 4.0, -4.0]])
    with tf.GradientTape() as tape:
        log_std = tf.math.log(split_gaussian(raw, (-5.0, 2.0))[1])
    # d log std / d raw = 3.5 / cosh(raw)^2
    np.testing.assert_allclose(tape.gradient(log_std, raw)[0, 2:], [3.5 / np.cosh(4.0) ** 2] * 2, rtol=1e-3)


def test_mixture_log_prob_is_scipys():
    generator = np.random.default_rng(1)
    logits, mean = generator.normal(size=[5, 3]), generator.normal(size=[5, 3, 2])  # B = 5, K = 3, A = 2
    std, u = generator.uniform(0.3, 2.0, size=[5, 3, 2]), generator.normal(size=[5, 2])
    log_weights = logits - logsumexp(logits, axis=1, keepdims=True)
    expected = logsumexp(log_weights + stats.norm.logpdf(u[:, None], mean, std).sum(axis=2), axis=1)
    np.testing.assert_allclose(gaussian_mixture(logits, mean, std).log_prob(u), expected, rtol=1e-10)


def random_pair(components: int):
    """f with B = 5, A = 2, and mixtures with batch [L, B] = [4, 5]."""
    generator = np.random.default_rng(components)
    f = generator.normal(size=[5, 2]), generator.uniform(0.3, 1.0, size=[5, 2])
    shape = [4, 5, components]
    g = generator.normal(size=shape), generator.normal(size=[*shape, 2]), generator.uniform(0.5, 1.5, size=[*shape, 2])
    return f, g


def test_kl_bound_of_one_component_is_the_textbook_formula():
    f, g = random_pair(1)
    bound = gaussian_to_mixture_kl_bound(diagonal_gaussian(*f), gaussian_mixture(*g))
    np.testing.assert_allclose(bound, gaussian_kl(*f, g[1][:, :, 0], g[2][:, :, 0]), rtol=1e-10)


def test_kl_bound_of_equal_components_is_the_textbook_formula_whatever_the_weights():
    f, (logits, mean, std) = random_pair(3)
    mean[:], std[:] = mean[:, :, :1], std[:, :, :1]
    bound = gaussian_to_mixture_kl_bound(diagonal_gaussian(*f), gaussian_mixture(logits, mean, std))
    np.testing.assert_allclose(bound, gaussian_kl(*f, mean[:, :, 0], std[:, :, 0]), rtol=1e-10)


def test_kl_bound_of_far_components_is_minus_the_logarithm_of_the_near_ones_weight():
    # f equals the first component, of weight 1/4; the second is 100 deviations away: KL = log 4 exactly
    f = diagonal_gaussian(np.zeros([5, 2]), np.ones([5, 2]))
    logits = np.broadcast_to(np.log([0.25, 0.5, 0.25]), [5, 3])
    mean = np.broadcast_to(np.array([[0.0, 0.0], [100.0, 0.0], [0.0, -100.0]]), [5, 3, 2])
    bound = gaussian_to_mixture_kl_bound(f, gaussian_mixture(logits, mean, np.ones([5, 3, 2])))
    np.testing.assert_allclose(bound, np.full(5, np.log(4.0)), rtol=1e-10)


def test_kl_bound_lies_above_the_kl_integrated_on_a_grid_and_not_far():
    f, g = random_pair(3)
    axis = np.linspace(-8, 8, 321)
    u = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1)[:, :, None, None]  # [G, G, 1, 1, A]
    log_f = stats.norm.logpdf(u, *f).sum(axis=-1)
    log_weights = g[0] - logsumexp(g[0], axis=-1, keepdims=True)
    log_g = logsumexp([log_weights[..., k] + component(u, g, k) for k in range(3)], axis=0)
    integrated = np.sum(np.exp(log_f) * (log_f - log_g), axis=(0, 1)) * (axis[1] - axis[0]) ** 2
    bound = gaussian_to_mixture_kl_bound(diagonal_gaussian(*f), gaussian_mixture(*g)).numpy()
    assert np.all(bound > integrated)
    # the nearest component alone, KL(f || w_k g_k) = KL(f || g_k) - log w_k, bounds from above less tightly
    nearest = np.min(gaussian_kl(f[0][:, None], f[1][:, None], g[1], g[2]) - log_weights, axis=-1)
    assert np.all(bound < nearest)


def component(u, g, k):
    """log N(u; mean_k, std_k), summed over the action."""
    return stats.norm.logpdf(u, g[1][..., k, :], g[2][..., k, :]).sum(axis=-1)


def test_kl_bound_gradient_is_that_of_finite_differences():
    (mean, std), g = random_pair(3)

    def bound(parameters):
        return gaussian_to_mixture_kl_bound(
            diagonal_gaussian(parameters[:, :2], parameters[:, 2:]), gaussian_mixture(*g)
        )

    at = np.concatenate([mean, std], axis=1)
    parameters = tf.Variable(at)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(bound(parameters))
    expected = central_difference(lambda x: np.sum(bound(x)), at).reshape(at.shape)
    np.testing.assert_allclose(tape.gradient(total, parameters), expected, rtol=1e-6, atol=1e-8)
