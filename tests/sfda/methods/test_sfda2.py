"""SF(DA)^2: against the authors' numbers, against the paper's sums written out, and its cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_files import PassThrough
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from sfda.adaptation.loop import adapt
from sfda.building_blocks import covariance
from sfda.building_blocks.covariance import ClassCovariances, augmented_loss
from sfda.building_blocks.losses import batch_agreement
from sfda.errors import BadInput
from sfda.methods.sfda2 import SFDA2, SFDA2Config, class_affinity
from sfda.problems.classification.network import Classifier, make_head
from sfda.settings import Schedule
from sfda.testing.toys import classification as toy
from sfda.types import Clock, TargetBatch

GOLDEN = Path(__file__).parents[2] / "golden"


def method_of(size: int, dim: int, classes: int, **settings: Any) -> SFDA2:
    torch.manual_seed(5)
    head = make_head(dim, classes)
    network = Classifier(PassThrough(), nn.Identity(), head, feature_dim=dim, num_classes=classes)
    return SFDA2(network, toy.info(size), SFDA2Config.from_settings({"lr_scale": {}, **settings}))


def filled(method: SFDA2, features: Tensor) -> SFDA2:
    def scan(model: nn.Module) -> Any:
        with torch.no_grad():
            for rows in torch.arange(len(features)).split(50):
                yield rows, model(features[rows])

    method.start_epoch(scan, Clock(0, 5, 3))
    method.train()
    return method


def head_of(method: SFDA2) -> list[Tensor]:
    """Directions, lengths and bias of the student's head."""
    lengths, directions = method.student.head.parametrizations.weight.parameters()
    return [directions, lengths, method.student.head.bias]


def close(got: Any, expected: Any, rtol: float = 1e-4, atol: float = 1e-6) -> None:
    expected = torch.as_tensor(expected, dtype=torch.double)
    torch.testing.assert_close(
        torch.as_tensor(got).detach().double(), expected, rtol=rtol, atol=atol
    )


def test_three_steps_equal_the_authors_code() -> None:
    with np.load(GOLDEN / "sfda2_main.npz", allow_pickle=False) as result:
        g = {key: torch.from_numpy(np.array(result[key])) for key in result.files}
    steps, weights = int(g["max_iter"]), (float(g["alpha_1"]), float(g["alpha_2"]))
    method = method_of(
        len(g["fea_bank0"]),
        g["weight_v"].shape[1],
        int(g["class_num"]),
        neighbours=int(g["K"]),
        push=float(g["alpha"]),
        fade=float(g["beta"]),
        strength=float(g["lambda_0"]),
        augment_weight=weights[0],
        disentangle_weight=weights[1],
    )
    with torch.no_grad():
        for ours, theirs in zip(head_of(method), ("weight_v", "weight_g", "bias"), strict=True):
            ours.copy_(g[theirs])
    method.bank.features.copy_(g["fea_bank0"])
    method.bank.probs.copy_(g["score_bank0"])
    method.labels.copy_(g["pseudo_bank0"])
    method.start_epoch(toy.scan(torch.empty(0)), Clock(steps, steps, 2))  # not the first: no scan
    for n in range(int(g["steps"])):
        s = {key[3:]: value for key, value in g.items() if key.startswith(f"s{n}_")}
        features = s["features"].clone().requires_grad_()
        losses = method.losses(TargetBatch(s["tar_idx"], features), Clock(n, steps, 1))
        close(losses["attract"], s["loss_pos"], rtol=1e-5)
        close(losses["disperse"], s["loss_neg_weighted"], rtol=1e-5)
        close(losses["augment"], s["loss_ifa_weighted"], rtol=1e-5, atol=1e-9)
        close(losses["disentangle"], weights[1] * s["loss_fd"], rtol=1e-5)
        total = torch.stack(list(losses.values())).sum()
        close(total, s["loss_total"], rtol=1e-5)
        inputs = [features, *head_of(method)]
        for loss, name, parts in (
            (total, "total", ("feat", "wv", "wg", "b")),
            (losses["augment"], "ifa", ("feat", "wv", "wg", "b")),
            (losses["disperse"], "neg", ("feat",)),
            (losses["disentangle"] / weights[1], "fd", ("feat",)),
        ):
            grads = torch.autograd.grad(loss, inputs[: len(parts)], retain_graph=True)
            for part, grad in zip(parts, grads, strict=True):
                expected = s[f"g_{name}_{part}"]
                close(grad, expected, atol=1e-5 * float(expected.abs().max()))
        close(method.statistics.covariances, s["Cov"], rtol=1e-5)
        close(method.statistics.means, s["Ave"], rtol=1e-5)
        close(method.statistics.counts, s["Amount"])
        close(method.bank.features, s["fea_bank"], rtol=1e-5)
        close(method.bank.probs, s["score_bank"], rtol=1e-5)
        assert torch.equal(method.labels, s["pseudo_bank"])
        near = method.bank.neighbours(s["tar_idx"], s["features"], int(g["K"]))
        assert torch.equal(near, s["idx_near"])
        affinity = class_affinity(method.score_sums, method.score_counts)
        close(affinity, s["cov_weight"] * (1 - torch.eye(len(affinity))), rtol=1e-5)


