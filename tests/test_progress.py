"""What long work shows, on a terminal and in a log, against text written by hand, at times set by hand."""

import io
import math
import re
from contextlib import redirect_stderr, redirect_stdout

import numpy as np
import pytest
from absl import logging
from tiny import TinyAgent

from brac_plus_tf.core import progress as core_progress
from brac_plus_tf.core.progress import Progress
from brac_plus_tf.runs.progress import TrainingProgress, shown, shown_score, standard_error


class Terminal(io.StringIO):
    """Text that says it is a terminal; `screen()` is what a person would have seen, without control sequences."""

    def isatty(self) -> bool:
        return True

    def screen(self) -> str:
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.getvalue())


@pytest.fixture
def terminal(monkeypatch) -> Terminal:
    """To be put in the place of standard output by `with redirect_stdout(terminal)`."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    return Terminal()


@pytest.fixture
def clock(monkeypatch):
    """`clock.now` is the time in seconds."""

    class Clock:
        now = 1000.0

    monkeypatch.setattr(core_progress.time, "monotonic", lambda: Clock.now)
    return Clock


# In a log -------------------------------------------------------------------------------------------------------------


def test_a_log_has_a_line_now_and_then(capsys, clock):
    """400 steps a second apart, the first after 30 s of compiling, which does not count for the rate: 2 a second."""
    with Progress("main", 2000, "steps", done=1000) as progress:
        progress.announce("compiling ...")
        clock.now += 30.0
        progress.note("loss 2.5")
        progress.advance(2)
        for _ in range(100):
            clock.now += 1.0
            progress.advance(2)
    assert capsys.readouterr().out.splitlines() == [
        "main: compiling ...",
        "main: 1,062 of 2,000 steps, 2/s, 0:07:49 left; loss 2.5",  # 60 s later: 938 steps are left
        "main: 1,182 of 2,000 steps, 2/s, 0:06:49 left; loss 2.5",
        "main: 1,202 of 2,000 steps in 0:02:10; loss 2.5",
    ]


def test_work_that_is_quickly_done_is_one_line(capsys, clock):
    with Progress("evaluation", 2, "episodes") as progress:
        progress.advance()
        clock.now += 3.0
        progress.advance()
    assert capsys.readouterr().out == "evaluation: 2 episodes in 0:00:03\n"


def test_work_of_unknown_size_has_a_rate_but_no_end(capsys, clock):
    with Progress("download", None, "bytes") as progress:
        for _ in range(3):
            progress.advance(600)
            clock.now += 60.0
        progress.advance(600)
    assert capsys.readouterr().out.splitlines() == [
        "download: 1,200 bytes, 10/s",
        "download: 1,800 bytes, 10/s",
        "download: 2,400 bytes, 10/s",
        "download: 2,400 bytes in 0:03:00",
    ]


def test_work_that_fails_is_not_reported_as_done(capsys):
    with pytest.raises(RuntimeError), Progress("main", 10, "steps") as progress:
        progress.advance(3)
        raise RuntimeError
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("term", ["dumb", None])
def test_a_terminal_that_cannot_move_its_cursor_is_written_like_a_log(terminal, monkeypatch, term):
    monkeypatch.delenv("TERM") if term is None else monkeypatch.setenv("TERM", term)
    with redirect_stdout(terminal), Progress("main", 10, "steps") as progress:
        progress.announce("compiling ...")
    assert "\x1b" not in terminal.getvalue() and terminal.getvalue().startswith("main: compiling ...\n")


# On a terminal --------------------------------------------------------------------------------------------------------


def test_a_bar_with_its_figures_and_the_note_below(terminal, clock):
    with redirect_stdout(terminal), Progress("main", 3000, "steps") as progress:
        progress.announce("compiling ...")
        progress.advance(1000)
        clock.now += 100.0
        progress.note("Q 7")
        progress.advance(1000)
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", terminal.screen())]
    assert "  compiling ..." in lines and "  Q 7" in lines
    assert any(re.match(r"main .* 2,000 of 3,000 steps, 10/s, 0:01:40 left", line) for line in lines)


def test_lines_and_warnings_stand_above_the_bar(terminal):
    """absl's own handler, which holds the standard error that was there when it was made."""
    stderr = Terminal()
    handler = logging.get_absl_handler().python_handler
    before = handler.setStream(stderr)
    try:
        with redirect_stdout(terminal), redirect_stderr(stderr), Progress("main", 3, "steps") as progress:
            progress.say("[a line] of its own")
            handler.emit(logging.get_absl_logger().makeRecord("absl", 30, "f", 1, "a warning", (), None))
        assert handler.stream is stderr
    finally:
        handler.setStream(before)
    screen = terminal.screen()
    assert "[a line] of its own\n" in screen and "a warning\n" in screen
    assert stderr.getvalue() == ""


