"""Charts as SVG whose colours are those of the page, so that they are read in the dark, too."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from sfda.refs import ReliabilityBin
from sfda.report.page_parts import Html, Piece, element, joined

WIDTH, HEIGHT = 320, 180  # of a chart in its own units, about pixels
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 8, 34
SQUARE = 260
STROKES = ("before", "after", "after c2", "after c3", "after c4", "after c5")
MOST_POINTS = 400  # of one line
MOST_TICKS = 5


class Line(NamedTuple):
    """A line of a chart: its name, its colour and its points."""

    name: str
    colour: str  # one of STROKES, maybe with " dash"
    points: Sequence[tuple[float, float]]


class _Frame(NamedTuple):
    """The axes of a chart: the ranges of both, and its size."""

    x: tuple[float, float]
    y: tuple[float, float]
    width: int
    height: int

    def at(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return (
            LEFT + across * (self.width - LEFT - RIGHT),
            self.height - BOTTOM - up * (self.height - TOP - BOTTOM),
        )


def line_chart(
    lines: Sequence[Line],
    *,
    title: str,
    axis: str,
    ringed: float | None = None,
    crossed: Collection[float] = (),
) -> Html:
    """Lines over `axis`, which counts whole things. Of the first line the point at `ringed` has a
    ring, and those at `crossed` a cross. What is not finite is left out.
    """
    lines = [line._replace(points=_thinned(line.points)) for line in lines]
    points = [point for line in lines for point in line.points]
    if not points:
        return Html("")
    frame = _Frame(
        _range([x for x, _ in points], whole=True), _range([y for _, y in points]), WIDTH, HEIGHT
    )
    marks = [_line(frame, line) for line in lines]
    for x, y in lines[0].points:
        if x in crossed:
            marks.append(_cross(*frame.at(x, y)))
        if x == ringed:
            marks.append(_circle(*frame.at(x, y), 5.5, "ring"))
    shapes = [_axes(frame, axis, whole=True), *marks]
    return _figure(title, shapes, frame)


def reliability_chart(bins: Mapping[str, Sequence[ReliabilityBin]]) -> Html:
    """The share of right answers over the models' confidence; on the diagonal they are as sure as
    they are right. Larger dots are more answers. At most six models, the source first.
    """
    frame = _Frame((0.0, 1.0), (0.0, 1.0), SQUARE + LEFT - TOP, SQUARE + BOTTOM - RIGHT)
    shapes = [_axes(frame, "confidence"), _path([frame.at(0, 0), frame.at(1, 1)], "grid")]
    for colour, own in zip(STROKES, bins.values(), strict=False):
        whole = max((one.answers for one in own), default=1)
        spots = [frame.at(one.confidence, one.right) for one in own]
        shapes.append(_path(spots, colour))
        shapes += [
            _circle(*spot, 2 + 4 * math.sqrt(one.answers / whole), colour)
            for spot, one in zip(spots, own, strict=True)
        ]
    return _figure("share that is right, by confidence", shapes, frame, kind="square")


def legend(names: Sequence[str], colours: Sequence[str] = STROKES) -> Html:
    """The names of lines beside their colours."""
    return element(
        "p",
        *(
            element("span", element("span", kind=f"key {colour}"), name, kind="name")
            for name, colour in zip(names, colours, strict=False)
        ),
        kind="soft legend",
    )


def share_bars(shares: Mapping[str, tuple[float, float]]) -> Html:
    """Two bars a class, before and after; the longest is as wide as there is room."""
    most = max((value for pair in shares.values() for value in pair), default=0.0) or 1.0
    cells: list[Piece] = []
    for name, pair in shares.items():
        bars = (
            element("span", kind=f"bar {side}", style=f"width: {100 * value / most:.2f}%")
            for side, value in zip(("before", "after"), pair, strict=True)
        )
        text = f"{100 * pair[0]:.1f} → {100 * pair[1]:.1f} %"
        cells += [
            element("span", name),
            element("span", *bars),
            element("span", text, kind="figure"),
        ]
    return element("div", *cells, kind="bars")


def _figure(title: str, shapes: Sequence[Piece], frame: _Frame, kind: str = "chart") -> Html:
    drawing = element(
        "svg",
        *shapes,
        viewBox=f"0 0 {frame.width} {frame.height}",
        kind=kind,
        role="img",
        **{"aria-label": title},
    )
    return element("figure", element("figcaption", title), drawing)


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    finite = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    step = -(-len(finite) // MOST_POINTS)
    return finite if step < 2 else [*finite[:-1:step], finite[-1]]


def _range(values: Sequence[float], *, whole: bool = False) -> tuple[float, float]:
    """Both ends of an axis, a little beyond the values; never of no length.

    >>> _range([3.0, 3.0], whole=True), _range([0.5, 0.5])
    ((2.5, 3.5), (0.25, 0.75))
    """
    low, high = min(values), max(values)
    if low == high:
        room = 0.5 if whole else abs(low) / 2 or 0.5
    else:
        room = 0.0 if whole else 0.06 * (high - low)
    return low - room, high + room


def ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Round numbers between both, five at most.

    >>> ticks(0, 1), ticks(1, 10, whole=True)
    ([0.0, 0.25, 0.5, 0.75, 1.0], [2.0, 4.0, 6.0, 8.0, 10.0])
    """
    power = 10.0 ** math.floor(math.log10((high - low) / MOST_TICKS))
    steps = [factor * power for factor in (1, 2, 2.5, 5, 10, 20, 25, 50)]
    if whole:
        steps = [step for step in steps if step >= 1 and step == int(step)] or [1.0]
    for step in steps:
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < MOST_TICKS:
            break
    return [number * step for number in range(first, last + 1)]


def _axes(frame: _Frame, axis: str, *, whole: bool = False) -> Html:
    shapes: list[Piece] = []
    for value in ticks(*frame.y):
        left, y = frame.at(frame.x[0], value)
        shapes.append(_path([(left, y), (frame.width - RIGHT, y)], "grid"))
        shapes.append(_words(LEFT - 6, y + 4, f"{value:.4g}", "end"))
    for value in ticks(*frame.x, whole=whole):
        x, _ = frame.at(value, frame.y[0])
        shapes.append(_words(x, frame.height - BOTTOM + 14, f"{value:g}", "middle"))
    middle = (LEFT + frame.width - RIGHT) / 2
    shapes.append(_words(middle, frame.height - 4, axis, "middle"))
    return joined(shapes)


def _line(frame: _Frame, line: Line) -> Html:
    spots = [frame.at(*point) for point in line.points]
    if len(spots) == 1:
        return _circle(*spots[0], 3, line.colour)
    return _path(spots, line.colour)


def _path(spots: Sequence[tuple[float, float]], colour: str) -> Html:
    steps = " L".join(f"{x:.1f} {y:.1f}" for x, y in spots)
    return element("path", d=Html(f"M{steps}" if spots else ""), kind=colour)


def _circle(x: float, y: float, radius: float, colour: str) -> Html:
    return element("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=f"{radius:.1f}", kind=colour)


def _cross(x: float, y: float) -> Html:
    strokes = f"M{x - 4:.1f} {y - 4:.1f} l8 8 m0 -8 l-8 8"
    return element("path", d=strokes, kind="cross")


def _words(x: float, y: float, text: str, anchor: str) -> Html:
    return element("text", text, x=f"{x:.1f}", y=f"{y:.1f}", **{"text-anchor": anchor})
