"""The page of a run: its order, that it is one file, and that no name on it does anything."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from sfda.adaptation.run_folder import Epoch
from sfda.decision.change import ChangeReport
from sfda.decision.gate import Evidence
from sfda.profiling.findings import ProfileFinding, Recommendation, TargetProfile
from sfda.refs import (
    SOURCE_EPOCH,
    Attestation,
    ModelRef,
    ReliabilityBin,
    Report,
    SideBySide,
)
from sfda.report.model_card import LONGEST_CARD, model_card
from sfda.report.page import RunReport, VerdictPart, run_page
from sfda.report.page_parts import element

HOSTILE = (
    '</td></svg><script>alert(1)</script><img src=x onerror="a">\u202egpj.exe\x1b[2J\x00 &amp;'
)
DIGEST = "0" * 64
VOID = {"meta", "img", "br"}


def change(name: str) -> ChangeReport:
    return ChangeReport(
        answers=40,
        changed=10,
        share=0.25,
        images=40,
        images_changed=10,
        units="images",
        metric="accuracy",
        by_class={name: (20, 10)},
        by_group={name: (40, 10)},
    )


def epoch(number: int, name: str, vetoes: tuple[str, ...] = ()) -> Epoch:
    return Epoch(
        epoch=number,
        steps=[number * 2 + 1, number * 2 + 2],
        losses={"entropy": [1.0, 0.5]},
        rate=[0.1, 0.05],
        last_step=number * 2 + 2,
        images=40,
        seconds=1.0,
        scores={"infomax": 1.0 + number},
        sha256=DIGEST,
        weights=None,
        vetoes=vetoes,
    )


def side(name: str, right: int) -> Report:
    wrong = 20 - right
    return Report(
        split=name,
        count=40,
        metrics={"overall_accuracy": right / 20, "macro_accuracy": right / 20, "log_loss": 0.5},
        per_class={
            name: {"accuracy": right / 20, "count": 20.0},
            "other": {"accuracy": 1.0, "count": 20.0},
            "absent": {"count": 0.0},
        },
        confusion=[[right, wrong, 0], [0, 20, 0], [0, 0, 0]],
        note=name,
        reliability=(ReliabilityBin(10, 0.4, 0.5), ReliabilityBin(30, 0.9, 0.8)),
    )


def made(name: str = "cat", *, labelled: bool = True) -> RunReport:
    finding = ProfileFinding(name="size", standing="notice", sentence=name, remedy=f"see {name}")
    sides = SideBySide(split=None, source=None, adapted=None)
    if labelled:
        sides = SideBySide(split=name, source=side(name, 10), adapted=side(name, 15), reject=0.5)
    return RunReport(
        title=f"adapt {name} with shot",
        made="today",
        outcome=VerdictPart(
            state="Held",
            kind="hold",
            level=0,
            sentence=f"held: {name}",
            next=(f"open {name}/audit.html",),
            version=f"models:/{name}/2",
            champion=f"models:/{name}/1",
            evidence=Evidence(
                change=change(name),
                vetoes=(name,),
                pool=name,
                class_shares={name: (0.5, 0.25), "other": (0.5, 0.75)},
            ),
        ),
        sides=sides,
        picture=b"\x89PNG picture",
        panel=b"\x89PNG panel",
        history=[epoch(0, name), epoch(1, name, (name,))],
        chosen=0,
        chosen_by="infomax",
        cut=name,
        confinement=Attestation(enforced=False, says=name),
        profile=TargetProfile(
            images=40,
            looked_at=40,
            findings=(finding,),
            recommendation=Recommendation(kind="adapt", method="shot", reasons=(name,)),
        ),
        lineage={"target": name, name: "x"},
        settings={name: name},
        command=f"sfda adapt --target {name}",
        files={name: name},
    )


class Elements(HTMLParser):
    """Names of elements, their attributes, and the text of all; elements must be closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.mark.parametrize("labelled", [True, False])
def test_hostile_names_are_shown_and_do_nothing(labelled):
    page = run_page(made(HOSTILE, labelled=labelled))
    read, plain = Elements(page), Elements(run_page(made("cat", labelled=labelled)))
    assert read.names == plain.names, "a name makes no element"
    assert "script" not in read.names
    assert not [name for name, _ in read.attributes if name.startswith("on")]
    assert "</td></svg><script>alert(1)</script>" in "".join(read.text)
    assert not set(page) & {"\u202e", "\x1b", "\x00"}


def test_nothing_is_fetched_and_no_script_may_run():
    page = run_page(made())
    read = Elements(page)
    addresses = [value or "" for name, value in read.attributes if name in ("src", "href")]
    assert addresses
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in addresses)
    assert not re.search(r"url\(|@import", page)
    assert "default-src 'none'; img-src data:" in page


