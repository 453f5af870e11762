import numpy as np
import pytest
import tensorflow as tf
from fakes import LinearGaussian, assert_mean, gaussian_kl, random_behavior, seeds
from scipy import stats
from scipy.special import logsumexp

from brac_plus_tf.core.randomness import fold, standard_normal
from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.models.action_auto_encoder import ActionAutoEncoder
from brac_plus_tf.models.behavior import (
    ConditionalVAE,
    GaussianBehavior,
    VAEEnsemble,
    all_members,
    draw_one_member,
    fit_ensemble,
)
from brac_plus_tf.models.distributions import diagonal_gaussian, gaussian_mixture
from brac_plus_tf.models.optimization import build_adam, gradient_step

B, K, Z = 5, 4, 2
DIMENSIONS = Dimensions(observation=6, action=3)
SEED = tf.constant([1, 2], tf.int32)
LINEAR = LinearGaussian(
    offset=np.array([0.5, -1.0, 0.0]), gain=np.array([1.2, 0.6, 0.1]), noise=np.array([0.5, 0.8, 2.0])
)


def normal(*shape: int, seed: int = 0) -> tf.Tensor:
    return tf.constant(np.random.default_rng(seed).normal(size=shape), tf.float32)


def integrated_log_prob(vae: ConditionalVAE, observation: tf.Tensor, u: tf.Tensor) -> np.ndarray:
    """log of the integral of p(u|s,z) N(z; 0, I) over a grid of z, Z = 2."""
    axis = np.linspace(-6.0, 6.0, 121)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 1, 2)
    latent = tf.constant(np.broadcast_to(grid, [len(grid), observation.shape[0], 2]), tf.float32)
    log_likelihood = vae.decoder(observation, latent).log_prob(u).numpy().astype(np.float64)
    log_cell = stats.norm.logpdf(grid).sum(axis=-1) + 2.0 * np.log(axis[1] - axis[0])
    return logsumexp(log_likelihood + log_cell, axis=0)


@pytest.mark.parametrize(("components", "weights_seed"), [(1, 0), (K, 1)])
def test_importance_sampled_log_prob_and_elbo_against_integration_over_the_latent(components, weights_seed):
    vae = random_behavior(DIMENSIONS, components, Z, weights_seed).member(1)
    observation = normal(B, 6)
    u = vae.sample(observation, 2, SEED)[1]
    exact = integrated_log_prob(vae, observation, u)
    many = [tf.repeat(value, 40, axis=0) for value in (observation, u)]
    share = np.exp(vae.log_prob(*many, 2000, SEED).numpy().reshape(B, 40).T - exact)
    assert_mean(share, 1.0)  # importance sampling is unbiased for p(u|s), not for its logarithm
    assert np.all(share.std(axis=0) < 0.5)

    draws = 500
    many = [tf.repeat(value, draws, axis=0) for value in (observation, u)]
    elbo = -vae.negative_elbo(*many, SEED)["negative_elbo"].numpy().reshape(B, draws).T
    few = vae.log_prob(*many, 8, SEED).numpy().reshape(B, draws).T
    # ELBO <= E[8-sample estimate] <= log p (Burda et al. 2016, Theorem 1), here with clear gaps
    standard_error = elbo.std(axis=0) / np.sqrt(draws)
    assert np.all(elbo.mean(axis=0) + standard_error < few.mean(axis=0))
    assert np.all(few.mean(axis=0) < exact + 4.0 * few.std(axis=0) / np.sqrt(draws))
    assert np.any(elbo.mean(axis=0) + 0.1 < exact)


@pytest.mark.parametrize("components", [1, K])
def test_decoder_is_a_normalised_density_of_its_own_state(components):
    vae = random_behavior(Dimensions(6, 1), components, Z, weights_seed=3).member(0)
    observation, latent = normal(B, 6), normal(7, B, Z)
    u = np.linspace(-30.0, 30.0, 3001, dtype=np.float32)
    density = np.exp(vae.decoder(observation, latent).log_prob(u[:, None, None, None]))
    np.testing.assert_allclose(density.sum(axis=0) * 0.02, np.ones([7, B]), atol=1e-3)
    alone = vae.decoder(observation[2:3], latent[4:5, 2:3]).log_prob(u[:, None, None, None])
    np.testing.assert_allclose(np.exp(alone)[:, 0, 0], density[:, 4, 2], rtol=1e-3, atol=1e-6)
    assert np.abs(density - density[:, :1, :1]).max() > 0.05  # state and latent matter


