"""BRAC: target and policy loss by hand, its limits, and bandits whose optimum another program finds."""

import numpy as np
import pytest
import tensorflow as tf
import tiny
from fakes import gaussian_kl, linear_actor, linear_critic
from scipy import optimize

from brac_plus_tf.agents.actor_critic import Training, draw_policy
from brac_plus_tf.agents.base import Problem
from brac_plus_tf.agents.brac import BRAC, Dual, Primal
from brac_plus_tf.agents.cloning import Cloning
from brac_plus_tf.agents.sac import SAC
from brac_plus_tf.core.randomness import base_seed
from brac_plus_tf.core.types import Dimensions, Transition
from brac_plus_tf.models.networks import Actor
from brac_plus_tf.models.optimization import Fit
from brac_plus_tf.objectives.divergences import SampledKL, dual_kl, dual_wasserstein
from brac_plus_tf.objectives.multipliers import Multiplier
from brac_plus_tf.runs.compiled_stage import compile_stage, take_step

SEED, DIMENSIONS = base_seed(4), Dimensions(observation=3, action=2)
LINEAR_ACTOR = Actor((), (-5.0, 2.0))
TRAINING = Training(epochs=1, steps_per_epoch=10, batch_size=20, policy_learning_rate=1e-3, warm_start=5)
CLONING = Cloning(actor=LINEAR_ACTOR, fit=Fit(steps=5, batch_size=20, decay=(1.0,)))
POLICY_STD, BEHAVIOR_MEAN, BEHAVIOR_STD = [0.05, 0.1], [0.1, -0.3], [0.2, 0.4]


def linear_agent(**settings) -> BRAC:
    """Policy u ~ N((o0, o1 / 2), POLICY_STD^2); behaviour fixed; Q' = min(o1 + a0, 2 a1 + 3), Q = min(a0, 3)."""
    divergence = Primal(SampledKL(samples=8), CLONING)
    agent = BRAC(
        Problem(DIMENSIONS),
        0,
        actor=LINEAR_ACTOR,
        critic=tiny.critic((), gamma=0.5),
        training=TRAINING,
        divergence=divergence,
        **settings,
    )
    agent.actor.set_weights(linear_actor([[1, 0], [0, 0.5], [0, 0]], [0.0, 0.0], POLICY_STD).get_weights())
    behavior = linear_actor(np.zeros([3, 2]), BEHAVIOR_MEAN, BEHAVIOR_STD)
    agent.regularizer.cloned.network.set_weights(behavior.get_weights())
    weights = linear_critic([[0, 1, 0, 1, 0], [0, 0, 0, 0, 2]], [0.0, 3.0]).get_weights()
    agent.target_critic.set_weights(weights)
    agent.critic.set_weights(linear_critic([[0, 0, 0, 1, 0], [0, 0, 0, 0, 0]], [0.0, 3.0]).get_weights())
    return agent


def one_state_batch(state, count: int) -> Transition:
    rows = tf.tile(tf.constant([state], tf.float32), [count, 1])
    action = tf.zeros([count, 2])
    return Transition(rows, action, tf.fill([count], 1.5), tf.ones([count]), rows, action)


@pytest.mark.parametrize(("value_penalty", "beta"), [(True, 0.0), (True, 0.2), (False, 0.2), (False, 0.0)])
def test_next_value_by_hand(value_penalty, beta):
    """One state 3000 times: the mean of Q' - beta log pi - [v] alpha D, with KL and entropy of textbooks."""
    agent = linear_agent(
        value_penalty=value_penalty,
        multiplier=Multiplier(initial=0.7, learning_rate=0.0),
        entropy=Multiplier(initial=beta, learning_rate=0.0),
    )
    state = [0.2, -0.6, 0.0]
    mean = np.array([0.2, -0.3])
    values = agent._next_value(one_state_batch(state, 3000), SEED).numpy()
    entropy = np.sum(0.5 * np.log(2 * np.pi * np.e * np.square(POLICY_STD)) + np.log(1 - np.tanh(mean) ** 2))
    divergence = gaussian_kl(mean, POLICY_STD, BEHAVIOR_MEAN, BEHAVIOR_STD)
    q_value = min(-0.6 + np.tanh(0.2), 2.0 * np.tanh(-0.3) + 3.0)
    expected = q_value + beta * entropy - (0.7 * divergence if value_penalty else 0.0)
    assert values.mean() == pytest.approx(expected, abs=4.5 * values.std() / np.sqrt(3000) + 0.01)  # tanh's curvature


