"""Evaluates a finished run's exported policy: prints a table and writes JSON into the run directory.

python -m brac_plus_tf.evaluate --run_dir=runs/hopper-medium-replay-v0/brac_plus/0
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from brac_plus_tf.command_line import run_command
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.files import write_json
from brac_plus_tf.core.randomness import initializer_seed
from brac_plus_tf.environments.environment import make_environment
from brac_plus_tf.environments.tasks import find_task
from brac_plus_tf.policies.evaluation import Evaluator, report
from brac_plus_tf.policies.saved_policy import LoadedPolicy
from brac_plus_tf.runs.facts import read_facts


def evaluate(
    run_dir: Path, environment: str | None, episodes: int, action: str, seed: int | None, backend: str
) -> Path:
    """Runs `episodes` episodes, prints their summary and returns the path of the JSON file.

    Args:
      environment: a task's name; None for the one the run was trained with.
      seed: episodes start as in the evaluations of a run with that seed; None for the run's own, so that its last
        policy earns what the run's evaluation.json says.
    Raises:
      UserError: if the run has no exported policy, or no environment is known.
    """
    facts = read_facts(run_dir)
    recorded = facts.get("environment")
    seed = int(str(facts["seed"])) if seed is None else seed
    name = environment or (recorded["task"] if isinstance(recorded, dict) else None)
    if not name:
        raise UserError(f"{run_dir}: trained without an environment; name one with --env")
    if not (run_dir / "saved_model").exists():
        raise UserError(f"{run_dir}: no saved_model yet, the run is not finished; start the training command again")
    task, policy = find_task(name), LoadedPolicy(run_dir / "saved_model")
    way = policy.way(action)
    policy.check_fits(task)
    made = []

    def make() -> object:
        made.append(make_environment(task, backend))
        return made[-1]

    outcome = Evaluator(make, task.horizon).run(way, episodes, initializer_seed(seed, "evaluation"), progress=True)
    content = report(outcome, task, made[0].backend, action)
    _print_table(content)
    path = run_dir / f"evaluation-{action}-{seed}.json"
    write_json(path, content)
    return path


def _print_table(content: dict[str, object]) -> None:
    print(f"{content['task']} on {content['backend']}, action {content['action']}, {content['episodes']} episodes")
    rows = [("return", "return_mean", "return_std"), ("score", "score_mean", "score_std")]
    for label, mean, deviation in rows:
        if mean in content:
            print(f"  {label:8s} {content[mean]:10.2f} +- {content[deviation]:.2f}")
    print(f"  {'length':8s} {content['length_mean']:10.1f}")


def main(argv: Sequence[str]) -> None:
    """The command."""
    del argv
    values = flags.FLAGS
    path = evaluate(Path(values.run_dir), values.env, values.episodes, values.action, values.seed, values.backend)
    print(f"results: {path}")


if __name__ == "__main__":
    flags.DEFINE_string("run_dir", None, "Directory of a finished run.", required=True)
    flags.DEFINE_integer("episodes", 100, "Episodes.", lower_bound=1)
    flags.DEFINE_string(
        "action", "mean", "mean: tanh of the mean; sample: a draw; max_q: the critics' best of several."
    )
    flags.DEFINE_integer(
        "seed",
        None,
        "Seed of the episodes' starts and, for 'sample', of the draws; the run's own by default.",
        lower_bound=0,
    )
    flags.DEFINE_string("env", None, "Environment, instead of the run's own.")
    flags.DEFINE_string("backend", "auto", "'auto', 'gymnasium' or 'd4rl'.")
    run_command(main)
