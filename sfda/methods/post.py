"""POST: prior-guided adaptation of poses (Raychaudhuri et al., ICCV 2023, arXiv:2308.13954).

A teacher and a student see the same person turned, sheared, moved and scaled in two ways; both are
brought back to one frame. The student learns the teacher's surer joints, drawn anew; the pooled
features of both agree channel by channel and nothing else (after Barlow Twins); later a prior of
poses that came with the source model pulls the student's bones to plausible directions. Only the
backbone learns, and the teacher is deployed. Values are those of the release, started from a
trained source model.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat
from torch import nn

from sfda.building_blocks.ema import ema_update_, make_teacher
from sfda.building_blocks.heatmaps import soft_argmax
from sfda.building_blocks.warps import features_back, points_back, swapped
from sfda.errors import BadInput
from sfda.methods._base import Method, MethodConfig
from sfda.problems.pose.loss import decorrelation, heatmap_consistency
from sfda.problems.pose.network import PoseNet, PoseOutput
from sfda.problems.pose.teaching import occluded, size_of, student_maps, teacher_maps
from sfda.refs import Share
from sfda.settings import Schedule
from sfda.types import Clock, Losses, TargetBatch, TargetInfo


class PostConfig(MethodConfig):
    """SURREAL to LSP. An epoch of the release has 500 steps, ours those of the target."""

    schedule: Schedule = Schedule(
        optimizer="adam",
        lr=1e-4,
        weight_decay=0.0,
        decay="none",
        batch_size=32,
        drop_last=True,
        epochs=30,
    )
    lr_scale: dict[str, float] = {"neck": 0.0, "head": 0.0}
    decay: Share = 0.999
    ratio: Share = 0.5  # of the batch's joints, those with the lowest peaks, are not learnt
    prediction: NonNegativeFloat = 1.0  # lambda_c
    feature: NonNegativeFloat = 1e-3  # lambda_b, halved until the prior joins
    prior: NonNegativeFloat = 1e-6  # lambda_p
    prior_from: NonNegativeInt = 7  # the epoch, from 0, at which it joins
    without_prior: bool = False  # run all the same where the source model brought none
    # where bones are looked at: in the turned view, as published, or in the image's own frame
    prior_frame: Literal["augmented", "canonical"] = "augmented"
    sharpness: PositiveFloat = 50.0  # of the soft argmax; 500 in the release, which hardly moves it
    occlude: Share = 0.5  # probability that an image loses a joint
    occlude_above: float = 0.9  # height of a peak that is sure enough to be lost
    occlude_half: float = Field(10 / 256, gt=0, le=0.5)  # of the image's side


class Post(Method):
    """Consistency of predictions and features between views, and a prior of poses."""

    idea = "predictions and features agree between turned views, a prior keeps poses plausible"
    Config = PostConfig
    networks: ClassVar[tuple[type[nn.Module], ...]] = (PoseNet,)
    setting: ClassVar[str] = "same joints"
    views: ClassVar[Literal["none", "photometric", "geometric"]] = "geometric"
    mixes_batch: ClassVar[bool] = True  # where joints are lost
    config: PostConfig

    def __init__(self, source: PoseNet, target: TargetInfo, config: PostConfig) -> None:
        if source.prior is None and config.prior and not config.without_prior:
            raise BadInput(
                "post needs the pose prior of the source model, and this one has none: train one "
                "with `sfda train-prior`, or say --set without_prior=true to go without"
            )
        super().__init__(source, target, config)
        self.teacher = make_teacher(self.student)

    def losses(self, batch: TargetBatch, clock: Clock) -> Losses:
        """L_c, L_b and, from its epoch on, L_p, each with its weight."""
        c = self.config
        if batch.strong is None:
            raise ValueError("post needs the strong view")
        teacher = teacher_maps(self.teacher, batch, c.ratio)
        strong = batch.strong
        if c.occlude:
            strong = occluded(
                strong,
                teacher,
                batch.strong_warp,
                rate=c.occlude,
                above=c.occlude_above,
                half=c.occlude_half,
            )
        out: PoseOutput = self.student(strong)
        maps = student_maps(out, batch, self.student.pairs)
        pooled = features_back(out.features, batch.strong_warp).mean((2, 3))
        joined = clock.epoch >= c.prior_from
        weight = c.feature if joined else c.feature / 2
        terms = {
            "prediction": c.prediction * heatmap_consistency(maps, teacher.maps, teacher.mask),
            "feature": weight * decorrelation(pooled, teacher.features),
        }
        if joined and self.student.prior is not None and c.prior:
            joints = soft_argmax(out.heatmaps, c.sharpness)
            if c.prior_frame == "canonical":
                ratio = size_of(strong)[0] / maps.shape[-2]
                joints = points_back(joints * ratio, batch.strong_warp, size_of(strong))
                if batch.strong_warp is not None:  # what a mirror shows as left is right
                    joints = swapped(joints, batch.strong_warp, self.student.pairs)
            terms["prior"] = c.prior * self.student.prior.of_joints(joints).mean()
        return terms

    def after_step(self, clock: Clock) -> None:
        """Move the teacher's parameters; its statistics are of the views that it sees."""
        ema_update_(self.teacher, self.student, decay=self.config.decay, buffers="keep")

    @property
    def adapted(self) -> nn.Module:
        """The teacher."""
        teacher: nn.Module = self.teacher
        return teacher


EXPORT = Post
