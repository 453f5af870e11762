"""What is done with a finished run: its policy is found, and evaluated anew."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.randomness import initializer_seed
from brac_plus_tf.environments.environment import Environment, make_environment
from brac_plus_tf.environments.filming import Played
from brac_plus_tf.environments.tasks import Task, recorded_task
from brac_plus_tf.policies.evaluation import Evaluator, report, starting_seed
from brac_plus_tf.policies.saved_policy import LoadedPolicy
from brac_plus_tf.runs.facts import read_facts


class Evaluation(NamedTuple):
    """content: what evaluation.json holds of it, and the seed. first: the first of its episodes."""

    content: dict[str, object]
    task: Task
    first: Played


def evaluate(
    run_dir: Path, task: Task | None, episodes: int, action: str | None, seed: int | None, backend: str
) -> Evaluation:
    """Runs `episodes` episodes of the exported policy.

    Args:
      task, action, seed: None for the run's own. Episodes start as in the evaluations of a run with that seed, so that
        with the run's own the last policy earns what the run's evaluation.json says.
    Raises:
      UserError: if the run has no exported policy or none that fits the task, or was trained without an environment.
    """
    task, action, seed = _asked(run_dir, task, action, seed)
    policy = LoadedPolicy(saved_model(run_dir))
    way = policy.way(action)
    policy.check_fits(task)
    made: list[Environment] = []

    def make() -> Environment:
        made.append(make_environment(task, backend))
        return made[-1]

    first: list[np.ndarray] = []
    starts = initializer_seed(seed, "evaluation")
    outcome = Evaluator(make, task.horizon).run(
        way,
        episodes,
        starts,
        progress=True,
        watch=lambda played: first.extend(played.action[played.episode == 0]),
    )
    played = Played(starting_seed(starts, 0), np.array(first), float(outcome.returns[0]))
    return Evaluation({**report(outcome, task, made[0].backend, action), "seed": seed}, task, played)


def _asked(run_dir: Path, task: Task | None, action: str | None, seed: int | None) -> tuple[Task, str, int]:
    """What is to be evaluated; the run's own where nothing else is said."""
    facts: dict[str, Any] = read_facts(run_dir)
    try:
        task = task or recorded_task(facts["environment"])
        action = action or str(facts["action"])
        return task, action, int(facts["seed"]) if seed is None else seed
    except (LookupError, TypeError, ValueError, AttributeError) as error:  # whatever was written into run.json
        what = "was trained without an environment; name one with --env"
        if facts.get("environment"):
            what = f"run.json does not say how it was evaluated ({error}); give --env, --action and --seed"
        raise UserError(f"{run_dir}: {what}") from error


def saved_model(run_dir: Path) -> Path:
    """The policy that a run has exported. Raises UserError if it has none yet."""
    if not (run_dir / "saved_model").exists():
        raise UserError(f"{run_dir}: no saved_model yet, the run is not finished; start the training command again")
    return run_dir / "saved_model"
