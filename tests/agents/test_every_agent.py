"""What holds for every agent, whatever it learns: each stage trains what it should, nothing else, and reproducibly.

An agent is found by its module's being in agents/; see `every_agent_class`.
"""

import dataclasses
import importlib
import inspect
import pkgutil

import numpy as np
import pytest
import tensorflow as tf
import tiny
from test_layers import SHARED_AGENTS

from brac_plus_tf import agents
from brac_plus_tf.agents.actor_critic import Training
from brac_plus_tf.agents.base import Problem, state_of
from brac_plus_tf.agents.bcq import BCQ
from brac_plus_tf.agents.brac import BRAC, Dual
from brac_plus_tf.agents.mopo import MOPO, Imagination
from brac_plus_tf.agents.sac import SAC
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.randomness import base_seed
from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.data.scaling import Scaling, action_range
from brac_plus_tf.models.dynamics import Dynamics
from brac_plus_tf.policies.saved_policy import DeployedPolicy
from brac_plus_tf.runs.compiled_stage import compile_stage, take_step

DIMENSIONS, SEED = Dimensions(observation=5, action=2), base_seed(3)
# sizes and lengths of a test; what else an algorithm sets stays as it is
SMALL = {
    "hidden_sizes": (16,),
    "batch_size": 30,
    "steps": 10,
    "epochs": 2,
    "steps_per_epoch": 10,
    "decay": (1.0,),
    "tau": 0.25,
    "weight_decay": (1e-4, 1e-4),
    "epoch_steps": 10,
    "evaluation_steps": 10,
    "holdout_size": 50,
    "starts": 24,
    "chunk": 16,
}
RATES = {"learning_rate", "policy_learning_rate"}


def shrunk(settings):
    """Hyper-parameter objects in the size of a test: small networks, short stages, rates that show in one step."""
    if not dataclasses.is_dataclass(settings):
        return settings
    changes = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if field.name in SMALL:
            changes[field.name] = SMALL[field.name]
        elif field.name in RATES:
            changes[field.name] = min(value, 1e-3) if value == 0 else 1e-3
        elif field.name == "warm_start":
            changes[field.name] = min(value, 10)
        else:
            changes[field.name] = shrunk(value)
    return dataclasses.replace(settings, **changes)


def smaller(agent_class, **given):
    """(seed, ..) -> the agent with its own defaults, in the size of a test, but for what is given there."""
    parameters = inspect.signature(agent_class).parameters.values()
    settings = {name: parameter.default for name, parameter in ((p.name, p) for p in parameters) if name not in given}
    settings = {name: value for name, value in settings.items() if value is not inspect.Parameter.empty} | given
    settings = {name: SMALL.get(name, shrunk(value)) for name, value in settings.items()}
    return lambda seed, **exact: agent_class(Problem(DIMENSIONS), seed, **(settings | exact))


def every_agent_class():
    """Each class of agents/ that has ways to act: an algorithm is found by being there."""
    for found in pkgutil.iter_modules(agents.__path__):
        module = importlib.import_module(f"{agents.__name__}.{found.name}")
        for value in vars(module).values():
            here = inspect.isclass(value) and value.__module__ == module.__name__
            if here and hasattr(value, "policies") and found.name not in SHARED_AGENTS:
                yield found.name, value


AGENTS = {name: smaller(agent_class) for name, agent_class in every_agent_class()}
AGENTS["mopo"] = smaller(MOPO, dynamics=Dynamics(members=3), imagination=Imagination(length=2, elites=2))
AGENTS["brac dual"] = smaller(BRAC, divergence=Dual(steps=1))
CLONED = {"behavior", "behavior_optimizer", "behavior_entropy"}
LEARNED = {"actor", "policy_optimizer", "critic", "target_critic", "critic_optimizer"}
TRAINED = {
    "bc": {"behavior": CLONED},
    "sac": {"main": LEARNED | {"temperature"}},
    # multipliers that are fixed still count the steps of their optimisers
    "brac": {"behavior": CLONED, "main": LEARNED | {"multiplier", "entropy_multiplier"}},
    "brac dual": {
        "main": LEARNED | {"multiplier", "entropy_multiplier", "divergence_critic", "divergence_critic_optimizer"}
    },
    "bear": {"main": LEARNED | {"behavior", "behavior_optimizer", "multiplier"}},
    "bcq": {"main": (LEARNED - {"actor"}) | {"perturbation", "target_perturbation", "behavior", "behavior_optimizer"}},
    "cql": {"main": LEARNED | {"gap_multiplier", "temperature"}},
}
TRAINED["td3_bc"] = TRAINED["rebrac"] = {"main": LEARNED | {"target_actor"}}
TRAINED["iql"] = {"main": LEARNED | {"value", "value_optimizer"}}
WITHOUT_CRITIC = {"bc": {"behavior"}, "mbop": {"plan_value"}}
WARM = {"brac", "brac dual", "bear", "cql"}


