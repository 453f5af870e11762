"""Whole steps of CQL, in each form of its conservative value, against losses in NumPy and finite differences."""

import functools

import numpy as np
import pytest
import tiny
from agents import reference as ref

from brac_plus_tf.agents.actor_critic import Training
from brac_plus_tf.agents.base import Problem
from brac_plus_tf.agents.cql import CQL, entropy_regularized, policy_weighted, unweighted
from brac_plus_tf.core.randomness import Purpose, base_seed, fold, uniform
from brac_plus_tf.models.networks import Actor
from brac_plus_tf.objectives.multipliers import Multiplier

SEED, GAMMA, TAU, RANGE, SAMPLES = base_seed(7), 0.9, 0.25, (-2.0, 0.5), 3
TEMPERATURE, WEIGHT, FACTOR, ALPHA = 1.5, 0.8, 1.7, 0.3
RATES = {"critic": 0.05, "policy": 0.04, "gap": 0.04, "alpha": 0.07}
BATCH, DATA = ref.batch(), ref.arrays(ref.batch())


def log_sum_exp(values: np.ndarray, axis: int) -> np.ndarray:
    return np.log(np.exp(values).sum(axis=axis))


class Reader:
    """CQL's losses of the numbers before a step."""

    def __init__(self, agent: CQL, form) -> None:
        self.actor, self.critic, self.target = map(ref.weights_of, (agent.actor, agent.critic, agent.target_critic))
        self.form = form
        seed = fold(SEED, Purpose.UNIFORM_ACTION)
        self.uniform = uniform([SAMPLES, ref.ROWS, 2], seed, -1.0, 1.0).numpy().astype(np.float64)
        self.following = self.draws(DATA.next_observation, 0)
        self.current = self.draws(DATA.observation, 1)

    def draws(self, observation: np.ndarray, index: int) -> ref.Drawn:
        epsilon = ref.noise((SAMPLES * ref.ROWS, 2), SEED, Purpose.POLICY_SAMPLES, index).reshape(SAMPLES, -1, 2)
        return ref.Drawn(self.actor, np.broadcast_to(observation, (SAMPLES, *observation.shape)), epsilon, RANGE)

    @functools.cached_property
    def expected(self) -> np.ndarray:
        """y, the best of two next actions by the smaller target; no entropy in it."""
        observation = np.concatenate([DATA.next_observation] * 2)
        epsilon = ref.noise((2 * ref.ROWS, 2), SEED, Purpose.TARGET_ACTION)
        action = ref.Drawn(self.actor, observation, epsilon, RANGE).action
        values = ref.q_values(self.target, observation, action)
        ref.assert_either_is_smaller(values)
        value = values.min(axis=0).reshape(2, -1).max(axis=0)
        return ref.td_target(DATA.reward, DATA.discount, value, GAMMA)

    def gap(self, critic) -> np.ndarray:
        """C_j(s) - Q_j(s, a), [K, B]; every action is valued at s, also those that were drawn at s'."""
        observation = np.broadcast_to(DATA.observation, (SAMPLES, *DATA.observation.shape))

        def at(action):
            return ref.q_values(critic, observation, action)

        data = ref.q_values(critic, DATA.observation, DATA.action)
        values = [at(self.uniform), at(self.following.action), at(self.current.action)]
        return self.form(self, values, data) - data

    def entropy_regularized(self, values, data) -> np.ndarray:
        # a uniform density of 1/2 for each of two entries
        densities = [np.log(0.25), self.following.log_prob, self.current.log_prob]
        terms = [value / TEMPERATURE - density for value, density in zip(values, densities, strict=True)]
        return TEMPERATURE * log_sum_exp(np.concatenate(terms, axis=1), axis=1)

    def unweighted(self, values, data) -> np.ndarray:
        terms = [value / TEMPERATURE for value in (*values, data[:, None])]
        return TEMPERATURE * log_sum_exp(np.concatenate(terms, axis=1), axis=1)

    def policy_weighted(self, values, data) -> np.ndarray:
        observation = np.broadcast_to(DATA.observation, (SAMPLES, *DATA.observation.shape))
        fixed = np.exp(ref.q_values(self.critic, observation, self.current.action) / TEMPERATURE)
        return (fixed / fixed.sum(axis=1, keepdims=True) * values[2]).sum(axis=1)

    def critic_loss(self, critic) -> float:
        error = ((ref.q_values(critic, DATA.observation, DATA.action) - self.expected) ** 2).sum(axis=0)
        return float(error.mean() + WEIGHT * FACTOR * self.gap(critic).sum(axis=0).mean())


FORMS = {
    entropy_regularized: Reader.entropy_regularized,
    unweighted: Reader.unweighted,
    policy_weighted: Reader.policy_weighted,
}


