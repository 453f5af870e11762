"""What holds for every agent, whatever it learns: each stage trains what it should, nothing else, and reproducibly."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import tiny

from brac_plus_tf.agents.actor_critic import Training
from brac_plus_tf.agents.base import Problem
from brac_plus_tf.agents.bc import BC
from brac_plus_tf.agents.bcq import BCQ
from brac_plus_tf.agents.bear import BEAR
from brac_plus_tf.agents.brac import BRAC, Dual, Primal
from brac_plus_tf.agents.cloning import Cloning
from brac_plus_tf.agents.cql import CQL
from brac_plus_tf.agents.sac import SAC
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.randomness import base_seed
from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.models.action_auto_encoder import ActionAutoEncoder
from brac_plus_tf.models.networks import Actor
from brac_plus_tf.models.optimization import Fit
from brac_plus_tf.runs.compiled_stage import compile_stage, take_step

DIMENSIONS, SEED = Dimensions(observation=5, action=2), base_seed(3)
ACTOR, CRITIC = Actor((16,)), tiny.critic((16,), tau=0.25)
TRAINING = Training(epochs=2, steps_per_epoch=10, batch_size=30, policy_learning_rate=1e-3, warm_start=10)
CLONING = Cloning(actor=ACTOR, fit=Fit(steps=10, batch_size=30, decay=(1.0,)))
MODEL = ActionAutoEncoder((16,))
NO_WARM_START = dataclasses.replace(TRAINING, warm_start=0)
SHARED = {"actor": ACTOR, "critic": CRITIC, "training": TRAINING}
AGENTS = {
    "bc": lambda seed: BC(Problem(DIMENSIONS), seed, cloning=CLONING),
    "sac": lambda seed: SAC(Problem(DIMENSIONS), seed, **(SHARED | {"training": NO_WARM_START})),
    "brac primal": lambda seed: BRAC(Problem(DIMENSIONS), seed, divergence=Primal(cloning=CLONING), **SHARED),
    "brac dual": lambda seed: BRAC(Problem(DIMENSIONS), seed, divergence=Dual(hidden_sizes=(16,)), **SHARED),
    "bear": lambda seed: BEAR(Problem(DIMENSIONS), seed, behavior=MODEL, **SHARED),
    "bcq": lambda seed: BCQ(
        Problem(DIMENSIONS), seed, hidden_sizes=(16,), critic=CRITIC, behavior=MODEL, training=NO_WARM_START
    ),
    "cql": lambda seed: CQL(Problem(DIMENSIONS), seed, **SHARED),
}
CLONED = {"behavior", "behavior_optimizer", "behavior_entropy"}
LEARNED = {"actor", "policy_optimizer", "critic", "target_critic", "critic_optimizer"}
TRAINED = {
    "bc": {"behavior": CLONED},
    "sac": {"main": LEARNED | {"temperature"}},
    # multipliers that are fixed still count the steps of their optimisers
    "brac primal": {"behavior": CLONED, "main": LEARNED | {"multiplier", "entropy_multiplier"}},
    "brac dual": {
        "main": LEARNED | {"multiplier", "entropy_multiplier", "divergence_critic", "divergence_critic_optimizer"}
    },
    "bear": {"main": LEARNED | {"behavior", "behavior_optimizer", "multiplier"}},
    "bcq": {"main": (LEARNED - {"actor"}) | {"perturbation", "target_perturbation", "behavior", "behavior_optimizer"}},
    "cql": {"main": LEARNED | {"gap_multiplier", "temperature"}},
}
WARM = {"brac primal", "brac dual", "bear", "cql"}


def dataset():
    return tiny.make_dataset(200, DIMENSIONS)


def changed(before, after):
    return {name.split("/")[0] for name in before if not np.array_equal(before[name], after[name])}


@pytest.mark.parametrize("name", AGENTS)
def test_each_stage_changes_what_it_trains_and_nothing_else(name):
    agent = AGENTS[name](0)
    assert [stage.name for stage in agent.stages()] == [
        *(["behavior"] if "behavior" in TRAINED[name] else []),
        *(["warm_start"] if name in WARM else []),
        *(["main"] if "main" in TRAINED[name] else []),
    ]
    for stage in agent.stages():
        before = tiny.values(agent)
        take_step(stage, dataset(), SEED, tf.constant(0))
        expected = TRAINED[name]["main" if stage.name == "warm_start" else stage.name]
        assert changed(before, tiny.values(agent)) == expected, stage.name


@pytest.mark.parametrize("name", [name for name in AGENTS if name != "bc"])
def test_targets_start_as_copies_and_follow_by_tau(name):
    agent = AGENTS[name](0)
    start = [variable.numpy() for variable in agent.critic.variables]
    for value, target in zip(start, agent.target_critic.variables, strict=True):
        np.testing.assert_array_equal(target.numpy(), value)
    take_step(agent.stages()[-1], dataset(), SEED, tf.constant(0))
    for old, source, target in zip(start, agent.critic.variables, agent.target_critic.variables, strict=True):
        np.testing.assert_allclose(target.numpy(), 0.75 * old + 0.25 * source.numpy(), atol=1e-6)


@pytest.mark.parametrize("name", AGENTS)
def test_an_eager_step_equals_the_compiled_one_and_another_seed_does_not(name):
    """One step of the last stage; XLA may reorder sums, which Adam's first steps hardly see."""
    eager, compiled, other = (AGENTS[name](seed) for seed in (0, 0, 1))
    for agent in (eager, other):
        take_step(agent.stages()[-1], dataset(), SEED, tf.constant(0))
    compile_stage(compiled.stages()[-1], dataset(), SEED)(0, 1)
    assert changed(tiny.values(compiled), tiny.values(other)) >= {"bc": {"behavior"}}.get(name, {"critic"})
    expected = tiny.values(eager)
    for key, value in tiny.values(compiled).items():
        np.testing.assert_allclose(value, expected[key], rtol=1e-4, atol=2e-5, err_msg=key)


