"""Whole steps of cloning, under an entropy floor and by likelihood alone, against losses in NumPy."""

import numpy as np
import pytest
import tensorflow as tf
from agents import reference as ref

from brac_plus_tf.agents.base import Problem
from brac_plus_tf.agents.bc import BC
from brac_plus_tf.agents.cloning import Cloning
from brac_plus_tf.core.randomness import Purpose, base_seed
from brac_plus_tf.models.networks import Actor
from brac_plus_tf.models.optimization import Fit
from brac_plus_tf.objectives.multipliers import Multiplier

SEED, RANGE, MARGIN, RATE, BETA_RATE = base_seed(12), (-2.0, 0.5), 0.3, 0.04, 0.06
BATCH, DATA = ref.batch(), ref.arrays(ref.batch())


@pytest.mark.parametrize(("beta", "minimum_entropy"), [(0.7, 30.0), (0.7, -30.0), (0.0, None)])
def test_a_whole_step(beta, minimum_entropy):
    entropy = Multiplier(beta, BETA_RATE if beta else 0.0)
    fit = Fit(learning_rate=RATE, decay=(1.0,))
    agent = BC(Problem(ref.DIMENSIONS), 0, cloning=Cloning(Actor((5,), RANGE), fit, entropy, minimum_entropy, MARGIN))
    network = agent.cloned.network
    ref.randomize(network.trainable_variables, 0)
    before = ref.weights_of(network)
    metrics = agent.stages()[0].update(BATCH, SEED)
    epsilon = ref.noise((ref.ROWS, 2), SEED, Purpose.POLICY_ACTION)
    clipped = np.clip(DATA.action, MARGIN - 1.0, 1.0 - MARGIN)
    assert 0 < (clipped != DATA.action).sum() < clipped.size
    pre_tanh, jacobian = np.arctanh(clipped), np.log(1.0 - clipped**2).sum(axis=-1)

    def parts(weights):
        drawn = ref.Drawn(weights, DATA.observation, epsilon, RANGE)
        return ref.log_density(pre_tanh, drawn.mean, drawn.deviation) - jacobian, drawn.log_prob

    def loss(weights):
        likelihood, log_prob = parts(weights)
        return float((-likelihood + beta * log_prob).mean())

    gradient = ref.finite_difference(loss, ref.copies(before))
    ref.assert_gradient(agent.cloned._optimizer, network.trainable_variables, gradient)
    ref.assert_rate(before, ref.weights_of(network), gradient, RATE)
    likelihood, log_prob = parts(before)
    assert float(metrics["negative_log_likelihood"]) == pytest.approx(-likelihood.mean(), rel=1e-3)
    assert float(metrics["entropy"]) == pytest.approx(-log_prob.mean(), rel=1e-3)
    after = ref.stepped(beta, (minimum_entropy or 0.0) + log_prob.mean(), BETA_RATE) if beta else 0.0
    assert float(agent.cloned.entropy_multiplier()) == pytest.approx(after, rel=1e-4)


def test_rows_are_cloned_one_by_one():
    """A row's gradient is its own: the batch's is the mean of theirs."""
    whole = []
    for rows in (slice(0, 3), slice(3, 6), slice(0, 6)):
        agent = BC(Problem(ref.DIMENSIONS), 0, cloning=Cloning(Actor((5,), RANGE), entropy=Multiplier(0.0, 0.0)))
        ref.randomize(agent.cloned.network.trainable_variables, 0)
        agent.cloned.update(tf.nest.map_structure(lambda leaf, rows=rows: leaf[rows], BATCH), SEED)
        variables = agent.cloned.network.trainable_variables
        whole.append(ref.first_gradient(agent.cloned._optimizer, variables))
    for first, second, both in zip(*whole, strict=True):
        np.testing.assert_allclose(both, (first + second) / 2, rtol=1e-4, atol=1e-5)