class Plain:
    """docs/methods/classification.md, section 5.2, as it stands there, with loops, in double."""

    def __init__(self, classes: int, dim: int) -> None:
        self.covariances = torch.zeros(classes, dim, dim, dtype=torch.double)
        self.means = torch.zeros(classes, dim, dtype=torch.double)
        self.counts = [0] * classes

    def update(self, z: Tensor, labels: Tensor) -> Tensor:
        covariances = []
        for c in range(len(self.counts)):
            mine = z[labels == c]
            n, before = len(mine), self.counts[c]
            mu = mine.sum(0) / max(n, 1)
            v = sum((torch.outer(r - mu, r - mu) for r in mine), 0 * torch.outer(mu, mu)) / max(
                n, 1
            )
            w = n / (n + before) if n + before else 0.0
            jump = self.means[c] - mu
            s = (1 - w) * self.covariances[c] + w * v + w * (1 - w) * torch.outer(jump, jump)
            covariances.append(s)
            self.means[c] = (1 - w) * self.means[c] + w * mu.detach()
            self.counts[c] += n
        self.covariances = torch.stack(covariances).detach()
        return torch.stack(covariances)

    @staticmethod
    def augment(
        logits: Tensor, weight: Tensor, s: Tensor, labels: Tensor, strength: float
    ) -> Tensor:
        rows = []
        for i, y in enumerate(labels.tolist()):
            total = 0.0
            for c in range(logits.shape[1]):
                d = weight - weight[c]
                q = torch.stack([r @ s[y] @ r for r in d])
                total += 2 * ((logits[i] + strength / 2 * q).logsumexp(0) - logits[i, c])
            rows.append(total)
        return torch.stack(rows)

    @staticmethod
    def disentangle(s: Tensor, affinity: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.double)
        for c in range(len(s)):
            for other in range(len(s)):
                if c != other:
                    norms = torch.linalg.vector_norm(s[c]) * torch.linalg.vector_norm(s[other])
                    distance = 1 - (s[c] * s[other]).sum() / (norms + 1e-12)
                    total = total - affinity[c, other] * distance / 2
        return total


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


# classes, of which some have no sample in a batch and some a single one; dim; batch
CASES = [(4, 6, 16), (5, 3, 7), (9, 4, 5)]


