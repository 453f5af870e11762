"""Episodes of a policy in its environment, several at a time, each with its own seed."""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.progress import Progress
from brac_plus_tf.core.randomness import initializer_seed
from brac_plus_tf.environments.tasks import Task
from brac_plus_tf.policies.acting import ArrayState, WayToAct
from brac_plus_tf.policies.rollouts import THREADS, Round, Simulators

_WIDTH = 100  # environments stepped side by side; beyond this the policy's cost per step no longer falls


@dataclasses.dataclass(frozen=True)
class Episodes:
    """Outcome of P episodes: undiscounted returns [P] in the environment's reward units, lengths [P] in steps."""

    returns: np.ndarray
    lengths: np.ndarray

    def summary(self, task: Task) -> dict[str, float]:
        """Mean and standard deviation of the returns, raw and, where reference scores exist, normalised."""
        mean, deviation = float(self.returns.mean()), float(self.returns.std())
        summary = {"return_mean": mean, "return_std": deviation, "length_mean": float(self.lengths.mean())}
        if task.reference_score is not None:
            summary["score_mean"] = float(task.normalized_score(mean))
            summary["score_std"] = float(task.normalized_spread(deviation))
        return summary


def report(episodes: Episodes, task: Task, backend: str, action: str) -> dict[str, object]:
    """evaluation.json's content: summary, every episode's return, and where it came from."""
    content: dict[str, object] = {
        "task": task.name,
        "backend": backend,
        "action": action,
        "episodes": len(episodes.returns),
        **episodes.summary(task),
        "returns": episodes.returns.tolist(),
        "lengths": episodes.lengths.tolist(),
    }
    if task.reference_score is not None:
        content["scores"] = np.asarray(task.normalized_score(episodes.returns)).tolist()
    return content


def starting_seed(seed: int, episode: int) -> int:
    """What an evaluation of that seed resets the environment of one of its episodes with."""
    return initializer_seed(seed, f"episode {episode}")


class Evaluator:
    """Runs episodes; keeps its environments between calls. Equal seeds give equal episodes."""

    def __init__(self, make: Callable[[], Any], horizon: int) -> None:
        self._simulators, self._horizon = Simulators(make, horizon, THREADS), horizon

    def run(
        self,
        way: WayToAct,
        episodes: int,
        seed: int,
        progress: bool = False,
        gamma: float = 1.0,
        watch: Callable[[Round], object] = lambda played: None,
    ) -> Episodes:
        """Plays episodes 0, 1, .. by one way to act. Returns are discounted by gamma, which as a rule does nothing.

        Episode i starts from a seed derived from (seed, i), and the draw of its step number t is from a seed of
        (seed, i, t): neither their number nor which simulator plays it matters, but for rounding.

        Args:
          watch: is shown each round of steps.
        Raises:
          UserError: if rewards are not finite.
        """
        first = initializer_seed(seed, "actions")

        def act(
            observation: np.ndarray, state: ArrayState, episode: np.ndarray, step: np.ndarray
        ) -> tuple[np.ndarray, ArrayState]:
            return way.act(observation, state, (first + episode * self._horizon + step) % 2**31)

        returns, lengths = np.zeros(episodes), np.zeros(episodes, np.int64)
        seeds = [starting_seed(seed, episode) for episode in range(episodes)]
        shown = Progress("evaluation", episodes, "episodes") if progress else contextlib.nullcontext()
        with shown as bar:
            for played in self._simulators.play(act, way.initial_state, seeds, _WIDTH, steady=True):
                watch(played)
                returns[played.episode] += gamma ** lengths[played.episode] * played.reward
                lengths[played.episode] += 1
                if bar is not None and (ended := int(np.sum(played.terminal | played.timeout))):
                    bar.advance(ended)
        if not np.isfinite(returns).all():
            raise UserError("evaluation: the environment returned rewards that are not finite")
        return Episodes(returns, lengths)
