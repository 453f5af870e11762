"""Learning in a simulator: the agent plays, keeps all it saw, and learns from that; then its record is a dataset.

Each epoch of an agent's only stage begins with as many environment steps as it has gradient steps, taken by the policy
of that moment. All else is the training loop's: calls, metrics, evaluation, checkpoints, resuming.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import gin
import numpy as np
import tensorflow as tf

from brac_plus_tf.agents.base import Agent, Policy, Preparation, Problem, Stage, TransitionSource, no_preparation
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.extras import import_extra
from brac_plus_tf.core.files import write_figure
from brac_plus_tf.core.randomness import Purpose, fold, initializer_seed, uniform
from brac_plus_tf.data.episodes import finished_returns
from brac_plus_tf.data.hdf5_writer import task_facts, write_hdf5
from brac_plus_tf.data.replay_buffer import ReplayBuffer
from brac_plus_tf.data.rows import cut_off, empty_rows
from brac_plus_tf.data.scaling import task_scaling
from brac_plus_tf.environments.environment import Environment
from brac_plus_tf.environments.tasks import Task, find_task
from brac_plus_tf.policies.saved_policy import DeployedPolicy
from brac_plus_tf.runs import configuration, trainer
from brac_plus_tf.runs.facts import host_facts
from brac_plus_tf.runs.metrics_log import read_metrics
from brac_plus_tf.runs.outcome import finish, snapshots, summary
from brac_plus_tf.runs.progress import TrainingProgress
from brac_plus_tf.runs.run_record import RunRecord
from brac_plus_tf.runs.session import LivePolicyEvaluation, RunSettings

_EVALUATION = "evaluation/return_mean"
_SUCCESSES = 2  # evaluations in a row that must reach the target, as in Google's code


@gin.configurable
@dataclasses.dataclass(frozen=True)
class OnlineExperiment(RunSettings):
    """What learns where, and for how long; see `RunSettings`.

    environment: the task. total_steps: environment steps, with one gradient step for each; the agent's own number of
    epochs does not count. random_steps: how many of them are uniform actions, at the start. exploration: the agent's
    way to act while it learns. eval_target: return whose first two evaluations in a row, if it is given, make it
    save the policy and the data of that moment.
    """

    SMOKE: ClassVar[dict[str, object]] = RunSettings.SMOKE | {"total_steps": 16, "random_steps": 8}
    environment: str = gin.REQUIRED
    total_steps: int = 300_000
    random_steps: int = 1000
    exploration: str = "sample"
    eval_target: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.total_steps < 1:
            raise UserError(f"OnlineExperiment.total_steps is {self.total_steps}: it must be at least 1")

    def way_to_explore(self, agent: Agent) -> Policy:
        """The policy that `exploration` names."""
        ways = agent.policies()
        if self.exploration not in ways:
            raise UserError(f"OnlineExperiment.exploration: {self.exploration!r} is none of {', '.join(ways)}")
        return ways[self.exploration]


class Explorer:
    """Plays one environment on and on, and puts each step into the replay buffer.

    Episode number i starts from a seed derived from (seed, i). A restored buffer tells where it stood: its unfinished
    episode is played again. `variables` hold the policy's state in that episode; checkpoints keep them with the buffer.
    """

    def __init__(
        self, environment: Environment, task: Task, policy: Policy, buffer: ReplayBuffer, random_steps: int, seed: int
    ) -> None:
        self._environment, self._task, self._buffer, self._policy = environment, task, buffer, policy
        self._scaling, self._random_steps, self._seed = task_scaling(task), random_steps, seed
        self.variables = [tf.Variable(leaf, trainable=False) for leaf in tf.nest.flatten(policy.initial_state(1))]
        self._observation: np.ndarray | None = None  # None: before the first step of this process
        self._episode = 0

    def play(self, steps: int, seed: tf.Tensor) -> None:
        """Takes `steps` environment steps. A policy's state begins with the first step that the policy takes itself.

        Raises:
          UserError: if the simulator does not repeat a recorded episode, or leaves the finite numbers.
        """
        observation = self._continue() if self._observation is None else self._observation
        before, played = len(self._buffer), empty_rows(self._task.dimensions, steps)
        random = uniform(played.actions.shape, fold(seed, Purpose.UNIFORM_ACTION), -1.0, 1.0).numpy()
        state = [variable.read_value() for variable in self.variables]
        for index in range(steps):
            if before + index < self._random_steps:
                action = random[index]
            else:
                seen = tf.constant(observation, tf.float32)
                action, state = self._act(seen, state, seed, tf.constant(index))
            action = self._scaling.to_environment_action(np.asarray(action))
            following, reward, terminated, truncated, _ = self._environment.step(action)
            row = {"observations": observation, "actions": action, "rewards": reward, "terminals": terminated}
            row |= {"timeouts": truncated, "next_observations": following}
            for key, column in played.columns().items():
                column[index] = row[key]
            observation = np.asarray(following)
            if terminated or truncated:
                self._episode += 1
                observation = self._reset()
                state = tf.nest.flatten(self._policy.initial_state(1))
        if not all(np.isfinite(column).all() for column in played.columns().values()):
            raise UserError(f"{self._task.name}: the environment returned values that are not finite; training stopped")
        self._buffer.append(played)
        for variable, leaf in zip(self.variables, state, strict=True):
            variable.assign(leaf)
        self._observation = observation

    @functools.cached_property
    def _act(self) -> Callable[..., tuple[tf.Tensor, list[tf.Tensor]]]:
        """(observation [O], state, seed [2] of the round, index in it) -> action [A] in [-1, 1] and state, compiled."""
        structure = self._policy.initial_state(1)

        @tf.function(jit_compile=True, autograph=False)
        def act(
            observation: tf.Tensor, state: list[tf.Tensor], seed: tf.Tensor, index: tf.Tensor
        ) -> tuple[tf.Tensor, list[tf.Tensor]]:
            seed = fold(seed, Purpose.EXPLORATION, index)
            action, following = self._policy.draw(observation[None], tf.nest.pack_sequence_as(structure, state), seed)
            return action[0], tf.nest.flatten(following)

        return act

    def _continue(self) -> np.ndarray:
        """The observation at which the buffer's last episode stands."""
        recorded = self._buffer.rows()
        assert recorded.next_observations is not None
        ends = np.flatnonzero(recorded.terminals | recorded.timeouts)
        self._episode = len(ends)
        observation = self._reset()
        for row in range(ends[-1] + 1 if len(ends) else 0, len(self._buffer)):
            observation = np.asarray(self._environment.step(recorded.actions[row])[0])
            if not np.array_equal(observation.astype(np.float32), recorded.next_observations[row]):
                raise UserError(
                    f"{self._task.name}: the simulator does not repeat step {row}; resume where the run was started"
                )
        return observation

    def _reset(self) -> np.ndarray:
        seed = initializer_seed(self._seed, f"exploration {self._episode}")
        return np.asarray(self._environment.reset(seed=seed)[0])


