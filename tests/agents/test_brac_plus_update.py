"""Whole steps of BRAC+ with every term active, against losses in NumPy from Algorithm 1 and finite differences."""

import functools

import numpy as np
import pytest
import tensorflow as tf
import tiny
from agents import reference as ref

from brac_plus_tf.agents.base import Problem
from brac_plus_tf.agents.brac_plus import BRACPlus, Improvement
from brac_plus_tf.core.randomness import Purpose, base_seed, fold
from brac_plus_tf.models.behavior import VAEEnsemble, all_members, draw_one_member
from brac_plus_tf.models.networks import Actor
from brac_plus_tf.models.optimization import Fit
from brac_plus_tf.objectives.divergences import KLUpperBound
from brac_plus_tf.objectives.multipliers import MaximumEntropy, MinimumEntropy, StateMultiplier
from brac_plus_tf.objectives.penalties import GradientPenalty

SEED, LATENTS, Z, GAMMA, TAU, WEIGHT = base_seed(5), 3, 4, 0.9, 0.25, 0.7
RATES = {"critic": 0.05, "policy": 0.04, "multiplier": 3e-3, "beta": 0.05}
FITS = {"behavior_fit": 4e-3, "initial_policy_fit": 5e-3, "initial_critic_fit": 6e-3}
BATCH, DATA = ref.batch(), ref.arrays(ref.batch())


def make(
    samples: int = 1, target_samples: int = 1, entropy=MaximumEntropy, select=draw_one_member, **improvement
) -> BRACPlus:
    """Small networks with random weights, multipliers away from 0 and 1, targets away from their sources."""
    agent = BRACPlus(
        Problem(ref.DIMENSIONS),
        0,
        actor=Actor((5,), (-2.0, 0.5)),
        critic=tiny.critic((5,), RATES["critic"], TAU, gamma=GAMMA, target_samples=target_samples),
        behavior=VAEEnsemble(members=3, hidden_sizes=(5,), latent_size=Z, log_std_range=(-1.0, 0.5), select=select),
        initial_divergence=KLUpperBound(LATENTS + 1),
        divergence=KLUpperBound(LATENTS),
        multiplier=StateMultiplier((5,), RATES["multiplier"]),
        entropy=entropy(target=-1.3, initial=2.5, learning_rate=RATES["beta"]),
        penalty=GradientPenalty(WEIGHT),
        improvement=Improvement(policy_learning_rate=RATES["policy"], policy_samples=samples, **improvement),
        **{name: Fit(learning_rate=rate, decay=(1.0,)) for name, rate in FITS.items()},
    )
    networks = (agent.actor, agent.critic, agent.target_critic, agent.behavior, agent.multiplier.network)
    for seed, network in zip((0, 3, 32, 5, 6), networks, strict=True):
        ref.randomize(network.trainable_variables, seed)
    return agent


