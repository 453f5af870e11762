import math

import numpy as np
import pytest
import tensorflow as tf
import tiny
from fakes import assert_mean, linear_actor, linear_critic, random_behavior, seeds
from scipy import stats

from brac_plus_tf.agents.actor_critic import (
    ActorCritic,
    MaxQ,
    Training,
    draw_policy,
    gaussian_policies,
    mean_over_draws,
)
from brac_plus_tf.agents.base import Problem
from brac_plus_tf.agents.value_learning import watch_value
from brac_plus_tf.core.randomness import standard_normal
from brac_plus_tf.core.types import Dimensions, Transition
from brac_plus_tf.models.distributions import diagonal_gaussian
from brac_plus_tf.models.networks import Actor, CriticNetwork
from brac_plus_tf.models.optimization import build_adam
from brac_plus_tf.objectives.divergences import MMD, KLUpperBound, SampledKL
from brac_plus_tf.objectives.losses import mean_value
from brac_plus_tf.objectives.multipliers import Multiplier

B, N, O, A = 5, 4, 3, 2  # noqa: E741
SEED = tf.constant([1, 2], tf.int32)
OBSERVATION = tf.constant(np.random.default_rng(0).normal(size=[B, O]), tf.float32)
MEAN_KERNEL, MEAN_BIAS = np.array([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]]), np.array([0.5, -1.0])  # (o0 + 1/2, 2 o1 - 1)
MAIN = Training(policy_learning_rate=0.1)
NARROW = [0.0068, 0.0068]  # close to the least deviation, e^-5


def means() -> np.ndarray:
    return OBSERVATION.numpy() @ MEAN_KERNEL + MEAN_BIAS


def test_row_n_b_plus_b_of_a_draw_belongs_to_state_b():
    draw = draw_policy(linear_actor(MEAN_KERNEL, MEAN_BIAS, NARROW), OBSERVATION, N, SEED)
    assert draw.action.shape == draw.pre_tanh_action.shape == [N * B, A]
    for n in range(N):
        rows = slice(n * B, (n + 1) * B)
        np.testing.assert_array_equal(draw.observation[rows], OBSERVATION)
        np.testing.assert_allclose(draw.pre_tanh_action[rows], means(), atol=5 * NARROW[0])
    assert len({float(value) for value in draw.pre_tanh_action[:, 0]}) == N * B  # every row its own noise


def test_draws_have_the_moments_and_log_probabilities_of_the_policy():
    deviations = [0.4, 1.3]
    draw = draw_policy(linear_actor(MEAN_KERNEL, MEAN_BIAS, deviations), OBSERVATION, 3000, SEED)
    u = draw.pre_tanh_action.numpy().astype(np.float64).reshape(3000, B, A)
    assert_mean(u, means())
    assert_mean((u - means()) ** 2, np.square(deviations))
    np.testing.assert_allclose(draw.action.numpy().reshape(3000, B, A), np.tanh(u), atol=1e-6)
    # change of variables: log N(u) + 2 log cosh(u), summed over the action
    expected = (stats.norm.logpdf(u, means(), deviations) + 2 * (np.logaddexp(u, -u) - math.log(2))).sum(axis=-1)
    np.testing.assert_allclose(draw.log_prob.numpy().reshape(3000, B), expected, rtol=1e-3, atol=1e-4)


def test_ways_to_act_are_the_mean_and_draws_of_the_policy():
    """The mean by hand; draws, each row with a seed of its own, by the Gaussian's moments."""
    policies, deviations = gaussian_policies(linear_actor(MEAN_KERNEL, MEAN_BIAS, [0.4, 1.3])), [0.4, 1.3]
    mean, _ = policies["mean"].draw(OBSERVATION, (), SEED)
    np.testing.assert_allclose(mean, np.tanh(means()), atol=1e-6)
    count = 4000
    rows = tf.repeat(OBSERVATION[:1], count, axis=0)
    own = tf.stack([tf.range(count), tf.range(count) * 7 + 3], axis=1)
    drawn, _ = policies["sample"].draw(rows, (), own)
    u = np.arctanh(np.clip(drawn.numpy().astype(np.float64), -1 + 1e-7, 1 - 1e-7))
    assert_mean(u, means()[0])
    assert_mean((u - means()[0]) ** 2, np.square(deviations))


def test_targets_begin_as_copies_of_their_critics():
    learner = ActorCritic(Problem(Dimensions(O, A)), 0, Actor((4,)), tiny.critic((4,)), MAIN, MaxQ())
    weights = learner.critic.get_weights(), learner.target_critic.get_weights()
    for source, target in zip(*weights, strict=True):
        np.testing.assert_array_equal(source, target)
    assert any(weight.any() for weight in weights[0])


