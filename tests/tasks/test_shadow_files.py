"""What `sfda shadow` writes takes the place of an earlier report of its own alone."""

from __future__ import annotations

import pytest

from sfda.errors import BadInput
from sfda.refs import ModelRef
from tasks.shadow import answer_in_shadow

OWN = (
    '{"answers": 1, "changed": 0, "share": 0.0, "images": 1, "images_changed": 0, '
    '"units": "images", "metric": null, "by_class": {}}'
)


def model(digit: str) -> ModelRef:
    return ModelRef(
        uri=f"/models/{digit}",
        sha256=digit * 64,
        problem="classification",
        arch="torchvision:resnet18",
        classes=("a", "b"),
    )


@pytest.mark.parametrize("kind", ["text", "link", "own"])
def test_a_report_of_a_person_s_is_not_replaced(tmp_path, kind):
    mine, out = tmp_path / "mine", tmp_path / "out"
    out.mkdir()
    mine.write_text(OWN if kind != "text" else '{"changed": "the plan"}')
    if kind == "link":
        (out / "change.json").symlink_to(mine)
    else:
        mine.rename(out / "change.json")
    # the target is missing: that is told of where nothing lies in the way
    why = "m.yaml" if kind == "own" else r"change\.json was not made by `sfda shadow`"
    with pytest.raises(BadInput, match=why):
        answer_in_shadow(model("1"), model("2"), str(tmp_path / "m.yaml"), "adapt", out)