class Reader:
    """The agent's numbers before its step, and Algorithm 1's losses of them."""

    def __init__(self, agent: BRACPlus, samples: int = 1, target_samples: int = 1, everyone: bool = False) -> None:
        self.samples, self.target_samples = samples, target_samples
        self.actor, self.critic = ref.weights_of(agent.actor), ref.weights_of(agent.critic)
        self.target, self.multiplier = ref.weights_of(agent.target_critic), ref.weights_of(agent.multiplier.network)
        self.encoder, self.decoder = ref.weights_of(agent.behavior.encoder), ref.weights_of(agent.behavior.decoder)
        seed = fold(SEED, Purpose.BEHAVIOR_MEMBER)
        drawn = int(tf.random.stateless_uniform([], seed, 0, 3, tf.int32, alg="philox"))
        self.members = range(3) if everyone else [drawn]
        self.beta, self.eps, self.eps_gp = (
            float(v) for v in (agent.entropy_multiplier.value, agent.thresholds.divergence, agent.thresholds.penalty)
        )

    def draw(self, actor) -> tuple[ref.Drawn, np.ndarray]:
        """N draws for each state [N B, A], and the states they belong to."""
        observation = np.concatenate([DATA.observation] * self.samples)
        epsilon = ref.noise((*observation.shape[:1], 2), SEED, Purpose.POLICY_ACTION)
        return ref.Drawn(actor, observation, epsilon, (-2.0, 0.5)), observation

    def divergence(self, actor, latents: int = LATENTS) -> np.ndarray:
        """Eq. 7 [B], mean over draws and the models that count."""
        return np.mean([self.divergence_from(member, actor, latents) for member in self.members], axis=0)

    def divergence_from(self, member: int, actor, latents: int) -> np.ndarray:
        """KL to the decoder at latents of the encoder at the draw, and the latent's KL, [B]."""
        drawn, observation = self.draw(actor)
        inputs = np.concatenate([observation, drawn.pre_tanh], axis=-1)
        mean, deviation = ref.gaussian(ref.mlp(self.encoder, inputs, member), (-1.0, 0.5))
        latent = mean + deviation * ref.noise((latents, *mean.shape), SEED, Purpose.LATENT)
        inputs = np.concatenate([np.broadcast_to(observation, (latents, *observation.shape)), latent], axis=-1)
        # one component: its logit, which says nothing, then mean and deviation
        decoded = ref.gaussian(ref.mlp(self.decoder, inputs, member)[..., 1:], (-1.0, 0.5))
        inner = ref.kl(drawn.mean, drawn.deviation, *decoded).mean(axis=0)
        return self.over_draws(inner + ref.kl(mean, deviation, 0.0, np.ones(Z)))

    def over_draws(self, values: np.ndarray) -> np.ndarray:
        return values.reshape(self.samples, -1).mean(axis=0)

    def entropy(self, actor) -> np.ndarray:
        return self.over_draws(-self.draw(actor)[0].log_prob)

    @functools.cached_property
    def next_value(self) -> np.ndarray:
        observation = np.concatenate([DATA.next_observation] * self.target_samples)
        epsilon = ref.noise((*observation.shape[:1], 2), SEED, Purpose.TARGET_ACTION)
        drawn = ref.Drawn(self.actor, observation, epsilon, (-2.0, 0.5))
        values = ref.q_values(self.target, observation, drawn.action)
        ref.assert_either_is_smaller(values)
        return values.min(axis=0).reshape(self.target_samples, -1).max(axis=0)

    def critic_loss(self, critic) -> float:
        """Eq. 10."""
        target = ref.td_target(DATA.reward, DATA.discount, self.next_value, GAMMA)
        error = ((ref.q_values(critic, DATA.observation, DATA.action) - target) ** 2).sum(axis=0)
        action = self.draw(self.actor)[0].action[: ref.ROWS]
        ref.assert_either_is_smaller(ref.q_values(self.critic, DATA.observation, action))
        size = (ref.action_gradient(critic, DATA.observation, action) ** 2).sum(axis=-1)
        return float(error.mean() + WEIGHT * (size * (self.now > self.eps_gp)).mean())

    @functools.cached_property
    def now(self) -> np.ndarray:
        """D(s) of the policy before its step, [B]."""
        return self.divergence(self.actor)

    @functools.cached_property
    def alpha(self) -> np.ndarray:
        return np.log1p(np.exp(ref.mlp(self.multiplier, DATA.observation)[..., 0]))

    def policy_loss(self, actor, new_critic, sign: float) -> float:
        """Eq. 8 and the entropy constraint's term, against the critic that has just stepped."""
        drawn, observation = self.draw(actor)
        value = self.over_draws(ref.q_values(new_critic, observation, drawn.action).min(axis=0))
        per_state = -value + self.alpha * self.divergence(actor) + sign * self.beta * self.entropy(actor)
        return float(per_state.mean())

    def dual_loss(self, multiplier) -> float:
        """Line 8: a step in alpha itself; a slack state whose x is below -5 rests."""
        raw, violation = ref.mlp(multiplier, DATA.observation)[..., 0], self.now - self.eps
        resting = (raw < -5.0) & (violation < 0.0)
        assert 0 < resting.sum() < (raw < 0.0).sum()
        return float((-raw * violation * ~resting).mean())


def with_thresholds(agent: BRACPlus, *counts) -> Reader:
    """Both thresholds in the midst of the batch, and not at the same place."""
    divergence = np.sort(Reader(agent, *counts).now)
    agent.thresholds.divergence.assign((divergence[1] + divergence[2]) / 2)
    agent.thresholds.penalty.assign((divergence[3] + divergence[4]) / 2)
    return Reader(agent, *counts)


@pytest.mark.parametrize(
    ("samples", "target_samples", "entropy", "sign", "select"),
    [(1, 1, MaximumEntropy, 1.0, draw_one_member), (2, 3, MinimumEntropy, -1.0, all_members)],
)
def test_a_whole_main_step(samples, target_samples, entropy, sign, select):
    agent = make(samples, target_samples, entropy, select)
    before = with_thresholds(agent, samples, target_samples, select is all_members)
    metrics = agent.update(BATCH, SEED)
    new_critic = ref.weights_of(agent.critic)
    # line 6
    gradient = ref.finite_difference(before.critic_loss, ref.copies(before.critic))
    ref.assert_gradient(agent.critic_optimizer, agent.critic.trainable_variables, gradient)
    ref.assert_rate(before.critic, new_critic, gradient, RATES["critic"])
    # line 7
    gradient = ref.finite_difference(lambda w: before.policy_loss(w, new_critic, sign), ref.copies(before.actor))
    ref.assert_gradient(agent.policy_optimizer, agent.actor.trainable_variables, gradient)
    ref.assert_rate(before.actor, ref.weights_of(agent.actor), gradient, RATES["policy"])
    # line 8, by the divergence from before line 7
    gradient = ref.finite_difference(before.dual_loss, ref.copies(before.multiplier))
    ref.assert_gradient(agent.multiplier._optimizer, agent.multiplier.network.trainable_variables, gradient)
    ref.assert_rate(before.multiplier, ref.weights_of(agent.multiplier.network), gradient, RATES["multiplier"])
    # line 9
    beta = before.beta + sign * RATES["beta"] * (before.entropy(before.actor).mean() + 1.3)
    assert float(agent.entropy_multiplier.value) == pytest.approx(beta, rel=1e-5) and abs(beta - before.beta) > 1e-3
    # line 10
    ref.assert_followed(before.target, agent.critic, agent.target_critic, TAU)
    divergence = before.now
    # what is reported of it
    assert float(metrics["divergence_mean"]) == pytest.approx(divergence.mean(), rel=1e-4)
    assert float(metrics["penalised_share"]) == pytest.approx(2 / 6)
    assert float(metrics["multiplier_mean"]) == pytest.approx(before.alpha.mean(), rel=1e-4)
    assert float(metrics["entropy"]) == pytest.approx(before.entropy(before.actor).mean(), rel=1e-3)


