"""SAC: targets and policy loss by hand, and a bandit whose soft optimum is known."""

import numpy as np
import pytest
import tensorflow as tf
import tiny
from fakes import assert_mean, linear_actor, linear_critic

from brac_plus_tf.agents.actor_critic import Training
from brac_plus_tf.agents.base import Problem
from brac_plus_tf.agents.sac import SAC
from brac_plus_tf.core.randomness import base_seed
from brac_plus_tf.core.types import Dimensions, Transition
from brac_plus_tf.models.networks import Actor
from brac_plus_tf.objectives.multipliers import Multiplier
from brac_plus_tf.runs.compiled_stage import compile_stage

SEED = base_seed(5)
NARROW = [0.01, 0.02]


def narrow_agent(temperature: float, gamma: float = 0.5) -> SAC:
    """An agent of linear networks: Q' = min(o1 + a0, 2 a1 + 3), u ~ N((o0 + 1/2, 2 o1 - 1), NARROW^2)."""
    agent = SAC(
        Problem(Dimensions(3, 2)),
        0,
        actor=Actor((), (-5.0, 2.0)),
        critic=tiny.critic((), gamma=gamma),
        entropy=Multiplier(initial=temperature, learning_rate=0.0),
    )
    agent.actor.set_weights(linear_actor([[1, 0], [0, 2], [0, 0]], [0.5, -1.0], NARROW).get_weights())
    weights = linear_critic([[0, 1, 0, 1, 0], [0, 0, 0, 0, 2]], [0.0, 3.0]).get_weights()
    agent.target_critic.set_weights(weights)
    agent.critic.set_weights([0.0 * weights[0], weights[1]])  # Q = (0, 3)
    return agent


def test_target_is_reward_plus_discounted_soft_value():
    """At one state repeated 4000 times: V = Q'(s', tanh u) - T log pi, whose mean is Q' + T H; H in closed form."""
    count, temperature = 4000, 0.3
    agent = narrow_agent(temperature)
    next_observation = np.array([0.2, 0.7, 0.0])
    batch = Transition(
        *(tf.zeros([count, size]) for size in (3, 2)),
        tf.fill([count], 1.5),
        tf.ones([count]),
        tf.tile(tf.constant(next_observation[None], tf.float32), [count, 1]),
        tf.zeros([count, 2]),
    )
    mean = np.array([0.7, 0.4])
    value = min(0.7 + np.tanh(mean[0]), 2.0 * np.tanh(mean[1]) + 3.0)
    entropy = np.sum(0.5 * np.log(2.0 * np.pi * np.e * np.square(NARROW)) + np.log(1.0 - np.tanh(mean) ** 2))
    soft_values = agent.soft_next_value(batch, SEED).numpy()
    assert_mean(soft_values, value + temperature * entropy, errors=6.0)  # curvature of tanh within 0.02: 1e-4
    metrics = agent.update(batch, SEED)
    assert float(metrics["target_mean"]) == pytest.approx(1.5 + 0.5 * (value + temperature * entropy), abs=0.01)


def test_terminals_drop_the_soft_value():
    agent = narrow_agent(0.3)
    batch = tiny.make_dataset(50, Dimensions(3, 2)).sample((20,), SEED)._replace(discount=tf.zeros([20]))
    metrics = agent.update(batch, SEED)
    assert float(metrics["target_mean"]) == pytest.approx(float(tf.reduce_mean(batch.reward)), rel=1e-6)


def test_bandit_meets_its_entropy_target_around_the_best_action():
    """One state, terminal, reward 2 - 4 (a0 - 0.3)^2: pi ~ exp(Q / T) sits at 0.3, with T such that H = H0 = -1."""
    generator = np.random.default_rng(0)
    action = generator.uniform(-0.99, 0.99, size=(2000, 1))
    dataset = tiny.one_state_dataset(action, 2.0 - 4.0 * (action[:, 0] - 0.3) ** 2)
    agent = SAC(
        Problem(dataset.dimensions),
        0,
        actor=Actor((16,), (-5.0, 2.0)),
        critic=tiny.critic((32, 32), learning_rate=3e-3),
        training=Training(epochs=1, steps_per_epoch=4000, batch_size=100, policy_learning_rate=3e-3),
        entropy=Multiplier(initial=0.1, learning_rate=3e-3, minimum=1e-6, logarithmic=True),
        minimum_entropy=-1.0,
    )
    metrics = compile_stage(agent.stages()[-1], dataset, SEED)
    metrics(0, 3500)
    last = {name: value / 500 for name, value in metrics(3500, 500).items()}
    assert last["entropy"] == pytest.approx(-1.0, abs=0.1)
    mean, std = (float(value[0, 0]) for value in agent.actor(tf.zeros([1, 1])))
    assert np.tanh(mean) == pytest.approx(0.3, abs=0.05)
    # a Gaussian of entropy -1 in a has deviation e^-1 / sqrt(2 pi e) = 0.0890; Boltzmann: T = 2 * 4 * 0.0890^2
    assert std * (1.0 - np.tanh(mean) ** 2) == pytest.approx(0.0890, rel=0.12)
    assert last["temperature"] == pytest.approx(8.0 * 0.0890**2, rel=0.35)
