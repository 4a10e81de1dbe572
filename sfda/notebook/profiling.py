"""The profile of images in a notebook: what can be seen of them before anything is adapted."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sfda.adaptation.plan import make_plan
from sfda.building_blocks.device import choose, to_device
from sfda.loading.opened import Opened, shift_of
from sfda.notebook.images import ImagesLike, load_for, readable_images
from sfda.notebook.models import LoadedModel, ModelLike, bundle_ref
from sfda.profiling.findings import TargetProfile
from sfda.profiling.target import profile_part, profile_target, subject_of, usual_method
from sfda.refs import InputSpec, ManifestRef, ModelRef, Profile, SplitRef
from sfda.settings import AdaptSettings, DeviceName, Prior
from sfda.state_folder import temporary_state
from sfda.weights.source_card import Card, read_card


def profile_images(
    model: ModelLike,
    images: ImagesLike,
    *,
    method: str | None = None,
    settings: Mapping[str, Any] | None = None,
    prior: Prior | None = None,
    seed: int = 0,
    split: str = "adapt",
    device: DeviceName = "auto",
    skip_unreadable: float | None = None,
    head: str | None = None,
    classes: Sequence[str] | None = None,
    input: InputSpec | None = None,
) -> TargetProfile:
    """What can be seen of images without labels, and whether a model should be adapted to them.

    Of those that an adaptation would learn from, 512 at most are looked at. `prior` are the shares
    of their classes, where they are known. Raises BadInput.
    """
    asked = AdaptSettings.from_settings(
        {
            "method": method,
            "settings": dict(settings) if settings else None,
            "prior": prior,
            "seed": seed,
            "split": split,
            "device": device,
            "skip_unreadable": skip_unreadable,
        },
        "options",
    )
    loaded = load_for(model, images, head, classes, input)
    with temporary_state(), tempfile.TemporaryDirectory(prefix="sfda-") as scratch:
        folder, splits = Path(scratch, "images"), (split, "test")
        target, _ = readable_images(images, loaded, folder, splits, asked.skip_unreadable)
        ref = bundle_ref(loaded, Path(scratch, "source"))
        plan = make_plan(ref, target, usual_settings(ref, target, asked), bundle=Path(ref.uri))
        chosen = choose(device)
        network = to_device(copy.deepcopy(loaded.network), chosen)
        part = plan.on(target)
        return profile_part(network, loaded.spec, _card_of(loaded), part, asked, chosen)


def usual_settings(ref: ModelRef, target: ManifestRef, asked: AdaptSettings) -> AdaptSettings:
    """What is asked for, with the method that `auto` takes where nothing speaks against it."""
    method = usual_method(ref.problem, shift_of(target, ref), asked.method)
    return asked.model_copy(update={"method": method})


def profile_of_opened(
    source: LoadedModel, target: SplitRef, opened: Opened, answers: Profile, asked: AdaptSettings
) -> TargetProfile:
    """The same of images that are open, and of which the source's answers are kept."""
    chosen = choose(asked.device)
    network = to_device(copy.deepcopy(source.network), chosen)
    subject = subject_of(network, source.spec, _card_of(source), target, opened, answers)
    return profile_target(subject, asked, chosen)


def _card_of(model: LoadedModel) -> Card | None:
    """The card of its bundle."""
    return read_card(model.folder) if model.folder and model.card else None
