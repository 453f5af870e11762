"""Prints how closely the package's environments repeat recorded steps of genuine D4RL, as a Markdown table.

usage: python scripts/equivalence_table.py [--references=DIR]

A reference is DIR/<task>.npz with 1000 steps of genuine D4RL under random actions: the state before each step (s_*),
the action a, the observation o and reward r after it, and the flags d (episode over) and trunc (by the time limit).
Every state is set, its action applied for one environment step, and the outcome compared. Three kinds of rows:
  gymnasium  what `make_environment(task, 'gymnasium')` gives: D4RL's equivalent on maintained packages;
  plain      the maintained environment unchanged, to show what the differences amount to;
  d4rl       genuine D4RL, where it is installed.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import app, flags

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.environments.environment import Environment, make_environment
from brac_plus_tf.environments.tasks import Task, find_task

_REFERENCES = flags.DEFINE_string(
    "references",
    str(Path(__file__).resolve().parents[1].parent / "shared" / "d4rl_reference"),
    "Folder with the recorded steps, one <task>.npz each.",
)

# What a hand environment needs besides joint positions and velocities to be put into a recorded state.
_SCENE_FIELDS = {
    "door": ("door_body_pos",),
    "hammer": ("board_pos",),
    "pen": ("desired_orien",),
    "relocate": ("obj_pos", "target_pos"),
}


class Reference(NamedTuple):
    """Recorded steps: N states, actions [N, A], and the observations [N, O], rewards [N], terminals [N] after them."""

    task: Task
    states: list[dict[str, np.ndarray]]
    actions: np.ndarray
    observations: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray


class Errors(NamedTuple):
    """Per step: largest absolute error [N] in the observation (its own units), in the reward, and flags that differ."""

    observation: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray


def is_hand(task: Task) -> bool:
    return task.environment_id.startswith("AdroitHand")


def bound(task: Task) -> float:
    """Largest absolute error that counts as the same step, in units of observation and reward."""
    return 1e-6 if is_hand(task) else 1e-5


def load_reference(path: Path) -> Reference:
    """Reads the steps recorded in <task>.npz.

    In relocate the ball can slide against its body frame. D4RL's `get_env_state` records where the ball is, but its
    `set_env_state` places the frame there and then adds the slide (part of qpos) once more: even genuine D4RL does
    not repeat its own steps from such a state. The frame does not move during an episode, and at its start the slide
    is zero, so the episode's first recorded position is that of the frame.
    """
    task = find_task(path.stem)
    with np.load(path, allow_pickle=False) as data:
        recorded = {key: data[key] for key in data.files}
    fields = ("qpos", "qvel", *_SCENE_FIELDS.get(task.name.split("-")[0], ()))
    states = {field: recorded[f"s_{field}"] for field in fields}
    if "obj_pos" in states:
        episodes = recorded["ep"]
        states["obj_pos"] = states["obj_pos"][np.searchsorted(episodes, episodes)]
    count = len(recorded["a"])
    return Reference(
        task=task,
        states=[{field: values[row] for field, values in states.items()} for row in range(count)],
        actions=recorded["a"],
        observations=recorded["o"],
        rewards=recorded["r"],
        terminated=recorded["d"] & ~recorded["trunc"],
    )


def one_step_errors(environment: Environment, reference: Reference) -> Errors:
    """Sets every recorded state, applies its action once, and compares with what genuine D4RL recorded."""
    environment.reset(seed=0)
    simulation = environment.unwrapped
    outcomes = []
    for state, action in zip(reference.states, reference.actions, strict=True):
        if is_hand(reference.task):
            simulation.set_env_state(state)
        else:
            simulation.set_state(state["qpos"], state["qvel"])
        outcomes.append(environment.step(action)[:3])
    observations, rewards, terminated = map(np.asarray, zip(*outcomes, strict=True))
    return Errors(
        observation=np.abs(observations - reference.observations).max(axis=-1),
        reward=np.abs(rewards - reference.rewards),
        terminated=terminated != reference.terminated,
    )


def table_row(kind: str, reference: Reference, errors: Errors) -> str:
    """One line of the Markdown table."""
    limit = bound(reference.task)
    share = np.mean((errors.observation <= limit) & (errors.reward <= limit))
    cells = (
        f"{reference.task.name.split('-')[0]}",
        kind,
        f"{len(errors.reward)}",
        f"{100 * share:.1f} % within {limit:.0e}",
        f"{np.median(errors.observation):.1e}",
        f"{errors.observation.max():.1e}",
        f"{np.median(errors.reward):.1e}",
        f"{errors.reward.max():.1e}",
        f"{errors.terminated.sum()}",
    )
    return f"| {' | '.join(cells)} |"


def main(arguments: Sequence[str]) -> None:
    if len(arguments) > 1:
        raise app.UsageError(f"unexpected argument {arguments[1]!r}")
    paths = sorted(Path(_REFERENCES.value).glob("*.npz"))
    if not paths:
        raise SystemExit(f"no <task>.npz in {_REFERENCES.value}: name their folder with --references=DIR")
    print(
        "| environment | kind | steps | same step | observation: median error | max | reward: median error | max "
        "| terminals differ |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for path in paths:
        reference = load_reference(path)
        plain = find_task(reference.task.environment_id)
        for kind, task, backend in (
            ("gymnasium", reference.task, "gymnasium"),
            ("plain", plain, "gymnasium"),
            ("d4rl", reference.task, "d4rl"),
        ):
            try:
                environment = make_environment(task, backend)
            except UserError as error:
                print(f"| {reference.task.name.split('-')[0]} | {kind} | not run: {error} | | | | | | |")
                continue
            print(table_row(kind, reference, one_step_errors(environment, reference)), flush=True)
            environment.close()


if __name__ == "__main__":
    app.run(main)
