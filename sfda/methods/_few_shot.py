"""Fine-tuning on a few labelled target images alone (Lee et al., "Few-shot fine-tuning is all you
need for source-free domain adaptation", arXiv:2304.00792): what FT and LP-FT share.

Differences from the released code: views are the model's own weak views instead of a fixed set of
transforms; an epoch is 100 steps, and its end is chosen by a validator without labels, or is the
last, where theirs is the lowest loss on one held-out labelled image a class. `norm` and `head_norm`
train every BatchNorm2d, theirs the first 53: all of ResNet-50, half of ResNet-101.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.func import functional_call

from sfda.errors import BadInput
from sfda.methods._base import Method, MethodConfig
from sfda.networks.detector import Detector
from sfda.problems.classification.network import ThreeParts
from sfda.problems.pose.network import PoseNet
from sfda.problems.registry import annotated_loss, problem_of
from sfda.problems.segmentation.network import Segmenter
from sfda.settings import Schedule
from sfda.types import Clock, Losses, TargetBatch, TargetInfo

Mode = Literal["all", "head", "features", "norm", "head_norm"]


class FewShotConfig(MethodConfig):
    """Defaults: the released code's, found by 1-shot validation and used for all benchmarks."""

    schedule: Schedule = Schedule(
        optimizer="adam", lr=1e-5, weight_decay=0.0, decay="none", batch_size=32, epochs=10
    )
    steps: PositiveInt = 100  # of an epoch
    train: Mode = "all"
    sharpness: NonNegativeFloat = 0.0  # rho of SAM; 0.05 in earlier versions of the code


class FewShot(Method):
    """The problem's supervised loss on labelled rows."""

    networks: ClassVar[tuple[type[nn.Module], ...]] = (
        ThreeParts,
        Segmenter,
        PoseNet,
    )
    setting: ClassVar[str] = "a few labels"
    labelled_rows: ClassVar[Literal["added", "own", "none"]] = "own"
    config: FewShotConfig

    def __init__(self, source: nn.Module, target: TargetInfo, config: FewShotConfig) -> None:
        super().__init__(source, target, config)
        if target.labelled is None or not len(target.labelled):
            raise BadInput(
                "this method learns from labelled rows alone, and the target has none: ask for "
                "some with `sfda query` and take them in with `sfda answer`"
            )
        self.labelled_steps = config.steps
        if isinstance(source, Detector) and (config.sharpness or config.train != "all"):
            raise BadInput("detectors are tuned as a whole: leave out sharpness and train")
        self.mode: Mode = config.train
        # by the settings, or, as the first layers of many detectors, by the network itself
        self.resting = {n for n, p in self.student.named_parameters() if not p.requires_grad}
        self._choose(self.mode)

    def _choose(self, mode: Mode) -> None:
        """Let the parts that a mode names learn; all others rest in eval mode."""
        self.mode = mode
        trained = {id(p) for p in self._trained(mode)}
        for name, parameter in self.student.named_parameters():
            parameter.requires_grad_(id(parameter) in trained and name not in self.resting)

    def _trained(self, mode: Mode) -> list[nn.Parameter]:
        if mode == "all":
            return list(self.student.parameters())
        return [p for module in self._modules_of(mode) for p in module.parameters()]

    def _modules_of(self, mode: Mode) -> list[nn.Module]:
        if mode == "features":
            return [m for name, m in self.student.named_children() if name != "head"]
        modules: list[nn.Module] = [self.student.head] if mode in ("head", "head_norm") else []
        if mode in ("norm", "head_norm"):
            modules += [m for m in self.student.modules() if isinstance(m, nn.BatchNorm2d)]
        return modules

    def train(self, mode: bool = True) -> Self:
        """Train mode where something learns."""
        if self.mode == "all":
            super().train(mode)
            return self
        self.training = mode
        self.student.eval()
        for module in self._modules_of(self.mode):
            module.train(mode)
        return self

    def losses(self, batch: TargetBatch, clock: Clock) -> Losses:
        """Plain cross-entropy, or the problem's own; with `sharpness` at the point rho g / |g|
        away (SAM, arXiv:2010.01412, eq. 2).
        """
        assert batch.labelled is not None
        images, targets = batch.labelled.images, batch.labelled.targets
        plain = annotated_loss(self.student, images, targets)
        if not self.config.sharpness:
            return plain
        trained = {n: p for n, p in self.student.named_parameters() if p.requires_grad}
        grads = torch.autograd.grad(sum(plain.values(), torch.zeros(())), list(trained.values()))
        scale = self.config.sharpness / (_norm(grads) + 1e-12)
        moved = {n: p + scale * g for (n, p), g in zip(trained.items(), grads, strict=True)}
        moved_network = _Moved(self.student, moved)
        return problem_of(self.student).loss(moved_network, images, targets)


def _norm(grads: tuple[Tensor, ...]) -> Float[Tensor, ""]:
    return torch.stack([g.square().sum() for g in grads]).sum().sqrt()


class _Moved:
    """A network with other parameters, for one call."""

    def __init__(self, network: nn.Module, parameters: dict[str, Tensor]) -> None:
        self.network, self.parameters = network, parameters

    def __call__(self, images: Tensor) -> object:
        return functional_call(self.network, self.parameters, (images,))


class ProbedConfig(FewShotConfig):
    """400 steps of the head at 1e-4, then 1000 of all layers at 1e-5."""

    schedule: Schedule = FewShotConfig().schedule.model_copy(update={"epochs": 14})
    head_epochs: PositiveInt = 4
    head_lr: PositiveFloat = 1e-4
