"""BRAC+'s update against hand values, known optima, and where no gradient may flow."""

import dataclasses
import math
import re

import numpy as np
import pytest
import tensorflow as tf
import tiny
from scipy import stats

from brac_plus_tf.agents.base import Problem, named_variables
from brac_plus_tf.agents.brac_plus import BRACPlus, Improvement
from brac_plus_tf.agents.thresholds import AbsoluteThreshold, RelativeThreshold
from brac_plus_tf.agents.value_learning import Critic
from brac_plus_tf.core.randomness import base_seed
from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.models.behavior import ConditionalVAE, VAEEnsemble, all_members
from brac_plus_tf.models.distributions import diagonal_gaussian, gaussian_mixture
from brac_plus_tf.models.networks import Actor
from brac_plus_tf.models.optimization import Fit
from brac_plus_tf.objectives.divergences import MMD, KLUpperBound
from brac_plus_tf.objectives.multipliers import GlobalMultiplier, MaximumEntropy, MinimumEntropy, StateMultiplier
from brac_plus_tf.objectives.penalties import GradientPenalty, NoPenalty
from brac_plus_tf.runs.compiled_stage import compile_stage, take_step

DIMENSIONS = Dimensions(observation=5, action=2)
SEED = base_seed(3)


def make_dataset(rows=400, dimensions=DIMENSIONS, **columns):
    """Random transitions, with some columns given."""
    return tiny.with_columns(tiny.make_dataset(rows, dimensions), **columns)


def make_agent(dimensions=DIMENSIONS, **overrides):
    settings = {
        "actor": Actor((16, 16)),
        "critic": tiny.critic((16, 16), tau=0.25),
        "behavior": VAEEnsemble(hidden_sizes=(16, 16)),
        "multiplier": StateMultiplier((16, 16), learning_rate=1e-3),
        "entropy": MaximumEntropy(target=-2.0),
        "behavior_fit": Fit(steps=50, batch_size=30),
        "initial_policy_fit": Fit(steps=50, batch_size=30),
        "initial_critic_fit": Fit(steps=50, batch_size=30, decay=(1.0,)),
        "improvement": Improvement(epochs=2, steps_per_epoch=10, batch_size=30, policy_learning_rate=1e-3),
    } | overrides
    return BRACPlus(Problem(dimensions), 0, **settings)


def changed_components(before, after):
    return {name.split("/")[0] for name in before if not np.array_equal(before[name], after[name])}


@dataclasses.dataclass
class CountingDivergence:
    """The KL bound, counting its evaluations."""

    calls: int = 0

    def __call__(self, *arguments):
        self.calls += 1
        return KLUpperBound()(*arguments)


def test_each_stage_changes_only_what_it_trains():
    agent, dataset = make_agent(), make_dataset()
    expected = {
        "behavior": {"behavior", "behavior_optimizer"},
        "initial_policy": {"actor", "initial_policy_optimizer", "entropy_multiplier"},
        "initial_critic": {"critic", "target_critic", "initial_critic_optimizer"},
        "main": {
            "actor",
            "policy_optimizer",
            "critic",
            "target_critic",
            "critic_optimizer",
            "multiplier",
            "multiplier_optimizer",
            "entropy_multiplier",
        },
    }
    for stage in agent.stages():
        before = tiny.values(agent)
        stage.update(stage.draw(dataset, SEED), SEED)
        assert changed_components(before, tiny.values(agent)) == expected[stage.name]


def test_stage_one_makes_no_more_passes_over_the_data_than_are_set():
    """400 rows twice, in batches of 100; the others are not limited."""
    fits = {"behavior_fit": Fit(50, 100, most_passes=2.0), "initial_policy_fit": Fit(50, 100)}
    given = make_agent(**fits).stages(), BRACPlus(Problem(DIMENSIONS, transitions=400), 0, **fits).stages()
    assert [[stage.steps for stage in stages[:2]] for stages in given] == [[50, 50], [8, 50]]


def test_divergence_is_computed_once_per_step():
    divergence = CountingDivergence()
    agent = make_agent(divergence=divergence)
    agent.update(make_dataset().sample((30,), SEED), SEED)
    assert divergence.calls == 1


def test_all_members_are_averaged():
    divergence = CountingDivergence()
    agent = make_agent(divergence=divergence, behavior=VAEEnsemble(hidden_sizes=(8, 8), select=all_members))
    agent.update(make_dataset().sample((30,), SEED), SEED)
    assert divergence.calls == 3


