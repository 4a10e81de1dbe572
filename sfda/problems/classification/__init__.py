"""Classification: one image, one class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from sfda.problems._base import Problem
from sfda.problems._rows import Rows
from sfda.refs import ModelSpec, PredictionsRef
from sfda.types import Scan

if TYPE_CHECKING:
    from torch import Tensor

    from sfda.manifests.labels import SplitContent
    from sfda.manifests.schema import Manifest
    from sfda.problems.classification.network import Classifier, ClassOutput
    from sfda.types import Seen


class Classification(Problem["Classifier", "Tensor", "ClassOutput", "Seen"]):
    """One class an image, out of several."""

    name = "classification"
    default_method = "shot"
    default_validators = ("infomax", "aetta", "agreement")
    held_out_metric = "macro_accuracy"
    main_metrics: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "h_score": ("h_score", "os_star", "unk", "os"),  # where there are unknown samples
        "macro_accuracy": ("overall_accuracy", "macro_accuracy"),
    }
    spec_options = frozenset({"head", "bottleneck_dim"})
    whole_image = True
    one_class_an_image = True
    rejects = True
    annotation_column = "class"
    card_parts = (
        "class_prior",
        "feature_mean",
        "feature_covariance",
        "class_feature_mean",
        "confidence_histogram",
        "calibration",
    )

    @property
    def network(self) -> type[Classifier]:
        """A classifier."""
        from sfda.problems.classification.network import Classifier

        return Classifier

    def in_form_of(self, network: Classifier, spec: ModelSpec) -> Classifier:
        """With a Gaussian head, where the spec has one."""
        from sfda.problems.classification.gaussian_head import fitted_head, with_head

        return with_head(network, fitted_head(network, None)) if spec.gaussian_head else network

    def replaying(self, scan: Scan, ref: PredictionsRef, spec: ModelSpec) -> Scan:
        """Reads the kept logits as long as the network is still the source model."""
        from sfda.problems.classification.inference import replaying

        return replaying(scan, ref, spec)

    def surest_rows(self, ref: PredictionsRef, share: float) -> dict[int, int]:
        """By the kept probability of the likeliest class."""
        from sfda.problems.classification.inference import surest_rows

        return surest_rows(ref, share)

    def answered_classes(self, output: ClassOutput) -> list[int]:
        """The likeliest class."""
        from sfda.problems.classification.inference import answered

        return answered(output)

    def read_columns(
        self, manifest: Manifest, content: SplitContent, rows: Rows | None, header: Sequence[str]
    ) -> None:
        """The columns `class` and `label`, or the label array."""
        from sfda.problems.classification.labels import read_classes

        if manifest.labelled:
            content.labels = read_classes(manifest, content, rows, header)

    def annotation_faults(self, values: list[str], classes: tuple[str, ...]) -> list[int]:
        """Those that are no class."""
        return [n for n, value in enumerate(values) if value not in classes]


EXPORT = Classification
