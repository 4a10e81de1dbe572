"""The closed-form head against what the authors' code returned, and by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from golden_files import load
from torch import Tensor, nn

from sfda.adaptation.loop import adapt
from sfda.errors import BadInput
from sfda.methods.gda import Gda, GdaConfig
from sfda.problems.classification.gaussian_head import (
    effective_classes,
    fit_gaussians,
    fitted_head,
    starting_labels,
    unit_head_rows,
    with_head,
)
from sfda.problems.classification.network import Classifier, GaussianHead, make_spec
from sfda.problems.registry import PROBLEMS, read_bundle
from sfda.refs import InputSpec
from sfda.settings import Schedule
from sfda.testing.methods import check_method
from sfda.testing.toys import classification as toy
from sfda.types import UNSURE, EpochEnd, Labelled
from sfda.weights.bundle import write_bundle


def one_hot(labels: list[int] | Tensor, classes: int) -> Tensor:
    return F.one_hot(torch.as_tensor(labels), classes).double()


def gda(info: Any = None, source: Classifier | None = None, **settings: Any) -> Gda:
    return Gda(source or toy.source(), info or toy.info(), GdaConfig.from_settings(settings))


def run(method: Gda, x: Tensor, batches: Any = None) -> Classifier:
    schedule = Schedule(epochs=1, batch_size=24)
    events = list(adapt(method, batches or toy.Batches(x), toy.scan(x), schedule))
    assert isinstance(events[-1], EpochEnd)
    network = events[-1].adapted
    assert isinstance(network, Classifier)
    return network.eval()


def test_the_authors_numbers() -> None:
    g = load("gda")
    x = F.normalize(g["raw_features"].double(), dim=1)
    fit = fit_gaussians(x, one_hot(g["labels"], 6))
    means = torch.stack([x[g["labels"] == c].mean(0) for c in range(6)])
    torch.testing.assert_close(means.float(), g["mus"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(fit.weight.T.float(), g["W"], rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(fit.bias.float(), g["b"], rtol=1e-5, atol=1e-5)
    query = F.normalize(g["query_features"].double(), dim=1)
    zero_shot = 100 * query @ g["clip_weights"].double()
    for alpha in (1e-4, 0.01, 1.0, 10.0):
        mixed = (zero_shot + alpha * fit.scores(query)).float()
        torch.testing.assert_close(mixed, g[f"logits_a{alpha}"], rtol=1e-5, atol=2e-3)


def test_four_rows_by_hand() -> None:
    rows = torch.tensor([[1.0, 0.0], [1.0, 0.2], [0.0, 1.0], [0.2, 1.0]])
    fit = fit_gaussians(F.normalize(rows, dim=1), one_hot([0, 0, 1, 1], 2))
    assert fit.stretch == 2.5
    expected = torch.tensor([0.990290, 0.098058], dtype=torch.float64)
    precision = torch.tensor([[62.6617, 7.3734], [7.3734, 62.6617]], dtype=torch.float64)
    torch.testing.assert_close(fit.weight[0], precision @ expected, rtol=1e-5, atol=1e-4)
    assert fit.bias.tolist() == pytest.approx([-32.4358] * 2, rel=1e-5)
    scores = fit.scores(torch.tensor([[0.8, 0.6]]))
    assert scores[0].tolist() == pytest.approx([25.8530, 15.9870], rel=1e-5)


def test_soft_shares_are_weighted_samples() -> None:
    """A row of share 2 is the row twice, but for the count of degrees of freedom."""
    x = F.normalize(torch.randn(9, 4, generator=torch.Generator().manual_seed(1)).double(), dim=1)
    shares = one_hot([0, 1, 2] * 3, 3)
    shares[0] *= 2
    twice = fit_gaussians(torch.cat([x, x[:1]]), torch.cat([shares, shares[:1] / 2]) / 1.0)
    once = shares.clone()
    once[0] = 1.5 * shares[0]  # 3 in all
    torch.testing.assert_close(fit_gaussians(x, once).weight, twice.weight)


def test_one_sample_a_class_takes_the_nearest_mean() -> None:
    x = F.normalize(torch.tensor([[1.0, 0.1], [0.1, 1.0]]), dim=1)
    fit = fit_gaussians(x, torch.eye(2))
    assert fit.stretch == 1.0
    assert fit.scores(x).argmax(1).tolist() == [0, 1]
    assert fit.weight.isfinite().all()


def test_a_declared_prior_moves_the_border() -> None:
    x, y = toy.images(0.0)
    features = F.normalize(toy.source()(x).features.detach(), dim=1)
    plain, rare = (
        fit_gaussians(features, one_hot(y, 3), prior=prior)
        for prior in (None, torch.tensor([0.98, 0.01, 0.01]))
    )
    moved = rare.bias - plain.bias
    assert float(moved[0] - moved[1]) == pytest.approx(torch.tensor(98.0).log().item(), rel=1e-6)


def test_starting_rows() -> None:
    probs = torch.full((100, 2), 0.1)
    probs[:70, 0] = torch.linspace(0.9, 0.6, 70)
    probs[70:, 1] = torch.linspace(0.6, 0.9, 30)
    labels = starting_labels(probs, own=True)
    assert (labels[:15] == 0).all()
    assert (labels[-15:] == 1).all()
    assert int((labels >= 0).sum()) == 30, "0.3 N / C of each"
    probs[:, 1] = 0.05
    probs[:3, 1], probs[90:, 1] = 0.2, 0.08
    assert not (starting_labels(probs, own=True) == 1).any(), "no row is class 1's own"
    taken = starting_labels(probs, own=False)
    assert (taken[:3] == UNSURE).all(), "the surest of both classes stand for none"
    assert (taken == 1).any()
    assert (starting_labels(torch.zeros(5, 3), own=True) == UNSURE).all()


def test_a_class_without_rows_never_wins() -> None:
    x, y = toy.images(0.0)
    network = toy.source()
    features = F.normalize(network(x).features.detach(), dim=1)
    shares = one_hot(y, 3)
    shares[y == 2] = 0
    fit = fit_gaussians(features, shares)
    assert fit.active.tolist() == [True, True, False]
    for mixed in (False, True):
        logits = with_head(network, fitted_head(network, fit, mixed=mixed))(x).logits
        assert logits.isfinite().all()
        assert not (logits.argmax(1) == 2).any()


def test_labels_alone_leave_unlabelled_classes_the_rows_of_the_head() -> None:
    x, y = toy.images(0.3, seed=1)
    network = toy.source()
    spare = unit_head_rows(network)
    torch.testing.assert_close(spare, F.normalize(network.head.weight.detach(), dim=1))
    info = replace(toy.info(), labelled=torch.arange(0, 30, 3))  # class 0 alone

    class Batches(toy.Batches):
        def epoch(self, epoch: int, rows: Tensor | None = None) -> Any:
            for batch in super().epoch(epoch, rows):
                yield replace(batch, labelled=Labelled(info.labelled, x[::3][:10], y[::3][:10]))

    method = gda(info)
    adapted = run(method, x, Batches(x))
    assert "10 labelled rows" in method.status()
    assert adapted.head.active.all()
    features = F.normalize(network(x).features.detach(), dim=1)
    shares = torch.zeros(120, 3)
    shares[:30:3, 0] = 1
    fit = fit_gaussians(features, shares, spare_means=spare)
    own, score = network(x).logits, fit.scores(features)
    expected = own + (own.std(1) / score.std(1))[:, None] * score
    torch.testing.assert_close(adapted(x).logits, expected.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("settings", [{}, {"statistics": "target"}, {"own": False}, {"em": 3}])
def test_without_labels_a_turn_is_mended(settings: dict[str, Any]) -> None:
    x, y = toy.images(0.8, seed=1)
    before = toy.accuracy(toy.source(), x, y)
    method = gda(**settings)
    assert toy.accuracy(run(method, x), x, y) > before
    assert "Gaussians of" in method.status()


def test_own_rows_keep_a_dominant_class() -> None:
    """80 % of one class: rows of others fill the rare ones' quota where `own` is off."""
    x, y = toy.images(0.3, seed=2, size=600)
    rows = torch.cat(
        [(y == c).nonzero().flatten()[:count] for c, count in ((0, 200), (1, 9), (2, 4))]
    )
    x, y = x[rows], y[rows]
    info = toy.info(len(x))
    kept, lost = (toy.accuracy(run(gda(info, own=own), x), x, y) for own in (True, False))
    assert kept >= toy.accuracy(toy.source(), x, y) - 0.02
    assert kept > lost + 0.05