def test_warnings_that_go_to_a_file_still_do(terminal):
    file = io.StringIO()
    handler = logging.get_absl_handler().python_handler
    before = handler.setStream(file)
    try:
        with redirect_stdout(terminal), redirect_stderr(file), Progress("main", 3, "steps"):
            handler.emit(logging.get_absl_logger().makeRecord("absl", 30, "f", 1, "a warning", (), None))
    finally:
        handler.setStream(before)
    assert file.getvalue().endswith("a warning\n") and "a warning" not in terminal.screen()


# Training -------------------------------------------------------------------------------------------------------------


def test_figures_are_chosen_by_their_names():
    metrics = {
        "critic_loss": 3.25,
        "divergence_mean": 3.381,
        "divergence_threshold": 3.65,
        "divergence_p95": 9.0,
        "penalty_threshold": 1.0,
        "multiplier_mean": 2.0,
        "q_mean": 120.123,
        "q_max": 400.0,
        "policy_loss": -1e-7,
    }
    assert shown(metrics) == "divergence 3.381 / 3.65, Q 120.1, critic loss 3.25, policy loss -1e-07"
    assert shown({"negative_elbo": 2.0, "latent_kl": 1.0}) == "negative elbo 2"
    assert shown({"divergence_mean": 0.5, "entropy": 1.0}) == "divergence 0.5"
    assert shown({"cost_mean": 4.0, "cost_threshold": 5.0}) == "cost 4 / 5"  # of an agent that is not there yet
    assert shown({"count": 1.0}) == ""


def test_an_evaluation_is_shown_with_its_standard_error():
    """The standard error of the mean of (1, 2, 6): deviations -2, -1, 3 have s^2 = 14 / 2, and sqrt(7 / 3) = 1.53."""
    returns = np.array([1.0, 2.0, 6.0])
    scores = {"return_mean": returns.mean(), "return_std": returns.std(), "length_mean": 10.0}
    assert standard_error(returns.std(), 3) == pytest.approx(math.sqrt(7.0 / 3.0))
    assert shown_score(scores, 3) == "return 3.0 (standard error 1.5)"
    assert shown_score({**scores, "score_mean": 50.0, "score_std": 2.0}, 5) == "score 50.0 (standard error 1.0)"
    assert shown_score(scores, 1) == "return 3.0"  # one episode says nothing about its spread
    assert shown_score(scores, 0) == "return 3.0"
    assert shown_score({"return_mean": 3.0}, 5) == "return 3.0"
    assert shown_score({}, 5) == ""


def test_a_stage_from_its_compilation_to_its_end(capsys, clock):
    stage = TinyAgent().stages()[1]  # of 22 steps
    progress = TrainingProgress(evaluation_episodes=5)
    progress.say("before")
    with progress.stage(stage, 12):
        progress.trained(4, {"q_mean": 1.0})
        clock.now += 60.0
        progress.evaluated({"score_mean": 50.0, "score_std": 2.0})
        progress.trained(6, {"q_mean": 2.0})
        progress.say("within")
    progress.say("after")
    assert capsys.readouterr().out.splitlines() == [
        "before",
        "second: compiling ...",
        "second: 22 steps, 0.1/s; score 50.0 (standard error 1.0), Q 2",
        "within",
        "second: 22 steps in 0:01:00; score 50.0 (standard error 1.0), Q 2",
        "after",
    ]


def test_what_a_stage_ended_with_is_not_said_of_the_next(capsys, clock):
    progress = TrainingProgress(evaluation_episodes=5)
    for given in ({"q_mean": 1.0}, {}):
        with progress.stage(TinyAgent().stages()[1], 12):
            progress.trained(10, given)
            if given:
                progress.evaluated({"score_mean": 50.0, "score_std": 2.0})
    ends = [line for line in capsys.readouterr().out.splitlines() if " in 0:" in line]
    assert ends == [
        "second: 22 steps in 0:00:00; score 50.0 (standard error 1.0), Q 1",
        "second: 22 steps in 0:00:00",
    ]


def test_a_terminal_says_that_it_evaluates(terminal):
    progress = TrainingProgress()
    with redirect_stdout(terminal), progress.stage(TinyAgent().stages()[1], 0):
        progress.trained(4, {"q_mean": 1.0})
        progress.evaluating()
    assert "  Q 1, evaluating ...\n" in terminal.screen().replace("\r", "\n")