def make(conservative_value, target_gap: float = 0.0, minimum_entropy: float = -30.0) -> CQL:
    agent = CQL(
        Problem(ref.DIMENSIONS),
        0,
        actor=Actor((5,), RANGE),
        critic=tiny.critic((5,), RATES["critic"], TAU, gamma=GAMMA, target_samples=2),
        training=Training(policy_learning_rate=RATES["policy"], warm_start=1),
        conservative_value=conservative_value,
        action_samples=SAMPLES,
        soft_maximum_temperature=TEMPERATURE,
        weight=WEIGHT,
        gap_multiplier=Multiplier(FACTOR, RATES["gap"]),
        target_gap=target_gap,
        entropy=Multiplier(ALPHA, RATES["alpha"], minimum=1e-6, logarithmic=True),
        minimum_entropy=minimum_entropy,
    )
    for seed, network in zip((0, 3, 32), (agent.actor, agent.critic, agent.target_critic), strict=True):
        ref.randomize(network.trainable_variables, seed)
    return agent


def check_critic_and_multiplier(agent: CQL, before: Reader, target_gap: float) -> None:
    gradient = ref.finite_difference(before.critic_loss, ref.copies(before.critic))
    ref.assert_gradient(agent.critic_optimizer, agent.critic.trainable_variables, gradient)
    ref.assert_rate(before.critic, ref.weights_of(agent.critic), gradient, RATES["critic"])
    violation = WEIGHT * before.gap(before.critic).mean() - target_gap
    assert float(agent.gap_multiplier()) == pytest.approx(ref.stepped(FACTOR, violation, RATES["gap"]), rel=1e-4)
    ref.assert_followed(before.target, agent.critic, agent.target_critic, TAU)


@pytest.mark.parametrize("form", FORMS)
def test_a_whole_step(form):
    agent = make(form)
    before = Reader(agent, FORMS[form])
    agent.update(BATCH, SEED)
    check_critic_and_multiplier(agent, before, 0.0)
    new_critic = ref.weights_of(agent.critic)
    epsilon = ref.noise((ref.ROWS, 2), SEED, Purpose.POLICY_ACTION)

    def policy_loss(weights):
        drawn = ref.Drawn(weights, DATA.observation, epsilon, RANGE)
        value = ref.q_values(new_critic, DATA.observation, drawn.action).min(axis=0)
        return float((ALPHA * drawn.log_prob - value).mean())

    action = ref.Drawn(before.actor, DATA.observation, epsilon, RANGE).action
    ref.assert_either_is_smaller(ref.q_values(new_critic, DATA.observation, action))
    gradient = ref.finite_difference(policy_loss, ref.copies(before.actor))
    ref.assert_gradient(agent.policy_optimizer, agent.actor.trainable_variables, gradient)
    ref.assert_rate(before.actor, ref.weights_of(agent.actor), gradient, RATES["policy"])
    assert float(agent.temperature()) == pytest.approx(ALPHA * np.exp(-RATES["alpha"]), rel=1e-4)


def test_the_multiplier_holds_the_weighted_gap_and_the_temperature_the_entropy():
    """With the target between the gap and the weighted gap, and on either side of it."""
    gap = Reader(make(entropy_regularized), Reader.entropy_regularized)
    gap = float(gap.gap(gap.critic).mean())
    for target in (WEIGHT * gap - 0.1 * abs(gap), WEIGHT * gap + 0.1 * abs(gap)):
        agent = make(entropy_regularized, target_gap=target, minimum_entropy=30.0)
        before = Reader(agent, Reader.entropy_regularized)
        agent.update(BATCH, SEED)
        check_critic_and_multiplier(agent, before, target)
        assert float(agent.temperature()) == pytest.approx(ALPHA * np.exp(RATES["alpha"]), rel=1e-4)


def test_the_warm_start_clones_beside_the_critics():
    agent = make(entropy_regularized)
    before = Reader(agent, Reader.entropy_regularized)
    warm_start, main = agent.stages()
    assert (warm_start.name, main.name) == ("warm_start", "main")
    warm_start.update(BATCH, SEED)
    check_critic_and_multiplier(agent, before, 0.0)
    epsilon = ref.noise((ref.ROWS, 2), SEED, Purpose.POLICY_ACTION, Purpose.POLICY_ACTION)
    pre_tanh = np.arctanh(DATA.action)
    jacobian = np.log(1.0 - DATA.action**2).sum(axis=-1)

    def loss(weights):
        drawn = ref.Drawn(weights, DATA.observation, epsilon, RANGE)
        likelihood = ref.log_density(pre_tanh, drawn.mean, drawn.deviation) - jacobian
        return float((ALPHA * drawn.log_prob - likelihood).mean())

    gradient = ref.finite_difference(loss, ref.copies(before.actor))
    ref.assert_gradient(agent.policy_optimizer, agent.actor.trainable_variables, gradient)
