"""The table of a search: candidates in their order, with what speaks for and against them."""

from __future__ import annotations

from collections.abc import Sequence

from sfda.decision.ranking import Ranking

MOST_ROWS = 30


def trials_text(ranking: Ranking, left_out: Sequence[str]) -> str:
    """The ranking as markdown, the best first; trials for which there was no time below it."""
    names = list(dict.fromkeys(score for one in ranking.candidates for score in one.scores))
    lines = [
        "| candidate | mean rank | " + " | ".join(names) + " | vetoes |",
        "|---|---:|" + "---:|" * len(names) + "---|",
    ]
    for one in ranking.candidates[:MOST_ROWS]:
        scores = [f"{one.scores[name]:.4f}" if name in one.scores else "" for name in names]
        mean = "" if one.mean_rank is None else f"{one.mean_rank:.2f}"
        cells = [_cell(one.name), mean, *scores, _cell("; ".join(one.vetoes))]
        lines.append("| " + " | ".join(cells) + " |")
    if more := len(ranking.candidates) - MOST_ROWS:
        lines += ["", f"and {more} more"] if more > 0 else []
    if left_out:
        lines += ["", f"no time was left for: {', '.join(left_out)}"]
    return "\n".join([*lines, "", ranking.text])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
