"""Loaders and scans: the same batches whoever makes them, and networks left as they were."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from sfda.augment.photometric import ViewMaker
from sfda.errors import BadInput
from sfda.images.preprocess import centre_crop, standardise
from sfda.images.store import Ragged, RaggedWriter
from sfda.loading.batches import EqualEpochs, TargetLoader
from sfda.loading.labelled_batches import LabelledLoader
from sfda.loading.scan import labelled_scan, scan, scan_views
from sfda.problems._labels import ImageTargets
from sfda.problems.registry import PROBLEMS
from sfda.problems.segmentation.labels import MaskTargets
from sfda.refs import InputSpec, Views
from sfda.settings import Schedule
from sfda.types import UNSURE, Batches

SPEC = InputSpec(size=(6, 6), resize=(8, 8), mean=(0.5,) * 3, std=(0.2,) * 3)


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "i.npy", rng.integers(0, 256, (21, 8, 8, 3), dtype=np.uint8))
    return np.load(tmp_path / "i.npy", mmap_mode="r")


def target(images, **changes):
    options = {"strong": True, "batch_size": 4, "seed": 3, "device": "cpu"} | changes
    return TargetLoader(images, SPEC, Views(), **options)


def net():
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 2)
    )
    network[1].eval()  # a part that its owner wants frozen
    network.problem = "classification"
    return network


def test_an_epoch_shows_every_row_but_a_lone_last_one(images):
    loader: Batches = target(images)
    batches = list(loader.epoch(0))
    assert [len(batch.index) for batch in batches] == [4] * 5  # 21 rows: one is left over
    assert loader.steps() == 5
    rows = torch.cat([batch.index for batch in batches]).tolist()
    assert len(set(rows)) == 20
    assert rows != sorted(rows)


def test_views_are_those_of_their_rows(images):
    maker = ViewMaker(SPEC, Views(), seed=3)
    for batch in target(images).epoch(2):
        rows = batch.index.numpy()
        weak, strong = maker.pair(images[rows], 2, rows)
        torch.testing.assert_close(batch.weak, standardise(torch.from_numpy(weak), SPEC, "cpu"))
        torch.testing.assert_close(batch.strong, standardise(torch.from_numpy(strong), SPEC, "cpu"))
        assert batch.weak_warp is None


def test_workers_change_nothing(images):
    here, there = target(images), target(images, workers=2)
    for epoch in (0, 1):  # the workers live on from one epoch to the next
        pairs = list(zip(here.epoch(epoch), there.epoch(epoch), strict=True))
        assert len(pairs) == 5
        for one, other in pairs:
            assert one.index.equal(other.index)
            assert one.weak.equal(other.weak)
            assert one.strong.equal(other.strong)


def test_epochs_and_seeds_shuffle_anew_and_global_randomness_has_no_part(images):
    def order(epoch, **changes):
        loader = target(images, **changes)
        return torch.cat([batch.index for batch in loader.epoch(epoch)]).tolist()

    first = order(0)
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    assert order(0) == first
    assert order(1) != first
    assert order(0, seed=4) != first


def test_an_epoch_may_be_left_midway(images):
    for workers in (0, 1):
        loader = target(images, workers=workers)
        next(loader.epoch(0))
        again = [batch.index.tolist() for batch in loader.epoch(0)]
        assert again == [batch.index.tolist() for batch in target(images).epoch(0)]


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 8, 9])
def test_steps_agree_with_what_comes(images, size, drop_last):
    loader = target(images, strong=False, drop_last=drop_last)
    rows = torch.arange(size) * 2
    batches = list(loader.epoch(0, rows))
    assert len(batches) == loader.steps(rows)
    assert all(len(batch.index) > 1 for batch in batches)
    assert all(batch.strong is None for batch in batches)
    assert {int(i) for batch in batches for i in batch.index} <= set(rows.tolist())
    if size in (2, 3):
        assert len(batches) == 1  # all there is, also with drop_last
    if size == 6:
        assert len(batches) == (1 if drop_last else 2)


def test_rows_may_come_twice(images):
    rows = torch.tensor([7, 7, 7, 2])
    (batch,) = target(images).epoch(0, rows)
    assert sorted(batch.index.tolist()) == [2, 7, 7, 7]


@pytest.mark.parametrize(("count", "batch_size"), [(1, 4), (0, 4), (8, 1)])
def test_too_few_images_or_too_small_batches_are_refused(images, count, batch_size):
    with pytest.raises(BadInput, match="at least 2"):
        target(images[:count], batch_size=batch_size)


def test_a_plain_weak_view_is_the_test_transform(images):
    loader = TargetLoader(
        images,
        SPEC,
        Views(crop=False, flip=False),
        strong=False,
        batch_size=4,
        seed=0,
        device="cpu",
    )
    batch = next(loader.epoch(0))
    crop = np.array(centre_crop(images[batch.index.numpy()], SPEC.size))
    assert batch.weak.equal(standardise(torch.from_numpy(crop), SPEC, "cpu"))


def test_scan_is_in_order_without_gradient_and_in_eval_mode(images):
    network = net().train()
    network[1].eval()
    before = network[1].running_mean.clone()
    seen = list(scan(images, SPEC, device="cpu", batch_size=8)(network))
    assert torch.cat([part.rows for part in seen]).tolist() == list(range(21))
    out = torch.cat([part.output for part in seen])
    assert not out.requires_grad
    reference = net()
    reference.load_state_dict(network.state_dict())
    crop = torch.from_numpy(np.array(centre_crop(images, SPEC.size)))
    torch.testing.assert_close(out, reference.eval()(standardise(crop, SPEC, "cpu")).detach())
    assert network[1].running_mean.equal(before)


def test_scan_restores_every_mode_even_when_left_midway(images):
    network = net()
    network.train()
    network[1].eval()
    modes = [module.training for module in network.modules()]
    looks = scan(images, SPEC, device="cpu", batch_size=8)(network)
    next(looks)
    assert [module.training for module in network.modules()] == modes
    assert torch.is_grad_enabled()  # also while it waits
    list(looks)
    assert [module.training for module in network.modules()] == modes


def test_scan_restores_modes_when_the_network_fails(images):
    network = nn.Sequential(net(), nn.Linear(5, 5)).train()
    network.problem = "classification"
    modes = [module.training for module in network.modules()]
    with pytest.raises(RuntimeError):
        next(scan(images, SPEC, device="cpu")(network))
    assert [module.training for module in network.modules()] == modes


def test_scan_of_views_is_alike_at_every_call_and_no_epochs_views(images):
    network = net()
    look = scan_views(images, SPEC, Views(), seed=3, device="cpu", batch_size=8)
    first, again = list(look(network)), list(look(network))
    for one, other in zip(first, again, strict=True):
        assert one.weak.equal(other.weak)
        assert one.strong.equal(other.strong)
        assert not one.weak.equal(one.strong)
    plain = list(scan(images, SPEC, device="cpu", batch_size=8)(network))
    assert all(one.output.equal(p.output) for one, p in zip(first, plain, strict=True))
    other_batches = list(
        scan_views(images, SPEC, Views(), seed=3, device="cpu", batch_size=5)(network)
    )
    torch.testing.assert_close(
        torch.cat([one.strong for one in first]), torch.cat([one.strong for one in other_batches])
    )


def test_labelled_batches_pair_images_with_their_labels(images):
    targets, problem = ImageTargets(np.arange(21) + 100), PROBLEMS["classification"]
    loader = LabelledLoader(
        images, targets, SPEC, Views(), problem=problem, batch_size=4, seed=0, device="cpu"
    )
    batches = list(loader.epoch(0))
    assert len(batches) == loader.steps() == 5
    for batch in batches:
        assert batch.labelled.targets.tolist() == (batch.index + 100).tolist()
        assert batch.labelled.images.equal(batch.weak)


def test_labelled_scan_pairs_outputs_with_their_labels(images):
    network, labels = net(), np.arange(21) % 2
    pairs = list(labelled_scan(images, labels, SPEC, device="cpu", batch_size=8)(network))
    assert torch.cat([inputs for _, inputs in pairs]).tolist() == labels.tolist()
    seen = scan(images, SPEC, device="cpu", batch_size=8)(network)
    assert all(out.equal(part.output) for (out, _), part in zip(pairs, seen, strict=True))
    with pytest.raises(BadInput, match="labels"):
        labelled_scan(images, labels[:3], SPEC, device="cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_cuda_batches_are_channels_last_and_scans_give_float32(images):
    batch = next(target(images, device="cuda").epoch(0))
    assert batch.weak.is_contiguous(memory_format=torch.channels_last)
    assert batch.index.device == batch.weak.device
    here = next(target(images).epoch(0))
    torch.testing.assert_close(batch.weak.cpu(), here.weak)
    seen = next(scan(images, SPEC, device="cuda")(net().cuda()))
    assert seen.output.dtype == torch.float32


def test_workers_start_after_opencv_and_torch_have_used_their_threads():
    """A forked worker that set the number of OpenCV's threads itself waited for ever."""
    code = """
import numpy as np, torch
from sfda.demo.digits import digits_source, digits_target
from sfda.loading.batches import EqualEpochs, TargetLoader
from sfda.loading.labelled_batches import LabelledLoader
from sfda.refs import InputSpec, Views
digits_source(), digits_target()
net = torch.nn.Sequential(torch.nn.Conv2d(1, 6, 5), torch.nn.ReLU(), torch.nn.MaxPool2d(2))
optimizer = torch.optim.Adam(net.parameters())
for _ in range(5):
    net(torch.randn(64, 1, 28, 28)).sum().backward()
    optimizer.step()
spec = InputSpec(size=(448, 448), resize=(512, 512), mean=(0.5,) * 3, std=(0.2,) * 3)
loader = TargetLoader(np.zeros((9, 512, 512, 3), np.uint8), spec, Views(rotate=10), strong=True,
                      batch_size=4, seed=0, device="cpu", workers=2)
assert len(list(loader.epoch(0))) == 2
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def labelled(images, spec=SPEC, views=None, **changes):
    """A loader whose masks are the first channel of the images."""
    masks = changes.pop("masks", None)
    if masks is None:
        masks = np.array([image[..., 0] for image in images])
    options = {"batch_size": 4, "seed": 3, "device": "cpu"} | changes
    options["problem"] = PROBLEMS["segmentation"]
    return LabelledLoader(images, MaskTargets(masks), spec, views or Views(crop=True), **options)


def test_batches_with_masks_have_targets_of_every_pixel(images):
    plain = SPEC.model_copy(update={"mean": (0.0,) * 3, "std": (1.0,) * 3})
    loader: Batches = labelled(images, plain)
    batches = list(loader.epoch(0))
    assert len(batches) == loader.steps() == 5
    for batch in batches:
        inputs = batch.labelled
        assert inputs.index.equal(batch.index)
        assert inputs.images.equal(batch.weak)
        assert inputs.targets.dtype == torch.int64
        assert inputs.targets.shape == (4, 6, 6)
        bright = (255 * batch.weak[:, 0]).round().long()
        assert inputs.targets.equal(bright.masked_fill(bright == 255, UNSURE))
    assert any((batch.labelled.targets == UNSURE).any() for batch in batches)


def test_batches_with_masks_are_those_without_and_the_same_by_workers(images, tmp_path):
    np.save(tmp_path / "m.npy", np.array(images[..., 0]))
    masks = np.load(tmp_path / "m.npy", mmap_mode="r")
    without = TargetLoader(images, SPEC, Views(), strong=False, batch_size=4, seed=3, device="cpu")
    here, there = labelled(images, masks=masks), labelled(images, masks=masks, workers=2)
    for epoch in (0, 1):
        pairs = zip(here.epoch(epoch), there.epoch(epoch), without.epoch(epoch), strict=True)
        for one, other, bare in pairs:
            assert one.index.equal(other.index)
            assert one.index.equal(bare.index)
            assert one.weak.equal(other.weak)
            assert one.weak.equal(bare.weak)
            assert one.labelled.targets.equal(other.labelled.targets)


def test_images_of_several_sizes_come_as_crops_by_workers_too(tmp_path):
    rng = np.random.default_rng(0)
    with (tmp_path / "i").open("wb") as i, (tmp_path / "m").open("wb") as m:
        stores = [RaggedWriter(i), RaggedWriter(m)]
        for size in ((30, 20), (6, 6), (9, 40), (3, 5), (12, 12)):
            image = rng.integers(0, 255, (*size, 3), dtype=np.uint8)
            stores[0].write(image)
            stores[1].write(image[..., :1])
        for store in stores:
            store.finish()
    images, masks = Ragged(tmp_path / "i"), Ragged(tmp_path / "m")
    spec = InputSpec(size=(6, 6), tiled=True, mean=(0.0,) * 3, std=(1.0,) * 3)
    here, there = (labelled(images, spec, masks=masks, batch_size=5, workers=n) for n in (0, 2))
    (one,), (other,) = list(here.epoch(0)), list(there.epoch(0))
    assert one.weak.equal(other.weak)
    assert one.labelled.targets.equal(other.labelled.targets)
    bright = (255 * one.weak[:, 0]).round().long()
    known = one.labelled.targets != UNSURE
    assert one.labelled.targets[known].equal(bright[known])
    assert (~known).sum() == 36 - 15  # of the image of 3 x 5 pixels
    options = {"strong": True, "batch_size": 5, "seed": 0, "device": "cpu"}
    (batch,) = TargetLoader(images, spec, Views(), **options).epoch(0)
    assert batch.weak.shape == batch.strong.shape == (5, 3, 6, 6)
    assert batch.shown is None
    for workers in (0, 2):
        loader = TargetLoader(
            images, spec, Views(crop=True), shown=True, workers=workers, **options
        )
        (message,) = loader.epoch(0)
        assert message.weak.shape == (5, 3, 6, 6)
        small = int((message.index == 3).nonzero())  # of 3 x 5 pixels
        assert message.shown.flatten(1).sum(1).tolist() == [
            15 if n == small else 36 for n in range(5)
        ]
        assert not message.weak[small][:, ~message.shown[small]].any()
        assert message.weak[small][:, message.shown[small]].all()
    (bare,) = TargetLoader(images, spec, Views(crop=True), **options).epoch(0)
    assert bare.weak.equal(message.weak), "to say what is shown changes no view"


def test_a_mask_for_every_image_is_needed(images):
    with pytest.raises(BadInput, match="21 images but masks of 3"):
        labelled(images, masks=np.zeros((3, 8, 8), np.uint8))


def test_epochs_of_equal_steps_go_on_pass_after_pass(images):
    inner = target(images)  # 5 batches a pass
    rows = [[b.index.tolist() for b in inner.epoch(n)] for n in range(4)]
    in_order = [own for a_pass in rows for own in a_pass]
    for each in (3, 5, 7):
        made = EqualEpochs(inner, Schedule(steps_per_epoch=each))
        assert made.steps() == each
        epochs = [[b.index.tolist() for b in made.epoch(n)] for n in range(2)]
        assert [*epochs[0], *epochs[1]] == in_order[: 2 * each]
    assert EqualEpochs(inner, Schedule(steps=20, epochs=3)).steps() == 7
    assert EqualEpochs(inner, Schedule()).steps() == 5
    assert EqualEpochs(inner, Schedule(steps=20)).steps(torch.tensor([3])) == 0  # no batch of two


def test_of_an_epoch_of_several_passes_each_has_views_of_its_own(images):
    rows = torch.tensor([4, 5, 6, 7])
    made = EqualEpochs(target(images), Schedule(steps_per_epoch=2))
    one, other = (b.weak[b.index.argsort()] for b in made.epoch(0, rows))
    assert not torch.equal(one, other)
    again = next(made.epoch(1, rows))  # the third pass, without the two before
    assert torch.equal(again.weak, next(target(images).epoch(2, rows)).weak)


def test_workers_make_a_part_of_a_pass(images):
    made = EqualEpochs(target(images, workers=1), Schedule(steps_per_epoch=3))
    here = EqualEpochs(target(images), Schedule(steps_per_epoch=3))
    for epoch in (0, 1):
        pairs = zip(made.epoch(epoch), here.epoch(epoch), strict=True)
        assert all(torch.equal(one.weak, other.weak) for one, other in pairs)
