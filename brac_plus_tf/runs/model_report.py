"""What the learned model of a run's dynamics is worth, by transitions that it did not learn from."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.runs.facts import read_facts
from brac_plus_tf.runs.metrics_log import read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class ModelReport(NamedTuple):
    """error, calibration: for each output, 0 the reward and the others entries of the change of the state. error: root
    mean squared error over the standard deviation of what is predicted; 1 is what its mean would do. calibration: the
    same error over the deviation that the model predicts; 1 if that is right, more if it is too sure.
    error_after_steps: of the state h steps on, root mean square over entries in their standard deviations, by h.
    """

    error: Mapping[int, float]
    calibration: Mapping[int, float]
    error_after_steps: Mapping[int, float]


def read_model_report(run: Path, sha256: str) -> ModelReport:
    """The report of a run on the data with that SHA-256.

    Raises:
      UserError: if the directory is no run's, the run has no finished model, or learned from other data.
    """
    dataset = read_facts(run).get("dataset")
    if not isinstance(dataset, dict) or dataset["sha256"] != sha256:
        raise UserError(f"{run}: this run learned from other data; name the files that its run.json names")
    found: dict[str, dict[int, float]] = {name: {} for name in ModelReport._fields}
    try:
        for row in read_metrics(run):
            name, _, number = row.metric.partition("/")
            if name in found:
                found[name][int(number)] = row.value
    except OSError as error:
        raise UserError(f"{run}: metrics.csv cannot be read ({error.strerror})") from error
    if not found["error"]:
        raise UserError(
            f"{run}: this run has no finished model of the dynamics; only mopo and mbop learn one, in their first stage"
        )
    return ModelReport(**found)


def report_rows(report: ModelReport) -> list[tuple[str, str]]:
    """(what, value) pairs."""
    outputs = [("reward", 0), *((f"entry {number - 1}", number) for number in sorted(report.error)[1:])]
    rows = [
        (f"model, {name}", f"error {report.error[number]:.3f}, calibration {report.calibration[number]:.2f}")
        for name, number in outputs
    ]
    steps = ", ".join(f"{value:.3f} after {step}" for step, value in sorted(report.error_after_steps.items()))
    return [*rows, *([("model, error over steps", steps)] if steps else [])]


def draw_outputs(axes: "Axes", report: ModelReport) -> None:
    """Error and calibration of every output."""
    numbers = sorted(report.error)
    axes.plot(numbers, [report.error[number] for number in numbers], "o", label="error / spread")
    axes.plot(numbers, [report.calibration[number] for number in numbers], "x", label="error / predicted")
    axes.axhline(1.0, color="gray", linewidth=0.7)
    axes.set_ylim(bottom=0.0)
    axes.set_xlabel("output (0: reward)")
    axes.legend()


def draw_steps(axes: "Axes", report: ModelReport) -> None:
    """How the error grows when the model goes on from its own answers."""
    steps = sorted(report.error_after_steps)
    axes.plot(steps, [report.error_after_steps[step] for step in steps], "o-")
    axes.set_ylim(bottom=0.0)
    axes.set_xlabel("steps")
    axes.set_ylabel("state error / spread")
