"""The panel of an adaptation: images whose predictions it changed most."""

from __future__ import annotations

from torch import nn

from sfda.building_blocks.device import DeviceName, choose, to_device
from sfda.loading.opened import open_part
from sfda.problems.registry import PROBLEMS
from sfda.refs import ModelSpec, SplitRef


def draw_panel(
    source: nn.Module,
    adapted: nn.Module,
    spec: ModelSpec,
    shown: SplitRef,
    title: str,
    device: DeviceName,
    *,
    labelled: bool,
) -> bytes | None:
    """A PNG of what changed most, with the truth where it is `labelled`; None where the problem has
    no such panel.
    """
    chosen = choose(device)
    opened = open_part(shown, spec, labelled=labelled)
    before, after = to_device(source, chosen), to_device(adapted, chosen)
    return PROBLEMS[spec.problem].draw_changed(
        before, after, opened, spec, f"{title}  (split {shown.split})"
    )
