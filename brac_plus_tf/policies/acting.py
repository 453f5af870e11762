"""Ways to act as policies offer them to Python: on arrays, in the environment's units, with their state."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.types import Dimensions

ArrayState = tuple[np.ndarray, ...]  # a policy's state, its tensors in order, each with leading axis N


@dataclasses.dataclass(frozen=True)
class WayToAct:
    """One of a policy's ways to act, on arrays, in N episodes side by side.

    act: (observation [N, O] in raw units, state, seed [N] or one for all rows) -> (action [N, A] in the environment's
      own range, next state). Policies whose action is no draw do not look at the seed.
    initial_state: N -> the state in which N episodes begin; `()` for a policy that remembers nothing.
    """

    act: Callable[[np.ndarray, ArrayState, int | np.ndarray], tuple[np.ndarray, ArrayState]]
    initial_state: Callable[[int], ArrayState] = lambda count: ()


def way_to_act(function: Any, initial_state: Any) -> WayToAct:
    """A signature and the one that gives its initial state (None where there is none), on arrays."""
    inputs = function.structured_input_signature[1]
    names = [f"state_{index}" for index in range(sum(name.startswith("state_") for name in inputs))]

    def act(observation: np.ndarray, state: ArrayState, seed: int | np.ndarray) -> tuple[np.ndarray, ArrayState]:
        arguments = {"observation": tf.constant(observation, tf.float32)}
        if "seed" in inputs:
            arguments["seed"] = tf.constant(seed, tf.int32)
        for name, leaf in zip(names, state, strict=True):
            arguments[name] = tf.constant(leaf, inputs[name].dtype)
        outputs = function(**arguments)
        return outputs["action"].numpy(), tuple(outputs[name].numpy() for name in names)

    def initial(count: int) -> ArrayState:
        if initial_state is None:
            return ()
        outputs = initial_state(count=tf.constant(count, tf.int32))
        return tuple(outputs[name].numpy() for name in names)

    return WayToAct(act, initial)


class Acting:
    """What a policy offers to Python, wherever it came from; `actions`: its ways to act, the first the default."""

    dimensions: Dimensions

    @property
    def actions(self) -> list[str]:
        raise NotImplementedError

    def way(self, name: str) -> WayToAct:
        """The way to act of that name, on arrays, with its state. Raises UserError if the policy has none."""
        raise NotImplementedError

    def act(self, observation: npt.ArrayLike, action: str | None = None, seed: npt.ArrayLike = 0) -> np.ndarray:
        """One observation [O] -> action [A], or [N, O] -> [N, A]; raw units in, the environment's own range out.

        Args:
          action: which way to act. seed: of ways that draw; equal seeds give equal draws, so that rows which are to be
            drawn independently need one each [N].
        Raises:
          UserError: for observations of another size, no such way, or one with a state, which `way` gives access to.
        """
        given = np.asarray(observation, np.float32)
        size = self.dimensions.observation
        if given.ndim not in (1, 2) or given.shape[-1] != size:
            raise UserError(f"observation of shape {given.shape}: it must be [{size}], or [N, {size}] for several")
        way = self.way(action or self.actions[0])
        if way.initial_state(1):
            raise UserError("this way to act remembers its episode: use way(name), whose act is given the state")
        actions, _ = way.act(np.atleast_2d(given), (), np.asarray(seed))
        return actions if given.ndim == 2 else actions[0]

    __call__ = act

    def __repr__(self) -> str:
        observation, action = self.dimensions
        return f"{type(self).__name__}({observation} -> {action}, {', '.join(self.actions)})"