def test_decoder_weights_depend_on_state_and_latent():
    decoder = random_behavior(DIMENSIONS, K, Z, weights_seed=3).member(0).decoder(normal(B, 6), normal(7, B, Z))
    share = decoder.mixture_distribution.probs_parameter().numpy()
    assert share.shape == (7, B, K)
    assert np.ptp(share, axis=0).max(axis=-1).min() > 0.03  # over latents, in every state
    assert np.ptp(share, axis=1).max(axis=-1).min() > 0.03  # over states, for every latent


def test_linear_gaussian_log_prob_is_scipys_for_any_number_of_samples():
    # with the exact posterior every importance weight equals p(u), so two samples suffice
    observation, u = normal(B, 6), normal(B, 3)
    expected = stats.norm.logpdf(u, LINEAR.offset, LINEAR.marginal_std).sum(axis=1)
    np.testing.assert_allclose(LINEAR.vae().log_prob(observation, u, 2, SEED), expected, rtol=1e-4)


def test_linear_gaussian_negative_elbo_and_its_pieces():
    observation, u = normal(B, 6), normal(B, 3)
    terms = LINEAR.vae().negative_elbo(tf.tile(observation, [2000, 1]), tf.tile(u, [2000, 1]), SEED)
    latent_kl = gaussian_kl(LINEAR.slope * (u - LINEAR.offset), LINEAR.posterior_std, 0.0, 1.0)
    np.testing.assert_allclose(terms["latent_kl"][:B], latent_kl, rtol=1e-4)
    # an exact posterior makes the ELBO tight: its mean is -log p(u)
    expected = -stats.norm.logpdf(u, LINEAR.offset, LINEAR.marginal_std).sum(axis=1)
    assert_mean(tf.reshape(terms["negative_elbo"], [2000, B]), expected)


def test_active_units_are_the_latents_whose_posterior_mean_varies():
    u = tf.constant([[1.0], [-1.0], [1.0], [-1.0]])  # variance 1
    gains = tf.constant([2.0, 0.11, 0.09, 0.0, -0.5])  # variances of the mean 4, 0.0121, 0.0081, 0, 0.25

    def decoder(observation, latent):
        shape = tf.concat([tf.shape(latent)[:-1], [1, 1]], axis=0)
        return gaussian_mixture(tf.zeros(shape[:-1]), tf.zeros(shape), tf.ones(shape))

    vae = ConditionalVAE(lambda _, u: diagonal_gaussian(3.0 + gains * u, tf.ones([4, 5])), decoder, 5)
    assert float(vae.negative_elbo(normal(4, 6), u, SEED)["active_units"]) == 3.0


def test_slack_is_what_the_mean_divergence_of_each_latent_lacks():
    """Posterior means are gains u for u of 1 and -3: each latent's KL is its mean over the two states."""
    u, gains, std = np.array([[1.0], [-3.0]]), [2.0, 0.2, 0.0], [0.5, 0.9, 1.0]
    vae = ConditionalVAE(
        lambda _, u: diagonal_gaussian(tf.constant(gains) * u, tf.ones([2, 1]) * tf.constant(std)),
        LINEAR.vae().decoder,
        3,
    )
    entries = [gaussian_kl(gain * u, np.full([2, 1], s), 0.0, 1.0).mean() for gain, s in zip(gains, std, strict=True)]
    for free in (0.0, 0.05, 0.15, 3.0):
        expected = sum(max(free - entry, 0.0) for entry in entries)
        assert float(vae.slack(normal(2, 6), tf.constant(u, tf.float32), free)) == pytest.approx(expected, abs=1e-5)
    assert 0.03 < entries[1] < 0.15  # it lies between them


def fitted(free_nats):
    """After 400 steps on actions that are 1 or -1, each half of the time, whatever the state."""
    shape = VAEEnsemble(1, (16,), 2, log_std_range=(-2.0, 1.0), free_nats=free_nats)
    ensemble = shape.build(Dimensions(2, 1), 0)
    optimizer = build_adam(1e-2, ensemble.trainable_variables)

    @tf.function
    def step(index):
        own = fold(SEED, index)
        sign = tf.sign(standard_normal([1, 64, 1], own))
        observation, noise = standard_normal([1, 64, 2], fold(own, 1)), standard_normal([1, 64, 1], fold(own, 2))
        return fit_ensemble(ensemble, optimizer, observation, sign + 0.1 * noise, own)

    for index in tf.range(400):
        metrics = step(index)
    return {name: float(value) for name, value in metrics.items()}


