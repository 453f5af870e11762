"""The tasks a run may name: sizes, action bounds, horizons, reference scores and dataset files.

Three families:
  * D4RL's tasks under D4RL's names (`hopper-medium-v0`). A name's version picks the dataset file only: D4RL runs the
    same environment and uses the same reference scores for -v0, -v1 and -v2;
  * the environments of gymnasium and gymnasium-robotics that those are variants of, under their own ids (`Hopper-v4`),
    as they come;
  * any other environment with flat Box spaces: an id that gymnasium knows, `module:id` or `module:factory`. Its sizes,
    bounds and time limit are its own.

The first two are the table below. Source of every score, horizon and address in it: the package d4rl 1.1 (`infos.py`
and the registration modules).
Reference: Fu et al., "D4RL: Datasets for Deep Data-Driven Reinforcement Learning", 2020.
"""

import dataclasses
import difflib
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import gin
import numpy as np

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.settings import HyperParameters
from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.environments import registry
from brac_plus_tf.environments.termination import D4RL_PEN, HOPPER, WALKER2D, HealthyRange, healthy_range

_DATASETS = "http://rail.eecs.berkeley.edu/datasets/offline_rl"


@gin.register
@dataclasses.dataclass(frozen=True)
class ReferenceScore(HyperParameters):
    """Undiscounted returns that mark 0 (a random policy) and 100 (an expert) of the normalized score."""

    minimum: float
    maximum: float
    source: str = "given"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.minimum) and self.minimum < self.maximum < math.inf):
            raise UserError(f"ReferenceScore: minimum {self.minimum} must be below maximum {self.maximum}, both finite")


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """One environment, and for a D4RL task one dataset file.

    Attributes:
      name: what a user writes.
      environment_id: the gymnasium environment, or the one closest to D4RL's; equals `name` outside D4RL.
      dimensions: entries of one observation and one action.
      action_low, action_high: bounds [A] float32 of an action's entries, in the environment's own units.
      horizon: environment steps after which an episode is cut off (a timeout, not a terminal).
      reference_score: returns that mark 0 and 100, or None if nobody has published any.
      dataset_url: where D4RL publishes the file, or None.
      healthy: the observations at which an episode goes on; None where that cannot be read off an observation or is
        unknown.
    """

    name: str
    environment_id: str
    dimensions: Dimensions
    action_low: np.ndarray
    action_high: np.ndarray
    horizon: int
    reference_score: ReferenceScore | None = None
    dataset_url: str | None = None
    healthy: HealthyRange | None = None

    def facts(self) -> dict[str, object]:
        """What a run's record says of it, JSON-ready: of one from the table as it is the name alone."""
        own = TASKS.get(self.name)
        if own and (own.horizon, own.reference_score) == (self.horizon, self.reference_score):
            return {"task": self.name}
        score = self.reference_score
        reference = (float(score.minimum), float(score.maximum)) if score else None
        return {"task": self.name, "horizon": self.horizon, "reference_score": reference}

    @property
    def label(self) -> str:
        """Its name as that of a directory."""
        return re.sub(r"[^\w.-]", "-", self.name)

    @property
    def is_d4rl(self) -> bool:
        """Whether scores are defined in D4RL's variant of the environment rather than in the plain one."""
        return self.name != self.environment_id

    def normalized_score(self, returns: float | np.ndarray) -> float | np.ndarray:
        """100 (R - minimum) / (maximum - minimum) of undiscounted returns R, element by element."""
        return 100.0 * (returns - self._score().minimum) / self._score_range()

    def normalized_spread(self, standard_deviation: float | np.ndarray) -> float | np.ndarray:
        """A standard deviation of returns in score points: 100 sigma / (maximum - minimum), scaled but not shifted."""
        return 100.0 * standard_deviation / self._score_range()

    def _score(self) -> ReferenceScore:
        if self.reference_score is None:
            raise UserError(f"task {self.name!r} has no reference score: report plain returns instead")
        return self.reference_score

    def _score_range(self) -> float:
        return self._score().maximum - self._score().minimum


class _Robot(NamedTuple):
    """What all tasks of one simulated robot share; horizon in environment steps.

    healthy: where D4RL's episodes go on; None if they never end early.
    """

    environment_id: str
    dimensions: Dimensions
    horizon: int
    reference_score: ReferenceScore
    healthy: HealthyRange | None = None


def _score(minimum: float, maximum: float) -> ReferenceScore:
    return ReferenceScore(minimum, maximum, "d4rl 1.1, infos.py")


_LOCOMOTION = {
    "hopper": _Robot("Hopper-v4", Dimensions(11, 3), 1000, _score(-20.272305, 3234.3), HOPPER),
    "halfcheetah": _Robot("HalfCheetah-v4", Dimensions(17, 6), 1000, _score(-280.178953, 12135.0)),
    "walker2d": _Robot("Walker2d-v4", Dimensions(17, 6), 1000, _score(1.629008, 4592.3), WALKER2D),
}

_HANDS = {
    "pen": _Robot("AdroitHandPen-v1", Dimensions(45, 24), 100, _score(96.262799, 3076.8331017826877), D4RL_PEN),
    "hammer": _Robot("AdroitHandHammer-v1", Dimensions(46, 26), 200, _score(-274.856578, 12794.134825156867)),
    "door": _Robot("AdroitHandDoor-v1", Dimensions(39, 28), 200, _score(-56.512833, 2880.5693087298737)),
    "relocate": _Robot("AdroitHandRelocate-v1", Dimensions(39, 30), 200, _score(-6.425911, 4233.877797728884)),
}

