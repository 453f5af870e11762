import numpy as np
import pytest
import tensorflow as tf
import tiny
from fakes import central_difference, linear_critic

from brac_plus_tf.agents.actor_critic import Training
from brac_plus_tf.agents.base import Problem
from brac_plus_tf.agents.td3_bc import TD3BC
from brac_plus_tf.core.randomness import base_seed
from brac_plus_tf.core.types import Dimensions, Transition
from brac_plus_tf.models.networks import DeterministicActor
from brac_plus_tf.objectives.losses import imitating_policy_loss
from brac_plus_tf.runs.compiled_stage import compile_stage

SEED, DIMENSIONS = base_seed(5), Dimensions(observation=3, action=2)
Q_WEIGHTS, Q_BIASES = np.array([[0, 1, 0, 1, 0.5], [0.5, 0, 0, 0, 2]]), np.array([0.0, 0.25])
OTHER_Q_WEIGHTS = np.array([[1, 0, 0, -1, 0], [0, -1, 0, 0.5, 1]])
ACTOR = np.array([[0.5, -0.2], [0.1, 0.3], [-0.4, 0.2]]), np.array([0.1, -0.3])
TARGET_ACTOR = np.array([[-0.5, 0.4], [0.3, 0.1], [0.2, -0.2]]), np.array([-0.2, 0.5])


def make_agent(**settings) -> TD3BC:
    """Linear networks whose targets differ from them, so that nothing can be taken for anything else."""
    agent = TD3BC(
        Problem(DIMENSIONS),
        0,
        actor=DeterministicActor(()),
        critic=tiny.critic((), learning_rate=1e-3, tau=0.25, gamma=0.5),
        **settings,
    )
    agent.critic.set_weights(linear_critic(Q_WEIGHTS, Q_BIASES).get_weights())
    agent.target_critic.set_weights(linear_critic(OTHER_Q_WEIGHTS).get_weights())
    agent.actor.set_weights([ACTOR[0][None].astype(np.float32), ACTOR[1][None].astype(np.float32)])
    agent.target_actor.set_weights([TARGET_ACTOR[0][None], TARGET_ACTOR[1][None]])
    return agent


def make_batch(rows: int = 20) -> Transition:
    return tiny.make_dataset(rows, DIMENSIONS).sample((rows,), SEED)


def targets(batch, next_action) -> np.ndarray:
    """r + 0.5 (1 - d) min_j Q'_j(s', a')."""
    inputs = np.concatenate([batch.next_observation, next_action], axis=-1)
    return batch.reward.numpy() + 0.5 * batch.discount.numpy() * (inputs @ OTHER_Q_WEIGHTS.T).min(axis=-1)


def test_targets_value_the_target_policys_action():
    batch = make_batch()
    action = np.tanh(batch.next_observation.numpy() @ TARGET_ACTOR[0] + TARGET_ACTOR[1])
    metrics = make_agent(target_noise=0.0).update(batch, SEED, tf.constant(0))
    expected = targets(batch, action)
    q_values = np.concatenate([batch.observation, batch.action], axis=-1) @ Q_WEIGHTS.T + Q_BIASES
    assert float(metrics["target_mean"]) == pytest.approx(expected.mean(), rel=1e-5)
    loss = np.square(q_values - expected[:, None]).sum(axis=-1).mean()
    assert float(metrics["td_error"]) == pytest.approx(loss, rel=1e-5)


def smoothed_value(agent, next_observation, seed=SEED):
    """What a next state is worth to the targets."""
    action = agent.smoothed_action(next_observation, seed)
    return agent.pessimistic(agent.target_critic, next_observation, action).numpy()


def test_the_noise_of_the_next_action_is_clipped_and_so_is_the_action():
    """With a huge deviation every entry is moved by exactly +-0.5, then kept within +-1."""
    agent, next_observation = make_agent(target_noise=1e6), make_batch(2000).next_observation
    value = smoothed_value(agent, next_observation)
    action = np.tanh(next_observation.numpy() @ TARGET_ACTOR[0] + TARGET_ACTOR[1])
    shifts = np.array([[-0.5, -0.5], [-0.5, 0.5], [0.5, -0.5], [0.5, 0.5]])
    moved = np.clip(action + shifts[:, None], -1.0, 1.0)
    inputs = np.concatenate([np.broadcast_to(next_observation, (4, *next_observation.shape)), moved], axis=-1)
    possible = (inputs @ OTHER_Q_WEIGHTS.T).min(axis=-1)  # [4, B]
    assert np.abs(possible - value).min(axis=0).max() < 1e-5
    # around an action of 0 and with Q' = a0 + 3 a1 the four signs show, and each is as frequent as the others
    agent.target_actor.set_weights([0 * weight for weight in agent.target_actor.get_weights()])
    agent.target_critic.set_weights(linear_critic([[0, 0, 0, 1, 3]] * 2).get_weights())
    signs, counts = np.unique(np.round(smoothed_value(agent, next_observation), 4), return_counts=True)
    np.testing.assert_allclose(signs, [-2.0, -1.0, 1.0, 2.0])
    assert (np.abs(counts - 500) < 5 * np.sqrt(2000 * 0.25 * 0.75)).all()
    another = smoothed_value(agent, next_observation, base_seed(6))
    assert np.ptp(another - smoothed_value(agent, next_observation)) > 0.1