def test_free_nats_keep_a_latent_in_use():
    """One Gaussian, of deviation 1.005, has 1.424 nats; two need a latent that tells them apart."""
    given_up, kept = fitted(0.0), fitted(0.5)
    assert kept["active_units"] >= 1.0 and kept["latent_kl"] > 0.3
    assert kept["negative_elbo"] < 1.0 < given_up["negative_elbo"] and given_up["latent_kl"] < 0.1


def test_sample_moments_of_a_linear_gaussian():
    samples = LINEAR.vae().sample(normal(B, 6), 4000, SEED).numpy()
    assert samples.shape == (4000, B, 3)
    assert_mean(samples, LINEAR.offset)
    assert_mean((samples - LINEAR.offset) ** 2, LINEAR.marginal_std**2)
    assert_mean(samples[:, 0] * samples[:, 1] - LINEAR.offset**2, 0.0)  # states draw their own latents


@pytest.mark.parametrize("components", [1, K])
def test_sample_moments_of_a_random_network_against_integration_over_the_latent(components):
    vae = random_behavior(DIMENSIONS, components, Z, weights_seed=5).member(0)
    observation = normal(B, 6)
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    grid = np.stack(np.meshgrid(nodes, nodes), axis=-1).reshape(-1, 1, 2)
    weight = np.outer(weights, weights).reshape(-1, 1, 1) / (2.0 * np.pi)
    latent = tf.constant(np.broadcast_to(grid, [1600, B, 2]), tf.float32)
    decoder = vae.decoder(observation, latent)
    share = tf.nn.softmax(decoder.mixture_distribution.logits)[..., None].numpy()
    parts = decoder.components_distribution
    means, variances = parts.mean().numpy(), parts.variance().numpy()
    expected_mean = np.sum(weight * np.sum(share * means, axis=2), axis=0)
    expected_square = np.sum(weight * np.sum(share * (means**2 + variances), axis=2), axis=0)
    samples = vae.sample(observation, 4000, SEED).numpy().astype(np.float64)
    tolerance = 0.02 * np.sqrt(expected_square)  # of the quadrature across the kinks of ReLU
    for values, expected in ((samples, expected_mean), (samples**2, expected_square)):
        error = 4.5 * values.std(axis=0) / np.sqrt(len(values))
        np.testing.assert_array_less(np.abs(values.mean(axis=0) - expected), error + tolerance)
    assert np.sum(weight * np.sum(share * means**2, axis=2), axis=0).max() > 0.3  # the latent moves the mean


@pytest.mark.parametrize("clip", [0.5, 2.0])
def test_prior_decoder_clips_each_latent(clip):
    vae = LinearGaussian(np.zeros(3), np.ones(3), np.ones(3)).vae()  # the decoder's mean is the latent
    # of the one component: the weight of 1 beside it is only nearly so on some processors
    latent = vae.prior_decoder(normal(B, 6), 2000, clip, SEED).components_distribution.mean()[..., 0, :].numpy()
    assert latent.shape == (2000, B, 3)
    assert np.abs(latent).max() == clip
    assert_mean(np.abs(latent.ravel()) == clip, 2.0 * stats.norm.sf(clip))  # the two tails of N(0, 1)


def test_members_by_integer_by_tensor_and_all_at_once_agree_and_differ_from_one_another():
    network = random_behavior(DIMENSIONS, K, Z, weights_seed=0, members=3)
    observation, u, latent = normal(B, 6), normal(B, 3), normal(7, B, Z)

    def outputs(index):
        return outputs_of(network.member(index))

    def outputs_of(vae):
        return np.concatenate(
            [
                tf.reshape(vae.posterior(observation, u).mean(), [-1]),
                tf.reshape(vae.decoder(observation, latent).log_prob(u), [-1]),
            ]
        )

    by_integer = [outputs(index) for index in range(3)]
    for index in range(3):
        np.testing.assert_allclose(outputs(tf.constant(index)), by_integer[index], rtol=1e-5, atol=1e-5)
    for vae, expected in zip(network.every_member(), by_integer, strict=True):
        np.testing.assert_allclose(outputs_of(vae), expected, rtol=1e-5, atol=1e-5)
    assert min(np.abs(by_integer[i] - by_integer[j]).max() for i, j in ((0, 1), (1, 2), (0, 2))) > 0.5


