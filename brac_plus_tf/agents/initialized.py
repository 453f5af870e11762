"""Lines 1 to 3 of BRAC+'s Algorithm 1: behaviour policy, initial policy and initial Q, each a stage runs may share."""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from brac_plus_tf.agents.actor_critic import ActorCritic, MaxQ, PolicyDraw, draw_policy, mean_over_draws
from brac_plus_tf.agents.base import Preparation, Problem, Stage, TransitionSource, member_rows, uniform_rows
from brac_plus_tf.agents.value_learning import Critic, MainStage
from brac_plus_tf.core.randomness import Purpose, fold
from brac_plus_tf.core.types import Metrics, Transition
from brac_plus_tf.models.behavior import VAEEnsemble, fit_ensemble
from brac_plus_tf.models.distributions import inverse_tanh, tfb
from brac_plus_tf.models.networks import Actor
from brac_plus_tf.models.optimization import Fit, gradient_step
from brac_plus_tf.objectives.divergences import Divergence
from brac_plus_tf.objectives.multipliers import EntropyConstraint, LearnedEntropyMultiplier

MEASURED_STATES = 10_000  # enough that the standard error of the mean of D is 1 % of its standard deviation


class InitialFits(NamedTuple):
    """How each of the three is fitted."""

    behavior: Fit
    policy: Fit
    critic: Fit


class Measured(NamedTuple):
    """Actions of the current policy for a batch of states, and, per state, D(s) [B] and an estimate of H [B], nats."""

    draw: PolicyDraw
    divergence: tf.Tensor
    entropy: tf.Tensor


