"""Whole steps of BRAC-v and BRAC-p, primal and dual, against losses in NumPy and finite differences."""

import functools

import numpy as np
import pytest
import tiny
from agents import reference as ref

from brac_plus_tf.agents.actor_critic import Training
from brac_plus_tf.agents.base import Problem
from brac_plus_tf.agents.brac import BRAC, Dual, Primal
from brac_plus_tf.agents.cloning import Cloning
from brac_plus_tf.core.randomness import Purpose, base_seed, fold, uniform
from brac_plus_tf.core.types import Transition
from brac_plus_tf.models.networks import Actor
from brac_plus_tf.objectives.divergences import SampledKL, dual_kl, dual_wasserstein
from brac_plus_tf.objectives.multipliers import Multiplier

SEED, GAMMA, TAU, RANGE, SHARE, DRAWS = base_seed(8), 0.9, 0.25, (-2.0, 0.5), 0.75, 3
ALPHA, BETA, PENALTY = 1.6, 0.35, 2.0
RATES = {"critic": 0.05, "policy": 0.04, "divergence": 3e-3, "alpha": 0.05, "beta": 0.06}
PAIR = 2  # batches that a dual divergence learns from in a step
BATCHES = ref.batch(2, (PAIR, ref.ROWS))
ROWS = [Transition(*(leaf[index] for leaf in ref.arrays(BATCHES))) for index in range(PAIR)]
DATA = ROWS[0]


def make(divergence, value_penalty: bool = True, target_divergence: float = -50.0, minimum_entropy: float = 30.0):
    agent = BRAC(
        Problem(ref.DIMENSIONS),
        0,
        actor=Actor((5,), RANGE),
        critic=tiny.critic((5,), RATES["critic"], TAU, gamma=GAMMA, minimum_weight=SHARE),
        training=Training(policy_learning_rate=RATES["policy"], warm_start=1),
        divergence=divergence,
        multiplier=Multiplier(ALPHA, RATES["alpha"]),
        target_divergence=target_divergence,
        value_penalty=value_penalty,
        entropy=Multiplier(BETA, RATES["beta"]),
        minimum_entropy=minimum_entropy,
    )
    networks = [agent.actor, agent.critic, agent.target_critic]
    networks += [agent.regularizer.cloned.network] if isinstance(divergence, Primal) else [agent.regularizer.network]
    *usual, measures = networks
    for seed, network in zip((0, 3, 32), usual, strict=True):
        ref.randomize(network.trainable_variables, seed)
    ref.randomize(measures.trainable_variables, 4, 0.6 if isinstance(divergence, Primal) else 1.5)
    return agent


PRIMAL = Primal(SampledKL(samples=DRAWS), Cloning(actor=Actor((5,), (-1.0, 0.5))))


def softplus(value):
    return np.log1p(np.exp(value))


ESTIMATES = {
    dual_kl: lambda policy, data: np.log(softplus(policy)) - softplus(data) + 1.0,
    dual_wasserstein: lambda policy, data: policy - data,
}


class Reader:
    """BRAC's losses of the numbers before a step; what measures D is given by `measure`."""

    def __init__(self, agent: BRAC, estimate=None) -> None:
        self.actor, self.critic, self.target = map(ref.weights_of, (agent.actor, agent.critic, agent.target_critic))
        if estimate is None:
            self.behavior = ref.weights_of(agent.regularizer.cloned.network)
            self.measure = self.sampled_kl
        else:
            self.measure = functools.partial(self.dual, ref.weights_of(agent.regularizer.network), estimate)

    def drawn(self, actor, observation, *purposes) -> ref.Drawn:
        return ref.Drawn(actor, observation, ref.noise((ref.ROWS, 2), SEED, *purposes), RANGE)

    def sampled_kl(self, drawn: ref.Drawn, observation, data_action, purpose) -> np.ndarray:
        """mean_n log pi(u_n|s) - log pi_b(u_n|s), draws of its own."""
        epsilon = ref.noise((DRAWS, ref.ROWS, 2), SEED, purpose, Purpose.POLICY_SAMPLES)
        actions = drawn.mean + drawn.deviation * epsilon
        behavior = ref.gaussian(ref.mlp(self.behavior, observation), (-1.0, 0.5))
        policy = ref.log_density(actions, drawn.mean, drawn.deviation)
        return (policy - ref.log_density(actions, *behavior)).mean(axis=0)

    def dual(self, critic, estimate, drawn: ref.Drawn, observation, data_action, purpose) -> np.ndarray:
        policy, data = (ref.q_values(critic, observation, action)[0] for action in (drawn.action, data_action))
        return ESTIMATES[estimate](policy, data)

    def expected(self, value_penalty: bool) -> np.ndarray:
        purpose = Purpose.TARGET_ACTION
        drawn = self.drawn(self.actor, DATA.next_observation, purpose)
        values = ref.q_values(self.target, DATA.next_observation, drawn.action)
        ref.assert_either_is_smaller(values)
        value = ref.mixed_value(values, SHARE)
        value = value - BETA * drawn.log_prob
        if value_penalty:  # at s', where the data did their next action
            value = value - ALPHA * self.measure(drawn, DATA.next_observation, DATA.next_action, purpose)
        return ref.td_target(DATA.reward, DATA.discount, value, GAMMA)

    def divergence(self, actor) -> np.ndarray:
        drawn = self.drawn(actor, DATA.observation, Purpose.POLICY_ACTION)
        return self.measure(drawn, DATA.observation, DATA.action, Purpose.POLICY_ACTION)

    def entropy(self) -> float:
        return float(-self.drawn(self.actor, DATA.observation, Purpose.POLICY_ACTION).log_prob.mean())

    def policy_loss(self, new_critic, value_weight: float, actor) -> float:
        drawn = self.drawn(actor, DATA.observation, Purpose.POLICY_ACTION)
        value = ref.mixed_value(ref.q_values(new_critic, DATA.observation, drawn.action), SHARE)
        return float((ALPHA * self.divergence(actor) + BETA * drawn.log_prob - value_weight * value).mean())


