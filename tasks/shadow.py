"""A batch answered by champion and candidate side by side; the champion's answers count."""

from __future__ import annotations

import os
from pathlib import Path

from sfda.bounds.limits import YAML_BYTES
from sfda.building_blocks.device import DeviceName
from sfda.decision.change import ChangeReport
from sfda.errors import BadInput
from sfda.inference.prediction_files import write_predictions
from sfda.loading.opened import manifest_ref, split_ref
from sfda.manifests.write import put
from sfda.refs import ModelRef
from sfda.sandbox.crossing import opened_within
from sfda.state_folder import disk_errors
from tasks.change import change_between
from tasks.readable import readable_splits
from tasks.tracking.models import open_model

CANDIDATE = "candidate"  # folder of its answers
REPORT = "change.json"


def answer_in_shadow(
    champion: ModelRef,
    candidate: ModelRef,
    target: str,
    split: str,
    out: Path,
    device: DeviceName = "auto",
    skip_unreadable: float | None = None,
    stated: str | None = None,
) -> ChangeReport:
    """Write the champion's answers to `out`, the candidate's below it, and `change.json`: how many
    of the answers differ. `stated` is the target as a person named it. Raises BadInput.
    """
    if champion.sha256 == candidate.sha256:
        raise BadInput(f"{champion.uri} and {candidate.uri} are the same model: nothing to compare")
    _refuse_other_report(out / REPORT)
    manifest, _ = readable_splits(
        champion, manifest_ref(target), [split], skip_unreadable, stated or target
    )
    report = change_between(champion, candidate, split_ref(manifest, split), device)
    write_predictions(*open_model(candidate), manifest, split, out / CANDIDATE, device)
    write_predictions(*open_model(champion), manifest, split, out, device)
    with disk_errors(str(out)):
        put({out / REPORT: report.model_dump_json(indent=1).encode()})
    return report


def _refuse_other_report(file: Path) -> None:
    """Raise BadInput where a file of a person's lies under the name of ours."""
    try:
        with opened_within(file.parent.resolve(), file.name, limit=YAML_BYTES) as opened:
            ChangeReport.model_validate_json(opened.read())
    except (BadInput, ValueError):
        if os.path.lexists(file):
            raise BadInput(
                f"{file} was not made by `sfda shadow`; move it away, or name another folder than "
                f"{file.parent}"
            ) from None
