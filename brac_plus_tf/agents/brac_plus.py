"""BRAC+ (Algorithm 1): behaviour-regularised actor-critic with an analytic KL bound, state-dependent multipliers
and a gradient penalty on out-of-distribution actions.

Reference: "BRAC+: Going Deeper with Behavior Regularized Offline Reinforcement Learning", ICLR 2021 submission.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import gin
import tensorflow as tf

from brac_plus_tf.agents.actor_critic import (
    ActorCritic,
    MaxQ,
    PolicyDraw,
    draw_policy,
    mean_over_draws,
)
from brac_plus_tf.agents.base import Preparation, Problem, Stage, TransitionSource, any_step, member_rows, uniform_rows
from brac_plus_tf.agents.thresholds import DivergenceThresholds, RelativeThreshold, Threshold, watch_constraint
from brac_plus_tf.agents.value_learning import Critic
from brac_plus_tf.core.randomness import Purpose, fold
from brac_plus_tf.core.settings import HyperParameters, checked
from brac_plus_tf.core.types import Metrics, Transition
from brac_plus_tf.models.behavior import VAEEnsemble, fit_ensemble
from brac_plus_tf.models.distributions import inverse_tanh, tfb
from brac_plus_tf.models.networks import Actor
from brac_plus_tf.models.optimization import Fit, build_adam, copy_variables, decayed, gradient_step, raw, watch
from brac_plus_tf.objectives.divergences import Divergence, KLUpperBound
from brac_plus_tf.objectives.losses import constrained_policy_loss
from brac_plus_tf.objectives.metrics import divergence_metrics
from brac_plus_tf.objectives.multipliers import EntropyConstraint, MaximumEntropy, MultiplierRule, StateMultiplier
from brac_plus_tf.objectives.penalties import GradientPenalty

_MEASURED_STATES = 10_000  # enough that the standard error of the mean of D is 1 % of its standard deviation


@gin.register
@dataclasses.dataclass(frozen=True)
class Improvement(HyperParameters):
    """Stage 4: `epochs` of `steps_per_epoch` gradient steps (Table 4).

    policy_decay: factors on the policy's learning rate for equal parts of the stage; constant in the paper.
    policy_samples: actions drawn per state. target_actor: targets use a slowly following copy of the policy.
    train_behavior: the behaviour policy keeps learning. The last three are the authors' later code, off in the paper.
    """

    epochs: int = 500
    steps_per_epoch: int = 2000
    batch_size: int = 100
    policy_learning_rate: float = 5e-6
    policy_decay: tuple[float, ...] = (1.0,)
    policy_samples: int = 1
    target_actor: bool = False
    train_behavior: bool = False

    @property
    def steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    def policy_rate(self) -> float | object:
        return decayed(self.policy_learning_rate, self.policy_decay, self.steps)


@gin.register
class BRACPlus(ActorCritic):
    """The agent. Components are hyper-parameter objects; `seed` fixes the initial weights."""

    @checked
    def __init__(
        self,
        problem: Problem,
        seed: int,
        *,
        actor: Actor = Actor(),
        critic: Critic = Critic((256, 256), learning_rate=3e-4, tau=1e-3),
        behavior: VAEEnsemble = VAEEnsemble(),
        divergence: Divergence = KLUpperBound(),
        threshold: Threshold = RelativeThreshold(1.0),
        multiplier: MultiplierRule = StateMultiplier(),
        entropy: EntropyConstraint = MaximumEntropy(),
        penalty: GradientPenalty = GradientPenalty(),
        behavior_fit: Fit = Fit(),
        initial_policy_fit: Fit = Fit(),
        initial_critic_fit: Fit = Fit(steps=100_000, learning_rate=3e-4, decay=(1.0,)),
        improvement: Improvement = Improvement(),
        max_q: MaxQ = MaxQ(),
    ) -> None:
        super().__init__(problem, seed, actor, critic, improvement.policy_rate(), max_q)
        dimensions = self._dimensions = problem.dimensions
        self._shapes = {"actor": actor, "critic": critic, "behavior": behavior}
        self._action_margin = behavior.action_margin
        self._divergence, self._entropy = divergence, entropy
        self._multiplier_rule, self._penalty = multiplier, penalty
        self._fits = {"behavior": behavior_fit, "policy": initial_policy_fit, "critic": initial_critic_fit}
        self._improvement = improvement

        self.behavior = behavior.build(dimensions, seed)
        self.target_actor = self.actor  # whose next actions the targets value
        if improvement.target_actor:
            self.target_actor = actor.build(dimensions, seed)
            self.followed.append((self.actor.variables, self.target_actor.variables))
        self.multiplier = multiplier.build(dimensions, seed)

        self._behavior_optimizer = behavior_fit.adam(self.behavior.trainable_variables)
        self._initial_policy_optimizer = initial_policy_fit.adam(self.actor.trainable_variables)
        self._initial_critic_optimizer = initial_critic_fit.adam(self.critic.trainable_variables)
        self._multiplier_optimizer = build_adam(multiplier.learning_rate, self.multiplier.trainable_variables)

        self.entropy_multiplier = tf.Variable(entropy.initial, trainable=False, dtype=tf.float32)
        self.entropy_target = tf.Variable(entropy.target or 0.0, trainable=False, dtype=tf.float32)
        self.penalty_weight = tf.Variable(penalty.weight, trainable=False, dtype=tf.float32)
        self.thresholds = DivergenceThresholds(threshold, lambda *given: self._measure(*given).divergence)

    # What the loop asks ------------------------------------------------------------------------------------------

    def stages(self) -> Sequence[Stage]:
        """Lines 1-3 of Algorithm 1 as reusable stages, then lines 4-12."""
        behavior, policy, critic = self._fits["behavior"], self._fits["policy"], self._fits["critic"]
        epoch, main = self._improvement.steps_per_epoch, self._improvement
        return (
            Stage(
                name="behavior",
                steps=behavior.steps,
                draw=member_rows(self.behavior.members, behavior.batch_size),
                update=any_step(self.update_behavior),
                epoch_steps=epoch,
                writes=("behavior", "behavior_optimizer"),
                settings=(self._shapes["behavior"], behavior),
            ),
            Stage(
                name="initial_policy",
                steps=policy.steps,
                draw=uniform_rows(policy.batch_size),
                update=any_step(self.update_initial_policy),
                epoch_steps=epoch,
                prepare=self._prepare_initial_policy,
                writes=("actor", "entropy_multiplier", "initial_policy_optimizer"),
                settings=(self._shapes["actor"], self._divergence, self._entropy, policy, self._samples),
            ),
            Stage(
                name="initial_critic",
                steps=critic.steps,
                draw=uniform_rows(critic.batch_size),
                update=any_step(self.update_initial_critic),
                epoch_steps=epoch,
                writes=("critic", "target_critic", "initial_critic_optimizer", *self._own_target_actor()),
                settings=(self._shapes["critic"], critic),
            ),
            Stage(
                name="main",
                steps=main.steps,
                draw=uniform_rows(main.batch_size),
                update=any_step(self.update),
                epoch_steps=epoch,
                prepare=self._prepare_epoch,
                watch=self._watch,
                evaluate=True,
            ),
        )

    def components(self) -> dict[str, Sequence[tf.Variable]]:
        """All variables under stable names."""
        return (
            super().components()
            | self._own_target_actor()
            | {
                "behavior": self.behavior.variables,
                "behavior_optimizer": self._behavior_optimizer.variables,
                "initial_policy_optimizer": self._initial_policy_optimizer.variables,
                "initial_critic_optimizer": self._initial_critic_optimizer.variables,
                "multiplier": self.multiplier.variables,
                "multiplier_optimizer": self._multiplier_optimizer.variables,
                "entropy_multiplier": [self.entropy_multiplier, self.entropy_target],
                "thresholds": self.thresholds.variables,
                "penalty_weight": [self.penalty_weight],
            }
        )

    def _own_target_actor(self) -> dict[str, Sequence[tf.Variable]]:
        """Of the authors' later code alone."""
        return {} if self.target_actor is self.actor else {"target_actor": self.target_actor.variables}

    # Stage 1: behaviour policy by maximum ELBO ---------------------------------------------------------------------

    def update_behavior(self, batch: Transition, seed: tf.Tensor) -> Metrics:
        """One step of every member on its own minibatch: batch leaves are [E, B, ..]."""
        pre_tanh_action = inverse_tanh(batch.action, self._action_margin)
        return fit_ensemble(self.behavior, self._behavior_optimizer, batch.observation, pre_tanh_action, seed)

    # Stage 2: initial policy = argmin D, under the entropy constraint ------------------------------------------------

    def update_initial_policy(self, batch: Transition, seed: tf.Tensor) -> Metrics:
        """One step of the policy on E_s[D(s)] and the entropy term, one of the entropy multiplier."""

        def loss() -> tuple[tf.Tensor, Metrics]:
            measured = self._measure(batch.observation, seed)
            bonus = self._entropy.penalty(self.entropy_multiplier, measured.entropy)
            metrics = {"divergence_mean": measured.divergence, "entropy": measured.entropy}
            total = tf.reduce_mean(measured.divergence + bonus)
            return total, {name: tf.reduce_mean(values) for name, values in metrics.items()}

        _, metrics = gradient_step(loss, self.actor.trainable_variables, self._initial_policy_optimizer)
        self._fit_entropy_multiplier(metrics["entropy"])
        return {**metrics, "entropy_multiplier": tf.convert_to_tensor(self.entropy_multiplier)}

    # Stage 3: initial Q = evaluation of that policy ------------------------------------------------------------------

    def update_initial_critic(self, batch: Transition, seed: tf.Tensor) -> Metrics:
        """One step of policy evaluation without gradient penalty, then the targets follow."""
        metrics = self.fit_critic(batch, self.next_value(batch, seed), optimizer=self._initial_critic_optimizer)
        self.follow_targets()
        return metrics

    # Stage 4: Algorithm 1 --------------------------------------------------------------------------------------------

    def update(self, batch: Transition, seed: tf.Tensor) -> Metrics:
        """Lines 6 to 11 of Algorithm 1 on one batch. D(s), two thirds of the cost, is computed once."""
        tape = tf.GradientTape(watch_accessed_variables=False)
        with tape:
            watch(tape, self.actor.trainable_variables)
            measured = self._measure(batch.observation, seed)
        metrics = self._fit_penalised_critic(batch, measured, seed)  # line 6
        metrics |= self._fit_policy(batch.observation, measured, tape)  # line 7
        self._fit_multiplier(batch.observation, measured.divergence)  # line 8
        self._fit_entropy_multiplier(tf.reduce_mean(measured.entropy))  # line 9
        self.follow_targets()  # line 10
        self.thresholds.add(measured.divergence)  # line 11
        metrics |= divergence_metrics(measured.divergence, self.thresholds.divergence)
        return metrics | self._scalars() | self._fit_behavior_further(batch, seed)

    def _measure(self, observation: tf.Tensor, seed: tf.Tensor) -> "Measured":
        """Draws from the current policy and measures it; differentiable in its weights."""
        draw = draw_policy(self.actor, observation, self._samples, fold(seed, Purpose.POLICY_ACTION))
        divergences = [
            self._divergence(draw.distribution, draw.pre_tanh_action, member, draw.observation, seed)
            for member in self.behavior.select(seed)
        ]
        divergence = tf.add_n(divergences) / len(divergences)
        return Measured(
            draw, mean_over_draws(divergence, self._samples), mean_over_draws(-draw.log_prob, self._samples)
        )

    def _fit_penalised_critic(self, batch: Transition, measured: "Measured", seed: tf.Tensor) -> Metrics:
        """Eq. 10; the penalty sees the first action drawn for each state, and neither it nor D(s) is differentiated."""
        next_value = self.next_value(batch, seed, self.target_actor)
        excess = tf.stop_gradient(measured.divergence) - self.thresholds.penalty
        first_action = measured.draw.action[: batch.observation.shape[0]]

        def penalty() -> tf.Tensor:
            return self._penalty(self.critic.minimum, batch.observation, first_action, excess)

        metrics = self.fit_critic(batch, next_value, penalty, self.penalty_weight)
        self.penalty_weight.assign(self._penalty.next_weight(self.penalty_weight, metrics["critic_penalty"]))
        return metrics | {"penalised_share": tf.reduce_mean(tf.cast(excess > 0.0, tf.float32))}

    def _fit_policy(self, observation: tf.Tensor, measured: "Measured", tape: tf.GradientTape) -> Metrics:
        """Eq. 8 and the entropy term, against the critic that line 6 has just moved; `tape` recorded `measured`."""
        draw, weights = measured.draw, self.actor.trainable_variables
        with tape:
            value = mean_over_draws(self.critic.minimum(draw.observation, draw.action), self._samples)
            multiplier = tf.nn.softplus(self.multiplier(observation))
            policy_loss = tf.reduce_mean(
                constrained_policy_loss(value, multiplier, measured.divergence)
                + self._entropy.penalty(self.entropy_multiplier, measured.entropy)
            )
        self.policy_optimizer.apply(tape.gradient(policy_loss, raw(weights)), weights)
        means = {"policy_value": value, "entropy": measured.entropy, "multiplier_mean": multiplier}
        return {"policy_loss": policy_loss} | {name: tf.reduce_mean(values) for name, values in means.items()}

    def _fit_multiplier(self, observation: tf.Tensor, divergence: tf.Tensor) -> None:
        """alpha(s) rises where D(s) is above the threshold and falls where it is below."""
        violation = tf.stop_gradient(divergence) - self.thresholds.divergence

        def loss() -> tuple[tf.Tensor, Metrics]:
            return tf.reduce_mean(self._multiplier_rule.loss(self.multiplier(observation), violation)), {}

        gradient_step(loss, self.multiplier.trainable_variables, self._multiplier_optimizer)

    def _fit_entropy_multiplier(self, mean_entropy: tf.Tensor) -> None:
        """beta <- max(0, beta +- rate (E[H] - H0)): a plain projected step, as Adam would forget how large it is."""
        self.entropy_multiplier.assign(
            self._entropy.next_multiplier(self.entropy_multiplier, mean_entropy, self.entropy_target)
        )

    def _scalars(self) -> Metrics:
        scalars = {
            "entropy_multiplier": self.entropy_multiplier,
            "divergence_threshold": self.thresholds.divergence,
            "penalty_threshold": self.thresholds.penalty,
            "penalty_weight": self.penalty_weight,
        }
        return {name: tf.convert_to_tensor(variable) for name, variable in scalars.items()}

    def _fit_behavior_further(self, batch: Transition, seed: tf.Tensor) -> Metrics:
        if not self._improvement.train_behavior:
            return {}
        members = tf.nest.map_structure(lambda leaf: tf.stack([leaf] * self.behavior.members), batch)
        return self.update_behavior(members, fold(seed, Purpose.BEHAVIOR_UPDATE))

    # Between epochs, eagerly -----------------------------------------------------------------------------------------

    def _prepare_initial_policy(self, dataset: TransitionSource, step: int, seed: tf.Tensor) -> Preparation:
        """Fixes the entropy target where none is given: behaviour's negative log-likelihood minus A log 4."""
        if step == 0 and self._entropy.target is None:
            batch = dataset.sample((_MEASURED_STATES,), fold(seed, Purpose.MEASURED_STATES))
            pre_tanh_action = inverse_tanh(batch.action, self._action_margin)
            terms = self.behavior.member(0).negative_elbo(batch.observation, pre_tanh_action, seed)
            jacobian = tfb.Tanh().forward_log_det_jacobian(pre_tanh_action, event_ndims=1)
            negative_log_likelihood = tf.reduce_mean(terms["negative_elbo"] + jacobian)
            self.entropy_target.assign(negative_log_likelihood - self._dimensions.action * math.log(4.0))
        return Preparation()

    def _prepare_epoch(self, dataset: TransitionSource, step: int, seed: tf.Tensor) -> Preparation:
        """Before each epoch eps_GP <- mean + standard deviation of D; before the first also eps_KL."""
        warnings = []
        if step == 0:
            copy_variables(self.actor.variables, self.target_actor.variables)
            sample = dataset.sample((_MEASURED_STATES,), fold(seed, Purpose.MEASURED_STATES))
            self.thresholds.measure(sample.observation, seed)
            warnings = self.thresholds.fix_divergence()
        elif self._penalty.over_dataset:
            self.thresholds.measure(dataset.transitions.observation, seed)
        self.thresholds.renew_penalty()
        return Preparation(warnings)

    def _watch(self, dataset: TransitionSource, step: int, metrics: Mapping[str, float]) -> dict[str, str]:
        """Beside Q: whether the multipliers hold the constraint, once they have had half the stage to rise."""
        warnings = self.watch()(dataset, step, metrics)
        return warnings | (watch_constraint(metrics) if step >= self._improvement.steps / 2 else {})

    @property
    def _samples(self) -> int:
        return self._improvement.policy_samples


class Measured(NamedTuple):
    """Actions of the current policy for a batch of states, and, per state, D(s) [B] and an estimate of H [B], nats."""

    draw: PolicyDraw
    divergence: tf.Tensor
    entropy: tf.Tensor
