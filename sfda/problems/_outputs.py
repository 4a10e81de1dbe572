"""What a problem is asked about its networks' outputs: how they are had, kept, scored, measured and
drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from sfda.problems._labels import Array
from sfda.problems._rows import ProblemFolder
from sfda.refs import InputSpec, ModelSpec, PredictionsRef, Profile, Report, Views
from sfda.types import Scan

if TYPE_CHECKING:
    from sfda.augment.geometric import WarpMaker
    from sfda.augment.photometric import Several, ViewMaker
    from sfda.images.preprocess import Stack
    from sfda.inference.served import ServedModel
    from sfda.inference.summaries import Summary
    from sfda.loading.opened import Opened
    from sfda.manifests.rows import Split
    from sfda.measures.change import Claim, ImageUnits, Unit
    from sfda.measures.opinions import Opinions, PoolSize
    from sfda.measures.resampled import Resampled
    from sfda.measures.tally import Tally
    from sfda.weights.source_card import Card

Net = TypeVar("Net", bound=nn.Module)  # a problem's networks
NetOutput = TypeVar("NetOutput")  # what they say of a batch
Prediction = TypeVar("Prediction")  # what is made of that, for a row or several
SplitInference = Callable[[nn.Module], Iterator[Any]]
Evaluator = Callable[[nn.Module, float | None], Report]


class OutputQuestions(ProblemFolder, Generic[Net, NetOutput, Prediction]):
    """What networks say of images, and what becomes of it. Methods raise BadInput."""

    geometric: ClassVar[bool] = False  # views are moved, each on its own, and outputs brought back
    whole_image: ClassVar[bool] = False  # probabilities are of the image itself, not of its parts
    one_class_an_image: ClassVar[bool] = False  # and no more than that
    has_nothing_class: ClassVar[bool] = False  # the last probability is of "nothing there"
    card_parts: ClassVar[tuple[str, ...]] = ()  # tensors that a source card should hold

    def infer(
        self,
        network: Net,
        opened: Opened,
        spec: ModelSpec,
        device: torch.device,
        span: tuple[int, int],
    ) -> Iterator[Prediction]:
        """What a network makes of the rows of `span` (first, one after the last), in order."""
        outputs: Iterator[Prediction] = self._file("inference").infer_rows(
            network, opened, spec, device, span
        )
        return outputs

    def at_once(self, spec: ModelSpec) -> int:
        """Images that `infer` shows a network at once: parts begin at multiples of it."""
        return int(self._file("inference").at_once(spec))

    def to_arrays(self, output: Prediction) -> dict[str, Array]:
        """One output of `infer` as arrays that can be kept."""
        arrays: dict[str, Array] = self._file("inference").to_arrays(output)
        return arrays

    def from_arrays(self, arrays: dict[str, Array], device: torch.device) -> Prediction:
        """The output of `infer` that `to_arrays` was of."""
        output: Prediction = self._file("inference").from_arrays(arrays, device)
        return output

    def keep_outputs(
        self, outputs: Iterable[Prediction], spec: ModelSpec, part: Path, size: int
    ) -> Profile:
        """Keep what `infer` gives of all `size` images in the folder `part`: pseudo-labels. What
        may be shown of them.
        """
        profile: Profile = self._file("inference").keep_outputs(outputs, spec, part, size)
        return profile

    def replaying(self, scan: Scan, ref: PredictionsRef, spec: ModelSpec) -> Scan:
        """A scan that need not look again at what was kept; by default it looks."""
        return scan

    def scan_batch(self, spec: InputSpec, batch_size: int) -> int:
        """Images of a scan's batch, at most `batch_size`."""
        return batch_size

    def test_view(self, stored: Stack, spec: InputSpec) -> Stack:
        """What a network is shown of stored images in a test: the middle."""
        from sfda.images.preprocess import centre_crop

        return centre_crop(stored, spec.size)

    def view_maker(self, spec: InputSpec, views: Views, *, seed: int) -> ViewMaker | WarpMaker:
        """What makes weak and strong views of images."""
        from sfda.augment.geometric import WarpMaker
        from sfda.augment.photometric import ViewMaker

        return (WarpMaker if self.geometric else ViewMaker)(spec, views, seed=seed)

    def outputs_on_views(
        self,
        network: Net,
        maker: ViewMaker | WarpMaker,
        stored: Several,
        epoch: int,
        rows: Array,
        spec: InputSpec,
        device: torch.device,
    ) -> tuple[NetOutput, NetOutput]:
        """What a network says of a weak and a strong view, in the frame of the images."""
        from sfda.augment.photometric import ViewMaker
        from sfda.inference.views import outputs_on_pair

        assert isinstance(maker, ViewMaker)  # as `view_maker` gives where views are not moved
        return outputs_on_pair(network, maker, stored, epoch, rows, spec, device)

    def summarise(self, output: NetOutput | Summary) -> Summary:
        """Image-level scores and features of a batch, for queries; `output` is what the network of
        `summarised` gives.
        """
        summary: Summary = self._file("inference").summarise_output(output)
        return summary

    def summarised(self, network: Net) -> nn.Module:
        """The network whose output `summarise` takes."""
        return network

    def prediction_table(
        self, network: Net, spec: ModelSpec, opened: Opened, device: torch.device, out: Path
    ) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
        """Header and rows of `predictions.csv`; further files go below `out`."""
        table: tuple[Sequence[str], Iterable[Sequence[Any]]]
        table = self._file("inference").prediction_table(network, spec, opened, device, out)
        return table

    @property
    def served(self) -> type[ServedModel]:
        """What a deployed bundle is loaded as."""
        kind: type[ServedModel] = self._file("served").Served
        return kind

    # evaluation

    def make_evaluator(
        self,
        opened: Opened,
        spec: ModelSpec,
        device: torch.device,
        infer: SplitInference,
        *,
        unknown: bool = True,
    ) -> Evaluator:
        """How to evaluate networks on a labelled split; `infer` gives their outputs. Samples of
        `unknown` classes have a meaning where models may reject.
        """
        evaluate: Evaluator = self._file("evaluation").evaluator_for(
            opened, spec, device, infer, unknown=unknown
        )
        return evaluate

    def resampled(
        self, opened: Opened, spec: ModelSpec, outputs: Iterable[Prediction]
    ) -> Resampled:
        """The main metric of resamples of a labelled split; `outputs` are those of `infer` for all
        of it. Raises BadInput where the split has no labels, or they do not fit.
        """
        one: Resampled = self._file("evaluation").resampled(
            opened, spec, outputs, reject=spec.reject
        )
        return one

    def make_card(
        self,
        network: Net,
        opened: Opened,
        spec: ModelSpec,
        facts: dict[str, Any],
        report: Report,
        device: torch.device,
    ) -> Card | None:
        """The source card from the model's own labelled data; None where there is none to make."""
        card: Card = self._file("card").make_source_card(
            network, opened, spec, facts, report, device
        )
        return card

    def draw_changed(
        self,
        source: Net,
        adapted: Net,
        opened: Opened,
        spec: ModelSpec,
        title: str,
    ) -> bytes | None:
        """A PNG of the images whose predictions changed most, with the truth where `opened` has
        labels; None where none of those that were looked at changed.
        """
        picture: bytes | None = self._file("panel").draw_changed(
            source, adapted, opened, spec, title
        )
        return picture

    def certainty(self, probs: Array) -> Array:
        """[N]: how sure a model is of each row, by the probabilities [N, C] of its summary: the
        likeliest class; where the last column stands for "nothing there", all that is not that.
        """
        return np.asarray(1 - probs[:, -1]) if self.has_nothing_class else np.asarray(probs.max(1))

    # where two models differ

    @property
    def claim(self) -> Claim:
        """What a unit of change is, what a person is asked of it, and what may be claimed."""
        claim: Claim = self._file("change").CLAIM
        return claim

    def answers(self, output: Prediction, spec: ModelSpec) -> Iterator[tuple[int, Any]]:
        """(row, answer) of one output of `infer`: a class or UNKNOWN, yes or no of each class, a
        mask, boxes at the deployed score, joints.
        """
        pairs: Iterator[tuple[int, Any]] = self._file("change").answers(output, spec)
        return pairs

    def reach_of(self, split: Split, row: int) -> float:
        """Distance in pixels of the image that counts as near in a row; 0 where none does."""
        return 0.0

    def changed(
        self, one: object, other: object, spec: ModelSpec, reach: float = 0.0
    ) -> ImageUnits:
        """Where the answers of two models, A and B, to one image differ; `reach` is its own one.
        The classes of both are those of `spec`.
        """
        units: ImageUnits = self._file("change").image_units(one, other, spec, reach)
        return units

    def x_of(self, unit: Unit, answer: str) -> tuple[float, ...] | None:
        """How much better B is by a person's answer to a unit, in [-1, 1], and worse below 0: one
        number for each hypothesis that must hold, of boxes two. None for what is no answer.
        """
        gains: tuple[float, ...] | None = self._file("change").x_of(unit, answer)
        return gains

    # scores without labels

    def tally(self, output: NetOutput) -> Tally:
        """What the answers of a batch add up to."""
        sums: Tally = self._file("inference").tally(output)
        return sums

    def surest_rows(self, ref: PredictionsRef, share: float) -> dict[int, int]:
        """Row -> class of the `share` of all images that the source model is surest of, of what
        was kept of it; empty where no image has one class.
        """
        return {}

    def answered_classes(self, output: NetOutput) -> list[int]:
        """The class of each image of a batch, where `surest_rows` has some."""
        raise NotImplementedError(f"{self.name}: an image has no single class")

    def opinions(self, output: NetOutput, rows: Sequence[int], pool: PoolSize) -> Opinions:
        """What a network says of a batch, kept to be compared with other models of the same pool;
        `rows` are those of the batch.
        """
        opinions: Opinions = self._file("change").opinions(output, rows, pool)
        return opinions

    def entropy_sum(self, output: NetOutput) -> tuple[float, int]:
        """Sum of the entropies, in nats, of what a network says of a batch, and of how many."""
        total: tuple[float, int] = self._file("inference").entropy_sum(output)
        return total

    def agreement_counts(
        self, weak: NetOutput, strong: NetOutput, classes: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """By class, part by part of a batch: how much of it was seen, and how much of that is the
        same in the outputs of both views. Classes may be more than the `classes` known so far.
        """
        counts: Iterator[tuple[Tensor, Tensor]]
        counts = self._file("inference").agreement_counts(weak, strong, classes)
        return counts
