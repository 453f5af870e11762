import numpy as np
import pytest
import tensorflow as tf
from fakes import LinearGaussian, assert_mean, central_difference, gaussian_kl, independent_vae, random_behavior, seeds
from scipy import stats
from scipy.special import logsumexp

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.models.behavior import ConditionalVAE, GaussianBehavior, VAEEnsemble
from brac_plus_tf.models.distributions import diagonal_gaussian, gaussian_mixture
from brac_plus_tf.models.networks import Actor
from brac_plus_tf.models.optimization import raw, watch
from brac_plus_tf.objectives.divergences import (
    MMD,
    KLUpperBound,
    SampledKL,
    dual_kl,
    dual_wasserstein,
    gaussian_kernel,
    laplacian_kernel,
    maximum_mean_discrepancy,
    squared_discrepancy,
)
from brac_plus_tf.objectives.metrics import divergence_metrics

B, O, A, L = 5, 6, 2, 7  # noqa: E741
SEED = tf.constant([1, 2], tf.int32)
GENERATOR = np.random.default_rng(3)
MEAN, STD = GENERATOR.normal(size=[B, A]), GENERATOR.uniform(0.3, 1.2, size=[B, A])
OBSERVATION = tf.constant(GENERATOR.normal(size=[B, O]), tf.float32)


def repeated_policy(draws: int, mean=MEAN, std=STD):
    """The policy of each state `draws` times over: batch [draws B]; one action of each; the observations."""
    tiled = [tf.tile(tf.constant(value, tf.float32), [draws, 1]) for value in (mean, std, OBSERVATION)]
    policy = diagonal_gaussian(*tiled[:2])
    return policy, policy.sample(seed=tf.constant([8, 9], tf.int32)), tiled[2]


def per_draw(values: tf.Tensor) -> np.ndarray:
    """[draws B] -> [draws, B]."""
    return values.numpy().astype(np.float64).reshape(-1, B)


# The upper bound of Eq. 7 ---------------------------------------------------------------------------------------


def test_bound_equals_the_textbook_kl_when_the_latent_is_idle():
    # decoder ignores z and the encoder gives the prior: pi_b = p(u), KL(q || p) = 0, nothing is lost
    policy, action, observation = repeated_policy(1)
    vae = independent_vae([1.0], [[0.4, -0.3]], [[0.9, 1.4]], latent_size=4)
    bound = KLUpperBound(L)(policy, action, vae, observation, SEED)
    np.testing.assert_allclose(bound, gaussian_kl(MEAN, STD, [0.4, -0.3], [0.9, 1.4]), rtol=1e-4)


def test_the_bound_in_bfloat16_errs_by_less_than_its_own_noise():
    """Noise: of D(s) over seeds, which draw the action's latents. Three decimal digits suffice beside it."""
    networks = []
    for dtype in ("float32", "bfloat16"):
        shape = VAEEnsemble(members=2, hidden_sizes=(128, 128), latent_size=4, compute_dtype=dtype)
        networks.append(shape.build(Dimensions(O, A), 3))
    policy, action, observation = repeated_policy(20)
    bounds = np.array(
        [
            [KLUpperBound(L)(policy, action, network.fixed_member(1), observation, seed) for network in networks]
            for seed in seeds(8)
        ]
    )
    error = np.abs(bounds[:, 1] - bounds[:, 0]).mean()
    assert 0.0 < error < 0.5 * bounds[:, 0].std(axis=0).mean()
    # training does not see it
    same = [network.member(1).negative_elbo(observation, action, SEED)["negative_elbo"] for network in networks]
    np.testing.assert_array_equal(*same)


def test_an_unknown_dtype_is_refused():
    with pytest.raises(UserError, match="compute_dtype is 'float16'"):
        VAEEnsemble(compute_dtype="float16")