def test_critics_and_targets_have_the_activation_that_is_set():
    """Zero kernels before it: what comes out is the last weight times the activation of the first bias."""
    seen = tiny.critic((1,), activation=lambda hidden: hidden + 7.0)
    learner = ActorCritic(Problem(Dimensions(O, A)), 0, Actor((4,)), seen, MAIN, MaxQ())
    for network in (learner.critic, learner.target_critic):
        for kernel, value in zip(network.kernels, (0.0, 2.0), strict=True):
            kernel.assign(tf.fill(kernel.shape, value))
        np.testing.assert_allclose(network(OBSERVATION, tf.zeros([B, A])), np.full([2, B], 14.0))


def test_draws_are_differentiable_in_the_actors_weights():
    actor = linear_actor(MEAN_KERNEL, MEAN_BIAS, [0.4, 1.3])
    with tf.GradientTape() as tape:
        draw = draw_policy(actor, OBSERVATION, N, SEED)
        total = tf.reduce_sum(draw.pre_tanh_action)
    kernel, bias = tape.gradient(total, [weight.value for weight in actor.trainable_variables])
    # u = o kernel + bias + std eps: each mean weight collects its observation N times over
    np.testing.assert_allclose(kernel[0, :, 0], N * OBSERVATION.numpy().sum(axis=0), rtol=1e-4)
    np.testing.assert_allclose(bias[0, :A], [N * B, N * B], rtol=1e-6)


def test_mean_over_draws_by_hand():
    values = tf.constant([1.0, 2.0, 3.0, 5.0, 6.0, 10.0])  # N = 2, B = 3
    np.testing.assert_array_equal(mean_over_draws(values, 2), [3.0, 4.0, 6.5])
    np.testing.assert_allclose(mean_over_draws(values, 3), [(1 + 3 + 6) / 3, (2 + 5 + 10) / 3])


def make_learner(actor, q_weights, q_biases=(0.0, 0.0), **critic) -> ActorCritic:
    """Linear critics and a linear actor with the given weights; the targets equal the critics."""
    shape = Actor(hidden_sizes=(), log_std_range=(-5.0, 2.0))
    learner = ActorCritic(Problem(Dimensions(O, A)), 0, shape, tiny.critic((), **critic), MAIN, MaxQ())
    weights = linear_critic(q_weights, q_biases).get_weights()
    learner.actor.set_weights(actor.get_weights())
    learner.critic.set_weights(weights)
    learner.target_critic.set_weights(weights)
    return learner


def at_next(observation) -> Transition:
    """A batch of which only the next observations matter."""
    rows = observation.shape[0]
    nothing = tf.fill([rows, O], np.nan), tf.fill([rows, A], np.nan), tf.zeros([rows]), tf.ones([rows])
    return Transition(*nothing, observation, tf.fill([rows, A], np.nan))


def test_next_value_of_a_sure_policy_is_the_smaller_critic_at_its_action():
    actor = linear_actor(MEAN_KERNEL, MEAN_BIAS, NARROW)
    learner = make_learner(
        actor, [[0, 1, 0, 1, 0], [0, 0, 0, 0, 2]], [0.0, 0.5], target_samples=N
    )  # o1 + a0, 2 a1 + .5
    learner.critic.set_weights([0 * weight for weight in learner.critic.get_weights()])  # the targets are what counts
    value = learner.next_value(at_next(OBSERVATION), SEED)
    action = np.tanh(means())
    expected = np.minimum(OBSERVATION.numpy()[:, 1] + action[:, 0], 2.0 * action[:, 1] + 0.5)
    np.testing.assert_allclose(value, expected, atol=0.06)  # max of N draws: up to 4 deviations, times a slope of 2
    other = linear_actor(0 * MEAN_KERNEL, [0.3, 2.0], NARROW)
    value = learner.next_value(at_next(OBSERVATION), SEED, other)
    expected = np.minimum(OBSERVATION.numpy()[:, 1] + np.tanh(0.3), 2.0 * np.tanh(2.0) + 0.5)
    np.testing.assert_allclose(value, expected, atol=0.06)


def test_next_value_is_the_best_of_its_samples():
    # Q = a0 with u0 ~ N(0, 1): the maximum of n samples has distribution Phi^n, its median is tanh(Phi^-1(2^(-1/n)))
    actor = linear_actor(np.zeros([O, A]), np.zeros(A), [1.0, 1.0])
    for samples in (1, 7):
        learner = make_learner(actor, [[0, 0, 0, 1, 0], [0, 0, 0, 1, 0]], target_samples=samples)
        values = learner.next_value(at_next(tf.zeros([4000, O])), SEED).numpy()
        assert_mean(values < np.tanh(stats.norm.ppf(0.5 ** (1 / samples))), 0.5)


