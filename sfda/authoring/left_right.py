"""Which joints are the left and the right one of a pair, told by their names.

Words (`left_eye`, `Left Eye`, `eye (left)`, `EyeLeft`), letters that stand alone or by a capital
(`l_eye`, `eye.L`, `LEye`, `lEye`, `eyeL`, `L-Eye`), and both glued to the rest (`lefteye`, `LEYE`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

NAME_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+|[^\W\d_]+")
SIDE_OF_WORD = {"left": 0, "l": 0, "lt": 0, "lft": 0, "right": 1, "r": 1, "rt": 1, "rgt": 1}
SIDELESS = "*"  # stands for the side


def pairs_by_name(joints: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Left and right joints whose names differ in nothing but the side, in the joints' order.

    >>> pairs_by_name(["nose", "left_eye", "right_eye", "LEar", "REar", "hip.L", "hip.R"])
    (('left_eye', 'right_eye'), ('LEar', 'REar'), ('hip.L', 'hip.R'))
    """
    partner: dict[str, str] = {}
    sided: set[str] = set()  # by plainer means: what else their letters could say does not count
    for reading in (_by_words, _by_glued_words, _by_first_letter):
        sides: tuple[dict[str, list[str]], dict[str, list[str]]] = ({}, {})
        read = {joint: reading(joint) for joint in joints if joint not in sided}
        for joint, one in read.items():
            if one is not None:
                side, rest = one
                sides[side].setdefault(rest, []).append(joint)
                sided |= {joint} if reading is not _by_first_letter else set()
        for rest, left in sides[0].items():
            right = sides[1].get(rest, [])
            if len(left) == len(right) == 1:
                partner[left[0]] = right[0]
    return tuple((joint, partner[joint]) for joint in joints if joint in partner)


def pairs_text(pairs: Sequence[tuple[str, str]]) -> str:
    """What was paired, on a line, or that nothing was, and what to do."""
    if pairs:
        return "left and right: " + ", ".join(f"{left} / {right}" for left, right in pairs)
    return (
        "left and right: no pair among the joints' names, so a mirrored image keeps them where "
        "they are; name the pairs in a file for --skeleton (pairs: [[left_eye, right_eye]])"
    )


def _by_words(joint: str) -> tuple[int, str] | None:
    """Side and the rest of a name, one of whose words is a side."""
    words = [word.lower() for word in NAME_WORD.findall(joint)]
    sides = {SIDE_OF_WORD[word] for word in words if word in SIDE_OF_WORD}
    if len(sides) != 1 or len(words) < 2:
        return None
    return sides.pop(), "".join(SIDELESS if word in SIDE_OF_WORD else word for word in words)


def _by_glued_words(joint: str) -> tuple[int, str] | None:
    """The same of a name that `left` or `right` is a part of, without an end."""
    plain = _plain(joint)
    sides = [side for side, word in enumerate(("left", "right")) if word in plain]
    if len(sides) != 1:
        return None
    return sides[0], re.sub("left|right", SIDELESS, plain)


def _by_first_letter(joint: str) -> tuple[int, str] | None:
    """The same of a name that begins with the letter of a side."""
    plain = _plain(joint)
    return (SIDE_OF_WORD[plain[0]], plain[1:]) if len(plain) > 2 and plain[0] in "lr" else None


def _plain(joint: str) -> str:
    return "".join(NAME_WORD.findall(joint)).lower()