def test_targets_start_as_copies_and_follow_by_tau():
    agent = make_agent()
    start = [v.numpy() for v in agent.critic.variables]
    for source, target in zip(agent.critic.variables, agent.target_critic.variables, strict=True):
        np.testing.assert_array_equal(source.numpy(), target.numpy())
    agent.update(make_dataset().sample((30,), SEED), SEED)
    for old, source, target in zip(start, agent.critic.variables, agent.target_critic.variables, strict=True):
        np.testing.assert_allclose(target.numpy(), 0.75 * old + 0.25 * source.numpy(), atol=1e-7)


def test_a_target_actor_follows_where_there_is_one():
    agent = make_agent(improvement=Improvement(epochs=2, steps_per_epoch=10, batch_size=30, target_actor=True))
    dataset = make_dataset()
    agent.stages()[1].update(dataset.sample((30,), SEED), SEED)
    agent.stages()[3].prepare(dataset, 0, SEED)
    start = [v.numpy() for v in agent.actor.variables]
    for expected, target in zip(start, agent.target_actor.variables, strict=True):
        np.testing.assert_array_equal(target.numpy(), expected)
    agent.update(dataset.sample((30,), SEED), SEED)
    for old, source, target in zip(start, agent.actor.variables, agent.target_actor.variables, strict=True):
        np.testing.assert_allclose(target.numpy(), 0.75 * old + 0.25 * source.numpy(), atol=1e-7)
    assert "target_actor" in agent.components() and "target_actor" not in make_agent().components()


@pytest.mark.parametrize(
    ("improvement", "critic_learning_rate", "actor", "critic"),
    [
        ({"policy_decay": (1.0, 0.0)}, 1e-2, [True] * 4 + [False] * 2, [True] * 6),
        ({"critic_decay": (1.0, 0.0)}, 1e-2, [True] * 6, [True] * 4 + [False] * 2),
        ({"critic_decay": (0.0, 1.0)}, 1e-2, [True] * 6, [False] * 4 + [True] * 2),
        ({}, 0.0, [True] * 6, [False] * 6),
    ],
)
def test_each_slows_down_by_its_own_decay_over_the_main_stage(improvement, critic_learning_rate, actor, critic):
    """Adam's steps are bounded by the rate: a factor of 0 leaves what it is on where it is, and nothing else."""
    main = Improvement(epochs=2, steps_per_epoch=3, batch_size=30, policy_learning_rate=1e-2, **improvement)
    agent = make_agent(improvement=main, critic=Critic((16, 16), critic_learning_rate, tau=0.25))
    dataset, moved = make_dataset(), []
    stage = agent.stages()[3]
    for step in range(stage.steps):
        before = tiny.values(agent)
        take_step(stage, dataset, SEED, tf.constant(step))
        moved.append(changed_components(before, tiny.values(agent)))
    # Keras changes the rate one step late
    assert ["actor" in names for names in moved] == actor
    assert ["critic" in names for names in moved] == critic


def test_the_initial_critic_is_fitted_at_its_own_rate():
    """What slows down in the main stage, here to nothing, leaves stage 3 alone."""
    main = Improvement(epochs=2, steps_per_epoch=3, batch_size=30, critic_decay=(0.0, 0.0))
    agent, dataset = make_agent(improvement=main), make_dataset()
    before = tiny.values(agent)
    take_step(agent.stages()[2], dataset, SEED, tf.constant(0))
    assert "critic" in changed_components(before, tiny.values(agent))


def test_terminal_states_are_fitted_to_their_reward():
    """With discount 0 everywhere, Q(s, a) = r(s, a): stage 3 must find a constant reward of 0.7."""
    dataset = make_dataset(discount=np.zeros(400), reward=np.full(400, 0.7))
    agent = make_agent(initial_critic_fit=Fit(steps=1500, batch_size=50, learning_rate=3e-3, decay=(1.0, 0.1)))
    stage = agent.stages()[2]
    compile_stage(stage, dataset, SEED)(0, 1500)
    q_values = agent.critic(dataset.transitions.observation, dataset.transitions.action)
    assert np.abs(q_values - 0.7).mean() < 0.03


