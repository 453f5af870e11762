"""Whether an export answers as the policy does that it was made of: in its own runtime, on rows of the data."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.randomness import initializer_seed
from brac_plus_tf.exports import client
from brac_plus_tf.policies.saved_policy import LoadedPolicy

LIMIT = 1e-5  # of a difference, in halves of the action's range
_STEPS, _EPISODES = 3, 50  # that a policy with a state is played for; it may be a planner, and slow
_UNSURE = 2.0**-20  # relative change of an observation, some eight times what float32 rounds away


class Parity(NamedTuple):
    """rows: that were compared. undecided: of these, such as the policy itself answers otherwise once an observation is
    rounded otherwise, where two candidates are equally good; they do not count. difference: the largest, in halves of
    the action's range.
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
        self._inputs, self._answers, self._sure = {}, {}, {}
        for name, signature in policy.deterministic().items():
            answer = client.tensorflow_answer(signature)
            inputs = _inputs(policy, name, signature, observation, generator)
            own = client.play(answer, inputs)["action"]
            self._inputs[name], self._answers[name] = inputs, own
            self._sure[name] = np.full(len(inputs["observation"][0]), True)
            for pair in _nearby(inputs["observation"], generator):
                one, other = (client.play(answer, inputs | {"observation": near})["action"] for near in pair)
                # what is smooth moves by as much to both sides, however steep it is; a jump of either size does not
                bent = self._differences(0.5 * one.astype(np.float64) + 0.5 * other, own) <= 0.25 * LIMIT
                self._sure[name] &= bent & (self._differences(one, own) <= 10.0 * LIMIT)

    def _differences(self, actions: np.ndarray, others: np.ndarray) -> np.ndarray:
        """[T, N, A] -> [N], the largest of each row."""
        return np.asarray(np.max(np.abs(actions.astype(np.float64) - others) / self._half_range, axis=(0, 2)))

    def compare(self, runtime: str, directory: Path) -> dict[str, Parity]:
        """Plays an export in a process of its own that knows nothing of this package, and compares.

        Raises:
          UserError: if the export cannot be loaded there, or answers otherwise by more than `LIMIT`.
        """
        with tempfile.TemporaryDirectory() as folder:
            given, found = Path(folder) / "given.npz", Path(folder) / "found.npz"
            arrays = {f"{way}/{name}": values for way, own in self._inputs.items() for name, values in own.items()}
            np.savez(given, **arrays)  # type: ignore[arg-type]
            command = [sys.executable, "-I", str(client.__file__), runtime, str(directory), str(given), str(found)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                said = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
                raise UserError(f"{runtime}: the export cannot be used by its own runtime ({said[-1][:300]})")
            answers = dict(np.load(found))
        parities = {name: self._parity(name, answers[f"{name}/action"]) for name in self._inputs}
        for name, parity in parities.items():
            if not parity.difference <= LIMIT:
                raise UserError(
                    f"{runtime}: the way to act {name!r} answers otherwise than the policy, by {parity.difference:.2g} "
                    f"of half the action's range where {LIMIT:g} is allowed"
                )
        return parities

    def _parity(self, name: str, action: np.ndarray) -> Parity:
        sure, own = self._sure[name], self._answers[name]
        if sure.mean() < 0.5:
            raise UserError(
                f"the way to act {name!r} cannot be compared: {(~sure).sum()} of {len(sure)} rows undecided"
            )
        differences = self._differences(own, action)[sure]
        return Parity(len(sure), int((~sure).sum()), float(differences.max(initial=0.0)))


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


def _nearby(observation: np.ndarray, generator: np.random.Generator) -> Iterator[list[np.ndarray]]:
    """Twice both ways: where two candidates are as good as equal, one of the two ways changes which is the better."""
    for _ in range(2):
        change = _UNSURE * generator.choice([-1.0, 1.0], size=observation.shape)
        yield [(observation * (1.0 + sign * change)).astype(np.float32) for sign in (1.0, -1.0)]