def test_fit_critic_by_hand():
    actor = linear_actor(MEAN_KERNEL, MEAN_BIAS, NARROW)
    q_weights = [[0, 1, 0, 1, 0], [0, 0, 0, 0, 2]]  # o1 + a0 and 2 a1 + 3
    learner = make_learner(actor, q_weights, [0.0, 3.0], learning_rate=0.01, gamma=0.5)
    batch = Transition(
        observation=tf.constant([[0.0, 1.0, 0.0], [0.0, -2.0, 0.0]]),
        action=tf.constant([[0.5, -1.0], [-1.0, 0.5]]),
        reward=tf.constant([1.0, 2.0]),
        discount=tf.constant([1.0, 0.0]),
        next_observation=tf.zeros([2, O]),
        next_action=tf.zeros([2, A]),
    )
    # Q_1 = (1.5, -3), Q_2 = (1, 4); y = (1 + 0.5 * 4, 2) = (3, 2); the terminal state drops its next value
    # squared errors (2.25, 25) and (4, 4): sums (6.25, 29), mean 17.625; penalty 0.1 * mean(3, 5) = 0.4
    before = learner.critic.get_weights()
    metrics = learner.fit_critic(batch, tf.constant([4.0, 100.0]), lambda: tf.constant([3.0, 5.0]), 0.1)
    expected = {"critic_loss": 18.025, "td_error": 17.625, "critic_penalty": 4.0, "target_mean": 2.5}
    expected |= {"q_mean": (1.5 - 3.0 + 1.0 + 4.0) / 4, "q_max": 4.0}
    assert {key: float(value) for key, value in metrics.items()} == pytest.approx(expected, rel=1e-6)
    # d loss / d bias_j = mean 2 (Q_j - y): errors (-1.5, -5) and (-2, 2), so -6.5 and 0;
    # d / d weights_1 = -1.5 (0,1,0,.5,-1) - 5 (0,-2,0,-1,.5) = (0, 8.5, 0, 4.25, -1)
    # d / d weights_2 = -2 (0,1,0,.5,-1) + 2 (0,-2,0,-1,.5) = (0, -6, 0, -3, 3); Adam's first step is 0.01 sign
    kernel, bias = (after - start for after, start in zip(learner.critic.get_weights(), before, strict=True))
    np.testing.assert_allclose(bias[:, 0], [0.01, 0.0], rtol=1e-3, atol=1e-6)
    signs = np.array([[0, 1, 0, 1, -1], [0, -1, 0, -1, 1]])
    np.testing.assert_allclose(kernel[:, :, 0], -0.01 * signs, rtol=1e-3, atol=1e-6)


def test_fit_critic_descends_the_penalty_too_by_the_optimiser_given():
    actor = linear_actor(MEAN_KERNEL, MEAN_BIAS, NARROW)
    learner = make_learner(actor, [[0, 0, 0, 1.5, 0], [0, 0, 0, 1.5, 0]], learning_rate=0.5, gamma=0.9)
    batch = Transition(
        tf.zeros([4, O]), tf.zeros([4, A]), tf.zeros([4]), tf.ones([4]), tf.zeros([4, O]), tf.zeros([4, A])
    )
    # Q = 0 = y at the data, so only the penalty (weight of a0)^2 has a gradient, 2 * 1.5 > 0
    learner.fit_critic(
        batch,
        tf.zeros([4]),
        lambda: tf.square(learner.critic.trainable_variables[0][:, 3, 0]),
        0.1,
        build_adam(0.01, learner.critic.trainable_variables),
    )
    kernel, bias = learner.critic.get_weights()
    np.testing.assert_allclose(kernel[:, 3, 0], [1.49, 1.49], rtol=1e-5)
    np.testing.assert_array_equal(bias, np.zeros([2, 1]))


def test_fitting_a_critic_leaves_its_target_and_the_policy_alone():
    learner = make_learner(linear_actor(MEAN_KERNEL, MEAN_BIAS, [1.0, 1.0]), [[0, 1, 0, 1, 0], [0, 0, 0, 0, 2]])
    before = learner.actor.get_weights() + learner.target_critic.get_weights()
    batch = Transition(OBSERVATION, tf.zeros([B, A]), tf.ones([B]), tf.ones([B]), OBSERVATION, tf.zeros([B, A]))
    learner.fit_critic(batch, learner.next_value(batch, SEED))
    after = learner.actor.get_weights() + learner.target_critic.get_weights()
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)


