"""Which images belong together, such as frames of one video: they stay on one side of a split."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePosixPath

from sfda.authoring.listing import Listing
from sfda.authoring.splits import stratify
from sfda.errors import BadInput

log = logging.getLogger("sfda")
BY_FOLDER = "folder"  # the word for "images of one folder"
COUNTED = re.compile(r"(?P<before>.*?)(?P<number>\d+)(?P<after>\D{0,12})")
FRAMES = re.compile(r"frame|video|vid|clip|seq|slice|shot|scan", re.IGNORECASE)
BEFORE_NUMBER = r"(.*?)\d+\D*[.]"  # what is before the last number of a name is its group
SHORTEST_RUN = 5  # consecutive names that are taken for frames


@dataclass(frozen=True)
class Groups:
    """How the groups of images are told by their names: by a regular expression with one group in
    brackets, by a glob that a name begins with, by the folder, or (None) not at all.
    """

    pattern: str | None = None

    def __post_init__(self) -> None:
        self._expression()

    def of(self, keys: Sequence[str]) -> tuple[str, ...]:
        """The group of each image, one that fits nowhere by itself; () where nothing is stated.
        Raises BadInput where no name fits.

        >>> Groups("*_").of(["a_01.png", "a_02.png", "b_01.png"])
        ('a_', 'a_', 'b_')
        >>> Groups(r"patient(\\d+)").of(["x/patient07-1.png", "x/patient07-2.png"])
        ('07', '07')
        """
        if self.pattern is None:
            return ()
        if self.pattern == BY_FOLDER:
            return tuple(PurePosixPath(key).parent.as_posix() for key in keys)
        expression = self._expression()
        matches = [expression.search(key) for key in keys]
        if keys and not any(matches):
            raise BadInput(
                f"--groups {self.pattern} fits no name, such as {keys[0]}; write a regular "
                r"expression with the group in brackets, (.*)_\d+, or a glob that names begin "
                "with, video*_"
            )
        return tuple(m[1] if m and m[1] else key for m, key in zip(matches, keys, strict=True))

    def _expression(self) -> re.Pattern[str]:
        """The pattern as a regular expression with one group. Raises BadInput for another."""
        pattern = self.pattern or ""
        try:
            if "(" not in pattern:
                parts = [{"*": ".*?", "?": "."}.get(one, re.escape(one)) for one in pattern]
                return re.compile(f"(?:^|/)({''.join(parts)})")
            expression = re.compile(pattern)
        except re.error as error:
            raise BadInput(f"--groups {pattern} is no regular expression: {error}") from None
        if expression.groups != 1:
            raise BadInput(
                f"--groups {pattern} has {expression.groups} groups in brackets and needs one, "
                "the part of a name that images of one group share; (?: ) are brackets without"
            )
        return expression


NO_GROUPS = Groups()


def assigned_splits(
    listing: Listing,
    keys: Sequence[str],
    class_of: Mapping[str, str],
    fraction: float,
    groups: Sequence[str],
) -> tuple[str, ...]:
    """The split of each row; all '' where there is one split only."""
    if not class_of:
        return ("",) * len(keys)
    if len(class_of) < len(keys):
        return tuple("test" if key in class_of else "adapt" for key in keys)
    held = hold_out_groups(listing, keys, [class_of[key] for key in keys], fraction, groups)
    return tuple("test" if out else "adapt" for out in held)


def hold_out_groups(
    listing: Listing,
    keys: Sequence[str],
    labels: Sequence[str],
    fraction: float,
    groups: Sequence[str],
) -> tuple[bool, ...]:
    """Whether each row is held out, as `stratify`; a group, of the label that most of its rows
    have, as a whole. Without `groups` runs of consecutive names are told in the log.
    """
    names = [listing.name(key) for key in keys]
    if not groups:
        held = stratify(names, labels, fraction)
        if text := torn_runs(keys, labels, held):
            log.warning("%s", text)
        return held
    of_group: dict[str, Counter[str]] = {}
    for group, label in zip(groups, labels, strict=True):
        of_group.setdefault(group, Counter())[label] += 1
    units = list(of_group)
    kinds = [of_group[unit].most_common(1)[0][0] for unit in units]
    held = stratify([listing.name(unit) for unit in units], kinds, fraction)
    test = dict(zip(units, held, strict=True))
    if len(units) == 1:
        log.warning("all images are of one group (%s), so none is held out for tests", units[0])
    return tuple(test[group] for group in groups)


def torn_runs(keys: Sequence[str], labels: Sequence[str], held: Sequence[bool]) -> str:
    """What to say of consecutive names (frame_0001, frame_0002 ...) that a random split puts on
    both sides; '' where there are none, or where their numbers only count the images of a class.
    """
    torn = [
        [row for _, row in sorted(run)]
        for (before, after), run in _runs(keys).items()
        if (FRAMES.search(f"{before}{after}") or not _of_class(before, labels, run))
        and 0 < sum(held[row] for _, row in run) < len(run)
    ]
    if not torn:
        return ""
    longest = max(torn, key=len)
    first, last = keys[longest[0]], keys[longest[-1]]
    return (
        f"{sum(map(len, torn))} images have consecutive names ({first} ... {last}); if they are "
        "frames of a video, slices or pictures of one thing, they lie on both sides of the "
        f"split and tests look too good: name what belongs together, {way_to_group(first)}"
    )


def way_to_group(frame: str) -> str:
    """The option that puts the run of consecutive names that `frame` is of into one group.

    >>> way_to_group("00012.png"), way_to_group("a/v1_001.png").split(" (")[0]
    ('--groups folder', "--groups '(.*?)\\\\d+\\\\D*[.]'")
    """
    own = Groups(BEFORE_NUMBER).of([frame])[0]
    if own == frame:
        return "--groups folder"
    return f"--groups '{BEFORE_NUMBER}' (the part in brackets), or --groups folder"


def frames_of(keys: Sequence[str]) -> tuple[str, ...]:
    """The first image of each run of consecutive names that are called as frames are."""
    runs = [
        min(run)[1]
        for (before, after), run in _runs(keys).items()
        if FRAMES.search(f"{before}{after}")
    ]
    return tuple(keys[row] for row in runs)


def _runs(keys: Sequence[str]) -> dict[tuple[str, str], list[tuple[int, int]]]:
    """Numbers and rows of each run of consecutive names, by what is before and after the number."""
    runs: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for row, key in enumerate(keys):
        match = COUNTED.fullmatch(PurePosixPath(key).stem)
        if match is None or len(match["number"]) > 12 or _counts_anything(match):
            continue
        before = f"{PurePosixPath(key).parent.as_posix()}/{match['before']}"
        runs.setdefault((before, match["after"]), []).append((int(match["number"]), row))
    return {way: run for way, run in runs.items() if _is_run([number for number, _ in run])}


def _is_run(numbers: list[int]) -> bool:
    """Whether most numbers follow each other."""
    ordered = sorted(set(numbers))
    following = sum(b - a == 1 for a, b in pairwise(ordered))
    return following >= max(SHORTEST_RUN - 1, len(ordered) // 2)


def _of_class(before: str, labels: Sequence[str], run: Sequence[tuple[int, int]]) -> bool:
    """Whether images lie in a folder called as their class, where numbers but count them."""
    own = {labels[row] for _, row in run}
    return len(own) == 1 and own <= set(before.split("/")[:-1])


def _counts_anything(match: re.Match[str]) -> bool:
    """Whether a name is a bare short number, 7 or 42, but not 0007."""
    lettered = re.search(r"[^\W\d_]", match["before"] + match["after"])
    return not lettered and match["number"][0] != "0" and len(match["number"]) < 4