def test_a_whole_step_of_the_initial_policy():
    """Line 2: D and the entropy's term, no Q; then beta."""
    agent = make()
    before = Reader(agent)
    agent.update_initial_policy(BATCH, SEED)
    loss = lambda w: float((before.divergence(w, LATENTS + 1) + before.beta * before.entropy(w)).mean())  # noqa: E731
    gradient = ref.finite_difference(loss, ref.copies(before.actor))
    ref.assert_gradient(agent._initial_policy_optimizer, agent.actor.trainable_variables, gradient)
    ref.assert_rate(before.actor, ref.weights_of(agent.actor), gradient, FITS["initial_policy_fit"])
    beta = before.beta + RATES["beta"] * (before.entropy(before.actor).mean() + 1.3)
    assert float(agent.entropy_multiplier.value) == pytest.approx(beta, rel=1e-5)


def test_a_whole_step_of_the_initial_critic():
    """Line 3: the squared error without penalty, by an optimiser of its own; then the targets."""
    agent = make(target_samples=2)
    before = Reader(agent, target_samples=2)
    agent.update_initial_critic(BATCH, SEED)
    target = ref.td_target(DATA.reward, DATA.discount, before.next_value, GAMMA)

    def loss(critic):
        return float(((ref.q_values(critic, DATA.observation, DATA.action) - target) ** 2).sum(axis=0).mean())

    gradient = ref.finite_difference(loss, ref.copies(before.critic))
    ref.assert_gradient(agent._initial_critic_optimizer, agent.critic.trainable_variables, gradient)
    ref.assert_rate(before.critic, ref.weights_of(agent.critic), gradient, FITS["initial_critic_fit"])
    ref.assert_followed(before.target, agent.critic, agent.target_critic, TAU)
    assert int(agent.critic_optimizer.iterations) == 0


def test_a_whole_step_of_the_behavior():
    """Line 1: each member up the ELBO of its own rows, by its own noise (Eq. 12)."""
    agent, members = make(), 3
    rows = ref.batch(1, (members, ref.ROWS))
    data = ref.arrays(rows)
    start = [np.asarray(v, np.float64) for v in agent.behavior.trainable_variables]
    count = len(ref.weights_of(agent.behavior.encoder))

    def loss(weights):
        encoder, decoder, total = weights[:count], weights[count:], 0.0
        for member in range(members):
            pre_tanh, observation = np.arctanh(data.action[member]), data.observation[member]
            inputs = np.concatenate([observation, pre_tanh], axis=-1)
            mean, deviation = ref.gaussian(ref.mlp(encoder, inputs, member), (-1.0, 0.5))
            epsilon = ref.noise(mean.shape, SEED, Purpose.UPDATE, member, Purpose.LATENT)
            inputs = np.concatenate([observation, mean + deviation * epsilon], axis=-1)
            decoded = ref.gaussian(ref.mlp(decoder, inputs, member)[..., 1:], (-1.0, 0.5))
            likelihood = ref.log_density(pre_tanh, *decoded)
            total += (ref.kl(mean, deviation, 0.0, np.ones(Z)) - likelihood).mean()
        return float(total)

    agent.update_behavior(rows, SEED)
    gradient = ref.finite_difference(loss, [array.copy() for array in start])
    ref.assert_gradient(agent._behavior_optimizer, agent.behavior.trainable_variables, gradient)
    after = [np.asarray(v, np.float64) for v in agent.behavior.trainable_variables]
    ref.assert_rate(start, after, gradient, FITS["behavior_fit"])


def test_where_the_behavior_goes_on_learning_it_sees_the_batch_by_noise_of_its_own():
    agent, other = make(train_behavior=True), make()
    agent.update(BATCH, SEED)
    rows = tf.nest.map_structure(lambda leaf: tf.stack([leaf] * 3), BATCH)
    other.update_behavior(rows, fold(SEED, Purpose.BEHAVIOR_UPDATE))
    for one, same in zip(agent.behavior.trainable_variables, other.behavior.trainable_variables, strict=True):
        np.testing.assert_allclose(one, same, atol=1e-6)
