"""BRAC+ (Algorithm 1): behaviour-regularised actor-critic with an analytic KL bound, state-dependent multipliers
and a gradient penalty on out-of-distribution actions.

Reference: "BRAC+: Going Deeper with Behavior Regularized Offline Reinforcement Learning", ICLR 2021 submission.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import gin
import tensorflow as tf

from brac_plus_tf.agents.actor_critic import MaxQ, mean_over_draws
from brac_plus_tf.agents.base import Preparation, Problem, Stage, TransitionSource, uniform_rows
from brac_plus_tf.agents.initialized import MEASURED_STATES, InitialFits, Initialized, Measured
from brac_plus_tf.agents.thresholds import DivergenceThresholds, RelativeThreshold, Threshold, watch_constraint
from brac_plus_tf.agents.value_learning import Critic, MainStage
from brac_plus_tf.core.randomness import Purpose, fold
from brac_plus_tf.core.settings import checked
from brac_plus_tf.core.types import Metrics, Transition
from brac_plus_tf.models.behavior import VAEEnsemble
from brac_plus_tf.models.networks import Actor
from brac_plus_tf.models.optimization import Fit, copy_variables, raw, watch
from brac_plus_tf.objectives.divergences import Divergence, Floored, KLUpperBound
from brac_plus_tf.objectives.losses import constrained_policy_loss
from brac_plus_tf.objectives.metrics import divergence_metrics
from brac_plus_tf.objectives.multipliers import (
    EntropyConstraint,
    LearnedStateMultiplier,
    MaximumEntropy,
    MultiplierRule,
    StateMultiplier,
)
from brac_plus_tf.objectives.penalties import GradientPenalty


@gin.register
@dataclasses.dataclass(frozen=True)
class Improvement(MainStage):
    """Stage 4 (Table 4). In the paper its rates are constant.

    policy_samples: actions drawn per state. target_actor: targets use a slowly following copy of the policy.
    train_behavior: the behaviour policy keeps learning. The last three are the authors' later code, off in the paper.
    """

    epochs: int = 500
    steps_per_epoch: int = 2000
    batch_size: int = 100
    policy_learning_rate: float = 5e-6
    policy_samples: int = 1
    target_actor: bool = False
    train_behavior: bool = False


@gin.register
class BRACPlus(Initialized):
    """The agent. Components are hyper-parameter objects; `seed` fixes the initial weights.

    initial_divergence: what the initial policy minimises (Algorithm 1, line 2). divergence: what the main stage
    bounds, and what the threshold is in. The paper's first is the KL bound, whatever its second is.
    """

    @checked
    def __init__(
        self,
        problem: Problem,
        seed: int,
        *,
        actor: Actor = Actor(),
        critic: Critic = Critic((256, 256), learning_rate=3e-4, tau=1e-3),
        behavior: VAEEnsemble = VAEEnsemble(),
        initial_divergence: Divergence = KLUpperBound(),
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
        fits = InitialFits(behavior_fit, initial_policy_fit, initial_critic_fit)
        samples = improvement.policy_samples
        super().__init__(
            problem, seed, actor, critic, improvement, max_q, behavior, initial_divergence, entropy, fits, samples
        )
        self._divergence, self._penalty, self._improvement = divergence, penalty, improvement
        self.target_actor = self.actor  # whose next actions the targets value
        if improvement.target_actor:
            self.target_actor = actor.build(problem.dimensions, seed)
            self.followed.append((self.actor.variables, self.target_actor.variables))
        self.multiplier = LearnedStateMultiplier(multiplier, problem.dimensions, seed)
        self.penalty_weight = tf.Variable(penalty.weight, trainable=False, dtype=tf.float32)
        floor = self._floor_of(divergence, actor) if isinstance(divergence, Floored) else None
        self.thresholds = DivergenceThresholds(
            threshold, lambda *given: self._measure(divergence, *given).divergence, floor
        )

    # What the loop asks ------------------------------------------------------------------------------------------

    def stages(self) -> Sequence[Stage]:
        """Lines 1-3 of Algorithm 1 as reusable stages, then lines 4-12."""
        main = self._improvement
        return (
            *self.initial_stages(main.steps_per_epoch),
            Stage(
                name="main",
                steps=main.steps,
                draw=uniform_rows(main.batch_size),
                update=self.update,
                epoch_steps=main.steps_per_epoch,
                prepare=self._prepare_epoch,
                watch=self._watch,
                evaluate=True,
            ),
        )

    def components(self) -> dict[str, Sequence[tf.Variable]]:
        """All variables under stable names."""
        own = {"thresholds": self.thresholds.variables, "penalty_weight": [self.penalty_weight]}
        # of the authors' later code alone
        target = {} if self.target_actor is self.actor else {"target_actor": self.target_actor.variables}
        return super().components() | target | self.multiplier.components() | own

    # Stage 4: Algorithm 1 --------------------------------------------------------------------------------------------

    def update(self, batch: Transition, seed: tf.Tensor) -> Metrics:
        """Lines 6 to 10 of Algorithm 1 on one batch. D(s), two thirds of the cost, is computed once."""
        # recorded once, entered again at line 7: in between the critic takes its step, as Algorithm 1 orders
        tape = tf.GradientTape(watch_accessed_variables=False)
        with tape:
            watch(tape, self.actor.trainable_variables)
            measured = self._measure(self._divergence, batch.observation, seed)
        # line 6 may not move the policy
        excess = tf.stop_gradient(measured.divergence) - self.thresholds.penalty
        penalty = self._penalty_at(batch.observation, measured.draw.action, excess)
        next_value = self.next_value(batch, seed, self.target_actor)
        metrics = self.fit_critic(batch, next_value, penalty, self.penalty_weight)  # line 6
        metrics |= self._fit_policy(batch.observation, measured, tape)  # line 7
        self.multiplier.ascend(batch.observation, measured.divergence - self.thresholds.divergence)  # line 8
        self.entropy_multiplier.ascend(tf.reduce_mean(measured.entropy))  # line 9
        self.follow_targets()  # line 10
        self.penalty_weight.assign(self._penalty.next_weight(self.penalty_weight, metrics["critic_penalty"]))
        metrics |= {"penalised_share": tf.reduce_mean(tf.cast(excess > 0.0, tf.float32))}
        metrics |= divergence_metrics(measured.divergence, self.thresholds.divergence)
        return metrics | self._scalars() | self._fit_behavior_further(batch, seed)

    def _penalty_at(self, observation: tf.Tensor, action: tf.Tensor, excess: tf.Tensor) -> Callable[[], tf.Tensor]:
        """Eq. 10's penalty at the first action drawn for each state; neither it nor D(s) is differentiated."""
        # with several draws per state the rows n B + b follow each other: the first B are one draw for each state
        first_action = action[: observation.shape[0]]
        return lambda: self._penalty(self.critic.minimum, observation, first_action, excess)

    def _fit_policy(self, observation: tf.Tensor, measured: Measured, tape: tf.GradientTape) -> Metrics:
        """Eq. 8 and the entropy term, against the critic that line 6 has just moved; `tape` recorded `measured`."""
        draw, weights = measured.draw, self.actor.trainable_variables
        with tape:
            value = mean_over_draws(self.critic.minimum(draw.observation, draw.action), self._samples)
            multiplier = self.multiplier(observation)
            policy_loss = tf.reduce_mean(
                constrained_policy_loss(value, multiplier, measured.divergence)
                + self.entropy_multiplier.penalty(measured.entropy)
            )
        self.policy_optimizer.apply(tape.gradient(policy_loss, raw(weights)), weights)
        means = {"policy_value": value, "entropy": measured.entropy, "multiplier_mean": multiplier}
        return {"policy_loss": policy_loss} | {name: tf.reduce_mean(values) for name, values in means.items()}

    def _scalars(self) -> Metrics:
        scalars = {
            "entropy_multiplier": self.entropy_multiplier.value,
            "divergence_threshold": self.thresholds.divergence,
            "penalty_threshold": self.thresholds.penalty,
            "penalty_weight": self.penalty_weight,
        }
        return {name: tf.convert_to_tensor(variable) for name, variable in scalars.items()}

    def _fit_behavior_further(self, batch: Transition, seed: tf.Tensor) -> Metrics:
        if not self._improvement.train_behavior:
            return {}
        # all members on the policy's own batch; stage 1 gave each its own, to make them differ
        members = tf.nest.map_structure(lambda leaf: tf.stack([leaf] * self.behavior.members), batch)
        return self.update_behavior(members, fold(seed, Purpose.BEHAVIOR_UPDATE))

    # Between epochs, eagerly -----------------------------------------------------------------------------------------

    def _prepare_epoch(self, dataset: TransitionSource, step: int, seed: tf.Tensor) -> Preparation:
        """Before each epoch eps_GP <- mean + standard deviation of D (line 11); before the first also eps_KL."""
        # Of many states of the data, by one policy. The minibatches of the epoch before would cost nothing, but D
        # swings as the multipliers do: their mean lay up to 1.7 nats beside that of the policy which comes out of it.
        observation = dataset.sample((MEASURED_STATES,), fold(seed, Purpose.MEASURED_STATES)).observation
        achieved = self.thresholds.renew_penalty(observation, seed)
        if step:
            return Preparation()
        # the policy has moved in stage 2, the target has not
        copy_variables(self.actor.variables, self.target_actor.variables)
        return Preparation(self.thresholds.fix_divergence(achieved, observation, seed))

    def _floor_of(self, divergence: Floored, actor: Actor) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
        narrowest = math.exp(actor.log_std_range[0])

        def floor(observation: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
            least = self.entropy_multiplier.least()
            members = self.behavior.select(seed)
            return tf.reduce_mean([divergence.floor(m, observation, least, narrowest, seed) for m in members], axis=0)

        return floor

    def _watch(self, dataset: TransitionSource, step: int, metrics: Mapping[str, float]) -> dict[str, str]:
        """Beside Q: whether the multipliers hold the constraint, once they have had half the stage to rise."""
        warnings = self.watch()(dataset, step, metrics)
        return warnings | (watch_constraint(metrics) if step >= self._improvement.steps / 2 else {})
