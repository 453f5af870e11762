"""Genuine D4RL as an environment of gymnasium: d4rl 1.1, gym 0.23, mujoco_py, MuJoCo 2.1.0.

`scripts/setup_d4rl.sh` installs those packages. Nothing here imports them before an environment is asked for.
"""

import contextlib
import glob
import importlib
import importlib.util
import io
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.extras import import_extra

_SETUP = "run scripts/setup_d4rl.sh"


def make_d4rl_environment(name: str, horizon: int) -> Any:
    """Builds the environment that D4RL registers under `name`, cut off after `horizon` steps (D4RL: its own limit).

    Raises:
      UserError: if the packages are missing or not built, or D4RL does not know the name.
    """
    reason = _missing_part()
    if reason:
        raise UserError(f"genuine D4RL cannot run {name}: {reason}: {_SETUP}")
    try:
        with _import_settings(), _quiet():
            import d4rl  # noqa: F401  (registers its tasks with gym)
            import gym

            # d4rl swallows the ImportError of either; importing them by name raises it again.
            importlib.import_module("d4rl.hand_manipulation_suite")
            importlib.import_module("d4rl.gym_mujoco")
            gym.logger.set_level(gym.logger.ERROR)
            made = gym.make(name)
    except Exception as error:  # mujoco_py raises bare Exception
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"genuine D4RL cannot run {name}: {first_line}: {_SETUP}") from error
    time_limit = import_extra("gymnasium", "mujoco").wrappers.TimeLimit
    from brac_plus_tf.environments.wrappers import OldGymEnvironment, TaskEnvironment  # these import gymnasium

    return TaskEnvironment(time_limit(OldGymEnvironment(made), horizon), "d4rl")


def _missing_part() -> str | None:
    """What keeps `import d4rl` from working, as far as can be told without importing; None if nothing does."""
    for module in ("gym", "d4rl", "mjrl", "mujoco_py"):
        if importlib.util.find_spec(module) is None:
            return f"the package {module} is not installed"
    if not _built_extensions():
        return "mujoco_py's extension has not been compiled for this Python"
    return None


def _built_extensions() -> list[str]:
    """Compiled extensions of mujoco_py for this Python. Without one, importing mujoco_py would try to compile it."""
    spec = importlib.util.find_spec("mujoco_py")
    folders = spec.submodule_search_locations if spec and spec.submodule_search_locations else []
    pattern = f"cymj_*_{sys.version_info.major}{sys.version_info.minor}.so"
    return [path for folder in folders for path in glob.glob(os.path.join(folder, "generated", pattern))]


@contextlib.contextmanager
def _import_settings() -> Iterator[None]:
    """Environment variables that d4rl and mujoco_py read while they are imported; restored afterwards.

    D4RL_DATASET_DIR: d4rl creates ~/.d4rl/datasets unless it names a folder. MUJOCO_PY_FORCE_CPU: pick the extension
    compiled without a GPU. LD_LIBRARY_PATH: free-mujoco-py overwrites it, which would reach every child process.
    """
    settings = {"D4RL_SUPPRESS_IMPORT_ERROR": "1"}
    if "D4RL_DATASET_DIR" not in os.environ:
        settings["D4RL_DATASET_DIR"] = tempfile.gettempdir()
    if any("linuxcpu" in os.path.basename(path) for path in _built_extensions()):
        settings["MUJOCO_PY_FORCE_CPU"] = "1"
    touched = (*settings, "LD_LIBRARY_PATH", "MUJOCO_PY_MUJOCO_PATH")
    before = {key: os.environ.get(key) for key in touched}
    os.environ.update(settings)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides the advertisements and deprecation notes that gym and d4rl print; exceptions still pass."""
    hidden = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stderr(hidden), contextlib.redirect_stdout(hidden):
        warnings.simplefilter("ignore")
        yield
