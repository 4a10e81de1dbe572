"""The panel of each problem that has one: images whose predictions the adaptation changed most."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from sfda.report.problems.detection import draw_box_panel
from sfda.report.problems.pose import draw_pose_panel
from sfda.report.problems.segmentation import draw_panel

PANELS: Mapping[str, Callable[..., bytes]] = MappingProxyType(
    {"segmentation": draw_panel, "detection": draw_box_panel, "pose": draw_pose_panel}
)