def numbered_ensemble(select, members: int = 7):
    """The posterior mean of member i is i, whatever the input."""
    shape = VAEEnsemble(members=members, hidden_sizes=(), latent_size=1, select=select)
    network = shape.build(DIMENSIONS, 0)
    kernel, bias = (np.zeros_like(weight) for weight in network.encoder.get_weights())
    bias[:, 0] = np.arange(members)
    network.encoder.set_weights([kernel, bias])
    return network


def number(vae: ConditionalVAE) -> tf.Tensor:
    return vae.posterior(tf.zeros([1, 6]), tf.zeros([1, 3])).mean()[0, 0]


def test_all_members_gives_each_once():
    assert [float(number(vae)) for vae in numbered_ensemble(all_members).select(SEED)] == list(range(7))


def test_draw_one_member_draws_each_equally_often_and_one_per_seed():
    network = numbered_ensemble(draw_one_member)
    assert len(network.select(SEED)) == 1

    @tf.function
    def draw(seed):
        return number(network.select(seed)[0])

    drawn = [int(draw(seed)) for seed in seeds(700)]
    assert stats.chisquare(np.bincount(drawn, minlength=7)).pvalue > 1e-4  # expected: 100 of each of 0..6
    assert drawn[:5] == [int(number(network.select(seed)[0])) for seed in seeds(5)]


def test_default_latent_has_two_units_per_action():
    vae = VAEEnsemble(members=2, hidden_sizes=(8,)).build(DIMENSIONS, 0).member(0)
    assert vae.latent_size == 6
    assert vae.posterior(normal(B, 6), normal(B, 3)).event_shape == [6]
    # p(z) = N(0, I): log density at 0 and at (1, .., 1)
    log_density = [float(vae.prior().log_prob(tf.fill([6], value))) for value in (0.0, 1.0)]
    np.testing.assert_allclose(log_density, [-3.0 * np.log(2 * np.pi), -3.0 * np.log(2 * np.pi) - 3.0], rtol=1e-6)


def test_negative_elbo_trains_encoder_and_decoder_of_its_member_only():
    network = random_behavior(DIMENSIONS, 1, Z, weights_seed=0, members=3)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(network.member(1).negative_elbo(normal(B, 6), normal(B, 3), SEED)["negative_elbo"])
    weights = [weight.value for weight in network.trainable_variables]
    assert len(weights) == 8
    for gradient in tape.gradient(loss, weights):
        gradient = tf.convert_to_tensor(gradient).numpy()
        assert np.all(gradient[[0, 2]] == 0.0)
        assert np.any(gradient[1] != 0.0)


def test_draws_are_the_decoders_means():
    """Of latents that are all clipped to 0 there is one mean a state, whatever the decoder's deviation."""
    member = VAEEnsemble(1, (8,), mixture_components=2).build(Dimensions(6, 3), 0).member(0)
    observation = normal(B, 6)
    draws = member.draws(observation, 4, 0.0, SEED)
    expected = member.decoder(observation, tf.zeros([B, 6])).mean()
    np.testing.assert_allclose(draws, np.repeat(expected[None], 4, axis=0), atol=1e-6)


def test_a_policy_is_measured_in_the_type_that_is_asked_for():
    """bfloat16 has 8 bits: means move by about a hundredth, and only there."""
    ensemble = VAEEnsemble(1, (64,), compute_dtype="bfloat16").build(Dimensions(6, 3), 0)
    observation, latent = normal(B, 6), normal(B, 6, seed=2)
    measured, learned = (
        member.decoder(observation, latent).mean().numpy() for member in (ensemble.fixed_member(0), ensemble.member(0))
    )
    (every,) = (member.decoder(observation, latent).mean().numpy() for member in ensemble.every_member())
    np.testing.assert_allclose(every, learned, atol=1e-6)
    assert 1e-4 < np.abs(measured - learned).max() < 0.1


# A Gaussian in the model's place ------------------------------------------------------------------------------------


def test_gaussian_behavior_is_scipys_density_and_draws_from_it():
    mean, std = np.array([0.5, -1.0, 0.0]), np.array([0.4, 1.0, 2.0])
    model = GaussianBehavior(lambda o: diagonal_gaussian(tf.ones([o.shape[0], 1]) * mean, tf.ones([3]) * std))
    u = normal(B, 3, seed=1)
    expected = stats.norm.logpdf(u.numpy(), mean, std).sum(axis=1)
    np.testing.assert_allclose(model.log_prob(normal(B, 6), u, 99, SEED), expected, rtol=1e-5)
    draws = model.draws(normal(B, 6), 4000, 0.0, SEED).numpy()
    assert draws.shape == (4000, B, 3)
    assert_mean(draws, mean)
    assert_mean((draws - mean) ** 2, std**2)


