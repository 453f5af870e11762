"""Behaviour cloning: its loss by hand, its optimum by known maximum likelihood, its entropy floor."""

import numpy as np
import pytest
import tensorflow as tf
import tiny
from fakes import linear_actor
from scipy import stats

from brac_plus_tf.agents.base import Problem
from brac_plus_tf.agents.bc import BC
from brac_plus_tf.agents.cloning import Cloning, cloning_loss
from brac_plus_tf.core.randomness import base_seed
from brac_plus_tf.models.networks import Actor
from brac_plus_tf.models.optimization import Fit
from brac_plus_tf.objectives.multipliers import Multiplier
from brac_plus_tf.runs.compiled_stage import compile_stage

SEED = base_seed(0)
PLAIN = Multiplier(initial=0.0, learning_rate=0.0)
WIDE_ACTOR = Actor((), (-5.0, 2.0))


def test_loss_by_hand():
    """A = 2: scipy's normal densities and the change of variables; the logged action +1 is clipped to 1 - margin."""
    actor = linear_actor([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]], [0.5, -1.0], [0.4, 1.3])
    observation = np.array([[0.1, -0.2, 3.0], [-1.0, 0.5, 0.0]])
    action = np.array([[0.3, -0.6], [1.0, 0.0]])
    mean = observation[:, :2] * [1.0, 2.0] + [0.5, -1.0]
    clipped = np.minimum(action, 0.99)
    density = stats.norm.logpdf(np.arctanh(clipped), mean, [0.4, 1.3]) - np.log(1.0 - clipped**2)
    arguments = (actor, *(tf.constant(x, tf.float32) for x in (observation, action)), 0.01)
    loss, negative_log_likelihood, entropy = cloning_loss(*arguments, tf.constant(0.25), SEED)
    np.testing.assert_allclose(negative_log_likelihood, -density.sum(axis=1), rtol=1e-4)
    np.testing.assert_allclose(loss, negative_log_likelihood - 0.25 * entropy, rtol=1e-5)


def cloned(action, cloning):
    """The policy cloned from one state's actions [M, A], as (mean, standard deviation) of the pre-tanh action."""
    dataset = tiny.one_state_dataset(action, np.zeros(len(action)))
    agent = BC(Problem(dataset.dimensions), 0, cloning=cloning)
    (stage,) = agent.stages()
    compile_stage(stage, dataset, SEED)(0, stage.steps)
    return [value.numpy()[0] for value in agent.cloned.network(tf.zeros([1, 1]))]


def test_plain_maximum_likelihood_finds_mean_and_deviation():
    u = np.random.default_rng(0).normal([0.4, -0.7], [0.3, 0.6], size=(2000, 2))
    fit = Fit(steps=1500, batch_size=200, learning_rate=2e-2, decay=(1.0, 0.1, 0.01))
    mean, std = cloned(np.tanh(u), Cloning(actor=WIDE_ACTOR, fit=fit, entropy=PLAIN))
    np.testing.assert_allclose(mean, u.mean(axis=0), atol=0.03)
    np.testing.assert_allclose(std, u.std(axis=0), rtol=0.05)


@pytest.mark.parametrize(("floor", "binds"), [(-0.5, True), (-3.0, False)])
def test_entropy_floor_holds_where_it_binds_and_does_nothing_where_not(floor, binds):
    """Data of deviation 0.1 near 0, one entry."""
    u = np.random.default_rng(0).normal(0.0, 0.1, size=(2000, 1))
    fit = Fit(steps=4000, batch_size=100, learning_rate=1e-2, decay=(1.0,))
    settings = Cloning(actor=WIDE_ACTOR, fit=fit, entropy=Multiplier(1.0, 1e-2), minimum_entropy=floor)
    _, std = cloned(np.tanh(u), settings)
    own_entropy = 0.5 * np.log(2.0 * np.pi * np.e * 0.1**2)  # -0.884; tanh takes E[u^2] = 0.01 off
    draws = np.random.default_rng(1).normal(0.0, std, size=100_000)
    entropy = 0.5 * np.log(2.0 * np.pi * np.e * std[0] ** 2) + np.log(1.0 - np.tanh(draws) ** 2).mean()
    assert entropy == pytest.approx(floor if binds else own_entropy - 0.01, abs=0.06)
