"""The rule of promotion: what a new version must beat, by labels, to become champion."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from sfda.errors import BadInput
from sfda.problems.report_metrics import main_metric
from sfda.refs import Report, SideBySide, Version


class Verdict(NamedTuple):
    """What became of a version, in words, and whether it is champion now."""

    text: str
    promoted: bool


def promotion_verdict(
    version: Version,
    sides: SideBySide,
    champion: Version | None,
    champion_report: Callable[[], Report] | None,
    *,
    requested: bool,
) -> Verdict:
    """Better: a higher main metric on the labelled split than the source model's and than the
    present champion's. Without labels there is no evidence, and nothing changes.

    `champion_report` evaluates the champion on the same split; where that raises BadInput the two
    cannot be compared, and the champion stays. `requested`: promotion was asked for.
    """
    if sides.source is None or sides.adapted is None or sides.split is None:
        return Verdict(
            "held: the target has no labelled test split, so there is no evidence", False
        )
    if champion and champion.version == version.version:
        return Verdict("champion already", True)
    metric = main_metric(sides.adapted.metrics)
    ours, before = sides.adapted.metrics[metric], sides.source.metrics[metric]
    text = f"{metric.replace('_', ' ')} {ours:.4f}, source {before:.4f}"
    held = ours <= before
    if champion and champion_report:
        try:
            champion_score = champion_report().metrics[metric]
        except BadInput as error:
            return Verdict(f"held: champion {champion.uri} cannot be compared ({error})", False)
        text += f", champion (version {champion.version}) {champion_score:.4f}"
        held = held or ours <= champion_score
    if held:
        return Verdict(f"held: not better ({text})", False)
    if not requested:
        return Verdict(f"better, but promotion was not asked for ({text})", False)
    return Verdict(f"promoted: {text}", True)


def extended(history: list[str], version: str) -> list[str]:
    """A history of champions that ends with this version."""
    return history if history[-1:] == [version] else [*history, version]