def test_a_round_that_collapses_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    x, _ = toy.images(0.3, seed=1)
    method = gda()
    start = run(gda(em=0), x)(x).logits
    module = "sfda.methods.gda"
    counts = iter([3.0, 1.0])
    monkeypatch.setattr(f"{module}.effective_classes", lambda labels, classes: next(counts))
    torch.testing.assert_close(run(method, x)(x).logits, start)
    assert "its first one counts" in method.status()
    assert effective_classes(torch.tensor([0, 0, 0, 1]), 3) < 2


def test_of_one_class_alone_nothing_is_made() -> None:
    x, y = toy.images(0.0, seed=1)
    x = x[y == 0]
    network = toy.source()
    method = gda(toy.info(len(x)))
    torch.testing.assert_close(run(method, x)(x).logits, network(x).logits)
    assert "stays as it is" in method.status()


def test_settings_that_cannot_be_met_are_refused() -> None:
    with pytest.raises(BadInput, match="sfda query"):
        gda(rows="labelled")
    plain = Classifier(nn.Flatten(), nn.Identity(), nn.Linear(2, 3), feature_dim=2, num_classes=3)
    with pytest.raises(BadInput, match="statistics=target"):
        gda(source=plain, statistics="target")


def test_labelled_rows_count_more_than_others() -> None:
    check_method(Gda, settings={"rows": "both"})


