"""Numbers that the authors' own code gave, see tests/golden/README.md."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sfda.building_blocks.class_ratios import class_ratios, ratio_divergence, weighted_entropy
from sfda.building_blocks.losses import sure_cross_entropy
from sfda.building_blocks.norm import AlphaBN

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.fixture
def ratios():
    g = np.load(GOLDEN / "adami_binary.npz", allow_pickle=False)
    return {name: torch.from_numpy(g[name]) for name in g.files if g[name].dtype.kind in "fi"}


def close(result, expected, rel):
    torch.testing.assert_close(result.double(), expected.double(), rtol=rel, atol=1e-9)


def test_ratios_of_the_released_code_and_of_the_paper(ratios):
    close(class_ratios(ratios["probs"], estimator="code"), ratios["est_prop"], 1e-5)
    close(class_ratios(ratios["probs"], estimator="code", power=2), ratios["est_prop_power2"], 1e-5)
    pixels = ratios["probs"].shape[2] * ratios["probs"].shape[3]
    plain = class_ratios(ratios["probs"], estimator="mean") * pixels
    close(plain, ratios["soft_size_pixels"], 1e-5)


def test_both_terms_and_their_gradients(ratios):
    pixels = ratios["probs"].shape[2] * ratios["probs"].shape[3]
    prior = ratios["size_prior_pixels"] / pixels

    def terms():
        logits = ratios["logits"].clone().requires_grad_()
        probs = logits.softmax(1)
        predicted = class_ratios(probs, estimator="code")
        entropy = weighted_entropy(probs, ratios["weights"].float())
        return logits, entropy, ratio_divergence(predicted, prior, reverse=False)

    for folder, name in ((1, "entropy"), (2, "kl")):
        result = terms()
        close(result[folder].detach(), ratios[f"loss_{name}"], 1e-5)
        (gradient,) = torch.autograd.grad(result[folder], result[0])
        close(gradient, ratios[f"grad_{name}"], 1e-4)
    logits, entropy, kl = terms()
    (gradient,) = torch.autograd.grad(entropy + kl, logits)
    close(gradient, ratios["grad_total"], 1e-4)
    close(entropy.detach(), ratios["self_entropy"], 1e-5)


def reference(logits, prior, weights):
    """Both terms pixel by pixel in float64, after docs/methods/segmentation.md, section A.3."""
    e = np.exp(logits - logits.max(1, keepdims=True))
    p = e / e.sum(1, keepdims=True)
    nu = weights[None, :, None, None]
    entropy = -(nu * p * np.log(p + 1e-10)).sum() / (p.sum() + 1e-10)
    relative = p / (p.max(1, keepdims=True) + 1e-10)
    sizes = relative.sum((2, 3))
    ratios = sizes / (sizes.sum(1, keepdims=True) + 1e-10)
    forward = (ratios * (np.log(ratios + 1e-10) - np.log(prior + 1e-10))).sum(1).mean()
    back = (prior * (np.log(prior + 1e-10) - np.log(ratios + 1e-10))).sum(1).mean()
    return {"entropy": entropy, "forward": forward, "back": back}


CASES = {  # classes, height, width, sums of the prior over the image's pixels
    "binary": (2, 16, 12, (192, 192)),
    "five classes": (5, 16, 16, (256, 256)),
    "unnormalised prior": (2, 16, 16, (260, 264)),
    "five classes, unnormalised": (5, 8, 12, (97, 90)),
}


@pytest.mark.parametrize("case", CASES)
def test_terms_and_gradients_of_other_shapes_and_priors(case):
    classes, height, width, sums = CASES[case]
    rng = np.random.default_rng(5)
    logits = 2 * rng.standard_normal((2, classes, height, width))
    prior = rng.dirichlet(np.ones(classes), 2) * np.array(sums)[:, None] / (height * width)
    weights = rng.dirichlet(np.ones(classes))
    expected = reference(logits, prior, weights)

    def term(name, values):
        probs = values.softmax(1)
        if name == "entropy":
            return weighted_entropy(probs, torch.from_numpy(weights))
        predicted = class_ratios(probs, estimator="code")
        return ratio_divergence(predicted, torch.from_numpy(prior), reverse=name == "back")

    step = 1e-5
    places = [tuple(rng.integers(0, logits.shape)) for _ in range(12)]
    for name, value in expected.items():
        variable = torch.from_numpy(logits).requires_grad_()
        result = term(name, variable)
        assert result.item() == pytest.approx(value, rel=1e-9)
        (gradient,) = torch.autograd.grad(result, variable)
        for folder in places:
            sides = []
            for sign in (1, -1):
                moved = logits.copy()
                moved[folder] += sign * step
                sides.append(reference(moved, prior, weights)[name])
            slope = (sides[0] - sides[1]) / (2 * step)
            assert gradient[folder].item() == pytest.approx(slope, rel=1e-4, abs=1e-9)
        single = term(name, torch.from_numpy(logits.astype(np.float32)))
        assert single.item() == pytest.approx(value, abs=1e-6)


def test_cross_entropy_of_pixels(ratios):
    targets = ratios["target_onehot"].argmax(1)
    close(sure_cross_entropy(ratios["logits"], targets), ratios["cross_entropy"], 1e-5)
    weighted = sure_cross_entropy(ratios["logits"], targets, weights=ratios["weights"].float())
    close(weighted, ratios["cross_entropy_weighted"], 1e-5)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("test_weight", ["0", "0.1", "0.5", "0.9", "1"])
def test_alpha_batch_norm(test_weight, mode):
    g = np.load(GOLDEN / "alpha_bn.npz", allow_pickle=False)
    layer = nn.BatchNorm2d(4, eps=float(g["eps"]))
    layer.load_state_dict(
        {
            "weight": torch.from_numpy(g["weight"]),
            "bias": torch.from_numpy(g["bias"]),
            "running_mean": torch.from_numpy(g["running_mean"]),
            "running_var": torch.from_numpy(g["running_var"]),
            "num_batches_tracked": torch.tensor(0),
        }
    )
    mixed = AlphaBN(layer, source_weight=1 - float(test_weight), online=True)
    mixed.train(mode == "train")  # its answer does not depend on the mode
    x = torch.from_numpy(g["x"])
    expected = torch.from_numpy(g[f"out_testweight_{test_weight}"])
    torch.testing.assert_close(mixed(x), expected, rtol=1e-5, atol=1e-5)
    alone = torch.from_numpy(g[f"out_b1_testweight_{test_weight}"])
    torch.testing.assert_close(mixed(x[:1]), alone, rtol=1e-5, atol=1e-5)
    assert mixed.last is not None
    mixed(x)
    torch.testing.assert_close(mixed.last[0], torch.from_numpy(g["batch_mean"]))
    torch.testing.assert_close(mixed.last[1], torch.from_numpy(g["batch_var_used"]))
