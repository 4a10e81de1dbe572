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
    parts = [
        f"{len(result['runs'])} runs, of which {len(failed)} failed in their first epoch.",
        *_by_kind(rows),
        *(line for which in ("chosen", "last") for line in _figures(rows, which)),
        *_choices("Among the source and a run's epochs", _of_runs(rows)),
        *_choices("Among the source and all epochs of all methods", _of_targets(result)),
    ]
    return "\n".join(parts)


def candidates(rows: Iterable[Row], which: str) -> list[Row]:
    """Those of the runs that came to one."""
    return [row[which] | {"run": row["run"]} for row in rows if "gain" in row[which]]


def _by_kind(rows: Sequence[Row]) -> list[str]:
    lines = [
        "",
        "| target | runs | change, % | gain, points: median (least to most) | harmful | "
        "with answers | nobody asked | with labels |",
        "|---|---:|---:|---:|---:|---|---|---|",
    ]
    for kind in KINDS:
        own = [row for row in rows if row["run"]["kind"] == kind]
        if not own:
            continue
        some = candidates(own, "chosen")
        gains = [100 * one["gain"] for one in some]
        changes = [100 * one["change"] for one in some]
        none = len(own) - len(some)
        line = [
            kind + ("" if KINDS[kind].helpful else " *"),
            f"{len(own)}" + (f" ({none} end as the source)" if none else ""),
            f"{np.median(changes):.1f}" if some else "",
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


def _figures(rows: Sequence[Row], which: str) -> list[str]:
    some = candidates(rows, which)
    own = "as `sfda adapt` chooses" if which == "chosen" else "each run's last epoch"
    lines = ["", f"Candidates: {own}, {len(some)}.", ""]
    for name, key in (("simulated answers", "audits"), ("5 % of them wrong", "erring")):
        lines += _audited(some, key, name)
    lines += _unattended(some)
    lines += _labelled(some)
    return lines


def _audited(some: Sequence[Row], key: str, name: str) -> list[str]:
    every = [(one, audit) for one in some for audit in one[key]]
    by_answers = [(one, audit) for one, audit in every if audit["level"] == 2]
    lines = []
    for where, gain in (("the pool", "gain_pool"), ("all held-out images", "gain")):
        wrong = [
            f"{one['run']['kind']}, {one['run']['method']}, {one['run']['seed']} "
            f"({audit['kind']} at {100 * one[gain]:+.1f})"
            for one, audit in by_answers
            if (audit["kind"] == "promote" and one[gain] <= 0)
            or (audit["kind"] == "reject" and one[gain] >= 0)
        ]
        lines.append(
            f"- {name}: wrong direction on {where}: {_share(wrong, by_answers)}" + _listed(wrong)
        )
    good = [a for one, a in every if one["gain"] > MUCH and one["change"] <= MOST_CHANGE]
    bad = [a for one, a in every if one["gain"] < -MUCH]
    asked = [audit["asked"] for _, audit in by_answers]
    lines += [
        f"- {name}: gain above 5 points and change at most 15 %: promoted "
        f"{_share([a for a in good if a['kind'] == 'promote'], good)}",
        f"- {name}: gain above 5 points, any change: "
        + _kinds(audit["kind"] for one, audit in every if one["gain"] > MUCH),
        f"- {name}: harm above 5 points: rejected "
        f"{_share([a for a in bad if a['kind'] == 'reject'], bad)}, of these by a veto "
        f"{len([a for a in bad if a['kind'] == 'reject' and a['level'] == 0])}; promoted "
        f"{len([a for a in bad if a['kind'] == 'promote'])}",
        f"- {name}: answers, median and 90 %: "
        + (" and ".join(f"{np.quantile(asked, q):.0f}" for q in (0.5, 0.9)) if asked else "none"),
    ]
    return lines


def _unattended(some: Sequence[Row]) -> list[str]:
    def promoted(which: Callable[[float], bool]) -> tuple[list[Row], list[Row]]:
        own = [one for one in some if which(one["gain"])]
        return [one for one in own if one["unattended"]["kind"] == "promote"], own

    harmful, helpful = promoted(lambda g: g < HARMFUL), promoted(lambda g: g > -HARMFUL)
    names = "; ".join(f"{_name(one)} ({100 * one['gain']:+.1f})" for one in harmful[0])
    refused = [one for one in helpful[1] if one["vetoes"]]
    return [
        f"- nobody asked: harmful promoted {_share(*harmful)}" + (f": {names}" if names else ""),
        f"- nobody asked: helpful promoted {_share(*helpful)}; vetoed {len(refused)}"
        + (": " + "; ".join(f"{_name(one)} ({100 * one['gain']:+.1f})" for one in refused)),
        "- nobody asked: " + _kinds(one["unattended"]["kind"] for one in some),
    ]


def _labelled(some: Sequence[Row]) -> list[str]:
    lines = []
    for key in ("labels", "labels as deployed"):
        wrong = [
            f"{_name(one)} ({one[key]['kind']} at {100 * one['gain']:+.1f})"
            for one in some
            if one[key]["level"] == 3
            and (
                (one[key]["kind"] == "promote" and one["gain"] <= 0)
                or (one[key]["kind"] == "reject" and one["gain"] >= 0)
            )
        ]
        kinds = _kinds(one[key]["kind"] for one in some)
        lines.append(f"- {key}: {kinds}; wrong direction {_share(wrong, some)}" + _listed(wrong))
    return lines


def _listed(names: Sequence[str]) -> str:
    return ": " + "; ".join(f"{n} x {one}" for one, n in Counter(names).items()) if names else ""


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
        "| by | regret, points: mean, most | gain | the source | harmful |",
        "|---|---:|---:|---:|---:|",
    ]
    names = []
    for line in summary(rows):
        share = f"{len(line['harmful'])} ({100 * len(line['harmful']) / line['count']:.1f} %)"
        lines.append(
            f"| {line['by']} ({line['count']}) | {line['regret']:.2f}, {line['worst']:.1f} "
            f"| {line['gain']:+.1f} | {line['source']} | {share} |"
        )
        if line["by"] == "ranking":
            names = line["harmful"]
    return [*lines, "", "Harmful choices of the ranking: " + ("; ".join(names) or "none") + "."]