class OnlineAgent:
    """An agent whose only stage begins each epoch by playing; its replay buffer is part of its state."""

    def __init__(self, agent: Agent, explorer: Explorer, buffer: ReplayBuffer, total_steps: int) -> None:
        self._agent, self._explorer, self._buffer, self._total_steps = agent, explorer, buffer, total_steps
        stages = agent.stages()
        if len(stages) != 1 or stages[0].prepare is not no_preparation:
            names = ", ".join(stage.name for stage in stages)
            raise UserError(f"this agent prepares itself on recorded data ({names}): it cannot learn online; use SAC")
        self._stage = stages[0]

    def stages(self) -> Sequence[Stage]:
        """Its stage, played for as many steps as there are."""
        return [dataclasses.replace(self._stage, steps=self._total_steps, prepare=self._play)]

    def components(self) -> dict[str, Sequence[tf.Variable]]:
        """What the agent learns."""
        return self._agent.components()

    def buffers(self) -> dict[str, Sequence[tf.Variable]]:
        """The replay buffer, the state of the policy that explores, and the agent's own."""
        played = {"replay": self._buffer.variables, "exploration": self._explorer.variables}
        return self._agent.buffers() | played

    def policies(self) -> dict[str, Policy]:
        """The agent's own."""
        return self._agent.policies()

    def _play(self, dataset: TransitionSource, step: int, seed: tf.Tensor) -> Preparation:
        del dataset
        self._explorer.play(min(self._stage.epoch_steps, self._total_steps - step), seed)
        return Preparation()


