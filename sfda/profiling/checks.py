"""The findings of a profile, one a function: from figures to a sentence and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sfda.decision.drift import LEAST, stability_index
from sfda.manifests.class_matching import ClassShift
from sfda.profiling.distance import (
    Distance,
    effective_number,
    expected_number,
    share_of_noise,
    shares_apart,
)
from sfda.profiling.findings import ProfileFinding
from sfda.refs import Profile

SAME_POPULATION = 0.1  # stability index below which two populations count as one
MOST_WRONG = 0.5  # share of the answers that a declared prior may prove wrong
MOST_NOISE = 0.05  # share of the images that may be lost
FASTER = 10.0  # papers' own rates for one method differ by as much from data set to data set
REPEATED = 0.05  # share of repeated images from which it is worth a word
LOW = 0.05  # share of the source's images that it was least sure of


def size_finding(distinct: int, least: int, method: str) -> ProfileFinding:
    """Whether there are enough different images for a method: at least one whole batch."""
    few = distinct < least
    return ProfileFinding(
        name="size",
        standing="against" if few else "fine",
        labels_help=True,
        figure=distinct,
        limit=least,
        sentence=f"{distinct:,} different images to learn from; {method} needs {least} at least",
        remedy="gather more images; so few are labelled sooner than adapted to" if few else "",
    )


def duplicates_finding(distinct: int, images: int) -> ProfileFinding:
    """How many images repeat another, byte by byte."""
    share = 1 - distinct / images
    many = share > REPEATED
    return ProfileFinding(
        name="duplicates",
        standing="notice" if many else "fine",
        figure=share,
        limit=REPEATED,
        sentence=f"{images - distinct:,} of {images:,} images repeat another, byte by byte",
        remedy="leave the repeated images out: each counts as often as it is there" if many else "",
    )


def statistics_finding(name: str, what: str, distance: Distance | None) -> ProfileFinding:
    """How far means of channels are from those that the source model learnt."""
    if distance is None:
        return ProfileFinding(
            name=name,
            standing="not known",
            sentence=f"the source's {what} are not known, so no distance can be told",
            remedy="`sfda card` at the source site keeps more of the source",
        )
    sentence = (
        f"{what} are {distance.figure:.2f} standard deviations from the source's, and batches of "
        f"64 images of this target {distance.limit:.2f} from each other"
    )
    return ProfileFinding(
        name=name,
        standing="fine",
        figure=distance.figure,
        limit=distance.limit,
        sentence=sentence,
    )


def confidence_finding(
    source: np.ndarray[Any, Any] | None, counted: int, profile: Profile, images: int
) -> ProfileFinding:
    """How far confidences are from those on the source's card, of `counted` images."""
    if not sum(profile["confidence_histogram"]):
        return ProfileFinding(
            name="confidence",
            standing="against",
            labels_help=True,
            figure=0.0,
            limit=0.0,
            sentence="the model answers nothing to any image, so there is nothing to build on",
            remedy="ask for labels",
        )
    if source is None or not source.sum() or min(counted, images) < LEAST:
        return ProfileFinding(
            name="confidence",
            standing="not known",
            sentence="confidences of the source are not known, so these cannot be held against any",
            remedy="`sfda card` at the source site keeps them",
        )
    sides = [np.asarray(source, float), np.asarray(profile["confidence_histogram"], float)]
    scaled = [  # parts of one image count once, however many it holds
        (side * min(1.0, most / side.sum())).tolist()
        for side, most in zip(sides, (counted, images), strict=True)
    ]
    index, noise = stability_index(*scaled)
    limit = SAME_POPULATION + noise
    return ProfileFinding(
        name="confidence",
        standing="fine",
        figure=index,
        limit=limit,
        sentence=(
            f"confidences {'differ from' if index > limit else 'are as'} the source's: stability "
            f"index {index:.2f}, limit {limit:.2f}"
        ),
    )


def shares_finding(
    answers: Mapping[str, int], usual: Mapping[str, float], least: float, seed: int = 0
) -> ProfileFinding:
    """Whether the answers are of about as many classes as should be, where nothing is declared.

    `usual` are the classes' shares as they would be expected, `least` the share of their effective
    number below which a verdict rejects a model (decide.md, section 5).
    """
    counts = np.array(list(answers.values()), dtype=float)
    figure = float(effective_number(counts)) if counts.sum() else 0.0
    limit = least * expected_number(list(usual.values()), max(1, int(counts.sum())), seed)
    few = figure < limit
    top = max(answers, key=lambda name: answers[name])
    sentence = f"the model answers {figure:.1f} of {len(counts)} classes in effect"
    if few:
        sentence += (
            f", most often {top} ({answers[top] / max(1.0, counts.sum()):.0%}): the target has few "
            "classes, or the model fails on it, and no answer tells which"
        )
    else:
        sentence += "; what the true shares are cannot be seen, errors may hide a shift of them"
    return ProfileFinding(
        name="class shares",
        standing="against" if few else "fine",
        labels_help=True,
        figure=figure,
        limit=limit,
        sentence=sentence,
        remedy="declare the shares (--prior CLASS=SHARE), or ask for labels" if few else "",
    )


