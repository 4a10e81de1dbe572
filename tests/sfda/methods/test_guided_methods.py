"""Co-learn and ProDe against what the authors' code returned, ViLAaD by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from golden_files import PassThrough, load
from torch import Tensor, nn

from sfda.adaptation.loop import adapt
from sfda.errors import BadInput
from sfda.guides.centroids import centroid_cosines, soft_centroids, with_one
from sfda.methods.aad import AaD, AaDConfig
from sfda.methods.colearn import (
    CoLearn,
    CoLearnConfig,
    centroid_shares,
    guide_branch,
    label_loss,
    take_labels,
    unused_entropy,
)
from sfda.methods.prode import (
    ProDe,
    ProDeConfig,
    assignment_information,
    moved_answer,
    negative_diversity,
)
from sfda.methods.vilaad import ViLAaD, ViLAaDConfig, answered_attraction
from sfda.problems.classification.network import Classifier
from sfda.settings import Schedule
from sfda.testing.toys import classification as toy
from sfda.types import Clock, EpochEnd, Guide, TargetBatch

TAKES = {
    "MatchOrConf": "match_or_conf",
    "MatchAndConf": "match_and_conf",
    "Match": "match",
    "OtherConf": "other_conf",
    "SelfConf": "self_conf",
}


def guide_of(features: Tensor, logits: Tensor | None = None, text: Tensor | None = None) -> Guide:
    said = torch.zeros(len(features), 2) if logits is None else logits
    return Guide("g", said, torch.ones(len(features)).bool(), features, text)


def toy_guide(shift: float = 0.0, sharp: float = 1.0) -> Guide:
    """What the source says of the same points, turned by `shift`."""
    x, _ = toy.images(shift, seed=1)
    with torch.no_grad():
        out = toy.source()(x)
    return guide_of(out.features, sharp * out.logits)


def info(guide: Guide | None = None) -> Any:
    return replace(toy.info(), guide=guide or toy_guide())


def last(method: Any, x: Tensor, epochs: int = 3) -> Classifier:
    schedule = Schedule(lr=0.02, epochs=epochs, batch_size=24)
    events = list(adapt(method, toy.Batches(x), toy.scan(x), schedule, seed=3))
    assert isinstance(events[-1], EpochEnd)
    assert isinstance(events[-1].adapted, Classifier)
    return events[-1].adapted


@pytest.mark.parametrize("case", ["main", "binary"])
def test_labels_of_two_branches(case: str) -> None:
    g = load(f"guided/colearn_select_{case}")
    probs = g["model_logits"].softmax(1)
    centroids = soft_centroids(g["guide_features"], probs)
    torch.testing.assert_close(centroids, g["centroids"], rtol=1e-5, atol=1e-6)
    hard = nn.functional.one_hot(probs.argmax(1), probs.shape[1]).float()
    made = soft_centroids(g["guide_features"], hard)
    torch.testing.assert_close(made, g["centroids_from_hard_labels"], rtol=1e-5, atol=1e-6)
    cosines = centroid_cosines(g["guide_features"], centroids)
    branch = guide_branch(guide_of(g["guide_features"]), centroids, "none", 0.01)
    torch.testing.assert_close(cosines, g["guide_cosine"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(branch, g["guide_probs"], rtol=1e-5, atol=1e-3)
    for name, take in TAKES.items():
        taken = take_labels(probs, branch, float(g["threshold"]), take)  # type: ignore[arg-type]
        assert torch.equal(taken.used, g[f"{name}_used"].bool()), name
        used = taken.used
        assert torch.equal(taken.labels[used], g[f"{name}_label"].long()[used]), name
    assert torch.equal(taken.model_sure, g["model_confident"].bool())
    assert torch.equal(taken.guide_sure, g["guide_confident"].bool())


@pytest.mark.parametrize("case", ["main", "visda"])
def test_branches_with_texts(case: str) -> None:
    g = load(f"guided/colearn_text_{case}")
    guide = guide_of(g["guide_features"], text=g["text_features"])
    for use, recorded in (("weak", "centroids_weak"), ("strong", "centroids_strong")):
        shares = centroid_shares(g["model_logits"], guide, use)  # type: ignore[arg-type]
        centroids = soft_centroids(guide.features, shares)  # type: ignore[arg-type]
        torch.testing.assert_close(centroids, g[recorded], rtol=1e-5, atol=1e-5)
        branch = guide_branch(guide, g["centroids_weak"], "none", 0.01)
        if use == "strong":
            branch = guide_branch(guide, g["centroids_strong"], "strong", 0.01)
            torch.testing.assert_close(branch, g["strong_probs"], rtol=1e-5, atol=1e-3)
        taken = take_labels(g["model_logits"].softmax(1), branch, float(g["threshold"]), "match")
        assert torch.equal(branch.argmax(1), g[f"{use}_pred"].long())
        assert torch.equal(taken.guide_sure, g[f"{use}_confident"].bool())


def test_colearn_losses() -> None:
    g = load("guided/colearn_loss")
    used = g["used"].bool()
    logits = g["logits"].clone().requires_grad_()
    loss, rest = label_loss(logits, g["labels"].long(), used), unused_entropy(logits, used)
    assert loss.item() == pytest.approx(float(g["ce"]), rel=1e-5)
    assert rest.item() == pytest.approx(float(g["entropy_boolean_mask"]), rel=1e-5)
    assert label_loss(logits, g["labels"].long(), used & False).item() == float(g["ce_none_used"])
    for weight in (0.0, 0.5):
        logits = g["logits"].clone().requires_grad_()
        total = label_loss(logits, g["labels"].long(), used) + weight * unused_entropy(logits, used)
        total.backward()
        name = f"lam{weight}_boolean"
        assert total.item() == pytest.approx(float(g[f"total_{name}"]), rel=1e-5)
        torch.testing.assert_close(logits.grad, g[f"grad_{name}"], rtol=1e-4, atol=1e-7)


def test_centroids_by_hand() -> None:
    features = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    probs = torch.tensor([[0.9, 0.1], [0.4, 0.6]])
    units = torch.tensor([[0.948683, 0.0, 0.316228], [0.0, 0.970143, 0.242536]])
    torch.testing.assert_close(with_one(features), units, rtol=0, atol=1e-6)
    centroids = soft_centroids(features, probs)
    expected = torch.tensor([[0.656776, 0.298503, 0.293551], [0.135524, 0.831539, 0.253059]])
    torch.testing.assert_close(centroids, expected, rtol=0, atol=2e-5)
    cosines = centroid_cosines(features, centroids)
    expected = torch.tensor([[0.91916, 0.23712], [0.46322, 0.98680]])
    torch.testing.assert_close(cosines, expected, rtol=0, atol=1e-5)
    taken = take_labels(probs, (cosines / 0.01).softmax(1), 0.5, "match_or_conf")
    assert taken.labels.tolist() == [0, 1]
    assert taken.used.all()
    assert with_one(torch.zeros(1, 2)).tolist() == [[0.0, 0.0, 1.0]], "a row of zeros is finite"


def test_colearn_trains_the_backbone_alone_and_skips_batches_without_labels() -> None:
    x, _ = toy.images(0.5, seed=1)
    method = CoLearn(toy.source(), info(), CoLearnConfig())
    method.start_epoch(toy.scan(x), Clock(0, 5, 3))
    method.train()
    assert method.student.backbone.training
    assert not method.student.bottleneck.training
    assert "agree on" in method.status()
    assert method.pseudo_labels_left() == 1.0
    batch = toy.batch(x, torch.arange(24))
    loss = method.losses(batch, Clock(0, 5, 3))["label"]
    loss.backward()
    moved = {n for n, p in method.student.named_parameters() if p.grad is not None}
    assert {name.partition(".")[0] for name in moved} == {"backbone"}
    method.used.zero_()
    assert method.losses(batch, Clock(0, 5, 3)) == {}
    assert method.pseudo_labels_left() == 0.0
    with pytest.raises(BadInput, match="texts"):
        CoLearn(toy.source(), info(), CoLearnConfig(text="weak"))


@pytest.mark.parametrize("case", ["main", "officehome"])
def test_mutual_information(case: str) -> None:
    g = load(f"guided/prode_mi_{case}")
    one, other = (g[f"logits_{name}"].clone().requires_grad_() for name in "ab")
    loss = assignment_information(one.softmax(1), other.softmax(1))
    loss.backward()
    assert loss.item() == pytest.approx(float(g["loss"]), rel=1e-5)
    torch.testing.assert_close(one.grad, g["grad_a"], rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(other.grad, g["grad_b"], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("case", ["officehome", "domainnet"])
def test_a_step_of_prode(case: str) -> None:
    g = load(f"guided/prode_step_{case}")
    size, classes = g["source_logits_bank"].shape
    guide = torch.zeros(size, classes)
    guide[g["rows"]] = g["guide_logits"]
    network = Classifier(
        PassThrough(), nn.Identity(), nn.Identity(), feature_dim=classes, num_classes=classes
    )
    target = replace(toy.info(size), guide=guide_of(guide, guide))
    method = ProDe(
        network, target,
        ProDeConfig.from_settings({
            "source_weight": float(g["source_weight"]), "mi": float(g["mi_weight"]),
            "ce": float(g["ce_weight"]), "diversity": float(g["diversity_weight"]),
            "epsilon": float(g["epsilon"]), "lr_scale": {},
        }),
    )  # fmt: skip
    method.source_logits.copy_(g["source_logits_bank"])
    logits = g["model_logits"].clone().requires_grad_()
    losses = method.losses(TargetBatch(g["rows"], logits), Clock(0, 1, 1))
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    assert total.item() == pytest.approx(float(g["total"]), rel=1e-5)
    torch.testing.assert_close(logits.grad, g["grad_model_logits"], rtol=1e-4, atol=1e-7)
    assert float(losses["mutual_information"]) == pytest.approx(
        float(g["mi_weight"]) * float(g["mi"]), rel=1e-5
    )
    assert ("diversity" in losses) == bool(g["diversity_weight"])
    source, answered = g["source_logits_bank"][g["rows"]], torch.ones(len(g["rows"])).bool()
    weight = float(g["source_weight"])
    taught = moved_answer(g["model_logits"], g["guide_logits"], source, answered, weight)
    assert torch.equal(taught.labels, g["pseudo"].long())
    torch.testing.assert_close(taught.probs, g["target_probs"], rtol=1e-5, atol=1e-7)


def test_prode_by_hand() -> None:
    rows = [torch.tensor([row]) for row in ((1.0, 2.5, 0.0), (2.0, 0.0, 1.0), (3.0, 1.0, 0.0))]
    taught = moved_answer(*rows, torch.tensor([True]), 1.0)
    assert taught.labels.tolist() == [1]
    assert taught.probs[0].tolist() == pytest.approx([0.12195, 0.54655, 0.33150], abs=1e-5)
    silent = moved_answer(*rows, torch.tensor([False]), 1.0)
    torch.testing.assert_close(silent.probs, rows[0].softmax(1))
    both = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    assert assignment_information(both, both).item() == pytest.approx(-0.127482, abs=1e-5)
    even = negative_diversity(torch.full((3, 4), 0.25), 1e-9).item()
    assert even == pytest.approx(-torch.tensor(4.0).log().item())


def by_hand(**settings: Any) -> tuple[dict[str, Tensor], Tensor]:
    """ViLAaD's terms on two samples whose neighbours are rows 2 and 3 of the bank."""
    logits = torch.tensor([[0.8, 0.2], [0.3, 0.7]]).log().requires_grad_()
    network = Classifier(PassThrough(), nn.Identity(), nn.Identity(), feature_dim=2, num_classes=2)
    w = torch.tensor([[0.5, 0.5], [0.5, 0.5], [0.9, 0.1], [0.2, 0.8]])
    target = replace(toy.info(4), guide=guide_of(w, w.log()))
    config = {"neighbours": 1, "lr_scale": {}, "schedule": {"batch_size": 64}} | settings
    method = ViLAaD(network, target, ViLAaDConfig.from_settings(config))
    method.bank.probs[2:] = torch.tensor([[0.6, 0.4], [0.1, 0.9]])
    method.bank.features[2:] = nn.functional.normalize(logits.detach(), dim=1)
    return method.losses(TargetBatch(torch.arange(2), logits), Clock(0, 1, 1)), logits


