"""Images decoded once and kept: whole or not at all."""

import io
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image

from sfda.authoring.from_folder import build_manifest
from sfda.errors import BadInput
from sfda.images.decode import decode_images, sweep, unfinished_file, write_images
from sfda.images.preprocess import prepare_image
from sfda.loading.opened import decode_key
from sfda.manifests.opening import open_manifest
from sfda.manifests.rows import read_split, unlabelled_digest
from sfda.refs import InputSpec

RGB = InputSpec(size=(8, 8), mean=(0, 0, 0), std=(1, 1, 1))
GREY = InputSpec(size=(8, 8), channels="gray", mean=(0,), std=(1,))


class Shown:
    """Images in memory; those in `bad` cannot be read. Counts what was read."""

    def __init__(self, count=5, bad=()):
        rng = np.random.default_rng(0)
        self.images = [rng.integers(0, 256, (8, 8, 3), dtype=np.uint8) for _ in range(count)]
        self.bad, self.read = bad, 0

    def __len__(self):
        return len(self.images)

    def image(self, row):
        self.read += 1
        if row in self.bad:
            raise BadInput(f"image {row}.png cannot be read")
        return self.images[row]


def test_kept_and_found_again(tmp_path):
    shown, seen = Shown(), []
    first = decode_images(shown, RGB, tmp_path / "c", key="k", progress=lambda *at: seen.append(at))
    assert isinstance(first, np.memmap)
    np.testing.assert_array_equal(first, shown.images)
    assert seen == [(i, 5) for i in range(1, 6)]
    again = decode_images(shown, RGB, tmp_path / "c", key="k")
    np.testing.assert_array_equal(again, first)
    assert shown.read == 5
    assert [p.name for p in (tmp_path / "c").iterdir()] == ["k.npy"]


def test_order_is_kept_with_many_workers(tmp_path):
    shown = Shown(600)
    np.testing.assert_array_equal(
        decode_images(shown, RGB, tmp_path, key="k", workers=7), shown.images
    )


@pytest.mark.parametrize("spoil", ["shape", "dtype", "cut", "words"])
def test_what_does_not_fit_is_made_anew(tmp_path, spoil):
    path, shown = tmp_path / "k.npy", Shown()
    if spoil == "cut":
        decode_images(shown, RGB, tmp_path, key="k")
        path.write_bytes(path.read_bytes()[:-1])
    elif spoil == "words":
        path.write_text("not an array")
    else:
        np.save(path, np.zeros((5, 8, 8, 3), np.float32) if spoil == "dtype" else np.zeros(3))
    np.testing.assert_array_equal(decode_images(shown, RGB, tmp_path, key="k"), shown.images)


def test_all_corrupt_images_are_named_and_nothing_is_kept(tmp_path):
    shown = Shown(30, bad=range(3, 17))
    with pytest.raises(BadInput) as error:
        decode_images(shown, RGB, tmp_path, key="k")
    assert "14 of 30 images" in str(error.value)
    assert "image 3.png" in str(error.value)
    assert "image 12.png" in str(error.value)
    assert "and 4 more" in str(error.value)
    assert shown.read == 30
    assert not list(tmp_path.iterdir())


