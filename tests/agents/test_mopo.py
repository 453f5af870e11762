"""MOPO: what it draws, what it makes of its model's answers, and that what it learns is right."""

import numpy as np
import pytest
import tensorflow as tf
import tiny
from test_trainer import CrashError, Run, crash, stop

from brac_plus_tf.agents.actor_critic import Training
from brac_plus_tf.agents.base import Problem
from brac_plus_tf.agents.learned_dynamics import DynamicsFit
from brac_plus_tf.agents.mopo import MOPO, Imagination
from brac_plus_tf.agents.sac import SAC
from brac_plus_tf.agents.termination import NoTermination
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.randomness import base_seed
from brac_plus_tf.core.stopping import Interrupted
from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.data.scaling import Scaling
from brac_plus_tf.models.dynamics import Dynamics
from brac_plus_tf.models.networks import Actor
from brac_plus_tf.objectives.multipliers import Multiplier
from brac_plus_tf.objectives.uncertainty import distance_to_mean, largest_deviation
from brac_plus_tf.runs.compiled_stage import compile_stage, take_step

SEED, DIMENSIONS = base_seed(5), Dimensions(observation=3, action=2)
SCALING = Scaling(
    np.array([1.0, 2.0, 3.0], np.float32),
    np.array([2.0, 0.5, 4.0], np.float32),
    np.zeros(2, np.float32),
    np.ones(2, np.float32),
    reward_shift=0.5,
    reward_scale=10.0,
)


def make_agent(scaling=None, **settings) -> MOPO:
    """Linear members, so that every answer of the model can be worked out."""
    given = {
        "dynamics": Dynamics(members=3, hidden_sizes=(), weight_decay=(0.0,)),
        "dynamics_fit": DynamicsFit(epochs=2, epoch_steps=5, batch_size=8),
        "imagination": Imagination(starts=40, length=3, retained_epochs=2, elites=2, chunk=30),
        "actor": Actor((8,)),
        "critic": tiny.critic((8,), tau=0.25),
        "training": Training(epochs=2, steps_per_epoch=4, batch_size=25),
        "termination": NoTermination(),
        **settings,
    }
    return MOPO(Problem(DIMENSIONS, scaling), 0, **given)


def with_model(agent: MOPO, mean: np.ndarray, deviation: np.ndarray) -> MOPO:
    """Its members answer (r, s' - s) = mean [K, 4] with standard deviations [K, 4], whatever they are asked."""
    network = agent.dynamics.network
    low, high = -60.0, 60.0  # far away: the clamp is the identity
    network.min_log_variance.assign(tf.fill([3, 4], low))
    network.max_log_variance.assign(tf.fill([3, 4], high))
    kernel, bias = network.network.variables
    kernel.assign(tf.zeros_like(kernel))
    bias.assign(np.concatenate([mean, 2.0 * np.log(deviation)], axis=1))
    return agent


MEAN = np.array([[1.0, 0.1, 0.2, 0.3], [2.0, 0.4, 0.5, 0.6], [3.0, 0.7, 0.8, 0.9]])
SMALL = np.full((3, 4), 1e-6)


def answers(agent: MOPO, rows: int = 400):
    generator = np.random.default_rng(0)
    observation = tf.constant(generator.normal(size=(rows, 3)), tf.float32)
    return observation, agent.step(observation, tf.zeros([rows, 2]), SEED)


def test_each_row_is_answered_by_one_elite_and_all_elites_are_asked():
    agent = with_model(make_agent(penalty_weight=0.0), MEAN, SMALL)
    agent.dynamics.order.assign([2, 0, 1])
    observation, answer = answers(agent)
    change = (answer.next_observation - observation).numpy()
    first = np.abs(change[:, 0] - 0.7) < 1e-4
    np.testing.assert_allclose(change[first], np.tile([0.7, 0.8, 0.9], (first.sum(), 1)), atol=1e-4)
    np.testing.assert_allclose(change[~first], np.tile([0.1, 0.2, 0.3], ((~first).sum(), 1)), atol=1e-4)
    np.testing.assert_allclose(answer.reward, np.where(first, 3.0, 1.0), atol=1e-4)
    assert abs(first.sum() - 200) < 5 * 10