# The behaviour's part of a file name: -v0 writes `medium-replay` as `mixed`.
_LOCOMOTION_FILES_V0 = {
    "random": "random",
    "medium": "medium",
    "medium-expert": "medium_expert",
    "medium-replay": "mixed",
}


def _task(name: str, robot: _Robot, dataset_url: str | None) -> Task:
    return Task(
        name=name,
        environment_id=robot.environment_id,
        dimensions=robot.dimensions,
        action_low=-np.ones(robot.dimensions.action, np.float32),
        action_high=np.ones(robot.dimensions.action, np.float32),
        horizon=robot.horizon,
        reference_score=robot.reference_score,
        dataset_url=dataset_url,
        healthy=robot.healthy or healthy_range(robot.dimensions.observation, {}),
    )


def _locomotion_url(robot: str, behavior: str, version: int) -> str:
    if version > 0:
        return f"{_DATASETS}/gym_mujoco_v{version}/{robot}_{behavior.replace('-', '_')}-v{version}.hdf5"
    if (robot, behavior) == ("walker2d", "medium-replay"):
        robot = "walker"  # the one file of -v0 that D4RL names so
    return f"{_DATASETS}/gym_mujoco/{robot}_{_LOCOMOTION_FILES_V0[behavior]}.hdf5"


def _hand_url(robot: str, version: int) -> str:
    if version > 0:
        return f"{_DATASETS}/hand_dapg_v{version}/{robot}-human-v{version}.hdf5"
    return f"{_DATASETS}/hand_dapg/{robot}-v0_demos_clipped.hdf5"


def _all_tasks() -> dict[str, Task]:
    tasks = [_task(robot.environment_id, robot, None) for robot in _LOCOMOTION.values()]
    # it is D4RL alone that ends an episode of a hand early
    tasks += [_task(robot.environment_id, robot._replace(healthy=None), None) for robot in _HANDS.values()]
    for name, robot in _LOCOMOTION.items():
        for behavior in _LOCOMOTION_FILES_V0:
            for version in (0, 1, 2):
                url = _locomotion_url(name, behavior, version)
                tasks.append(_task(f"{name}-{behavior}-v{version}", robot, url))
    for name, robot in _HANDS.items():
        for version in (0, 1):
            tasks.append(_task(f"{name}-human-v{version}", robot, _hand_url(name, version)))
    return {task.name: task for task in tasks}


TASKS: dict[str, Task] = _all_tasks()

# The tasks of the paper's Tables 1 and 2, in their order.
D4RL_PAPER_TASKS: tuple[str, ...] = (
    *(
        f"{robot}-{behavior}-v0"
        for behavior in ("random", "medium", "medium-expert", "medium-replay")
        for robot in ("halfcheetah", "walker2d", "hopper")
    ),
    *(f"{robot}-human-v0" for robot in ("pen", "hammer", "door", "relocate")),
)


@gin.configurable("Task")
@dataclasses.dataclass(frozen=True)
class _TaskSettings(HyperParameters):
    """What gin says of every task of the process, which has one as a rule; see `find_task`."""

    horizon: int | None = None
    reference_score: ReferenceScore | None = None


def bound_horizon() -> int | None:
    """gin's `Task.horizon`."""
    return _TaskSettings().horizon


def find_task(name: str, horizon: int | None = None, reference_score: ReferenceScore | None = None) -> Task:
    """The task of that name.

    Args:
      horizon, reference_score: instead of the task's own; without them gin's `Task.horizon`, `Task.reference_score`.
    Raises:
      UserError: if there is none, naming the closest ones, or if this package cannot use its environment.
    """
    bound = _TaskSettings()
    horizon, reference_score = horizon or bound.horizon, reference_score or bound.reference_score
    task = TASKS[name] if name in TASKS else _plain_task(name, horizon)
    if horizon is None and reference_score is None:
        return task
    return dataclasses.replace(
        task, horizon=horizon or task.horizon, reference_score=reference_score or task.reference_score
    )


def recorded_task(facts: Mapping[str, Any]) -> Task:
    """The task that `Task.facts` is of."""
    score = facts.get("reference_score")
    return find_task(facts["task"], facts.get("horizon"), ReferenceScore(*score) if score else None)


def _plain_task(name: str, horizon: int | None) -> Task:
    """What gymnasium and the environment itself say of it."""
    try:
        known, names = registry.is_known(name), [*TASKS, *registry.known_names()]
    except UserError:  # without gymnasium there is none but the table's
        known, names = False, list(TASKS)
    if not known:
        folded = {known.lower(): known for known in names}
        close = [folded[match] for match in difflib.get_close_matches(name.lower(), folded, n=3)]
        hint = f"nearest: {', '.join(close)}; " if close else ""
        raise UserError(f"unknown task {name!r}: {hint}any gymnasium id or module:factory works")
    found = registry.describe(name, horizon)
    if not found.horizon:
        raise UserError(f"{name}: has no time limit of its own; give one (Task.horizon, or --horizon)")
    dimensions = Dimensions(found.observation_size, len(found.action_low))
    return Task(name, name, dimensions, found.action_low, found.action_high, found.horizon)