@pytest.mark.parametrize(
    "variant",
    [
        {},
        {
            "penalty": NoPenalty(),
            "multiplier": GlobalMultiplier(),
            "behavior": VAEEnsemble(hidden_sizes=(16, 16), mixture_components=3),
            "divergence": MMD(samples=4),
            "entropy": MinimumEntropy(target=-9.0),
        },
        {
            "improvement": Improvement(2, 10, 30, 1e-3, policy_samples=4, target_actor=True, train_behavior=True),
            "critic": tiny.critic((16, 16), target_samples=4),
            "penalty": GradientPenalty(weight_rate=0.1, target=-0.5),
        },
    ],
    ids=["paper", "mmd-global-mixture", "later-code"],
)
def test_eager_equals_compiled(variant):
    """Three steps of every stage, eagerly and under XLA, report the same metrics and end in the same variables.

    Adam's first steps have the size of the learning rate whatever the gradient's, so where a gradient is all rounding
    a weight may move differently; those are few.
    """
    dataset = make_dataset()
    eager_agent, compiled_agent = make_agent(**variant), make_agent(**variant)
    for index in (3,) if variant else range(4):  # the variants differ in the main stage
        eager, compiled = eager_agent.stages()[index], compiled_agent.stages()[index]
        seed = base_seed(index)
        eager.prepare(dataset, 0, seed)
        compiled.prepare(dataset, 0, seed)
        metrics = [take_step(eager, dataset, seed, tf.constant(step)) for step in range(3)]
        sums = compile_stage(compiled, dataset, seed)(0, 3)
        for name, total in sums.items():
            expected = sum(float(values[name]) for values in metrics)
            assert float(total) == pytest.approx(expected, rel=2e-3, abs=2e-3), f"{eager.name} {name}"
    differing, count = 0, 0
    for name, eager_value in tiny.values(eager_agent).items():
        difference = np.abs(tiny.values(compiled_agent)[name] - eager_value) > 1e-4 + 1e-3 * np.abs(eager_value)
        differing, count = differing + difference.sum(), count + difference.size
    assert differing / count < 2e-3


def test_one_trace_per_stage():
    agent, dataset = make_agent(), make_dataset()
    for stage in agent.stages():
        calls = []

        def counted(batch, seed, update=stage.update, calls=calls):
            calls.append(1)
            return update(batch, seed)

        run_steps = compile_stage(dataclasses.replace(stage, update=counted), dataset, SEED, compiled=False)
        for first, count in ((0, 2), (2, 5), (7, 1)):
            run_steps(first, count)
        assert len(calls) == 1, stage.name


def test_epoch_thresholds_by_hand():
    """eps_GP is the mean plus standard deviation of D as it is then: 1, 2, 3, 6 have 3 + sqrt(3.5); eps_KL stays."""
    agent = make_agent(divergence=constant_divergence, threshold=RelativeThreshold(1.5))
    fixed = tf.constant([[1.0], [2.0], [3.0], [6.0]]) * tf.eye(1, 5)
    assert agent.thresholds.renew_penalty(fixed, SEED) == pytest.approx(3.0, rel=1e-6)
    assert agent.thresholds.penalty.numpy() == pytest.approx(3.0 + math.sqrt(3.5), rel=1e-6)
    # over more than one chunk, and of several sizes
    first = np.random.default_rng(0).gamma(2.0, size=1111).astype(np.float32)
    many = tf.constant(first[:, None] * np.eye(1, 5, dtype=np.float32))
    assert agent.thresholds.renew_penalty(many, SEED) == pytest.approx(first.mean(), rel=1e-5)
    assert agent.thresholds.penalty.numpy() == pytest.approx(first.mean() + first.std(), rel=1e-5)
    assert agent.thresholds.divergence.numpy() == 0.0
    assert agent.thresholds.fix_divergence(2.0, fixed, SEED) == []
    assert agent.thresholds.divergence.numpy() == 3.5


def test_each_epoch_is_judged_by_the_policy_it_begins_with():
    """D = |mu - 1|^2, 2 at a mean of 0; after the policy has moved, and no minibatch has been seen, another."""
    agent, dataset = make_agent(divergence=squared_mean, threshold=AbsoluteThreshold(9.0)), make_dataset()
    found = []
    for step, mean in ((0, 0.0), (10, 3.0), (20, 1.0)):
        weights = [np.zeros_like(weight) for weight in agent.actor.get_weights()]
        weights[-1][0, :2] = mean
        agent.actor.set_weights(weights)
        assert not agent._prepare_epoch(dataset, step, SEED).warnings
        found.append(agent.thresholds.penalty.numpy())
    assert found == pytest.approx([2.0, 8.0, 0.0], abs=1e-5) and agent.thresholds.divergence.numpy() == 9.0


def constant_divergence(policy, pre_tanh_action, behavior, observation, seed):
    """D(s) = s_0, whatever the policy."""
    return observation[:, 0] + 0.0 * tf.reduce_sum(pre_tanh_action, axis=-1)