def test_bound_of_a_linear_gaussian_exceeds_the_true_kl_by_the_gap_of_algebra():
    """pi_b = N(offset, marginal_std^2) is known, and so is the gap: E KL(p(z|u') || p(z|u)) over u, u' ~ pi.

    Both posteriors have the deviation posterior_std and means slope (u - offset): the gap is
    E sum (slope (u' - u))^2 / (2 posterior_std^2) = sum (slope std / posterior_std)^2.
    """
    linear = LinearGaussian(np.array([0.2, -0.5]), np.array([0.9, 0.4]), np.array([0.6, 1.1]))
    policy, action, observation = repeated_policy(3000)
    bound = KLUpperBound(L)(policy, action, linear.vae(), observation, SEED)
    true_kl = gaussian_kl(MEAN, STD, linear.offset, linear.marginal_std)
    gap = np.sum((linear.slope * STD / linear.posterior_std) ** 2, axis=1)
    assert np.all(gap > 0.1)
    assert_mean(per_draw(bound), true_kl + gap)


def test_bound_averages_over_its_latent_samples():
    # the L draws are averaged: 16 times as many, a quarter of the spread around the part that u' decides
    linear = LinearGaussian(np.zeros(A), np.ones(A), np.ones(A))
    policy = diagonal_gaussian(tf.zeros([2000, A]), tf.ones([2000, A]))
    fixed = tf.ones([2000, A])
    spread = [
        np.std(KLUpperBound(samples)(policy, fixed, linear.vae(), tf.zeros([2000, O]), SEED)) for samples in (2, 32)
    ]
    assert spread[0] / spread[1] == pytest.approx(4.0, rel=0.1)


@pytest.mark.parametrize("components", [1, 3])
@pytest.mark.parametrize("weights_seed", range(4))
def test_bound_lies_above_the_true_kl_of_random_networks(components, weights_seed):
    """KL(pi || pi_b) by draws of the policy, log pi_b by integration over a grid of the latent (Z = 2)."""
    draws = 150
    vae = random_behavior(Dimensions(O, A), components, 2, weights_seed).member(0)
    policy, action, observation = repeated_policy(draws)
    bound = per_draw(KLUpperBound(L)(policy, action, vae, observation, SEED))

    axis = np.linspace(-5.0, 5.0, 51)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 1, 2)
    log_cell = stats.norm.logpdf(grid).sum(axis=-1) + 2.0 * np.log(axis[1] - axis[0])  # [G, 1]
    latent = tf.constant(np.broadcast_to(grid, [len(grid), B, 2]), tf.float32)
    log_likelihood = vae.decoder(OBSERVATION, latent).log_prob(tf.reshape(action, [draws, 1, B, A])).numpy()
    log_behavior = logsumexp(log_likelihood + log_cell, axis=1)
    log_policy = stats.norm.logpdf(action.numpy().reshape(draws, B, A), MEAN, STD).sum(axis=-1)

    gap = bound - (log_policy - log_behavior)
    assert np.all(gap.mean(axis=0) > -4.0 * gap.std(axis=0) / np.sqrt(draws))
    posterior = vae.posterior(observation, action)
    assert per_draw(posterior.kl_divergence(vae.prior())).mean() > 0.1  # the latent is in use