def test_the_verdict_comes_first_and_the_command_last():
    page = run_page(made())
    order = [
        "held: cat",
        "open cat/audit.html",
        "Change and evidence",
        "Source against adapted",
        "Curves by epoch",
        "What changed",
        "Shares of the classes",
        "Lineage",
        "<h2>Warnings",
        "How to reproduce",
        "sfda adapt --target cat",
    ]
    positions = [page.index(text) for text in order]
    assert positions == sorted(positions)


def test_differences_are_signed_and_coloured_where_more_is_better():
    page = run_page(made())
    assert '<span class="better">+0.2500</span>' in page
    assert '<td class="word">log loss</td>' in page, "not in bold: less of it is better"
    assert '<span class="better">+25.0</span>' in page
    worse = replace(
        made(), sides=SideBySide(split="test", source=side("cat", 15), adapted=side("cat", 10))
    )
    assert '<span class="worse">−0.2500</span>' in run_page(worse)


def test_without_labels_the_page_says_so_and_shows_what_changed_all_the_same():
    page = run_page(made(labelled=False))
    assert "so neither model could be measured" in page
    assert "what was gained is not measured" in page
    assert "50.0 → 25.0 %" in page
    assert page.count("<img") == 1, "the panel"


def test_the_chosen_epoch_has_a_ring_and_one_with_a_veto_a_cross():
    page = run_page(made())
    assert page.count('class="ring"') == page.count('class="cross"') == 1
    kept = run_page(replace(made(), chosen=SOURCE_EPOCH))
    assert 'class="ring"' not in kept
    assert "the source itself was taken" in kept


def test_a_champion_already_and_a_run_without_change_have_a_page():
    report = made(labelled=False)
    nothing = replace(report.outcome, evidence=None, next=(), kind="promote")
    page = run_page(
        replace(report, outcome=nothing, panel=None, history=[], confinement=None, profile=None)
    )
    Elements(page)
    assert "there was nothing to decide" in page
    assert "No answer changed on the images that were looked at" in page


def test_three_hundred_classes_are_folded_and_the_pairs_that_matter_listed():
    size = 345
    names = [f"class {n}" for n in range(size)]
    counts = [[0] * size for _ in names]
    for n in range(size):
        counts[n][n], counts[n][(n + 1) % size] = 5, n % 7
    report = side("cat", 10).model_copy(
        update={
            "per_class": {name: {"accuracy": 0.5, "count": 10.0} for name in names},
            "confusion": counts,
        }
    )
    page = run_page(replace(made(), sides=SideBySide(split="test", source=report, adapted=report)))
    assert "330 more" in page
    assert "and 280 rarer pairs" in page


def test_a_model_card_is_markdown_that_no_name_can_leave():
    model = ModelRef(
        uri="x", sha256=DIGEST, problem="classification", arch=HOSTILE, classes=(HOSTILE,) * 400
    )
    card = model_card(made(HOSTILE), model)
    assert len(card) <= LONGEST_CARD
    assert not re.search(r"(?<!\\)<", card)
    assert not set(card) & {"\u202e", "\x1b", "\x00"}
    plain = model_card(made(), model.model_copy(update={"classes": ("cat", "dog")}))
    assert "# models:/cat/2" in plain
    assert "classes: 2 (cat, dog)" in plain
    assert "| macro\\_accuracy | 0.5000 | 0.7500 |" in plain
    assert "not known" in model_card(made(labelled=False), model)


def test_a_line_of_many_points_and_a_long_command_are_whole():
    values = [float(n) for n in range(100)]
    many = [
        epoch(n, "a").model_copy(
            update={"steps": [100 * n + s for s in range(100)], "rate": values, "losses": {}}
        )
        for n in range(30)
    ]
    page = run_page(replace(made(), history=many, command="sfda " + "x" * 5000))
    line = max(re.findall(r'<path d="([^"]*)" class="before"', page), key=len)
    assert re.fullmatch(r"M[\d.]+ [\d.]+( L[\d.]+ [\d.]+)+", line)
    assert 300 < line.count("L") <= 400
    assert "x" * 5000 in page


def test_attributes_are_escaped_too():
    assert element("a", "x", href='"><b>') == '<a href="&quot;&gt;&lt;b&gt;">x</a>'


@pytest.mark.parametrize("mark", ["@BODY@", "@TITLE@", "@BODY@ @TITLE@"])
def test_a_name_that_is_a_mark_of_the_template_moves_nothing(mark):
    page = run_page(made(mark))
    title, rest = page.partition("<title>")[2].split("</title>", 1)
    assert title == f"adapt {mark} with shot"
    assert rest.index("<body>") < rest.index(f"held: {mark}")
    assert "How to reproduce" in rest
