"""A signal that asks for an end is one line and 130, whatever a library makes of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from flows.cli.session import session

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def same_handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def serialise(number: signal.Signals) -> None:
    """As pydantic does it, whose serialiser makes an error of its own of any exception."""
    try:
        os.kill(os.getpid(), number)
    except KeyboardInterrupt:
        raise ValueError("Error calling function") from None


@pytest.mark.parametrize("number", SIGNALS)
def test_an_interrupt_that_became_an_error_is_still_one(number, capsys):
    with pytest.raises(SystemExit) as ended, session(False, state=False):
        serialise(number)
    assert ended.value.code == 130
    assert capsys.readouterr().err.startswith("sfda: interrupted")


def test_what_nohup_lets_ignore_stays_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with session(False, state=False):
        os.kill(os.getpid(), signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
