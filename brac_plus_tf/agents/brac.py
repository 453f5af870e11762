"""BRAC (Wu, Tucker and Nachum 2019): actor-critic with a fixed or learned weight on the divergence from the data.

BRAC-v also takes the divergence off the target's value, BRAC-p does not. Primal divergences are measured from a cloned
policy, dual ones by a critic of their own. Unlike Google's code, targets start as copies of the critics.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import gin
import tensorflow as tf

from brac_plus_tf.agents.actor_critic import (
    ActorCritic,
    MaxQ,
    PolicyDraw,
    Training,
    draw_policy,
    entropy_floor,
    training_stages,
)
from brac_plus_tf.agents.base import Problem, Stage, member_rows
from brac_plus_tf.agents.cloning import Cloning
from brac_plus_tf.agents.value_learning import Critic
from brac_plus_tf.core.randomness import Purpose, fold, uniform
from brac_plus_tf.core.settings import HyperParameters, checked
from brac_plus_tf.core.types import Dimensions, Metrics, Transition
from brac_plus_tf.models.networks import Actor, CriticNetwork
from brac_plus_tf.models.optimization import Fit, build_adam, gradient_step
from brac_plus_tf.objectives.divergences import Divergence, SampledKL, dual_kl
from brac_plus_tf.objectives.losses import regularized_policy_loss
from brac_plus_tf.objectives.multipliers import Multiplier
from brac_plus_tf.objectives.penalties import lipschitz_penalty

DualEstimate = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


class Regularizer(Protocol):
    """A built divergence: measures D(s) and learns what it needs for that."""

    batches: int

    def stages(self) -> list[Stage]:
        """What must be trained before the policy."""

    def components(self) -> dict[str, Sequence[tf.Variable]]:
        """Its variables under stable names."""

    def measure(self, draw: PolicyDraw, data_action: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """D(s) [B] of one policy draw per state; data_action [B, A] is what the data did there."""

    def learn(
        self, batch: Transition, policy_action: Callable[[Transition, tf.Tensor], tf.Tensor], seed: tf.Tensor
    ) -> Metrics:
        """Its own steps beside the policy's; batch leaves are [batches, B, ..]."""


@runtime_checkable
class RegularizerSettings(Protocol):
    """The settings of a divergence, which build it: `Primal` and `Dual`, or a class of one's own."""

    def build(self, dimensions: Dimensions, seed: int) -> Regularizer: ...


@gin.register
@dataclasses.dataclass(frozen=True)
class Primal(HyperParameters):
    """A divergence measured from the cloned policy's density or samples."""

    divergence: Divergence = SampledKL(samples=4)
    cloning: Cloning = Cloning(fit=Fit(1_000_000, 256, 5e-4, (1.0,)))  # longer than cloning alone: D4RL's

    def build(self, dimensions: Dimensions, seed: int) -> "PrimalRegularizer":
        return PrimalRegularizer(self, dimensions, seed)


