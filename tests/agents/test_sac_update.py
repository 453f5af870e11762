"""A whole step of SAC against losses in NumPy and finite differences."""

import numpy as np
import pytest
import tiny
from agents import reference as ref

from brac_plus_tf.agents.actor_critic import Training
from brac_plus_tf.agents.base import Problem
from brac_plus_tf.agents.sac import SAC
from brac_plus_tf.core.randomness import Purpose, base_seed
from brac_plus_tf.models.networks import Actor
from brac_plus_tf.objectives.multipliers import Multiplier

SEED, GAMMA, TAU, SHARE, RANGE = base_seed(6), 0.9, 0.25, 0.75, (-2.0, 0.5)
RATES = {"critic": 0.05, "policy": 0.04, "temperature": 0.07}
BATCH, DATA = ref.batch(), ref.arrays(ref.batch())


@pytest.mark.parametrize("minimum_entropy", [-30.0, 30.0])
def test_a_whole_step(minimum_entropy):
    agent = SAC(
        Problem(ref.DIMENSIONS),
        0,
        actor=Actor((5,), RANGE),
        critic=tiny.critic((5,), RATES["critic"], TAU, gamma=GAMMA, minimum_weight=SHARE),
        training=Training(policy_learning_rate=RATES["policy"]),
        entropy=Multiplier(0.3, RATES["temperature"], minimum=1e-6, logarithmic=True),
        minimum_entropy=minimum_entropy,
    )
    for seed, network in zip((0, 3, 32), (agent.actor, agent.critic, agent.target_critic), strict=True):
        ref.randomize(network.trainable_variables, seed)
    actor, critic, target = map(ref.weights_of, (agent.actor, agent.critic, agent.target_critic))
    metrics = agent.update(BATCH, SEED)

    drawn = ref.Drawn(actor, DATA.next_observation, ref.noise((ref.ROWS, 2), SEED, Purpose.TARGET_ACTION), RANGE)
    q_next = ref.q_values(target, DATA.next_observation, drawn.action)
    ref.assert_either_is_smaller(q_next)
    next_value = ref.mixed_value(q_next, SHARE) - 0.3 * drawn.log_prob
    expected = ref.td_target(DATA.reward, DATA.discount, next_value, GAMMA)
    new_critic = ref.assert_critic_step(agent, critic, DATA, expected, RATES["critic"])

    epsilon = ref.noise((ref.ROWS, 2), SEED, Purpose.POLICY_ACTION)

    def policy_loss(weights):
        drawn = ref.Drawn(weights, DATA.observation, epsilon, RANGE)
        value = ref.mixed_value(ref.q_values(new_critic, DATA.observation, drawn.action), SHARE)
        return float((0.3 * drawn.log_prob - value).mean())

    action = ref.Drawn(actor, DATA.observation, epsilon, RANGE).action
    ref.assert_either_is_smaller(ref.q_values(new_critic, DATA.observation, action))
    gradient = ref.finite_difference(policy_loss, ref.copies(actor))
    ref.assert_gradient(agent.policy_optimizer, agent.actor.trainable_variables, gradient)
    ref.assert_rate(actor, ref.weights_of(agent.actor), gradient, RATES["policy"])
    # below the floor the temperature rises, above it falls
    entropy = -ref.Drawn(actor, DATA.observation, epsilon, RANGE).log_prob.mean()
    after = ref.stepped(0.3, minimum_entropy - entropy, RATES["temperature"], logarithmic=True)
    assert float(agent.temperature()) == pytest.approx(after, rel=1e-4) == float(metrics["temperature"])
    assert float(metrics["entropy"]) == pytest.approx(entropy, rel=1e-3)
    ref.assert_followed(target, agent.critic, agent.target_critic, TAU)


def test_without_a_bound_it_is_one_nat_below_for_each_entry():
    """The temperature falls at an entropy just above -A and rises just below it."""
    agent = SAC(Problem(ref.DIMENSIONS), 0, actor=Actor(()), critic=tiny.critic(()))
    for entropy, sign in ((-1.9, -1.0), (-2.1, 1.0)):
        before = float(agent.temperature())
        agent.temperature.ascend(agent._minimum_entropy - entropy)
        assert np.sign(float(agent.temperature()) - before) == sign
        agent = SAC(Problem(ref.DIMENSIONS), 0, actor=Actor(()), critic=tiny.critic(()))
