"""What a refresh says would start an adaptation is what does."""

from __future__ import annotations

import pytest

from sfda.adaptation.target_versions import RefreshPolicy, TargetCheck
from sfda.decision.refresh import at_second_sight
from sfda.manifests.growing import Change, FileMark, TargetRecord

MARK = FileMark(size=1, time=1, sha256="0" * 64)


@pytest.mark.parametrize(
    ("size", "policy", "least"),
    [
        (34, RefreshPolicy(min_share=0.1), 4),
        (30, RefreshPolicy(min_share=0.1), 3),
        (34, RefreshPolicy(min_files=9), 9),
    ],
)
def test_so_many_changes_as_are_named_start_an_adaptation(
    size: int, policy: RefreshPolicy, least: int
) -> None:
    marks = {f"{number}.png": MARK for number in range(size)}
    record = TargetRecord(target="t", version=1, adapted=1, marks=marks, adapted_marks=marks)

    def check(count: int) -> TargetCheck:
        change = Change(added=tuple(f"new-{number}.png" for number in range(count)))
        return TargetCheck(
            folder="f",
            record=record,
            since_version=change,
            since_adapted=change,
        )

    waiting = at_second_sight(check(least - 1), policy, record, None)
    assert waiting is not None
    assert f" of {size}; {least} changes start an adaptation" in waiting.says
    assert at_second_sight(check(least), policy, record, None) is None
