"""SIGTERM and Ctrl-C: who gets them, when they wait, and what is left as it was."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from nas_osr.runs.stopping import StopRequests, Terminated, terminable

KINDS = [(signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt)]


@pytest.fixture(autouse=True)
def usual_handlers() -> Iterator[None]:
    """Python's own, whatever started the tests; and back."""
    before = {number: signal.getsignal(number) for number, _ in KINDS}
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: int) -> None:
    """To this process; Python calls its handler before the next line runs."""
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(("number", "kind"), KINDS)
def test_a_signal_waits_for_the_save_and_a_second_one_does_not(number: int, kind: type, capfd) -> None:
    def train() -> None:
        with terminable(), StopRequests() as stop:
            stop.defer()
            send(number)
            assert stop.requested
            with pytest.raises(kind):
                send(number)
            stop.raise_requested()

    with pytest.raises(kind) as caught:
        train()
    assert type(caught.value) is kind
    assert capfd.readouterr().err.count("a second signal ends at once") == 1
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize(("number", "kind"), KINDS)
def test_a_signal_is_raised_at_once_before_anyone_can_save(number: int, kind: type) -> None:
    with terminable(), StopRequests() as stop:
        with pytest.raises(kind):
            send(number)
        assert not stop.requested
        stop.raise_requested()


def test_a_signal_after_the_last_save_is_not_lost() -> None:
    def train() -> None:
        with StopRequests() as stop:
            stop.defer()
            send(signal.SIGTERM)

    with pytest.raises(Terminated):
        train()


def test_an_error_is_not_hidden_by_a_signal_that_waits() -> None:
    def train() -> None:
        with StopRequests() as stop:
            stop.defer()
            send(signal.SIGTERM)
            raise ValueError("disk")

    with pytest.raises(ValueError, match="disk"):
        train()


def test_handlers_of_the_caller_are_left_alone() -> None:
    seen: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with terminable(), StopRequests() as stop:
        stop.defer()
        send(signal.SIGTERM)
        send(signal.SIGINT)
        assert not stop.requested
    assert seen == [signal.SIGTERM]


def test_another_thread_may_train() -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            with terminable(), StopRequests() as stop:
                stop.defer()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not failures