def test_policy_loss_and_metrics_by_hand():
    agent = linear_agent(multiplier=Multiplier(initial=0.7, learning_rate=0.0), entropy=Multiplier(0.3, 0.0))
    metrics = agent._fit_policy(one_state_batch([0.2, -0.6, 0.0], 4000), SEED, 1.0)
    mean = np.array([0.2, -0.3])
    entropy = np.sum(0.5 * np.log(2 * np.pi * np.e * np.square(POLICY_STD)) + np.log(1 - np.tanh(mean) ** 2))
    divergence = gaussian_kl(mean, POLICY_STD, BEHAVIOR_MEAN, BEHAVIOR_STD)
    expected = {"divergence_mean": divergence, "entropy": entropy, "policy_value": np.tanh(0.2)}
    expected["policy_loss"] = 0.7 * divergence - 0.3 * entropy - np.tanh(0.2)
    assert {name: float(value) for name, value in metrics.items()} == pytest.approx(expected, abs=0.05)


def test_without_divergence_and_entropy_it_is_plain_actor_critic():
    """alpha = beta = 0: what SAC does at temperature 0."""
    nothing = Multiplier(initial=0.0, learning_rate=0.0)
    shared = {"actor": Actor((16,)), "critic": tiny.critic((16,)), "training": TRAINING, "entropy": nothing}
    brac = BRAC(Problem(DIMENSIONS), 0, divergence=Primal(cloning=CLONING), multiplier=nothing, **shared)
    sac, dataset = SAC(Problem(DIMENSIONS), 0, **shared), tiny.make_dataset(100, DIMENSIONS)
    batch = dataset.sample((20,), SEED)
    for step in range(3):
        brac.update(Transition(*(leaf[None] for leaf in batch)), SEED + step)
        sac.update(batch, SEED + step)
    for name in ("actor", "critic", "target_critic"):
        for first, second in zip(brac.components()[name], sac.components()[name], strict=True):
            np.testing.assert_allclose(first.numpy(), second.numpy(), atol=1e-6, err_msg=name)


def test_warm_start_never_looks_at_q():
    agents = [linear_agent() for _ in range(2)]
    agents[1].critic.set_weights([weight + 5.0 for weight in agents[1].critic.get_weights()])
    for agent in agents:
        take_step(agent.stages()[1], tiny.make_dataset(100, DIMENSIONS), SEED, tf.constant(0))
    for first, second in zip(*(agent.actor.get_weights() for agent in agents), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(("target", "expected"), [(0.5, 1.1), (1e4, 0.9)])
def test_a_learned_weight_holds_the_mean_divergence(target, expected):
    agent = linear_agent(multiplier=Multiplier(initial=1.0, learning_rate=0.1), target_divergence=target)
    metrics = agent.update(Transition(*(leaf[None] for leaf in one_state_batch([1.0, 1.0, 0.0], 50))), SEED)
    assert 0.5 < float(metrics["divergence_mean"]) < 1e4
    assert float(metrics["multiplier"]) == pytest.approx(expected, rel=1e-4)


def test_bandit_balances_value_and_divergence():
    """One state, reward a0, behaviour N(0, 0.3^2) of the pre-tanh action: argmax E[tanh u] - alpha KL by scipy."""
    behavior_std, alpha = 0.3, 0.5
    u = np.random.default_rng(0).normal(0.0, behavior_std, size=(2000, 1))
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)

    def loss(parameters):
        mean, std = parameters[0], np.exp(parameters[1])
        value = weights @ np.tanh(mean + std * nodes) / weights.sum()
        return alpha * gaussian_kl([mean], [std], [0.0], [behavior_std]) - value

    best_mean, best_log_std = optimize.minimize(loss, [0.0, -1.0]).x
    dataset = tiny.one_state_dataset(np.tanh(u), np.tanh(u[:, 0]))
    agent = BRAC(
        Problem(dataset.dimensions),
        0,
        actor=Actor((16,), (-5.0, 2.0)),
        critic=tiny.critic((32, 32), learning_rate=3e-3),
        training=Training(epochs=1, steps_per_epoch=3000, batch_size=100, policy_learning_rate=3e-3),
        divergence=Primal(cloning=CLONING),
        multiplier=Multiplier(initial=alpha, learning_rate=0.0),
    )
    agent.regularizer.cloned.network.set_weights(linear_actor([[0.0]], [0.0], [behavior_std]).get_weights())
    compile_stage(agent.stages()[-1], dataset, SEED)(0, 3000)
    mean, std = (float(value[0, 0]) for value in agent.actor(tf.zeros([1, 1])))
    assert best_mean > 0.1
    assert mean == pytest.approx(best_mean, abs=0.03)
    assert std == pytest.approx(np.exp(best_log_std), rel=0.15)