@pytest.mark.parametrize("weights_seed", range(3))
def test_bound_of_a_mixture_of_linear_gaussians_is_above_the_true_kl_and_close(weights_seed):
    """K = 3 with a known density: pi_b = sum_k w_k N(offset_k, gain^2 + noise^2), the policy at one component.

    The encoder is that component's exact posterior, so little is lost: by algebra the gap of the linear Gaussian
    above, here at most 0.3, plus what the mixture adds, at most -log w_k.
    """
    draws, generator = 2000, np.random.default_rng(weights_seed)
    offsets, log_weights = generator.normal(scale=3.0, size=[3, A]), np.log([0.5, 0.2, 0.3])
    linear = LinearGaussian(offsets[0], generator.uniform(0.6, 1.2, A), generator.uniform(0.6, 1.2, A))
    std = 0.3 * linear.marginal_std
    policy, action, observation = repeated_policy(draws, np.tile(offsets[0], [B, 1]), np.tile(std, [B, 1]))

    def decoder(_, latent):
        mean = tf.constant(offsets, tf.float32) + tf.constant(linear.gain, tf.float32) * latent[..., None, :]
        logits = tf.broadcast_to(tf.constant(log_weights, tf.float32), tf.shape(mean)[:-1])
        return gaussian_mixture(logits, mean, tf.broadcast_to(tf.constant(linear.noise, tf.float32), tf.shape(mean)))

    vae = ConditionalVAE(linear.vae().posterior, decoder, A)
    bound = KLUpperBound(L)(policy, action, vae, observation, SEED).numpy()
    u = action.numpy().astype(np.float64)
    components = stats.norm.logpdf(u[:, None], offsets, linear.marginal_std).sum(axis=-1)
    log_ratio = stats.norm.logpdf(u, offsets[0], std).sum(axis=-1) - logsumexp(log_weights + components, axis=-1)
    gap = bound - log_ratio
    assert gap.mean() > -4.0 * gap.std() / np.sqrt(len(gap))
    algebra = np.sum((linear.slope * std / linear.posterior_std) ** 2)
    assert algebra < 0.3
    assert gap.mean() < algebra - log_weights[0]
    latent_kl = vae.posterior(observation, action).kl_divergence(vae.prior()).numpy()
    assert gap.mean() < latent_kl.mean()  # so tight that a bound without KL(q || p) would lie below the true KL


class DoubleVAE(ConditionalVAE):
    def prior(self):
        return diagonal_gaussian(tf.zeros([self.latent_size], tf.float64), tf.ones([self.latent_size], tf.float64))


def smooth_vae(components: int = 3, latent_size: int = 4) -> DoubleVAE:
    """Smooth in every input and in float64, so that finite differences are sharp."""
    generator = np.random.default_rng(11)
    encode, decode = generator.normal(size=[A, latent_size]), generator.normal(size=[latent_size, components * A])

    def posterior(observation, pre_tanh_action):
        mean = tf.sin(tf.matmul(pre_tanh_action, encode))
        return diagonal_gaussian(mean, 0.5 + 0.3 * tf.sigmoid(mean))

    def decoder(observation, latent):
        mean = tf.tanh(tf.einsum("lbz,zk->lbk", latent, decode))
        mean = tf.reshape(mean, tf.concat([tf.shape(latent)[:2], [components, A]], axis=0))
        return gaussian_mixture(mean[..., 0], 2.0 * mean, 0.7 + 0.2 * mean)

    return DoubleVAE(posterior, decoder, latent_size)


def bound_of_parameters(parameters, through_the_draw: bool = True) -> tf.Tensor:
    """D(s) [B] as a function of the policy's mean and deviation [B, 2 A], the draw's noise held fixed."""
    mean, std = parameters[:, :A], parameters[:, A:]
    policy = diagonal_gaussian(mean, std)
    action = mean + std * np.random.default_rng(5).normal(size=[B, A])
    action = action if through_the_draw else tf.stop_gradient(action)
    return KLUpperBound(L)(policy, action, smooth_vae(), OBSERVATION, SEED)


def gradient_of_bound(through_the_draw: bool) -> np.ndarray:
    parameters = tf.Variable(np.concatenate([MEAN, STD], axis=1))
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(bound_of_parameters(parameters, through_the_draw))
    return tape.gradient(total, parameters).numpy()


def test_gradient_of_the_bound_is_that_of_finite_differences():
    at = np.concatenate([MEAN, STD], axis=1)
    expected = central_difference(lambda x: np.sum(bound_of_parameters(tf.constant(x))), at).reshape(at.shape)
    np.testing.assert_allclose(gradient_of_bound(True), expected, rtol=1e-5, atol=1e-7)
    # part of it flows through the draw into the encoder: without that path the gradient is another
    assert np.abs(gradient_of_bound(False) - expected).max() > 0.1