def test_q_beyond_what_rewards_can_sum_to_is_warned_about():
    # 1 + 0.9 * 2 ... : rewards of at most 2 sum to 2 / (1 - 0.9) = 20; a tenth more is let pass
    dataset = tiny.make_dataset()
    rewards = np.linspace(-1.0, 2.0, len(dataset.transitions.reward), dtype=np.float32)
    watch, dataset = watch_value(0.9), tiny.with_columns(dataset, reward=rewards)
    assert watch(dataset, 0, {"q_max": 21.9}) == {}
    assert watch(dataset, 0, {"q_max": 22.1}) == {"value": "Q reaches 22.1, rewards of at most 2 sum to 20: Q diverges"}
    losses = tiny.with_columns(dataset, reward=-abs(rewards) - 1.0)
    assert watch(losses, 0, {"q_max": -0.1}) == {} and watch(losses, 0, {"q_max": 0.1})


def test_max_q_picks_what_the_critics_prefer():
    # both critics like a0 high and dislike a1: of 50 draws of N(0, 1) the best beats any typical one
    actor = linear_actor(np.zeros([O, A]), np.zeros(A), [1.0, 1.0])
    for sign in (1.0, -1.0):
        critic = linear_critic([[0, 0, 0, sign, 0], [0, 0, 0, sign, 0]])
        max_q = tf.function(
            lambda seed, critic=critic: MaxQ(samples=50).policy(actor, critic).draw(tf.zeros([1, O]), (), seed)[0]
        )
        action = sign * np.array([max_q(seed)[0, 0] for seed in seeds(300)])
        # distribution of the maximum of 50 is Phi^50
        assert stats.kstest(np.arctanh(action), lambda u: stats.norm.cdf(u) ** 50).pvalue > 1e-3


def test_max_q_goes_by_the_smaller_critic_of_each_state():
    # o1 = 1: min(a0, 9 + a1) = a0 is what counts; o1 = -1: min(a0 + 9.., a1 ..) = a1
    critic = linear_critic([[0, -9, 0, 1, 0], [0, 9, 0, 0, 1]])
    actor = linear_actor(np.zeros([O, A]), np.zeros(A), [1.0, 1.0])
    observation = tf.constant([[0.0, 1.0, 0.0], [0.0, -1.0, 0.0]])
    max_q = tf.function(lambda seed: MaxQ(samples=20).policy(actor, critic).draw(observation, (), seed)[0])
    action = np.concatenate([max_q(seed) for seed in seeds(200)])
    expected_median = np.tanh(stats.norm.ppf(0.5 ** (1 / 20)))
    assert_mean(action[0::2, 0] < expected_median, 0.5)
    assert_mean(action[1::2, 1] < expected_median, 0.5)
    assert_mean(action[0::2, 1] < 0.0, 0.5)  # the other entry is an ordinary draw
    assert_mean(action[1::2, 0] < 0.0, 0.5)


def test_max_q_ranks_by_what_it_is_given():
    """Critics 3 a0 - 1 and 1.6 - 1.3 a0: their mean is largest at a0 = 1, their minimum at 0.6, their maximum at -1."""
    critic, noise = linear_critic([[0, 0, 0, 3, 0], [0, 0, 0, -1.3, 0]], (-1.0, 1.6)), standard_normal([50, 1, A], SEED)
    actor = linear_actor(np.zeros([O, A]), np.zeros(A), [1.0, 1.0])
    by_mean, by_minimum = (
        MaxQ(samples=50, **rank).policy(actor, critic).draw(tf.zeros([1, O]), (), SEED)[0].numpy()[0]
        for rank in ({"rank": mean_value}, {})
    )
    draws = np.tanh(noise[:, 0])
    np.testing.assert_allclose(by_mean, draws[draws[:, 0].argmax()], rtol=1e-5)
    np.testing.assert_allclose(
        by_minimum, draws[np.minimum(3 * draws[:, 0] - 1, 1.6 - 1.3 * draws[:, 0]).argmax()], rtol=1e-5
    )
    assert by_mean[0] > 0.9 and 0.4 < by_minimum[0] < 0.8


