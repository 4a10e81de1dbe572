"""The profile of a target: all that is looked at before an adaptation, and what it recommends."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from sfda import plugins
from sfda.adaptation.plan import kind_of, settings_for
from sfda.images.store import Pictures, Ragged
from sfda.inference.over_split import infer_split
from sfda.inference.pseudo_labels import keep_pseudo_labels
from sfda.loading.contents import image_numbers
from sfda.loading.opened import Opened, changed, open_part, open_ref
from sfda.loading.pool import FEWEST_ROWS
from sfda.manifests.class_matching import ClassShift, class_shift
from sfda.manifests.rows import look_at, read_split
from sfda.problems._base import AnyProblem
from sfda.problems.registry import PROBLEMS
from sfda.profiling import checks
from sfda.profiling.distance import batch_distance, neighbour_correlation
from sfda.profiling.findings import NOT_ADAPTED, ProfileFinding, Recommendation, TargetProfile
from sfda.profiling.scale import IMAGES, scale_finding
from sfda.profiling.statistics import Channels, TargetStatistics, some_images, statistics_of_target
from sfda.refs import ModelSpec, Profile, SplitRef
from sfda.settings import AUTO, AdaptSettings, Prior
from sfda.weights.source_card import Card

REJECTING = "universal"  # the setting of methods for targets with unknown classes
PART_ANSWERS = frozenset({"boxes", "joints"})  # of networks that depend on the scale of objects


class Subject(NamedTuple):
    """A source model, and what it sees in the part of a target that would be learnt from."""

    network: nn.Module  # on the device
    spec: ModelSpec
    card: Card | None
    opened: Opened
    shift: ClassShift
    distinct: int  # how many of the images are no copy of another
    answers: Profile  # of all of the images


def profile_part(
    network: nn.Module,
    spec: ModelSpec,
    card: Card | None,
    target: SplitRef,
    asked: AdaptSettings,
    device: torch.device,
) -> TargetProfile:
    """The profile of a part of a target, with nothing else in hand; the network is on the device.

    Nothing is left behind but decoded images. Raises BadInput, NotFinite.
    """
    opened = open_part(target, spec)
    with tempfile.TemporaryDirectory(prefix="sfda-") as scratch:
        answers = keep_pseudo_labels(
            lambda one: infer_split(one, opened, spec, device),
            network,
            spec,
            Path(scratch, "predictions"),
            size=len(opened.images),
            source_sha256="",
        ).profile
    subject = subject_of(network, spec, card, target, opened, answers)
    return profile_target(subject, asked, device)


def subject_of(
    network: nn.Module,
    spec: ModelSpec,
    card: Card | None,
    target: SplitRef,
    opened: Opened,
    answers: Profile,
) -> Subject:
    """The same of a part that is open. Raises BadInput."""
    manifest = open_ref(target.manifest)
    shift = class_shift(manifest.classes, spec.classes, manifest.name)
    return Subject(network, spec, card, opened, shift, distinct_images(target, opened), answers)


def distinct_images(target: SplitRef, opened: Opened) -> int:
    """How many images of a part are no copy of another, byte by byte, by the digests that are kept.

    Rows of one file (slices of a volume, persons of a picture) are no copies of each other.
    """
    manifest = open_ref(target.manifest).unlabelled()
    rows = read_split(manifest, target.split)
    look = look_at(manifest, rows)
    if look.seen != target.seen:
        raise changed(target.manifest.path)
    numbers = image_numbers(manifest, rows, look)
    number_of = dict(zip(rows.names, numbers.tolist(), strict=True))
    row_file = PROBLEMS[manifest.problem].row_file
    file_of = {name: row_file(name) for name in opened.split.names}
    files = len(set(file_of.values()))
    contents = len({number_of[name] for name in file_of})
    return len(file_of) - (files - min(files, contents))


def profile_target(subject: Subject, asked: AdaptSettings, device: torch.device) -> TargetProfile:
    """What there is to know before an adaptation as `asked`. Labels have no part in it.

    Raises BadInput for settings that do not fit the method, NotFinite for a model that diverged.
    """
    look = statistics_of_target(subject.network, subject.spec, subject.opened, device, asked.seed)
    method = usual_method(subject.spec.problem, subject.shift, asked.method)
    advised = usual_method(subject.spec.problem, subject.shift, asked.method or AUTO)
    findings = [*_countable(subject, method, asked), *_distances(subject, look)]
    near = is_near(findings)
    findings += [
        shift_finding(near),
        _shares(subject, asked),
        checks.unknown_finding(
            subject.shift, _card_part(subject.card, "confidence_histogram"), subject.answers, near
        ),
        _noise(subject.opened.images, asked.seed),
        *_scale(subject, device, asked.seed),
    ]
    return TargetProfile(
        images=len(subject.opened.images),
        looked_at=len(some_images(subject.opened.images, asked.seed)),
        findings=tuple(findings),
        recommendation=recommend(findings, advised),
    )


def usual_method(problem: str, shift: ClassShift, asked: str | None = None) -> str:
    """The method that is asked for; of `auto`, or of none, the problem's usual one, or one that
    rejects what is unknown where the target's list of classes names such.
    """
    if asked not in (None, AUTO):
        return asked
    if asked == AUTO and shift.extra:
        for name in plugins.names("methods"):
            kind = kind_of(name)
            if kind.setting == REJECTING and problem in kind.problems:
                return name
    return PROBLEMS[problem].default_method


def recommend(findings: Sequence[ProfileFinding], method: str) -> Recommendation:
    """The method, unless something speaks against it: then labels, where they would settle all of
    that, or nothing at all.
    """
    against = [one for one in findings if one.standing == "against"]
    notices = [one.sentence for one in findings if one.standing == "notice"]
    if not against:
        reasons = ("nothing speaks against an adaptation", *notices)
        return Recommendation(kind="adapt", method=method, reasons=reasons)
    reasons = tuple(f"{one.sentence}; {one.remedy}" for one in against)
    asks = all(one.labels_help for one in against)
    return Recommendation(kind="ask" if asks else "leave", method=NOT_ADAPTED, reasons=reasons)


def followed(asked: AdaptSettings, advice: Recommendation) -> AdaptSettings:
    """What is asked for with the method that is recommended, where that is `auto`.

    Settings are meant for a method that adapts; where nothing is adapted, they are left out.
    """
    if asked.method != AUTO:
        return asked
    changes: dict[str, Any] = {"method": advice.method}
    if advice.method == NOT_ADAPTED:
        scores = (asked.settings or {}).get("validators")
        changes |= {"schedule": None, "epochs": None}
        changes["settings"] = {"validators": scores} if scores else None
    return asked.model_copy(update=changes)


def _countable(subject: Subject, method: str, asked: AdaptSettings) -> list[ProfileFinding]:
    """What needs no look: how many images there are, and at what rate they would be learnt."""
    problem, images = subject.spec.problem, len(subject.opened.images)
    usual = settings_for(method, problem, {}).schedule
    stated = {} if asked.method == AUTO else dict(asked.overrides)
    stated.pop("validators", None)
    schedule = settings_for(method, problem, stated).schedule
    rate = asked.overrides.get("schedule", {}).get("lr", schedule.lr)
    least = usual.batch_size
    if PROBLEMS[problem].whole_image:  # an image has one answer, and not many to learn from
        least = max(least, FEWEST_ROWS)
    return [
        checks.size_finding(subject.distinct, least, method),
        checks.duplicates_finding(subject.distinct, images),
        checks.rate_finding(rate, usual.lr, method),
    ]


def _distances(subject: Subject, look: TargetStatistics) -> list[ProfileFinding]:
    """How far the target is from what the model and its card know of the source."""
    card = subject.card
    mean, covariance = _card_part(card, "feature_mean"), _card_part(card, "feature_covariance")
    features = None
    if mean is not None and covariance is not None and mean.shape == look.features.shape[1:]:
        features = batch_distance([Channels(look.features, mean, np.diag(covariance) + 1e-6)])
    return [
        checks.statistics_finding(
            "statistics",
            "batch-norm statistics",
            batch_distance(look.norms) if look.norms else None,
        ),
        checks.statistics_finding("features", "features", features),
        checks.confidence_finding(
            _card_part(card, "confidence_histogram"),
            card.facts.count if card else 0,
            subject.answers,
            len(subject.opened.images),
        ),
    ]


def is_near(distances: Sequence[ProfileFinding]) -> bool | None:
    """Whether all that can be compared with the source is as near as chance would have it; None
    where nothing can.
    """
    compared = [
        one.figure <= one.limit
        for one in distances
        if one.name in ("statistics", "features", "confidence")
        and one.figure is not None
        and one.limit is not None
    ]
    return all(compared) if compared else None


def shift_finding(near: bool | None) -> ProfileFinding:
    """Whether there is a shift to adapt to."""
    if near is None:
        sentence = "neither the model nor a card tells what the source looked like"
        return ProfileFinding(name="shift", standing="not known", sentence=sentence)
    if near:
        sentence = "the target is not shifted: it is as near to the source as chance would have it"
        remedy = "do not adapt: there is nothing to gain"
        return ProfileFinding(name="shift", standing="against", sentence=sentence, remedy=remedy)
    return ProfileFinding(name="shift", standing="fine", sentence="the target is shifted")


def _shares(subject: Subject, asked: AdaptSettings) -> ProfileFinding:
    """Of the answers' classes."""
    problem = PROBLEMS[subject.spec.problem]
    if not problem.one_class_an_image:
        return checks.no_shares_finding()
    usual = usual_shares(subject.spec.classes, subject.shift, subject.card)
    answers, least = subject.answers["classes"], asked.decision.vetoes.effective_classes
    if asked.prior:
        return checks.prior_finding(answers, usual, asked.prior, least)
    return checks.shares_finding(answers, usual, least, asked.seed)