@pytest.mark.parametrize("divergence", [KLUpperBound(L), SampledKL(3, 4), MMD(samples=3, sigma=1.0)])
def test_gradient_reaches_the_actor_and_not_the_behavior_policy(divergence):
    actor = Actor(hidden_sizes=(8,)).build(Dimensions(O, A), 0)
    behavior = random_behavior(Dimensions(O, A), 3, 4, weights_seed=0)
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        watch(tape, actor.trainable_variables)
        policy = actor.distribution(OBSERVATION)
        action = policy.sample(seed=SEED)
        total = tf.reduce_mean(divergence(policy, action, behavior.member(0), OBSERVATION, SEED))
    assert all(np.any(gradient != 0.0) for gradient in tape.gradient(total, raw(actor.trainable_variables)))
    assert tape.gradient(total, raw(behavior.trainable_variables)) == [None] * len(behavior.trainable_variables)


# The sampled estimate -------------------------------------------------------------------------------------------


def test_sampled_kl_is_unbiased_when_the_latent_is_idle():
    policy, action, observation = repeated_policy(1500)
    vae = independent_vae([1.0], [[0.4, -0.3]], [[0.9, 1.4]], latent_size=3)
    estimate = SampledKL(samples=4, latent_samples=2)(policy, action, vae, observation, SEED)
    assert_mean(per_draw(estimate), gaussian_kl(MEAN, STD, [0.4, -0.3], [0.9, 1.4]))


def test_sampled_kl_of_equal_policies_is_zero_sample_by_sample():
    vae = independent_vae([1.0], [[0.5, -1.0]], [[0.8, 1.3]], latent_size=3)
    policy, action, observation = repeated_policy(1, np.tile([0.5, -1.0], [B, 1]), np.tile([0.8, 1.3], [B, 1]))
    np.testing.assert_allclose(SampledKL(4, 3)(policy, action, vae, observation, SEED), np.zeros(B), atol=1e-5)


def test_sampled_kl_of_a_linear_gaussian_integrates_the_latent_out():
    linear = LinearGaussian(np.array([0.2, -0.5]), np.array([0.9, 0.4]), np.array([0.6, 1.1]))
    policy, action, observation = repeated_policy(1500)
    estimate = SampledKL(samples=4, latent_samples=3)(policy, action, linear.vae(), observation, SEED)
    assert_mean(per_draw(estimate), gaussian_kl(MEAN, STD, linear.offset, linear.marginal_std))


def test_sampled_kl_to_a_gaussian_behavior_is_the_textbook_kl():
    other_mean, other_std = np.array([0.3, -0.2]), np.array([0.9, 0.5])
    behavior = GaussianBehavior(
        lambda o: diagonal_gaussian(tf.ones([o.shape[0], 1]) * other_mean, tf.ones([A]) * other_std)
    )
    policy, action, observation = repeated_policy(4000)
    values = SampledKL(samples=2)(policy, action, behavior, observation, SEED)
    assert_mean(per_draw(values), gaussian_kl(MEAN, STD, other_mean, other_std))


# Dual forms -----------------------------------------------------------------------------------------------------


def test_dual_forms_by_hand():
    policy_value, behavior_value = tf.constant([0.0, 3.0]), tf.constant([1.0, -2.0])
    softplus = np.logaddexp(0.0, [[0.0, 3.0], [1.0, -2.0]])
    np.testing.assert_allclose(
        dual_kl(policy_value, behavior_value), np.log(softplus[0]) - softplus[1] + 1.0, rtol=1e-6
    )
    np.testing.assert_array_equal(dual_wasserstein(policy_value, behavior_value), [-1.0, 5.0])


