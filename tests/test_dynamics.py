"""The dynamics ensemble against least squares, algebra and hand calculations."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import tiny

from brac_plus_tf.agents.base import Problem
from brac_plus_tf.agents.learned_dynamics import (
    DynamicsBatch,
    DynamicsFit,
    LearnedDynamics,
    episodes_held_out,
    transitions_held_out,
)
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.randomness import base_seed
from brac_plus_tf.core.types import Dimensions, Transition
from brac_plus_tf.data.replay_buffer import ReplayBuffer
from brac_plus_tf.models.dynamics import Dynamics, Prediction, gaussian_error, soft_clamp
from brac_plus_tf.runs.compiled_stage import compile_stage, take_step

SEED, DIMENSIONS = base_seed(3), Dimensions(observation=3, action=2)
LINEAR = {"hidden_sizes": (), "weight_decay": (0.0,)}


def learner(fit: DynamicsFit = DynamicsFit(), dimensions: Dimensions = DIMENSIONS, seed: int = 0, **shape):
    return LearnedDynamics(Dynamics(**{"members": 3, **LINEAR, **shape}), fit, Problem(dimensions), seed)


def linear_system(rows: int, noise: np.ndarray, seed: int = 0):
    """s' = s + A s + B a + c + w and r = 2 s_0 - a_1 + 0.5 + v: a dataset, and the matrix [6, 4] of (r, s' - s)."""
    generator = np.random.default_rng(seed)
    state, action = generator.normal(size=(rows, 3)), generator.uniform(-1, 1, size=(rows, 2))
    matrix = generator.normal(size=(6, 4))
    inputs = np.concatenate([state, action, np.ones((rows, 1))], axis=1)
    outputs = inputs @ matrix + noise * generator.normal(size=(rows, 4))
    dataset = tiny.make_dataset(rows, DIMENSIONS)
    columns = {"observation": state, "action": action, "reward": outputs[:, 0]}
    return tiny.with_columns(dataset, **columns, next_observation=state + outputs[:, 1:]), matrix


def train(model: LearnedDynamics, dataset, steps: int) -> None:
    stage = model.stage()
    stage.prepare(dataset, 0, SEED)
    compile_stage(stage, dataset, SEED)(0, steps)


def test_the_soft_clamp_is_the_identity_in_the_middle_and_keeps_its_range_and_its_gradient():
    value = tf.constant(np.linspace(-40.0, 40.0, 4001), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(value)
        clamped = soft_clamp(value, tf.constant(-10.0), tf.constant(0.5))
    assert clamped.numpy().min() >= -10.0
    assert clamped.numpy().max() <= 0.5 + np.log1p(np.exp(-10.5)) + 1e-6
    middle = (value.numpy() > -4.0) & (value.numpy() < -3.0)
    np.testing.assert_allclose(clamped.numpy()[middle], value.numpy()[middle], atol=0.03)
    gradient = tape.gradient(clamped, value).numpy()[(value.numpy() > -20) & (value.numpy() < 10)]
    assert (gradient > 0.0).all()
    # by hand, in float64: 0.5 - log(1 + e^(0.5 - v)), then -10 + log(1 + e^(v + 10))
    by_hand = [-10 + np.log1p(np.exp(0.5 - np.log1p(np.exp(0.5 - v)) + 10)) for v in (-9.0, -3.0, 0.3, 2.0)]
    found = soft_clamp(tf.constant([-9.0, -3.0, 0.3, 2.0]), tf.constant(-10.0), tf.constant(0.5))
    np.testing.assert_allclose(found, by_hand, rtol=1e-5)


def test_the_error_is_twice_the_negative_log_likelihood():
    from scipy import stats

    generator = np.random.default_rng(0)
    mean, log_variance, target = generator.normal(size=(3, 2, 4, 5)).astype(np.float32)
    error = gaussian_error(Prediction(*map(tf.constant, (mean, log_variance))), tf.constant(target))
    expected = -2.0 * stats.norm(mean, np.exp(0.5 * log_variance)).logpdf(target) - np.log(2.0 * np.pi)
    np.testing.assert_allclose(error, expected, rtol=1e-4, atol=1e-4)


def test_the_loss_by_hand():
    """Members summed, batch and outputs averaged, unknown targets left out, decay halved, bounds shared by members."""
    model = learner(members=2, weight_decay=(0.3,), bound_weight=0.7)
    network = model.network
    generator = np.random.default_rng(1)
    mean, log_variance, target = generator.normal(size=(3, 2, 5, 4)).astype(np.float32)
    weight = np.ones((2, 5, 4), np.float32)
    weight[1, 2:, 1:] = 0.0
    network.max_log_variance.assign_add(generator.uniform(size=(2, 4)).astype(np.float32))
    found = network.loss(Prediction(tf.constant(mean), tf.constant(log_variance)), tf.constant(target), weight)
    errors = weight * ((mean - target) ** 2 / np.exp(log_variance) + log_variance)
    kernel = network.network.kernels[0].numpy()
    width = (network.max_log_variance.numpy() - network.min_log_variance.numpy()).sum(axis=1).mean()
    expected = errors[0].mean() + errors[1].mean() + 0.15 * np.square(kernel).sum() + 0.7 * width
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_each_linear_member_learns_least_squares_on_its_own_bootstrap_rows():
    """Means as numpy.linalg.lstsq finds them, log variances those of the residuals; no decay, no drawing together."""
    dataset, _ = linear_system(200, np.array([0.3, 0.1, 0.2, 0.05]))
    model = learner(DynamicsFit(learning_rate=3e-2), bound_weight=0.0, learn_bounds=False)
    model.stage().prepare(dataset, 0, SEED)
    rows = model._bootstrap(dataset)
    whole = DynamicsBatch(dataset.rows(tf.constant(rows, tf.int32)), tf.ones(rows.shape))
    kernel = model.network.network.kernels[0]

    @tf.function
    def update():
        model.update(whole, SEED)
        # one variance for all inputs: least squares with weights of their own is another solution
        kernel.assign(kernel * np.repeat([1.0, 0.0], 4).astype(np.float32))

    for rate in (3e-2, 3e-3, 3e-4):
        model._optimizer.learning_rate.assign(rate)
        for _ in range(500):
            update()
    transitions = dataset.transitions
    inputs = np.concatenate([transitions.observation, transitions.action, np.ones((200, 1))], axis=1)
    outputs = np.concatenate([transitions.reward[:, None], transitions.next_observation - transitions.observation], 1)
    prediction = model.network(transitions.observation, transitions.action)
    for member, own in enumerate(rows):
        solution, residual = np.linalg.lstsq(inputs[own], outputs[own], rcond=None)[:2]
        np.testing.assert_allclose(prediction.mean[member], inputs @ solution, atol=2e-3)
        log_variance = np.log(residual / len(own))
        np.testing.assert_allclose(prediction.log_variance[member][0], log_variance, atol=2e-3)


def test_a_bootstrap_sample_is_drawn_once_and_each_member_has_its_own():
    dataset, _ = linear_system(400, np.zeros(4))
    rows, again, other = (learner(seed=seed)._bootstrap(dataset) for seed in (0, 0, 1))
    assert rows.shape == (3, 320)
    np.testing.assert_array_equal(rows, again)
    assert len({frozenset(own) for own in [*rows, *other]}) == 6
    # of 320 draws with replacement from 320 a share of 1 - 1/e shows
    assert all(abs(len(np.unique(own)) - (1 - np.exp(-1)) * 320) < 25 for own in [*rows, *other])


def drawn_rows(model: LearnedDynamics, dataset) -> list[set[int]]:
    """All that a member's minibatches show in many steps, told by the first entry of their observations."""
    stage = model.stage()
    batches = [stage.draw(dataset, tf.constant([step, 7])).transition.observation[..., 0].numpy() for step in range(40)]
    first = dataset.transitions.observation[:, 0]
    return [set(np.flatnonzero(np.isin(first, np.concatenate([b[member] for b in batches])))) for member in range(3)]


