"""Segmentation: one class a pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from sfda.problems._base import Problem
from sfda.problems._class_score import ClassScore
from sfda.problems._labels import LabelSet
from sfda.problems._rows import Rows
from sfda.refs import InputSpec

if TYPE_CHECKING:
    from torch import Tensor

    from sfda.formats.readers import Reader
    from sfda.images.preprocess import Stack
    from sfda.manifests.labels import SplitContent
    from sfda.manifests.rows import Split
    from sfda.manifests.schema import Manifest
    from sfda.problems.segmentation.inference import MaskOfRow
    from sfda.problems.segmentation.network import Segmenter, SegOutput

MASK_CLASSES = 255  # a mask is 8 bits, of which one value means "does not count"


class Segmentation(Problem["Segmenter", "Tensor", "SegOutput", "MaskOfRow"]):
    """One class a pixel, out of several."""

    name = "segmentation"
    answer = "masks"
    default_method = "mean_teacher"
    default_validators = ("agreement", "infomax")
    held_out_metric = "mean_iou"
    main_metrics: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "mean_iou": ("mean_iou", "mean_dice", "pixel_accuracy")
    }
    class_score = ClassScore("pixels", "iou", "IoU", "mean_iou", "pixel_accuracy")
    shows_padding = True
    labels_are_files = True
    label_word = "masks"
    manifest_fields = frozenset({"ignore", "values"})
    annotation_column = "mask"
    card_parts = (
        "class_prior",
        "feature_mean",
        "feature_covariance",
        "class_feature_mean",
        "confidence_histogram",
        "calibration",
        "class_ratio",
    )
    settings: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "mean_teacher": {
            "schedule": {
                "optimizer": "adamw",
                "lr": 1e-4,
                "weight_decay": 1e-2,
                "decay": "poly",
                "batch_size": 8,
                "epochs": 20,
            },
            "decay": 0.999,  # as CoTTA's
            "threshold": 0.9,
            "by_class": True,
            "ensemble": (1.0,),
            "cut": 0.5,
        },
        # all of the network is new: plain cross-entropy, as for AdaEnt's source model
        "supervised": {
            "schedule": {
                "optimizer": "adam",
                "lr": 1e-3,
                "weight_decay": 1e-4,
                "decay": "poly",
                "batch_size": 8,
                "epochs": 40,
            },
            "lr_scale": {"backbone": 1.0},
            "smoothing": 0.0,
        },
        "bn": {"schedule": {"batch_size": 8}},
        "query": {"diverse": 10},  # images have many parts and so are alike in their means
    }

    @property
    def network(self) -> type[Segmenter]:
        """A segmenter."""
        from sfda.problems.segmentation.network import Segmenter

        return Segmenter

    def scan_batch(self, spec: InputSpec, batch_size: int) -> int:
        """Features are as large as the images: 2^19 pixels."""
        from sfda.inference.forward import images_at_once

        return min(batch_size, images_at_once(spec.size))

    def test_view(self, stored: Stack, spec: InputSpec) -> Stack:
        """Whole frames, as every pixel has a prediction."""
        return stored

    def manifest_fault(self, manifest: Manifest) -> str:
        """What is wrong with the values of its masks."""
        count = manifest.num_classes or 0
        if count > MASK_CLASSES:
            return f"masks can hold {MASK_CLASSES} classes, not {count}"
        values = manifest.mask_values
        if len(values) != count:
            return f"`values` needs one value for each of {count} classes, not {len(values)}"
        if len(set(values)) < count or not all(0 <= value <= 65535 for value in values):
            return "`values` must be distinct numbers from 0 to 65535"
        if manifest.ignore in values:
            return (
                f"`ignore` {manifest.ignore} is also the value of a class; write `ignore: null` if "
                "every pixel counts, or name another value"
            )
        return ""

    def read_columns(
        self, manifest: Manifest, content: SplitContent, rows: Rows | None, header: Sequence[str]
    ) -> None:
        """The column `mask`, or the mask array; groups, spacings and shares of classes."""
        from sfda.manifests.columns import read_more_columns
        from sfda.problems.segmentation.labels import read_masks

        if manifest.labelled:
            content.label_files = read_masks(manifest, content, rows if "mask" in header else None)
        read_more_columns(manifest, content, rows, header)

    def labels_of(
        self, manifest: Manifest, content: SplitContent, images: Reader
    ) -> LabelSet | None:
        """Masks, not yet read."""
        from sfda.problems.segmentation.labels import masks_of

        return masks_of(manifest, content, images)

    def seen_facts(self, split: Split) -> str:
        """Groups and shares of classes: methods use them."""
        priors = None if split.priors is None else split.priors.tolist()
        return f"{split.groups} {priors}\n"


EXPORT = Segmentation