def test_vilaad_by_hand() -> None:
    losses, _ = by_hand(normalise=False, self_guide=False)
    assert losses["attract"].item() == pytest.approx(-1.109047, abs=1e-5)
    assert losses["guide"].item() == pytest.approx(-1.092743, abs=1e-5)
    assert losses["disperse"].item() == pytest.approx(0.38, abs=1e-6)
    losses, _ = by_hand(self_guide=False)
    total = sum(losses.values(), torch.zeros(()))
    assert total.item() == pytest.approx(-0.720895, abs=1e-5)
    near, probs = torch.tensor([[[0.9, 0.1]], [[0.2, 0.8]]]), torch.full((2, 2), 0.5)
    probs.requires_grad_()
    answered_attraction(probs, near, torch.ones(2, 1).bool()).backward()
    assert probs.grad is not None
    torch.testing.assert_close(probs.grad[0], torch.tensor([-0.45, -0.05]))
    half = answered_attraction(probs, near, torch.tensor([[True], [False]]))
    only = answered_attraction(probs[:1], near[:1], torch.ones(1, 1).bool()) / 2
    torch.testing.assert_close(half, only)
    with_self, _ = by_hand(normalise=False)
    assert with_self["guide"].item() != pytest.approx(-1.092743, abs=1e-3)
    pushed, _ = by_hand(push_guide=0.5)
    assert pushed["guide_disperse"].item() == pytest.approx(0.5 * (0.5 + 0.5) / 2, abs=1e-6)


