"""Critics with their targets: how they are built, fitted to temporal-difference targets and watched."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import gin
import tensorflow as tf

from brac_plus_tf.agents.base import Problem, TransitionSource, Watch
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.settings import HyperParameters
from brac_plus_tf.core.types import Metrics, Transition
from brac_plus_tf.models.networks import CriticNetwork, Function
from brac_plus_tf.models.optimization import build_adam, decayed, gradient_step, soft_update
from brac_plus_tf.objectives.losses import pessimistic_value, smallest_value, squared_td_error, td_target

Ranking = Callable[[tf.Tensor], tf.Tensor]


@gin.register
@dataclasses.dataclass(frozen=True)
class Critic(HyperParameters):
    """K critics and how they learn. What every algorithm sets for itself has no default here.

    hidden_sizes, members: of the K networks. learning_rate: Adam's. gamma: discount. tau: share of the critic that its
    target takes over per step. target_samples: next actions drawn per state for the target; the best of them counts.
    minimum_weight: a target's value is this share of min_j Q'_j and the rest of max_j Q'_j (BEAR and BCQ: 0.75).
    activation: of the hidden layers.
    """

    hidden_sizes: tuple[int, ...]
    learning_rate: float
    tau: float
    members: int = 2
    gamma: float = 0.99
    target_samples: int = 1
    minimum_weight: float = 1.0
    activation: Function = tf.nn.relu

    def check_suits(self, problem: Problem) -> None:
        """Raises UserError if the data state another discount, or hold nothing that a value could be learned from."""
        if problem.discount is not None and abs(problem.discount - self.gamma) > 1e-6:
            raise UserError(
                f"Critic.gamma is {self.gamma:g} where the data state a discount of {problem.discount:g}; "
                f"bind Critic.gamma = {problem.discount:g}, or correct the data"
            )
        if problem.reward_range == (0.0, 0.0):
            raise UserError(
                "key 'rewards' is the same in every transition, and 0 as load_dataset.rewards rescales it: no action "
                "is better than another; set load_dataset.rewards to None if that value is worth something, or clone "
                "the data (bc/base.gin)"
            )


@dataclasses.dataclass(frozen=True)
class MainStage(HyperParameters):
    """The stage in which the policy improves: `epochs` of `steps_per_epoch` gradient steps.

    policy_decay, critic_decay: factors on the policy's and the critics' learning rates for equal parts of the stage.
    """

    epochs: int
    steps_per_epoch: int
    batch_size: int
    policy_learning_rate: float
    policy_decay: tuple[float, ...] = (1.0,)
    critic_decay: tuple[float, ...] = (1.0,)

    @property
    def steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    @property
    def steps_before(self) -> int:
        """Steps of the same optimisers in stages before this one."""
        return 0

    def policy_rate(self, delay: int = 1) -> float | object:
        """A rate, or a Keras schedule of rates. Args: delay: critic steps for each of the policy."""
        # Adam counts its own steps
        steps, before = self.steps // delay, self.steps_before // delay
        return decayed(self.policy_learning_rate, self.policy_decay, steps, before)

    def critic_rate(self, learning_rate: float) -> float | object:
        """The same for critics of that rate."""
        return decayed(learning_rate, self.critic_decay, self.steps, self.steps_before)


class ValueLearner:
    """K critics, their targets and their optimiser: the part of an agent that evaluates its policy.

    main: whose `critic_rate` the optimiser has.
    followed: pairs (source variables, target variables); `follow_targets` moves each target by tau.
    """

    def __init__(self, problem: Problem, seed: int, critic: Critic, main: MainStage) -> None:
        critic.check_suits(problem)
        # the same seed and name: the target starts as an exact copy
        self.critic, self.target_critic = (
            CriticNetwork(critic.hidden_sizes, critic.members, problem.dimensions, seed, activation=critic.activation)
            for _ in range(2)
        )
        self.critic_optimizer = build_adam(main.critic_rate(critic.learning_rate), self.critic.trainable_variables)
        self.followed = [(self.critic.variables, self.target_critic.variables)]
        self._rule = critic

    @property
    def gamma(self) -> float:
        """Discount of one step."""
        return self._rule.gamma

    def components(self) -> dict[str, Sequence[tf.Variable]]:
        """All variables under stable names."""
        return {
            "critic": self.critic.variables,
            "target_critic": self.target_critic.variables,
            "critic_optimizer": self.critic_optimizer.variables,
        }

    def buffers(self) -> dict[str, Sequence[tf.Variable]]:
        """None."""
        return {}

    def pessimistic(self, critic: CriticNetwork, observation: tf.Tensor, action: tf.Tensor) -> tf.Tensor:
        """What Q, or its target, counts for at an action: [..]; see `Critic.minimum_weight`."""
        return pessimistic_value(critic(observation, action), self._rule.minimum_weight)

    def fit_critic(
        self,
        batch: Transition,
        next_value: tf.Tensor,
        penalty: Callable[[], tf.Tensor] = lambda: tf.zeros([1]),
        penalty_weight: float | tf.Tensor = 0.0,
        optimizer: tf.keras.optimizers.Optimizer | None = None,
    ) -> Metrics:
        """One step of the critics on E[sum_j (Q_j - y)^2] + penalty_weight E[penalty()].

        Args:
          next_value: V(s') [B], discounted here. penalty: gives values [B]. optimizer: another than the agent's own.
        """
        target = td_target(batch.reward, batch.discount, next_value, self._rule.gamma)

        def loss() -> tuple[tf.Tensor, Metrics]:
            q_values = self.critic(batch.observation, batch.action)
            td_error = tf.reduce_mean(squared_td_error(q_values, target))
            mean_penalty = tf.reduce_mean(penalty())
            metrics = {"td_error": td_error, "q_mean": tf.reduce_mean(q_values), "q_max": tf.reduce_max(q_values)}
            return td_error + penalty_weight * mean_penalty, metrics | {"critic_penalty": mean_penalty}

        # stages that end before the main one bring their own: Adam's moments and schedule belong to one stage
        used = self.critic_optimizer if optimizer is None else optimizer
        critic_loss, metrics = gradient_step(loss, self.critic.trainable_variables, used)
        return {"critic_loss": critic_loss, "target_mean": tf.reduce_mean(target), **metrics}

    def follow_targets(self) -> None:
        """Each target network <- tau its source + (1 - tau) itself (Algorithm 1, line 10)."""
        for source, target in self.followed:
            soft_update(source, target, self._rule.tau)

    def watch(self) -> Watch:
        """Warns when Q diverges."""
        return watch_value(self._rule.gamma)


def best_action(
    critic: CriticNetwork, observation: tf.Tensor, actions: tf.Tensor, rank: Ranking = smallest_value
) -> tf.Tensor:
    """Of actions [N, B, A] at observations [N, B, O], for each state the one that ranks highest: [B, A]."""
    # of equal values argmax takes the first: the choice is the same for every batch size
    best = tf.argmax(rank(critic(observation, actions)), axis=0)
    return tf.gather(tf.transpose(actions, [1, 0, 2]), best, batch_dims=1)


def watch_value(gamma: float) -> Watch:
    """Warns when Q has left what the data's rewards can sum to: the sign of a critic that diverges."""

    def watch(dataset: TransitionSource, step: int, metrics: Mapping[str, float]) -> dict[str, str]:
        del step
        # an episode that ends earns nothing more, so with negative rewards the bound is 0 rather than below
        reward = max(0.0, float(dataset.transitions.reward.max()))
        highest = reward / (1.0 - gamma)
        if metrics["q_max"] <= 1.1 * highest:  # an entropy bonus may add a little
            return {}
        text = f"Q reaches {metrics['q_max']:.4g}, rewards of at most {reward:.4g} sum to {highest:.4g}: Q diverges"
        return {"value": text}

    return watch
