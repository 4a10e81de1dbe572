"""A signal that asks for an end is one line and 130, whatever a library makes of it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from flows.cli.session import INTERRUPTED, end_at_once, session

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def same_handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:  # a test that runs in the background has some of them ignored
        signal.signal(number, signal.SIG_DFL)
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


def hear_nothing() -> None:
    """An interrupt in a finalizer is printed and forgotten; a child's is its own."""
    with session(False, state=False):
        reader, writer = os.pipe()
        if not (child := os.fork()):
            with suppress(KeyboardInterrupt):
                os.write(writer, b"forked")
                time.sleep(60)
            os._exit(0)
        os.read(reader, 6)
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)
        time.sleep(0.5)
        print("begun", flush=True)
        with suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)


def test_an_interrupt_that_nobody_hears_ends_the_program_in_time(capfd, monkeypatch):
    monkeypatch.setattr("flows.cli.session.GRACE", 0.2)
    child = os.fork()
    if not child:
        try:
            end_at_once(hear_nothing)
        finally:
            os._exit(1)
    begun = time.monotonic()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 130
    assert time.monotonic() - begun < 30
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("begun\n", f"sfda: {INTERRUPTED}\n")


def test_what_nohup_lets_ignore_stays_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with session(False, state=False):
        os.kill(os.getpid(), signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