def test_the_noise_is_the_members_own_and_all_its_entries_are_independent():
    deviation = np.array([[0.5, 1.0, 2.0, 3.0]] * 3)
    agent = with_model(make_agent(penalty_weight=0.0), np.zeros((3, 4)), deviation)
    observation, answer = answers(agent, 20_000)
    noise = np.concatenate([answer.reward[:, None], answer.next_observation - observation], axis=1)
    np.testing.assert_allclose(noise.std(axis=0), deviation[0], rtol=0.03)
    np.testing.assert_allclose(np.corrcoef(noise.T), np.eye(4), atol=0.03)
    np.testing.assert_allclose(noise.mean(axis=0), 0.0, atol=0.1)


def test_the_penalty_is_in_the_environments_units_over_all_members_and_enters_linearly():
    """Reward deviations times 10, those of the entries times 2, 0.5 and 4; member 2 is no elite and the least sure."""
    deviation = np.array([[1e-6] * 4, [1e-6] * 4, [0.3, 1.0, 2.0, 0.5]])
    raw = np.sqrt((0.3 * 10) ** 2 + (1.0 * 2) ** 2 + (2.0 * 0.5) ** 2 + (0.5 * 4) ** 2)
    rewards = {}
    for weight in (0.0, 1.0, 2.5):
        agent = with_model(make_agent(SCALING, penalty_weight=weight, uncertainty=largest_deviation), MEAN, deviation)
        _, answer = answers(agent)
        np.testing.assert_allclose(answer.penalty, raw, rtol=1e-4)
        rewards[weight] = answer.reward.numpy()
    # r' = (r - lambda u - shift) / scale
    np.testing.assert_allclose(rewards[1.0], rewards[0.0] - raw / 10.0, atol=1e-4)
    np.testing.assert_allclose(rewards[2.5], rewards[0.0] - 2.5 * raw / 10.0, atol=1e-4)


def test_disagreement_is_scaled_as_well():
    agent = with_model(make_agent(SCALING, uncertainty=distance_to_mean), MEAN, SMALL)
    _, answer = answers(agent, 5)
    # every entry of s' - s differs from the mean by 0.3 at most
    expected = 0.3 * np.sqrt(2.0**2 + 0.5**2 + 4.0**2)
    np.testing.assert_allclose(answer.penalty, expected, rtol=1e-4)


def test_answers_can_be_kept_within_the_data():
    agent = make_agent(imagination=Imagination(elites=2, clip_to_data=True), penalty_weight=0.0)
    with_model(agent, MEAN + 10.0, SMALL)
    agent.dynamics.low.assign([-1.0, -2.0, -2.0, -2.0])
    agent.dynamics.high.assign([1.5, 0.5, 0.6, 0.7])
    _, answer = answers(agent, 5)
    np.testing.assert_allclose(answer.reward, 1.5)
    np.testing.assert_allclose(answer.next_observation, np.tile([0.5, 0.6, 0.7], (5, 1)))


def test_before_each_epoch_so_many_steps_are_imagined_and_the_last_epochs_are_kept():
    agent, data = with_model(make_agent(), MEAN, SMALL), tiny.make_dataset(60, DIMENSIONS)
    main = agent.stages()[-1]
    found = main.prepare(data, 0, SEED)
    assert found.metrics["imagined_steps"] == 120
    assert found.metrics["imagined_ends"] == 0.0
    assert len(agent.imagined) == 120
    first = agent.imagined.transitions.observation.copy()
    main.prepare(data, 4, base_seed(6))
    assert len(agent.imagined) == 240
    np.testing.assert_array_equal(agent.imagined.transitions.observation[:120], first)
    main.prepare(data, 8, base_seed(7))
    assert len(agent.imagined) == 240
    # rollouts begin in the data, and go on from where the model led
    rows = agent.imagined.transitions
    starts = {tuple(row) for row in data.transitions.observation}
    assert all(tuple(row) in starts for row in rows.observation[:30])
    np.testing.assert_array_equal(rows.observation[30:60], rows.next_observation[:30])
    # of 30 states at a time, then the 10 that are left
    np.testing.assert_array_equal(rows.observation[100:110], rows.next_observation[90:100])


