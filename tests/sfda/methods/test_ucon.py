"""UCon against what the authors' code returned, and its rules by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from golden_files import PassThrough, load
from torch import Tensor, nn

from sfda.methods.ucon import (
    UCon,
    UConConfig,
    best_to_second,
    candidate_sets,
    control_loss,
    partial_loss,
    share_moved,
    uncertain_by_classes,
)
from sfda.problems.classification.network import Classifier
from sfda.testing.toys import classification as toy
from sfda.types import Clock, SeenViews, TargetBatch


def of(g: dict[str, Tensor], name: str) -> Tensor:
    return g[name].bool()


@pytest.mark.parametrize("case", ["main", "binary"])
def test_sets_and_flags(case: str) -> None:
    g = load(f"guided/ucon_sets_{case}")
    probs, rows, ratio = g["probs"], g["rows"], best_to_second(g["probs"])
    for count, name in ((1, "set_fixed1"), (2, "set_fixed2"), ("auto", "set_auto")):
        sets = torch.zeros(g["set_auto"].shape, dtype=torch.bool)
        sets[rows] |= candidate_sets(probs, count)  # type: ignore[arg-type]
        assert torch.equal(sets, of(g, name)), name
    sets[rows] |= candidate_sets(g["probs_second"], "auto")
    assert torch.equal(sets, of(g, "set_auto_second")), "they only grow"
    torch.testing.assert_close(ratio, g["ratio"], rtol=1e-5, atol=0)
    flags = torch.zeros(len(rows), dtype=torch.bool)
    for limit in (1.1, 1.3, 3.0):
        flags[rows] = ratio < limit
        assert torch.equal(flags, of(g, f"uncertain_fixed{limit}"))
    flags[rows] = uncertain_by_classes(probs)
    assert torch.equal(flags, of(g, "uncertain_cal"))
    assert float(torch.quantile(ratio, 0.1)) == pytest.approx(float(g["tau_stat"]), rel=1e-5)


def test_losses() -> None:
    g = load("guided/ucon_losses_main")
    weak, strong = (g[f"logits_{view}"].clone().requires_grad_() for view in ("weak", "strong"))
    loss = control_loss(weak, strong, 1.0)
    loss.backward()
    assert loss.item() == pytest.approx(float(g["dc"]), rel=1e-5)
    torch.testing.assert_close(strong.grad, g["dc_grad_strong"], rtol=1e-4, atol=1e-7)
    assert weak.grad is None
    for which, rows in (("selected", of(g, "selected")), ("all", torch.ones(16).bool())):
        for name, smoothing in (("smooth10", 0.1), ("smooth0", 0.0)):
            logits = g["logits_weak"].clone().requires_grad_()
            loss = partial_loss(logits.softmax(1)[rows], of(g, "sets")[rows], smoothing)
            loss.backward()
            expected = g[f"partial_{which}_{name}"]
            assert loss.item() == pytest.approx(float(expected), rel=1e-5)
            gradient = g[f"partial_{which}_{name}_grad"]
            torch.testing.assert_close(logits.grad, gradient, rtol=1e-4, atol=1e-6)


def ucon(head: nn.Module, dim: int, classes: int, size: int, **settings: Any) -> UCon:
    network = Classifier(PassThrough(), nn.Identity(), head, feature_dim=dim, num_classes=classes)
    return UCon(network, toy.info(size), UConConfig.from_settings(settings))


@pytest.mark.parametrize("case", ["domainnet", "none_selected"])
def test_step(case: str) -> None:
    g = load(f"guided/ucon_step_{case}")
    (size, dim), classes = g["features_bank_before"].shape, len(g["head_bias"])
    head = nn.Linear(dim, classes)
    head.weight.data.copy_(g["head_weight"])
    head.bias.data.copy_(g["head_bias"])
    method = ucon(
        head, dim, classes, size, neighbours=int(g["K"]), push=float(g["alpha"]),
        fade=float(g["beta"]), control=float(g["dc_weight"]), partial=float(g["partial_weight"]),
        uncertain=float(g["tau"]), candidates=2,
        schedule={"batch_size": 64}, lr_scale={},
    )  # fmt: skip
    method.bank.features.copy_(g["features_bank_before"])
    method.bank.probs.copy_(g["probs_bank_before"])
    method.sets.copy_(of(g, "sets_before"))
    method.uncertain.copy_(of(g, "uncertain_before"))
    weak, strong = (g[f"features_{view}"].clone().requires_grad_() for view in ("weak", "strong"))
    clock = Clock(int(g["step_1based"]) - 1, int(g["steps"]), 1)
    assert method.push(clock) == pytest.approx(float(g["alpha_used"]), rel=1e-6)
    losses = method.losses(TargetBatch(g["rows"], weak, strong), clock)
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    attract, control = (float(losses[name]) for name in ("attract", "control"))
    assert attract == pytest.approx(float(g["attract"]), rel=1e-5)
    assert control == pytest.approx(float(g["dc_weight"]) * float(g["dc_unweighted"]), rel=1e-5)
    assert int(method.uncertain[g["rows"]].sum()) == int(g["n_selected"])
    assert ("partial" in losses) == bool(g["n_selected"])
    assert total.item() == pytest.approx(float(g["total"]), rel=1e-4, abs=1e-5)
    for grad, name in ((weak.grad, "weak"), (strong.grad, "strong")):
        torch.testing.assert_close(grad, g[f"grad_features_{name}"], rtol=1e-4, atol=1e-6)
    assert torch.equal(method.sets, of(g, "sets_after"))
    assert torch.equal(method.uncertain, of(g, "uncertain_after"))
    torch.testing.assert_close(method.bank.features, g["features_bank_after"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(method.bank.probs, g["probs_bank_after"], rtol=1e-5, atol=1e-6)


def test_rules_by_hand() -> None:
    close, clear = torch.tensor([[0.40, 0.35, 0.25]]), torch.tensor([[0.6, 0.3, 0.1]])
    assert candidate_sets(close, "auto").tolist() == [[True, True, False]]
    assert candidate_sets(clear, "auto").tolist() == [[True, False, False]]
    assert uncertain_by_classes(close).tolist() == [True]
    taught = torch.tensor([0.49123, 0.49123, 0.01754])
    expected = -(taught * close.log()).sum()
    loss = partial_loss(close, torch.tensor([[True, True, False]]))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    assert partial_loss(close, torch.ones(1, 3).bool()).isfinite()


def test_of_two_classes_one_is_the_candidate() -> None:
    method = ucon(nn.Linear(4, 2), 4, 2, 6, candidates=2)
    method._mark(torch.arange(6), torch.full((6, 2), 0.5))
    assert method.sets.sum(1).tolist() == [1] * 6


def test_what_is_measured_before_the_first_step() -> None:
    x, _ = toy.images(0.5, seed=1)
    method = UCon(toy.source(), toy.info(), UConConfig())
    logits = torch.eye(3)[torch.tensor([0, 1, 2, 0])]
    seen = [
        SeenViews(torch.arange(4), None, Answer(logits), Answer(torch.eye(3)[[0, 1, 1, 1]])),
        SeenViews(torch.arange(4, 5), None, Answer(logits[:1]), Answer(logits[:1])),
    ]
    assert share_moved(seen) == pytest.approx(2 / 5)
    method.pairs = lambda network: iter(seen)
    method.start_epoch(toy.scan(x), Clock(0, 1, 2))
    assert float(method.control) == pytest.approx(2 / 5)
    flagged = float(method.uncertain.double().mean())
    assert flagged == pytest.approx(0.1, abs=0.02), "of few classes a tenth is uncertain"
    assert float(method.ratio) > 1
    assert "uncertain" in method.status()
    grown = int(method.sets.sum())
    method.start_epoch(toy.scan(x), Clock(1, 1, 2))
    assert int(method.sets.sum()) == grown
    method.config.__dict__["forget"] = True
    method.start_epoch(toy.scan(x), Clock(1, 1, 2))
    assert not method.sets.any()


class Answer(tuple):  # type: ignore[type-arg]
    """Logits alone, as an output has them."""

    def __new__(cls, logits: Tensor) -> Answer:
        return super().__new__(cls, (logits,))

    @property
    def logits(self) -> Tensor:
        return self[0]  # type: ignore[no-any-return]


def test_the_strong_view_may_leave_running_statistics_alone() -> None:
    x, _ = toy.images(0.5, seed=1)
    moved = []
    for statistics in ("both", "weak"):
        torch.manual_seed(0)
        method = UCon(
            toy.source(), toy.info(), UConConfig.from_settings({"statistics": statistics})
        )
        method.start_epoch(toy.scan(x), Clock(0, 1, 2))
        method.train()
        method.losses(TargetBatch(torch.arange(24), x[:24], 3 * x[:24]), Clock(0, 1, 2))
        moved.append([b.clone() for n, b in method.student.named_buffers() if "mean" in n])
    alone = UCon(toy.source(), toy.info(), UConConfig())
    alone.train()
    alone.student(x[:24])
    once = [b for n, b in alone.student.named_buffers() if "mean" in n]
    assert all(torch.equal(a, b) for a, b in zip(moved[1], once, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(moved[0], once, strict=True))
