"""What agents with a tanh-Gaussian policy share: drawing from it, acting, and their stages."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import gin
import tensorflow as tf

from brac_plus_tf.agents.base import (
    Draw,
    Policy,
    Problem,
    Stage,
    Update,
    Watch,
    candidate_noise,
    stateless,
    uniform_rows,
)
from brac_plus_tf.agents.value_learning import Critic, MainStage, Ranking, ValueLearner, best_action
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.randomness import Purpose, fold
from brac_plus_tf.core.settings import HyperParameters
from brac_plus_tf.core.types import Dimensions, Transition
from brac_plus_tf.models.distributions import Distribution, diagonal_gaussian, draw_gaussian, tanh_log_prob
from brac_plus_tf.models.networks import Actor, ActorNetwork, CriticNetwork, repeat
from brac_plus_tf.models.optimization import build_adam
from brac_plus_tf.objectives.losses import smallest_value


class PolicyDraw(NamedTuple):
    """N reparameterised actions per state, flattened: rows n B + b belong to state b.

    distribution: of the pre-tanh action, batch [N B]. observation [N B, O]. pre_tanh_action, action [N B, A].
    log_prob [N B], nats, of the squashed action.
    """

    distribution: Distribution
    observation: tf.Tensor
    pre_tanh_action: tf.Tensor
    action: tf.Tensor
    log_prob: tf.Tensor


def draw_policy(actor: ActorNetwork, observation: tf.Tensor, samples: int, seed: tf.Tensor) -> PolicyDraw:
    """Draws `samples` actions for each of the observations [B, O]; differentiable in the actor's weights."""
    mean, standard_deviation = (tf.tile(parameter, [samples, 1]) for parameter in actor(observation))
    distribution = diagonal_gaussian(mean, standard_deviation)
    pre_tanh_action = draw_gaussian(distribution, seed)
    return PolicyDraw(
        distribution,
        tf.tile(observation, [samples, 1]),
        pre_tanh_action,
        tf.tanh(pre_tanh_action),
        # from u itself: recovering it from tanh u would lose all digits where tanh saturates
        tanh_log_prob(distribution, pre_tanh_action),
    )


def gaussian_policies(actor: ActorNetwork) -> dict[str, Policy]:
    """mean: tanh of the mean; sample: one draw."""

    def sample(observation: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
        mean, standard_deviation = actor(observation)
        return tf.tanh(mean + standard_deviation * noise)

    return {
        "mean": stateless(lambda observation, noise: tf.tanh(actor(observation)[0])),
        "sample": stateless(sample, noise=actor.action_size, seeded=True),
    }


def mean_over_draws(values: tf.Tensor, samples: int) -> tf.Tensor:
    """[N B] -> [B]."""
    return tf.reduce_mean(tf.reshape(values, [samples, -1]), axis=0)


@gin.register
@dataclasses.dataclass(frozen=True)
class MaxQ(HyperParameters):
    """Acting by the best of `samples` policy draws, clipped to +-clip deviations if given.

    rank: what makes one the best, of the critics' values [K, ..] -> [..].
    """

    samples: int = 10
    clip: float | None = None
    rank: Ranking = smallest_value

    def policy(self, actor: ActorNetwork, critic: CriticNetwork) -> Policy:
        """Acting greedily among draws is to answer an observation always alike: the candidates' noise is no draw."""
        limit = math.inf if self.clip is None else self.clip

        def best(observation: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
            mean, standard_deviation = actor(observation)
            clipped = tf.clip_by_value(candidate_noise(noise, self.samples), -limit, limit)
            actions = tf.tanh(mean + standard_deviation * clipped)
            return best_action(critic, repeat(observation, self.samples), actions, self.rank)

        return stateless(best, noise=self.samples * actor.action_size)


def entropy_floor(minimum_entropy: float | None, dimensions: Dimensions) -> float:
    """The bound below E[H], nats, of the squashed action: as given, or -A for None (Haarnoja et al. 2018)."""
    return -float(dimensions.action) if minimum_entropy is None else minimum_entropy


@gin.register
@dataclasses.dataclass(frozen=True)
class Training(MainStage):
    """The main stage of an actor-critic agent.

    warm_start: steps before it in which the policy does not see the critic yet, at the rates the stage begins with.
    """

    epochs: int = 500
    steps_per_epoch: int = 1000
    batch_size: int = 256
    policy_learning_rate: float = 3e-4
    warm_start: int = 0

    @property
    def steps_before(self) -> int:
        return self.warm_start


class ActorCritic(ValueLearner):
    """A tanh-Gaussian policy, critics with their targets, and Adam for each: what most algorithms here are built on.

    Subclasses write `update` and `stages`, and name what more they learn in `components`.
    main: whose rates the optimisers have.
    """

    def __init__(self, problem: Problem, seed: int, actor: Actor, critic: Critic, main: MainStage, max_q: MaxQ) -> None:
        super().__init__(problem, seed, critic, main)
        self.actor = actor.build(problem.dimensions, seed)
        self.policy_optimizer = build_adam(main.policy_rate(), self.actor.trainable_variables)
        self._max_q = max_q

    def components(self) -> dict[str, Sequence[tf.Variable]]:
        """All variables under stable names."""
        policy = {"actor": self.actor.variables, "policy_optimizer": self.policy_optimizer.variables}
        return policy | super().components()

    def policies(self) -> dict[str, Policy]:
        """mean: tanh of the mean; sample: one draw; max_q: best of several draws by the critics."""
        return {**gaussian_policies(self.actor), "max_q": self._max_q.policy(self.actor, self.critic)}

    def next_value(self, batch: Transition, seed: tf.Tensor, actor: ActorNetwork | None = None) -> tf.Tensor:
        """max_n of the targets' value at `Critic.target_samples` actions a'_n ~ pi(.|s'), [B] (Eq. 14 for one).

        actor: whose actions; by default the policy that learns.
        """
        samples, chosen = self._rule.target_samples, self.actor if actor is None else actor
        draw = draw_policy(chosen, batch.next_observation, samples, fold(seed, Purpose.TARGET_ACTION))
        values = self.pessimistic(self.target_critic, draw.observation, draw.action)
        # the best of several approaches max_a Q' over what the policy does; min over critics came first, against noise
        return tf.reduce_max(tf.reshape(values, [samples, -1]), axis=0)


def training_stages(
    training: Training,
    watch: Watch,
    update: Update,
    warm_start: Update | None = None,
    draw: Callable[[int], Draw] = uniform_rows,
    needs_step: bool = False,
) -> list[Stage]:
    """The warm start, if it has any steps, and the main stage, which is evaluated after its epochs.

    warm_start: None for an algorithm that has none. draw: batch size -> how a batch is drawn. needs_step: see `Stage`.
    """
    drawn, epoch = draw(training.batch_size), training.steps_per_epoch
    # a stage of its own, not a condition inside the step: each is compiled without the other's branch
    main = Stage("main", training.steps, drawn, update, epoch, watch=watch, evaluate=True, needs_step=needs_step)
    if not training.warm_start:
        return [main]
    if warm_start is None:
        raise UserError(f"Training.warm_start is {training.warm_start}: this agent has no warm start, leave it at 0")
    return [Stage("warm_start", training.warm_start, drawn, warm_start, epoch), main]
