"""A Gaussian behaviour policy by maximum likelihood: what BC is, and what BRAC measures divergences from."""

import dataclasses
from collections.abc import Sequence

import gin
import tensorflow as tf

from brac_plus_tf.agents.actor_critic import draw_policy, entropy_floor
from brac_plus_tf.agents.base import Stage, uniform_rows
from brac_plus_tf.core.randomness import Purpose, fold
from brac_plus_tf.core.settings import HyperParameters
from brac_plus_tf.core.types import Dimensions, Metrics, Transition
from brac_plus_tf.models.behavior import GaussianBehavior
from brac_plus_tf.models.distributions import inverse_tanh, tanh_log_prob
from brac_plus_tf.models.networks import Actor, ActorNetwork
from brac_plus_tf.models.optimization import Fit, gradient_step
from brac_plus_tf.objectives.multipliers import LearnedMultiplier, Multiplier


@gin.register
@dataclasses.dataclass(frozen=True)
class Cloning(HyperParameters):
    """Behaviour cloning as Google's BRAC does it: maximum likelihood under a floor on the entropy.

        loss = E[-log pi(a_data|s) + beta log pi(a~|s)],  a~ ~ pi;  beta rises while E[H] < minimum_entropy

    entropy: beta; `initial` and `learning_rate` 0 give plain maximum likelihood. minimum_entropy: nats, of the
    squashed action; None stands for -A. action_margin: logged actions are clipped to +-(1 - margin).
    epoch_steps: gradient steps between evaluations, where cloning is all there is.
    """

    actor: Actor = Actor((200, 200), (-5.0, 0.0))
    fit: Fit = Fit(steps=300_000, batch_size=256, learning_rate=5e-4, decay=(1.0,))
    entropy: Multiplier = Multiplier(initial=1.0, learning_rate=5e-4)
    minimum_entropy: float | None = None
    action_margin: float = 1e-3
    epoch_steps: int = 1000

    def build(self, dimensions: Dimensions, seed: int) -> "ClonedPolicy":
        return ClonedPolicy(self, dimensions, seed)


def cloning_loss(
    actor: ActorNetwork,
    observation: tf.Tensor,
    action: tf.Tensor,
    margin: float,
    multiplier: tf.Tensor,
    seed: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """-log pi(a_data|s) + multiplier * log pi(a~|s), and its parts.

    Args:
      observation [B, O], action [B, A] from the data, clipped to +-(1 - margin). multiplier: scalar.
    Returns:
      loss [B], negative log-likelihood [B] and entropy estimate -log pi(a~|s) [B], nats.
    """
    draw = draw_policy(actor, observation, 1, fold(seed, Purpose.POLICY_ACTION))
    # a logged action of exactly 1 would lie at infinity before tanh: hence the margin
    negative_log_likelihood = -tanh_log_prob(draw.distribution, inverse_tanh(action, margin))
    return negative_log_likelihood + multiplier * draw.log_prob, negative_log_likelihood, -draw.log_prob


class ClonedPolicy:
    """The Gaussian policy, its optimiser and its entropy multiplier."""

    def __init__(self, settings: Cloning, dimensions: Dimensions, seed: int) -> None:
        self._settings = settings
        self.network = settings.actor.build(dimensions, seed, "behavior")
        self.entropy_multiplier: LearnedMultiplier = settings.entropy.build()
        self._minimum_entropy = entropy_floor(settings.minimum_entropy, dimensions)
        self._optimizer = settings.fit.adam(self.network.trainable_variables)

    def components(self) -> dict[str, Sequence[tf.Variable]]:
        """All variables under stable names."""
        return {
            "behavior": self.network.variables,
            "behavior_optimizer": self._optimizer.variables,
            "behavior_entropy": self.entropy_multiplier.variables,
        }

    def stage(self, evaluate: bool = False) -> Stage:
        """Cloning as a stage that runs on the same data may share."""
        fit = self._settings.fit
        return Stage(
            name="behavior",
            steps=fit.steps,
            draw=uniform_rows(fit.batch_size),
            update=self.update,
            epoch_steps=self._settings.epoch_steps,
            evaluate=evaluate,
            writes=tuple(self.components()),
            settings=(self._settings,),
        )

    def update(self, batch: Transition, seed: tf.Tensor) -> Metrics:
        """One step of the policy, one of beta."""

        def loss() -> tuple[tf.Tensor, Metrics]:
            total, negative_log_likelihood, entropy = cloning_loss(
                self.network,
                batch.observation,
                batch.action,
                self._settings.action_margin,
                self.entropy_multiplier(),
                seed,
            )
            metrics = {"negative_log_likelihood": negative_log_likelihood, "entropy": entropy}
            return tf.reduce_mean(total), {name: tf.reduce_mean(values) for name, values in metrics.items()}

        _, metrics = gradient_step(loss, self.network.trainable_variables, self._optimizer)
        # without the floor, likelihood alone drives the deviation towards 0 wherever the data repeat an action exactly
        self.entropy_multiplier.ascend(self._minimum_entropy - metrics["entropy"])
        return metrics | {"entropy_multiplier": self.entropy_multiplier()}

    def model(self) -> GaussianBehavior:
        """The policy as a behaviour model that divergences are measured from."""
        return GaussianBehavior(self.network.distribution)
