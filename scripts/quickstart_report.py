"""The quickstart's last step: does the exported policy act as the trained one, and does it beat its data?

usage: python scripts/quickstart_report.py --run_dir=RUN --policy=EXPORT

Exit status 0 if both hold, otherwise 1 and one line that says what does not.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from brac_plus_tf.agents.base import state_of
from brac_plus_tf.command_line import run_command
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.data.dataset import OfflineDataset
from brac_plus_tf.environments.tasks import Task, find_task
from brac_plus_tf.policies.saved_policy import DeployedPolicy
from brac_plus_tf.runs import configuration
from brac_plus_tf.runs.checkpoints import load_state
from brac_plus_tf.runs.experiment import Experiment
from brac_plus_tf.runs.facts import read_facts
from brac_plus_tf.runs.session import problem_of

_ACT = Path(__file__).with_name("quickstart_act.py")
_OBSERVATIONS = 256
_LARGEST_DIFFERENCE = 1e-6  # in the environment's action units
_SMALLEST_RATIO = 1.5


def trained_actions(run_dir: Path, dataset: OfflineDataset, seed: int, observations: np.ndarray) -> np.ndarray:
    """Actions [N, A] of the policy that the run's newest checkpoint holds, on observations [N, O]."""
    agent = Experiment().agent(problem_of(dataset, None), seed)
    checkpoints = sorted((run_dir / "checkpoints").glob("[0-9]*.safetensors"))
    if not checkpoints:
        raise UserError(f"{run_dir}: holds no checkpoint; remove it and train again")
    load_state(checkpoints[-1], state_of(agent))
    policy = DeployedPolicy(agent, dataset.dimensions, dataset.scaling)
    actions, _ = policy.way("mean").act(observations, (), 0)
    return actions


def exported_actions(policy: Path, observations: np.ndarray) -> np.ndarray:
    """Actions [N, A] of the exported policy on observations [N, O], computed by a process without this package."""
    with tempfile.TemporaryDirectory() as folder:
        given, taken = Path(folder) / "observations.npy", Path(folder) / "actions.npy"
        np.save(given, observations)
        command = [sys.executable, str(_ACT), str(policy), str(given), str(taken)]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        if process.returncode != 0:
            lines = process.stderr.strip().splitlines() or ["no message"]
            raise UserError(f"{policy}: cannot be used by TensorFlow alone ({lines[-1]})")
        return np.load(taken, allow_pickle=False)


def compare_actions(expected: np.ndarray, actual: np.ndarray) -> str:
    """One line on how far two arrays of actions differ.

    Raises:
      UserError: if by more than rounding.
    """
    difference = float(np.abs(expected - actual).max())
    if not difference <= _LARGEST_DIFFERENCE:
        raise UserError(f"the exported policy's actions differ from the run's by {difference:.1e}; export it again")
    return f"export   {len(actual)} actions by TensorFlow alone equal the run's, largest difference {difference:.1e}"


def compare_returns(dataset: OfflineDataset, task: Task, evaluation: dict[str, Any]) -> tuple[list[str], float]:
    """Lines that set the policy's mean return beside the data's mean episode return, and their ratio."""
    returns = dataset.episodes.returns[dataset.episodes.complete]
    mean, policy_mean = float(returns.mean()), float(evaluation["return_mean"])
    lines = [
        f"data     mean return {mean:8.1f}  score {task.normalized_score(mean):5.1f}  ({len(returns)} episodes)",
        f"policy   mean return {policy_mean:8.1f}  score {evaluation['score_mean']:5.1f}  "
        f"({evaluation['episodes']} episodes, standard deviation {evaluation['return_std']:.1f})",
        f"ratio    {policy_mean / mean:.2f}",
    ]
    return lines, policy_mean / mean


def main(argv: Sequence[str]) -> None:
    """The command."""
    del argv
    run_dir, policy = Path(flags.FLAGS.run_dir), Path(flags.FLAGS.policy)
    facts, evaluation_file = read_facts(run_dir), run_dir / "evaluation-mean-0.json"
    if not evaluation_file.exists():
        raise UserError(f"{run_dir}: not evaluated yet; run python -m brac_plus_tf.evaluate --run_dir={run_dir}")
    evaluation, seed = json.loads(evaluation_file.read_text()), facts["seed"]
    assert isinstance(seed, int)
    configuration.parse([str(run_dir / "operative_config.gin")], [])
    task, experiment = find_task(evaluation["task"]), Experiment()
    dataset = experiment.load_dataset(experiment.dataset, task)
    some = dataset.transitions.observation[:: dataset.number_of_transitions // _OBSERVATIONS][:_OBSERVATIONS]
    observations = dataset.scaling.to_environment_observation(some)  # as exports want them
    expected = trained_actions(run_dir, dataset, seed, observations)
    lines, ratio = compare_returns(dataset, task, evaluation)
    print("\n".join([compare_actions(expected, exported_actions(policy, observations)), *lines]))
    if ratio < _SMALLEST_RATIO:
        raise UserError(f"the policy earns {ratio:.2f} times what its data do, less than {_SMALLEST_RATIO}")


if __name__ == "__main__":
    flags.DEFINE_string("run_dir", None, "Directory of the finished, evaluated run.", required=True)
    flags.DEFINE_string("policy", None, "Its exported policy.", required=True)
    run_command(main)
