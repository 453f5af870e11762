"""MBOP: what its three models are fitted to, how it asks them, and the plan as a state from step to step."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import tiny

from brac_plus_tf.agents.base import Problem
from brac_plus_tf.agents.learned_dynamics import DynamicsFit
from brac_plus_tf.agents.mbop import MBOP, Planning
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.randomness import base_seed, row_normal
from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.data.scaling import Scaling
from brac_plus_tf.models.dynamics import Dynamics
from brac_plus_tf.models.optimization import Fit
from brac_plus_tf.models.regression import Regression
from brac_plus_tf.policies.saved_policy import DeployedPolicy, LoadedPolicy
from brac_plus_tf.runs.compiled_stage import compile_stage, take_step

SEED, DIMENSIONS = base_seed(5), Dimensions(observation=2, action=1)
SCALING = Scaling(
    np.array([1.0, -2.0], np.float32),
    np.array([2.0, 0.5], np.float32),
    np.zeros(1, np.float32),
    np.full(1, 3.0, np.float32),
    reward_scale=10.0,
)


class Ends:
    """A rule of termination: an episode ends where the first entry of the next observation exceeds a bound."""

    def __init__(self, bound: float) -> None:
        self._bound = bound

    def build(self, problem, seed):
        del problem, seed
        return self

    def __call__(self, observation, action, next_observation):
        return next_observation[:, 0] > self._bound

    def stages(self):
        return ()

    def components(self):
        return {}


def make_agent(scaling=None, planning=Planning(), **settings) -> MBOP:
    """Linear members, so that a plan can be worked out."""
    given = {
        "dynamics": Dynamics(members=3, hidden_sizes=(), weight_decay=(0.0,)),
        "dynamics_fit": DynamicsFit(epochs=2, epoch_steps=5, batch_size=8),
        "behavior": Regression(2, ()),
        "behavior_fit": Fit(12, 8, 0.1, (1.0,)),
        "value": Regression(2, ()),
        "value_fit": Fit(12, 8, 0.1, (1.0,)),
        "planning": planning,
        "evaluation_steps": 6,
        **settings,
    }
    return MBOP(Problem(DIMENSIONS, scaling), 0, **given)


def with_models(agent: MBOP, seed: int = 0):
    """Random linear members; returns them as NumPy functions on single rows: behavior, dynamics, value by member."""
    generator = np.random.default_rng(seed)
    found = []
    for network, sizes in (
        (agent.behavior.network.network, (3, 1)),
        (agent.dynamics.network.network, (3, 6)),
        (agent.value.network.network, (3, 1)),
    ):
        kernel, bias = network.variables
        kernel.assign(0.3 * generator.normal(size=kernel.shape))
        bias.assign(0.3 * generator.normal(size=bias.shape))
        assert tuple(kernel.shape[1:]) == sizes
        found.append((kernel.numpy().astype(np.float64), bias.numpy().astype(np.float64)))
    return [lambda member, *inputs, f=f: np.concatenate(inputs) @ f[0][member] + f[1][member] for f in found]


def planned(agent: MBOP, functions, observation, before, seed, ends=np.inf, objective=lambda state: 0.0) -> np.ndarray:
    """One episode's next plan, trajectory by trajectory as Algorithm 2 has it; noise is the agent's own draw."""
    behavior, dynamics, value = functions
    settings, order = agent._planning, agent.dynamics.order.numpy()
    count = settings.trajectories // 2
    noise = drawn_noise(agent, seed, count)
    earned, taken = [], []
    for n in range(2 * count):
        member = n % 2
        state, action, total, gathered, alive = observation, before[0], 0.0, 0.0, 1.0
        actions = []
        for t in range(1, settings.horizon + 1):
            action = np.clip(behavior(member, state, action) + settings.sigma * noise[n // 2, member, t - 1], -1, 1)
            action = (1 - settings.mixing) * action + settings.mixing * before[min(t, settings.horizon - 1)]
            outcomes = [dynamics(order[k], state, action)[:3] for k in range(2)]
            total += alive * np.mean([outcome[0] for outcome in outcomes])
            state = state + outcomes[member][1:]
            gathered += objective(state)
            alive *= float(state[0] <= ends)
            actions.append(action)
        total += alive * np.mean([value(k, state, action) for k in range(2)])
        earned.append(settings.kappa * total + settings.objective_weight * gathered)
        taken.append(actions)
    weight = np.exp(np.array(earned) - np.max(earned))
    return np.einsum("n,nha->ha", weight / weight.sum(), np.array(taken))


def drawn_noise(agent: MBOP, seed, count: int) -> np.ndarray:
    """[count, members, horizon, actions]."""
    shape = (count, 2, agent._planning.horizon, 1)
    return row_normal(int(np.prod(shape)), seed).numpy().reshape(shape).astype(np.float64)


OBSERVATION = np.array([[0.5, -0.3], [-1.0, 0.8], [0.1, 0.2]])


@pytest.mark.parametrize("mixing, ends", [(0.0, np.inf), (0.3, np.inf), (0.2, 0.4)])
def test_a_plan_is_algorithm_2_whatever_the_order_of_the_members(mixing, ends):
    planning = Planning(3, 9, sigma=0.4, mixing=mixing, kappa=2.0)
    agent = make_agent(planning=planning, termination=Ends(ends))
    functions = with_models(agent)
    agent.dynamics.order.assign([2, 0, 1])
    before = np.random.default_rng(1).uniform(-0.5, 0.5, size=(3, 3, 1))
    seeds = tf.constant([[1, 2], [3, 4], [5, 6]])
    found = agent.plan(
        tf.constant(OBSERVATION, tf.float32), tf.constant(before, tf.float32), agent.policies()["plan"].noise_of(seeds)
    ).plan
    for row in range(3):
        expected = planned(agent, functions, OBSERVATION[row], before[row], seeds[row], ends)
        np.testing.assert_allclose(found[row], expected, atol=1e-5)


def test_an_objective_is_asked_in_the_environments_units_and_kappa_is_per_unit_of_its_rewards():
    planning = Planning(2, 8, sigma=0.4, kappa=0.05, objective_weight=0.7)
    agent = make_agent(SCALING, planning, objective=lambda state: -tf.square(state[..., 1] - 1.0))
    functions = with_models(agent)
    agent._planning = planning
    before, seed = np.zeros((2, 1)), tf.constant([7, 8])
    given = tf.constant(OBSERVATION[:1], tf.float32), tf.constant(before[None], tf.float32)
    found = agent.plan(*given, agent.policies()["plan"].noise_of(seed)).plan[0]

    class InUnits:
        _planning = Planning(2, 8, sigma=0.4, kappa=0.5, objective_weight=0.7)  # 10 times, for rewards are a tenth
        dynamics = agent.dynamics

    objective = lambda state: -np.square(0.5 * state[1] - 2.0 - 1.0)  # noqa: E731
    expected = planned(InUnits, functions, OBSERVATION[0], before, seed, objective=objective)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_plan_is_the_state_and_its_first_action_what_is_done():
    agent = make_agent()
    with_models(agent)
    policy = agent.policies()["plan"]
    observation = tf.constant(OBSERVATION, tf.float32)
    state = policy.initial_state(3)
    np.testing.assert_array_equal(state, np.zeros((3, 4, 1)))
    for step in range(2):
        seed = tf.constant([step, 9])
        expected = agent.plan(observation, state, policy.noise_of(seed)).plan
        action, state = policy.draw(observation, state, seed)
        np.testing.assert_array_equal(state, expected)
        np.testing.assert_array_equal(action, expected[:, 0])


def test_the_clone_is_told_what_it_did_before():
    agent = make_agent()
    behavior, _, _ = with_models(agent)
    policy = agent.policies()["clone"]
    state, done = policy.initial_state(3), np.zeros((3, 1))
    for _ in range(3):
        action, state = policy.draw(tf.constant(OBSERVATION, tf.float32), state, SEED)
        done = np.array(
            [
                np.clip(np.mean([behavior(k, OBSERVATION[row], done[row]) for k in range(2)], axis=0), -1, 1)
                for row in range(3)
            ]
        )
        np.testing.assert_allclose(action, done, atol=1e-5)
    agent.behavior.network.network.variables[1].assign([[-2.0], [-3.0]])
    action, _ = policy.draw(tf.constant(OBSERVATION, tf.float32), policy.initial_state(3), SEED)
    assert action.numpy().tolist() == [[-1.0]] * 3  # far beyond an action's range


def fitted(part, data, steps: int):
    stage = part.stage(steps, ())
    stage.prepare(data, 0, SEED)
    train = compile_stage(stage, data, SEED)
    train(0, steps)
    return part


def test_the_cloned_policy_learns_least_squares_on_the_state_and_the_action_before():
    data = tiny.make_dataset(60, DIMENSIONS)
    agent = make_agent(behavior_fit=Fit(1500, 256, 0.03, (1.0, 0.1, 0.01)))
    fitted(agent.behavior, data, 1500)
    transitions = data.transitions
    before = np.concatenate([np.zeros((1, 1)), transitions.action[:-1]])
    inputs = np.concatenate([transitions.observation, before, np.ones((60, 1))], axis=1)
    solution = np.linalg.lstsq(inputs, transitions.action, rcond=None)[0]
    found = agent.behavior.network(tf.constant(inputs[:, :3], tf.float32))
    for member in found:
        np.testing.assert_allclose(member, inputs @ solution, atol=0.02)


def test_the_value_learns_what_the_next_steps_earn_from_the_state_and_the_action_before():
    """Rewards of 1: H of them, or as many as a terminal leaves; no window crosses an episode's end."""
    data = tiny.make_dataset(60, DIMENSIONS)
    discount = np.ones(60)
    discount[[30, 59]] = 0.0
    observation = np.stack([np.minimum(30 - np.arange(60) % 31, 3) / 3, np.ones(60)], axis=1)
    observation[31:, 0] = np.minimum(59 - np.arange(31, 60), 3) / 3  # how many steps are left, up to 3
    data = tiny.with_columns(data, reward=np.ones(60), discount=discount, observation=observation)
    agent = make_agent(planning=Planning(horizon=4), value_fit=Fit(1500, 256, 0.05, (1.0, 0.1, 0.01)))
    inputs, outputs, known = agent._returns(data)
    np.testing.assert_allclose(outputs[:, 0], 1.0 + 3.0 * observation[:, 0])
    assert known.all()
    np.testing.assert_array_equal(inputs[1:, 2:], data.transitions.action[:-1])
    fitted(agent.value, data, 1500)
    worth = agent._worth(tf.constant(inputs[None, :, :2], tf.float32), tf.constant(inputs[None, :, 2:], tf.float32))
    np.testing.assert_allclose(worth[0], 1.0 + 3.0 * observation[:, 0], atol=0.05)


