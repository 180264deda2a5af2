"""A limit of real time ends what would not end, leaves everything else alone, and puts back what it found."""

from __future__ import annotations

import gc
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from sim.explore import time_limit
from sim.explore.time_limit import Hung, limited

LONG_S = 30


@pytest.fixture(autouse=True)
def no_collections() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


def wait(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def test_what_ends_in_time_is_left_alone() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with limited(LONG_S):
        assert signal.getsignal(signal.SIGALRM) is not before
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_what_does_not_end_is_ended_and_no_alarm_is_left_behind() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(Hung), limited(0.05):
        wait(LONG_S)
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_alarm_that_falls_where_nothing_can_be_raised_rings_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_limit, "AGAIN_S", 0.2)
    heard: list[bool] = []

    class Last:
        def __del__(self) -> None:
            try:
                wait(LONG_S)
            except Hung:
                heard.append(True)
                raise

    def run() -> None:
        Last()
        assert heard == [True]  # and nothing of it was raised here
        wait(LONG_S)

    with pytest.raises(Hung), limited(0.05):
        run()


def test_in_another_thread_there_is_no_limit() -> None:
    ran: list[bool] = []

    def run() -> None:
        with limited(0.0001):
            wait(0.05)
        ran.append(True)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert ran == [True]