def test_the_starts_and_the_noise_of_two_chunks_differ():
    agent, data = with_model(make_agent(), MEAN, np.ones((3, 4))), tiny.make_dataset(60, DIMENSIONS)
    agent.stages()[-1].prepare(data, 0, SEED)
    rows = agent.imagined.transitions
    assert (rows.observation[:10] != rows.observation[90:100]).any()
    change = rows.next_observation - rows.observation
    assert (np.abs(change[:10] - change[90:100]) > 1e-3).all(axis=1).any()


def test_a_batch_has_its_share_of_real_rows_whose_rewards_carry_no_penalty():
    data = tiny.make_dataset(60, DIMENSIONS)
    agent = with_model(
        make_agent(penalty_weight=1e3, imagination=Imagination(40, 3, 2, 0.29, 2)), MEAN, np.ones((3, 4))
    )
    main = agent.stages()[-1]
    main.prepare(data, 0, SEED)
    batch = main.draw(data, SEED)
    real = {tuple(row) for row in data.transitions.observation}
    assert batch.reward.shape == (25,)
    # int(25 * 0.29) = 7
    assert all(tuple(row) in real for row in batch.observation.numpy()[:7])
    assert (batch.reward.numpy()[:7] >= 0.0).all()
    assert (batch.reward.numpy()[7:] < -500.0).all()


def test_with_real_rows_alone_it_is_sac_and_has_no_model():
    shared = {
        "actor": Actor((8,)),
        "critic": tiny.critic((8,), tau=0.25),
        "minimum_entropy": -3.0,
        "entropy": Multiplier(0.5, 1e-2, logarithmic=True),
        "training": Training(epochs=1, steps_per_epoch=4, batch_size=25),
    }
    agent = make_agent(imagination=Imagination(40, 3, 2, 1.0, 2), **shared)
    sac = SAC(Problem(DIMENSIONS), 0, **shared)
    data = tiny.make_dataset(60, DIMENSIONS)
    for learner in (agent, sac):
        (stage,) = learner.stages()
        for step in range(3):
            take_step(stage, data, SEED, tf.constant(step))
    for name, variable in tiny.values(sac).items():
        np.testing.assert_array_equal(variable, tiny.values(agent)[name])
    assert not agent.buffers()


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match="elites is 4"):
        make_agent(imagination=Imagination(elites=4))
    with pytest.raises(UserError, match="real_share"):
        Imagination(real_share=1.5)
    with pytest.raises(UserError, match="length is 0"):
        Imagination(length=0)


