"""A file of the current folder says nothing to what draws pictures."""

import os
import subprocess
import sys

CODE = """
import os
import sfda.problems.coco_eval, sfda.report.pictures
from matplotlib import rcParams
print(rcParams["text.usetex"], rcParams["font.size"], os.getcwd())
"""


def test_a_pipe_in_the_current_folder_stops_nothing_and_is_not_read(tmp_path):
    """Who reads it waits for ever."""
    os.mkfifo(tmp_path / "matplotlibrc")
    done = subprocess.run(
        [sys.executable, "-P", "-c", CODE],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.stdout == f"False 10.0 {tmp_path}\n", done.stderr
