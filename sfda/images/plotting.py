"""The parts of matplotlib that pictures are drawn with, set as it is when nobody has set it.

`sfda.images.imports` sees to it that no file of the current folder is read as it is imported; what
a person's own settings say, fonts and sizes among it, would change what pictures look like.
"""

from __future__ import annotations

from matplotlib import rc_context, rcdefaults
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.text import Text

rcdefaults()

__all__ = [
    "Artist",
    "Axes",
    "Axis",
    "Figure",
    "FigureCanvasAgg",
    "Patch",
    "Rectangle",
    "Text",
    "rc_context",
]