def test_a_state_whose_last_action_is_not_known_teaches_no_value():
    """Step 1 of the episode is missing: what led to step 2 is unknown, though what follows it is known."""
    data = tiny.with_columns(tiny.make_dataset(5, DIMENSIONS), discount=[1, 1, 1, 1, 0])
    step = np.array([0, 2, 3, 4, 5], np.int32)
    data = dataclasses.replace(data, places=data.places._replace(step=step))
    _, _, known = make_agent(planning=Planning(horizon=2))._returns(data)
    assert known.tolist() == [False, False, True, True, True]
    _, _, known = make_agent(planning=Planning(horizon=1))._returns(data)
    assert known.tolist() == [True, False, True, True, True]


def test_the_value_alone_depends_on_the_horizon():
    """So that runs of another horizon share the stages before it, and not its own."""
    stages = [make_agent(planning=Planning(horizon=horizon)).stages() for horizon in (2, 3)]
    assert [one.settings == other.settings for one, other in zip(*stages, strict=True)] == [True, True, False]


def test_each_member_draws_its_own_minibatches():
    data = tiny.make_dataset(60, DIMENSIONS)
    batch = make_agent().behavior.stage(6, ()).draw(data, SEED)
    assert batch.inputs.shape == (2, 8, 3) and batch.outputs.shape == (2, 8, 1)
    assert not np.array_equal(batch.inputs[0], batch.inputs[1])
    rows = {tuple(row) for row in np.round(data.transitions.action, 6)}
    assert {tuple(row) for row in np.round(batch.outputs.numpy().reshape(-1, 1), 6)} <= rows


