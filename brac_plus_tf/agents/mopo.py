"""MOPO (Yu et al. 2020): SAC on what a learned model answers, less a penalty where the model may be wrong.

Reference: "MOPO: Model-based Offline Policy Optimization", and the authors' code. With a weight of 0 it is MBPO (Janner
et al. 2019) on a fixed dataset.
"""

import dataclasses
from collections.abc import Callable, Sequence

import gin
import tensorflow as tf

from brac_plus_tf.agents.actor_critic import MaxQ, Training, draw_policy, training_stages
from brac_plus_tf.agents.base import Draw, Preparation, Problem, Stage, TransitionSource, mixture, uniform_rows
from brac_plus_tf.agents.learned_dynamics import DynamicsFit, LearnedDynamics
from brac_plus_tf.agents.soft_actor_critic import SoftActorCritic
from brac_plus_tf.agents.termination import AnyTermination, Termination
from brac_plus_tf.agents.value_learning import Critic
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.randomness import Purpose, fold, standard_normal
from brac_plus_tf.core.settings import HyperParameters, checked
from brac_plus_tf.data.ring_buffer import RingBuffer
from brac_plus_tf.models.dynamics import Dynamics
from brac_plus_tf.models.imagination import Imagined, ImaginedStep, imagine
from brac_plus_tf.models.networks import Actor
from brac_plus_tf.objectives.multipliers import Multiplier
from brac_plus_tf.objectives.uncertainty import largest_deviation

Uncertainty = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


@gin.register
@dataclasses.dataclass(frozen=True)
class Imagination(HyperParameters):
    """What is imagined before each epoch: from `starts` states of the data `length` steps (h) of the policy each.

    retained_epochs: whose steps are kept. real_share: of a batch that is the data's own, rounded down. elites: members
    of the least held-out error, one of which answers at each step. chunk: states imagined at a time.
    clip_to_data: next observations and rewards of the model are kept within the data's ranges.
    """

    starts: int = 50_000
    length: int = 5
    retained_epochs: int = 5
    real_share: float = 0.05
    elites: int = 5
    chunk: int = 10_000
    clip_to_data: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("starts", "length", "retained_epochs", "elites", "chunk"):
            if getattr(self, name) < 1:
                raise UserError(f"Imagination.{name} is {getattr(self, name)}: it must be at least 1")
        if not 0.0 <= self.real_share <= 1.0:
            raise UserError(f"Imagination.real_share is {self.real_share}: it must lie between 0 and 1")