def test_one_corrupt_file_in_the_middle_of_a_folder(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(9):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(photos / f"{i}.jpg")
    content = (photos / "4.jpg").read_bytes()
    (photos / "4.jpg").write_bytes(content[: len(content) // 2])
    path = build_manifest(photos, problem="classification", out=tmp_path / "m.yaml")
    split = read_split(open_manifest(path), "adapt")
    with pytest.raises(BadInput, match=r"1 of 9 images.*4\.jpg.*sfda manifest"):
        decode_images(split, RGB, tmp_path / "c", key="k")


def test_a_run_killed_midway_leaves_no_array_and_the_next_one_makes_it(tmp_path):
    code = """
import os, sys, numpy as np
from pathlib import Path
from sfda.images.decode import decode_images
from sfda.refs import InputSpec
class Slow:
    def __len__(self): return 600
    def image(self, row): return np.zeros((8, 8, 3), np.uint8)
def die(done, total):
    if done == 400: os._exit(9)
spec = InputSpec(size=(8, 8), mean=(0, 0, 0), std=(1, 1, 1))
decode_images(Slow(), spec, Path(sys.argv[1]), key="k", progress=die)
"""
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert ended.returncode == 9
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".k.")
    shown = Shown()
    np.testing.assert_array_equal(decode_images(shown, RGB, tmp_path, key="k"), shown.images)
    assert left.exists()  # its writer might live
    os.utime(left, (time.time() - 7200,) * 2)
    (tmp_path / "k.npy").unlink()
    decode_images(shown, RGB, tmp_path, key="k")
    assert [p.name for p in tmp_path.iterdir()] == ["k.npy"]


def test_writers_at_once_all_get_the_whole(tmp_path):
    shown, got = Shown(300), []
    threads = [
        threading.Thread(target=lambda: got.append(decode_images(shown, RGB, tmp_path, key="k")))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 4
    for array in got:
        np.testing.assert_array_equal(array, shown.images)


def test_a_small_disk_is_said_before_any_work(tmp_path):
    shown = Shown()
    with pytest.raises(BadInput, match=r"too small.*960 bytes|too small.* bytes needed, 17 free"):
        decode_images(shown, RGB, tmp_path, key="k", free=lambda _: 17)
    assert shown.read == 0
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_midway_is_bad_input(tmp_path):
    class Filling(Shown):
        def image(self, row):
            if row == 3:
                raise OSError(28, "No space left on device")
            return super().image(row)

    with pytest.raises(BadInput, match=r"bytes needed, .* free; make room"):
        decode_images(Filling(), RGB, tmp_path, key="k")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux alone has /dev/full")
def test_a_full_device_raises_and_does_not_end_the_process():
    with open("/dev/full", "wb", buffering=0) as handle, pytest.raises(OSError, match="No space"):
        write_images(handle, Shown(), RGB)


def test_channels():
    image = np.zeros((8, 8, 3), np.uint8)
    image[..., 0] = 200
    assert prepare_image(image, RGB)[0, 0].tolist() == [200, 0, 0]
    bgr = RGB.model_copy(update={"channels": "bgr"})
    assert prepare_image(image, bgr)[0, 0].tolist() == [0, 0, 200]
    assert prepare_image(image, GREY)[0, 0].tolist() == [60]  # 0.299 R
    assert prepare_image(image[..., 0], RGB)[0, 0].tolist() == [200, 200, 200]
    assert prepare_image(image[..., :1], GREY).shape == (8, 8, 1)


def test_resizing_antialiases_and_follows_the_spec():
    board = np.indices((64, 64)).sum(0) % 2 * 255
    small = prepare_image(board.astype(np.uint8), GREY)
    assert small.std() < 3  # without antialiasing it would be black and white
    assert abs(small.mean() - 127.5) < 3
    ramp = np.tile(np.linspace(0, 255, 40).astype(np.uint8), (20, 1))
    cubic = GREY.model_copy(update={"interpolation": "bicubic"})
    assert (prepare_image(ramp, GREY) != prepare_image(ramp, cubic)).any()


def test_keep_ratio_takes_the_middle_square():
    image = np.zeros((20, 60), np.uint8)
    image[:, 20:40] = 255
    square = GREY.model_copy(update={"keep_ratio": True})
    assert prepare_image(image, square).min() > 100
    assert prepare_image(image, GREY)[:, 0].max() < 10
    assert prepare_image(image.T.copy(), square).min() > 100


def test_resize_is_the_stored_size():
    spec = InputSpec(size=(8, 8), resize=(10, 12), channels="gray", mean=(0,), std=(1,))
    assert prepare_image(np.zeros((30, 30), np.uint8), spec).shape == (10, 12, 1)


def test_the_key_follows_images_and_storage_but_not_the_standardisation(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (8, 8)).save(photos / "0.png")
    manifest = open_manifest(
        build_manifest(photos, problem="classification", out=tmp_path / "m.yaml")
    )

    def seen() -> str:
        return unlabelled_digest(manifest, "adapt")

    key = decode_key(seen(), RGB)
    assert key == decode_key(seen(), RGB.model_copy(update={"mean": (1, 1, 1)}))
    assert key != decode_key(seen(), GREY)
    assert key != decode_key(seen(), RGB.model_copy(update={"keep_ratio": True}))
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (9, 9, 9)).save(buffer, "PNG")
    (photos / "0.png").write_bytes(buffer.getvalue() + b" ")
    assert key != decode_key(seen(), RGB)
    tiled = RGB.model_copy(update={"tiled": True})
    others = [RGB, tiled, RGB.model_copy(update={"window": (0.0, 9.0)})]
    others += [RGB.model_copy(update={"window": "percentile"})]
    assert len({decode_key(seen(), spec) for spec in others}) == 4
    larger = tiled.model_copy(update={"size": (16, 16)})  # tiles of any size are cut from the same
    assert decode_key(seen(), larger) == decode_key(seen(), tiled)


def test_the_window_goes_to_whoever_reads_the_images(tmp_path):
    class Windowed(Shown):
        def image(self, row, window=None):
            asked.append(window)
            return super().image(row)

    asked = []
    decode_images(Windowed(2), RGB, tmp_path, key="a")
    decode_images(Windowed(2), RGB.model_copy(update={"window": (0.0, 9.0)}), tmp_path, key="b")
    assert asked == [None, None, (0.0, 9.0), (0.0, 9.0)]


def test_a_tiled_input_changes_channels_and_no_size(tmp_path):
    tiled = GREY.model_copy(update={"tiled": True})
    image = np.full((5, 30, 3), (200, 0, 0), np.uint8)
    assert prepare_image(image, tiled).shape == (5, 30, 1)
    assert prepare_image(image, tiled)[0, 0].tolist() == [60]
    bgr = RGB.model_copy(update={"tiled": True, "channels": "bgr"})
    assert prepare_image(image, bgr)[0, 0].tolist() == [0, 0, 200]


def test_a_tiled_set_meets_a_full_disk_as_any_other(tmp_path):
    class Filling(Shown):
        def image(self, row):
            if row == 3:
                raise OSError(28, "No space left on device")
            return super().image(row)

    tiled = RGB.model_copy(update={"tiled": True})
    with pytest.raises(BadInput, match=r"bytes needed, .* free; make room"):
        decode_images(Filling(), tiled, tmp_path, key="k")
    assert not list(tmp_path.iterdir())


def test_what_a_killed_run_left_goes_and_what_is_written_stays(tmp_path):
    program = (
        "import os, signal, sys; from pathlib import Path\n"
        "from sfda.images.decode import unfinished_file\n"
        "unfinished_file(Path(sys.argv[1]), 'killed'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    number, name = unfinished_file(tmp_path, "living")
    long_ago = time.time() - 10
    for file in tmp_path.iterdir():
        os.utime(file, (long_ago, long_ago))
    assert len(list(tmp_path.iterdir())) == 2
    sweep(tmp_path)
    assert [str(file) for file in tmp_path.iterdir()] == [name]
    os.close(number)
    sweep(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_file_that_was_just_made_may_not_be_locked_yet(tmp_path):
    (tmp_path / ".new.1.tmp").touch()
    (tmp_path / ".link.1.tmp").symlink_to(tmp_path)
    sweep(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