def test_first_thresholds_are_measured_on_the_data():
    """With D(s) = s_0 the achieved mean is that of the data's first entry, and so is the spread."""
    first = np.linspace(1.0, 3.0, 400)
    observation = np.concatenate([first[:, None], np.zeros((400, 4))], axis=1)
    agent = make_agent(divergence=constant_divergence, threshold=RelativeThreshold(1.5))
    found = agent._prepare_epoch(make_dataset(observation=observation), 0, SEED)
    assert found == ([], {}, False)
    assert agent.thresholds.divergence.numpy() == pytest.approx(2.0 + 1.5, abs=0.03)
    assert agent.thresholds.penalty.numpy() == pytest.approx(2.0 + first.std(), abs=0.03)


def squared_mean(policy, pre_tanh_action, behavior, observation, seed):
    """D(s) = |mu(s) - 1|^2, of which the policy's mean alone is to blame; least where it is 1."""
    return tf.reduce_sum(tf.square(policy.mean() - 1.0), axis=-1)


def test_the_initial_policy_minimises_a_divergence_of_its_own_and_the_threshold_is_in_the_main_stages():
    """Stage 2 descends |mu - 1|^2; stage 4 adds its margin to what its own D = s_0 is then, and reports that."""
    first = np.linspace(1.0, 3.0, 400)
    dataset = make_dataset(observation=np.concatenate([first[:, None], np.zeros((400, 4))], axis=1))
    agent = make_agent(
        initial_divergence=squared_mean,
        divergence=constant_divergence,
        threshold=RelativeThreshold(1.5),
        initial_policy_fit=Fit(steps=300, batch_size=30, learning_rate=1e-2, decay=(1.0,)),
        entropy=MaximumEntropy(target=50.0, initial=0.0),
    )
    _, initial, _, main = agent.stages()
    sums = compile_stage(initial, dataset, SEED)(0, 300)
    np.testing.assert_allclose(agent.actor(dataset.transitions.observation)[0], np.ones((400, 2)), atol=0.05)
    assert float(sums["divergence_mean"]) / 300 < 0.5  # of |mu - 1|^2, which begins near 2; s_0 is 1 or more
    main.prepare(dataset, 0, SEED)
    assert agent.thresholds.divergence.numpy() == pytest.approx(2.0 + 1.5, abs=0.03)
    batch = dataset.sample((30,), SEED)
    expected = batch.observation.numpy()[:, 0].mean()
    assert agent.update(batch, SEED)["divergence_mean"].numpy() == pytest.approx(expected, rel=1e-5)


def test_runs_that_differ_in_the_main_divergence_alone_share_the_initial_policy():
    settings = [make_agent(divergence=divergence).stages()[1].settings for divergence in (KLUpperBound(), MMD())]
    other = make_agent(initial_divergence=MMD()).stages()[1].settings
    assert settings[0] == settings[1] != other


def test_unreachable_threshold_warns_with_both_numbers():
    first = np.full((400, 1), 2.0)
    observation = np.concatenate([first, np.zeros((400, 4))], axis=1)
    agent = make_agent(divergence=constant_divergence, threshold=AbsoluteThreshold(0.5))
    (warning,) = agent._prepare_epoch(make_dataset(observation=observation), 0, SEED).warnings
    assert "0.5" in warning and "2" in warning
    assert agent.thresholds.divergence.numpy() == 0.5


def test_a_threshold_below_the_mmds_floor_warns_though_the_initial_policy_lies_above_it():
    """Every model is certain of u = 0; five samples of the narrowest policy at H0 = -8, by scipy."""
    deviation = math.exp(-8.0 / 2 - 0.5 * math.log(2 * math.pi * math.e))
    apart, between = (
        (2 * stats.norm.sf(share) * math.exp(share**2 / 2)) ** 2
        for share in (deviation * factor / (2 * 0.03) for factor in (math.sqrt(2.0), 1.0))
    )
    floor = math.sqrt(1 + 0.2 + 0.8 * apart - 2 * between)

    def warnings(threshold, narrowest=1e-4):
        divergence, entropy = MMD(samples=5, sigma=0.03), MinimumEntropy(target=-8.0)
        actor = Actor((16, 16), (math.log(narrowest), 0.0))
        agent = make_agent(divergence=divergence, entropy=entropy, threshold=threshold, actor=actor)

        def decoder(observation, latent):
            zeros = tf.zeros([*latent.shape[:2], 1, 2])
            return gaussian_mixture(zeros[..., 0], zeros, tf.ones_like(zeros))

        agent.behavior.fixed_member = lambda index: ConditionalVAE(None, decoder, 4)
        return agent._prepare_epoch(make_dataset(), 0, SEED).warnings

    (warning,) = warnings(AbsoluteThreshold(0.97 * floor))
    found = float(re.search(r"lies below ([\d.]+), its floor", warning)[1])
    assert found == pytest.approx(floor, rel=0.02)
    assert warnings(AbsoluteThreshold(1.03 * floor)) == []  # below the initial policy's, within reach of another
    assert warnings(RelativeThreshold(0.001)) == []
    # an actor that cannot be as narrow as the entropy bound would let it
    assert "its floor" in warnings(AbsoluteThreshold(1.03 * floor), narrowest=0.05)[0]


