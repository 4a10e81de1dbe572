"""Views: determinism, shared geometry, and the arithmetic of standardisation."""

import pickle

import numpy as np
import pytest
import torch

from sfda.augment.photometric import ViewMaker, seeds
from sfda.images.preprocess import centre_crop, standardise
from sfda.refs import InputSpec, Views

PLAIN = Views(crop=False, flip=False)
GEOMETRY = Views(rotate=15, pad=2, jitter=0, hue=0, grayscale=0, blur=0, erase=0)


def spec_of(channels="rgb", size=(24, 24), resize=(32, 32)):
    depth = 1 if channels == "gray" else 3
    return InputSpec(
        size=size, resize=resize, channels=channels, mean=(0.25,) * depth, std=(0.5,) * depth
    )


def stack(count=8, channels="rgb", size=(32, 32)):
    depth = 1 if channels == "gray" else 3
    return np.random.default_rng(1).integers(0, 256, (count, *size, depth), dtype=np.uint8)


ROWS = np.array([3, 17, 5, 0, 44, 2, 9, 1])


def test_standardise_is_the_formula():
    spec = InputSpec(size=(2, 3), mean=(0.1, 0.2, 0.3), std=(1, 2, 4), scale=255)
    images = torch.from_numpy(stack(5, size=(2, 3)))
    out = standardise(images, spec, "cpu")
    assert out.dtype == torch.float32
    assert out.is_contiguous(memory_format=torch.channels_last)
    for c, (mean, std) in enumerate(zip(spec.mean, spec.std, strict=True)):
        torch.testing.assert_close(out[:, c], (images[..., c].float() / 255 - mean) / std)


def test_standardise_is_alike_for_large_stacks():
    spec = spec_of()
    images = torch.from_numpy(stack(9, size=(300, 310)))  # more than is done at once
    whole = standardise(images, spec, "cpu")
    torch.testing.assert_close(whole[7], standardise(images[7:8], spec, "cpu")[0])


def test_centre_crop_takes_the_middle():
    image = np.arange(36, dtype=np.uint8).reshape(1, 6, 6, 1)
    assert centre_crop(image, (2, 2))[0, ..., 0].tolist() == [[14, 15], [20, 21]]
    assert centre_crop(image, (6, 6)).base is not None


@pytest.mark.parametrize("channels", ["rgb", "bgr", "gray"])
def test_the_batch_has_no_part_in_a_view(channels):
    maker = ViewMaker(spec_of(channels), Views(rotate=10), seed=4)
    images = stack(8, channels)
    weak, strong = maker.pair(images, 2, ROWS)
    back_weak, back_strong = maker.pair(images[::-1], 2, ROWS[::-1])
    np.testing.assert_array_equal(weak, back_weak[::-1])
    np.testing.assert_array_equal(strong, back_strong[::-1])
    fresh = pickle.loads(pickle.dumps(ViewMaker(spec_of(channels), Views(rotate=10), seed=4)))
    for i in (6, 2):
        one = fresh.pair(images[i : i + 1], 2, ROWS[i : i + 1])
        np.testing.assert_array_equal(one[0][0], weak[i])
        np.testing.assert_array_equal(one[1][0], strong[i])
    np.testing.assert_array_equal(fresh.weak(images, 2, ROWS), weak)
    assert weak.dtype == strong.dtype == np.uint8
    assert weak.shape == strong.shape == (8, 24, 24, images.shape[3])


@pytest.mark.parametrize("change", ["seed", "epoch", "row"])
def test_seed_epoch_and_row_each_change_the_views(change):
    seed, epoch, rows = 4, 2, ROWS
    images = np.repeat(stack(1), 8, axis=0)
    before = ViewMaker(spec_of(), Views(), seed=seed).pair(images, epoch, rows)
    seed, epoch = seed + (change == "seed"), epoch + (change == "epoch")
    rows = rows + 1000 * (change == "row")
    after = ViewMaker(spec_of(), Views(), seed=seed).pair(images, epoch, rows)
    assert (before[0] != after[0]).any()
    assert (before[1] != after[1]).any()
    assert len({view.tobytes() for view in before[0]}) > 4


