"""Ctrl-C and SIGTERM: long work saves its state before it gives in to them."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Interrupted(Exception):  # noqa: N818 (not an error)
    """The user asked to stop by `signal_number`; the state is saved and the same command goes on from there."""

    def __init__(self, place: str, signal_number: int) -> None:
        super().__init__(place)
        self.signal_number = signal_number


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM in a list instead of dying of them; a second signal acts as usual."""
    received: list[int] = []
    before: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def receive(number: int, frame: object) -> None:
        received.append(number)
        signal.signal(number, before[number])

    for number in before:
        signal.signal(number, receive)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
