"""Whether an export answers as the policy does that it was made of: in its own runtime, on rows of the data."""

import functools
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.randomness import initializer_seed
from brac_plus_tf.exports import client
from brac_plus_tf.policies.saved_policy import LoadedPolicy

Inputs = Mapping[str, client.Arrays]  # way to act -> what it is given, as `client.play` takes it

LIMIT = 1e-5  # of a difference, in halves of the action's range
_STEPS, _EPISODES = 3, 50  # that a policy with a state is played for; it may be a planner, and slow
_UNSURE = 2.0**-20  # relative change of an observation, some eight times what float32 rounds away
_CHANGES = 64  # of the observation, that a row gets on which the two differ


class Parity(NamedTuple):
    """rows: that were compared. undecided: of these, such as differ, but where one of the two gives the other's answer
    once the observation is rounded otherwise: two candidates are equally good there. They do not count. difference: the
    largest, in halves of the action's range.
    """

    rows: int
    undecided: int
    difference: float


class Reference:
    """What the policy answers to rows, by the signatures of its SavedModel in this process."""

    def __init__(self, policy: LoadedPolicy, observation: np.ndarray) -> None:
        """Args: observation: [N, O], raw."""
        self._half_range = policy.scaling.action_half_range
        generator = np.random.default_rng(initializer_seed(0, "noise of a comparison"))
        self._plays, self._inputs, self._answers = {}, dict[str, client.Arrays](), {}
        for name, signature in policy.deterministic().items():
            self._plays[name] = functools.partial(client.play, client.tensorflow_answer(signature))
            self._inputs[name] = _inputs(policy, name, signature, observation, generator)
            self._answers[name] = self._plays[name](self._inputs[name])["action"]

    def _differences(self, actions: np.ndarray, others: np.ndarray) -> np.ndarray:
        """[T, N, A] -> [N], the largest of each row."""
        return np.asarray(np.max(np.abs(actions.astype(np.float64) - others) / self._half_range, axis=(0, 2)))

    def compare(self, runtime: str, directory: Path) -> dict[str, Parity]:
        """Plays an export in a process of its own that knows nothing of this package, and compares.

        Raises:
          UserError: if the export cannot be loaded there, or answers otherwise by more than `LIMIT`.
        """
        answers = _answers(runtime, directory, self._inputs)
        parities = {}
        for name in self._inputs:
            parity = self._parity(name, answers[name], lambda given: _answers(runtime, directory, given))
            if not parity.difference <= LIMIT:
                raise UserError(
                    f"{runtime}: the way to act {name!r} answers otherwise than the policy, by {parity.difference:.2g} "
                    f"of half the action's range where {LIMIT:g} is allowed"
                )
            parities[name] = parity
        return parities

    def _parity(self, name: str, action: np.ndarray, again: Callable[[Inputs], client.Arrays]) -> Parity:
        """Of answers [T, N, A] to its inputs, by what answers others."""
        differences = self._differences(self._answers[name], action)
        differing = np.flatnonzero(~(differences <= LIMIT))
        undecided = np.array([], np.int64)
        if 0 < len(differing) <= 0.5 * len(differences):  # beyond that it is another policy
            undecided = differing[self._undecided(name, differing, action[:, differing], again)]
            differences[undecided] = 0.0
        return Parity(len(differences), len(undecided), float(differences.max()))

    def _undecided(
        self, name: str, rows: np.ndarray, action: np.ndarray, again: Callable[[Inputs], client.Arrays]
    ) -> np.ndarray:
        """Whether one of the two answers as the other does, at one of several observations next to a row's: [n]."""
        generator = np.random.default_rng(initializer_seed(0, "observations rounded otherwise"))
        many = np.repeat(rows, _CHANGES)
        # steps come first of what is observed, and episodes of all else
        near = {
            key: np.take(values, many, axis=int(key == "observation")) for key, values in self._inputs[name].items()
        }
        change = 1.0 + _UNSURE * generator.choice([-1.0, 0.0, 1.0], size=near["observation"].shape)
        near["observation"] = (near["observation"] * change).astype(np.float32)
        policy, export = self._plays[name](near)["action"], again({name: near})[name]
        as_export = self._differences(policy, np.repeat(action, _CHANGES, axis=1))
        as_policy = self._differences(export, self._answers[name][:, many])
        return np.asarray((np.minimum(as_export, as_policy) <= LIMIT).reshape(len(rows), _CHANGES).any(axis=1))


def _answers(runtime: str, directory: Path, inputs: Inputs) -> client.Arrays:
    """Actions [T, N, A] of an export's ways to act. Raises UserError if it cannot be used in its own runtime."""
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder) / "given.npz", Path(folder) / "found.npz"
        arrays = {f"{way}/{name}": values for way, own in inputs.items() for name, values in own.items()}
        np.savez(given, **arrays)  # type: ignore[arg-type]
        command = [sys.executable, "-I", str(client.__file__), runtime, str(directory), str(given), str(found)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            said = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
            raise UserError(f"{runtime}: the export cannot be used by its own runtime ({said[-1][:300]})")
        answers = np.load(found)
        return {way: answers[f"{way}/action"] for way in inputs}


def _inputs(
    policy: LoadedPolicy, name: str, signature: Any, observation: np.ndarray, generator: np.random.Generator
) -> dict[str, np.ndarray]:
    specs, steps = signature.structured_input_signature[1], 1
    if "state_0" in specs:
        observation, steps = observation[:_EPISODES], _STEPS
    rows = [np.roll(observation, step, axis=0) for step in range(steps)]
    inputs = {"observation": np.stack(rows), **policy.initial_state(name, len(observation))}
    if "noise" in specs:
        inputs["noise"] = generator.normal(size=(len(observation), specs["noise"].shape[1])).astype(np.float32)
    return inputs
