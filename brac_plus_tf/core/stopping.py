"""Ctrl-C and SIGTERM: long work answers them at once, and saves its state before it gives in to them."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

_SHOW_CURSOR = b"\x1b[?25h"


class Interrupted(Exception):  # noqa: N818 (not an error)
    """The user asked to stop by `signal_number`; the state is saved and the same command goes on from there."""

    def __init__(self, place: str, signal_number: int) -> None:
        super().__init__(place)
        self.signal_number = signal_number


def _print(text: str) -> None:
    print(text, flush=True)


@contextmanager
def stop_requests(say: Callable[[str], None] = _print) -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM in a list instead of dying of them.

    The first is answered at once, whatever is being computed, and the second too: what is being saved is saved. The
    third ends the process on the spot, like SIGKILL; what is on disk then is whole, for it is renamed into place.

    Args:
      say: shows a line; called from a thread of its own.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # Python gives signals to the main thread alone
        return
    # Python runs a handler once the main thread is back from a compiled call, after up to a minute. What C's own
    # handler does at once is to write the signal's number to a file descriptor: a thread waits for it and answers.
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    before: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def receive(number: int, frame: FrameType | None) -> None:
        del frame
        received.append(number)

    for number in before:
        signal.signal(number, receive)
    descriptor_before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    answering = threading.Thread(target=_answer, args=(reader, set(before), say), daemon=True)
    answering.start()
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(descriptor_before)
        writer.close()  # ends the thread
        answering.join()
        reader.close()


def _answer(reader: socket.socket, numbers: set[int], say: Callable[[str], None]) -> None:
    answers = iter(
        [
            "stopping: saving ...",
            "stopping: still saving; once more ends it at once, at the checkpoint before",
        ]
    )
    while received := reader.recv(1):
        if received[0] not in numbers:  # of a signal that somebody else handles
            continue
        answer = next(answers, None)
        if answer is None:
            if sys.stdout.isatty():  # a bar hides it
                os.write(sys.stdout.fileno(), _SHOW_CURSOR)
            os._exit(128 + received[0])
        with suppress(OSError, ValueError):  # nobody may be listening any more
            say(answer)


@contextmanager
def stoppable(place: str) -> Iterator[None]:
    """Work that leaves nothing behind until it is done, so that Ctrl-C may end it anywhere."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(place, signal.SIGINT) from None
