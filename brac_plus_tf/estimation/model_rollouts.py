"""A second opinion on a policy: what a learned model of the dynamics says that it earns in its next steps.

The model is that of a finished run of mopo or mbop. It is asked for no more steps than it follows held-out data for.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import tensorflow as tf

from brac_plus_tf.agents.learned_dynamics import LearnedDynamics
from brac_plus_tf.agents.termination import Ends
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.data.scaling import Scaling
from brac_plus_tf.estimation.verdict import Interval, of_members
from brac_plus_tf.runs.metrics_log import read_metrics
from brac_plus_tf.runs.model_report import ModelReport, read_model_report
from brac_plus_tf.runs.rebuilt import rebuild, restore

# (observations [N, O] in the environment's units, step) -> actions [N, A] in the environment's units
Act = Callable[[np.ndarray, int], np.ndarray]
_WORST_ERROR = 0.5  # of the state, in its entries' standard deviations: beyond it the model tells of other states
_ELITES = 5


@runtime_checkable
class Modelled(Protocol):
    """An agent with a model. dynamics, ends: learned, or to be read from a checkpoint."""

    dynamics: LearnedDynamics
    ends: Ends


class Opinion(NamedTuple):
    """Discounted rewards in the environment's units over `steps` from states of the data: means with intervals over
    the model's members. difference: the policy's less the cloned policy's, member by member.
    """

    steps: int
    policy: Interval
    clone: Interval
    difference: Interval

    def to_json(self) -> dict[str, object]:
        """For estimate.json."""
        parts = {name: getattr(self, name)._asdict() for name in ("policy", "clone", "difference")}
        return {"steps": self.steps, **parts}


class Model:
    """The members of a run's ensemble that foretell best, each by its means. horizon: steps that they are asked for."""

    def __init__(self, agent: Modelled, scaling: Scaling, dimensions: Dimensions, horizon: int) -> None:
        self._dynamics, self._ends, self._scaling = agent.dynamics, agent.ends, scaling
        self.dimensions, self.horizon = dimensions, horizon
        self._members = agent.dynamics.order.numpy()[:_ELITES]
        self._step = tf.function(self._one_step, autograph=False, reduce_retracing=True)

    def _one_step(
        self, member: tf.Tensor, observation: tf.Tensor, action: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Reward [N] in the environment's units, next observation [N, O] in network units, whether it ends [N]."""
        answer = self._dynamics.network.mean_of(member)(observation, action)
        following = observation + answer[:, 1:]
        reward = self._scaling.to_environment_reward(answer[:, 0])
        return reward, following, self._ends(observation, action, following)

    def returns(self, act: Act, starts: np.ndarray, gamma: float) -> np.ndarray:
        """sum_{t < horizon} gamma^t r_t of each member from each start: [K, N], no reward after an episode's end.

        Args:
          starts: [N, O] in the environment's units.
        """
        total = np.zeros((len(self._members), len(starts)))
        for index, member in enumerate(self._members):
            state = tf.constant(self._scaling.normalize_observation(np.asarray(starts, np.float32)))
            alive = np.ones(len(starts), bool)
            for step in range(self.horizon):
                action = act(self._scaling.to_environment_observation(state.numpy()), step)
                given = tf.constant(self._scaling.from_environment_action(np.asarray(action, np.float32)))
                reward, following, ends = self._step(tf.constant(member), state, given)
                total[index] += gamma**step * np.where(alive, reward.numpy(), 0.0)
                alive &= ~ends.numpy()
                state = tf.where(alive[:, None], following, state)  # whose numbers remain finite
        return total


def compare_in_model(model: Model, policy: Act, clone: Act, starts: np.ndarray, gamma: float) -> Opinion:
    """What the model says of two policies from the same states."""
    first, second = (model.returns(act, starts, gamma).mean(axis=1) for act in (policy, clone))
    return Opinion(model.horizon, of_members(first), of_members(second), of_members(first - second))


def trusted_steps(report: ModelReport) -> int:
    """The most steps after which the model's state is still within the error that is borne; 0 for none."""
    within = [step for step, error in sorted(report.error_after_steps.items()) if error <= _WORST_ERROR]
    return max(within, default=0)


def has_model(run: Path) -> bool:
    """Whether the run has learned a model whose steps were compared with the data's."""
    return any(row.metric.startswith("error_after_steps/") for row in read_metrics(run))


def load_model(run: Path) -> Model:
    """The model of a finished run.

    Raises:
      UserError: if it has none, or the data that it was learned from cannot be read.
    """
    dataset = (rebuilt := rebuild(run)).dataset
    report = read_model_report(run, dataset.origin.sha256)
    horizon = trusted_steps(report)
    if not horizon:
        raise UserError(f"{run}: its model does not follow the data for a single step within {_WORST_ERROR:g}")
    agent = rebuilt.agent
    if not isinstance(agent, Modelled):
        raise UserError(f"{run}: this agent has no model of the dynamics; only mopo and mbop learn one")
    restore(run, {**agent.dynamics.components(), **agent.ends.components()})
    return Model(agent, dataset.scaling, dataset.dimensions, horizon)
