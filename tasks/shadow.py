"""A batch answered by champion and candidate side by side; the champion's answers count."""

from __future__ import annotations

from pathlib import Path

from sfda.building_blocks.device import DeviceName
from sfda.decision.change import ChangeReport
from sfda.errors import BadInput
from sfda.inference.prediction_files import write_predictions
from sfda.loading.opened import manifest_ref, split_ref
from sfda.manifests.write import put
from sfda.refs import ModelRef
from sfda.state_folder import disk_errors
from tasks.change import change_between
from tasks.readable import readable_splits
from tasks.tracking.models import open_model

CANDIDATE = "candidate"  # folder of its answers


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
    manifest, _ = readable_splits(
        champion, manifest_ref(target), [split], skip_unreadable, stated or target
    )
    report = change_between(champion, candidate, split_ref(manifest, split), device)
    write_predictions(*open_model(candidate), manifest, split, out / CANDIDATE, device)
    write_predictions(*open_model(champion), manifest, split, out, device)
    with disk_errors(str(out)):
        put({out / "change.json": report.model_dump_json(indent=1).encode()})
    return report
