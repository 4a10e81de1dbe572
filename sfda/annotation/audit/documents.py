"""An audit as tools read it: Label Studio, CVAT (COCO JSON) and a plain CSV.

None of them says what a model answers: a task begins without a prediction.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from sfda.annotation.audit.questions import AuditQuestion, AuditRequest, question_text
from sfda.annotation.request_files import LOCAL
from sfda.formats.table import csv_bytes

POINT = "here"  # what a joint is called in tools: the question says which it is
CSV_FILE = "request.csv"
CSV_HEADER = ("unit", "picture", "question", "answer")
README_FILE = "README.txt"


def tool_documents(request: AuditRequest) -> dict[str, bytes]:
    """The files for tools, by name."""
    return {
        "label_studio.json": _json(_tasks(request)),
        "label_studio.xml": _interface(request).encode(),
        "cvat_coco.json": _json(_coco(request)),
        CSV_FILE: _csv(request),
        README_FILE: _readme(request).encode(),
    }


def asked_text(request: AuditRequest, question: AuditQuestion) -> str:
    """The question with the first choices, for tools that list classes in one order.

    The page shows these classes first.
    """
    text = question_text(request, question)
    if not question.choices:
        return text
    return f"{text} ({', '.join(question.choices)}, or another)"


def _interface(request: AuditRequest) -> str:
    """Label Studio's labelling interface."""
    options = "\n".join(f"    <Choice value={quoteattr(name)}/>" for name in request.options)
    point = ""
    if request.question == "place":
        point = (
            '  <KeyPointLabels name="joint" toName="image">\n'
            f"    <Label value={quoteattr(POINT)}/>\n  </KeyPointLabels>\n"
        )
    return (
        '<View>\n  <Header value="$question"/>\n'
        '  <Image name="image" value="$image" zoom="true" zoomControl="true"/>\n'
        f'{point}  <Choices name="class" toName="image" choice="single">\n{options}\n'
        "  </Choices>\n</View>\n"
    )


def _tasks(request: AuditRequest) -> list[dict[str, Any]]:
    return [
        {
            "data": {
                "image": LOCAL + quote(question.picture),
                "question": asked_text(request, question),
                "row": question.id,
                "file": question.picture,
            }
        }
        for question in request.questions
    ]


def _coco(request: AuditRequest) -> dict[str, Any]:
    """Pictures without an annotation: the answer is a tag or a box around all; or a point."""
    categories: list[dict[str, Any]] = [{"name": name} for name in request.options]
    if request.question == "place":
        categories.append({"name": POINT, "keypoints": [POINT], "skeleton": []})
    return {
        "images": [
            {
                "id": number,
                "file_name": question.picture,
                "width": question.frame.shown_width,
                "height": question.frame.shown_height,
                "row": question.id,
            }
            for number, question in enumerate(request.questions, start=1)
        ],
        "annotations": [],
        "categories": [{"id": n, **category} for n, category in enumerate(categories, start=1)],
    }


def _csv(request: AuditRequest) -> bytes:
    point = ("x", "y") if request.question == "place" else ()
    rows: list[Sequence[str]] = [(*CSV_HEADER, *point)]
    rows += [
        (question.id, question.picture, asked_text(request, question), "", *("" for _ in point))
        for question in request.questions
    ]
    return csv_bytes(rows)


def _readme(request: AuditRequest) -> str:
    how = "write `yes`, `no` or `cannot tell` as `answer`"
    classes = ""
    if request.question == "class":
        how = "write a class, `none of these` or `cannot tell` as `answer`"
        classes = "\nClasses: " + ", ".join(request.classes) + "\n"
    if request.question == "place":
        how = "write x and y, in pixels of the picture, or `cannot tell` as `answer`"
    return f"""Audit {request.id}: {len(request.questions)} questions about {request.manifest}

Two models answer differently here; a person says what is right, without knowing which is which.
Answer in the order of the questions. You may stop at any time and hand in what there is.

audit.html         open it in a browser: one question at a time, by keyboard or touch. It needs no
                   network, keeps answers in the browser and saves them as a file.
request.csv        the same questions with pictures/: {how}.
label_studio.json  tasks for Label Studio, label_studio.xml its labelling interface; the folder is
                   LOCAL_FILES_DOCUMENT_ROOT.
cvat_coco.json     the same for CVAT: tag each picture (joints: a point), or draw a box around all.
audit.json         what the models answer. Do not send it to the person who answers: audit.html,
                   or request.csv with pictures/, is all that is needed.
{classes}
Answers come back with: sfda audit THIS_FOLDER ANSWERS
"""


def _json(value: Sequence[Any] | dict[str, Any]) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode()
