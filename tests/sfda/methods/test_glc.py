"""GLC against what the authors' code returned, and its corner cases by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from golden_files import load
from torch import Tensor, nn

from sfda.adaptation.loop import adapt
from sfda.building_blocks.bank import FEWEST_INDEXED
from sfda.building_blocks.clustering import margin, one_vs_all, positives, silhouettes
from sfda.building_blocks.rejection import uncertainty
from sfda.errors import BadInput
from sfda.methods._class_count import (
    COEFFICIENTS,
    FINER,
    best_coefficient,
    coefficient_of_draws,
)
from sfda.methods.glc import (
    Glc,
    GlcConfig,
    cross_entropy,
    global_labels,
    group_sizes,
    share_rejected,
    soft_targets,
)
from sfda.problems.classification.network import Classifier
from sfda.settings import Schedule
from sfda.testing.toys import classification as toy
from sfda.types import UNKNOWN, Clock, EpochEnd, Regime, TargetBatch, TargetInfo

CASES = ["closed", "osda"]


def sizes(g: dict[str, Tensor]) -> tuple[int, int]:
    return group_sizes(len(g["feat"]), int(g["class_num"]), float(g["coeff"]))


def theirs(labels: Tensor, classes: int) -> Tensor:
    """Our labels with the unknown class where the authors have it."""
    return labels.where(labels != UNKNOWN, classes)


@pytest.mark.parametrize("case", CASES)
def test_one_vs_all_with_the_authors_negatives(case: str) -> None:
    g = load(f"glc_global_pseudo_{case}")
    classes = int(g["class_num"])
    count, against = sizes(g)
    assert (count, against) == (int(g["pos_topk_num"]), int(g["KK"]))
    features, probs = F.normalize(g["feat"], dim=1), g["prob"]
    torch.testing.assert_close(features, g["feat_bank"])
    result = positives(features, probs, count=count, rho=float(g["rho"]))
    for c in range(classes):
        assert set(result.members[:, c].nonzero().flatten().tolist()) == set(
            g["pos_topk_idx"][c].tolist()
        )
    torch.testing.assert_close(result.prototypes, g["pos_proto"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(result.trust, g["pos_cls_prior"], rtol=1e-5, atol=1e-6)
    cosine = features @ result.prototypes.T
    assert torch.equal(cosine.argmax(1), g["prior_class"])
    torch.testing.assert_close(result.trust * cosine, g["pos_simi"], rtol=1e-5, atol=1e-6)
    negatives = F.normalize(g["neg_centroids"], dim=2)
    for c in range(classes):
        lead = margin(features, result.prototypes[c], result.trust[c], negatives[c])
        torch.testing.assert_close(lead, g["ova_margin"][:, c], rtol=1e-4, atol=1e-5)
        best = torch.maximum(g["pos_simi"][:, c], g["pos_simi"][:, c] - lead)
        torch.testing.assert_close(best, g["max_simi"][:, c], rtol=1e-5, atol=1e-5)
        assert torch.equal(lead >= 0, g["max_idx"][:, c] == 0)
    labels = one_vs_all(features, result, lambda c: negatives[c])
    assert torch.equal(theirs(labels, classes), g["hard_label"])
    torch.testing.assert_close(soft_targets(labels, classes), g["pseudo_label_bank"])


@pytest.mark.parametrize("case", CASES)
def test_global_labels_end_to_end(case: str) -> None:
    g = load(f"glc_global_pseudo_{case}")
    labels = global_labels(
        F.normalize(g["feat"], dim=1), g["prob"], gamma=float(g["coeff"]), rho=float(g["rho"])
    )
    agreement = (theirs(labels, int(g["class_num"])) == g["hard_label"]).double().mean()
    assert agreement >= 0.97


def test_class_count_from_the_authors_plane() -> None:
    g = load("glc_ct_estimate_osda")
    assert torch.equal(g["coeff_list"], torch.tensor(COEFFICIENTS).double())
    counts = [max(2, int(c * int(g["class_num"]))) for c in COEFFICIENTS]
    assert counts == g["km_K"].tolist()
    scores = silhouettes(g["tsne_xy"], counts)
    torch.testing.assert_close(scores, g["sil_ninit10"].float(), rtol=1e-4, atol=1e-5)
    assert best_coefficient(scores.tolist()) == float(g["best_coeff_ninit10"])


def test_class_count_from_the_authors_features() -> None:
    g = load("glc_ct_estimate_osda")
    method = started(g["feat"], g["prob"], coefficient="paper")
    # on our own map of them 2 and 3 tell nearly the same, and either may win
    torch.testing.assert_close(method.scores, g["sil_ninit10"].float(), rtol=0, atol=0.06)
    assert float(method.gamma) in (2.0, float(g["best_coeff_ninit10"]))
    assert float(method.gamma) == best_coefficient(method.scores.tolist())


class PassThrough(nn.Module):
    """A backbone that answers with what it is given, so that features can be set."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


