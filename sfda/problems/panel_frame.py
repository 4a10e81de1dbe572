"""What the panels of all problems share: colours, sizes, names cut short, and the PNG itself."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator
from functools import cache
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from sfda.errors import for_terminal
from sfda.images.plotting import Artist, Axes, Axis, Figure, FigureCanvasAgg, Text, rc_context

LARGEST = 480  # pixels of a side that are drawn
# Of Sasha Trubetskoy's list of distinct colours; before them one for what is mostly background
COLOURS = (
    "#4a4a4a",
    "#e6194b",
    "#3cb44b",
    "#4363d8",
    "#ffe119",
    "#f58231",
    "#911eb4",
    "#46f0f0",
    "#f032e6",
    "#bcf60c",
    "#fabebe",
    "#008080",
    "#e6beff",
    "#9a6324",
    "#fffac8",
    "#800000",
    "#aaffc3",
    "#808000",
    "#ffd8b1",
    "#000075",
)
IGNORED = (200, 200, 200)
LEGEND = 24  # classes that are named
NAME_LETTERS = 28  # letters of a class's name
TITLE_SIZE, LETTER = 12, 0.092  # points of a title; inches of one of its letters
TITLE_LINES = 3


def png(figure: Figure) -> bytes:
    """A figure as PNG, laid out once. Names in it are shown as they are, never set as formulas."""
    for text in _texts(figure):
        text.set_parse_math(False)
    with rc_context({"text.parse_math": False}):  # for those that are made when it is drawn
        if engine := figure.get_layout_engine():
            engine.execute(figure)
            figure.set_layout_engine("none")  # it would be laid out, and drawn, twice
        canvas: Any = FigureCanvasAgg(figure)
        canvas.draw()
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(canvas.buffer_rgba())).save(buffer, "png")
    return buffer.getvalue()


def _texts(figure: Figure) -> Iterator[Text]:
    """Every text there is, but for the ticks of axes that are not drawn, which need not be made."""
    pending: list[Artist] = [figure]
    while pending:
        artist = pending.pop()
        if isinstance(artist, Text):
            yield artist
        children = artist.get_children()
        if isinstance(artist, Axes) and not artist.axison:
            children = [one for one in children if not isinstance(one, Axis)]
        pending += children


def sheet(rows: int, columns: int, *, size: tuple[float, float], title: str) -> tuple[Figure, Any]:
    """A titled figure of `size` inches and of what further lines its title needs, and its axes
    [rows, columns], which are for images: neither ticks nor frames are drawn.
    """
    width, height = size
    text = in_lines(title, width)
    figure = Figure(figsize=(width, height + 0.2 * text.count("\n")), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(text, fontsize=TITLE_SIZE)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
        axes.set_title("", y=1.0)  # or a place for it is sought at every drawing
    return figure, grid


def in_lines(title: str, inches: float) -> str:
    r"""A title in lines that a figure so wide has room for, three at most.

    >>> in_lines("adapt a to b with c", 1.0)
    'adapt a to\nb with c'
    """
    lines = textwrap.wrap(
        one_line(title),
        max(8, int(inches / LETTER)),
        max_lines=TITLE_LINES,
        placeholder=" …",
        break_on_hyphens=False,
    )
    return "\n".join(lines)


def one_line(name: str) -> str:
    r"""A name as it is drawn: without ends of lines, and nothing that turns the text around.

    >>> one_line("a\n\u202eb")
    'a ?b'
    """
    return " ".join(for_terminal(name).split())


def label_point(axis: Axes, at: tuple[float, float], text: str, colour: str) -> None:
    """A few letters to the right of and below a point, on a ground of that colour."""
    dark = sum(int(colour[i : i + 2], 16) for i in (1, 3, 5)) < 3 * 140
    letters = axis.annotate(
        text,
        at,
        xytext=(1.5, -1.5),
        textcoords="offset points",
        ha="left",
        va="top",
        fontsize=6.5,
        color="white" if dark else "black",
        bbox={"boxstyle": "square,pad=0.12", "facecolor": colour, "edgecolor": "none"},
        annotation_clip=True,
    )
    letters.set_in_layout(False)  # it lies within the image


def row_height(image: np.ndarray) -> float:
    """Inches of a row of images 3.6 inches wide, with their titles."""
    height, width = image.shape[:2]
    return float(min(2.0, max(0.4, height / width)) * 3.6 + 0.35)


@cache
def palette() -> UInt8[np.ndarray, "256 3"]:
    """The colour of every class, and at 255 of what does not count.

    After the first 20 each is the colour, of a grid, that differs most from all before (in Lab).
    """
    steps = np.linspace(0, 255, 7).round()
    grid = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(-1, 3)
    first = [[int(hexed[i : i + 2], 16) for i in (1, 3, 5)] for hexed in COLOURS]
    every = np.concatenate([np.array([*first, IGNORED]), grid])
    lab = cv2.cvtColor((every[None] / 255).astype(np.float32), cv2.COLOR_RGB2Lab)[0]
    apart = np.linalg.norm(lab[:, None] - lab[None], axis=-1)
    taken = list(range(len(first) + 1))
    nearest = apart[taken].min(0)
    while len(taken) < 256:
        taken.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, apart[taken[-1]])
    taken.append(taken.pop(len(first)))  # what does not count comes last
    colours: UInt8[np.ndarray, "256 3"] = every[taken].astype(np.uint8)
    return colours


def small(image: np.ndarray) -> np.ndarray:
    """An image or a mask of at most 480 pixels a side; masks keep their values."""
    height, width = image.shape[:2]
    ratio = LARGEST / max(height, width)
    if ratio >= 1:
        return image
    size = (max(1, round(width * ratio)), max(1, round(height * ratio)))
    how = cv2.INTER_NEAREST if image.ndim == 2 else cv2.INTER_AREA
    return cv2.resize(image, size, interpolation=how)


def ending(name: str, most: int = 34) -> str:
    """The end of a long name: of paths it tells more than the beginning."""
    name = one_line(name)
    return name if len(name) <= most else "…" + name[-most + 1 :]


def shortened(name: str, most: int = NAME_LETTERS) -> str:
    """The beginning of a long name."""
    name = one_line(name)
    return name if len(name) <= most else name[: most - 1] + "…"