def test_model_and_policy_solve_a_linear_system_with_a_known_optimum():
    """s' = 0.9 s + a, r = -(s^2 + 0.5 a^2), known from random steps alone: the Riccati equation's feedback.

    The policy is judged in the true system by its discounted cost, which has a closed form for every linear feedback.
    """
    generator = np.random.default_rng(0)
    state, action = generator.uniform(-1.0, 1.0, (2, 3000, 1)).astype(np.float32)
    data = tiny.make_dataset(3000, Dimensions(1, 1))
    following = 0.9 * state + action
    data = tiny.with_columns(
        data,
        observation=state,
        action=action,
        next_observation=following,
        reward=-(state[:, 0] ** 2 + 0.5 * action[:, 0] ** 2),
        discount=np.ones(3000),
    )
    agent = MOPO(
        Problem(Dimensions(1, 1)),
        0,
        dynamics=Dynamics(members=2, hidden_sizes=(32,), weight_decay=(0.0, 0.0)),
        dynamics_fit=DynamicsFit(epochs=2, epoch_steps=1000, batch_size=100),
        imagination=Imagination(starts=500, length=2, retained_epochs=4, elites=2),
        penalty_weight=0.0,
        termination=NoTermination(),
        actor=Actor((32,)),
        critic=tiny.critic((64,), learning_rate=3e-3, tau=2e-2, gamma=0.8),
        training=Training(epochs=6, steps_per_epoch=500, batch_size=64, policy_learning_rate=1e-3),
        minimum_entropy=-4.0,
    )
    for stage in agent.stages():
        run = compile_stage(stage, data, SEED)
        for step in range(0, stage.steps, stage.epoch_steps):
            stage.prepare(data, step, tf.constant([step, 1]))
            run(step, stage.epoch_steps)
        stage.conclude(data, stage.steps, SEED)
    gain, cost = 0.0, 1.0
    for _ in range(200):  # the discounted Riccati equation of one state
        gain = 0.8 * 0.9 * cost / (0.5 + 0.8 * cost)
        cost = 1.0 + 0.5 * gain**2 + 0.8 * cost * (0.9 - gain) ** 2
    probe = np.linspace(-0.8, 0.8, 9, dtype=np.float32)[:, None]
    found = agent.policies()["mean"].draw(tf.constant(probe), (), SEED)[0].numpy()
    states, total, weight = np.linspace(-0.8, 0.8, 9), 0.0, 1.0
    optimal, current = cost * states**2, states.copy()
    for _ in range(40):
        acted = agent.policies()["mean"].draw(tf.constant(current[:, None], tf.float32), (), SEED)[0].numpy()[:, 0]
        total = total + weight * (current**2 + 0.5 * acted**2)
        current, weight = 0.9 * current + acted, weight * 0.8
    assert total.sum() < 1.05 * optimal.sum()
    np.testing.assert_allclose(found[[0, -1], 0], [0.8 * gain, -0.8 * gain], atol=0.12)


def test_the_models_stage_is_the_same_for_every_weight_and_length():
    stages = [
        make_agent(penalty_weight=weight, imagination=Imagination(40, length, 2, 0.05, 2)).stages()[0]
        for weight, length in ((0.0, 1), (5.0, 3))
    ]
    assert stages[0].settings == stages[1].settings
    assert stages[0].writes == stages[1].writes == ("dynamics", "dynamics_optimizer")


# Exact resume ---------------------------------------------------------------------------------------------------------


def resumable(on_call) -> MOPO:
    """Calls `on_call` before each chunk that is imagined, numbered from 1."""
    agent = MOPO(
        Problem(tiny.DIMENSIONS),
        0,
        dynamics=Dynamics(members=2, hidden_sizes=(8,), weight_decay=(0.0, 0.0)),
        dynamics_fit=DynamicsFit(epochs=2, epoch_steps=5, batch_size=8),
        imagination=Imagination(starts=9, length=3, retained_epochs=2, elites=2, chunk=4),
        actor=Actor((8,)),
        critic=tiny.critic((8,)),
        training=Training(epochs=4, steps_per_epoch=6, batch_size=8),
        termination=NoTermination(),
    )
    imagine, calls = agent._imagine_chunk, []

    def numbered(observation, seed):
        calls.append(1)
        on_call(len(calls))
        return imagine(observation, seed)

    agent._imagine_chunk = numbered
    return agent


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run, agent = Run(tmp_path_factory.mktemp("whole")), resumable(lambda count: None)
    run.train(agent)
    return run, agent


@pytest.mark.parametrize(("act", "chunk"), [(stop, 2), (crash, 5), (stop, 4), (crash, 6)])
def test_a_run_ended_while_it_imagines_goes_on_to_the_same_bits(tmp_path, whole, act, chunk):
    """Three chunks an epoch: one broken off before any, one between two, and a stop saves after 4 of 6 steps."""
    run = Run(tmp_path)
    with pytest.raises((Interrupted, CrashError)):
        run.train(resumable(lambda count: act() if count == chunk else None))
    resumed = resumable(lambda count: None)
    run.train(resumed)
    tiny.assert_same_bits(tiny.values(resumed), tiny.values(whole[1]))
    assert run.metrics == whole[0].metrics
    # as many rows as fit, of the last two epochs
    assert len(resumed.imagined) == 2 * 9 * 3