def test_no_stretch_long_enough_is_refused():
    data = tiny.with_columns(tiny.make_dataset(5, DIMENSIONS), discount=np.ones(5))
    stage = make_agent(planning=Planning(horizon=6)).value.stage(6, ())
    with pytest.raises(UserError, match=r"plan_value: no stretch .* Planning\.horizon"):
        stage.prepare(data, 0, SEED)


@pytest.mark.parametrize(
    "settings",
    [
        {"behavior": Regression(2, ()), "value": Regression(3, ())},
        {"dynamics": Dynamics(members=1, hidden_sizes=(), weight_decay=(0.0,))},
        {"planning": Planning(trajectories=1)},
    ],
)
def test_members_that_do_not_fit_each_other_are_refused(settings):
    with pytest.raises(UserError, match="members of the cloned policy"):
        make_agent(**settings)


def test_five_steps_served_from_a_saved_model_with_the_plan_as_input_and_output(tmp_path):
    """Row 1 begins a new episode at step 3: its caller sends the initial plan again."""
    agent = make_agent(SCALING)
    data = tiny.make_dataset(60, DIMENSIONS)
    for stage in agent.stages():
        stage.prepare(data, 0, SEED)
        take_step(stage, data, SEED, tf.constant(0))
    with_models(agent)
    DeployedPolicy(agent, DIMENSIONS, SCALING).save(tmp_path / "policy", {})
    way = LoadedPolicy(tmp_path / "policy").way("plan")
    observations = np.random.default_rng(2).normal(size=(5, 2, 2)).astype(np.float32)
    state, plan = way.initial_state(2), np.zeros((2, 4, 1), np.float32)
    for step, observation in enumerate(observations):
        if step == 3:
            state = tuple(np.array(leaf) for leaf in state)
            for leaf, initial in zip(state, way.initial_state(1), strict=True):
                leaf[1] = initial[0]
            plan[1] = 0.0
        seeds = np.array([10 * step, 10 * step + 1])
        action, state = way.act(observation, state, seeds)
        seen = (observation - [1.0, -2.0]) / [2.0, 0.5]
        live, plan = live_step(agent, seen, plan, seeds)
        np.testing.assert_allclose(action, 3.0 * live, atol=1e-5)


def live_step(agent: MBOP, seen: np.ndarray, plan: np.ndarray, seeds: np.ndarray):
    rows = tf.constant([[seed, 0] for seed in seeds])
    noise = agent.policies()["plan"].noise_of(rows)
    found = agent.plan(tf.constant(seen, tf.float32), tf.constant(plan, tf.float32), noise).plan.numpy()
    return found[:, 0], found.copy()
