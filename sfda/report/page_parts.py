"""Pieces of a page that is one file: elements whose text is escaped, tables, and the frame.

Names of files and classes may be anybody's. Whatever is no `Html` is escaped, characters that a
reader cannot see or that turn text around become `?`, and the page's policy lets no script run and
nothing be fetched.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from importlib import resources

from sfda.errors import OBEYED

TEMPLATE = "page.html"
ODD = OBEYED | {0x061C, 0x200E, 0x200F, 0x2028, 0x2029, 0xFEFF, 0xFFFE, 0xFFFF}
LONGEST_PIECE = 2000  # characters of one name, sentence or setting
ROWS_OPEN = 15  # rows of a table that are seen at once
ROWS_AT_ALL = 1000


class Html(str):
    """Markup that is ready to be shown."""

    __slots__ = ()


Piece = str | Html


def escaped(piece: Piece, *, most: int | None = LONGEST_PIECE) -> Html:
    r"""Markup as it is; other text so that it is shown and does nothing, at most so much of it.

    >>> escaped("<b>\u202e&")
    '&lt;b&gt;?&amp;'
    """
    if isinstance(piece, Html):
        return piece
    if most is not None and len(piece) > most:
        piece = piece[: most - 1] + "…"
    return Html(html.escape("".join("?" if ord(sign) in ODD else sign for sign in piece)))


def element(name: str, *pieces: Piece, **attributes: str) -> Html:
    """An element around pieces; `kind` is its class. Attributes are escaped, too.

    >>> element("p", "a < b", kind="note")
    '<p class="note">a &lt; b</p>'
    """
    stated = {"class" if key == "kind" else key: value for key, value in attributes.items()}
    inside = "".join(f' {key}="{escaped(value)}"' for key, value in stated.items())
    return Html(f"<{name}{inside}>{joined(pieces)}</{name}>")


def joined(pieces: Iterable[Piece]) -> Html:
    """Pieces one after the other."""
    return Html("".join(map(escaped, pieces)))


def section(title: str, *pieces: Piece, name: str) -> Html:
    """A part of the page with its heading; `name` is its anchor."""
    return element("section", element("h2", title), *pieces, id=name)


def data_table(head: Sequence[str], rows: Sequence[Sequence[Piece]], *, words: int = 1) -> Html:
    """A table; all columns but the first `words` are figures. What is more than fifteen rows is
    folded away.
    """
    if len(rows) <= ROWS_OPEN + 3:
        return _table(head, rows, words)
    more = rows[ROWS_OPEN:ROWS_AT_ALL]
    left = len(rows) - ROWS_OPEN - len(more)
    beyond = [element("p", f"{left:,} more are not listed.", kind="soft")] if left else []
    folded = element(
        "details", element("summary", f"{len(more):,} more"), _table(head, more, words), *beyond
    )
    return joined([_table(head, rows[:ROWS_OPEN], words), folded])


def _table(head: Sequence[str], rows: Iterable[Sequence[Piece]], words: int) -> Html:
    def line(cells: Sequence[Piece], name: str) -> Html:
        return element(
            "tr",
            *(
                element(name, cell, kind="word" if n < words else "figure")
                for n, cell in enumerate(cells)
            ),
        )

    body = element("tbody", *(line(row, "td") for row in rows))
    table = element("table", element("thead", line(head, "th")), body)
    return element("div", table, kind="wide")


def facts(pairs: Iterable[tuple[str, Piece]]) -> Html:
    """Names and what they are, one below the other."""
    rows = (element("div", element("dt", name), element("dd", value)) for name, value in pairs)
    return element("dl", *rows)


def listing(items: Iterable[Piece]) -> Html:
    """Sentences, each with a dot before it."""
    return element("ul", *(element("li", item) for item in items))


def commands(lines: Iterable[str]) -> Html:
    """What can be typed, as it is typed."""
    return joined(element("pre", element("code", escaped(line, most=None))) for line in lines)


def image(png: bytes, words: str) -> Html:
    """A picture that travels with the page; `words` for who cannot see it."""
    address = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return Html(f'<figure class="picture"><img alt="{escaped(words)}" src="{address}"></figure>')


def difference(points: float, unit: str = "", *, digits: int = 1, judged: bool = True) -> Html:
    """A signed difference, coloured as better or worse where more is better.

    >>> difference(-1.25, digits=2)
    '<span class="worse">−1.25</span>'
    """
    text = f"{points:+.{digits}f}{unit}".replace("-", "−")
    if not judged or not float(f"{points:.{digits}f}"):
        return element("span", text)
    return element("span", text, kind="better" if points > 0 else "worse")


def whole_page(title: str, *pieces: Piece) -> str:
    """The page: the frame with its styles, around the pieces."""
    template = resources.files("sfda.report").joinpath(TEMPLATE).read_text(encoding="utf-8")
    head, _, rest = template.partition("@TITLE@")
    before, _, after = rest.partition("@BODY@")
    return head + escaped(title) + before + joined(pieces) + after
