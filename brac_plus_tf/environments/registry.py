"""gymnasium's environments by name: a registered id, `module:id` or `module:factory`; nothing of D4RL's differences.

gymnasium and MuJoCo are imported when an environment is asked for: a run on recorded data alone needs neither.
"""

import contextlib
import importlib
import os
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.extras import import_extra

HANDS = "AdroitHand"  # what the ids of gymnasium-robotics that tasks are made of begin with


def is_known(name: str) -> bool:
    """Whether gymnasium has an environment registered under that id, or the name is one of `module:something`."""
    return ":" in name or name.startswith(HANDS) or name in _gymnasium().registry


def known_names() -> list[str]:
    """All ids that gymnasium knows by now."""
    return list(_gymnasium().registry)


def make(name: str, horizon: int | None, render_mode: str | None = None) -> Any:
    """The environment of that name, cut off after `horizon` steps; None: where its own specification says.

    Raises:
      UserError: if it cannot be made, with its own reason.
    """
    gymnasium, factory = _gymnasium(), _factory(name)
    try:
        with without_renderer(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # gymnasium urges to use -v5, whose rewards and physics are others
            if factory is None:
                drawn = {} if render_mode is None else {"render_mode": render_mode}
                return gymnasium.make(name, max_episode_steps=horizon, disable_env_checker=True, **drawn)
            environment = factory()
            if not isinstance(environment, gymnasium.Env):
                raise UserError(f"{name}: gives {type(environment).__name__}, which is no gymnasium.Env")
            if render_mode not in (None, environment.render_mode):
                raise UserError(
                    f"{name}: gives an environment whose render_mode is {environment.render_mode!r}; it has "
                    f"to make one of {render_mode!r}"
                )
            return environment if horizon is None else gymnasium.wrappers.TimeLimit(environment, horizon)
    except UserError:
        raise
    except Exception as error:  # whatever somebody's environment raises
        raise UserError(f"{name}: the environment cannot be made ({type(error).__name__}: {error})") from error


class Description(NamedTuple):
    """What an environment says of itself: entries of an observation, bounds [A] of an action, time limit if any."""

    observation_size: int
    action_low: np.ndarray
    action_high: np.ndarray
    horizon: int | None


def describe(name: str, horizon: int | None) -> Description:
    """Makes the environment and asks it; `horizon` goes before its own limit.

    Raises:
      UserError: if it cannot be made, or has other spaces than flat boxes, the actions' bounded on all sides.
    """
    environment = make(name, horizon)
    observation, action, own = environment.observation_space, environment.action_space, environment.spec
    environment.close()
    for what, space in {"observation": observation, "action": action}.items():
        if not (isinstance(space, _gymnasium().spaces.Box) and len(space.shape) == 1 and space.shape[0]):
            raise UserError(f"{name}: its {what} space is {space}; only flat Box spaces (rows of numbers) can be used")
    if action.dtype.kind != "f":
        raise UserError(f"{name}: its actions are of {action.dtype}; only floating-point numbers can be used")
    if not (np.isfinite([action.low, action.high]).all() and (action.low < action.high).all()):
        raise UserError(
            f"{name}: its action space is {action}; bounds must be finite, the low ones below the high ones"
        )
    low = _rounded(action.low, np.less, np.inf)
    high = _rounded(action.high, np.greater, -np.inf)
    return Description(observation.shape[0], low, high, horizon or (own.max_episode_steps if own else None))


def _rounded(bound: np.ndarray, beyond: np.ufunc, inside: float) -> np.ndarray:
    """float32 of a bound that may be float64, never outside of it."""
    rounded = bound.astype(np.float32)
    return np.where(beyond(rounded, bound), np.nextafter(rounded, np.float32(inside)), rounded)


def specification(name: str) -> Any:
    """gymnasium's EnvSpec of that name; builds nothing."""
    gymnasium = _gymnasium()
    if _factory(name) is not None:
        return gymnasium.envs.registration.EnvSpec(id=name, entry_point=name)
    return gymnasium.registry[name.rpartition(":")[2]]


def _gymnasium() -> Any:
    return import_extra("gymnasium", "mujoco")


def _factory(name: str) -> Any:
    """What a name `module:factory` calls; None for ids, whose modules are imported so that gymnasium knows them.

    Raises:
      UserError: if there is no such module, or nothing of that name in it.
    """
    if name.startswith(HANDS):
        with without_renderer():
            _gymnasium().register_envs(import_extra("gymnasium_robotics", "adroit"))
    module, colon, entry = name.partition(":")
    if not colon:
        return None
    try:
        with without_renderer():
            found = getattr(importlib.import_module(module), entry, None)
    except (ImportError, ValueError) as error:
        raise UserError(f"{name}: the module {module!r} cannot be imported ({error})") from error
    if entry in _gymnasium().registry:
        return None
    if not callable(found):
        raise UserError(f"{name}: the module {module!r} has no environment and no function {entry!r}")
    return found


@contextlib.contextmanager
def without_renderer() -> Iterator[None]:
    """Keeps MuJoCo, where it is imported within, from loading a renderer: nothing here draws.

    MuJoCo loads the one that MUJOCO_GL names while it is imported, fails there if it knows no such name, and aborts the
    process at its end if the name is egl and there is no GPU. Who wants pictures imports it before.
    """
    before = os.environ.get("MUJOCO_GL")
    os.environ["MUJOCO_GL"] = "disabled"
    try:
        yield
    finally:
        if before is None:
            del os.environ["MUJOCO_GL"]
        else:
            os.environ["MUJOCO_GL"] = before