def test_seeds_are_spread_and_streams_differ():
    rows = np.arange(10_000)
    numbers = seeds(0, 0, rows, 0)
    assert len(set(numbers.tolist())) > 9_990
    assert numbers.min() >= 0
    assert numbers.max() < 2**32
    assert (seeds(0, 0, rows, 1) != numbers).mean() > 0.999
    assert (seeds(1, 0, rows, 0) != numbers).mean() > 0.999
    assert (seeds(0, -1, rows, 0) != numbers).mean() > 0.999


@pytest.mark.parametrize("channels", ["rgb", "bgr", "gray"])
def test_strong_without_photometry_is_the_weak_view(channels):
    maker = ViewMaker(spec_of(channels), GEOMETRY, seed=0)
    weak, strong = maker.pair(stack(8, channels), 0, ROWS)
    np.testing.assert_array_equal(weak, strong)
    assert (weak != centre_crop(stack(8, channels), (24, 24))).any()


@pytest.mark.parametrize("channels", ["rgb", "gray"])
def test_strong_keeps_the_geometry_of_weak(channels):
    """A bright spot is at the same place in both views, wherever the crop and flip put it."""
    images = np.full((8, 32, 32, 1 if channels == "gray" else 3), 40, np.uint8)
    images[:, 12:16, 17:20] = 220
    views = Views(jitter=0.3, hue=0.05, grayscale=0.5, blur=0, erase=0)
    weak, strong = ViewMaker(spec_of(channels), views, seed=0).pair(images, 0, ROWS)
    assert (weak != strong).any()
    bright = weak.astype(float).mean(3) > 130
    assert len({spot.tobytes() for spot in bright}) > 3
    level = strong.astype(float).mean(3)
    middle = (level.max((1, 2)) + level.min((1, 2))) / 2
    np.testing.assert_array_equal(level > middle[:, None, None], bright)


@pytest.mark.parametrize("name", ["jitter", "grayscale", "blur", "erase", "hue"])
def test_each_photometric_change_is_at_work(name):
    off = {"jitter": 0, "hue": 0, "grayscale": 0, "blur": 0, "erase": 0}
    views = Views(crop=False, flip=False, **(off | {name: 0.5 if name == "hue" else 1}))
    weak, strong = ViewMaker(spec_of(), views, seed=0).pair(stack(), 0, ROWS)
    changed = (weak != strong).reshape(8, -1).mean(1)
    assert (changed > 0.01).any() if name == "blur" else (changed > 0.01).all()
    if name == "erase":
        assert (changed < 0.5).all()
        erased = strong[weak != strong].astype(float)
        assert erased.std() > 40  # a colour of its own in each
    if name == "grayscale":
        assert (strong[..., 0] == strong[..., 1]).all()


def test_hue_and_grey_do_nothing_to_grey_images():
    views = Views(crop=False, flip=False, jitter=0, hue=0.5, grayscale=1, blur=0, erase=0)
    weak, strong = ViewMaker(spec_of("gray"), views, seed=0).pair(stack(8, "gray"), 0, ROWS)
    np.testing.assert_array_equal(weak, strong)


def test_bgr_is_rgb_turned_round():
    images, views = stack(), Views()
    rgb = ViewMaker(spec_of(), views, seed=0).pair(images, 0, ROWS)
    bgr = ViewMaker(spec_of("bgr"), views, seed=0).pair(images[..., ::-1], 0, ROWS)
    for one, other in zip(rgb, bgr, strict=True):
        np.testing.assert_array_equal(one, other[..., ::-1])


@pytest.mark.parametrize(
    ("views", "resize", "trivial"),
    [
        (PLAIN, (32, 32), True),
        (Views(flip=False), None, True),  # no room to crop
        (Views(flip=False), (32, 32), False),
        (Views(flip=False, pad=1), None, False),
        (Views(crop=False, pad=4, flip=False), (32, 32), True),  # pad is for the crop
        (Views(crop=False), None, False),
        (PLAIN.model_copy(update={"rotate": 5.0}), None, False),
    ],
)
def test_a_weak_view_without_chance_is_a_centre_crop(views, resize, trivial):
    spec = spec_of(resize=resize)
    maker = ViewMaker(spec, views, seed=0)
    images = stack(size=spec.stored)
    assert maker.trivial_weak == trivial
    same = (maker.weak(images, 0, ROWS) == centre_crop(images, spec.size)).all()
    assert same == trivial


