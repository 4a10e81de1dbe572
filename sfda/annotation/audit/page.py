"""`audit.html`: one page that asks all questions, works without a network, and asks blind.

It holds its pictures, and a content security policy that lets it load and send nothing; its script
and its style are named there by their digests, so that no other runs.
"""

from __future__ import annotations

import base64
import hashlib
import html
import importlib.resources
import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from sfda.annotation.audit.questions import AuditQuestion, AuditRequest, question_text
from sfda.measures.change import CANNOT_TELL, NO, NONE_OF_THESE, YES

PAGE_FILE = "audit.html"
ANSWERS_FORMAT = "sfda-audit-answers"  # what the file of answers calls itself
POLICY = (
    "default-src 'none'; img-src data:; script-src {script}; style-src {style}; "
    "base-uri 'none'; form-action 'none'"
)


class PagePicture(NamedTuple):
    """A question's picture as JPEG, and where it shows a part alone, all of the image."""

    image: bytes
    size: tuple[int, int]  # width and height
    wide: bytes | None
    wide_size: tuple[int, int]


def audit_page(request: AuditRequest, pictures: Mapping[str, PagePicture]) -> bytes:
    """The page, with the pictures of its questions by their ids."""
    template = importlib.resources.files(__package__).joinpath("page.html").read_text("utf-8")
    policy = POLICY.format(
        script=_digest_of(template, "<script>", "</script>"),
        style=_digest_of(template, "<style>", "</style>"),
    )
    title = html.escape(f"{len(request.questions)} questions about {request.manifest}")
    data = _script_json(_content(request, pictures))
    parts = {"@POLICY@": policy, "@TITLE@": title, "@DATA@": data}
    # in one go: a name may hold another part's mark
    return re.sub("|".join(parts), lambda mark: parts[mark[0]], template).encode()


def _content(request: AuditRequest, pictures: Mapping[str, PagePicture]) -> dict[str, Any]:
    options: tuple[str, ...] = (YES, NO) if request.question == "yes or no" else ()
    if request.question == "class":
        options = request.classes
    return {
        "format": ANSWERS_FORMAT,
        "audit": request.id,
        "kind": request.question,
        "options": options,
        "none": NONE_OF_THESE,
        "cannot": CANNOT_TELL,
        "questions": [_entry(request, one, pictures[one.id]) for one in request.questions],
    }


def _entry(request: AuditRequest, question: AuditQuestion, picture: PagePicture) -> dict[str, Any]:
    frame = question.frame
    x, y, width, height = (*question.spot, 0.0, 0.0, 0.0, 0.0)[:4]
    middle = frame.in_picture(x + width / 2, y + height / 2)
    entry: dict[str, Any] = {
        "id": question.id,
        "text": question_text(request, question),
        "image": _address(picture.image),
        "size": picture.size,
        "frame": frame[:4],
        "centre": [frame.shown_width / 2, frame.shown_height / 2],
    }
    if question.choices:
        entry["first"] = question.choices
    if question.spot and request.question != "place":
        entry["centre"] = [round(value, 2) for value in middle]
    if picture.wide:
        entry["wide"] = _address(picture.wide)
        entry["wideSize"] = picture.wide_size
    return entry


def _address(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def _digest_of(template: str, opening: str, closing: str) -> str:
    """How a content security policy names the one script, or style, in the template."""
    content = template.partition(opening)[2].partition(closing)[0]
    digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def _script_json(value: object) -> str:
    r"""JSON that may stand in a script element: nothing in it ends the element.

    >>> _script_json("</script>")
    '"\\u003c/script\\u003e"'
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text
