"""How well the estimate ranks policies whose true discounted returns a simulator tells.

python scripts/rank_policies.py --policies=RUN/snapshots --env=Hopper-v4 --dataset=DATA --output=DIR [--action=mean]
python scripts/rank_policies.py --policies=RUN,RUN,RUN --env=Hopper-v4 --dataset=DATA --output=DIR

Each policy is estimated by the data alone and played for 100 episodes. `ranking.json` and `ranking.md` hold both, with
Spearman's correlation, regret@1, 3 and 5 and the mean absolute error; stopped and started again it goes on.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from brac_plus_tf import command_line
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.files import write_atomically, write_json
from brac_plus_tf.environments.environment import make_environment
from brac_plus_tf.environments.tasks import find_task
from brac_plus_tf.estimation.finished_run import Question, estimate_policy
from brac_plus_tf.estimation.ranking import mean_absolute_error, rank_correlation, regret
from brac_plus_tf.estimation.verdict import Interval
from brac_plus_tf.policies.evaluation import Evaluator
from brac_plus_tf.policies.saved_policy import METADATA, LoadedPolicy

EPISODES = 100


def exports(names: Sequence[str]) -> list[Path]:
    """Exported policies: of runs, and of directories that hold several."""
    found: list[Path] = []
    for path in map(Path, names):
        inside = sorted(entry for entry in path.iterdir() if (entry / METADATA).exists()) if path.is_dir() else []
        found += [path / "saved_model"] if (path / "saved_model").exists() else inside
    if len(found) < 3:
        raise UserError(f"--policies: {len(found)} exported policies are too few for a ranking")
    return found


def play(policy: Path, action: str, env: str, gamma: float) -> dict[str, float]:
    """True returns: discounted, with the standard error of their mean, and plain."""
    task = find_task(env)
    evaluator = Evaluator(lambda: make_environment(task), task.horizon)
    way = LoadedPolicy(policy).way(action)
    returns = evaluator.run(way, EPISODES, 0, gamma=gamma).returns
    plain = evaluator.run(way, EPISODES, 0).summary(task)
    error = float(returns.std(ddof=1) / np.sqrt(EPISODES))
    return {"truth": float(returns.mean()), "truth_error": error, **plain}


def record(name: str, judgement: Mapping[str, Any], truth: Mapping[str, float]) -> dict[str, Any]:
    """What is kept of a policy."""
    kept = {key: judgement[key] for key in ("estimate", "drift", "clone", "data", "distance", "reliable", "why")}
    return {"policy": name, **kept, **truth}


def measures(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of the estimates' ranking."""
    estimates, truths = ([one["estimate"]["mean"] for one in records], [one["truth"] for one in records])
    covered = [abs(one["estimate"]["mean"] - one["truth"]) <= one["estimate"]["half_width"] for one in records]
    return {
        "spearman": rank_correlation(estimates, truths),
        **{f"regret@{k}": regret(estimates, truths, k) for k in (1, 3, 5)},
        "mean_absolute_error": mean_absolute_error(estimates, truths),
        "covered": float(np.mean(covered)),
    }


def markdown(records: Sequence[Mapping[str, Any]], found: Mapping[str, float]) -> str:
    """Both as tables."""
    lines = ["| policy | estimate | true | score | reliable |", "|---|---|---|---|---|"]
    for one in records:
        value, score = Interval(**one["estimate"]), one.get("score_mean", one["return_mean"])
        truth = Interval(one["truth"], 1.96 * one["truth_error"])
        lines.append(f"| {one['policy']} | {value} | {truth} | {score:.1f} | {'yes' if one['reliable'] else 'no'} |")
    return "\n".join([*lines, "", ", ".join(f"{name} {value:.3g}" for name, value in found.items())]) + "\n"


def main(argv: Sequence[str]) -> None:
    """The script."""
    command_line.refuse_arguments(argv)
    values, records = flags.FLAGS, []
    bindings = tuple(values.gin_bindings)
    question = Question(values.dataset, values.env, values.action, 0, bindings)
    for policy in exports(values.policies):
        name = policy.name if policy.name != "saved_model" else f"{policy.parents[1].name}-{policy.parent.name}"
        place = values.output / name
        if not (place / "record.json").exists():
            judgement = estimate_policy(policy, question, place)
            truth = play(policy, values.action, values.env, judgement["gamma"])
            write_json(place / "record.json", record(name, judgement, truth))
        records.append(json.loads((place / "record.json").read_text()))
        print(f"{name}: estimate {records[-1]['estimate']['mean']:.4g}, true {records[-1]['truth']:.4g}", flush=True)
    found = measures(records)
    write_json(values.output / "ranking.json", {"measures": found, "policies": records})
    write_atomically(values.output / "ranking.md", markdown(records, found).encode())
    print(markdown(records, found))
    print(f"results: {values.output}")


if __name__ == "__main__":
    flags.DEFINE_list("policies", None, "Runs, or directories of exported policies.", required=True)
    flags.DEFINE_string("env", None, "Where they are played.", required=True)
    flags.DEFINE_string("action", "mean", "Which way to act.")
    command_line.define_sources("dataset", "Data to judge by.", required=True)
    command_line.define_path("output", None, "Directory for the results.", required=True)
    command_line.define_gin_bindings()
    command_line.run_command(main)