def test_the_border_of_pad_is_black():
    spec = spec_of(resize=None)
    images = np.full((8, 24, 24, 3), 255, np.uint8)
    weak = ViewMaker(spec, Views(flip=False, pad=4), seed=0).weak(images, 0, ROWS)
    assert set(np.unique(weak)) == {0, 255}
    assert (weak == 0).mean() < 0.4


def test_what_a_view_changes_is_drawn_independently():
    """One seed a row must not be one seed for every transform: flips would tell the crop."""
    rows = np.arange(400)
    slope = (4 * np.arange(32)[:, None] + 2 * np.arange(32)[None, :]).astype(np.uint8)
    images = np.repeat(slope[None, :, :, None], len(rows), 0)
    spec = InputSpec(size=(16, 16), resize=(32, 32), channels="gray", mean=(0.0,), std=(1.0,))
    plain = Views(jitter=0, hue=0, grayscale=0)
    weak = ViewMaker(spec, plain, seed=0).weak(images, 0, rows)[..., 0].astype(int)
    flipped = weak[:, 0, 0] > weak[:, 0, 1]
    folder = weak.min((1, 2))
    assert 0.4 < flipped.mean() < 0.6
    assert abs(np.corrcoef(flipped, folder)[0, 1]) < 0.15

    colour = np.empty((len(rows), 32, 32, 3), np.uint8)
    colour[:] = (200, 50, 50)
    spec = InputSpec(size=(32, 32), mean=(0.0,) * 3, std=(1.0,) * 3)
    some = Views(flip=False, jitter=0, hue=0, blur=0, grayscale=0.5, erase=0.5)
    _, strong = ViewMaker(spec, some, seed=0).pair(colour, 0, rows)
    greys = np.median(strong[..., 0], (1, 2)) == np.median(strong[..., 1], (1, 2))
    erased = np.array([len(np.unique(image.reshape(-1, 3), axis=0)) > 1 for image in strong])
    assert 0.4 < greys.mean() < 0.6
    assert 0.4 < erased.mean() < 0.6
    assert abs(np.corrcoef(greys, erased)[0, 1]) < 0.15


