"""How long work shows that it goes on: a live bar on a terminal; anywhere else, such as a log, a plain line now and
then.
"""

import datetime
import logging
import os
import sys
import time
from collections.abc import Iterable
from types import TracebackType

import absl.logging
from rich.console import Console, RenderableType
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.text import Text

LINE_SECONDS = 60.0  # between two lines of a log
_LIVE_REFRESHES = 2  # a second; each costs a millisecond of a core that training could use


class Progress:
    """One piece of long work, a context manager.

        with Progress("evaluation", 100, "episodes") as progress:
            ...
            progress.advance()

    Rate and time left are means over what this process has done since its first report, which may follow minutes of
    compiling.
    """

    def __init__(self, label: str, total: int | None, unit: str, done: int = 0) -> None:
        """Args: total, done: in `unit`, a plural; total None where it is unknown. done: by an earlier process."""
        self._label, self._total, self._unit, self.done = label, total, unit, done
        self._note = ""
        self._began = self._written = time.monotonic()
        self._first: tuple[int, float] | None = None  # done, and when, at the first report
        self._bars: _NotedBars | None = None

    def __enter__(self) -> "Progress":
        if is_terminal():
            self._bars = _NotedBars()
            self._task = self._bars.add_task(self._label, total=self._total, completed=self.done, facts=self._facts())
            before = sys.stderr
            self._bars.start()
            # absl keeps the standard error of its own beginning; lines above the bar come by way of the present one
            if _warnings().stream is before:
                _warnings().setStream(sys.stderr)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._show()
            through_the_bar = _warnings().stream is sys.stderr
            self._bars.stop()
            if through_the_bar:
                _warnings().setStream(sys.stderr)
        elif kind is None:
            self._write(f"{self._amount()} in {_duration(time.monotonic() - self._began)}", self._note)

    def advance(self, count: int = 1) -> None:
        """`count` more are done."""
        self.done += count
        now = time.monotonic()
        self._first = self._first or (self.done, now)
        self._show()
        if self._bars is None and now - self._written >= LINE_SECONDS:
            self._write(self._facts(), self._note)

    def note(self, text: str) -> None:
        """What stands beside the figures from now on."""
        self._note = text
        self._show()

    def announce(self, text: str) -> None:
        """A note on what is being done, such as "compiling ...", that is shown at once, in a log as well."""
        self.note(text)
        if self._bars is None:
            self._write(text)
        else:
            self._bars.refresh()

    def say(self, text: str) -> None:
        """A line of its own; may be called from any thread."""
        if self._bars is None:
            print(text, flush=True)
        else:
            self._bars.print(text, markup=False, highlight=False)

    def _show(self) -> None:
        if self._bars is not None:
            self._bars.note = self._note
            self._bars.update(self._task, completed=self.done, facts=self._facts())

    def _write(self, *parts: str) -> None:
        self._written = time.monotonic()
        print(f"{self._label}: {'; '.join(part for part in parts if part)}", flush=True)

    def _amount(self) -> str:
        if self._total is None or self.done == self._total:
            return f"{self.done:,} {self._unit}"
        return f"{self.done:,} of {self._total:,} {self._unit}"

    def _facts(self) -> str:
        """How much, how fast, how much longer."""
        facts = [self._amount()]
        count, since = self._first or (self.done, 0.0)
        if self.done > count:
            rate = (self.done - count) / max(time.monotonic() - since, 1e-9)
            facts.append(f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s")
            if self._total is not None and self.done < self._total:
                facts.append(f"{_duration((self._total - self.done) / rate)} left")
        return ", ".join(facts)


def _text(field: str) -> TextColumn:
    return TextColumn(f"{{task.{field}}}", markup=False)


class _NotedBars(Bars):
    """A bar with a line of text below it, for which it has no room itself."""

    def __init__(self) -> None:
        self.note = ""
        super().__init__(
            _text("description"),
            BarColumn(None),
            _text("fields[facts]"),
            TimeElapsedColumn(),
            console=Console(file=sys.stdout),
            refresh_per_second=_LIVE_REFRESHES,
            redirect_stderr=sys.stderr.isatty(),  # what goes to a file must arrive there, whatever standard output is
        )

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        if self.note:
            yield Text(f"  {self.note}", style="dim", overflow="ellipsis", no_wrap=True)


def is_terminal() -> bool:
    """Whether a person watches, on something that can move its cursor: what goes to a file is read later."""
    return sys.stdout.isatty() and os.environ.get("TERM") not in (None, "dumb", "unknown")


def _warnings() -> logging.StreamHandler:
    return absl.logging.get_absl_handler().python_handler


def _duration(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))
