"""Events that Prefect's server is told of, so that automations can act on them."""

from __future__ import annotations

from typing import Literal

from prefect.events import emit_event
from prefect.settings import get_current_settings

from sfda.manifests.growing import Change
from sfda.refs import ManifestRef, Version

NEW_VERSION = "sfda.manifest.updated"
PROMOTED = "sfda.model.promoted"


def announce_version(
    target: str,
    manifest: ManifestRef,
    version: int,
    change: Change,
    *,
    source: str,
    name: str,
    adapts: Literal["here", "elsewhere"],
) -> None:
    """A target of this name has a new version, that `source` is to be adapted to as `name`.

    The label `sfda.adapts` is "here" where the flow that says so goes on to adapt.
    """
    emit_event(
        event=NEW_VERSION,
        resource={
            "prefect.resource.id": f"sfda.manifest.{target}",
            "prefect.resource.name": target,
            "sfda.adapts": adapts,
        },
        payload={
            "uri": manifest.path,
            "sha256": manifest.sha256,
            "version": version,
            "change": change.text(),
            "source": source,
            "name": name,
        },
    )


def announce_promotion(version: Version, before: str | None) -> None:
    """A version is champion now; `before` is the number of the one that was.

    Where no server runs nobody could hear it, and none is started for it.
    """
    if not get_current_settings().api.url:
        return
    emit_event(
        event=PROMOTED,
        resource={
            "prefect.resource.id": f"sfda.model.{version.name}",
            "prefect.resource.name": version.name,
        },
        payload={
            "uri": version.uri,
            "name": version.name,
            "version": version.version,
            "previous": before,
        },
    )
