"""What a signal does to a run: the first is noted, a scheduler's repetition changes nothing."""

from __future__ import annotations

import signal

import pytest

from scalekit.signals import SIGNALS
from scalekit.train.stop import StopRequest


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_noted_and_the_handlers_are_put_back(number: int) -> None:
    before = [signal.getsignal(one) for one in SIGNALS]
    with StopRequest() as stop:
        assert stop.signal is None
        signal.raise_signal(number)
        assert stop.signal == number
    assert [signal.getsignal(one) for one in SIGNALS] == before


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGUSR2])
@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGUSR2])
def test_a_scheduler_may_repeat_itself_while_a_run_saves(first: int, second: int) -> None:
    with StopRequest() as stop:
        for number in (first, second, second):
            signal.raise_signal(number)
        assert stop.signal == first


def test_a_person_who_interrupts_twice_is_obeyed() -> None:
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert stop.signal == signal.SIGINT
