"""Figures of what finished BRAC+ runs have learned: divergences, gradients of Q, and values, also along an episode."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import tensorflow as tf

from brac_plus_tf.agents.actor_critic import draw_policy
from brac_plus_tf.agents.thresholds import DivergenceThresholds
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.randomness import Purpose, base_seed, fold, initializer_seed
from brac_plus_tf.core.types import check_shapes
from brac_plus_tf.environments.environment import make_environment
from brac_plus_tf.environments.tasks import Task
from brac_plus_tf.models.networks import ActorNetwork, CriticNetwork
from brac_plus_tf.objectives.penalties import action_gradient_penalty, smooth_norm
from brac_plus_tf.paper.picture import Line, Panel, Picture, rounded
from brac_plus_tf.policies.evaluation import Evaluator
from brac_plus_tf.policies.rollouts import Round
from brac_plus_tf.policies.saved_policy import LoadedPolicy
from brac_plus_tf.runs.facts import read_facts
from brac_plus_tf.runs.finished import saved_model
from brac_plus_tf.runs.rebuilt import Rebuilt, rebuild, restore

_STATES, _BINS, _LARGEST = 20_000, 60, 99.0  # states of the data; bins, up to the percentile that all runs lie below
_EPISODES, _NEGLECTED = 10, 0.01  # of values along episodes; what may be missing of a return where they are cut off


@runtime_checkable
class Constrained(Protocol):
    """What is asked of the agent: that it holds a tanh-Gaussian policy to a divergence, as BRAC+ does."""

    actor: ActorNetwork
    critic: CriticNetwork
    thresholds: DivergenceThresholds
    gamma: float

    def components(self) -> dict[str, Sequence[tf.Variable]]:
        """All variables under stable names."""
        ...


class Probed(NamedTuple):
    """A finished run of BRAC+, its networks as they were at its end. label: what the run is called in figures."""

    run: Path
    label: str
    parts: Rebuilt
    agent: Constrained
    seed: tf.Tensor

    def states(self) -> tf.Tensor:
        """Of the data, drawn with replacement, the same for every run on them: [20000, O] in network units."""
        return self.parts.dataset.sample((_STATES,), fold(self.seed, Purpose.MEASURED_STATES)).observation

    def divergence(self, observation: tf.Tensor) -> np.ndarray:
        """D at each of observations [M, O] in network units: [M] nats."""
        return self.agent.thresholds.measured(observation, fold(self.seed, Purpose.POLICY_ACTION))


def probe(run: Path, label: str = "") -> Probed:
    """Opens a finished run of BRAC+.

    Args: label: what it is called; by default its agent and seed.
    Raises:
      UserError: if it is not finished, or one of another agent.
    """
    saved_model(run)
    facts, parts = read_facts(run), rebuild(run)
    if not isinstance(parts.agent, Constrained):
        raise UserError(f"{run}: a run of {facts['agent']}; this figure is of runs of BRAC+")
    restore(run, parts.agent.components())
    return Probed(run, label or f"{facts['agent']}, seed {facts['seed']}", parts, parts.agent, base_seed(0))


def divergence_histogram(probed: Sequence[Probed]) -> Picture:
    """Figure 3: D(s) over the data's states, and the threshold that it is held to in the mean."""
    found = {one.label: one.divergence(one.states()) for one in probed}
    marks = tuple((f"threshold, {one.label}", float(one.agent.thresholds.divergence.numpy())) for one in probed)
    if len({round(value, 2) for _, value in marks}) == 1:
        marks = (("threshold", marks[0][1]),)
    panel = Panel(_data(probed), "D(s), nats", "share of states", _histograms(found), marks)
    text = "; ".join(f"{label}: standard deviation {values.std():.3g}" for label, values in found.items())
    caption = f"D at {_STATES} states of the data, {text} nats (the paper's figure 3)."
    return Picture("3", caption, (panel,))


def gradient_norms(
    critic: Callable[[tf.Tensor, tf.Tensor], tf.Tensor], observation: tf.Tensor, action: tf.Tensor
) -> np.ndarray:
    """||grad_a min_j Q_j(s, a)||_2 at observations [M, O] and actions [M, A]: [M], in units of Q per action unit."""
    check_shapes((observation, "MO"), (action, "MA"))
    everywhere = tf.ones([observation.shape[0]])
    return action_gradient_penalty(critic, observation, action, everywhere, smooth_norm).numpy()


def gradient_histogram(probed: Sequence[Probed]) -> Picture:
    """Figure 6: the norm of Q's gradient at actions of the policy where D(s) is beyond the penalty's threshold."""
    found = {}
    for one in probed:
        observation = one.states()
        beyond = np.flatnonzero(one.divergence(observation) > float(one.agent.thresholds.penalty.numpy()))
        if not len(beyond):
            raise UserError(f"{one.run}: D is within the penalty's threshold at all of {_STATES} states")
        there = tf.gather(observation, beyond)
        action = draw_policy(one.agent.actor, there, 1, fold(one.seed, Purpose.POLICY_ACTION)).action
        found[one.label] = gradient_norms(one.agent.critic.minimum, there, action)
    panel = Panel(_data(probed), "norm of the gradient of Q in the action", "share of actions", _histograms(found))
    text = "; ".join(f"{label}: median {np.median(values):.3g} of {len(values)}" for label, values in found.items())
    return Picture("6", f"At sampled actions beyond eps_GP, {text} (the paper's figure 6).", (panel,))


