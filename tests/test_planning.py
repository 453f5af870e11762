"""The planner against closed forms: Gaussian proposals with quadratic returns, linear-quadratic control, limits."""

import numpy as np
import pytest
import scipy.linalg
import tensorflow as tf

from brac_plus_tf.models.planning import Outcome, PlanningModel, optimize_trajectory

GENERATOR = np.random.default_rng(0)


def model(behavior, step, value=lambda state, action: tf.zeros(tf.shape(state)[:2]), **more) -> PlanningModel:
    """step: (state, action) -> next state, reward; nothing ends."""

    def dynamics(state, action):
        following, reward = step(state, action)
        return Outcome(following, reward, tf.zeros_like(reward))

    return PlanningModel(behavior, dynamics, value, **more)


def noise(members, episodes, count, horizon, actions, sigma, seed=0):
    draws = np.random.default_rng(seed).normal(size=(members, episodes, count, horizon, actions))
    return tf.constant(sigma * draws, tf.float32)


def plan(planning_model, observation, before, draws, kappa=1.0, objective=0.0, mixing=0.0):
    given = tf.constant(observation, tf.float32), tf.constant(before, tf.float32), tf.convert_to_tensor(draws)
    return optimize_trajectory(planning_model, *given, (kappa, objective), mixing)


def constant(value):
    return lambda state, action: tf.zeros_like(action) + value


def test_one_step_of_a_quadratic_reward():
    """Proposals N(b, sigma^2), R = -(a - a*)^2: it tends to (b / sigma^2 + 2 kappa a*) / (1 / sigma^2 + 2 kappa)."""
    b, best, sigma, kappa = -0.3, 0.4, 0.2, 5.0

    def step(state, action):
        return state, -tf.square(action[..., 0] - best)

    found = plan(model(constant(b), step), [[0.0]], [[[0.0]]], noise(1, 1, 200_000, 1, 1, sigma), kappa)
    expected = (b / sigma**2 + 2 * kappa * best) / (1 / sigma**2 + 2 * kappa)
    assert float(found.plan[0, 0, 0]) == pytest.approx(expected, abs=2e-3)


HORIZON = 3
A, B = np.array([[1.0, 0.2], [-0.1, 0.9]]), np.array([[0.0], [0.5]])
COST_STATE, COST_ACTION = np.diag([1.0, 0.5]), 0.2
START = np.array([0.3, -0.2])


def quadratic(final: np.ndarray):
    """R(a) = -1/2 a'M a + m'a + c of an open loop of HORIZON actions, by unrolling s' = A s + B a in NumPy."""
    free = [np.linalg.matrix_power(A, t) @ START for t in range(HORIZON + 1)]
    moved = [
        np.hstack([np.linalg.matrix_power(A, t - 1 - j) @ B if j < t else np.zeros((2, 1)) for j in range(HORIZON)])
        for t in range(HORIZON + 1)
    ]
    matrix, vector = 2.0 * COST_ACTION * np.eye(HORIZON), np.zeros(HORIZON)
    for t in range(HORIZON):  # a reward is of the state in which its action is taken
        matrix += 2.0 * moved[t].T @ COST_STATE @ moved[t]
        vector -= 2.0 * moved[t].T @ COST_STATE @ free[t]
    matrix += 2.0 * moved[HORIZON].T @ final @ moved[HORIZON]
    vector -= 2.0 * moved[HORIZON].T @ final @ free[HORIZON]
    return matrix, vector


def linear_quadratic(final: np.ndarray, mean: float) -> PlanningModel:
    def step(state, action):
        cost = tf.einsum("krs,st,krt->kr", state, tf.constant(COST_STATE, tf.float32), state)
        cost += COST_ACTION * tf.square(action[..., 0])
        following = state @ tf.constant(A.T, tf.float32) + action @ tf.constant(B.T, tf.float32)
        return following, -cost

    def value(state, action):
        del action
        return -tf.einsum("krs,st,krt->kr", state, tf.constant(final, tf.float32), state)

    return model(constant(mean), step, value)


def test_several_steps_tend_to_the_gaussian_products_mean():
    """(kappa M + I / sigma^2)^-1 (kappa m + mu / sigma^2), the value of what comes after the plan included."""
    sigma, kappa, mean, final = 0.2, 3.0, 0.1, np.array([[2.0, 0.3], [0.3, 1.0]])
    matrix, vector = quadratic(final)
    expected = np.linalg.solve(kappa * matrix + np.eye(3) / sigma**2, kappa * vector + mean / sigma**2)
    draws = noise(1, 1, 300_000, HORIZON, 1, sigma)
    found = plan(linear_quadratic(final, mean), [START], np.zeros((1, HORIZON, 1)), draws, kappa)
    np.testing.assert_allclose(found.plan[0, :, 0], expected, atol=4e-3)