@pytest.mark.parametrize("name", AGENTS)
def test_policies_act_within_bounds_row_by_row(name):
    agent = AGENTS[name](0)
    observation = tf.constant(10.0 * np.random.default_rng(0).normal(size=(7, 5)), tf.float32)
    for label, policy in agent.policies().items():
        action = policy.act(observation, (), SEED)[0].numpy()
        assert action.shape == (7, 2) and (np.abs(action) <= 1.0).all(), label
        np.testing.assert_array_equal(policy.act(observation, (), SEED)[0], action)
        assert len({tuple(row) for row in action}) == 7, label
    assert ("mean" in agent.policies()) == (name != "bcq")


@pytest.mark.parametrize("name", AGENTS)
def test_an_action_depends_on_its_own_row_alone(name):
    """A batch of 1 is its row of 4096, wherever it stands; a draw is its row's seed's, which rows may share or not."""
    observation = tf.constant(np.random.default_rng(0).normal(size=(4096, 5)), tf.float32)
    seeds = tf.stack([tf.range(4096), tf.range(4096) % 7], axis=1)
    for label, policy in AGENTS[name](0).policies().items():
        shared = [SEED] if policy.seeded else [tf.constant([0, 0])]
        for seed in [*shared, seeds] if policy.seeded else shared:
            many = policy.act(observation, (), seed)[0].numpy()
            for row in (0, 1, 2047, 4095):
                own = seed if seed.shape.rank == 1 else seed[row]
                one, _ = policy.act(observation[row : row + 1], (), own)
                np.testing.assert_allclose(one[0], many[row], atol=1e-5, err_msg=f"{label} {row}")
        equal = tf.tile(observation[:1], [100, 1])
        actions = policy.act(equal, (), shared[0])[0].numpy()
        np.testing.assert_allclose(actions, np.tile(actions[:1], (100, 1)), atol=1e-5, err_msg=label)
        if policy.seeded:
            assert (
                len({tuple(row) for row in policy.act(equal, (), seeds[:100])[0].numpy()}) > 90
            )  # clipped latents may meet


@pytest.mark.parametrize("agent", [SAC, BCQ])
def test_a_warm_start_that_an_agent_does_not_have_is_refused(agent):
    with pytest.raises(UserError, match="no warm start"):
        agent(Problem(DIMENSIONS), 0, critic=CRITIC, training=TRAINING).stages()