def dataset():
    return tiny.make_dataset(200, DIMENSIONS)


def prepared(agent) -> None:
    """For the last stage of an agent that learns from transitions it has made before."""
    if agent.buffers():
        agent.stages()[-1].prepare(dataset(), 0, SEED)


def stage_optimizers(stage):
    """Slots that no later stage reads."""
    return {f"{stage.name}_optimizer"}


def changed(before, after):
    return {name.split("/")[0] for name in before if not np.array_equal(before[name], after[name])}


@pytest.mark.parametrize("name", AGENTS)
def test_all_that_an_agent_names_learns_in_some_stage_and_a_reusable_stage_says_what_it_writes(name):
    agent = AGENTS[name](0)
    start = tiny.values(agent)
    for stage in agent.stages():
        before = tiny.values(agent)
        stage.prepare(dataset(), 0, SEED)
        for step in range(2):
            take_step(stage, dataset(), SEED, tf.constant(step))
        learned = changed(before, tiny.values(agent))
        assert learned and (not stage.writes or learned <= set(stage.writes) | stage_optimizers(stage)), stage.name
    constant = {"penalty_weight"} if name == "brac_plus" else set()  # learned only in the authors' later code
    assert changed(start, tiny.values(agent)) - set(agent.buffers()) == set(agent.components()) - constant


@pytest.mark.parametrize("name", sorted(TRAINED))
def test_each_stage_changes_what_it_trains_and_nothing_else(name):
    agent = AGENTS[name](0)
    assert [stage.name for stage in agent.stages()] == [
        *(["behavior"] if "behavior" in TRAINED[name] else []),
        *(["warm_start"] if name in WARM else []),
        *(["main"] if "main" in TRAINED[name] else []),
    ]
    for stage in agent.stages():
        before = tiny.values(agent)
        for step in range(2):  # a delayed policy moves with the second
            take_step(stage, dataset(), SEED, tf.constant(step))
        expected = TRAINED[name]["main" if stage.name == "warm_start" else stage.name]
        assert changed(before, tiny.values(agent)) == expected, stage.name


@pytest.mark.parametrize("name", [name for name in AGENTS if name not in WITHOUT_CRITIC])
def test_targets_start_as_copies_and_follow_by_tau(name):
    agent = AGENTS[name](0)
    start = [variable.numpy() for variable in agent.critic.variables]
    for value, target in zip(start, agent.target_critic.variables, strict=True):
        np.testing.assert_array_equal(target.numpy(), value)
    prepared(agent)
    take_step(agent.stages()[-1], dataset(), SEED, tf.constant(1))  # with which also a delayed target follows
    for old, source, target in zip(start, agent.critic.variables, agent.target_critic.variables, strict=True):
        np.testing.assert_allclose(target.numpy(), 0.75 * old + 0.25 * source.numpy(), atol=1e-6)


# BRAC+'s steps on thresholds that no stage has measured reach 1e3: test_brac_plus.py compares those of a measured one
@pytest.mark.parametrize("name", [name for name in AGENTS if name != "brac_plus"])
def test_an_eager_step_equals_the_compiled_one_and_another_seed_does_not(name):
    """One step of the last stage; XLA may reorder sums, which Adam's first steps hardly see."""
    eager, compiled, other = (AGENTS[name](seed) for seed in (0, 0, 1))
    for agent in (eager, compiled, other):
        prepared(agent)
    for agent in (eager, other):
        take_step(agent.stages()[-1], dataset(), SEED, tf.constant(0))
    compile_stage(compiled.stages()[-1], dataset(), SEED)(0, 1)
    assert changed(tiny.values(compiled), tiny.values(other)) >= WITHOUT_CRITIC.get(name, {"critic"})
    expected = tiny.values(eager)
    for key, value in tiny.values(compiled).items():
        np.testing.assert_allclose(value, expected[key], rtol=1e-4, atol=2e-5, err_msg=key)