def test_with_the_riccati_solution_as_value_the_first_action_is_the_optimal_feedback():
    """kappa towards infinity leaves the best plan: of the infinite horizon where P continues it."""
    final = scipy.linalg.solve_discrete_are(A, B, COST_STATE, np.array([[COST_ACTION]]))
    gain = np.linalg.solve(COST_ACTION + B.T @ final @ B, B.T @ final @ A)
    draws = noise(1, 1, 400_000, HORIZON, 1, 0.4)
    found = plan(linear_quadratic(final, 0.0), [START], np.zeros((1, HORIZON, 1)), draws, 300.0)
    assert float(found.plan[0, 0, 0]) == pytest.approx(float(-gain[0] @ START), abs=0.02)


# Limits, on a model whose rewards are arbitrary --------------------------------------------------------------------


def arbitrary():
    weights = tf.constant(GENERATOR.normal(size=(3, 2)), tf.float32)

    def behavior(state, action):
        return 0.3 * tf.tanh(state @ weights) + 0.2 * action

    def step(state, action):
        following = state + 0.1 * tf.concat([action, action[..., :1]], axis=-1)
        return following, tf.reduce_sum(tf.sin(3.0 * following), axis=-1) + action[..., 1]

    return behavior, step


def simulated(observation, before, draws, mixing=0.0):
    """Actions [N, H, A] and returns [N] of every trajectory of the first episode, one after the other, in NumPy."""
    behavior, step = arbitrary_functions
    actions, returns = [], []
    members, _, count, horizon, _ = draws.shape
    for index in range(count):
        for member in range(members):  # n = index K + member
            state, action, total, taken = observation[0], before[0, 0], 0.0, []
            for t in range(horizon):
                given = [tf.constant(value, tf.float32)[None, None] for value in (state, action)]
                own = np.clip(behavior(*given)[0, 0].numpy() + draws[member, 0, index, t], -1.0, 1.0)
                action = (1 - mixing) * own + mixing * before[0, min(t + 1, horizon - 1)]
                following, reward = step(given[0], tf.constant(action, tf.float32)[None, None])
                state, total = following[0, 0].numpy(), total + float(reward[0, 0])
                taken.append(action)
            actions.append(taken)
            returns.append(total)
    return np.array(actions), np.array(returns)


arbitrary_functions = arbitrary()
OBSERVATION = GENERATOR.normal(size=(2, 3))
BEFORE = GENERATOR.uniform(-0.5, 0.5, size=(2, 4, 2))
DRAWS = noise(3, 2, 5, 4, 2, 0.3).numpy()


def check(kappa, expected, mixing=0.0):
    found = plan(model(*arbitrary_functions), OBSERVATION, BEFORE, DRAWS, kappa, mixing=mixing)
    np.testing.assert_allclose(found.plan[0], expected, atol=1e-5)
    return found


@pytest.mark.parametrize("mixing", [0.0, 0.3])
def test_without_a_weight_it_is_the_mean_of_all_trajectories(mixing):
    """Also: the action before the first is that just executed, and mixing is with the plan shifted by one."""
    actions, _ = simulated(OBSERVATION, BEFORE, DRAWS, mixing)
    found = check(0.0, actions.mean(axis=0), mixing)
    np.testing.assert_allclose(found.effective_samples, [15.0, 15.0], rtol=1e-5)


def test_a_large_weight_leaves_the_best_trajectory_and_nothing_overflows():
    actions, returns = simulated(OBSERVATION, BEFORE, DRAWS)
    found = check(1e6, actions[returns.argmax()])
    np.testing.assert_allclose(found.effective_samples, [1.0, 1.0], rtol=1e-5)


def test_a_middle_weight_is_the_softmax_of_the_returns():
    actions, returns = simulated(OBSERVATION, BEFORE, DRAWS)
    weight = np.exp(2.0 * returns - (2.0 * returns).max())
    weight /= weight.sum()
    found = check(2.0, np.einsum("n,nha->ha", weight, actions))
    assert float(found.effective_samples[0]) == pytest.approx(1.0 / np.square(weight).sum(), rel=1e-4)


def test_a_constant_on_all_returns_changes_nothing_and_scale_and_weight_trade_off():
    behavior, step = arbitrary_functions

    def changed(factor, constant_reward):
        def other(state, action):
            following, reward = step(state, action)
            return following, factor * reward + constant_reward

        return model(behavior, other)

    given = OBSERVATION, BEFORE, DRAWS
    base = plan(model(behavior, step), *given, 2.0).plan
    np.testing.assert_allclose(plan(changed(1.0, 50.0), *given, 2.0).plan, base, atol=1e-4)
    np.testing.assert_allclose(plan(changed(8.0, 0.0), *given, 0.25).plan, base, atol=1e-5)


