"""Answers to an audit as labels: the next version of the target's manifest, as `sfda answer` writes
it, where an answer says something of a whole row.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from sfda.annotation.audit.answers import Answers
from sfda.annotation.audit.questions import AuditRequest
from sfda.annotation.carry_over import note_annotations
from sfda.annotation.next_version import RowAnnotations, put_version
from sfda.annotation.take import next_path
from sfda.errors import BadInput, listed
from sfda.formats.request import Request, RequestedRow
from sfda.manifests.digests import file_digest
from sfda.manifests.opening import open_manifest
from sfda.manifests.rows import read_split
from sfda.state_folder import data_folder


class LabelsWritten(NamedTuple):
    """A manifest's next version: how many answers became labels, and how many say no class of
    it or were there already.
    """

    manifest: Path
    labels: int
    left_out: int


def write_labels(request: AuditRequest, answers: Answers, out: Path | None = None) -> LabelsWritten:
    """Write the next version beside the target's manifest, or to `out`.

    Raises BadInput where answers are of pixels, boxes or joints, which do not say what all of an
    image shows, and where nothing is new.
    """
    if request.question != "class" or any(one.spot for one in request.questions):
        raise BadInput(
            f"answers about {request.change.units} are no labels of whole images; leave out "
            "--write-manifest"
        )
    target = Path(request.target.manifest.path)
    if not target.is_file() or file_digest(target) != request.target.manifest.sha256:
        raise BadInput(
            f"{target} is not the manifest that this audit was made for, or was changed since; "
            "put that one there, or audit it anew"
        )
    manifest = open_manifest(target, data_root=data_folder())
    split = read_split(manifest.unlabelled(), request.target.split)
    known = {split.row_ids[int(row)] for row in split.annotations.rows} if split.annotations else ()
    there = set(split.row_ids)
    if gone := [one.key for one in request.questions if one.row not in there]:
        raise BadInput(f"{target} has no longer the images {listed(gone)}; audit it anew")
    classes = manifest.classes if isinstance(manifest.classes, tuple) else request.classes
    rows: RowAnnotations = {}
    for one in request.questions:
        answer = answers.get(one.id)
        if answer in classes and one.row not in known:
            row = RequestedRow(
                row=one.row,
                key=one.key,
                file=one.picture,
                height=one.frame.height,
                width=one.frame.width,
                confidence=1.0,
            )
            rows[one.row] = (row, answer)
    if not rows:
        raise BadInput(f"no answer is new to {target}: nothing was written")
    path = out or next_path(target, manifest)
    put_version(manifest, _as_request(request, classes, rows), rows, path)
    note_annotations(path)
    return LabelsWritten(path, len(rows), len(answers) - len(rows))


def _as_request(request: AuditRequest, classes: tuple[str, ...], rows: RowAnnotations) -> Request:
    """The same as a request for labels."""
    return Request(
        problem=request.problem,
        manifest=request.manifest,
        manifest_sha256=request.target.manifest.sha256,
        split=request.target.split,
        column=request.column,
        classes=classes,
        by="audit",
        seed=request.seed,
        model=request.candidate.uri,
        model_sha256=request.candidate.sha256,
        copied=True,
        requested=tuple(row for row, _ in rows.values()),
    )
