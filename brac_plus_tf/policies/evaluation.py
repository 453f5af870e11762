"""Episodes of a policy in its environment, several at a time, each with its own seed."""

import contextlib
import dataclasses
import itertools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.progress import Progress
from brac_plus_tf.core.randomness import initializer_seed
from brac_plus_tf.environments.tasks import Task

_THREADS = min(2, os.cpu_count() or 1)  # MuJoCo lets other threads run while it computes, which is half of a step
Act = Callable[[np.ndarray, int], np.ndarray]
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


class Evaluator:
    """Runs episodes; keeps its environments between calls. Equal seeds give equal episodes."""

    def __init__(self, make: Callable[[], Any], horizon: int) -> None:
        self._make, self._horizon = make, horizon
        self._environments: list[Any] = []

    def run(self, act: Act, episodes: int, seed: int, progress: bool = False) -> Episodes:
        """Args: act: (observations [N, O], step counter) -> actions [N, A] in the environment's own range.

        Episode i starts from a seed derived from (seed, i), whatever their number.
        """
        width = min(episodes, _WIDTH)
        while len(self._environments) < width:
            self._environments.append(self._make())
        returns, lengths = np.zeros(episodes), np.zeros(episodes, np.int64)
        waiting: Iterator[int] = iter(range(episodes))
        running = [next(waiting) for _ in range(width)]
        observations = np.stack([self._reset(slot, seed, episode) for slot, episode in enumerate(running)])
        active, counter = list(range(width)), 0

        def step(slots: list[int]) -> list[tuple[int, Any]]:
            return [(slot, self._environments[slot].step(actions[slot])) for slot in slots]

        shown = Progress("evaluation", episodes, "episodes") if progress else contextlib.nullcontext()
        with shown as bar, ThreadPoolExecutor(_THREADS) as threads:
            while active:
                # always the full width: a changing batch would be compiled anew
                actions = act(observations.astype(np.float32), counter)
                counter += 1
                shares = [active[first::_THREADS] for first in range(_THREADS)]
                outcomes = dict(itertools.chain.from_iterable(threads.map(step, shares)))
                for slot in tuple(active):
                    episode = running[slot]
                    observation, reward, terminated, truncated, _ = outcomes[slot]
                    observations[slot] = observation
                    returns[episode] += reward
                    lengths[episode] += 1
                    if terminated or truncated or lengths[episode] >= self._horizon:
                        if bar is not None:
                            bar.advance()
                        following = next(waiting, None)
                        if following is None:
                            active.remove(slot)
                            observations[slot] = 0.0  # whatever the episode ended in, no policy should see it again
                        else:
                            running[slot] = following
                            observations[slot] = self._reset(slot, seed, following)
        if not np.isfinite(returns).all():
            raise UserError("evaluation: the environment returned rewards that are not finite")
        return Episodes(returns, lengths)

    def _reset(self, slot: int, seed: int, episode: int) -> np.ndarray:
        observation, _ = self._environments[slot].reset(seed=initializer_seed(seed, f"episode {episode}"))
        return np.asarray(observation, np.float64)
