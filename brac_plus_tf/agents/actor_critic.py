"""Pieces that actor-critic agents share: drawing from the policy, fitting critics, multipliers, acting."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import gin
import tensorflow as tf

from brac_plus_tf.agents.base import Policy, Stage, TransitionSource, Update, Watch, stateless
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.randomness import Purpose, fold, row_normal, standard_normal
from brac_plus_tf.core.settings import HyperParameters
from brac_plus_tf.core.types import Dimensions, Metrics, Transition
from brac_plus_tf.models.distributions import Distribution, diagonal_gaussian, draw_gaussian, tanh_log_prob
from brac_plus_tf.models.networks import Actor, ActorNetwork, Critic, CriticNetwork, repeat
from brac_plus_tf.models.optimization import build_adam, gradient_step, soft_update
from brac_plus_tf.objectives.losses import squared_td_error, td_target


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
        tanh_log_prob(distribution, pre_tanh_action),
    )


def gaussian_policies(actor: ActorNetwork) -> dict[str, Policy]:
    """mean: tanh of the mean; sample: one draw."""

    def sample(observation: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        mean, standard_deviation = actor(observation)
        return tf.tanh(mean + standard_deviation * row_normal(mean.shape[-1], seed))

    return {
        "mean": stateless(lambda observation, seed: tf.tanh(actor(observation)[0])),
        "sample": stateless(sample, seeded=True),
    }


def mean_over_draws(values: tf.Tensor, samples: int) -> tf.Tensor:
    """[N B] -> [B]."""
    return tf.reduce_mean(tf.reshape(values, [samples, -1]), axis=0)


def next_state_value(
    actor: ActorNetwork, target_critic: CriticNetwork, next_observation: tf.Tensor, samples: int, seed: tf.Tensor
) -> tf.Tensor:
    """max_n of the critics' value at `samples` actions a'_n ~ pi(.|s'), [B] (Eq. 14 for one sample)."""
    draw = draw_policy(actor, next_observation, samples, fold(seed, Purpose.TARGET_ACTION))
    values = target_critic.pessimistic(draw.observation, draw.action)
    return tf.reduce_max(tf.reshape(values, [samples, -1]), axis=0)


def fit_critic(
    critic: CriticNetwork,
    optimizer: tf.keras.optimizers.Optimizer,
    batch: Transition,
    next_value: tf.Tensor,
    gamma: float,
    penalty: Callable[[], tf.Tensor] = lambda: tf.zeros([1]),
    penalty_weight: float | tf.Tensor = 0.0,
) -> dict[str, tf.Tensor]:
    """One step of the critics on E[sum_j (Q_j - y)^2] + penalty_weight E[penalty()]; `penalty` gives values [B]."""
    target = td_target(batch.reward, batch.discount, next_value, gamma)

    def loss() -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        q_values = critic(batch.observation, batch.action)
        td_error = tf.reduce_mean(squared_td_error(q_values, target))
        mean_penalty = tf.reduce_mean(penalty())
        metrics = {"td_error": td_error, "q_mean": tf.reduce_mean(q_values), "q_max": tf.reduce_max(q_values)}
        return td_error + penalty_weight * mean_penalty, metrics | {"critic_penalty": mean_penalty}

    critic_loss, metrics = gradient_step(loss, critic.trainable_variables, optimizer)
    return {"critic_loss": critic_loss, "target_mean": tf.reduce_mean(target), **metrics}


def best_action(critic: CriticNetwork, observation: tf.Tensor, actions: tf.Tensor) -> tf.Tensor:
    """Of actions [N, B, A] at observations [N, B, O], for each state the one that min_j Q_j likes best: [B, A]."""
    best = tf.argmax(critic.minimum(observation, actions), axis=0)
    return tf.gather(tf.transpose(actions, [1, 0, 2]), best, batch_dims=1)


@gin.register
@dataclasses.dataclass(frozen=True)
class MaxQ(HyperParameters):
    """Acting by the best of `samples` policy draws under min_j Q_j, clipped to +-clip deviations if given."""

    samples: int = 10
    clip: float | None = None

    def action(self, actor: ActorNetwork, critic: CriticNetwork, observation: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """observation [N, O], seed [2] -> action [N, A] in [-1, 1].

        All rows share their candidates' noise [samples, 1, A]: what is done in a state depends on that state alone, not
        on its place among the others.
        """
        mean, standard_deviation = actor(observation)
        noise = standard_normal([self.samples, 1, mean.shape[-1]], seed)
        limit = math.inf if self.clip is None else self.clip
        actions = tf.tanh(mean + standard_deviation * tf.clip_by_value(noise, -limit, limit))
        return best_action(critic, repeat(observation, self.samples), actions)


def entropy_floor(minimum_entropy: float | None, dimensions: Dimensions) -> float:
    """The bound below E[H], nats, of the squashed action: as given, or -A for None (Haarnoja et al. 2018)."""
    return -float(dimensions.action) if minimum_entropy is None else minimum_entropy


@gin.register
@dataclasses.dataclass(frozen=True)
class Training(HyperParameters):
    """The main stage of an actor-critic agent: `epochs` of `steps_per_epoch` gradient steps.

    warm_start: steps before it in which the policy does not see the critic yet.
    """

    epochs: int = 500
    steps_per_epoch: int = 1000
    batch_size: int = 256
    policy_learning_rate: float = 3e-4
    warm_start: int = 0


class ActorCritic:
    """A policy, critics with their targets, and Adam for each: what the algorithms built on them have in common.

    Subclasses write `update` and `stages`, and name what more they learn in `components`.
    policy_rate: the policy's learning rate, or a schedule of it.
    """

    def __init__(
        self, dimensions: Dimensions, seed: int, actor: Actor, critic: Critic, policy_rate: float | object, max_q: MaxQ
    ) -> None:
        self.actor = actor.build(dimensions, seed)
        self.critic = critic.build(dimensions, seed)
        self.target_critic = critic.build(dimensions, seed)  # same seed and name: an exact copy
        self.followed = [(self.critic.variables, self.target_critic.variables)]
        self.policy_optimizer = build_adam(policy_rate, self.actor.trainable_variables)
        self.critic_optimizer = build_adam(critic.learning_rate, self.critic.trainable_variables)
        self._gamma, self._tau, self._target_samples = critic.gamma, critic.tau, critic.target_samples
        self._max_q = max_q

    def components(self) -> dict[str, Sequence[tf.Variable]]:
        """All variables under stable names."""
        return {
            "actor": self.actor.variables,
            "policy_optimizer": self.policy_optimizer.variables,
            "critic": self.critic.variables,
            "target_critic": self.target_critic.variables,
            "critic_optimizer": self.critic_optimizer.variables,
        }

    def policies(self) -> dict[str, Policy]:
        """mean: tanh of the mean; sample: one draw; max_q: best of several draws by the critics."""

        def best(observation: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
            return self._max_q.action(self.actor, self.critic, observation, seed)

        return {**gaussian_policies(self.actor), "max_q": stateless(best)}

    def fit_critic(
        self,
        batch: Transition,
        next_value: tf.Tensor,
        penalty: Callable[[], tf.Tensor] = lambda: tf.zeros([1]),
        penalty_weight: float | tf.Tensor = 0.0,
    ) -> Metrics:
        """One step of the critics; see the function `fit_critic`."""
        optimizer, gamma = self.critic_optimizer, self._gamma
        return fit_critic(self.critic, optimizer, batch, next_value, gamma, penalty, penalty_weight)

    def next_value(self, batch: Transition, seed: tf.Tensor) -> tf.Tensor:
        """The targets' value of the policy's own next action, the best of `Critic.target_samples`, [B]."""
        return next_state_value(self.actor, self.target_critic, batch.next_observation, self._target_samples, seed)

    def watch(self) -> Watch:
        """Warns when Q diverges."""
        return watch_value(self._gamma)

    def follow_targets(self) -> None:
        """Each target network <- tau its source + (1 - tau) itself."""
        for source, target in self.followed:
            soft_update(source, target, self._tau)


def watch_value(gamma: float) -> Watch:
    """Warns when Q has left what the data's rewards can sum to: the sign of a critic that diverges."""

    def watch(dataset: TransitionSource, step: int, metrics: Mapping[str, float]) -> dict[str, str]:
        del step
        reward = max(0.0, float(dataset.transitions.reward.max()))
        highest = reward / (1.0 - gamma)
        if metrics["q_max"] <= 1.1 * highest:  # an entropy bonus may add a little
            return {}
        text = f"Q reaches {metrics['q_max']:.4g}, rewards of at most {reward:.4g} sum to {highest:.4g}: Q diverges"
        return {"value": text}

    return watch


def training_stages(
    training: Training,
    watch: Watch,
    update: Update,
    warm_start: Update | None = None,
    sample_shape: tuple[int, ...] = (),
) -> list[Stage]:
    """The warm start, if it has any steps, and the main stage, which is evaluated after its epochs.

    warm_start: None for an algorithm that has none. sample_shape: axes of a batch before [B].
    """
    shape, epoch = (*sample_shape, training.batch_size), training.steps_per_epoch
    main = Stage("main", training.epochs * epoch, shape, update, epoch, watch=watch, evaluate=True)
    if not training.warm_start:
        return [main]
    if warm_start is None:
        raise UserError(f"Training.warm_start is {training.warm_start}: this agent has no warm start, leave it at 0")
    return [Stage("warm_start", training.warm_start, shape, warm_start, epoch), main]