def test_all_of_the_plan_before_is_the_plan_before_shifted_by_one():
    found = plan(model(*arbitrary_functions), OBSERVATION, BEFORE, 10 * DRAWS, 3.0, mixing=1.0)
    np.testing.assert_allclose(found.plan, BEFORE[:, [1, 2, 3, 3]], atol=1e-6)


def test_each_trajectory_is_one_members_and_every_member_gets_as_many():
    """Member k's behaviour answers 0.1 k: actions of trajectory n = i K + k are 0.1 k throughout."""

    def behavior(state, action):
        return tf.zeros_like(action) + 0.1 * tf.range(3.0)[:, None, None]

    def step(state, action):
        return state, action[..., 0]

    found = plan(model(behavior, step), OBSERVATION, BEFORE, 0.0 * DRAWS, 0.0)
    np.testing.assert_allclose(found.plan, 0.1, atol=1e-6)
    best = plan(model(behavior, step), OBSERVATION, BEFORE, 0.0 * DRAWS, 1e4)
    np.testing.assert_allclose(best.plan, 0.2, atol=1e-6)


def test_the_plans_first_action_is_the_one_that_the_next_plan_begins_after():
    """With a behaviour that repeats the action before it, a plan that was executed goes on as it was."""

    def step(state, action):
        return state, 0.0 * action[..., 0]

    repeat = model(lambda state, action: action, step)
    first = plan(repeat, OBSERVATION, BEFORE, 0.0 * DRAWS, 1.0)
    np.testing.assert_allclose(first.plan, np.repeat(BEFORE[:, :1], 4, axis=1), atol=1e-6)
    second = plan(repeat, OBSERVATION, first.plan, 0.0 * DRAWS, 1.0)
    np.testing.assert_allclose(second.plan[:, 0], first.plan[:, 0], atol=1e-6)


def test_actions_are_within_their_bounds_before_the_model_sees_them():
    seen = []

    def step(state, action):
        seen.append(action.numpy())
        return state, action[..., 0]

    plan(model(constant(0.9), step), OBSERVATION, BEFORE, 3.0 * DRAWS, 1.0)
    assert np.abs(np.stack(seen)).max() == 1.0


def test_what_ends_earns_nothing_more():
    """Reward 1 a step and 100 after the plan; trajectories whose first action is positive end at once."""

    def dynamics(state, action):
        ends = tf.cast(action[..., 0] > 0.0, tf.float32)
        return Outcome(state, tf.ones_like(ends), ends)

    falling = PlanningModel(
        lambda state, action: tf.zeros_like(action), dynamics, lambda state, action: 100.0 * tf.ones(state.shape[:2])
    )
    draws = np.zeros((1, 1, 2, 4, 1))
    draws[0, 0, 0, 0], draws[0, 0, 1, 0] = 0.5, -0.5
    # returns 1 and 104: at kappa = 0.02 the weights are 1 / (1 + e^2.06) and the rest
    found = plan(falling, [[0.0]], np.zeros((1, 4, 1)), tf.constant(draws, tf.float32), 0.02)
    share = 1.0 / (1.0 + np.exp(0.02 * 103))
    assert float(found.plan[0, 0, 0]) == pytest.approx(0.5 * share - 0.5 * (1 - share), abs=1e-5)


def test_a_constraint_is_kept_the_better_the_more_it_weighs():
    """States to the right of 0.2 are forbidden; the reward asks for them."""

    def step(state, action):
        following = state + action
        return following, following[..., 0]

    forbidding = model(constant(0.0), step, objective=lambda state: -tf.cast(state[..., 0] > 0.2, tf.float32))
    draws = noise(1, 1, 3000, 2, 1, 0.3)
    ends = [
        float(tf.reduce_sum(plan(forbidding, [[0.0]], np.zeros((1, 2, 1)), draws, 2.0, weight).plan[0, :, 0]))
        for weight in (0.0, 1.0, 3.0, 10.0)
    ]
    assert ends == sorted(ends, reverse=True)
    assert ends[0] > 0.3
    assert ends[-1] < 0.2


def test_episodes_side_by_side_are_planned_as_each_alone_and_compiled_as_eagerly():
    both = plan(model(*arbitrary_functions), OBSERVATION, BEFORE, DRAWS, 2.0)
    for episode in range(2):
        one = slice(episode, episode + 1)
        alone = plan(model(*arbitrary_functions), OBSERVATION[one], BEFORE[one], DRAWS[:, one], 2.0)
        np.testing.assert_allclose(alone.plan[0], both.plan[episode], atol=1e-6)

    @tf.function(jit_compile=True)
    def compiled(observation, before, draws):
        return optimize_trajectory(model(*arbitrary_functions), observation, before, draws, (2.0, 0.0), 0.0).plan

    given = [tf.constant(value, tf.float32) for value in (OBSERVATION, BEFORE, DRAWS)]
    np.testing.assert_allclose(compiled(*given), both.plan, atol=1e-5)
