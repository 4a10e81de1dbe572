"""What the source model sees in a target, and what that speaks for, as markdown."""

from __future__ import annotations

from typing import Any

from sfda.profiling.findings import TargetProfile
from sfda.refs import PredictionsRef


def profile_text(name: str, predictions: PredictionsRef, shift: str = "") -> str:
    """Class and confidence histograms of a target as markdown."""
    profile = predictions.profile
    unit = profile.get("unit", "images")
    total = profile.get("total") or sum(profile["classes"].values()) or 1
    lines = [
        f"### What the source model sees in {name}",
        "",
        *([shift[:1].upper() + shift[1:], ""] if shift else []),
        f"{predictions.count} images, mean confidence {profile['mean_confidence']:.3f}",
        "",
        f"| class | {unit} | share |",
        "|---|---:|---|",
    ]
    lines += [
        f"| {label} | {count} | {_bar(count / total)} |"
        for label, count in profile["classes"].items()
    ]
    histogram: list[Any] = profile["confidence_histogram"]
    width = 1 / len(histogram)
    lines += ["", f"| confidence | {unit} | share |", "|---|---:|---|"]
    lines += [
        f"| {i * width:.2f} to {(i + 1) * width:.2f} | {count} | {_bar(count / total)} |"
        for i, count in enumerate(histogram)
        if count
    ]
    return "\n".join(lines)


def target_profile_text(name: str, profile: TargetProfile) -> str:
    """The profile of a target as markdown: what it recommends, and every finding."""
    advice = profile.recommendation
    lines = [
        f"### Profile of {name}",
        "",
        f"**{advice.text}**: {'; '.join(advice.reasons)}",
        "",
        f"{profile.images:,} images to learn from, {profile.looked_at:,} of them looked at",
        "",
        "| finding | stands | figure | limit | in words | what to do |",
        "|---|---|---:|---:|---|---|",
    ]
    lines += [
        f"| {one.name} | {one.standing} | {_figure(one.figure)} | {_figure(one.limit)} | "
        f"{one.sentence} | {one.remedy} |"
        for one in profile.findings
    ]
    return "\n".join(lines)


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _bar(share: float) -> str:
    return f"{'█' * round(20 * share)} {share:.1%}"