def run_online(experiment: OnlineExperiment, root_dir: str | Path, seed: int, bindings: Sequence[str] = ()) -> Path:
    """Plays, trains, evaluates, exports, and writes the data; returns `{root_dir}/{task}/{agent}/{seed}`.

    Raises:
      UserError: for anything the user can put right.
      Interrupted: after SIGINT or SIGTERM; the same call goes on where it stopped.
    """
    import_extra("matplotlib.figure", "plot")  # rather than to miss it at the end
    task = find_task(experiment.environment)
    inner = experiment.build_agent(Problem(task.dimensions, task_scaling(task), task), seed)
    buffer = ReplayBuffer(task.dimensions, task_scaling(task), experiment.total_steps)
    explorer = Explorer(
        experiment.make_environment(task), task, experiment.way_to_explore(inner), buffer, experiment.random_steps, seed
    )
    agent = OnlineAgent(inner, explorer, buffer, experiment.total_steps)
    policy = DeployedPolicy(inner, task.dimensions, task_scaling(task), experiment.way_to_act)
    evaluation = LivePolicyEvaluation(experiment, task, policy, seed)
    operative_config = gin.operative_config_str()
    configuration.check_effective(bindings, operative_config)

    record = RunRecord(Path(root_dir) / task.label / experiment.run_name / str(seed))
    facts = {
        "agent": experiment.run_name,
        "smoke": experiment.smoke,
        "seed": seed,
        "environment": {**task.facts(), "backend": evaluation.backend},
        "action": policy.actions[0],
        "dataset": None,
        "configuration": configuration.fingerprint(),
    }
    record.begin(operative_config, {**facts, "host": host_facts()})
    keeper = _Keeper(experiment, task, buffer, policy, record.directory, facts)
    progress, evaluate = TrainingProgress(experiment.evaluation_episodes), keeper.watching(evaluation.intermediate)
    snapshot, loop = snapshots(policy, record, facts), experiment.loop
    trainer.run(trainer.TrainingRun(agent, buffer, record, None, evaluate, seed, loop, progress, snapshot))
    keeper.keep_replay()
    write_curves(record.directory)
    finish(record, evaluation, policy, facts)
    progress.say(summary(record.directory, record.warnings, task))
    return record.directory


@dataclasses.dataclass(frozen=True)
class _Keeper:
    """Puts what the agent saw into the run's directory as a dataset, and the policy of a moment beside it."""

    experiment: OnlineExperiment
    task: Task
    buffer: ReplayBuffer
    policy: DeployedPolicy
    directory: Path
    facts: dict[str, object]

    def watching(self, evaluate: trainer.Evaluate) -> trainer.Evaluate:
        """The same evaluation; the first time that the target is reached twice in a row, policy and data are kept."""

        def evaluate_and_keep() -> dict[str, float]:
            scores, target = evaluate(), self.experiment.eval_target
            recent = [*evaluations(self.directory)[1 - _SUCCESSES :], scores["return_mean"]]
            partial = self.directory / "saved_model_partial"
            reached = target is not None and len(recent) == _SUCCESSES and min(recent) >= target
            if reached and not partial.exists():
                self._write("replay_partial.hdf5", scores["return_mean"])
                self.policy.save(partial, self.facts)  # last: its presence says that both are there
            return scores

        return evaluate_and_keep

    def keep_replay(self) -> None:
        """All that was seen, once."""
        if not (self.directory / "replay.hdf5").exists():
            self._write("replay.hdf5", evaluations(self.directory)[-1])

    def _write(self, name: str, evaluated: float) -> None:
        rows = cut_off(self.buffer.rows(), len(self.buffer))
        attributes = {
            **task_facts(self.task, finished_returns(rows)),
            "behavior": f"{self.experiment.agent_name}, all its steps from the first on",
            "seed": self.facts["seed"],
            "last_evaluation": evaluated,
        }
        path, dimensions = self.directory / name, self.task.dimensions
        write_hdf5(path, dimensions, len(self.buffer), [rows], lambda: attributes, compress=True)


def write_curves(directory: Path) -> None:
    """Draws the run's curves into its directory, as the command plot does."""
    from brac_plus_tf.runs.curves import draw_runs, read_curves

    write_figure(directory / "curves.png", draw_runs([read_curves(directory)]))


def evaluations(directory: Path) -> list[float]:
    """Mean returns of a run's evaluations so far, in order."""
    return [row.value for row in read_metrics(directory) if row.metric == _EVALUATION]
