"""How learning rates fall over the main stage, of every agent that has one."""

import dataclasses

import pytest
import tensorflow as tf
import tiny
from agents.test_every_agent import AGENTS, DIMENSIONS, SEED, changed, dataset, prepared

from brac_plus_tf.agents.actor_critic import Training
from brac_plus_tf.agents.base import Problem
from brac_plus_tf.agents.iql import IQL
from brac_plus_tf.agents.td3_bc import TD3BC
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.runs.compiled_stage import take_step

FIRST, SECOND = (0, 1, 2, 3), (4, 5)  # Keras changes the rate one step late
SLOWED = [name for name in AGENTS if "training" in AGENTS[name](0).settings]
STEPS_OF_THE_POLICY = {name: {"actor": FIRST} for name in SLOWED} | {
    "bcq": {"perturbation": FIRST},
    "iql": {"actor": FIRST + SECOND, "value": SECOND},  # by a cosine
    # every second step, and half as many for the schedule
    "td3_bc": {"actor": (1, 3)},
    "rebrac": {"actor": (1, 3)},
}


@pytest.mark.parametrize("name", SLOWED)
def test_policy_and_critics_slow_down_by_their_own_decay_over_the_main_stage(name):
    """A factor of 0 stops what it is on for half the main stage, a warm start before it not counted."""
    training = AGENTS[name](0).settings["training"]
    changes = {"epochs": 2, "steps_per_epoch": 3, "warm_start": min(training.warm_start, 4), "critic_decay": (0.0, 1.0)}
    changes |= {} if name == "iql" else {"policy_decay": (1.0, 0.0)}
    agent, data = AGENTS[name](0, training=dataclasses.replace(training, **changes)), dataset()
    prepared(agent)
    stages = {stage.name: stage for stage in agent.stages()}
    for step in range(changes["warm_start"]):
        take_step(stages["warm_start"], data, SEED, tf.constant(step))
    moved = {component: () for component in ("actor", "perturbation", "critic", "value")}
    for step in range(6):
        before = tiny.values(agent)
        take_step(stages["main"], data, SEED, tf.constant(step))
        for component in changed(before, tiny.values(agent)) & set(moved):
            moved[component] += (step,)
    expected = STEPS_OF_THE_POLICY[name] | {"critic": SECOND}
    assert {component: steps for component, steps in moved.items() if steps} == expected


def test_a_schedule_that_an_agent_could_not_follow_is_refused():
    with pytest.raises(UserError, match="cosine schedule"):
        IQL(Problem(DIMENSIONS), 0, training=Training(policy_decay=(1.0, 0.1)))
    with pytest.raises(UserError, match=r"TD3BC\.policy_delay is 0"):
        TD3BC(Problem(DIMENSIONS), 0, policy_delay=0)
