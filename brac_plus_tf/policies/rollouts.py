"""The loop that steps simulators: several side by side, each through one episode after the other."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import numpy as np

from brac_plus_tf.policies.acting import ArrayState

# MuJoCo lets other threads run while it computes, which is half of a step. Measured on two cores that had other work,
# with 100 Hoppers in one run, gymnasium's SyncVectorEnv took 0.96 times as many steps a second as two threads do here,
# AsyncVectorEnv with its process for each environment 0.64 times.
THREADS = min(2, os.cpu_count() or 1)


class Act(Protocol):
    """What plays: a policy, or a mixture of one and noise."""

    def __call__(
        self, observation: np.ndarray, state: ArrayState, episode: np.ndarray, step: np.ndarray
    ) -> tuple[np.ndarray, ArrayState]:
        """Actions [W, A] in the environment's range at observations [W, O] float32, and the policy's next state.

        episode, step [W]: which episode a row belongs to, and how many steps it has taken.
        """


class Round(NamedTuple):
    """One step of each of W episodes, in the environment's units.

    episode [W]: its number. observation, next_observation [W, O] float64, action [W, A], reward [W] float64.
    terminal, timeout [W] bool: the step ended the task, or only the episode; never both.
    """

    episode: np.ndarray
    observation: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    terminal: np.ndarray
    timeout: np.ndarray
    next_observation: np.ndarray


class Simulators:
    """Environments, made when they are first needed and kept, and the episodes that are played in them."""

    def __init__(self, make: Callable[[], Any], horizon: int, threads: int = 1) -> None:
        """Args: horizon: steps after which an episode is cut off, whether or not its environment does that itself."""
        self._make, self._horizon, self._threads = make, horizon, threads
        self._environments: list[Any] = []

    def play(
        self, act: Act, initial_state: Callable[[int], ArrayState], seeds: Sequence[int], width: int, steady: bool
    ) -> Iterator[Round]:
        """Plays one episode from each seed, at most `width` at a time, and yields each round of steps.

        Where an episode has ended the next one begins, with a policy's state of its own.

        Args:
          steady: `act` sees every simulator to the end, those with nothing left to play at an observation of zeros;
            otherwise only those that play. The number of rows shows in the rounding of a matrix product, so this is
            part of what makes results equal.
        """
        width = min(width, len(seeds))
        while len(self._environments) < width:
            self._environments.append(self._make())
        places = _Places(self._environments[:width], initial_state(width), seeds)
        with ThreadPoolExecutor(self._threads) as threads:
            while len(places.playing):
                rows = np.arange(width) if steady else places.playing
                actions = places.act(act, rows)
                played = self._step(places, actions[places.playing] if steady else actions, threads)
                yield played
                places.go_on(played)

    def _step(self, places: "_Places", actions: np.ndarray, threads: ThreadPoolExecutor) -> Round:
        """One step, with actions [W, A] for the places that play."""
        playing, environments = places.playing, self._environments

        def step(share: int) -> list[tuple[Any, ...]]:
            return [environments[playing[row]].step(actions[row]) for row in range(share, len(playing), self._threads)]

        outcomes: list[Any] = [None] * len(playing)
        for share, done in enumerate(threads.map(step, range(self._threads)) if self._threads > 1 else [step(0)]):
            outcomes[share :: self._threads] = done
        observation, reward, terminated, truncated, _ = zip(*outcomes, strict=True)
        terminal = np.array(terminated, bool)
        return Round(
            episode=places.episode[playing],
            observation=places.observation[playing],
            action=actions,
            reward=np.array(reward, np.float64),
            terminal=terminal,
            timeout=~terminal & (np.array(truncated, bool) | (places.step[playing] + 1 >= self._horizon)),
            next_observation=np.array(observation, np.float64),
        )


class _Places:
    """Which episode each simulator plays, and how far that is."""

    def __init__(self, environments: Sequence[Any], initial_state: ArrayState, seeds: Sequence[int]) -> None:
        self._environments, self._initial_state, self._seeds = environments, initial_state, seeds
        self.playing = np.arange(len(environments))  # the simulators that have an episode to play, ascending
        self._waiting = iter(range(len(environments), len(seeds)))
        self.episode, self.step = self.playing.copy(), np.zeros(len(environments), np.int64)
        self.observation = np.stack([self._reset(place) for place in range(len(environments))])
        self._state = tuple(np.array(leaf) for leaf in initial_state)

    def act(self, act: Act, rows: np.ndarray) -> np.ndarray:
        """Actions for these simulators; their policy's state moves on."""
        observation, state = self.observation[rows].astype(np.float32), tuple(leaf[rows] for leaf in self._state)
        actions, state = act(observation, state, self.episode[rows], self.step[rows])
        for leaf, following in zip(self._state, state, strict=True):
            leaf[rows] = following
        return actions

    def go_on(self, played: Round) -> None:
        """Takes over what the round led to; the next episodes begin where one has ended."""
        self.observation[self.playing] = played.next_observation
        self.step[self.playing] += 1
        over = []
        for place in self.playing[played.terminal | played.timeout].tolist():
            following = next(self._waiting, None)
            self.step[place] = 0
            for leaf, initial in zip(self._state, self._initial_state, strict=True):
                leaf[place] = initial[place]
            if following is None:
                over.append(place)
                self.observation[place] = 0.0  # whatever the episode ended in, no policy should see it again
            else:
                self.episode[place] = following
                self.observation[place] = self._reset(place)
        self.playing = np.setdiff1d(self.playing, over)

    def _reset(self, place: int) -> np.ndarray:
        observation, _ = self._environments[place].reset(seed=self._seeds[self.episode[place]])
        return np.asarray(observation, np.float64)