@pytest.mark.parametrize("name", AGENTS)
def test_policies_act_within_bounds_row_by_row(name):
    agent = AGENTS[name](0)
    observation = tf.constant(10.0 * np.random.default_rng(0).normal(size=(7, 5)), tf.float32)
    for label, policy in agent.policies().items():
        begun = policy.initial_state(7)
        action = policy.draw(observation, begun, SEED)[0].numpy()
        assert action.shape == (7, 2) and (np.abs(action) <= 1.0).all(), label
        np.testing.assert_array_equal(policy.draw(observation, begun, SEED)[0], action)
        assert len({tuple(row) for row in action}) > 3, label  # some may all be at a bound
    assert "mean" in agent.policies() or name in ("bcq", "mbop")  # which have no one action


@pytest.mark.parametrize("name", AGENTS)
def test_an_action_depends_on_its_own_row_alone(name):
    """A batch of 1 is its row of 4096, wherever it stands; a draw is its row's seed's, which rows may share or not."""
    observation = tf.constant(np.random.default_rng(0).normal(size=(4096, 5)), tf.float32)
    seeds = tf.stack([tf.range(4096), tf.range(4096) % 7], axis=1)
    for label, policy in AGENTS[name](0).policies().items():
        shared = [SEED] if policy.seeded else [tf.constant([0, 0])]
        for seed in [*shared, seeds] if policy.seeded else shared:
            many = policy.draw(observation, policy.initial_state(4096), seed)[0].numpy()
            for row in (0, 1, 2047, 4095):
                own = seed if seed.shape.rank == 1 else seed[row]
                one, _ = policy.draw(observation[row : row + 1], policy.initial_state(1), own)
                np.testing.assert_allclose(one[0], many[row], atol=1e-5, err_msg=f"{label} {row}")
        equal = tf.tile(observation[:1], [100, 1])
        begun = policy.initial_state(100)
        actions = policy.draw(equal, begun, shared[0])[0].numpy()
        np.testing.assert_allclose(actions, np.tile(actions[:1], (100, 1)), atol=1e-5, err_msg=label)
        if policy.seeded:
            drawn = policy.draw(equal, begun, seeds[:100])[0].numpy()
            assert len({tuple(row) for row in drawn}) > 90  # clipped latents may meet


@pytest.mark.parametrize("agent", [SAC, BCQ])
def test_a_warm_start_that_an_agent_does_not_have_is_refused(agent):
    with pytest.raises(UserError, match="no warm start"):
        agent(Problem(DIMENSIONS), 0, training=Training(policy_learning_rate=1e-3, warm_start=10)).stages()


BOUNDS = Scaling(
    np.zeros(5, np.float32), np.ones(5, np.float32), *action_range(low := [0.1, -0.7], high := [0.3, 1.9], 2)
)


@pytest.mark.parametrize("name", AGENTS)
def test_no_way_to_act_leaves_the_bounds_of_an_environment(name):
    """Neither by rounding: 0.2 + 0.1 is more than 0.3 in float32. Weights so large that every action is at a bound."""
    agent = AGENTS[name](0)
    for variable in state_of(agent).values():
        if variable.dtype == tf.float32:
            variable.assign(100.0 * variable)
    policy = DeployedPolicy(agent, DIMENSIONS, BOUNDS)
    observation = np.random.default_rng(0).normal(scale=100.0, size=(300, 5)).astype(np.float32)
    for way in policy.actions:
        acting = policy.way(way)
        action, _ = acting.act(observation, acting.initial_state(300), np.arange(300))
        assert action.dtype == np.float32
        assert (action.astype(np.float64) >= low).all() and (action.astype(np.float64) <= high).all(), way
        reached = (np.abs(action - low) < 1e-6) | (np.abs(action - high) < 1e-6)
        assert reached.mean() > 0.5, way