# The auto-encoder of BCQ and BEAR -----------------------------------------------------------------------------------


def linear_auto_encoder(encoder_kernel, encoder_bias, decoder_kernel, decoder_bias):
    """Hidden layers left out: q(z|s,a) and the decoder are affine. O = 2, A = 2, Z = 3."""
    network = ActionAutoEncoder(hidden_sizes=(), latent_size=3).build(Dimensions(2, 2), 0)
    for part, kernel, bias in (
        (network.encoder, encoder_kernel, encoder_bias),
        (network.decoder, decoder_kernel, decoder_bias),
    ):
        part.set_weights([np.asarray(kernel, np.float32)[None], np.asarray(bias, np.float32)[None]])
    return network


def test_auto_encoder_loss_by_hand():
    # the latent is ignored by the decoder, which says tanh(o0) and tanh(0): squared errors by hand, KL by the textbook
    mean, log_std = np.array([1.0, 0.0, -2.0]), np.array([0.0, -1.0, 0.5])
    decoder = np.zeros([5, 2])
    decoder[0, 0] = 1.0
    network = linear_auto_encoder(np.zeros([4, 6]), np.concatenate([mean, log_std]), decoder, np.zeros(2))
    observation, action = np.array([[0.5, 9.0], [-1.0, 9.0]]), np.array([[0.1, 0.8], [-0.9, 0.0]])
    error = ((action - np.stack([np.tanh(observation[:, 0]), [0.0, 0.0]], axis=1)) ** 2).mean(axis=1)
    kl = gaussian_kl(mean, np.exp(log_std), 0.0, 1.0) / 3
    loss = network.loss(tf.constant(observation, tf.float32), tf.constant(action, tf.float32), SEED)
    np.testing.assert_allclose(loss, error + 0.5 * kl, rtol=1e-5)


def test_auto_encoder_cuts_log_deviations_off():
    network = linear_auto_encoder(np.zeros([4, 6]), [0, 0, 0, -9.0, 1.0, 99.0], np.zeros([5, 2]), np.zeros(2))
    deviation = network.posterior(tf.zeros([1, 2]), tf.zeros([1, 2])).stddev()
    np.testing.assert_allclose(deviation, np.exp([[-4.0, 1.0, 15.0]]), rtol=1e-5)


def test_auto_encoder_draws_decode_clipped_prior_latents():
    # u = (z0, 10 z1): half the mass of a clipped normal sits at the clip, P(|z| > 0.6745) = 1/2
    decoder = np.zeros([5, 2])
    decoder[2, 0], decoder[3, 1] = 1.0, 10.0
    network = linear_auto_encoder(np.zeros([4, 6]), np.zeros(6), decoder, np.zeros(2))
    draws = network.draws(tf.zeros([B, 2]), 2000, 0.6745, SEED).numpy()
    assert draws.shape == (2000, B, 2)
    assert np.abs(draws[..., 0]).max() == np.float32(0.6745)
    assert_mean(np.abs(draws[..., 0]).reshape(-1) == np.float32(0.6745), 0.5)
    np.testing.assert_allclose(np.abs(draws[..., 1]).max(), 6.745, rtol=1e-6)


def test_auto_encoder_learns_to_reproduce_actions():
    """Actions that depend on the state alone: the error of the best constant is 0.04, of the state's own action 0."""
    network = ActionAutoEncoder(hidden_sizes=(32,), learning_rate=1e-2).build(Dimensions(1, 1), 0)
    observation = tf.constant(np.linspace(-1.0, 1.0, 64)[:, None], tf.float32)
    action = 0.2 * tf.sign(observation)
    optimizer = build_adam(1e-2, network.trainable_variables)

    @tf.function
    def step(seed):
        loss = lambda: (tf.reduce_mean(network.loss(observation, action, seed)), {})  # noqa: E731
        return gradient_step(loss, network.trainable_variables, optimizer)[0]

    losses = [float(step(tf.constant([0, index], tf.int32))) for index in range(400)]
    assert losses[-1] < 0.01 < 0.03 < losses[0]