@pytest.mark.parametrize(("estimate", "expected"), [(dual_kl, "kl"), (dual_wasserstein, "distance")])
def test_dual_critic_finds_the_divergence_of_two_known_policies(estimate, expected):
    """Policy N(0.5, 0.3^2) against data N(0, 0.3^2), pre-tanh: KL (0.5 / 0.3)^2 / 2; mean distance of quantiles."""
    size, std = 4000, 0.3
    u = np.random.default_rng(0).normal(0.0, std, size=(size, 1))
    dataset = tiny.one_state_dataset(np.tanh(u), np.zeros(size))
    settings = Dual(
        estimate=estimate, hidden_sizes=(32, 32), steps=1, gradient_penalty=5.0 if expected == "distance" else 0.0
    )
    training = Training(epochs=1, steps_per_epoch=3000, batch_size=200, policy_learning_rate=0.0)
    agent = BRAC(
        Problem(dataset.dimensions),
        0,
        actor=LINEAR_ACTOR,
        critic=tiny.critic((4,)),
        training=training,
        divergence=settings,
    )
    agent.actor.set_weights(linear_actor([[0.0]], [0.5], [std]).get_weights())
    compile_stage(agent.stages()[-1], dataset, SEED)(0, 3000)
    draw = draw_policy(agent.actor, tf.zeros([size, 1]), 1, SEED)
    measured = agent.regularizer.measure(draw, tf.constant(dataset.transitions.action), SEED).numpy()
    quantiles = np.random.default_rng(1).normal(0.0, std, size=100_000)
    exact = {"kl": 0.5 * (0.5 / std) ** 2, "distance": (np.tanh(quantiles + 0.5) - np.tanh(quantiles)).mean()}[expected]
    assert measured.mean() == pytest.approx(exact, rel=0.15)


def test_dual_measures_each_state_by_its_own_pair():
    agent = BRAC(
        Problem(DIMENSIONS),
        0,
        actor=LINEAR_ACTOR,
        critic=tiny.critic(()),
        divergence=Dual(dual_wasserstein, ()),
        training=TRAINING,
    )
    agent.regularizer.network.set_weights(
        [np.array([[[1], [0], [0], [2], [0]]], np.float32), np.zeros([1, 1], np.float32)]
    )
    draw = draw_policy(agent.actor, tf.constant([[9.0, 0, 0], [5.0, 0, 0]]), 1, SEED)
    data_action = np.array([[0.5, 0.3], [-1.0, 0.3]])
    measured = agent.regularizer.measure(draw, tf.constant(data_action, tf.float32), SEED)
    np.testing.assert_allclose(measured, 2.0 * (draw.action.numpy()[:, 0] - data_action[:, 0]), rtol=1e-5)
