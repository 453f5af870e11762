"""The command `python -m brac_plus_tf.inspect_dataset FILE [FILE...]`: what a dataset holds, and whether it is valid.

Exit status 0 and a table if training would accept the data, otherwise 1 and one line that says why.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import matplotlib.figure
import numpy as np
from absl import flags

from brac_plus_tf.command_line import run_command
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.files import write_figure
from brac_plus_tf.data.dataset import OfflineDataset, dataset_task, load_dataset
from brac_plus_tf.data.download import find_dataset_file
from brac_plus_tf.data.sources import source_label
from brac_plus_tf.environments.tasks import Task

_SATURATED = 0.999
_HISTOGRAM_BINS = 50


def main(argv: Sequence[str]) -> None:
    """Prints the table of the files named in argv[1:] and writes the histogram of their returns."""
    options = flags.FLAGS
    if len(argv) < 2:
        raise UserError("no file given; usage: python -m brac_plus_tf.inspect_dataset FILE [FILE...]")
    files = [find_dataset_file(source) for source in argv[1:]]
    task = dataset_task(argv[1], options.env)
    dataset = load_dataset(
        files,
        task,
        allow_longer_episodes=options.allow_longer_episodes,
        action_low=options.action_low,
        action_high=options.action_high,
    )
    rows = [*summary(dataset, task), ("histogram of returns", write_histogram(dataset, options.output))]
    print(format_table([*rows, ("verdict", "valid")]))


def summary(dataset: OfflineDataset, task: Task | None) -> list[tuple[str, str]]:
    """(what, value) pairs of a dataset loaded with rescaled rewards; returns and rewards in the environment's units.

    Statistics of lengths, returns and the normalized score are over complete episodes, over all if none is complete.
    """
    rows = sum(dataset.row_counts)
    counted = dataset.episode_complete if dataset.episode_complete.any() else ~dataset.episode_complete
    complete = int(dataset.episode_complete.sum())
    returns = dataset.episode_returns[counted]
    terminals = int((dataset.transitions.discount == 0.0).sum())
    saturated = (np.abs(dataset.transitions.action) > _SATURATED).mean()
    lowest, highest = dataset.scaling.to_environment_reward(np.array([0.0, 1.0]))
    score = "unknown"
    if task is not None and task.reference_score is not None:
        score = f"{np.mean(task.normalized_score(returns)):.1f}"
    return [
        *(("file", f"{path} ({count:,} rows)") for path, count in zip(dataset.files, dataset.row_counts, strict=True)),
        ("SHA-256", dataset.sha256),
        ("task", f"{task.name} (at most {task.horizon} steps)" if task else "unknown"),
        ("observation, action entries", f"{dataset.dimensions.observation}, {dataset.dimensions.action}"),
        ("rows", f"{rows:,}"),
        ("transitions", f"{dataset.number_of_transitions:,}"),
        ("repeated transitions", _share(count_repeated(dataset), dataset.number_of_transitions)),
        ("episodes", f"{len(counted):,} ({complete:,} complete, {len(counted) - complete:,} unfinished)"),
        ("terminals", _share(terminals, rows)),
        ("timeouts", _share(complete - terminals, rows)),
        ("length: min, mean, max", _range(dataset.episode_lengths[counted])),
        ("return: min, mean, max", _range(returns)),
        ("normalized score", score),
        ("reward: min, max", f"{lowest:.6g}, {highest:.6g}"),
        ("saturated action entries", f"{100 * saturated:.2f} % beyond {_SATURATED} of the range"),
    ]


def count_repeated(dataset: OfflineDataset) -> int:
    """Transitions whose observation, action and reward all equal, bit for bit, those of an earlier one."""
    observation, action, reward, *_ = dataset.transitions
    rows = np.concatenate((observation, action, reward[:, None]), axis=1)
    as_bytes = rows.view(np.dtype((np.void, rows.itemsize * rows.shape[1])))
    return len(rows) - len(np.unique(as_bytes))


def write_histogram(dataset: OfflineDataset, folder: str) -> str:
    """Draws the episodes' undiscounted returns into `folder`/<first file's label>_returns.png and returns that path.

    Raises:
      UserError: if the directory cannot be made or written.
    """
    figure = matplotlib.figure.Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    # Rounded to float32: returns that differ in their last float64 bits only leave no room for bins between them.
    axes.hist(dataset.episode_returns.astype(np.float32).astype(np.float64), bins=_HISTOGRAM_BINS)
    axes.set_xlabel("undiscounted return of an episode")
    axes.set_ylabel("episodes")
    axes.set_title(" + ".join(os.path.basename(path) for path in dataset.files), parse_math=False)
    path = os.path.join(folder, f"{source_label(dataset.files[0])}_returns.png")
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another --output") from error
    write_figure(Path(path), figure)
    return path


def format_table(rows: Sequence[tuple[str, str]]) -> str:
    """Lines of two columns, the second one aligned."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _share(count: int, total: int) -> str:
    return f"{count:,} ({100 * count / total:.2f} %)"


def _range(values: np.ndarray) -> str:
    return f"{values.min():,.1f}, {values.mean():,.1f}, {values.max():,.1f}"


if __name__ == "__main__":
    # Defined here and not on import: flag names are global to a process, and other commands have some of the same.
    flags.DEFINE_string("env", None, "Task the data belong to; default: what the data say, if known.")
    flags.DEFINE_string("output", ".", "Directory for the histogram of returns.")
    flags.DEFINE_bool("allow_longer_episodes", False, "Accept episodes longer than the task's horizon.")
    flags.DEFINE_float("action_low", -1.0, "Lower bound of actions, where no task is known.")
    flags.DEFINE_float("action_high", 1.0, "Upper bound of actions, where no task is known.")
    run_command(main)
