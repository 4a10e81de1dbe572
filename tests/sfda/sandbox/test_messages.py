"""What a restricted process says is bounded, and nothing that a terminal obeys."""

from __future__ import annotations

import json

import pytest

from sfda.sandbox.messages import DEEPEST, LONGEST, LONGEST_TEXT, Unacceptable, plain, read_message


def test_no_text_can_paint_or_type_or_pass_for_a_line_of_ours():
    message = {"log": "\x1b]0;title\x07\r\x9b2J\u202egnp\u2028a\nsfda: promoted", "\x1b": ["\x7f"]}
    read = read_message(json.dumps(message).encode())
    text = r"\x1b]0;title\x07\r\x9b2J\u202egnp\u2028a" + "\n  sfda: promoted"
    assert read == {"log": text, r"\x1b": [r"\x7f"]}
    assert plain("Straße, 日本, \t½") == "Straße, 日本, \t½"
    assert read_message(rb'{"a": "\ud800"}') == {"a": r"\ud800"}, "half a character"


def test_long_texts_are_cut():
    read = read_message(json.dumps({"log": "x" * (LONGEST_TEXT + 5)}).encode())
    assert read == {"log": "x" * LONGEST_TEXT + " ... (5 more)"}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b"[]", "no JSON object"),
        (b'{"n": ' + b"9" * 5000 + b"}", "no JSON"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "no JSON"),
        (b'{"a": ' + b"[" * DEEPEST + b"]" * DEEPEST + b"}", "levels"),
        (b"x" * LONGEST, "bytes"),
    ],
)
def test_what_is_no_small_document_is_refused(line, why):
    with pytest.raises(Unacceptable, match=why):
        read_message(line)
