"""The parts of matplotlib that pictures are drawn with, imported without a look at this folder.

As it is imported, matplotlib reads `matplotlibrc` of the current folder, which may be a folder of
somebody's data: a file there could say what to run (`text.usetex`), stop the import, or never end.
So it is imported by a thread that is in another folder, and what it read elsewhere is undone.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
import threading

CLONE_FS = 0x200  # of linux/sched.h: what a thread can have of its own is its current folder
ALONE = 2  # threads: this one, and the one that waits for it


def _import_elsewhere(module: str) -> None:
    """In a thread of its own: no other one finds its folder changed."""
    before = os.getcwd()
    unshare = getattr(ctypes.CDLL(None), "unshare", None)
    apart = unshare is not None and unshare(CLONE_FS) == 0
    if apart or threading.active_count() <= ALONE:
        os.chdir("/")
    try:
        importlib.import_module(module)
    finally:
        os.chdir(before)


if "matplotlib" not in sys.modules:
    _thread = threading.Thread(target=_import_elsewhere, args=("matplotlib",))
    _thread.start()
    _thread.join()

from matplotlib import rc_context, rcdefaults  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.patches import Patch, Rectangle  # noqa: E402
from matplotlib.text import Text  # noqa: E402

rcdefaults()

__all__ = ["Axes", "Figure", "FigureCanvasAgg", "Patch", "Rectangle", "Text", "rc_context"]