def test_dual_kl_is_the_kl_at_its_best_critic_and_below_it_elsewhere():
    """E_pi[log g] - E_b[g] + 1 <= KL(pi || b), with equality at g = pi / b; integrals over a grid."""
    grid = np.linspace(-8.0, 8.0, 4001)
    policy, behavior = stats.norm.pdf(grid, 0.5, 0.7), stats.norm.pdf(grid, 0.0, 1.0)
    expected = gaussian_kl([0.5], [0.7], [0.0], [1.0])
    best = np.log(np.expm1(policy / behavior + 1e-6))  # softplus^-1 of the ratio

    def integrated(critic):
        at_policy, at_behavior = (
            (tf.constant(critic, tf.float32), tf.zeros(grid.shape)),
            tf.constant(critic, tf.float32),
        )
        first = dual_kl(*at_policy) + np.log(2.0)  # with the other term at softplus(0) = log 2
        second = dual_kl(tf.zeros(grid.shape), at_behavior) - np.log(np.log(2.0)) - 1.0
        return np.trapezoid(policy * (first.numpy() - 1.0) + behavior * second.numpy(), grid) + 1.0

    assert integrated(best) == pytest.approx(expected, abs=2e-3)
    assert all(integrated(best + shift) < expected - 0.01 for shift in (1.0, -1.0, 2.0 * np.sin(grid)))


# Maximum mean discrepancy ---------------------------------------------------------------------------------------


def test_kernels_by_hand():
    difference = tf.constant([[3.0, -4.0], [0.0, 0.0]])
    np.testing.assert_allclose(laplacian_kernel(difference, 2.0), [np.exp(-7 / 4), 1.0], rtol=1e-6)
    np.testing.assert_allclose(gaussian_kernel(difference, 2.0), [np.exp(-25 / 4), 1.0], rtol=1e-6)


@pytest.mark.parametrize(
    ("kernel", "far", "near"),
    [(laplacian_kernel, 2.0, 1.0), (gaussian_kernel, 4.0, 1.0)],
    ids=["laplacian", "gaussian"],
)
def test_mmd_of_two_against_two_points_by_hand(kernel, far, near):
    # x = {0, 2}, y = {1, 3} on a line, 2 sigma = 1: distances 2 within each, and 1, 3, 1, 1 between;
    # k = exp(-distance) or exp(-distance^2): within (1 + k(2)) / 2 each, between (3 k(1) + k(3)) / 4
    farthest = {2.0: 3.0, 4.0: 9.0}[far]
    within, between = (1 + np.exp(-far)) / 2, (3 * np.exp(-near) + np.exp(-farthest)) / 4
    expected = np.sqrt(2 * within - 2 * between + 1e-6)
    x, y = tf.constant([[[0.0]], [[2.0]]]), tf.constant([[[1.0]], [[3.0]]])  # [N, B, A] = [2, 1, 1]
    np.testing.assert_allclose(maximum_mean_discrepancy(x, y, kernel, 0.5), [expected], rtol=1e-5)
    plane = [tf.concat([points, 0.0 * points], axis=-1) for points in (x, y)]  # the same line in a plane
    np.testing.assert_allclose(maximum_mean_discrepancy(*plane, kernel, 0.5), [expected], rtol=1e-5)


def test_squared_discrepancy_is_the_square_without_floor():
    # x = {0}, y = {d}: 2 - 2 exp(-d / (2 sigma))
    y = tf.constant([[[0.0], [1.0], [3.0]]])
    values = squared_discrepancy(tf.zeros([1, 3, 1]), y, laplacian_kernel, 10.0)
    np.testing.assert_allclose(values, 2.0 - 2.0 * np.exp([0.0, -0.05, -0.15]), rtol=1e-5, atol=1e-7)
    policy, action, observation = repeated_policy(1, std=np.full([B, A], 1e-6))
    behavior = GaussianBehavior(lambda o: diagonal_gaussian(tf.zeros([o.shape[0], A]), tf.fill([o.shape[0], A], 1e-6)))
    divergence = MMD(samples=3, sigma=10.0, squashed=True, measure=squared_discrepancy)
    expected = 2.0 - 2.0 * np.exp(-np.abs(np.tanh(MEAN)).sum(axis=1) / 20.0)
    np.testing.assert_allclose(divergence(policy, action, behavior, observation, SEED), expected, rtol=1e-3)