@pytest.mark.parametrize(("classes", "dim", "batch"), CASES)
@pytest.mark.parametrize("chunk", [1, 200, 2**21])
def test_the_cheap_forms_are_the_plain_ones(
    classes: int, dim: int, batch: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(covariance, "LOSS_CHUNK", chunk)
    ours, plain = ClassCovariances(classes, dim).double(), Plain(classes, dim)
    labels = torch.tensor([[0, 0, 1, 2, 2, 2, 2], [3, 1, 1, 1, 1, 3, 0], [2, 3, 3, 0, 1, 1, 1]])
    for step in range(3):
        y = labels[step].repeat(3)[:batch]
        z, weight, bias = draw(step, batch, dim), draw(10 + step, classes, dim), draw(20, classes)
        scores = draw(30 + step, classes, classes).softmax(1)
        affinity = (scores @ scores.T).fill_diagonal_(0)
        result = []
        for cheap in (True, False):
            leaves = [t.clone().requires_grad_() for t in (z, weight, bias)]
            logits = leaves[0] @ leaves[1].T + leaves[2]
            if cheap:
                present = ours.update(leaves[0], y)
                augment = augmented_loss(logits, leaves[1], present, strength=20.0)
                apart = ours.disentanglement(present, affinity)
                assert torch.equal(present.classes[present.class_row], y)
            else:
                s = plain.update(leaves[0], y)
                augment = plain.augment(logits, leaves[1], s, y, 20.0)
                apart = plain.disentangle(s, affinity)
            grads = torch.autograd.grad(augment.sum(), leaves, retain_graph=True)
            result.append([augment, *grads, apart, torch.autograd.grad(apart, leaves[0])[0]])
        for one, other in zip(*result, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)
            assert other.abs().max() > 1e-3, "nothing was compared"
        close(ours.covariances, plain.covariances, rtol=1e-9, atol=1e-12)
        close(ours.means, plain.means, rtol=1e-9, atol=1e-12)
        assert ours.counts.tolist() == plain.counts


def test_a_run_of_steps_equals_the_objective_written_out() -> None:
    size, dim, classes, k = 40, 5, 6, 3
    method = method_of(
        size,
        dim,
        classes,
        neighbours=k,
        push=1.0,
        fade=0.75,
        strength=8.0,
        augment_weight=0.3,
        disentangle_weight=2.0,
        schedule={"batch_size": 10},
    )
    x = 2 * draw(1, size, dim).float()
    filled(method, x)
    plain = Plain(classes, dim)
    bank, scores = F.normalize(x.double(), dim=1), method.student(x).logits.double().softmax(1)
    scores = scores.detach()
    for step, rows in enumerate([[3, 9, 4, 20, 31, 0, 7, 12, 18, 25], [9, 39, 1], [5, 3, 20, 8]]):
        z = (x[rows] + draw(50 + step, len(rows), dim).float()).requires_grad_()
        got = method.losses(TargetBatch(torch.tensor(rows), z), Clock(step, 4, 2))
        leaves = [t.detach().double().requires_grad_() for t in (z, *head_of(method))]
        z2, v, g, b = leaves
        weight = g * v / v.norm(dim=1, keepdim=True)
        logits = z2 @ weight.T + b
        p, y = logits.softmax(1), logits.argmax(1)
        bank[rows], scores[rows] = F.normalize(z2.detach(), dim=1), p.detach()
        attract = disperse = 0.0
        for folder, i in enumerate(rows):
            order = sorted(set(range(size)) - {i}, key=lambda j, i=i: -float(bank[i] @ bank[j]))
            for j in order[:k]:
                attract += (scores[j] * (scores[j].log() - p[folder])).sum() / len(rows)
            for other in range(len(rows)):
                if other != folder:
                    disperse += (p[folder] @ p[other]) ** 2 / len(rows)
        s = plain.update(z2, y)
        of = [scores[scores.argmax(1) == c] for c in range(classes)]
        means = torch.stack([m.sum(0) / max(len(m), 1) for m in of])
        expected = {
            "attract": attract,
            "disperse": (1 + 10 * step / 8) ** -0.75 * 63 / 9 * disperse,
            "augment": 0.3 * plain.augment(logits, weight, s, y, 8.0 * (step + 1) / 8).mean(),
            "disentangle": 2.0 * plain.disentangle(s, means @ means.T),
        }
        assert got.keys() == expected.keys()
        for name, loss in expected.items():
            close(got[name], loss.detach(), rtol=1e-4)
        ours = torch.autograd.grad(torch.stack(list(got.values())).sum(), [z, *head_of(method)])
        theirs = torch.autograd.grad(torch.stack(list(expected.values())).sum(), leaves)
        for one, other in zip(ours, theirs, strict=True):
            close(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))


def test_few_classes_are_pushed_less_unless_told() -> None:
    assert [method_of(20, 4, c).push for c in (3, 12, 126)] == [0.25, 1.0, 1.0]
    assert method_of(20, 4, 3, push=1.0).push == 1.0


def test_turned_blobs_keep_their_names() -> None:
    x, y = toy.images(0.7, seed=1)
    before = toy.accuracy(toy.source(), x, y)
    schedule = Schedule(lr=0.02, epochs=3, batch_size=24)
    result = {}
    for push in (None, 1.0):
        config = SFDA2Config(schedule=schedule, push=push)
        method = SFDA2(toy.source(), toy.info(), config)
        list(adapt(method, toy.Batches(x), toy.scan(x), schedule))
        result[push] = toy.accuracy(method.adapted, x, y)
    assert result[None] > before + 0.05
    assert result[1.0] < 0.5, "the paper's push no longer harms so few classes: drop the deviation"


def test_a_class_without_samples_anywhere_is_no_nan() -> None:
    method = method_of(30, 4, 5)
    with torch.no_grad():
        method.student.head.bias[3] = -100.0
    filled(method, draw(2, 30, 4).float())
    assert int(method.score_counts[3]) == 0
    x = draw(3, 8, 4).float().requires_grad_()
    losses = method.losses(TargetBatch(torch.arange(8), x), Clock(0, 5, 3))
    torch.stack(list(losses.values())).sum().backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in method.student.parameters())


def test_single_samples_have_no_covariance_and_no_gradient() -> None:
    result = ClassCovariances(3, 4)
    z = draw(4, 3, 4).float().requires_grad_()
    present = result.update(z, torch.arange(3))
    assert float(result.covariances.abs().sum()) == 0
    apart = result.disentanglement(present, 1 - torch.eye(3))
    assert apart.item() == -3.0
    apart.backward()
    assert z.grad is not None
    assert torch.equal(z.grad, torch.zeros(3, 4))


