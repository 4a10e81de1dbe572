"""What a person is shown: the image, a person's crop, or a part with a cross or a box drawn in."""

from __future__ import annotations

import io
import math
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from sfda.annotation.audit.questions import Frame
from sfda.formats.keypoints import CropReader
from sfda.images.intensity_window import Window
from sfda.manifests.rows import Split
from sfda.measures.change import Question, Unit
from sfda.problems._labels import Array

PICTURE_SIDE = 512  # pixels of a picture's longer side
WIDE_SIDE = 384  # of the view of all of the image
LEAST_PART = 128  # pixels of the image that a part shows at least
SHARP = 96  # parts up to this many pixels are enlarged pixel by pixel
MARGIN = 1.0  # shown around a box, in its longer sides
QUALITIES = (88, 80, 70, 60, 45, 30)
PICTURE_LIMIT, WIDE_LIMIT = 64_000, 26_000  # bytes of a JPEG: 50 questions stay below 10 MB
DARK, BRIGHT, BEFORE_ALL = (0, 0, 0), (255, 255, 255), (255, 225, 0)
DASH = 16  # pixels from one dash to the next
Spot = tuple[float, ...]
Corners = tuple[float, float, float, float]


class QuestionPicture(NamedTuple):
    """The picture, which part of its image it shows, and where that part lies if it is small."""

    picture: Image.Image
    frame: Frame
    wide: Image.Image | None
    person: bool


def draw_question(
    split: Split, row: int, unit: Unit, question: Question, window: Window
) -> QuestionPicture:
    """The picture of one question. Raises BadInput where the image cannot be read."""
    image, spot = np.asarray(split.image(row, window)), unit.spot
    corner, person = (0, 0), False
    if question == "place":  # a mark would say where a model sees the joint
        if isinstance(split.reader, CropReader):
            crop = split.reader.crop(row)
            corner, person = (crop.left, crop.top), split.reader.boxes[row] is not None
        spot = ()
    part = _part(image.shape[:2], spot)
    left, top, width, height = part
    shown = _shown_size(width, height, PICTURE_SIDE)
    picture = _enlarged(image[top : top + height, left : left + width], shown)
    frame = Frame(left + corner[0], top + corner[1], width, height, *shown)
    for box in unit.beside:
        _dash(picture, _edges(frame, box))
    _draw(picture, frame, spot)
    is_part = width * height < 0.6 * image.shape[0] * image.shape[1]
    return QuestionPicture(picture, frame, _wide(image, part, spot) if is_part else None, person)


def png_bytes(picture: Image.Image) -> bytes:
    """A picture without loss."""
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def jpeg_bytes(picture: Image.Image, limit: int) -> bytes:
    """A picture as good as fits into so many bytes; never worse than the last quality."""
    content = b""
    for quality in QUALITIES:
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=quality, optimize=True)
        content = stream.getvalue()
        if len(content) <= limit:
            break
    return content


def _part(size: tuple[int, ...], spot: Spot) -> tuple[int, int, int, int]:
    """Left, top, width and height of what is shown of an image (height, width)."""
    height, width = size
    if not spot:
        return 0, 0, width, height
    x, y, across, down = (*spot, 0.0, 0.0)[:4]
    if len(spot) == 4:
        side = max(max(across, down) * (1 + 2 * MARGIN), LEAST_PART)
    else:
        side = max(min(width, height) / 2, LEAST_PART)
    wide, high = min(width, round(side)), min(height, round(side))
    left = round(x + across / 2 - wide / 2)
    top = round(y + down / 2 - high / 2)
    return min(max(0, left), width - wide), min(max(0, top), height - high), wide, high


def _shown_size(width: int, height: int, side: int) -> tuple[int, int]:
    scale = side / max(width, height)
    if max(width, height) <= SHARP:
        scale = max(1, round(scale))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _enlarged(part: Array, size: tuple[int, int]) -> Image.Image:
    picture = Image.fromarray(part).convert("RGB")
    if size == picture.size:
        return picture
    sharp = max(picture.size) <= SHARP and size[0] >= picture.size[0]
    how = Image.Resampling.NEAREST if sharp else Image.Resampling.LANCZOS
    return picture.resize(size, how)


def _draw(picture: Image.Image, frame: Frame, spot: Spot) -> None:
    """A cross around a point, which stays visible, or a box."""
    pen = ImageDraw.Draw(picture)
    if len(spot) == 2:
        x, y = frame.in_picture(*spot)
        gap = max(7.0, 0.75 * frame.shown_width / frame.width)
        for pen_width, tone, reach in ((7, DARK, 31), (3, BRIGHT, 30)):
            for across, down in ((1, 0), (-1, 0), (0, 1), (0, -1)):
                start = (x + across * gap, y + down * gap)
                end = (x + across * (gap + reach), y + down * (gap + reach))
                pen.line([start, end], fill=tone, width=pen_width)
    elif len(spot) == 4:
        _outline(picture, _edges(frame, spot), BRIGHT)


def _edges(frame: Frame, box: Spot) -> Corners:
    """Left, top, right and bottom of a box (x, y, width, height) in a picture."""
    x, y, width, height = box
    return (
        *frame.in_picture(x - 0.5, y - 0.5),
        *frame.in_picture(x + width - 0.5, y + height - 0.5),
    )


def _dash(picture: Image.Image, edges: Corners) -> None:
    """A dashed box, of another colour than the one that is asked about."""
    pen = ImageDraw.Draw(picture)
    left, top, right, bottom = edges
    for (x1, y1), (x2, y2) in (
        ((left, top), (right, top)),
        ((right, top), (right, bottom)),
        ((right, bottom), (left, bottom)),
        ((left, bottom), (left, top)),
    ):
        steps = max(1, round(math.hypot(x2 - x1, y2 - y1) / DASH))
        for width, tone in ((5, DARK), (3, BEFORE_ALL)):
            for n in range(steps):
                a, b = n / steps, (n + 0.55) / steps
                start = (x1 + a * (x2 - x1), y1 + a * (y2 - y1))
                pen.line([start, (x1 + b * (x2 - x1), y1 + b * (y2 - y1))], tone, width)


def _outline(picture: Image.Image, box: Corners, colour: tuple[int, int, int]) -> None:
    """A box whose inner edge is where the box ends, readable on dark and on bright; all of it lies
    inside of the picture.
    """
    pen = ImageDraw.Draw(picture)
    wide, high = picture.size
    x1, y1, x2, y2 = max(5, box[0]), max(5, box[1]), min(wide - 6, box[2]), min(high - 6, box[3])
    if x1 > x2 or y1 > y2:
        return
    for grow, width, tone in ((5, 5, DARK), (4, 3, colour)):
        pen.rectangle([x1 - grow, y1 - grow, x2 + grow, y2 + grow], outline=tone, width=width)


def _wide(image: Array, part: tuple[int, int, int, int], spot: Spot) -> Image.Image:
    """All of the image, with the part that is asked about in a yellow frame."""
    height, width = image.shape[:2]
    size = _shown_size(width, height, WIDE_SIDE)
    picture = _enlarged(image, size)
    whole = Frame(0, 0, width, height, *size)
    x, y, across, down = spot if len(spot) == 4 else tuple(map(float, part))
    _outline(picture, _edges(whole, (x, y, across, down)), BEFORE_ALL)
    return picture