def check_step(agent: BRAC, before: Reader, value_penalty: bool = True, value_weight: float = 1.0) -> None:
    """Critic, policy and targets after a step that began where `before` was read."""
    expected = before.expected(value_penalty)
    new_critic = ref.assert_critic_step(agent, before.critic, DATA, expected, RATES["critic"])
    policy_loss = functools.partial(before.policy_loss, new_critic, value_weight)
    gradient = ref.finite_difference(policy_loss, ref.copies(before.actor))
    ref.assert_gradient(agent.policy_optimizer, agent.actor.trainable_variables, gradient)
    ref.assert_rate(before.actor, ref.weights_of(agent.actor), gradient, RATES["policy"])
    ref.assert_followed(before.target, agent.critic, agent.target_critic, TAU)


@pytest.mark.parametrize("value_penalty", [True, False])
def test_a_whole_primal_step(value_penalty):
    agent = make(PRIMAL, value_penalty)
    before = Reader(agent)
    metrics = agent.update(BATCHES, SEED)
    check_step(agent, before, value_penalty)
    assert float(metrics["divergence_mean"]) == pytest.approx(before.divergence(before.actor).mean(), rel=1e-3)
    # cloning is over: nothing moves what the divergence is measured from
    for old, new in zip(before.behavior, ref.weights_of(agent.regularizer.cloned.network), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("above", [0.1, -0.1])
def test_multipliers_follow_their_own_constraints(above):
    """Alpha the divergence, beta the entropy: each on either side of its bound."""
    before = Reader(make(PRIMAL))
    divergence, entropy = float(before.divergence(before.actor).mean()), before.entropy()
    agent = make(PRIMAL, target_divergence=divergence - above, minimum_entropy=entropy + above)
    agent.update(BATCHES, SEED)
    assert float(agent.multiplier()) == pytest.approx(ref.stepped(ALPHA, above, RATES["alpha"]), rel=1e-4)
    assert float(agent.entropy_multiplier()) == pytest.approx(ref.stepped(BETA, above, RATES["beta"]), rel=1e-4)


def test_the_warm_start_leaves_the_critic_out_of_the_policys_loss():
    agent = make(PRIMAL)
    before = Reader(agent)
    behavior, warm_start, main = agent.stages()
    assert (behavior.name, warm_start.name, main.name) == ("behavior", "warm_start", "main")
    warm_start.update(BATCHES, SEED)
    check_step(agent, before, value_weight=0.0)


@pytest.mark.parametrize("estimate", ESTIMATES)
def test_a_whole_dual_step(estimate):
    """The policy by c before its step; then c, once for each batch, against the policy that has just moved."""
    agent = make(Dual(estimate, (5,), RATES["divergence"], PENALTY, steps=1))
    before = Reader(agent, estimate)
    start = ref.weights_of(agent.regularizer.network)
    one = Transition(*(leaf[:1] for leaf in BATCHES))
    agent.update(one, SEED)
    check_step(agent, before)
    purposes = (Purpose.BEHAVIOR_UPDATE, 0)
    new_actor = ref.weights_of(agent.actor)
    action = before.drawn(new_actor, DATA.observation, *purposes, Purpose.POLICY_ACTION).action
    share = uniform([ref.ROWS], fold(SEED, *purposes, Purpose.INTERPOLATION)).numpy().astype(np.float64)[:, None]
    between = action + share * (DATA.action - action)

    def loss(weights):
        policy, data = (ref.q_values(weights, DATA.observation, a)[0] for a in (action, DATA.action))
        norm = np.linalg.norm(ref.action_gradient(weights, DATA.observation, between), axis=-1)
        penalty = np.maximum(norm - 1.0, 0.0) ** 2
        return float(PENALTY * penalty.mean() - ESTIMATES[estimate](policy, data).mean())

    norms = np.linalg.norm(ref.action_gradient(start, DATA.observation, between), axis=-1)
    assert 0 < (norms > 1.0).sum()  # else the penalty would not be seen
    gradient = ref.finite_difference(loss, ref.copies(start))
    regularizer = agent.regularizer
    ref.assert_gradient(regularizer._optimizer, regularizer.network.trainable_variables, gradient)
    ref.assert_rate(start, ref.weights_of(regularizer.network), gradient, RATES["divergence"])


def test_a_dual_divergence_takes_a_step_on_each_of_its_batches():
    agent = make(Dual(dual_wasserstein, (5,), RATES["divergence"], PENALTY, steps=PAIR))
    agent.update(BATCHES, SEED)
    assert int(agent.regularizer._optimizer.iterations) == PAIR and int(agent.policy_optimizer.iterations) == 1
    same = make(Dual(dual_wasserstein, (5,), RATES["divergence"], PENALTY, steps=PAIR))
    same.update(Transition(*(np.stack([leaf[0], leaf[0]]) for leaf in BATCHES)), SEED)
    pairs = zip(ref.weights_of(agent.regularizer.network), ref.weights_of(same.regularizer.network), strict=True)
    assert any(not np.array_equal(one, other) for one, other in pairs)  # the second batch is another