def test_affinity_by_hand() -> None:
    sums = torch.tensor([[1.0, 1.0, 0.0], [0.2, 0.8, 0.0], [0.3, 0.0, 0.0]]).double()
    got = class_affinity(sums, torch.tensor([2, 1, 0]))  # means (0.5, 0.5, 0), (0.2, 0.8, 0), none
    close(got, [[0.0, 0.5, 0.0], [0.5, 0.0, 0.0], [0.0, 0.0, 0.0]])


def test_agreement_of_squares_by_hand() -> None:
    probs = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.2, 0.8]])
    # products 0.5, 0.2 and 0.5, each twice, over three rows
    assert float(batch_agreement(probs)) == pytest.approx(2 * 1.2 / 3)
    assert float(batch_agreement(probs, power=2)) == pytest.approx(2 * 0.54 / 3)


def test_sums_of_scores_and_products_do_not_drift() -> None:
    method = filled(method_of(60, 4, 5), draw(2, 60, 4).float())
    for step in range(200):
        rows = torch.randperm(60, generator=torch.Generator().manual_seed(step))[:16]
        z = draw(step, 16, 4).float()
        method.losses(TargetBatch(rows, z), Clock(step, 100, 2))
    for afresh in (False, True):
        if afresh:
            method.start_epoch(toy.scan(torch.empty(0)), Clock(100, 100, 2))
        for c in range(5):
            mine = method.bank.probs[method.labels == c].double()
            assert int(method.score_counts[c]) == len(mine)
            close(method.score_sums[c], mine.sum(0), rtol=1e-12, atol=1e-12)
    assert torch.equal(method.labels, method.bank.probs.argmax(1))
    flat = method.statistics.covariances.flatten(1)
    close(method.statistics.products, flat @ flat.T, rtol=1e-5)


def test_covariances_are_of_all_that_was_seen_in_any_order() -> None:
    z, y = draw(6, 90, 4), torch.arange(90) % 3 % 2
    result = ClassCovariances(2, 4).double()
    for rows in torch.randperm(90, generator=torch.Generator().manual_seed(0)).split(13):
        result.update(z[rows], y[rows])
    for c in range(2):
        close(result.means[c], z[y == c].mean(0))
        close(result.covariances[c], torch.cov(z[y == c].T, correction=0))


def test_statistics_are_float32_under_autocast() -> None:
    z, y, weight = draw(7, 12, 6).float(), torch.arange(12) % 4, draw(8, 4, 6).float()
    result = []
    for half in (False, True):
        statistics = ClassCovariances(4, 6)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            present = statistics.update(z, y)
            loss = augmented_loss(z[:, :4], weight, present, strength=5.0)
            apart = statistics.disentanglement(present, 1 - torch.eye(4))
        result.append((present.covariances, loss, apart))
    for one, other in zip(*result, strict=True):
        assert one.dtype == torch.float32
        assert torch.equal(one, other)


def test_a_head_that_is_not_linear_is_refused_with_a_remedy() -> None:
    head = nn.Sequential(nn.Conv2d(8, 3, kernel_size=1), nn.ReLU(), nn.Flatten())
    network = Classifier(PassThrough(), nn.Identity(), head, feature_dim=8, num_classes=3)
    with pytest.raises(BadInput, match=r"Sequential.*--head bottleneck"):
        SFDA2(network, toy.info(), SFDA2Config())


@pytest.mark.parametrize("search", ["exact", "approximate"])
def test_a_target_smaller_than_the_neighbourhood(search: str) -> None:
    if search == "approximate":
        pytest.importorskip("faiss")
    method = filled(method_of(4, 4, 3, search=search), draw(2, 4, 4).float())
    losses = method.losses(TargetBatch(torch.arange(4), draw(3, 4, 4).float()), Clock(0, 1, 15))
    assert all(loss.isfinite() for loss in losses.values())


def test_a_step_of_345_classes_takes_less_than_300_mb(tmp_path: Path) -> None:
    size, dim, classes, batch = 1000, 256, 345, 64
    method = filled(method_of(size, dim, classes), draw(2, size, dim).float())
    x = draw(3, batch, dim).float().requires_grad_()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        losses = method.losses(TargetBatch(torch.arange(batch), x), Clock(10, 20, 1))
        torch.stack(list(losses.values())).sum().backward()
    assert x.grad is not None
    seen.export_chrome_trace(str(tmp_path / "trace.json"))
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    memory = sorted((e["ts"], e["args"]["Bytes"]) for e in events if e["name"] == "[memory]")
    peak = np.cumsum([taken for _, taken in memory]).max() / 2**20
    assert int(method.statistics.counts.gt(0).sum()) > 40
    assert 16 < peak < 300, f"{peak:.0f} MB"  # at least the covariances of the batch's classes