def test_the_policys_gradient_is_that_of_q1_over_its_scale_and_the_distance_to_the_data():
    """A step of plain gradient descent against differences of the loss in NumPy, its scale held where it is."""
    agent, batch = make_agent(policy_delay=1), make_batch()
    agent.policy_optimizer = tf.keras.optimizers.SGD(1.0)
    agent.critic_optimizer = tf.keras.optimizers.SGD(0.0)  # the policy is fitted to the critics that are given
    metrics = agent.update(batch, SEED, tf.constant(0))
    observation, data_action = batch.observation.numpy().astype(float), batch.action.numpy().astype(float)

    def value_and_error(weights):
        action = np.tanh(observation @ weights[:6].reshape(3, 2) + weights[6:])
        q_1 = np.concatenate([observation, action], axis=-1) @ Q_WEIGHTS[0] + Q_BIASES[0]
        return q_1, np.square(action - data_action).mean()

    start = np.concatenate([ACTOR[0].ravel(), ACTOR[1]])
    scale = np.abs(value_and_error(start)[0]).mean()

    def loss(weights):
        q_1, error = value_and_error(weights)
        return error - 2.5 * q_1.mean() / scale

    expected = start - central_difference(loss, start)
    kernel, bias = agent.actor.get_weights()
    np.testing.assert_allclose(np.concatenate([kernel.ravel(), bias.ravel()]), expected, atol=1e-4)
    assert float(metrics["policy_loss"]) == pytest.approx(loss(start), rel=1e-4)
    assert float(metrics["cloning_error"]) == pytest.approx(value_and_error(start)[1], rel=1e-5)


def test_loss_by_hand():
    # mean |Q| = 2: -2.5 * 1 / 2 + 0.5 and 2.5 * 3 / 2 + 0
    np.testing.assert_allclose(
        imitating_policy_loss(tf.constant([1.0, -3.0]), tf.constant([0.5, 0.0]), 2.5), [-0.75, 3.75]
    )


def test_policy_and_targets_move_with_every_second_step_of_the_critics():
    agent, batch = make_agent(), make_batch()

    def moved(step):
        before = tiny.values(agent)
        agent.update(batch, SEED, tf.constant(step))
        after = tiny.values(agent)
        return {name.split("/")[0] for name in before if not np.array_equal(before[name], after[name])}

    learned = {"critic", "critic_optimizer"}
    everything = learned | {"actor", "policy_optimizer", "target_actor", "target_critic"}
    assert [moved(step) for step in range(4)] == [learned, everything, learned, everything]


def test_targets_follow_by_tau():
    agent, batch = make_agent(policy_delay=1), make_batch()
    before = agent.target_actor.get_weights() + agent.target_critic.get_weights()
    agent.update(batch, SEED, tf.constant(0))
    sources = agent.actor.get_weights() + agent.critic.get_weights()
    after = agent.target_actor.get_weights() + agent.target_critic.get_weights()
    for old, source, new in zip(before, sources, after, strict=True):
        np.testing.assert_allclose(new, 0.75 * old + 0.25 * source, atol=1e-6)


def test_metrics_of_the_policy_are_means_over_its_own_steps():
    """Two steps of the compiled loop: the policy's numbers come from the second alone."""
    dataset = tiny.make_dataset(200, DIMENSIONS)
    agents = [make_agent(training=Training(1, 10, 30, policy_learning_rate=1e-3)) for _ in range(2)]
    sums = compile_stage(agents[0].stages()[0], dataset, SEED, compiled=False)
    first, both = sums(0, 1), sums(1, 1)
    assert first["policy_loss"] == 0.0 and both["policy_loss"] != 0.0
    together = compile_stage(agents[1].stages()[0], dataset, SEED, compiled=False)(0, 2)
    # half of twice the loss: the mean over two steps is the loss of the one
    assert together["policy_loss"] / 2 == pytest.approx(both["policy_loss"] / 2, rel=1e-4)
    assert together["cloning_error"] / 2 < 2.0 and together["cloning_error"] > 0.0


@pytest.mark.parametrize(("weight", "expected"), [(1e-6, -0.3), (1e4, 0.6)])
def test_between_the_datas_mean_action_and_the_best_one(weight, expected):
    """A bandit, reward -(a - 0.6)^2, data around -0.3: without weight their mean, a large one finds the best."""
    generator = np.random.default_rng(0)
    action = np.clip(-0.3 + 0.5 * generator.normal(size=(2000, 1)), -0.99, 0.99)
    mean = action.mean()
    dataset = tiny.one_state_dataset(action, -np.square(action[:, 0] - 0.6))
    training = Training(epochs=1, steps_per_epoch=4000, batch_size=100, policy_learning_rate=3e-3)
    critic = tiny.critic((32, 32), learning_rate=1e-3)
    agent = TD3BC(
        Problem(dataset.dimensions), 0, actor=DeterministicActor(()), critic=critic, training=training, weight=weight
    )
    compile_stage(agent.stages()[0], dataset, SEED)(0, 4000)
    chosen = float(agent.policies()["mean"].draw(tf.zeros([1, 1]), (), SEED)[0][0, 0])
    assert chosen == pytest.approx(mean if weight < 1.0 else expected, abs=0.05)