def marked(size=(32, 32), count=24):
    """Grey images of six wide bands of each direction, and masks that say the same but for 40."""
    y, x = np.mgrid[: size[0], : size[1]]
    masks = np.repeat((6 * y // size[0] + 6 * (x // 6))[None], count, 0).astype(np.uint8)
    return (masks + 40)[..., None], masks


@pytest.mark.parametrize(
    ("views", "resize"),
    [
        (PLAIN, (32, 32)),
        (Views(crop=False), (32, 32)),  # flip
        (Views(flip=False), (32, 32)),  # crop
        (Views(flip=False, pad=7), None),
        (Views(pad=7), (32, 32)),
    ],
)
def test_masks_move_exactly_as_their_images(views, resize):
    spec = spec_of("gray", resize=resize)
    images, masks = marked(spec.stored)
    rows = np.arange(len(images))
    maker = ViewMaker(spec, views, seed=0)
    weak, moved = maker.weak_with_masks(images, masks, 3, rows)
    assert moved.dtype == np.uint8
    expected = np.where(weak[..., 0] == 0, 255, weak[..., 0].astype(int) - 40)
    np.testing.assert_array_equal(moved, expected)
    assert ((moved == 255).any()) == (views.pad > 0)
    np.testing.assert_array_equal(weak, maker.weak(images, 3, rows))  # masks change no image
    assert (len({view.tobytes() for view in moved}) > 1) == (views != PLAIN)


def test_masks_turn_with_their_images_and_corners_do_not_count():
    spec = InputSpec(size=(48, 48), channels="gray", mean=(0.0,), std=(1.0,))
    masks = np.zeros((20, 48, 48), np.uint8)
    masks[:, 10:20, 12:40] = 1
    images = (100 + 100 * masks)[..., None]
    views = Views(crop=False, rotate=40)
    weak, moved = ViewMaker(spec, views, seed=1).weak_with_masks(images, masks, 0, np.arange(20))
    assert set(np.unique(moved)) == {0, 1, 255}  # nothing is mixed of two classes
    seen = weak[..., 0].astype(int)
    agree = np.select([seen < 50, seen < 150], [255, 0], 1) == moved
    assert agree.mean() > 0.98  # the image is interpolated, its mask is not
    inner = np.isin(seen, (0, 100, 200))  # pixels that no interpolation touched
    assert agree[inner].mean() > 0.998
    corners = (moved == 255).mean((1, 2))
    assert corners.max() > 0.05
    assert (seen[moved == 255] < 110).all()


@pytest.mark.parametrize("views", [Views(), Views(crop=False), Views(rotate=20, pad=3)])
def test_views_of_tiled_inputs_have_the_tiles_size_whatever_the_images(views):
    spec = InputSpec(size=(24, 24), tiled=True, channels="gray", mean=(0.0,), std=(1.0,))
    sizes = ((60, 50), (10, 70), (24, 24), (5, 7))
    pairs = [marked(size, 1) for size in sizes]
    images, masks = [p[0][0] for p in pairs], [p[1][0][..., None] for p in pairs]
    maker = ViewMaker(spec, views, seed=0)
    weak, moved = maker.weak_with_masks(images, masks, 0, np.arange(4))
    assert weak.shape == (4, 24, 24, 1)
    assert moved.shape == (4, 24, 24)
    if not views.rotate:
        expected = np.where(weak[..., 0] == 0, 255, weak[..., 0].astype(int) - 40)
        np.testing.assert_array_equal(moved, expected)
        assert (moved[0] != 255).all()
        assert (moved[3] != 255).sum() == 5 * 7
    first, strong = maker.pair(images, 0, np.arange(4))
    np.testing.assert_array_equal(first, weak)
    assert strong.shape == weak.shape
    alone = maker.weak(images[1:2], 0, np.array([1]))
    np.testing.assert_array_equal(alone[0], weak[1])


def test_tiled_crops_reach_all_of_an_image():
    spec = InputSpec(size=(8, 8), tiled=True, channels="gray", mean=(0.0,), std=(1.0,))
    image = np.arange(16 * 16, dtype=np.uint8).reshape(16, 16, 1)
    weak = ViewMaker(spec, Views(flip=False), seed=0).weak([image] * 300, 0, np.arange(300))
    assert len(np.unique(weak)) == 256


@pytest.mark.parametrize(("place", "scale"), [(0, (0.05, 0.2)), (1, (0.02, 0.2)), (2, (0.02, 0.2))])
@pytest.mark.parametrize("side", [(64, 64), (60, 132)])
def test_rectangles_of_noise_are_drawn_as_torchvision_draws_them(
    place: int, scale: tuple[float, float], side: tuple[int, int]
) -> None:
    erase = tuple(float(n == place) for n in range(3))
    views = Views(crop=False, flip=False, jitter=0, hue=0, grayscale=0, blur=0, erase=erase)
    spec = InputSpec(size=side, mean=(0.0,) * 3, std=(1.0,) * 3)
    images = np.full((400, *side, 3), 7, np.uint8)
    _, strong = ViewMaker(spec, views, seed=0).pair(images, 0, np.arange(400))
    erased = (strong != 7).any(-1)
    areas, shapes = [], []
    for image, where in zip(strong, erased, strict=True):
        rows, columns = (np.flatnonzero(where.any(axis)) for axis in (1, 0))
        if not len(rows):
            continue
        high, wide = np.ptp(rows) + 1, np.ptp(columns) + 1
        areas.append(high * wide / where.size)
        shapes.append(high / wide)
        part = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].reshape(-1, 3)
        assert len(np.unique(part, axis=0)) > 0.9 * len(part), "noise, not one colour"
    assert len(areas) > 380
    assert 0.9 * scale[0] < min(areas) < scale[0] + 0.02
    assert scale[1] - 0.03 < max(areas) < 1.1 * scale[1]
    low, high = ((0.3, 3.3), (0.1, 6.0), (0.05, 8.0))[place]
    assert 0.8 * low < min(shapes)
    assert max(shapes) < 1.25 * high
    rng = np.random.default_rng(0)  # the same by its definition
    expected = []
    while len(expected) < 4000:
        area, shape = rng.uniform(*scale) * where.size, np.exp(rng.uniform(*np.log((low, high))))
        if (area * shape) ** 0.5 < side[0] and (area / shape) ** 0.5 < side[1]:
            expected.append(shape)
    assert np.median(shapes) == pytest.approx(np.median(expected), rel=0.25)
