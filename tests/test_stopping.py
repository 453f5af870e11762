"""Signals: answered while something is being computed, none of them lost, and what each does."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from brac_plus_tf.core.stopping import Interrupted, stop_requests, stoppable

FIRST, SECOND = "stopping: saving ...", "stopping: still saving; once more ends it at once, at the checkpoint before"


def signalled_during_a_long_call(number: int) -> tuple[float, float]:
    """When the signal was sent and when the call returned, at least half a second later.

    The call is like a compiled one: C code that never looks for signals, so that Python handles none until it returns.
    """
    rounds = 500_000
    while True:
        began = time.monotonic()
        hashlib.pbkdf2_hmac("sha256", b"", b"", rounds)
        if time.monotonic() - began > 0.5:
            break
        rounds *= 2
    sent = []
    timer = threading.Timer(0.1, lambda: (sent.append(time.monotonic()), os.kill(os.getpid(), number)))
    timer.start()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 4 * rounds)
    returned = time.monotonic()
    timer.join()
    return sent[0], returned


def wait_for(condition) -> None:
    deadline = time.monotonic() + 10.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_answered_while_a_call_goes_on(number):
    answers = []
    with stop_requests(lambda text: answers.append((text, time.monotonic()))) as received:
        sent, returned = signalled_during_a_long_call(number)
        wait_for(lambda: received)
    ((text, answered),) = answers
    assert text == FIRST and received == [number]
    # A share of the call, not of a second: how fast a shared core is changes from one call to the next.
    assert answered - sent < 0.5 * (returned - sent)


def test_the_second_is_answered_too_and_neither_interrupts():
    answers = []
    with stop_requests(answers.append) as received:
        for count in (1, 2):
            os.kill(os.getpid(), signal.SIGINT)
            wait_for(lambda count=count: len(received) == len(answers) == count)
    assert answers == [FIRST, SECOND]


def test_handlers_and_descriptor_from_before_are_put_back():
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer)
    try:
        with stop_requests():
            assert signal.getsignal(signal.SIGINT) is not handlers[0]
        assert signal.set_wakeup_fd(before) == writer
    finally:
        signal.set_wakeup_fd(before)
        os.close(reader)
        os.close(writer)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_an_answer_that_cannot_be_shown_changes_nothing():
    def say(text):
        raise BrokenPipeError

    with stop_requests(say) as received:
        os.kill(os.getpid(), signal.SIGINT)
        wait_for(lambda: received)
        os.kill(os.getpid(), signal.SIGTERM)
        wait_for(lambda: len(received) == 2)
    assert received == [signal.SIGINT, signal.SIGTERM]


def test_a_thread_that_python_gives_no_signals_works_as_ever():
    seen = []

    def work():
        with stop_requests() as received:
            seen.append(received)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [[]]


def test_the_third_ends_the_process_at_once():
    program = (
        "import time\n"
        "from brac_plus_tf.core.stopping import stop_requests\n"
        "with stop_requests():\n"
        "    print('ready', flush=True)\n"
        "    while True:\n"
        "        time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    for answer in (FIRST, SECOND):
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == f"{answer}\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=10) == 128 + signal.SIGINT


def test_work_that_leaves_nothing_behind_may_be_stopped_anywhere():
    with pytest.raises(Interrupted, match=r"^the last episodes$") as stop, stoppable("the last episodes"):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
    assert stop.value.signal_number == signal.SIGINT
