"""The change in a report: overall, and where it is largest."""

from __future__ import annotations

from sfda.decision.change import ChangeReport
from sfda.report.report_text import ROWS_SHOWN, change_text


def test_the_table_shows_classes_and_groups_and_says_what_it_leaves_out() -> None:
    counts = {f"class {n}": (10, 10 - n % 10) for n in range(ROWS_SHOWN + 2)}
    change = ChangeReport(
        answers=40, changed=10, share=0.25, images=40, images_changed=10, units="images",
        metric="accuracy", by_class=counts, by_group={"video 1": (4, 1), "empty": (0, 0)},
    )  # fmt: skip
    text = change_text(change)
    assert text.startswith("changes 10 of 40 answers, so accuracy on these images moves by at most")
    assert "| class, by the model before | images | changed |" in text
    assert "| class 1 | 10 | 90.0% |" in text
    assert "| and 2 more | | |" in text
    assert "| video 1 | 4 | 25.0% |" in text
    assert "| empty |" not in text


def test_without_groups_there_is_no_table_of_them() -> None:
    change = ChangeReport(
        answers=4, changed=0, share=0.0, images=4, images_changed=0, units="boxes", metric=None,
        by_class={},
    )  # fmt: skip
    assert change_text(change) == "0.0 % of the boxes change (0 of 4)."