def test_minibatches_are_drawn_from_the_members_bootstrap_sample():
    dataset, _ = linear_system(400, np.zeros(4))
    model = learner(DynamicsFit(batch_size=200))
    assert drawn_rows(model, dataset) == [set(own) for own in model._bootstrap(dataset)]


@pytest.mark.parametrize("hold_out", [transitions_held_out, episodes_held_out])
def test_nothing_that_is_held_out_is_learned_from(hold_out):
    dataset, _ = linear_system(400, np.zeros(4))
    places = dataset.places._replace(episode=np.arange(400, dtype=np.int32) // 10)

    dataset = dataclasses.replace(dataset, places=places)
    model = learner(DynamicsFit(batch_size=200, hold_out=hold_out, holdout_share=0.25))
    training, held_out = model._parts(dataset)
    assert len(held_out) == 100
    assert sorted([*training, *held_out]) == list(range(400))
    assert not set.union(*drawn_rows(model, dataset)) & set(held_out)
    whole = {place // 10 for place in held_out} & {place // 10 for place in training}
    assert bool(whole) == (hold_out is transitions_held_out)


def test_at_most_so_many_transitions_are_held_out():
    dataset, _ = linear_system(400, np.zeros(4))
    assert len(learner(DynamicsFit(holdout_size=30))._parts(dataset)[1]) == 30
    with pytest.raises(UserError, match="leave one part empty"):
        learner(DynamicsFit(holdout_share=0.0))._parts(dataset)


def test_the_learned_bounds_rest_where_algebra_says():
    """Crossed bounds make a constant s^2 / (1 - weight D / K) of noise that no input explains: no gradient is left."""
    model = learner(bound_weight=0.3)  # K = 3, D = 4
    network = model.network
    for kernel in network.network.variables:
        kernel.assign(tf.zeros_like(kernel))
    network.max_log_variance.assign(tf.fill([3, 4], -30.0))
    noise = np.resize([1.5, -1.5], (3, 10, 4)).astype(np.float32)  # of mean square 2.25
    for settled in (2.25 / (1.0 - 0.3 * 4 / 3), 2.25):
        network.min_log_variance.assign(tf.fill([3, 4], float(np.log(settled))))
        with tf.GradientTape() as tape:
            loss = network.loss(network(tf.zeros([10, 3]), tf.zeros([10, 2])), noise, np.ones_like(noise))
        gradient = tape.gradient(loss, network.min_log_variance.value)
        expected = 0.0 if settled != 2.25 else -0.3 / 3
        np.testing.assert_allclose(gradient, np.full((3, 4), expected), atol=1e-5)


def test_fixed_bounds_stay_and_learned_ones_move():
    dataset, _ = linear_system(100, np.full(4, 0.1))
    for learn, moved in ((False, False), (True, True)):
        model = learner(learn_bounds=learn)
        before = model.network.max_log_variance.numpy()
        train(model, dataset, 3)
        assert bool(np.any(model.network.max_log_variance.numpy() != before)) == moved


def test_a_next_observation_that_was_not_recorded_teaches_nothing_but_its_reward_does():
    model = learner(members=2)
    generator = np.random.default_rng(0)

    def batch(next_observation, known):
        columns = [generator_columns["observation"], generator_columns["action"], generator_columns["reward"]]
        transition = Transition(*columns, tf.ones([2, 6]), next_observation, generator_columns["action"])
        return DynamicsBatch(transition, tf.constant(known, tf.float32))

    generator_columns = {
        "observation": tf.constant(generator.normal(size=(2, 6, 3)), tf.float32),
        "action": tf.constant(generator.normal(size=(2, 6, 2)), tf.float32),
        "reward": tf.constant(generator.normal(size=(2, 6)), tf.float32),
    }
    known = np.ones((2, 6))
    known[:, 4:] = 0.0
    first = generator.normal(size=(2, 6, 3)).astype(np.float32)
    second = first.copy()
    second[:, 4:] += 100.0
    outcomes = [model.update(batch(tf.constant(following), known), SEED)["squared_error"] for following in (first,)]
    other = learner(members=2)
    outcomes.append(other.update(batch(tf.constant(second), known), SEED)["squared_error"])
    assert float(outcomes[0]) == float(outcomes[1])
    for left, right in zip(model.network.get_weights(), other.network.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)
    reward = generator_columns["reward"]
    generator_columns["reward"] = reward + tf.constant([0.0] * 4 + [1.0] * 2)
    assert float(learner(members=2).update(batch(tf.constant(first), known), SEED)["squared_error"]) != float(
        outcomes[0]
    )
    generator_columns["reward"] = reward  # the very same bits: what differs below is the next observation alone
    third = first.copy()
    third[:, 3] += 1.0
    assert float(learner(members=2).update(batch(tf.constant(third), known), SEED)["squared_error"]) != float(
        outcomes[0]
    )


def test_scales_are_of_what_is_learned_from_and_ranges_of_what_is_known():
    dataset = tiny.make_dataset(60, DIMENSIONS)
    held_out, unknown = np.arange(60) < 10, np.arange(60) == 30
    columns = dataset.transitions
    observation, following = columns.observation.copy(), columns.next_observation.copy()
    observation[held_out] += 50.0
    following[unknown] = 99.0
    dataset = tiny.with_columns(dataset, observation=observation, next_observation=following)
    dataset = dataclasses.replace(dataset, places=dataset.places._replace(known=~unknown))
    model = learner(DynamicsFit(hold_out=lambda episode, count, generator: held_out))
    model.stage().prepare(dataset, 0, SEED)
    inputs = np.concatenate([observation, columns.action], axis=1)[~held_out]
    np.testing.assert_allclose(model.network.input_shift, inputs.mean(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.network.input_scale, inputs.std(axis=0), rtol=1e-4)
    targets = np.concatenate([columns.reward[:, None], following], axis=1)[~unknown]
    low, high = model.low.numpy(), model.high.numpy()
    np.testing.assert_allclose(low[1:], targets[:, 1:].min(axis=0))
    np.testing.assert_allclose(high[1:], targets[:, 1:].max(axis=0))
    assert (low[0], high[0]) == (columns.reward.min(), columns.reward.max())


def test_early_stopping_snapshots_and_elites_by_script(monkeypatch):
    """Held-out errors as scripted: a fall of 1 % counts, six idle epochs end it, the best weights come back whole."""
    dataset, _ = linear_system(60, np.full(4, 0.1))
    model = learner(DynamicsFit(patience=2, epoch_steps=1, batch_size=10), members=2)
    # relative to the best so far: member 0 improves at epochs 1, 3; member 1 at 1 and 2, by 0.5 % at 3: too little
    script = iter([(4.0, 2.0), (4.1, 1.0), (3.9, 0.995), (3.9, 1.2), (3.88, 1.2), (3.87, 1.2), (9.0, 9.0)])

    def scripted(data):
        squared = np.array(next(script))
        error = np.sqrt(squared)[:, None, None] * np.ones((2, 5, 4))
        return error, np.ones((2, 5, 4)), np.ones((5, 4), bool)

    monkeypatch.setattr(model, "_held_out", scripted)
    monkeypatch.setattr(model, "_report", lambda data, seed: {})
    stage = model.stage()
    assert not stage.prepare(dataset, 0, SEED).finished
    weights, finished = [], []
    for epoch in range(1, 7):
        take_step(stage, dataset, SEED, tf.constant(epoch - 1))
        weights.append([variable.numpy().copy() for variable in model._own])
        finished.append(stage.prepare(dataset, epoch, SEED).finished)
    assert finished == [False, False, False, False, False, True]
    stage.conclude(dataset, 6, SEED)
    for index, variable in enumerate(model._own):
        np.testing.assert_array_equal(variable[0], weights[2][index][0])  # 3.9 after epoch 3
        np.testing.assert_array_equal(variable[1], weights[1][index][1])  # 1.0 after epoch 2
    assert model.order.numpy().tolist() == [1, 0]
    # its bounds, too: they belong to the head that was validated
    assert any(variable is model.network.max_log_variance.value for variable in model._own)


def test_the_report_knows_a_perfect_and_a_useless_model():
    """A linear system without noise is learned exactly; targets of pure noise not at all, and the deviation says so."""
    dataset, _ = linear_system(1000, np.array([0.0, 0.0, 0.0, 1.0]))
    model = learner(DynamicsFit(batch_size=200, learning_rate=1e-2), bound_weight=0.0)
    transitions = dataset.transitions
    following = transitions.next_observation.copy()
    following[:, 2] = transitions.observation[:, 2] + np.random.default_rng(5).normal(size=1000)
    dataset = tiny.with_columns(dataset, next_observation=following)
    train(model, dataset, 2500)
    metrics = model.stage().conclude(dataset, 2500, SEED).metrics
    assert metrics["error/00"] < 0.05
    assert metrics["error/01"] < 0.05
    assert metrics["error/03"] == pytest.approx(1.0, abs=0.1)
    assert metrics["calibration/03"] == pytest.approx(1.0, abs=0.15)


def test_errors_along_the_data_add_up_from_the_first_state_on():
    """A state that grows by 1 a step; the best member foretells 1.1, the others 5: it is off by 0.1 h after h steps."""
    rows = np.arange(60.0)
    dataset = tiny.with_columns(
        tiny.make_dataset(60, Dimensions(1, 1)),
        observation=rows[:, None],
        next_observation=rows[:, None] + 1.0,
        discount=np.ones(60),
    )
    model = learner(dimensions=Dimensions(1, 1))
    kernel, bias = model.network.network.variables
    kernel.assign(tf.zeros_like(kernel))
    values = np.zeros(bias.shape, np.float32)
    values[:, 1] = 5.0
    values[2, 1] = 1.1
    bias.assign(values)
    metrics = model.stage().conclude(dataset, 0, SEED).metrics
    assert model.order.numpy()[0] == 2
    found = {name: value for name, value in metrics.items() if name.startswith("error_after_steps/")}
    expected = {f"error_after_steps/{step:02d}": 0.1 * step / rows.std() for step in (1, 2, 5, 10, 20)}
    assert found == pytest.approx(expected, rel=1e-3)


def test_bounds_that_have_crossed_are_told():
    dataset, _ = linear_system(60, np.full(4, 0.1))
    model = learner()
    model.stage().prepare(dataset, 0, SEED)
    assert not model.stage().conclude(dataset, 0, SEED).warnings
    model = learner()
    model.network.max_log_variance.assign([[1.0, -3.0, 1.0, -3.0], [1.0] * 4, [1.0] * 4])
    model.network.min_log_variance.assign(-2.0 * tf.ones([3, 4]))
    (warning,) = model.stage().conclude(dataset, 0, SEED).warnings
    assert "bounds of 2 log variances have crossed" in warning


def test_it_is_refused_online():
    from brac_plus_tf.data.scaling import task_scaling
    from brac_plus_tf.environments.tasks import find_task

    buffer = ReplayBuffer(Dimensions(11, 3), task_scaling(find_task("Hopper-v4")), 10)
    with pytest.raises(UserError, match="not online"):
        learner().stage().prepare(buffer, 0, SEED)
