"""Detection: boxes with a class each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from sfda.problems._base import Problem
from sfda.problems._class_score import ClassScore
from sfda.problems._teaching import Guard, TeacherSettings
from sfda.refs import InputSpec
from sfda.types import Images, Losses, TargetInfo

if TYPE_CHECKING:
    from sfda.building_blocks.boxes import Boxes
    from sfda.errors import Concerns
    from sfda.formats.coco import Document
    from sfda.manifests.labels import SplitContent
    from sfda.manifests.schema import Manifest
    from sfda.networks.detector import Detector, DetOutput


class Detection(Problem["Detector", "Sequence[Boxes]", "DetOutput", "tuple[int, Boxes]"]):
    """Any number of boxes an image."""

    name = "detection"
    answer = "boxes"
    default_method = "lpld"
    default_validators = ("entropy", "agreement")
    held_out_metric = "coco_ap50"
    main_metrics: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "coco_ap50": ("coco_ap50", "coco_ap", "voc07_ap50")
    }
    class_score = ClassScore("boxes", "ap50", "AP50", "coco_ap50", "coco_ap")
    smallest_batch = 1  # its batch norm never learns
    has_nothing_class = True
    label_word = "boxes"
    annotations = "boxes"
    card_parts = ("class_prior", "boxes_per_image", "confidence_histogram")
    settings: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "mean_teacher": {  # the loop of LPLD (arXiv:2407.13524) without its distillation
            "schedule": {
                "lr": 3e-4,
                "nesterov": False,
                "weight_decay": 1e-4,
                "decay": "none",
                "batch_size": 1,
                "epochs": 10,
                "clip_norm": 10.0,
            },
            "decay": 0.75,
            "interval": "epoch",
            "threshold": 0.7,
            "buffers": "average",
        },
        "supervised": {
            "schedule": {
                "optimizer": "adamw",
                "lr": 1e-3,
                "weight_decay": 1e-4,
                "decay": "poly",
                "batch_size": 4,
                "epochs": 30,
                "clip_norm": 10.0,
            },
            "lr_scale": {"backbone": 1.0},
            "smoothing": 0.0,
            "append": True,
        },
        "bn": {"schedule": {"drop_last": False}},
        "query": {"diverse": 10},  # images have many parts and so are alike in their means
    }

    @property
    def network(self) -> type[Detector]:
        """A detector, of whatever library."""
        from sfda.networks.detector import Detector

        return Detector

    def start_from_nothing_(self, network: Detector) -> None:
        """Of nothing, frozen batch norm would be no norm at all."""
        network.live_norms = True

    def annotated_loss(self, network: Detector, images: Images, targets: Sequence[Boxes]) -> Losses:
        """Boxes that people drew join the detector's proposals, as is usual with those."""
        return self.loss(network, images, targets, append=True)

    def prepare_student_(self, student: Detector, settings: TeacherSettings) -> None:
        """Freeze batch norm and, as the settings say, a ResNet's first layers."""
        from sfda.problems.detection.teaching import freeze_stem_

        freeze_stem_(student, settings.boxes.freeze_stem)

    def make_guard(self, target: TargetInfo, network: Detector) -> Guard:
        """Counts pseudo-boxes by class and epoch."""
        from sfda.problems.detection.teaching import BoxGuard

        return BoxGuard(target, network.num_classes)

    def scan_batch(self, spec: InputSpec, batch_size: int) -> int:
        """Features are large: 2^19 pixels."""
        from sfda.inference.forward import images_at_once

        return min(batch_size, images_at_once(spec.size))

    def summarised(self, network: Detector) -> nn.Module:
        """The detector with the summary of its boxes, from one pass of its backbone."""
        from sfda.problems.detection.inference import BoxSummariser

        return BoxSummariser(network)

    def read_document(
        self,
        manifest: Manifest,
        content: SplitContent,
        document: Document,
        images: list[Document],
    ) -> list[str]:
        """Images by file name, and their boxes."""
        from sfda.problems.detection.labels import read_boxes

        return read_boxes(manifest, content, document, images)

    def geometry(self, manifest: Manifest, split: str) -> Concerns:
        """Boxes of an image of another size would be cut off, or lie elsewhere."""
        from sfda.problems.detection.labels import geometry_of

        return geometry_of(manifest, split)


EXPORT = Detection