def test_a_bundle_holds_the_head(tmp_path: Path) -> None:
    spec = make_spec(
        "sfda:tiny",
        ("a", "b"),
        input=InputSpec(size=(8, 8), mean=(0.5,), std=(1,), channels="gray"),
    )
    network = PROBLEMS[spec.problem].build_from_spec(spec).eval()
    x = torch.rand(40, 1, 8, 8)
    features = F.normalize(network(x).features.detach(), dim=1)
    fit = fit_gaussians(features, one_hot([0, 1] * 20, 2))
    adapted = with_head(network, fitted_head(network, fit, mixed=False)).eval()
    write_bundle(tmp_path / "gda", adapted, Gda.adapted_spec(spec))
    again, read = read_bundle(tmp_path / "gda")
    assert read.gaussian_head
    torch.testing.assert_close(again(x).logits, adapted(x).logits)
    scores = fit.stretch * fit.scores(features)
    torch.testing.assert_close(again(x).logits, scores.float(), rtol=1e-4, atol=1e-4)
    assert "gaussian_head" not in (write_plain(tmp_path, network, spec) / "spec.json").read_text()
    neutral = PROBLEMS[spec.problem].in_form_of(network, read)
    assert isinstance(neutral.head, GaussianHead)
    torch.testing.assert_close(neutral(x).logits, network(x).logits)
    refitted = with_head(again, fitted_head(again, fit, mixed=True))
    assert set(refitted.state_dict()) == set(again.state_dict()), "heads do not pile up"
    kept = with_head(again, fitted_head(again, None))
    torch.testing.assert_close(kept(x).logits, again(x).logits)


def write_plain(folder: Path, network: nn.Module, spec: Any) -> Path:
    write_bundle(folder / "plain", network, spec)
    return folder / "plain"
