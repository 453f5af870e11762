"""Whole steps of TD3+BC, with the policy's turn and without, against losses in NumPy and finite differences."""

import numpy as np
import pytest
import tensorflow as tf
import tiny
from agents import reference as ref

from brac_plus_tf.agents.actor_critic import Training
from brac_plus_tf.agents.base import Problem
from brac_plus_tf.agents.td3_bc import TD3BC
from brac_plus_tf.core.randomness import base_seed
from brac_plus_tf.models.networks import DeterministicActor

SEED, GAMMA, TAU, WEIGHT, NOISE, CLIP = base_seed(11), 0.9, 0.25, 1.7, 0.4, 0.3
RATES = {"critic": 0.05, "policy": 0.04}
BATCH, DATA = ref.batch(), ref.arrays(ref.batch())


@pytest.mark.parametrize(("step", "due"), [(0, False), (1, False), (2, True), (5, True)])
def test_a_whole_step(step, due):
    """Of every three steps the last is the policy's, and the targets'."""
    agent = TD3BC(
        Problem(ref.DIMENSIONS),
        0,
        actor=DeterministicActor((5,)),
        critic=tiny.critic((5,), RATES["critic"], TAU, gamma=GAMMA),
        training=Training(policy_learning_rate=RATES["policy"]),
        weight=WEIGHT,
        target_noise=NOISE,
        noise_clip=CLIP,
        policy_delay=3,
    )
    networks = (agent.actor, agent.target_actor, agent.critic, agent.target_critic)
    for seed, network in zip((0, 1, 3, 32), networks, strict=True):
        ref.randomize(network.trainable_variables, seed)
    actor, target_actor, critic, target = map(ref.weights_of, networks)
    metrics = agent.update(BATCH, SEED, tf.constant(step))

    following = ref.smoothed_action(target_actor, DATA.next_observation, SEED, NOISE, CLIP)
    values = ref.q_values(target, DATA.next_observation, following)
    ref.assert_either_is_smaller(values)
    expected = ref.td_target(DATA.reward, DATA.discount, values.min(axis=0), GAMMA)
    new_critic = ref.assert_critic_step(agent, critic, DATA, expected, RATES["critic"])
    if not due:
        for name in ("actor", "target_actor", "target_critic"):
            pairs = zip(
                {"actor": actor, "target_actor": target_actor, "target_critic": target}[name],
                ref.weights_of(getattr(agent, name)),
                strict=True,
            )
            assert all(np.array_equal(old, new) for old, new in pairs), name
        assert float(metrics["policy_value"]) == 0.0 and int(agent.policy_optimizer.iterations) == 0
        return

    first = ref.q_values(new_critic, DATA.observation, np.tanh(ref.mlp(actor, DATA.observation)))[0]
    scale = np.abs(first).mean()  # without gradient

    def policy_loss(weights):
        action = np.tanh(ref.mlp(weights, DATA.observation))
        value = ref.q_values(new_critic, DATA.observation, action)[0]
        return float((((action - DATA.action) ** 2).mean(axis=-1) - WEIGHT * value / scale).mean())

    gradient = ref.finite_difference(policy_loss, ref.copies(actor))
    ref.assert_gradient(agent.policy_optimizer, agent.actor.trainable_variables, gradient)
    ref.assert_rate(actor, ref.weights_of(agent.actor), gradient, RATES["policy"])
    ref.assert_followed(target, agent.critic, agent.target_critic, TAU)
    ref.assert_followed(target_actor, agent.actor, agent.target_actor, TAU)
    # reported at a third of the steps, so that a mean over all is that over the policy's
    assert float(metrics["policy_value"]) == pytest.approx(3.0 * first.mean(), rel=1e-3)
