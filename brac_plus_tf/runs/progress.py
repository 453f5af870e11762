"""What a person sees of a run while it trains. The loop says what happens; how that looks is decided here.

It knows no algorithm: what it shows of the metrics goes by their names.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping

from absl import logging

from brac_plus_tf.agents.base import Stage
from brac_plus_tf.core.progress import Progress


class TrainingProgress:
    """One bar for each stage; its methods are what the training loop may tell."""

    def __init__(self, evaluation_episodes: int = 0) -> None:
        """Args: evaluation_episodes: how many lie behind each evaluation, for its standard error; 0 for unknown."""
        self._episodes = evaluation_episodes
        self._bar: Progress | None = None  # of the present stage
        self._shown = self._score = ""

    @contextlib.contextmanager
    def stage(self, stage: Stage, step: int) -> Iterator[None]:
        """A stage that begins or goes on at `step`, from its compilation to its end."""
        self._shown = self._score = ""
        with Progress(stage.name, stage.steps, "steps", step) as self._bar:
            self._bar.announce("compiling ...")
            try:
                yield
            finally:
                self._bar = None

    def trained(self, steps: int, metrics: Mapping[str, float]) -> None:
        """So many more steps were taken, with these means of their metrics."""
        self._shown = shown(metrics)
        self._note()
        if self._bar is not None:
            self._bar.advance(steps)

    def evaluating(self) -> None:
        """An evaluation begins."""
        self._note("evaluating ...")

    def evaluated(self, scores: Mapping[str, float]) -> None:
        """An evaluation ended with these scores."""
        self._score = shown_score(scores, self._episodes)
        self._note()

    def reused(self, stage: Stage, steps: int) -> None:
        """A stage was found finished after so many steps."""
        self.say(f"{stage.name}: {steps} steps reused from an equal run")

    def warn(self, text: str) -> None:
        """Something the user should know."""
        logging.warning("%s", text)

    def say(self, text: str) -> None:
        """A line of its own; may be called from any thread."""
        bar = self._bar  # another thread may end the stage meanwhile
        if bar is not None:
            bar.say(text)
        else:
            print(text, flush=True)

    def _note(self, doing: str = "") -> None:
        if self._bar is not None:
            self._bar.note(", ".join(part for part in (self._score, self._shown, doing) if part))


def shown(metrics: Mapping[str, float]) -> str:
    """The figures that say how training goes, as far as a stage has them, the most telling ones first.

    Every mean that has a threshold, `NAME_mean` beside `NAME_threshold`, and that of a divergence in any case; the
    critics' mean value, `q_mean`; losses.
    """
    parts = []
    for name, value in metrics.items():
        quantity, _, statistic = name.rpartition("_")
        bound = metrics.get(f"{quantity}_threshold")
        if statistic == "mean" and (bound is not None or quantity == "divergence"):
            parts.append(f"{_words(quantity)} {_number(value)}" + ("" if bound is None else f" / {_number(bound)}"))
    if "q_mean" in metrics:
        parts.append(f"Q {_number(metrics['q_mean'])}")
    losses = filter(is_loss, metrics)
    return ", ".join([*parts, *(f"{_words(name)} {_number(metrics[name])}" for name in losses)])


def is_loss(metric: str) -> bool:
    """Whether a metric's name says that it is minimised: a loss, a negative log-likelihood or a negative bound."""
    return metric.endswith("loss") or metric.startswith("negative_")


def shown_score(scores: Mapping[str, float], episodes: int) -> str:
    """An evaluation's score, or its return where there is none, and its standard error."""
    for kind in ("score", "return"):
        if f"{kind}_mean" in scores:
            text = f"{kind} {scores[f'{kind}_mean']:.1f}"
            error = standard_error(scores.get(f"{kind}_std", math.nan), episodes)
            return text if math.isnan(error) else f"{text} (standard error {error:.1f})"
    return ""


def standard_error(deviation: float, count: int) -> float:
    """Of a mean of `count` values, from their standard deviation as a whole population; NaN for fewer than two.

    sqrt(s^2 / n) with the unbiased s^2 = n deviation^2 / (n - 1).
    """
    return deviation / math.sqrt(count - 1) if count > 1 else math.nan


def _words(name: str) -> str:
    return name.replace("_", " ")


def _number(value: float) -> str:
    return f"{value:.4g}"
