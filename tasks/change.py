"""How many answers two models change, from one look of each at the same images."""

from __future__ import annotations

from sfda.building_blocks.device import DeviceName, choose, to_device
from sfda.decision.change import ChangeReport, Side, scan_change
from sfda.loading.opened import open_part
from sfda.refs import ModelRef, SplitRef
from tasks.tracking.models import open_model


def open_side(model: ModelRef, target: SplitRef, device: DeviceName) -> Side:
    """A model on the device, and images without labels as it wants them. Raises BadInput."""
    network, spec = open_model(model)
    return Side(to_device(network, choose(device)), spec, open_part(target, spec))


def change_between(
    before: ModelRef, after: ModelRef, target: SplitRef, device: DeviceName = "auto"
) -> ChangeReport:
    """The answers to a target that differ between two models. Raises BadInput."""
    one, other = (open_side(model, target, device) for model in (before, after))
    return scan_change(
        one.network,
        other.network,
        one.opened,
        one.spec,
        other.spec,
        choose(device),
        opened_b=other.opened,
    ).report