class Initialized(ActorCritic):
    """An actor-critic that starts from the data's own policy: argmin D(pi, pi_b), and the Q of that.

    initial_divergence: that D; what a subclass holds its policy to afterwards may be another one.
    """

    def __init__(
        self,
        problem: Problem,
        seed: int,
        actor: Actor,
        critic: Critic,
        main: MainStage,
        max_q: MaxQ,
        behavior: VAEEnsemble,
        initial_divergence: Divergence,
        entropy: EntropyConstraint,
        fits: InitialFits,
        policy_samples: int,
    ) -> None:
        super().__init__(problem, seed, actor, critic, main, max_q)
        fits = InitialFits(*(fit.for_data(problem.transitions) for fit in fits))
        self.behavior = behavior.build(problem.dimensions, seed)
        self.entropy_multiplier = LearnedEntropyMultiplier(entropy)
        self._behavior_optimizer = fits.behavior.adam(self.behavior.trainable_variables)
        self._initial_policy_optimizer = fits.policy.adam(self.actor.trainable_variables)
        self._initial_critic_optimizer = fits.critic.adam(self.critic.trainable_variables)
        self._shapes = {"actor": actor, "critic": critic, "behavior": behavior}
        self._initial_divergence, self._entropy, self._fits = initial_divergence, entropy, fits
        self._samples = policy_samples
        self._action_margin, self._action_size = behavior.action_margin, problem.dimensions.action

    def initial_stages(self, epoch_steps: int) -> tuple[Stage, ...]:
        """Each names what it writes, target networks that follow included, and what its outcome depends on."""
        fits, shapes = self._fits, self._shapes
        targets = tuple(name for name in self.components() if name.startswith("target_"))
        return (
            Stage(
                name="behavior",
                steps=fits.behavior.steps,
                draw=member_rows(self.behavior.members, fits.behavior.batch_size),
                update=self.update_behavior,
                epoch_steps=epoch_steps,
                writes=("behavior", "behavior_optimizer"),
                settings=(shapes["behavior"], fits.behavior),
            ),
            Stage(
                name="initial_policy",
                steps=fits.policy.steps,
                draw=uniform_rows(fits.policy.batch_size),
                update=self.update_initial_policy,
                epoch_steps=epoch_steps,
                prepare=self._prepare_initial_policy,
                writes=("actor", "entropy_multiplier", "initial_policy_optimizer"),
                settings=(shapes["actor"], self._initial_divergence, self._entropy, fits.policy, self._samples),
            ),
            Stage(
                name="initial_critic",
                steps=fits.critic.steps,
                draw=uniform_rows(fits.critic.batch_size),
                update=self.update_initial_critic,
                epoch_steps=epoch_steps,
                writes=("critic", "initial_critic_optimizer", *targets),
                settings=(shapes["critic"], fits.critic),
            ),
        )

    def components(self) -> dict[str, Sequence[tf.Variable]]:
        """All variables under stable names."""
        return super().components() | {
            "behavior": self.behavior.variables,
            "behavior_optimizer": self._behavior_optimizer.variables,
            "initial_policy_optimizer": self._initial_policy_optimizer.variables,
            "initial_critic_optimizer": self._initial_critic_optimizer.variables,
            "entropy_multiplier": self.entropy_multiplier.variables,
        }

    def _measure(self, divergence: Divergence, observation: tf.Tensor, seed: tf.Tensor) -> Measured:
        """Draws from the current policy and measures it; differentiable in its weights."""
        draw = draw_policy(self.actor, observation, self._samples, fold(seed, Purpose.POLICY_ACTION))
        by_member = [
            divergence(draw.distribution, draw.pre_tanh_action, member, draw.observation, seed)
            for member in self.behavior.select(seed)
        ]
        # the members' mean, and a bound still: each term bounds the divergence from its own model
        mean_of_members = tf.add_n(by_member) / len(by_member)
        return Measured(
            draw, mean_over_draws(mean_of_members, self._samples), mean_over_draws(-draw.log_prob, self._samples)
        )

    # Stage 1: behaviour policy by maximum ELBO ---------------------------------------------------------------------

    def update_behavior(self, batch: Transition, seed: tf.Tensor) -> Metrics:
        """One step of every member on its own minibatch: batch leaves are [E, B, ..]."""
        pre_tanh_action = inverse_tanh(batch.action, self._action_margin)
        return fit_ensemble(self.behavior, self._behavior_optimizer, batch.observation, pre_tanh_action, seed)

    # Stage 2: initial policy = argmin D, under the entropy constraint ------------------------------------------------

    def update_initial_policy(self, batch: Transition, seed: tf.Tensor) -> Metrics:
        """One step of the policy on E_s[D(s)] and the entropy term, one of the entropy multiplier."""

        def loss() -> tuple[tf.Tensor, Metrics]:
            measured = self._measure(self._initial_divergence, batch.observation, seed)
            # D alone would be smallest at the behaviour's own entropy, above what stage 4 allows
            bonus = self.entropy_multiplier.penalty(measured.entropy)
            metrics = {"divergence_mean": measured.divergence, "entropy": measured.entropy}
            total = tf.reduce_mean(measured.divergence + bonus)
            return total, {name: tf.reduce_mean(values) for name, values in metrics.items()}

        _, metrics = gradient_step(loss, self.actor.trainable_variables, self._initial_policy_optimizer)
        self.entropy_multiplier.ascend(metrics["entropy"])
        return {**metrics, "entropy_multiplier": tf.convert_to_tensor(self.entropy_multiplier.value)}

    # Stage 3: initial Q = evaluation of that policy ------------------------------------------------------------------

    def update_initial_critic(self, batch: Transition, seed: tf.Tensor) -> Metrics:
        """One step of policy evaluation without gradient penalty, then the targets follow."""
        # the policy stands still, so this converges to its Q; stage 4 then begins from values that mean something
        metrics = self.fit_critic(batch, self.next_value(batch, seed), optimizer=self._initial_critic_optimizer)
        self.follow_targets()
        return metrics

    def _prepare_initial_policy(self, dataset: TransitionSource, step: int, seed: tf.Tensor) -> Preparation:
        """Fixes the entropy target where none is given: behaviour's negative log-likelihood minus A margin."""
        if step == 0 and self._entropy.target is None:
            batch = dataset.sample((MEASURED_STATES,), fold(seed, Purpose.MEASURED_STATES))
            pre_tanh_action = inverse_tanh(batch.action, self._action_margin)
            terms = self.behavior.member(0).negative_elbo(batch.observation, pre_tanh_action, seed)
            # entropies are stated for a = tanh u: log p(a) = log p(u) - log |da/du|
            jacobian = tfb.Tanh().forward_log_det_jacobian(pre_tanh_action, event_ndims=1)
            negative_log_likelihood = tf.reduce_mean(terms["negative_elbo"] + jacobian)
            below = self._action_size * self._entropy.margin
            self.entropy_multiplier.target.assign(negative_log_likelihood - below)
        return Preparation()
