"""Classes as texts, for a guide with a text encoder (docs/methods/guided.md, section 1.4)."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sfda.bounds.files import read_bounded
from sfda.bounds.limits import YAML_BYTES
from sfda.errors import BadInput, listed
from sfda.settings import GuideSettings

log = logging.getLogger("sfda")
USUAL_TEMPLATE = "a photo of a {}."
SAYS_NOTHING = re.compile(r"(class|label|cls|c|id)?[ _-]?\d+", re.IGNORECASE)


class ClassTexts(NamedTuple):
    """What the classes are called, in their order, and the sentences that they stand in."""

    names: tuple[str, ...]
    templates: tuple[str, ...]


def class_texts(settings: GuideSettings, classes: Sequence[str]) -> ClassTexts:
    """The texts of the classes: those of the settings' files, else the classes' own names with
    spaces for underscores. Raises BadInput where two classes have one text.
    """
    names = text_lines(settings.names, "names of classes") if settings.names else tuple(classes)
    if len(names) != len(classes):
        raise BadInput(
            f"{settings.names} has {len(names)} names, and the model {len(classes)} classes: write "
            f"one a line, in the order {listed(list(classes))}"
        )
    texts = tuple(name.replace("_", " ") for name in names)
    if twice := sorted({text for text in texts if texts.count(text) > 1}):
        raise BadInput(
            f"several classes have the text {listed(twice)}, so a text encoder cannot tell them "
            "apart; give them names with --guide-names FILE"
        )
    if empty := names_of_nothing(texts):
        log.warning(
            "names of classes say nothing of what an image shows (%s); give them others with "
            "--guide-names FILE",
            listed(empty),
        )
    if not settings.templates:
        return ClassTexts(texts, (USUAL_TEMPLATE,))
    templates = text_lines(settings.templates, "templates")
    wrong = [template for template in templates if template.count("{}") != 1]
    if wrong or not templates:
        shown = f": '{wrong[0][:80]}' has not" if wrong else ", one a line"
        raise BadInput(f"{settings.templates} needs sentences with one {{}} each{shown}")
    return ClassTexts(texts, templates)


def names_of_nothing(texts: Sequence[str]) -> list[str]:
    """Those that say nothing of what a picture shows.

    >>> names_of_nothing(["dog", "0", "C17", "class_3"])
    ['0', 'C17', 'class_3']
    """
    return [text for text in texts if SAYS_NOTHING.fullmatch(text.strip())]


def text_lines(file: str, what: str) -> tuple[str, ...]:
    """The lines of a small text file that are not empty. Raises BadInput."""
    try:
        text = read_bounded(Path(file), YAML_BYTES).decode("utf-8")
    except (OSError, ValueError) as error:
        raise BadInput(f"{what} in {file} cannot be read: {error}") from None
    return tuple(line.strip() for line in text.splitlines() if line.strip())
