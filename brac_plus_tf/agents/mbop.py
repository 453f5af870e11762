"""MBOP (Argenson and Dulac-Arnold 2021): planning with a model, a cloned policy and a truncated value, no actor-critic.

Reference: "Model-Based Offline Planning"; what its text leaves open is as in the public implementations, but for their
differences from it. The plan is the policy's state.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gin
import numpy as np
import tensorflow as tf

from brac_plus_tf.agents.base import Policy, Preparation, Problem, Stage, TransitionSource
from brac_plus_tf.agents.learned_dynamics import DynamicsFit, LearnedDynamics, recorded
from brac_plus_tf.agents.termination import NoTermination, Termination
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.settings import HyperParameters, checked
from brac_plus_tf.core.types import Metrics
from brac_plus_tf.data.windows import previous_actions, window_returns
from brac_plus_tf.models.dynamics import Dynamics
from brac_plus_tf.models.optimization import Fit, gradient_step
from brac_plus_tf.models.planning import Outcome, PlanningModel, Plans, optimize_trajectory
from brac_plus_tf.models.regression import Regression, RegressionNetwork

Objective = Callable[[tf.Tensor], tf.Tensor]


@gin.register
@dataclasses.dataclass(frozen=True)
class Planning(HyperParameters):
    """horizon: H, steps. trajectories: N, rounded down to a multiple of the members. sigma: deviation of the noise on
    proposed actions, in half ranges. mixing: beta, the plan before's share of each action. kappa: weight of what a
    trajectory earns, per reward unit of the environment. objective_weight: kappa', of an objective of one's own.
    """

    horizon: int = 4
    trajectories: int = 100
    sigma: float = 0.2
    mixing: float = 0.0
    kappa: float = 0.3
    objective_weight: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.horizon < 1:
            raise UserError("Planning.horizon is 0: a plan has at least 1 step")


class Examples(NamedTuple):
    """For each of K members: inputs [K, B, O + A], the state and the action before it, and outputs [K, B, D]."""

    inputs: tf.Tensor
    outputs: tf.Tensor


Find = Callable[[Any], tuple[np.ndarray, np.ndarray, np.ndarray]]


class LearnedRegression:
    """An ensemble of regressions on the state and the action before it, its optimiser and its stage.

    find: dataset -> inputs [M, O + A], outputs [M, D], and which of them are known [M].
    """

    def __init__(self, name: str, shape: Regression, fit: Fit, sizes: tuple[int, int], seed: int, find: Find) -> None:
        self.network: RegressionNetwork = shape.build(*sizes, seed, name)
        self._name, self._shape, self._fit, self._find = name, shape, fit, find
        self._optimizer = fit.adam(self.network.trainable_variables)

    def components(self) -> dict[str, Sequence[tf.Variable]]:
        """All variables under stable names."""
        return {self._name: self.network.variables, f"{self._name}_optimizer": self._optimizer.variables}

    def stage(self, epoch_steps: int, settings: tuple[object, ...], evaluate: bool = False) -> Stage:
        """Fitting it; settings: what else its outcome depends on."""
        return Stage(
            name=self._name,
            steps=self._fit.steps,
            draw=self._draw,
            update=self.update,
            epoch_steps=epoch_steps,
            prepare=self._prepare,
            evaluate=evaluate,
            writes=tuple(self.components()),
            settings=(self._shape, self._fit, *settings),
        )

    def update(self, batch: Examples, seed: tf.Tensor) -> Metrics:
        """One step of every member on its own minibatch."""
        del seed

        def loss() -> tuple[tf.Tensor, Metrics]:
            error = self.network.squared_error(batch.inputs, batch.outputs)
            # a sum over members: each learns as if it were alone
            return tf.reduce_sum(error), {"squared_error": tf.reduce_mean(error)}

        return gradient_step(loss, self.network.trainable_variables, self._optimizer)[1]

    def _known(self, source: TransitionSource) -> tuple[np.ndarray, np.ndarray]:
        inputs, outputs, known = self._find(recorded(source))
        if not known.any():
            raise UserError(f"{self._name}: no stretch of the data is long enough for Planning.horizon; lower it")
        return inputs[known], outputs[known]

    def _draw(self, source: TransitionSource, seed: tf.Tensor) -> Examples:
        inputs, outputs = self._known(source)
        with tf.init_scope():
            columns = [tf.constant(column) for column in (inputs, outputs)]
        shape = [self._shape.members, self._fit.batch_size]
        rows = tf.random.stateless_uniform(shape, seed, 0, len(inputs), tf.int32, alg="philox")
        return Examples(*(tf.gather(column, rows) for column in columns))

    def _prepare(self, source: TransitionSource, step: int, seed: tf.Tensor) -> Preparation:
        del seed
        if step == 0:
            self.network.fit_scales(*self._known(source))
        return Preparation()


@gin.register
class MBOP:
    """Model-based offline planning.

    dynamics: the ensemble, of which as many members plan as `behavior` and `value` have, those of the least held-out
    error. termination: ends what a plan earns where it says an episode would; never, as published. objective:
    observation [.., O] in the environment's units -> [..], what plans are to gather beside rewards (negative for a
    constraint), at `Planning.objective_weight`; it needs no training. evaluation_steps: gradient steps of the last
    stage between evaluations.
    """

    @checked
    def __init__(
        self,
        problem: Problem,
        seed: int,
        *,
        dynamics: Dynamics = Dynamics(),
        dynamics_fit: DynamicsFit = DynamicsFit(),
        behavior: Regression = Regression(),
        behavior_fit: Fit = Fit(80_000, 512, 1e-3, (1.0,)),
        value: Regression = Regression(),
        value_fit: Fit = Fit(80_000, 512, 1e-3, (1.0,)),
        planning: Planning = Planning(),
        termination: Termination = NoTermination(),
        objective: Objective | None = None,
        evaluation_steps: int = 20_000,
    ) -> None:
        observation, action = problem.dimensions
        members = behavior.members
        if value.members != members or not 1 <= members <= min(dynamics.members, planning.trajectories):
            raise UserError(
                f"{members} members of the cloned policy, {value.members} of the value: as many, and at most "
                f"{dynamics.members} of the dynamics and {planning.trajectories} trajectories"
            )
        self.dynamics = LearnedDynamics(dynamics, dynamics_fit, problem, seed)
        self.behavior = LearnedRegression(
            "cloned_policy", behavior, behavior_fit, (observation + action, action), seed, _actions
        )
        self.value = LearnedRegression("plan_value", value, value_fit, (observation + action, 1), seed, self._returns)
        self.ends = termination.build(problem, seed)
        self._dimensions, self._members, self._planning = problem.dimensions, members, planning
        self._scaling, self._objective, self._evaluation_steps = problem.scaling, objective, evaluation_steps

    # What the loop asks ----------------------------------------------------------------------------------------------

    def stages(self) -> Sequence[Stage]:
        """The model, the cloned policy and the value of what follows a plan."""
        steps = self._evaluation_steps
        return (
            self.dynamics.stage(),
            *self.ends.stages(),
            self.behavior.stage(steps, ()),
            self.value.stage(steps, (self._planning.horizon,), evaluate=True),
        )

    def components(self) -> dict[str, Sequence[tf.Variable]]:
        """All variables under stable names."""
        parts = (self.dynamics, self.ends, self.behavior, self.value)
        return {name: variables for part in parts for name, variables in part.components().items()}

    def buffers(self) -> dict[str, Sequence[tf.Variable]]:
        """None."""
        return {}

    def policies(self) -> dict[str, Policy]:
        """plan: the first action of the plan, which is remembered. clone: what the cloned policy would do."""
        _, size = self._dimensions
        horizon = self._planning.horizon

        def act(observation: tf.Tensor, plan: tf.Tensor, noise: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            plan = self.plan(observation, plan, noise).plan
            return plan[:, 0], plan

        def clone(observation: tf.Tensor, before: tf.Tensor, noise: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            del noise
            proposed = self.behavior.network(tf.concat([observation, before], axis=-1))
            action = tf.clip_by_value(tf.reduce_mean(proposed, axis=0), -1.0, 1.0)
            return action, action

        return {
            "plan": Policy(act, lambda count: tf.zeros([count, horizon, size]), self.noise, seeded=True),
            "clone": Policy(clone, lambda count: tf.zeros([count, size])),
        }

    # Planning --------------------------------------------------------------------------------------------------------

    @property
    def _noise_shape(self) -> tuple[int, int, int, int]:
        """Of an episode's noise: trajectories of a member, members, steps of a plan, entries of an action."""
        settings = self._planning
        return settings.trajectories // self._members, self._members, settings.horizon, self._dimensions.action

    @property
    def noise(self) -> int:
        """How many normal draws an episode's plan is made with."""
        return math.prod(self._noise_shape)

    def plan(self, observation: tf.Tensor, plan: tf.Tensor, noise: tf.Tensor) -> Plans:
        """One round of Algorithm 2 for observations [E, O] from the plans before [E, H, A]; noise [E or 1, D]."""
        settings, shape = self._planning, self._noise_shape
        count, _, _, size = shape
        noise = tf.reshape(noise, [-1, *shape])
        episodes = tf.shape(observation)[0]
        # trajectory n belongs to member n mod K
        noise = tf.transpose(tf.broadcast_to(noise, tf.stack([episodes, *shape])), [2, 0, 1, 3, 4])
        noise = tf.ensure_shape(noise, [self._members, None, count, settings.horizon, size])
        scale = self._scaling.reward_scale if self._scaling else 1.0
        weights = (settings.kappa * scale, settings.objective_weight)
        return optimize_trajectory(self._model(), observation, plan, settings.sigma * noise, weights, settings.mixing)

    def _model(self) -> PlanningModel:
        objective = None if self._objective is None else self._in_units(self._objective)
        return PlanningModel(self._behave, self._step, self._worth, objective)

    def _in_units(self, objective: Objective) -> Objective:
        scaling = self._scaling
        if scaling is None:
            return objective
        return lambda observation: objective(scaling.to_environment_observation(observation))

    def _behave(self, observation: tf.Tensor, before: tf.Tensor) -> tf.Tensor:
        return self.behavior.network(tf.concat([observation, before], axis=-1))

    def _worth(self, observation: tf.Tensor, before: tf.Tensor) -> tf.Tensor:
        inputs = tf.concat([observation, before], axis=-1)
        members = [member(inputs) for member in self.value.network.every_member()]
        return tf.squeeze(tf.add_n(members), axis=-1) / len(members)

    def _step(self, observation: tf.Tensor, action: tf.Tensor) -> Outcome:
        """Each row's next state by its own member, its reward by all of them."""
        steps = [
            self.dynamics.network.mean_of(self.dynamics.order[index])(observation, action)
            for index in range(self._members)
        ]
        change = tf.stack([mean[index, :, 1:] for index, mean in enumerate(steps)])
        reward = tf.add_n([mean[..., 0] for mean in steps]) / len(steps)
        following = observation + change
        flat = [tf.reshape(values, [-1, values.shape[-1]]) for values in (observation, action, following)]
        ends = tf.reshape(tf.cast(self.ends(*flat), tf.float32), tf.shape(reward))
        return Outcome(following, reward, ends)

    def _returns(self, data: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What the H steps from each state on earned; the value's input is the action that led there."""
        inputs, _, follows = _actions(data)
        returns, known = window_returns(data, self._planning.horizon)
        return inputs, returns[:, None], follows & known


def _actions(data: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the data did, from the state and what they did before."""
    before, known = previous_actions(data)
    return np.concatenate([data.transitions.observation, before], axis=1), data.transitions.action, known