def test_a_constraint_that_is_not_held_is_warned_about_in_the_second_half():
    agent = make_agent(improvement=Improvement(epochs=4, steps_per_epoch=10, batch_size=8))
    watch, dataset = agent.stages()[-1].watch, make_dataset()
    metrics = {"q_max": 0.0, "violated_share": 0.6, "divergence_threshold": 2.0, "divergence_mean": 2.5}
    assert watch(dataset, 10, metrics) == {}
    assert (
        "60% of the states lie beyond the divergence threshold 2 (mean 2.5)"
        in watch(dataset, 20, metrics)["constraint"]
    )
    assert watch(dataset, 20, metrics | {"violated_share": 0.5}) == {}
    assert list(watch(dataset, 10, metrics | {"q_max": 1e9})) == ["value"]


@pytest.mark.parametrize(("margin", "below"), [({}, math.log(4.0)), ({"margin": 0.0}, 0.0), ({"margin": 0.7}, 0.7)])
def test_entropy_target_from_the_behaviour_policy(margin, below):
    """With q = prior and p(u|s,z) = N(0, I): target = E[-log N(u)] + E[log(1 - tanh(u)^2)] - A margin, by numpy."""
    agent, dataset = make_agent(entropy=MaximumEntropy(target=None, **margin)), make_dataset()

    def posterior(observation, pre_tanh_action):
        zeros = tf.zeros([observation.shape[0], 3])
        return diagonal_gaussian(zeros, tf.ones_like(zeros))

    def decoder(observation, latent):
        zeros = tf.zeros([observation.shape[0], 1, 2])
        return gaussian_mixture(zeros[..., 0], zeros, tf.ones_like(zeros))

    agent.behavior.member = lambda index: ConditionalVAE(posterior, decoder, 3)
    agent._prepare_initial_policy(dataset, 0, SEED)
    action = np.clip(dataset.transitions.action.astype(np.float64), -0.999, 0.999)
    pre_tanh = np.arctanh(action)
    log_likelihood = (-0.5 * pre_tanh**2 - 0.5 * math.log(2 * math.pi) - np.log1p(-(action**2))).sum(axis=1)
    assert agent.entropy_multiplier.target.numpy() == pytest.approx(-log_likelihood.mean() - 2 * below, abs=0.03)


# A bandit: one state, terminal after one action, r = 1 - (a - 0.6)^2; logged actions tanh(N(0, 0.8)).
# In pre-tanh units the behaviour policy is N(0, 0.8), so for a policy N(m, s) the KL is known in closed form.

_BANDIT = Dimensions(observation=2, action=1)


def bandit_dataset():
    action = np.tanh(np.random.default_rng(1).normal(0.0, 0.8, size=(4000, 1)))
    state, reward = np.ones((4000, 2)), 1.0 - (action[:, 0] - 0.6) ** 2
    return make_dataset(
        4000, _BANDIT, observation=state, action=action, reward=reward, discount=np.zeros(4000), next_observation=state
    )


def make_bandit_agent(**overrides):
    settings = {
        "actor": Actor((16,)),
        "critic": tiny.critic((64, 64), learning_rate=1e-3),
        "behavior": VAEEnsemble(hidden_sizes=(32,)),
        "multiplier": StateMultiplier((16,), learning_rate=3e-3, initial=1.0),
        "entropy": MaximumEntropy(target=3.0, initial=0.0),  # above any entropy on [-1, 1]: never binds
        "behavior_fit": Fit(steps=3000, batch_size=64),
        "initial_policy_fit": Fit(steps=2000, batch_size=64),
        "initial_critic_fit": Fit(steps=3000, batch_size=64, learning_rate=1e-3, decay=(1.0, 0.1)),
        "improvement": Improvement(epochs=1, steps_per_epoch=8000, batch_size=64, policy_learning_rate=3e-4),
        "penalty": NoPenalty(),
    } | overrides
    return make_agent(_BANDIT, **settings)