def prior_finding(
    answers: Mapping[str, int], usual: Mapping[str, float], prior: Mapping[str, float], least: float
) -> ProfileFinding:
    """The same where the shares are declared: then it can be told.

    Methods lead the answers towards the shares that the source had, so a target of far fewer
    classes in effect is not for them. Where it has as many, answers of few classes are errors, as
    methods mend them; their distance from the prior is a share that must be wrong.
    """
    declared = np.array([prior.get(name, 0.0) for name in usual])
    numbers = effective_number(np.stack([declared, np.array(list(usual.values()))]))
    effective, lowest = float(numbers[0]), least * float(numbers[1])
    wrong = shares_apart(answers, prior)
    stated = f"{effective:.1f} classes in effect by the declared shares"
    if effective < lowest:
        return ProfileFinding(
            name="class shares",
            standing="against",
            figure=effective,
            limit=lowest,
            sentence=f"{stated}: methods would lead the answers away from them",
            remedy="keep the source model",
        )
    failing = wrong > MOST_WRONG
    return ProfileFinding(
        name="class shares",
        standing="notice" if failing else "fine",
        figure=wrong,
        limit=MOST_WRONG,
        sentence=f"{stated}; at least {wrong:.0%} of the answers must be wrong",
        remedy="check the declared shares; the model fails on most images" if failing else "",
    )


def no_shares_finding() -> ProfileFinding:
    """Where an image has not one class: shares are naturally unequal."""
    return ProfileFinding(
        name="class shares",
        standing="not known",
        sentence="images hold several classes, so that no shares of them are to be expected",
    )


def unknown_finding(
    shift: ClassShift, source: np.ndarray[Any, Any] | None, profile: Profile, near: bool | None
) -> ProfileFinding:
    """Signs of classes that the source never saw: a declared list, or unsure answers where nothing
    else has shifted (`near`; None: not known).
    """
    name = "unknown classes"
    if shift.extra:
        return ProfileFinding(
            name=name,
            standing="notice",
            figure=len(shift.extra),
            limit=0,
            sentence=shift.text(),
            remedy="take a method that rejects what is unknown",
        )
    if source is None or not near or not source.sum():
        return ProfileFinding(
            name=name,
            standing="not known",
            sentence="unknown classes make answers unsure just as a shift does: none can be told",
            remedy="name the target's classes in its manifest, where they are known",
        )
    low = int(np.searchsorted(np.cumsum(source) / source.sum(), LOW))  # bins below this are rarer
    histogram = np.asarray(profile["confidence_histogram"], float)
    share = float(histogram[:low].sum() / max(1.0, histogram.sum()))
    limit = LOW + 2 * float(np.sqrt(LOW / max(1.0, histogram.sum())))
    return ProfileFinding(
        name=name,
        standing="notice" if share > limit else "fine",
        figure=share,
        limit=limit,
        sentence=f"{share:.0%} of the answers are as unsure as {LOW:.0%} of the source's were",
        remedy="look at the least sure images: they may be of no known class"
        if share > limit
        else "",
    )


def noise_finding(correlations: np.ndarray[Any, Any], pixels: int) -> ProfileFinding:
    """Whether some images are white noise, such as broken files or a dead sensor give."""
    share = share_of_noise(correlations, pixels)
    lost = share > MOST_NOISE
    return ProfileFinding(
        name="noise",
        standing="against" if lost else "fine",
        figure=share,
        limit=MOST_NOISE,
        sentence=f"{share:.0%} of the images are white noise, unlike the others",
        remedy="remove these images, then profile the target again" if lost else "",
    )


def rate_finding(rate: float, usual: float, method: str) -> ProfileFinding:
    """Whether a stated learning rate is far above the method's own."""
    fast = rate > FASTER * usual
    return ProfileFinding(
        name="rate",
        standing="against" if fast else "fine",
        figure=rate / usual,
        limit=FASTER,
        sentence=f"learning rate {rate:g}, {rate / usual:.3g} times that of {method} ({usual:g})",
        remedy="leave schedule.lr out" if fast else "",
    )