def usual_shares(classes: Sequence[str], shift: ClassShift, card: Card | None) -> Prior:
    """Shares of classes that are to be expected: those of the source by its card, else equal ones,
    of the classes that target and model share.
    """
    prior = _card_part(card, "class_prior")
    shares = dict.fromkeys(classes, 1.0)
    if prior is not None and len(prior) == len(classes) and prior.sum() > 0:
        shares = dict(zip(classes, prior.tolist(), strict=True))
    shared: Mapping[str, float] = {n: s * (n not in shift.missing) for n, s in shares.items()}
    return dict(shared) if sum(shared.values()) > 0 else shares


def _noise(images: Pictures, seed: int) -> ProfileFinding:
    """Of the images as they are stored."""
    some = some_images(images, seed)
    correlations = np.array([neighbour_correlation(some[row]) for row in range(len(some))])
    height, width = min((some[row].shape[:2] for row in range(len(some))), default=(1, 2))
    return checks.noise_finding(correlations, height * max(1, width - 1))


def _scale(subject: Subject, device: torch.device, seed: int) -> list[ProfileFinding]:
    """Of problems whose answers depend on the size of what is in a frame."""
    problem: AnyProblem = PROBLEMS[subject.spec.problem]
    if problem.answer not in PART_ANSWERS or isinstance(subject.opened.images, Ragged):
        return []
    images = some_images(subject.opened.images, seed, IMAGES)
    stack = np.array(images[np.arange(len(images))])
    return [scale_finding(subject.network, subject.spec, stack, device)]


def _card_part(card: Card | None, name: str) -> np.ndarray[Any, Any] | None:
    """A tensor of the card."""
    tensor = card.tensors.get(name) if card else None
    return None if tensor is None else tensor.float().numpy()
