"""Detection: boxes with a class each. The network of a spec, and the spec's defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from sfda.errors import BadInput
from sfda.networks import registry
from sfda.networks.detector import Detector
from sfda.networks.grammar import is_foreign
from sfda.problems.spec_checks import chosen_input, foreign_spec, named_twice
from sfda.refs import InputSpec, ModelSpec, Views

BLUR_SHARE = 2.0 / 600  # largest sigma by the image's short side, as LPLD's 2 pixels of 600


def views_for(input: InputSpec | None) -> Views:
    """Usual views: LPLD's colours and blur, but no rectangles of noise.

    Those are `erase: [0.7, 0.5, 0.3]` in its release. On the built-in trays rectangles so often and
    so large, then of one colour each, led every detector to lose a class. Nothing is mirrored.
    """
    sigma = max(0.1, BLUR_SHARE * min(input.size)) if input else None
    return Views(crop=False, flip=False, jittered=0.8, blur_sigma=sigma, erase=0.0)


def defaults(arch: str) -> tuple[InputSpec | None, Views]:
    """Input and usual random views of an architecture; no input where it states none."""
    stated = registry.network_input(arch, "boxes")
    return stated, views_for(stated)


def make_spec(
    arch: str,
    classes: tuple[str, ...],
    *,
    input: InputSpec | None = None,
    views: Views | None = None,
    arch_settings: Mapping[str, Any] | None = None,
    head_layer: str | None = None,
) -> ModelSpec:
    """A spec with what the architecture states filled in; BadInput if it states no input.

    Of an mmdet configuration file the part that says what the model is goes into the spec, so that
    a bundle needs no other file. `arch_settings` are of somebody's own class, see `foreign_spec`.
    """
    stated, _ = defaults(arch)
    chosen = chosen_input(arch, input, stated)
    if chosen.tiled or chosen.keep_ratio or chosen.resize:
        raise BadInput(
            "a detector sees whole images: leave out tiled, keep_ratio and resize; with "
            "`letterbox` the ratio is kept and the rest of the frame filled"
        )
    if len(set(classes)) != len(classes) or not classes:
        twice = ", ".join(named_twice(classes))
        raise BadInput(f"classes must be named, each once; named twice: {twice}")
    config = None
    if not is_foreign(arch):
        arch, config = registry.stored_config(arch, len(classes))
    spec = ModelSpec(
        problem="detection",
        arch=arch,
        classes=classes,
        input=chosen,
        views=views or views_for(chosen),
        head="plain",
        config=config,
    )
    return foreign_spec(spec, len(classes), arch_settings, head_layer)


def build_from_spec(spec: ModelSpec) -> Detector:
    """The detector that a bundle's weights fit, with random weights. Raises BadInput."""
    if spec.code is not None:
        return cast("Detector", registry.native_network(spec, len(spec.classes), "boxes"))
    return registry.detector(spec.arch, len(spec.classes), spec.input.depth, config=spec.config)