class Answers(nn.Module):
    """A head that gives every row the logits set for it, whatever the features."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, x: Tensor) -> Tensor:
        return self.logits[: len(x)] + 0 * x.sum()


def glc(head: nn.Module, dim: int, classes: int, size: int, **settings: Any) -> Glc:
    network = Classifier(PassThrough(), nn.Identity(), head, feature_dim=dim, num_classes=classes)
    return Glc(network, toy.info(size), GlcConfig.from_settings(settings))


def started(features: Tensor, probs: Tensor, **settings: Any) -> Glc:
    """GLC at the start of its first epoch, with these features and probabilities."""
    (size, dim), classes = features.shape, probs.shape[1]
    method = glc(Answers(probs.log()), dim, classes, size, **settings)
    method.start_epoch(lambda model: iter([(torch.arange(size), model(features))]), Clock(0, 1, 2))
    return method


def test_local_step() -> None:
    g = load("glc_local_step_fresh")
    (size, dim), classes = g["feat_bank_before"].shape, len(g["cls_b"])
    head = nn.Linear(dim, classes)
    head.weight.data.copy_(g["cls_w"])
    head.bias.data.copy_(g["cls_b"])
    method = glc(
        head, dim, classes, size,
        neighbours=int(g["local_K"]), global_weight=float(g["lam_psd"]),
    )  # fmt: skip
    method.bank.features.copy_(g["feat_bank_before"])
    method.bank.probs.copy_(g["pred_bank_before"])
    known = g["hard_psd_bank"].amax(1) > 0.5
    method.labels.copy_(g["hard_psd_bank"].argmax(1).where(known, torch.tensor(UNKNOWN)))
    torch.testing.assert_close(soft_targets(method.labels, classes), g["hard_psd_bank"])
    near = method.bank.nearest(g["emb"], int(g["local_K"]) + 1)[:, 1:]
    assert torch.equal(near, g["nn_idx"])
    torch.testing.assert_close(method.bank.probs[near].mean(1), g["nn_pred"])
    emb = g["emb"].clone().requires_grad_()
    losses = method.losses(TargetBatch(g["imgs_idx"], emb), Clock(0, 1, 1))
    total = losses["global"] + losses["local"]
    total.backward()
    weight = float(g["lam_psd"])
    assert losses["global"].item() == pytest.approx(weight * float(g["psd_loss"]), rel=1e-5)
    assert losses["local"].item() == pytest.approx(float(g["knn_loss"]), rel=1e-5)
    assert total.item() == pytest.approx(float(g["total_loss"]), rel=1e-5)
    torch.testing.assert_close(emb.grad, g["grad_emb"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(method.bank.features, g["feat_bank_after"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(method.bank.probs, g["pred_bank_after"], rtol=1e-5, atol=1e-6)


def test_rank_one_is_dropped_even_where_it_is_another_row() -> None:
    method = glc(nn.Linear(2, 2), 2, 2, 4, neighbours=1, global_weight=0.0)
    angles = torch.tensor([0.0, 0.5, 1.0, 3.0])
    points = torch.stack([angles.cos(), angles.sin()], 1)
    method.bank.update(torch.arange(4), points, torch.eye(4)[:, :2])
    method.bank.probs.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [0.5, 0.5]]))
    batch = TargetBatch(torch.tensor([0]), points[1:2])  # row 0 now lies where row 1 does
    probs = method.student(batch.weak).logits.softmax(1)
    # row 1 is dropped; row 0 (cos 0.5) and row 2 (cos 0.5) tie but for rounding
    got = method.losses(batch, Clock(0, 1, 1))["local"]
    either = [cross_entropy(probs, torch.tensor([q])) for q in ([1.0, 0.0], [0.5, 0.5])]
    assert any(got.item() == pytest.approx(e.item(), rel=1e-5) for e in either)
    torch.testing.assert_close(method.bank.features[0], method.bank.features[1])


def test_sizes_of_tiny_targets() -> None:
    assert group_sizes(795, 31, 1.0) == (25, 31)
    assert group_sizes(120, 3, 0.25) == (119, 1), "C gamma = 0.75: K is 1, M leaves one negative"
    assert group_sizes(6, 4, 3.0) == (1, 5), "more prototypes than samples"
    assert group_sizes(2, 2, 3.0) == (1, 1)
    assert group_sizes(10, 5, 0.2) == (9, 1), "C gamma = 1: all would be positive"
    for size in range(2, 30):
        for coefficient in COEFFICIENTS:
            count, against = group_sizes(size, 3, coefficient)
            assert 1 <= count <= size - against
            assert against >= 1


@pytest.mark.parametrize("gamma", [0.1, *COEFFICIENTS])
@pytest.mark.parametrize("size", [2, 3, 8])
def test_tiny_targets_get_labels(size: int, gamma: float) -> None:
    x = torch.randn(size, 4, generator=torch.Generator().manual_seed(size))
    labels = global_labels(F.normalize(x, dim=1), x[:, :3].softmax(1), gamma=gamma, rho=0.75)
    assert set(labels.tolist()) <= {UNKNOWN, 0, 1, 2}


def test_tiny_and_collapsed_targets_start() -> None:
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    for coefficient, grid in (("paper", COEFFICIENTS), ("estimate", FINER)):
        told = started(x, x[:, :3].softmax(1), coefficient=coefficient)
        assert float(told.gamma) in grid
    flat = started(torch.zeros(9, 4), torch.full((9, 3), 1 / 3), coefficient="paper")
    assert float(flat.gamma) == 1.0
    assert torch.equal(flat.scores, torch.zeros(5))


@pytest.mark.parametrize("scale", [1.0, 400.0])
def test_a_batch_of_unknowns_alone_is_finite_and_made_less_sure(scale: float) -> None:
    method = glc(nn.Linear(4, 3), 4, 3, 20)
    x = torch.randn(20, 4, generator=torch.Generator().manual_seed(2))
    method.student.head.weight.data.copy_(x[:3])
    method.student.head.bias.data.zero_()
    method.bank.update(torch.arange(20), x, torch.full((20, 3), 1 / 3))
    method.labels.fill_(UNKNOWN)
    images = (scale * x[:6]).requires_grad_()
    losses = method.losses(TargetBatch(torch.arange(6), images), Clock(0, 1, 1))
    torch.stack(list(losses.values())).sum().backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert losses["global"].item() <= 0.3 * 11.52
    assert images.grad.isfinite().all()
    if scale == 1.0:
        with torch.no_grad():
            before = uncertainty(method.student(images).logits.softmax(1))
            after = uncertainty(method.student(images - 0.1 * images.grad).logits.softmax(1))
        assert (after > before).all()


def test_a_collapse_is_told_by_what_is_rejected_and_not_by_what_is_labelled() -> None:
    method = glc(nn.Linear(4, 3), 4, 3, 20)
    method.labels.fill_(UNKNOWN)
    assert method.status() == "100% of the target labelled unknown (gamma 1); 0% rejected"
    method.labels[:10] = 2
    method.rejected.fill_(0.95)
    assert "50% of the target labelled unknown (gamma 1); 95% rejected" in method.status()
    assert method.status().endswith("try --set reject=auto")
    method.gamma.fill_(2.0)
    assert "try --set reject=auto, or --set coefficient=1" in method.status()
    assert "rejected" not in glc(nn.Linear(4, 3), 4, 3, 20, reject="never").status()


def test_what_is_rejected_is_counted_at_the_start_of_an_epoch() -> None:
    features = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    sure = torch.tensor([0.98, 0.01, 0.01]).expand(20, 3)
    probs = torch.where(torch.arange(20)[:, None] < 5, sure, torch.full((20, 3), 1 / 3))
    assert float(started(features, probs).rejected) == pytest.approx(0.75)
    assert float(started(features, probs, threshold=1.0).rejected) == 0.0
    assert share_rejected(probs, "auto") == pytest.approx(0.75)
    assert share_rejected(probs, None) == 0.0


def test_another_number_of_classes_that_fits_nearly_as_well_is_named() -> None:
    method = glc(nn.Linear(4, 3), 4, 3, 20, coefficient="paper")
    method.scores.copy_(torch.tensor([0.1, 0.2, 0.40, 0.39, 0.35]))
    assert "gamma 2 fits nearly as well: --set coefficient=2 takes that" in method.status()
    method.scores[3] = 0.37
    assert "nearly" not in method.status()
    assert "nearly" not in glc(nn.Linear(4, 3), 4, 3, 20, coefficient=1).status()


def test_targets_sum_to_a_little_less_than_one() -> None:
    got = soft_targets(torch.tensor([2, UNKNOWN]), 4)
    expected = [[0, 0, 1 / 1.0001, 0], [1 / 4.0001] * 4]
    torch.testing.assert_close(got, torch.tensor(expected))


def run(method: Glc, resume: Any = None) -> list[EpochEnd]:
    x, _ = toy.images(0.5, seed=1)
    schedule = Schedule(lr=0.02, epochs=2, batch_size=24)
    events = adapt(method, toy.Batches(x), toy.scan(x), schedule, resume=resume)
    return [event for event in events if isinstance(event, EpochEnd)]


def method_of_toy(regime: Regime | None = None, **settings: Any) -> Glc:
    info = TargetInfo(toy.SIZE, toy.info().row_ids, regime=regime)
    return Glc(toy.source(), info, GlcConfig.from_settings(settings))


def test_gamma_is_estimated_in_the_first_epoch_alone_and_resumed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = run(method_of_toy(coefficient="paper"))[0]
    method = method_of_toy(coefficient="paper")
    assert float(method.gamma) == 1.0, "no run inherits another's estimate"
    assert not method.scores.any()
    state = {**first.state.method, "gamma": torch.tensor(2.0)}
    monkeypatch.setattr("sfda.methods.glc.class_count_scores", None)  # would fail if called
    run(method, resume=type(first.state)(1, state, first.state.optimizer))
    assert float(method.gamma) == 2.0
    assert torch.equal(method.scores, first.state.method["scores"])


def test_a_given_coefficient_skips_the_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sfda.methods.glc.class_count_scores", None)
    g = load("glc_global_pseudo_osda")
    method = started(g["feat"], g["prob"], coefficient=float(g["coeff"]))
    agreement = theirs(method.labels, 4) == g["hard_label"]
    assert agreement.double().mean() >= 0.97
    assert not method.scores.any()
    torch.testing.assert_close(method.bank.features, g["feat_bank"])
    torch.testing.assert_close(method.bank.probs, g["pred_bank"])


def test_only_so_many_rows_tell_gamma() -> None:
    g = load("glc_ct_estimate_osda")
    few, same, all_rows = (
        started(g["feat"], g["prob"], coefficient="paper", estimate_rows=rows).scores
        for rows in (60, 60, 20_000)
    )
    assert torch.equal(few, same)
    assert not torch.equal(few, all_rows)


def test_banks_start_anew_every_epoch() -> None:
    x, _ = toy.images(0.5, seed=1)
    method = method_of_toy(coefficient=1.0)
    method.bank.update(torch.arange(toy.SIZE), torch.rand(toy.SIZE, 8), torch.rand(toy.SIZE, 3))
    method.start_epoch(toy.scan(x), Clock(5, 5, 2))
    out = method.student.eval()(x)
    torch.testing.assert_close(method.bank.features, F.normalize(out.features.detach(), dim=1))


def test_neighbours_of_a_small_target_are_all_others() -> None:
    method = glc(nn.Linear(4, 3), 4, 3, 3)
    x = torch.randn(3, 4)
    method.bank.update(torch.arange(3), x, x[:, :3].softmax(1))
    assert method.losses(TargetBatch(torch.arange(3), x), Clock(0, 1, 1))["local"].isfinite()


def test_unknowns_are_rejected_unless_ruled_out() -> None:
    assert method_of_toy().rejection == 0.55
    assert method_of_toy("open-partial").rejection == "auto"  # three classes are few
    assert method_of_toy("open-partial", threshold=0.55).rejection == 0.55
    assert method_of_toy("open", threshold=0.4).rejection == 0.4
    assert method_of_toy("partial").rejection is None
    assert method_of_toy("closed").rejection is None
    assert method_of_toy("closed", reject=0.3).rejection == 0.3


def test_approximate_search_finds_what_exact_search_finds() -> None:
    pytest.importorskip("faiss")
    generator = torch.Generator().manual_seed(5)
    centres = 3 * torch.randn(40, 8, generator=generator)
    x = centres[torch.arange(5000) % 40] + torch.randn(5000, 8, generator=generator)
    probs = x[:, :4].softmax(1)
    batch = TargetBatch(torch.arange(64), x[:64])
    losses = []
    for search in ("exact", "approximate"):
        method = started(x, probs, search=search, coefficient=2.0)
        assert len(method.bank.features) >= FEWEST_INDEXED, "large enough for an index"
        losses.append(method.losses(batch, Clock(0, 1, 1)))
    for name, exact in losses[0].items():
        torch.testing.assert_close(losses[1][name], exact, rtol=0.02, atol=0.0)


def test_settings_out_of_range_are_refused() -> None:
    for wrong in ({"coefficient": 0}, {"suppression": 1.2}, {"search": "fast"}, {"neighbours": 0}):
        with pytest.raises(BadInput):
            GlcConfig.from_settings(wrong)


def draws_of(*best: float, by: float) -> Tensor:
    """Silhouettes of five draws: 0.4 for 1, and so much more for the best of each."""
    draws = torch.full((len(best), len(FINER)), 0.1)
    draws[:, FINER.index(1.0)] = 0.4
    for row, coefficient in enumerate(best):
        draws[row, FINER.index(coefficient)] = 0.4 + by
    return draws


def test_another_number_of_classes_needs_a_majority_and_a_clear_lead() -> None:
    assert coefficient_of_draws(draws_of(1.5, 1.5, 1.5, 1.5, 1.5, by=0.06)) == 1.5
    assert coefficient_of_draws(draws_of(1.5, 1.5, 1.5, 1.5, 1.5, by=0.04)) == 1.0
    assert coefficient_of_draws(draws_of(0.5, 2.0, 1.5, 1.5, 1.5, by=0.5)) == 1.0
    assert coefficient_of_draws(draws_of(0.5, 1.5, 1.5, 1.5, 1.5, by=0.5)) == 1.5


def test_an_estimate_of_ours_tells_all_its_numbers() -> None:
    g = load("glc_ct_estimate_osda")
    method = started(g["feat"], g["prob"], coefficient="estimate")
    assert float(method.votes.sum()) == 5
    for coefficient in FINER:
        assert f"{coefficient:g}: " in method.status()


def first_labels(method: Glc, probs: Tensor, labels: Tensor) -> Tensor:
    """What the entry check makes of these labels."""
    method.bank.probs.copy_(probs)
    return method._look_at_first(labels)


def test_surest_samples_that_begin_as_unknown_are_told_and_not_learnt_from() -> None:
    probs = torch.linspace(0.4, 0.99, 20)[:, None] * torch.tensor([1.0, 0.0, 0.0])
    features = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(20, dtype=torch.long)
    labels[16:] = UNKNOWN  # four of the ten surest
    method = glc(nn.Linear(4, 3), 4, 3, 20)
    method.bank.update(torch.arange(20), features, probs)
    method.labels.copy_(first_labels(method, probs, labels))
    assert "40% of the surer half began as unknown" in method.status()
    batch = TargetBatch(torch.arange(16, 20), features[16:])
    assert method.losses(batch, Clock(0, 1, 2))["global"].item() == 0.0
    assert method.losses(batch, Clock(1, 1, 2))["global"].item() > 0.0
    calm = glc(nn.Linear(4, 3), 4, 3, 20, guards=False)
    calm.labels.copy_(first_labels(calm, probs, labels))
    assert "surer" not in calm.status()
    assert calm.losses(batch, Clock(0, 1, 2))["global"].item() > 0.0


def test_an_estimate_that_leaves_the_surest_unknown_gives_way_to_the_source_s_classes() -> None:
    g = load("glc_global_pseudo_osda")
    method = started(g["feat"], g["prob"], coefficient="paper")
    method.gamma.fill_(3.0)
    unknown = torch.full((len(g["feat"]),), UNKNOWN)
    labels = first_labels(method, g["prob"], unknown)
    assert float(method.gamma) == 1.0
    assert torch.equal(labels, started(g["feat"], g["prob"]).labels)


def test_where_half_of_the_known_labels_are_lost_nothing_more_is_learnt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, _ = toy.images(0.5, seed=1)
    lost = [0, 0]  # samples of each epoch that are unknown
    monkeypatch.setattr(Glc, "_labels", lambda self: (torch.arange(toy.SIZE) < lost[0]) * UNKNOWN)
    for unknown, stops in ((toy.SIZE // 2 - 1, False), (toy.SIZE // 2 + 1, True)):
        for guards in (True, False):
            method = method_of_toy(guards=guards)
            lost[0] = 0
            method.start_epoch(toy.scan(x), Clock(0, 1, 2))
            lost[0] = unknown
            method.start_epoch(toy.scan(x), Clock(1, 1, 2))
            batch = TargetBatch(torch.arange(8), x[:8])
            assert (method.losses(batch, Clock(1, 1, 2)) == {}) == (stops and guards)
            assert ("nothing more is learnt" in method.status()) == (stops and guards)
            assert int((method.labels == UNKNOWN).sum()) == (0 if stops and guards else unknown)


def test_where_unknown_classes_are_declared_statistics_are_the_target_s_first() -> None:
    x, _ = toy.images(0.5, seed=1)
    for regime, settings, renews in (
        ("open", {}, True), ("open-partial", {}, True), (None, {}, False), ("closed", {}, False),
        ("open", {"statistics": "source"}, False), ("closed", {"statistics": "target"}, True),
    ):  # fmt: skip
        method = method_of_toy(regime, **settings)
        before = {n: b.clone() for n, b in method.student.named_buffers() if "running" in n}
        assert before
        method.start_epoch(toy.scan(x), Clock(0, 1, 2))
        after = dict(method.student.named_buffers())
        assert any(not torch.equal(after[n], b) for n, b in before.items()) == renews
        assert not any(p.grad is not None for p in method.student.parameters())
