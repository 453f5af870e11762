"""BCQ (Fujimoto et al. 2019): the best of a generative model's actions, each moved a little by a perturbation policy.

Reference: Google's BRAC folder, without its defects: the target perturbation follows, the model has its own optimiser.
"""

from collections.abc import Sequence

import gin
import tensorflow as tf

from brac_plus_tf.agents.actor_critic import Training, training_stages
from brac_plus_tf.agents.base import Policy, Problem, Stage, candidate_noise, stateless
from brac_plus_tf.agents.value_learning import Critic, ValueLearner, best_action
from brac_plus_tf.core.randomness import Purpose, fold
from brac_plus_tf.core.settings import checked
from brac_plus_tf.core.types import Dimensions, Metrics, Transition
from brac_plus_tf.models.action_auto_encoder import ActionAutoEncoder
from brac_plus_tf.models.networks import EnsembleMLP, repeat
from brac_plus_tf.models.optimization import build_adam, gradient_step


class PerturbationNetwork(EnsembleMLP):
    """xi(s, a) = clip(a + limit tanh(h(s, a)), -1, 1)."""

    def __init__(self, hidden_sizes: tuple[int, ...], limit: float, dimensions: Dimensions, seed: int) -> None:
        observation, action = dimensions
        super().__init__(1, observation + action, hidden_sizes, action, seed, "perturbation")
        self._limit = limit

    def call(self, observation: tf.Tensor, action: tf.Tensor) -> tf.Tensor:  # type: ignore[override]
        """observation [.., O], action [.., A] in [-1, 1] -> [.., A] in [-1, 1]."""
        # clipped last: near the edge of the box the allowed shift leads out of it
        shift = self._limit * tf.tanh(self.member(0)(tf.concat([observation, action], axis=-1)))
        return tf.clip_by_value(action + shift, -1.0, 1.0)


@gin.register
class BCQ(ValueLearner):
    """Batch-constrained Q-learning.

    perturbation_limit: Phi, in action units. action_samples: of the model per state, for targets and for acting,
    of latents clipped to +-latent_clip.
    """

    @checked
    def __init__(
        self,
        problem: Problem,
        seed: int,
        *,
        hidden_sizes: tuple[int, ...] = (300, 300),
        perturbation_limit: float = 0.15,
        action_samples: int = 10,
        latent_clip: float = 0.5,
        critic: Critic = Critic((300, 300), learning_rate=1e-3, tau=5e-3, minimum_weight=0.75),
        behavior: ActionAutoEncoder = ActionAutoEncoder(),
        training: Training = Training(batch_size=100, policy_learning_rate=3e-5),
    ) -> None:
        super().__init__(problem, seed, critic, training)
        self.behavior = behavior.build(problem.dimensions, seed)
        self.perturbation, self.target_perturbation = (
            PerturbationNetwork(hidden_sizes, perturbation_limit, problem.dimensions, seed) for _ in range(2)
        )
        self.followed.append((self.perturbation.variables, self.target_perturbation.variables))
        self._policy_optimizer = build_adam(training.policy_rate(), self.perturbation.trainable_variables)
        self._action_samples, self._latent_clip = action_samples, latent_clip
        self._training = training

    def stages(self) -> Sequence[Stage]:
        """One stage."""
        return training_stages(self._training, self.watch(), self.update)

    def components(self) -> dict[str, Sequence[tf.Variable]]:
        """All variables under stable names."""
        policy = {
            "perturbation": self.perturbation.variables,
            "target_perturbation": self.target_perturbation.variables,
            "policy_optimizer": self._policy_optimizer.variables,
        }
        return self.behavior.components() | policy | super().components()

    def policies(self) -> dict[str, Policy]:
        """max_q: the best of `action_samples` perturbed samples; sample: one of them.

        The candidates' latents are shared by all rows, so that an action depends on its own observation alone.
        """
        size, candidates = self.behavior.latent_size, self._action_samples

        def best(observation: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
            actions = self._perturbed(observation, candidate_noise(noise, candidates))
            return best_action(self.critic, repeat(observation, candidates), actions)

        def sample(observation: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
            return self._perturbed(observation, noise[None])[0]

        return {
            "max_q": stateless(best, noise=candidates * size),
            "sample": stateless(sample, noise=size, seeded=True),
        }

    def update(self, batch: Transition, seed: tf.Tensor) -> Metrics:
        """Behaviour, Q, perturbation and targets, in this order, on one batch."""
        metrics = self.behavior.fit(batch, fold(seed, Purpose.BEHAVIOR_UPDATE))
        next_value = self._next_value(batch.next_observation, fold(seed, Purpose.TARGET_ACTION))
        metrics |= self.fit_critic(batch, next_value)
        metrics |= self._fit_perturbation(batch.observation, fold(seed, Purpose.POLICY_ACTION))
        self.follow_targets()
        return metrics

    def _model_actions(self, observation: tf.Tensor, samples: int, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """observation repeated [N, B, O], and the model's actions [N, B, A]."""
        actions = tf.tanh(self.behavior.draws(observation, samples, self._latent_clip, seed))
        return repeat(observation, samples), actions

    def _perturbed(self, observation: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
        """Perturbed actions [N, B, A] of the model's latents from noise [N, B or 1, Z]."""
        actions = tf.tanh(self.behavior.decode_noise(observation, noise, self._latent_clip))
        return self.perturbation(repeat(observation, noise.shape[0]), actions)

    def _next_value(self, next_observation: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """max_n of the targets' value at perturbed samples of the model, [B]."""
        tiled, actions = self._model_actions(next_observation, self._action_samples, seed)
        # a maximum over what the model thinks likely stands for max_a Q': the batch constraint
        values = self.pessimistic(self.target_critic, tiled, self.target_perturbation(tiled, actions))
        return tf.reduce_max(values, axis=0)

    def _fit_perturbation(self, observation: tf.Tensor, seed: tf.Tensor) -> Metrics:
        """Up the first critic at one perturbed sample per state."""
        action = tf.tanh(self.behavior.draws(observation, 1, self._latent_clip, seed)[0])

        def loss() -> tuple[tf.Tensor, Metrics]:
            # the first critic, as the authors do; the model's action is data here, only xi moves
            return -tf.reduce_mean(self.critic(observation, self.perturbation(observation, action))[0]), {}

        return {"policy_loss": gradient_step(loss, self.perturbation.trainable_variables, self._policy_optimizer)[0]}