def train_bandit(agent, index):
    """Runs a stage; means over the last fifth of it: policy mean, deviation, metrics."""
    dataset, means, stage = bandit_dataset(), [], agent.stages()[index]
    stage.prepare(dataset, 0, base_seed(index))
    run_steps = compile_stage(stage, dataset, base_seed(index))
    tail = stage.steps // 50
    run_steps(0, stage.steps - 10 * tail)
    for part in range(10):
        sums = run_steps(stage.steps - (10 - part) * tail, tail)
        mean, deviation = (float(tensor[0, 0]) for tensor in agent.actor(tf.ones([1, 2])))
        means.append({name: float(total) / tail for name, total in sums.items()} | {"m": mean, "s": deviation})
    averages = {name: float(np.mean([values[name] for values in means])) for name in means[0]}
    return averages.pop("m"), averages.pop("s"), averages


@pytest.fixture(scope="module")
def pretraining():
    """What the stages before the main one end with, and their variables after the third: the same for all bandits."""
    agent = make_bandit_agent()
    return [train_bandit(agent, index) for index in range(3)], tiny.values(agent)


def pretrained(agent, variables, components=None):
    """The agent with the variables of the given components, by default all of them."""
    for name, variable in named_variables(agent.components()).items():
        if components is None or name.split("/")[0] in components:
            variable.assign(variables[name])
    return agent


def gaussian_kl(mean, deviation, other_mean, other_deviation):
    variance_ratio = (deviation / other_deviation) ** 2
    return 0.5 * (variance_ratio + ((mean - other_mean) / other_deviation) ** 2 - 1.0) - math.log(
        deviation / other_deviation
    )


def test_bandit_constraint_active(pretraining):
    """The policy moves towards the reward until D meets eps.

    The threshold lies 0.15 nats above the initial policy's D, which is the bound's own gap since that policy equals
    the behaviour policy; so the closed-form KL of the two Gaussians ends at 0.15.
    """
    agent = pretrained(make_bandit_agent(threshold=RelativeThreshold(0.15)), pretraining[1])
    mean, deviation, metrics = train_bandit(agent, 3)
    threshold = float(agent.thresholds.divergence.numpy())
    assert metrics["divergence_mean"] == pytest.approx(threshold, rel=0.1)
    assert gaussian_kl(mean, deviation, 0.0, 0.8) == pytest.approx(0.15, abs=0.05)
    assert mean > 0.1  # towards the reward
    assert metrics["multiplier_mean"] > 0.02


def test_bandit_constraint_inactive(pretraining):
    """Within a generous eps the policy reaches the best action, tanh(m) = 0.6, and the multiplier vanishes."""
    agent = pretrained(make_bandit_agent(threshold=RelativeThreshold(50.0)), pretraining[1])
    mean, deviation, metrics = train_bandit(agent, 3)
    assert np.tanh(mean) == pytest.approx(0.6, abs=0.07)
    assert gaussian_kl(mean, deviation, 0.0, 0.8) < 50.0
    assert metrics["multiplier_mean"] < 0.02


def test_initial_policy_is_the_behaviour_policy_where_it_is_gaussian(pretraining):
    """Stage 2's known optimum: the policy equals N(0, 0.8) and D is zero."""
    mean, deviation, metrics = pretraining[0][1]
    assert mean == pytest.approx(0.0, abs=0.06)
    assert deviation == pytest.approx(0.8, abs=0.06)
    assert -0.01 < metrics["divergence_mean"] < 0.15  # the bound keeps a small gap


def test_maximum_entropy_binds(pretraining):
    """Stage 2 under H <= H0 below the behaviour's own entropy: beta rises until E[H] meets H0."""
    entropy = MaximumEntropy(target=-0.4, initial=0.0, learning_rate=1e-2)
    fit = Fit(steps=6000, batch_size=64, decay=(1.0,))  # a falling rate would freeze the policy where beta still moves
    agent = make_bandit_agent(entropy=entropy, initial_policy_fit=fit)
    _, _, metrics = train_bandit(pretrained(agent, pretraining[1], {"behavior"}), 1)
    assert metrics["entropy"] == pytest.approx(-0.4, abs=0.05)
    assert agent.entropy_multiplier.value.numpy() > 0.1