def test_without_pull_of_the_guide_vilaad_is_aad() -> None:
    x, _ = toy.images(0.5, seed=1)
    fast = {"schedule": {"lr": 0.02, "epochs": 3, "batch_size": 24}}
    ours = ViLAaD(toy.source(), info(), ViLAaDConfig.from_settings({**fast, "pull_guide": 0.0}))
    base = AaD(toy.source(), toy.info(), AaDConfig.from_settings(fast))
    one, other = last(ours, x).state_dict(), last(base, x).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in other)
    with pytest.raises(BadInput, match="both 0"):
        ViLAaD(toy.source(), info(), ViLAaDConfig(pull_guide=0.0, pull_model=0.0))


def test_the_bank_may_begin_with_the_guide() -> None:
    x, _ = toy.images(0.5, seed=1)
    guide = toy_guide()
    guide = replace(guide, answered=torch.arange(120) < 60)
    method = ViLAaD(toy.source(), info(guide), ViLAaDConfig(start="guide"))
    method.start_epoch(toy.scan(x), Clock(0, 1, 1))
    torch.testing.assert_close(method.bank.probs[:60], guide.logits[:60].softmax(1))
    with torch.no_grad():
        torch.testing.assert_close(method.bank.probs[60:], toy.source()(x).logits[60:].softmax(1))
    assert "confidence" in method.status()


@pytest.mark.parametrize(
    ("kind", "config"), [(CoLearn, CoLearnConfig), (ViLAaD, ViLAaDConfig), (ProDe, ProDeConfig)]
)
def test_a_good_guide_helps_over_a_shift(kind: Any, config: Any) -> None:
    x, y = toy.images(0.8, seed=1)
    settings = {"schedule": {"lr": 0.02, "epochs": 6, "batch_size": 24}}
    own = config.from_settings(settings)
    after = toy.accuracy(last(kind(toy.source(), info(), own), x, 6), x, y)
    assert after > toy.accuracy(toy.source(), x, y) + 0.05
