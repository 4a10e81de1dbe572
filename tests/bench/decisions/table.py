"""The tables of `bench decide`: what verdicts come to, by kind of target; figures; choices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tests.bench.decisions.ranked import gains_of, summary
from tests.bench.decisions.targets import KINDS

Row = Mapping[str, Any]
HARMFUL, MUCH, MOST_CHANGE = -0.01, 0.05, 0.15


def table(result: Mapping[str, Any]) -> str:
    """All of them."""
    rows = [row for row in result["runs"] if row.get("accuracy")]
    failed = [row for row in result["runs"] if not row.get("accuracy")]
    some = {which: candidates(rows, which) for which in ("chosen", "last")}
    parts = [
        f"{len(result['runs'])} runs, of which {len(failed)} failed in their first epoch.",
        *_by_kind(rows),
        "",
        "| figure | the epoch that `sfda adapt` takes | each run's last epoch |",
        "|---|---|---|",
        *_side_by_side([_figures(own) for own in some.values()]),
        "",
        *(_named(which, own) for which, own in some.items()),
        *_choices("Among the source and a run's epochs", _of_runs(rows)),
        *_choices("Among the source and all epochs of all methods", _of_targets(result)),
    ]
    return "\n".join(parts)


def candidates(rows: Iterable[Row], which: str) -> list[Row]:
    """Those of the runs that came to one."""
    return [
        row[which] | {"run": row["run"], "source": row["source"]}
        for row in rows
        if "gain" in row[which]
    ]


def _by_kind(rows: Sequence[Row]) -> list[str]:
    lines = [
        "",
        "| target | runs | classes of the source's answers | change, % | gain, points: median "
        "(least to most) | harmful | with answers | nobody asked | with labels |",
        "|---|---:|---:|---:|---:|---:|---|---|---|",
    ]
    for kind in KINDS:
        own = [row for row in rows if row["run"]["kind"] == kind]
        if not own:
            continue
        some = candidates(own, "chosen")
        gains = [100 * one["gain"] for one in some]
        none = len(own) - len(some)
        sources = sorted({round(row["source"]["effective answers"], 1) for row in own})
        line = [
            kind + ("" if KINDS[kind].helpful else " *"),
            f"{len(own)}" + (f" ({none} end as the source)" if none else ""),
            f"{', '.join(map(str, sources))} of {own[0]['source']['classes']}",
            f"{np.median([100 * one['change'] for one in some]):.1f}" if some else "",
            f"{np.median(gains):+.1f} ({min(gains):+.1f} to {max(gains):+.1f})" if some else "",
            str(sum(one["gain"] < HARMFUL for one in some)),
            _kinds(audit["kind"] for one in some for audit in one["audits"][:1]),
            _kinds(one["unattended"]["kind"] for one in some),
            _kinds(one["labels"]["kind"] for one in some),
        ]
        lines.append("| " + " | ".join(line) + " |")
    return lines


def _kinds(kinds: Iterable[str]) -> str:
    return ", ".join(f"{n} {kind}" for kind, n in Counter(kinds).most_common())


def _share(part: Sequence[Any], whole: Sequence[Any]) -> str:
    if not whole:
        return "none to count"
    return f"{len(part)} of {len(whole)} ({100 * len(part) / len(whole):.1f} %)"


def _side_by_side(columns: Sequence[Mapping[str, str]]) -> list[str]:
    return [f"| {name} | " + " | ".join(own[name] for own in columns) + " |" for name in columns[0]]


def _figures(some: Sequence[Row]) -> dict[str, str]:
    """Each figure in words."""
    figures = {"candidates": str(len(some))}
    for name, key in (("answers", "audits"), ("answers, 5 % wrong", "erring")):
        figures |= {f"{name}: {what}": text for what, text in _audited(some, key).items()}
    figures |= _unattended(some)
    for key in ("labels", "labels as deployed"):
        figures[f"{key}: wrong direction"] = _share(_wrong_by_labels(some, key), some)
    return figures


def _is_wrong(kind: str, gain: float) -> bool:
    return (kind == "promote" and gain <= 0) or (kind == "reject" and gain >= 0)


def _audited(some: Sequence[Row], key: str) -> dict[str, str]:
    every = [(one, audit) for one in some for audit in one[key]]
    by_answers = [(one, audit) for one, audit in every if audit["level"] == 2]

    def wrong(gain: str) -> list[Any]:
        return [pair for pair in by_answers if _is_wrong(pair[1]["kind"], pair[0][gain])]

    def of(kind: str, which: Callable[[Row], bool]) -> str:
        own = [audit for one, audit in every if which(one)]
        return _share([audit for audit in own if audit["kind"] == kind], own)

    asked = [audit["asked"] for _, audit in by_answers] or [0]
    return {
        "wrong direction on the pool": _share(wrong("gain_pool"), by_answers),
        "wrong direction on all held-out images": _share(wrong("gain"), by_answers),
        "gain above 5 points, change at most 15 %: promoted": of(
            "promote", lambda one: one["gain"] > MUCH and one["change"] <= MOST_CHANGE
        ),
        "gain above 5 points: promoted": of("promote", lambda one: one["gain"] > MUCH),
        "harm above 5 points: rejected": of("reject", lambda one: one["gain"] < -MUCH),
        "harm above 5 points: promoted": of("promote", lambda one: one["gain"] < -MUCH),
        "asked, median and 90 %": " and ".join(f"{np.quantile(asked, q):.0f}" for q in (0.5, 0.9)),
    }


def _unattended(some: Sequence[Row]) -> dict[str, str]:
    helpful = [one for one in some if one["gain"] > -HARMFUL]
    harmful = [one for one in some if one["gain"] < HARMFUL]
    others = [one["unattended"]["kind"] for one in some if one["unattended"]["kind"] != "promote"]
    figures = {"nobody asked: not promoted": _kinds(others)}
    for limit in some[0]["unattended"]["by limit"] if some else ():
        bad, good = (
            [one for one in own if one["unattended"]["by limit"][limit] == "promote"]
            for own in (harmful, helpful)
        )
        what = f"nobody asked, at most {100 * float(limit):.0f} % changed: promoted"
        figures[f"{what}, harmful"] = _share(bad, harmful)
        figures[f"{what}, harmful, silent"] = _share(_said(bad), harmful)
        figures[f"{what}, helpful"] = _share(good, helpful)
        figures[f"{what}, helpful, silent"] = _share(_said(good), helpful)
    return figures


def _said(some: Sequence[Row]) -> list[Row]:
    """Those whose source answers so many classes that scores have a say."""
    return [one for one in some if not one["source"]["collapsed"]]


def _wrong_by_labels(some: Sequence[Row], key: str) -> list[str]:
    return [
        f"{_name(one)} ({one[key]['kind']} at {100 * one['gain']:+.1f})"
        for one in some
        if one[key]["level"] == 3 and _is_wrong(one[key]["kind"], one["gain"])
    ]


def _named(which: str, some: Sequence[Row]) -> str:
    """What went wrong, by name."""
    harmful = [
        f"{_name(one)} ({100 * one['gain']:+.1f})"
        for one in some
        if one["unattended"]["kind"] == "promote" and one["gain"] < HARMFUL
    ]
    on_pool = Counter(
        f"{_name(one)} ({audit['kind']} at {100 * one['gain_pool']:+.1f})"
        for one in some
        for audit in one["audits"]
        if audit["level"] == 2 and _is_wrong(audit["kind"], one["gain_pool"])
    )
    return "\n".join(
        f"- {which}, {what}: {'; '.join(names) or 'none'}."
        for what, names in (
            ("wrong with answers", [f"{n} x {name}" for name, n in on_pool.items()]),
            ("harmful, promoted with nobody asked", harmful),
            ("wrong by labels", _wrong_by_labels(some, "labels")),
            ("wrong by labels as deployed", _wrong_by_labels(some, "labels as deployed")),
        )
    )


def _name(one: Row) -> str:
    return f"{one['run']['kind']}, {one['run']['method']}, {one['run']['seed']}"


def _of_runs(rows: Sequence[Row]) -> list[Any]:
    return [(_name(row), row["choice"], gains_of(row)) for row in rows]


def _of_targets(result: Mapping[str, Any]) -> list[Any]:
    return [(one["target"], one["choice"], one["gains"]) for one in result["targets"]]


def _choices(title: str, rows: Sequence[Any]) -> list[str]:
    if not rows:
        return []
    best = np.mean([100 * max(gains.values()) for *_, gains in rows])
    lines = [
        "",
        f"{title} ({len(rows)}); the best by labels gains {best:+.1f} on average.",
        "",
        "| by | regret, points: mean, most | of helpful shifts | gain | the source | harmful |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    helpful = [row for row in rows if KINDS[row[0].split(",")[0]].helpful]
    apart = {line["by"]: line for line in summary(helpful)}
    names: dict[str, list[str]] = {}
    for line in summary(rows):
        share = f"{len(line['harmful'])} ({100 * len(line['harmful']) / line['count']:.1f} %)"
        own = f"{apart[line['by']]['regret']:.2f}" if line["by"] in apart else ""
        lines.append(
            f"| {line['by']} ({line['count']}) | {line['regret']:.2f}, {line['worst']:.1f} "
            f"| {own} | {line['gain']:+.1f} | {line['source']} | {share} |"
        )
        names[line["by"]] = line["harmful"]
    for by in ("ranking", "ranking, silent"):
        lines += ["", f"Harmful choices ({by}): " + ("; ".join(names.get(by, ())) or "none") + "."]
    return lines
