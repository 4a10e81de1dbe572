"""What a restricted process knows of its environment: names from a list, never a password."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

PASSED = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "LANG", "LANGUAGE", "LC_*", "TZ"),
    *("TMPDIR", "LD_LIBRARY_PATH", "LD_PRELOAD", "MALLOC_*", "GLIBC_*", "PYTHON*", "VIRTUAL_ENV"),
    *("OMP_*", "GOMP_*", "KMP_*", "MKL_*", "OPENBLAS_*", "NUMEXPR_*", "VECLIB_*", "BLIS_*"),
    *("CUDA_*", "CUBLAS_*", "CUDNN_*", "NVIDIA_*", "TORCH_*", "PYTORCH_*", "ATEN_*", "OPENCV_*"),
    *("SFDA_*", "NO_ALBUMENTATIONS_UPDATE", "HF_HUB_OFFLINE", "HF_HOME", "MPLCONFIGDIR", "XDG_*"),
    *("NO_COLOR", "COLUMNS", "COVERAGE_*"),
)
SECRET = ("TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL", "AUTH", "_KEY", "_URI", "_URL")
ENVIRONMENT_FIELDS = slice(47, 49)  # env_start and env_end in /proc/self/stat, after pid and name


def is_passed(name: str) -> bool:
    """Whether a variable of this name goes to the process.

    >>> [is_passed(name) for name in ("OMP_NUM_THREADS", "MLFLOW_TRACKING_URI", "SFDA_TOKEN")]
    [True, False, False]
    """
    if any(word in name.upper() for word in SECRET):
        return False
    return any(fnmatchcase(name, pattern) for pattern in PASSED)


def passed(environment: Mapping[str, str]) -> dict[str, str]:
    """Of an environment what the process gets."""
    return {name: value for name, value in environment.items() if is_passed(name)}


def forget_others() -> None:
    """Remove from this process's environment, and from the memory that it came in, all the rest."""
    for name in set(os.environ) - set(passed(os.environ)):
        del os.environ[name]
    start, end = _block()
    if not 0 < start < end:
        return
    at = start
    for entry in ctypes.string_at(start, end - start).split(b"\0"):
        name = entry.partition(b"=")[0].decode(errors="replace")
        if entry and not is_passed(name):
            ctypes.memset(at, 0, len(entry))
        at += len(entry) + 1


def _block() -> tuple[int, int]:
    """Where the environment lies that this program was started with."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0, 0
    start, end = fields[ENVIRONMENT_FIELDS]
    return int(start), int(end)