def test_max_q_clips_its_draws_around_each_states_mean():
    critic = linear_critic([[0, 0, 0, 1, 0], [0, 0, 0, 1, 0]])
    deviations = np.array([0.4, 0.7])
    actor = linear_actor(MEAN_KERNEL, MEAN_BIAS, deviations)
    clipped = MaxQ(samples=200, clip=0.5).policy(actor, critic).draw(OBSERVATION, (), SEED)[0].numpy()
    # among 200 draws some exceed half a deviation, so the preferred entry lies on the bound itself
    np.testing.assert_allclose(clipped[:, 0], np.tanh(means() + 0.5 * deviations)[:, 0], rtol=1e-5)
    assert np.all(np.abs(np.arctanh(clipped) - means()) <= 0.5 * deviations + 1e-3)
    free = MaxQ(samples=200).policy(actor, critic).draw(OBSERVATION, (), SEED)[0].numpy()
    assert np.all(free[:, 0] > np.tanh(means() + 1.5 * deviations)[:, 0])  # 1.5 deviations: 13 of 200 draws exceed it


def test_sampling_functions_agree_eagerly_in_a_graph_and_compiled():
    dimensions = Dimensions(O, A)
    actor, critic = Actor(hidden_sizes=(8,)).build(dimensions, 0), CriticNetwork((8,), 2, dimensions, 0)
    learner = ActorCritic(Problem(dimensions), 0, Actor((8,)), tiny.critic((8,), target_samples=N), MAIN, MaxQ())
    behavior = random_behavior(dimensions, components=3, latent_size=6, weights_seed=0)

    def everything(observation, seed):
        draw = draw_policy(actor, observation, N, seed)
        policy = diagonal_gaussian(*actor(observation))
        measured = policy, draw.pre_tanh_action[:B], behavior.select(seed)[0], observation, seed
        return {
            "log_prob": draw.log_prob,
            "next_value": learner.next_value(at_next(observation), seed),
            "max_q": MaxQ(samples=7).policy(actor, critic).draw(observation, (), seed)[0],
            "bound": KLUpperBound(7)(*measured),
            "sampled_kl": SampledKL(2, 7)(*measured),
            "mmd": MMD(samples=7, sigma=1.0)(*measured),
        }

    eager = everything(OBSERVATION, SEED)
    for compiled in (False, True):
        traced = tf.function(everything, jit_compile=compiled)(OBSERVATION, SEED)
        for key, value in eager.items():
            np.testing.assert_allclose(traced[key], value, rtol=1e-3, atol=1e-4, err_msg=key)
    other = everything(OBSERVATION, tf.constant([1, 3], tf.int32))
    assert all(np.abs(other[key] - eager[key]).max() > 1e-3 for key in eager)  # all of them do depend on the seed


# A learned scalar multiplier -------------------------------------------------------------------------------------


def test_a_multiplier_rises_by_adams_step_while_violated_and_falls_while_slack():
    multiplier = Multiplier(initial=2.0, learning_rate=0.1).build()
    multiplier.ascend(tf.constant(7.0))
    assert float(multiplier()) == pytest.approx(2.1, rel=1e-6)  # Adam's first step has the size of its rate
    slack = Multiplier(initial=2.0, learning_rate=0.1).build()
    slack.ascend(tf.constant(-0.01))
    assert float(slack()) == pytest.approx(1.9, rel=1e-4)  # its epsilon of 1e-7 shows beside 0.01


def test_a_logarithmic_multiplier_is_stepped_in_its_logarithm():
    multiplier = Multiplier(initial=2.0, learning_rate=0.1, minimum=0.5, logarithmic=True).build()
    multiplier.ascend(tf.constant(7.0))
    assert float(multiplier()) == pytest.approx(2.0 * math.exp(0.1), rel=1e-6)


@pytest.mark.parametrize("logarithmic", [False, True])
def test_a_multiplier_stays_in_its_range_and_comes_back_from_its_edge(logarithmic):
    multiplier = Multiplier(initial=1.0, learning_rate=0.5, minimum=0.25, maximum=3.0, logarithmic=logarithmic).build()
    for _ in range(50):
        multiplier.ascend(tf.constant(-1.0))
    assert float(multiplier()) == pytest.approx(0.25)
    for _ in range(50):
        multiplier.ascend(tf.constant(1.0))
    assert float(multiplier()) == pytest.approx(3.0)


def test_a_multiplier_without_a_rate_stays_and_takes_no_gradient_from_a_loss():
    multiplier = Multiplier(initial=0.7, learning_rate=0.0).build()
    for violation in (5.0, -5.0):
        multiplier.ascend(tf.constant(violation))
    assert float(multiplier()) == pytest.approx(0.7)
    with tf.GradientTape() as tape:
        value = multiplier() * 3.0
    assert tape.gradient(value, multiplier.variables[0]) is None
