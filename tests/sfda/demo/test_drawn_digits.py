"""The built-in digits: two domains, disjoint, alike every time, and truly apart."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from sfda.demo.digits import CLASSES, digits_source, digits_target, write_demo
from sfda.errors import BadInput
from sfda.manifests.opening import open_manifest
from sfda.manifests.rows import read_split
from sfda.manifests.verify import verify_manifest


def test_the_domains_share_out_all_digits():
    source, target = digits_source(), digits_target()
    assert len(source.labels) + len(target.labels) == 1797
    together = np.bincount(np.concatenate([source.labels, target.labels]))
    assert together.tolist() == np.bincount(load_digits().target).tolist()
    for domain, share in ((source, 0.2), (target, 0.4)):
        assert domain.images.shape == (len(domain.labels), 28, 28)
        assert domain.images.dtype == np.uint8
        held = np.bincount(domain.labels[domain.held_out]) / np.bincount(domain.labels)
        assert np.abs(held - share).max() < 0.02
    assert 0.55 < len(source.labels) / 1797 < 0.65


def test_the_demo_is_sound_and_the_same_every_time(tmp_path):
    paths = write_demo(tmp_path / "a"), write_demo(tmp_path / "b")
    for first, again in zip(*paths, strict=True):
        assert first.read_bytes() == again.read_bytes()
        assert first.with_suffix(".npz").read_bytes() == again.with_suffix(".npz").read_bytes()
        assert verify_manifest(first).ok, verify_manifest(first).faults
    source, target = (open_manifest(path) for path in paths[0])
    assert source.classes == target.classes == CLASSES
    assert set(source.splits) == {"train", "val"}
    assert set(target.splits) == {"adapt", "test"}
    truth = digits_target()
    test = read_split(target, "test")
    assert test.labels.index.tolist() == truth.labels[truth.held_out].tolist()
    np.testing.assert_array_equal(test.image(3), truth.images[truth.held_out][3])


def test_a_place_that_cannot_be_written_to_is_bad_input(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(BadInput, match="cannot write"):
        write_demo(tmp_path / "taken")


def lenet(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 84),
        nn.ReLU(),
        nn.Linear(84, 10),
    )


def test_the_shift_costs_a_source_network_between_10_and_40_points():
    def tensors(domain, rows):
        images = torch.from_numpy(domain.images[rows])[:, None].float() / 255
        return images, torch.from_numpy(domain.labels[rows])

    source, target = digits_source(), digits_target()
    network = lenet(0)
    images, labels = tensors(source, ~source.held_out)
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    for _ in range(12):
        for rows in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images[rows]), labels[rows]).backward()
            optimizer.step()

    @torch.no_grad()
    def accuracy(domain):
        images, labels = tensors(domain, domain.held_out)
        return 100 * (network(images).argmax(1) == labels).float().mean().item()

    assert accuracy(source) > 90
    assert 10 < accuracy(source) - accuracy(target) < 40