def test_mmd_treats_states_apart_and_sets_of_different_size():
    # x = {0, 0, 0}, y = {0, d}: k(x,x) = 1, k(y,y) = (1 + k) / 2, k(x,y) = (1 + k) / 2, so MMD^2 = (1 - k) / 2
    distance = np.array([0.0, 1.0, 2.0, 50.0], np.float32)
    y = tf.constant(np.stack([0 * distance, distance])[:, :, None])
    mmd = maximum_mean_discrepancy(tf.zeros([3, 4, 1]), y, laplacian_kernel, 1.0)
    np.testing.assert_allclose(mmd, np.sqrt((1 - np.exp(-distance / 2)) / 2 + 1e-6), rtol=1e-4)


@pytest.mark.parametrize("kernel", [laplacian_kernel, gaussian_kernel])
def test_mmd_of_equal_samples_is_its_floor_with_a_finite_gradient(kernel):
    samples = tf.constant(np.random.default_rng(0).normal(size=[4, B, A]), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(samples)
        mmd = maximum_mean_discrepancy(samples, tf.stop_gradient(samples), kernel, 20.0)
    np.testing.assert_allclose(mmd, np.full(B, 1e-3), rtol=0.1)  # sqrt(1e-6), rounding of the means aside
    assert np.all(np.isfinite(tape.gradient(mmd, samples)))


@pytest.mark.parametrize("squashed", [False, True])
def test_mmd_of_a_narrow_policy_and_a_constant_decoder(squashed):
    # all samples coincide, x = mean, y = m: MMD^2 = 2 - 2 exp(-||x - y||_1 / (2 sigma)), in u- or in a-space
    policy, action, observation = repeated_policy(1, std=np.full([B, A], 1e-6))
    vae = independent_vae([0.25, 0.75], [[0.0, -0.5], [1.2, 1.5]], [[3.0, 3.0], [3.0, 3.0]], latent_size=4)
    x, y = MEAN, np.array([0.9, 1.0])  # the mixture's mean, its wide deviation does not take part
    if squashed:
        x, y = np.tanh(x), np.tanh(y)
    expected = np.sqrt(2 - 2 * np.exp(-np.abs(x - y).sum(axis=1) / (2 * 1.5)) + 1e-6)
    divergence = MMD(samples=7, sigma=1.5, squashed=squashed)
    np.testing.assert_allclose(divergence(policy, action, vae, observation, SEED), expected, rtol=1e-3)


def test_mmd_takes_its_behavior_samples_from_clipped_latents():
    # decoder mean = 100 z, latents clipped to +-0.1: y is within +-10; narrow kernel, policy at 0 and at 10
    scale = 100.0
    vae = LinearGaussian(np.zeros(1), np.array([scale]), np.ones(1)).vae()
    clip = MMD(samples=400, sigma=0.01, latent_clip=0.1)
    policy = diagonal_gaussian(tf.constant([[0.0], [10.0]]), tf.fill([2, 1], 1e-6))
    mmd = clip(policy, policy.mean(), vae, tf.zeros([2, O]), SEED).numpy()
    # at 10: a share c = P(z > 0.1) of y equals x and as many sit at -10, so k(x,y) = c and k(y,y) ~ 2 c^2;
    # at 0: k(x,y) ~ 0. k(x,x) = 1
    share = stats.norm.sf(0.1)
    expected = np.sqrt([1 + 2 * share**2, 1 + 2 * share**2 - 2 * share])
    np.testing.assert_allclose(mmd, expected, atol=0.05)


# What is left between a policy and itself ------------------------------------------------------------------------


def certain_behavior(mean):
    """A decoder that gives one action whatever the state and the latent: `mean` [A]."""
    return independent_vae([1.0], [mean], [[1.0] * len(mean)], latent_size=3)


def expected_kernel(deviation, width, size):
    """E exp(-||d||_1 / (2 width)) of d ~ N(0, deviation^2) in `size` entries: Laplace transforms of half-normals."""
    share = deviation / (2.0 * width)
    return (2.0 * stats.norm.sf(share) * np.exp(share**2 / 2.0)) ** size


HANDS = {"door": (28, -60.0), "relocate": (30, -60.0), "hammer": (26, -60.0), "pen": (24, -200.0)}
FLOORS = {20.0: (0.107, 0.119, 0.095, 0.048), 120.0: (0.044, 0.049, 0.039, 0.020)}


@pytest.mark.parametrize(("task", "width"), [(task, width) for task in HANDS for width in FLOORS])
def test_floor_of_the_mmd_at_table_6s_entropies(task, width):
    """Ten samples of a policy with the right mean, as narrow as Table 6's H0 (or e^-5, the actor's bound) allows."""
    size, entropy = HANDS[task]
    floor = MMD(samples=10, sigma=width).floor(
        certain_behavior([0.0] * size), tf.zeros([300, O]), tf.constant(entropy), np.exp(-5.0), SEED
    )
    # H = A log(s sqrt(2 pi e)) around 0, where tanh is straight
    deviation = max(np.exp(entropy / size - 0.5 * np.log(2 * np.pi * np.e)), np.exp(-5.0))
    apart, between = (expected_kernel(factor * deviation, width, size) for factor in (np.sqrt(2.0), 1.0))
    expected = np.sqrt(1.0 + 0.1 + 0.9 * apart - 2.0 * between)
    assert expected == pytest.approx(FLOORS[width][list(HANDS).index(task)], abs=6e-4)
    assert floor.shape == (300,) and float(tf.reduce_mean(floor)) == pytest.approx(expected, rel=0.02)


def test_floor_of_the_mmd_rises_where_tanh_is_flat():
    """Around u = 2 the squashed action has log(1 - tanh(2)^2) = -2.65 nats less an entry: the policy must be wider."""
    floors = [
        MMD(samples=5, sigma=3.0).floor(certain_behavior([mean] * 6), tf.zeros([400, O]), tf.constant(-18.0), 0.0, SEED)
        for mean in (0.0, 2.0)
    ]
    expected = []
    for mean in (0.0, 2.0):
        deviation = np.exp(-3.0 - np.log(1.0 - np.tanh(mean) ** 2) - 0.5 * np.log(2 * np.pi * np.e))
        apart, between = (expected_kernel(factor * deviation, 3.0, 6) for factor in (np.sqrt(2.0), 1.0))
        expected.append(np.sqrt(1.0 + 0.2 + 0.8 * apart - 2.0 * between))
    assert [float(tf.reduce_mean(floor)) for floor in floors] == pytest.approx(expected, rel=0.03)
    assert expected[1] > 3.0 * expected[0]


@pytest.mark.parametrize("entropy", [-np.inf, 0.0])  # the second asks for deviations of about 0.4
def test_floor_of_the_mmd_between_two_sets_of_a_wide_behaviours_samples(entropy):
    """E MMD^2 = 2 (1 - E k) / N; noise is added only where the model's own samples are narrower than they must be."""
    behavior = GaussianBehavior(lambda o: diagonal_gaussian(tf.zeros([o.shape[0], A]), tf.fill([o.shape[0], A], 0.9)))
    divergence = MMD(samples=16, sigma=1.5, measure=squared_discrepancy)
    floor = divergence.floor(behavior, tf.zeros([2000, O]), tf.constant(entropy), 0.0, SEED)
    expected = 2.0 * (1.0 - expected_kernel(np.sqrt(2.0) * 0.9, 1.5, A)) / 16.0
    assert float(tf.reduce_mean(floor)) == pytest.approx(expected, rel=0.03)


def test_what_is_said_of_a_batchs_divergences_by_hand():
    """Of 1 to 20 in disorder: the 11th of them, the 20th, and the five beyond 15, which is itself within."""
    divergence = np.random.default_rng(0).permutation(np.arange(1.0, 21.0)).astype(np.float32)
    said = divergence_metrics(tf.constant(divergence), tf.constant(15.0))
    expected = {"divergence_mean": 10.5, "divergence_median": 11.0, "divergence_p95": 20.0, "violated_share": 0.25}
    assert {name: float(value) for name, value in said.items()} == expected