def episode_divergence(probed: Sequence[Probed]) -> Picture:
    """Figure 7: D(s_t) along the first episode of each run's own evaluation."""
    panels = []
    for one in probed:
        (steps,) = _episodes(one, 1)
        along = one.divergence(tf.constant(one.parts.dataset.scaling.normalize_observation(steps.observation)))
        line = Line("D(s_t)", tuple(map(float, range(len(along)))), rounded(along))
        threshold = float(one.agent.thresholds.divergence.numpy())
        panels.append(
            Panel(one.label, "t, environment steps", "D, nats", (line,), (("threshold", threshold),), upright=False)
        )
    return Picture("7", "D along one episode of the last policy (the paper's figure 7).", tuple(panels))


def values_along_episodes(probed: Sequence[Probed]) -> Picture:
    """Q(s_t, a_t), and what an episode really earns from t on: of each run's first one, and in the caption of ten.

    The paper has no such figure. Episodes go on beyond the task's horizon, until what is left of a return counts for
    less than a hundredth; steps within the horizon are shown.
    """
    panels, text = [], []
    for one in probed:
        further = math.ceil(math.log(_NEGLECTED) / math.log(one.agent.gamma))
        values = [_values(one, episode) for episode in _episodes(one, _EPISODES, further)]
        value, earned = values[0]
        steps = tuple(map(float, range(len(value))))
        lines = Line("Q(s_t, a_t)", steps, rounded(value)), Line("earned from t on", steps, rounded(earned), black=True)
        panels.append(Panel(one.label, "t, environment steps", "rescaled rewards, discounted", lines))
        q_mean, return_mean = (np.mean(np.concatenate(column)) for column in zip(*values, strict=True))
        falls = sum(len(value) < _task(one).horizon for value, _ in values)
        text.append(f"{one.label}: Q {q_mean:.3g}, earned {return_mean:.3g}, {falls} of {_EPISODES} episodes fall")
    return Picture("values", f"Means over all steps, {'; '.join(text)}.", tuple(panels))


def returns_to_go(reward: np.ndarray, gamma: float) -> np.ndarray:
    """sum_k gamma^k r_{t + k} of an episode's rewards [T]: [T], in their units."""
    following, found = 0.0, np.zeros(len(reward))
    for step in reversed(range(len(reward))):
        found[step] = following = float(reward[step]) + gamma * following
    return found


class _Steps(NamedTuple):
    """An episode: observation [T, O], action [T, A] and reward [T] in the environment's units."""

    observation: np.ndarray
    action: np.ndarray
    reward: np.ndarray


def _task(one: Probed) -> Task:
    if one.parts.task is None:
        raise UserError(f"{one.run}: was trained without an environment, so that there is no episode to follow")
    return one.parts.task


def _values(one: Probed, steps: _Steps) -> tuple[np.ndarray, np.ndarray]:
    """min_j Q_j and the return to go at the steps within the horizon: [T], [T]."""
    scaling, count = one.parts.dataset.scaling, min(len(steps.reward), _task(one).horizon)
    observation = tf.constant(scaling.normalize_observation(steps.observation[:count]))
    action = tf.constant(scaling.from_environment_action(steps.action[:count]))
    earned = returns_to_go(scaling.rescale_reward(steps.reward), one.agent.gamma)[:count]
    return one.agent.critic.minimum(observation, action).numpy(), earned


def _episodes(one: Probed, count: int, further: int = 0) -> list[_Steps]:
    """The first `count` that the run is evaluated by, played on for up to `further` steps beyond the task's horizon."""
    own, facts = _task(one), read_facts(one.run)
    task = dataclasses.replace(own, horizon=own.horizon + further)
    way, rounds = LoadedPolicy(saved_model(one.run)).way(str(facts["action"])), list[Round]()
    Evaluator(lambda: make_environment(task), task.horizon).run(
        way, count, initializer_seed(int(str(facts["seed"])), "evaluation"), watch=rounds.append
    )
    episode = np.concatenate([played.episode for played in rounds])
    columns = [np.concatenate([getattr(played, name) for played in rounds]) for name in _Steps._fields]
    return [_Steps(*(column[episode == number] for column in columns)) for number in range(count)]


def _histograms(found: dict[str, np.ndarray]) -> tuple[Line, ...]:
    """Shares of the values in bins that all runs have in common; what lies beyond the last is in the last."""
    top = max(float(np.percentile(values, _LARGEST)) for values in found.values())
    bottom = min(0.0, *(float(values.min()) for values in found.values()))
    edges = np.linspace(bottom, top, _BINS + 1)
    lines = []
    for label, values in found.items():
        counts = np.histogram(np.minimum(values, top), edges)[0]
        lines.append(Line(label, rounded(edges[:-1]), rounded(counts / len(values)), kind="steps"))
    return tuple(lines)


def _data(probed: Sequence[Probed]) -> str:
    """The data that all runs have learned from. Raises UserError if they are different."""
    hashes = {one.parts.dataset.origin.sha256 for one in probed}
    if len(hashes) > 1:
        raise UserError(f"{probed[-1].run}: learned from other data than {probed[0].run}; give runs on the same data")
    return probed[0].run.parent.parent.name
