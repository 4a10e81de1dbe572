"""Pose: the joints of one person a row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from sfda.formats.keypoints import file_of
from sfda.problems._base import Problem
from sfda.problems._class_score import ClassScore
from sfda.problems._labels import Array
from sfda.refs import InputSpec, ModelSpec, Report

if TYPE_CHECKING:
    from sfda.augment.geometric import WarpMaker
    from sfda.augment.photometric import Several, ViewMaker
    from sfda.building_blocks.heatmaps import PoseTargets
    from sfda.errors import Concerns
    from sfda.formats.coco import Document
    from sfda.formats.readers import Reader
    from sfda.loading.opened import Opened
    from sfda.manifests.labels import SplitContent
    from sfda.manifests.rows import Split
    from sfda.manifests.schema import Manifest
    from sfda.problems.pose.inference import Joints
    from sfda.problems.pose.network import PoseNet, PoseOutput


class Pose(Problem["PoseNet", "PoseTargets", "PoseOutput", "tuple[int, Joints]"]):
    """A heatmap for every joint of one person."""

    name = "pose"
    answer = "joints"
    default_method = "post"
    default_validators = ("agreement", "entropy")
    held_out_metric = "pck_at_0.1"
    main_metrics: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "pck_at_0.1": ("pck_at_0.1", "pck_at_0.2", "oks_ap")
    }
    class_score = ClassScore("count", "pck", "PCK at 0.1", "pck_at_0.1", "oks_ap", "persons")
    geometric = True
    has_nothing_class = True
    label_word = "joints"
    manifest_fields = frozenset({"skeleton", "padding"})
    annotations = "keypoints"
    settings: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "mean_teacher": {  # POST (arXiv:2308.13954) with consistency of predictions alone
            "schedule": {
                "optimizer": "adam",
                "lr": 1e-4,
                "weight_decay": 0.0,
                "decay": "none",
                "batch_size": 32,
                "drop_last": True,
                "epochs": 30,
            },
            "lr_scale": {"backbone": 1.0, "neck": 0.0, "head": 0.0},
            "decay": 0.999,
        },
        "supervised": {  # optimiser and batch of POST's source model; the rate is ours
            "schedule": {
                "optimizer": "adam",
                "lr": 1e-3,
                "weight_decay": 0.0,
                "decay": "poly",
                "batch_size": 32,
                "epochs": 40,
            },
            "lr_scale": {"backbone": 1.0},
            "smoothing": 0.0,
        },
        "query": {"diverse": 10},  # images have many parts and so are alike in their means
    }

    @property
    def network(self) -> type[PoseNet]:
        """A network of heatmaps."""
        from sfda.problems.pose.network import PoseNet

        return PoseNet

    def manifest_options(self, manifest: Manifest) -> dict[str, Any]:
        """How the joints hang together, and how much there is around a person."""
        return {"skeleton": manifest.skeleton, "padding": manifest.padding}

    def manifest_concern(self, manifest: Manifest, spec: ModelSpec) -> str:
        """Crops of another padding than those that the model was trained on."""
        if spec.padding is None or spec.padding == manifest.padding:
            return ""
        return (
            f"{manifest.name} cuts persons out at padding {manifest.padding:g}, and the model was "
            f"trained at {spec.padding:g}: its joints will be less exact; write `padding: "
            f"{spec.padding:g}` into {manifest.path.name}, or make it anew with `sfda manifest "
            "--model`"
        )

    def outputs_on_views(
        self,
        network: PoseNet,
        maker: ViewMaker | WarpMaker,
        stored: Several,
        epoch: int,
        rows: Array,
        spec: InputSpec,
        device: torch.device,
    ) -> tuple[PoseOutput, PoseOutput]:
        """Heatmaps of views that were moved, brought back to the frame of the images."""
        from sfda.augment.geometric import WarpMaker
        from sfda.problems.pose.inference import outputs_on_moved

        assert isinstance(maker, WarpMaker)  # as `geometric` says
        return outputs_on_moved(network, maker, stored, epoch, rows, spec, device)

    def make_card(
        self,
        network: PoseNet,
        opened: Opened,
        spec: ModelSpec,
        facts: dict[str, Any],
        report: Report,
        device: torch.device,
    ) -> None:
        """None: what a source of poses ships is its prior, `sfda train-prior`."""

    def reach_of(self, split: Split, row: int) -> float:
        """tau of PCK at 0.1."""
        from sfda.problems.pose.change import reach_of

        return reach_of(split, row)

    def manifest_fault(self, manifest: Manifest) -> str:
        """Names of the skeleton that are no joint's."""
        joints = manifest.classes if isinstance(manifest.classes, tuple) else ()
        odd = manifest.skeleton.faults(joints) if manifest.skeleton else []
        return f"`skeleton` names what is no joint in `classes`: {', '.join(odd)}" if odd else ""

    def read_document(
        self,
        manifest: Manifest,
        content: SplitContent,
        document: Document,
        images: list[Document],
    ) -> list[str]:
        """A row a person: where it is, and its joints."""
        from sfda.problems.pose.labels import read_persons

        return read_persons(manifest, content, document, images)

    def geometry(self, manifest: Manifest, split: str) -> Concerns:
        """Joints and boxes that lie outside of their images."""
        from sfda.problems.pose.labels import geometry_of

        return geometry_of(manifest, split)

    def row_file(self, key: str) -> str:
        """The image that the person is in."""
        return file_of(key)

    def image_file(self, key: str) -> str:
        """All of that image."""
        return file_of(key)

    def reader(self, manifest: Manifest, content: SplitContent, images: Reader) -> Reader:
        """A square crop around each person."""
        from sfda.formats.keypoints import CropReader

        boxes = content.crops or [None] * len(content.keys)
        return CropReader(images, tuple(boxes), manifest.padding)

    def seen_facts(self, split: Split) -> str:
        """Where a person is, is no label."""
        reader: Any = split.reader
        return f"{reader.boxes} {reader.padding}\n"


EXPORT = Pose