@gin.register
class MOPO(SoftActorCritic):
    """Model-based policy optimisation with a pessimistic reward r - penalty_weight u(s, a).

    penalty_weight: lambda, in reward units per unit of `uncertainty`, both the environment's own.
    """

    @checked
    def __init__(
        self,
        problem: Problem,
        seed: int,
        *,
        dynamics: Dynamics = Dynamics(),
        dynamics_fit: DynamicsFit = DynamicsFit(),
        imagination: Imagination = Imagination(),
        uncertainty: Uncertainty = largest_deviation,
        penalty_weight: float = 1.0,
        termination: Termination = AnyTermination(),
        actor: Actor = Actor((256, 256)),
        critic: Critic = Critic((256, 256), learning_rate=3e-4, tau=5e-3),
        training: Training = Training(epochs=1000, policy_learning_rate=3e-4),
        entropy: Multiplier = Multiplier(initial=1.0, learning_rate=3e-4, minimum=1e-6, logarithmic=True),
        minimum_entropy: float | None = -3.0,
        max_q: MaxQ = MaxQ(),
    ) -> None:
        if imagination.elites > dynamics.members:
            raise UserError(f"Imagination.elites is {imagination.elites}, Dynamics.members {dynamics.members}")
        super().__init__(problem, seed, actor, critic, training, entropy, minimum_entropy, max_q)
        self.dynamics = LearnedDynamics(dynamics, dynamics_fit, problem, seed)
        self.ends = termination.build(problem, seed)
        self._imagination, self._scaling = imagination, problem.scaling
        self._uncertainty, self._penalty_weight = uncertainty, penalty_weight
        capacity = imagination.starts * imagination.length * imagination.retained_epochs
        self.imagined = RingBuffer(problem.dimensions, capacity if self._model_rows else 1)
        self._imagine_chunk = tf.function(self.imagine, autograph=False)

    @property
    def _real_rows(self) -> int:
        return int(self._training.batch_size * self._imagination.real_share)

    @property
    def _model_rows(self) -> int:
        return self._training.batch_size - self._real_rows

    # What the loop asks ----------------------------------------------------------------------------------------------

    def stages(self) -> Sequence[Stage]:
        """The model, what it needs to know of episodes' ends, and the policy: without model rows, plain SAC."""
        main = training_stages(self._training, self.watch(), self.update, draw=self._draw_of)
        if not self._model_rows:
            return main
        main = [dataclasses.replace(stage, prepare=self._fill) for stage in main]
        return (self.dynamics.stage(), *self.ends.stages(), *main)

    def components(self) -> dict[str, Sequence[tf.Variable]]:
        """All variables under stable names."""
        learned = super().components()
        return learned | self.dynamics.components() | self.ends.components() if self._model_rows else learned

    def buffers(self) -> dict[str, Sequence[tf.Variable]]:
        """The imagined transitions."""
        return {"imagined": self.imagined.variables} if self._model_rows else {}

    def _draw_of(self, batch_size: int) -> Draw:
        del batch_size
        real, imagined = uniform_rows(self._real_rows), uniform_rows(self._model_rows)
        if not self._model_rows:
            return real
        if not self._real_rows:
            return lambda _, seed: imagined(self.imagined, seed)
        return mixture(real, imagined, self.imagined)

    # Between epochs --------------------------------------------------------------------------------------------------

    def _fill(self, dataset: TransitionSource, step: int, seed: tf.Tensor) -> Preparation:
        """Imagines the epoch's transitions by the policy it begins with."""
        del step
        settings, count = self._imagination, 0.0
        sums: dict[str, float] = {}
        for index, first in enumerate(range(0, settings.starts, settings.chunk)):
            own = fold(seed, index)
            size = min(settings.chunk, settings.starts - first)
            starts = dataset.sample((size,), fold(own, Purpose.MEASURED_STATES)).observation
            imagined = self._imagine_chunk(starts, own)
            rows = tf.nest.map_structure(lambda leaf: tf.reshape(leaf, [-1, *leaf.shape[2:]]), imagined)
            self.imagined.append(rows.transition, rows.valid)
            weight = tf.cast(rows.valid, tf.float32)
            count += float(tf.reduce_sum(weight))
            terms = {"reward": rows.transition.reward, "penalty": rows.penalty, "ends": 1.0 - rows.transition.discount}
            for name, values in terms.items():
                sums[name] = sums.get(name, 0.0) + float(tf.reduce_sum(tf.where(rows.valid, values, 0.0)))
        means = {f"imagined_{name}": total / max(count, 1.0) for name, total in sums.items()}
        return Preparation(metrics={"imagined_steps": count} | means)

    def imagine(self, observation: tf.Tensor, seed: tf.Tensor) -> Imagined:
        """`Imagination.length` steps of the current stochastic policy from observations [B, O]."""

        def act(state: tf.Tensor, own: tf.Tensor) -> tf.Tensor:
            return draw_policy(self.actor, state, 1, own).action

        return imagine(act, self.step, observation, self._imagination.length, fold(seed, Purpose.POLICY_ACTION))

    def step(self, observation: tf.Tensor, action: tf.Tensor, seed: tf.Tensor) -> ImaginedStep:
        """A draw from one elite for each row, its reward less the penalty; all in network units."""
        prediction, rows = self.dynamics.network(observation, action), tf.shape(observation)[0]
        deviation = tf.exp(0.5 * prediction.log_variance)
        drawn = tf.random.stateless_uniform(
            [rows], fold(seed, Purpose.BEHAVIOR_MEMBER), 0, self._imagination.elites, tf.int32, alg="philox"
        )
        # a member for each row and step; as one-hot products, which cost less than gathering single rows
        chosen = tf.one_hot(tf.gather(self.dynamics.order, drawn), self.dynamics.network.members, axis=0)[..., None]
        mean, own_deviation = (tf.reduce_sum(chosen * values, axis=0) for values in (prediction.mean, deviation))
        outcome = mean + own_deviation * standard_normal(tf.shape(mean), fold(seed, Purpose.LATENT))
        outcome += tf.concat([tf.zeros([rows, 1]), observation], axis=1)
        if self._imagination.clip_to_data:
            outcome = tf.clip_by_value(outcome, self.dynamics.low, self.dynamics.high)
        next_observation = outcome[:, 1:]
        penalty = self._uncertainty(*(values * self._units() for values in (prediction.mean, deviation)))
        reward_scale = self._scaling.reward_scale if self._scaling else 1.0
        reward = outcome[:, 0] - self._penalty_weight / reward_scale * penalty
        return ImaginedStep(next_observation, reward, self.ends(observation, action, next_observation), penalty)

    def _units(self) -> tf.Tensor:
        """Of (reward, next observation), network units to the environment's: [1 + O]."""
        if self._scaling is None:
            return tf.ones([1])
        return tf.concat([[self._scaling.reward_scale], self._scaling.observation_scale], axis=0)
