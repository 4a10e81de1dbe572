"""What a restricted process writes to stderr comes out as plain lines, and no more than so much."""

from __future__ import annotations

import os
import sys

from sfda.sandbox.terminal import AT_ONCE, LONGEST_LINE, MOST_SHOWN, PREFIX, Lines, relayed


def shown(*chunks: bytes) -> list[str]:
    lines = Lines()
    out = [line for chunk in chunks for line in lines.feed(chunk)]
    return [line.removeprefix(PREFIX) for line in [*out, *lines.feed(b"", last=True)]]


def test_lines_come_out_whole_and_plain():
    assert shown(b"one\ntw", b"o\n", b"three") == ["one", "two", "three"]
    assert shown(b"\x1b[2J\x1b]52;c;cm0gLXJm\x07\n") == [r"\x1b[2J\x1b]52;c;cm0gLXJm\x07"]
    assert shown(b"\xff\xc3\xa4\n") == [r"\xffä"]
    assert shown() == shown(b"") == []
    assert all(line.startswith(PREFIX) for line in Lines().feed(b"sfda: promoted\n\na\n"))


def test_of_a_bar_the_last_state_counts():
    assert shown(b"\r 10%", b"\r 50%\r", b"\r100%\r\n", b"done\n") == ["100%", "done"]
    assert shown(*[b"\r 10%" + b"x" * 1000] * 1000)[0].startswith(" 10%x")
    assert len(shown(*[b"\r 10%" + b"x" * 1000] * 1000)) == 1
    assert shown(b"windows\r\n", b"killed at 7%\r") == ["windows", "killed at 7%"]


def test_long_lines_are_broken_and_a_flood_ends_with_a_word():
    assert [len(line) for line in shown(b"x" * (2 * LONGEST_LINE + 1))] == [4096, 4096, 1]
    lines = Lines()
    out = [line for _ in range(100) for line in lines.feed(b"\0\0\0\n" * (AT_ONCE // 4))]
    assert out[-1].endswith("which is left out")
    assert sum(map(len, out)) < 1.01 * MOST_SHOWN
    assert sum("left out" in line for line in out) == 1
    assert lines.feed(b"more\n", last=True) == []


def test_a_pipe_is_relayed_to_the_stderr_of_now(capsys):
    with relayed() as relay:
        os.write(relay.writer, b"hello \x1b[31mworld\nno end")
    assert capsys.readouterr().err == rf"{PREFIX}hello \x1b[31mworld" + f"\n{PREFIX}no end\n"


def test_nobody_is_blocked_by_a_flood_a_lost_terminal_or_a_writer_that_stays(capsys, monkeypatch):
    with relayed() as relay:
        for _ in range(3 * MOST_SHOWN // AT_ONCE):  # a pipe that nobody read would be full
            os.write(relay.writer, b"z" * AT_ONCE)
    assert len(capsys.readouterr().err) < 1.1 * MOST_SHOWN
    with relayed() as relay:
        other = os.dup(relay.writer)  # somebody who holds it open
        os.write(other, b"last words\n")
    os.close(other)
    assert "last words" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stderr", None)
    with relayed() as relay:
        os.write(relay.writer, b"to nobody\n")