class PrimalRegularizer:
    """A `Primal` with its cloned policy, which is trained first and then frozen."""

    batches = 1

    def __init__(self, settings: Primal, dimensions: Dimensions, seed: int) -> None:
        self._divergence = settings.divergence
        self.cloned = settings.cloning.build(dimensions, seed)

    def stages(self) -> list[Stage]:
        """Cloning, shared between runs."""
        return [self.cloned.stage()]

    def components(self) -> dict[str, Sequence[tf.Variable]]:
        """The cloned policy's."""
        return self.cloned.components()

    def measure(self, draw: PolicyDraw, data_action: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """D(s) [B]; the data's action is not needed."""
        del data_action
        return self._divergence(draw.distribution, draw.pre_tanh_action, self.cloned.model(), draw.observation, seed)

    def learn(
        self, batch: Transition, policy_action: Callable[[Transition, tf.Tensor], tf.Tensor], seed: tf.Tensor
    ) -> Metrics:
        """Nothing."""
        del batch, policy_action, seed
        return {}


@gin.register
@dataclasses.dataclass(frozen=True)
class Dual(HyperParameters):
    """A divergence estimated by a critic c(s, a) of its own, which maximises the estimate (variational form).

    estimate: (c at the policy's action [B], c at the data's [B]) -> D(s) [B]. gradient_penalty: weight of c's
    one-sided Lipschitz penalty. steps: of c per step of the policy, each on a batch of its own.
    """

    estimate: DualEstimate = dual_kl
    hidden_sizes: tuple[int, ...] = (300, 300)
    learning_rate: float = 1e-3
    gradient_penalty: float = 5.0
    steps: int = 3

    def build(self, dimensions: Dimensions, seed: int) -> "DualRegularizer":
        return DualRegularizer(self, dimensions, seed)


class DualRegularizer:
    """A `Dual` with its critic."""

    def __init__(self, settings: Dual, dimensions: Dimensions, seed: int) -> None:
        self._settings, self.batches = settings, settings.steps
        self.network = CriticNetwork(settings.hidden_sizes, 1, dimensions, seed, "divergence_critic")
        self._optimizer = build_adam(settings.learning_rate, self.network.trainable_variables)

    def stages(self) -> list[Stage]:
        """None: it learns beside the policy."""
        return []

    def components(self) -> dict[str, Sequence[tf.Variable]]:
        """The divergence critic and its optimiser."""
        return {
            "divergence_critic": self.network.variables,
            "divergence_critic_optimizer": self._optimizer.variables,
        }

    def measure(self, draw: PolicyDraw, data_action: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """D(s) [B] from one pair of actions."""
        del seed
        policy_value = self.network.minimum(draw.observation, draw.action)
        return self._settings.estimate(policy_value, self.network.minimum(draw.observation, data_action))

    def learn(
        self, batch: Transition, policy_action: Callable[[Transition, tf.Tensor], tf.Tensor], seed: tf.Tensor
    ) -> Metrics:
        """One step of c on each of the batches: up the estimate, down the penalty."""
        metrics: Metrics = {}
        for index in range(self.batches):
            part = Transition(*(leaf[index] for leaf in batch))
            metrics = self._step(part, policy_action(part, fold(seed, index)), fold(seed, index))
        return metrics

    def _step(self, batch: Transition, action: tf.Tensor, seed: tf.Tensor) -> Metrics:
        network, settings, size = self.network, self._settings, batch.reward.shape[0]
        # one place on each line between the two actions: the constraint must hold there, not everywhere
        share = uniform([size], fold(seed, Purpose.INTERPOLATION))

        def loss() -> tuple[tf.Tensor, Metrics]:
            values = (network.minimum(batch.observation, a) for a in (action, batch.action))
            estimate = tf.reduce_mean(settings.estimate(*values))
            penalty = lipschitz_penalty(network.minimum, batch.observation, action, batch.action, share)
            # minus the estimate: c ascends it, and the policy descends it elsewhere
            mean_penalty = tf.reduce_mean(penalty)
            return settings.gradient_penalty * mean_penalty - estimate, {"divergence_critic_penalty": mean_penalty}

        return gradient_step(loss, network.trainable_variables, self._optimizer)[1]


@gin.register
class BRAC(ActorCritic):
    """Behaviour-regularised actor-critic.

    divergence: what is measured, and how. multiplier: its weight alpha; fixed if its learning rate is 0.
    target_divergence: what a learned alpha holds the mean divergence to. value_penalty: BRAC-v rather than BRAC-p.
    entropy, minimum_entropy: weight of the entropy bonus; held above minimum_entropy (None: -A) if it is learned.
    `Training.warm_start`: steps in which the policy only follows the divergence.
    """

    @checked
    def __init__(
        self,
        problem: Problem,
        seed: int,
        *,
        actor: Actor = Actor((200, 200), (-5.0, 0.0)),
        critic: Critic = Critic((300, 300), learning_rate=1e-3, tau=5e-3),
        training: Training = Training(epochs=1000, policy_learning_rate=3e-5, warm_start=20_000),
        divergence: RegularizerSettings = Primal(),
        multiplier: Multiplier = Multiplier(initial=1.0, learning_rate=0.0, maximum=500.0),
        target_divergence: float = 0.0,
        value_penalty: bool = True,
        entropy: Multiplier = Multiplier(initial=0.0, learning_rate=0.0),
        minimum_entropy: float | None = None,
        max_q: MaxQ = MaxQ(),
    ) -> None:
        super().__init__(problem, seed, actor, critic, training, max_q)
        self._training = training
        self.regularizer: Regularizer = divergence.build(problem.dimensions, seed)
        self.multiplier, self.entropy_multiplier = multiplier.build(), entropy.build()
        self._target_divergence = target_divergence
        self._minimum_entropy = entropy_floor(minimum_entropy, problem.dimensions)
        self._value_penalty = self._divergence_at_next if value_penalty else (lambda draw, batch, seed: 0.0)

    def stages(self) -> Sequence[Stage]:
        """The divergence's own, the warm start, the main stage."""
        training = training_stages(
            self._training,
            self.watch(),
            self.update,
            functools.partial(self.update, value_weight=0.0),
            lambda size: member_rows(self.regularizer.batches, size),
        )
        return [*self.regularizer.stages(), *training]

    def components(self) -> dict[str, Sequence[tf.Variable]]:
        """All variables under stable names."""
        multipliers = {"multiplier": self.multiplier.variables, "entropy_multiplier": self.entropy_multiplier.variables}
        return super().components() | self.regularizer.components() | multipliers

    def update(self, batches: Transition, seed: tf.Tensor, value_weight: float = 1.0) -> Metrics:
        """Q, policy, the divergence's own, alpha, entropy multiplier and targets; leaves are [batches, B, ..]."""
        # the policy sees the first batch; the others are for a divergence critic that takes several steps
        batch = Transition(*(leaf[0] for leaf in batches))
        metrics = self.fit_critic(batch, self._next_value(batch, seed))
        metrics |= self._fit_policy(batch, seed, value_weight)
        # after the policy, as in Google's code: c answers the policy that is there now
        metrics |= self.regularizer.learn(batches, self._fresh_action, fold(seed, Purpose.BEHAVIOR_UPDATE))
        self.multiplier.ascend(metrics["divergence_mean"] - self._target_divergence)
        self.entropy_multiplier.ascend(self._minimum_entropy - metrics["entropy"])
        self.follow_targets()
        return metrics | {"multiplier": self.multiplier(), "entropy_multiplier": self.entropy_multiplier()}

    def _next_value(self, batch: Transition, seed: tf.Tensor) -> tf.Tensor:
        """V(s') = Q'(s', a') - beta log pi(a'|s') - alpha D(s') [B]; without the last term for BRAC-p."""
        seed = fold(seed, Purpose.TARGET_ACTION)
        draw = draw_policy(self.actor, batch.next_observation, 1, seed)
        value = self.pessimistic(self.target_critic, draw.observation, draw.action)
        return value - self.entropy_multiplier() * draw.log_prob - self._value_penalty(draw, batch, seed)

    def _divergence_at_next(self, draw: PolicyDraw, batch: Transition, seed: tf.Tensor) -> tf.Tensor:
        # a dual divergence compares with what the data did at s', hence the data's next action
        return self.multiplier() * self.regularizer.measure(draw, batch.next_action, seed)

    def _fit_policy(self, batch: Transition, seed: tf.Tensor, value_weight: float) -> Metrics:
        seed = fold(seed, Purpose.POLICY_ACTION)

        def loss() -> tuple[tf.Tensor, Metrics]:
            draw = draw_policy(self.actor, batch.observation, 1, seed)
            divergence = self.regularizer.measure(draw, batch.action, seed)
            value = value_weight * self.pessimistic(self.critic, draw.observation, draw.action)
            per_state = regularized_policy_loss(
                value, self.multiplier(), divergence, self.entropy_multiplier(), draw.log_prob
            )
            metrics = {"divergence_mean": divergence, "entropy": -draw.log_prob, "policy_value": value}
            return tf.reduce_mean(per_state), {name: tf.reduce_mean(values) for name, values in metrics.items()}

        policy_loss, metrics = gradient_step(loss, self.actor.trainable_variables, self.policy_optimizer)
        return metrics | {"policy_loss": policy_loss}

    def _fresh_action(self, batch: Transition, seed: tf.Tensor) -> tf.Tensor:
        draw = draw_policy(self.actor, batch.observation, 1, fold(seed, Purpose.POLICY_ACTION))
        # drawn anew after the policy's step, with its own seed, and data for c: the policy must not learn from c's loss
        return tf.stop_gradient(draw.action)
