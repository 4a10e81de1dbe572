"""Whose code a person trusts, and whose nobody may: what stored models may name.

A model that names a part of Python, or of what runs here anyway, could run any command.
"""

from __future__ import annotations

import os
import re
import sys
from functools import lru_cache
from importlib import metadata

from sfda.errors import BadInput

TRUST_CODE = "SFDA_TRUST_CODE"  # names of packages, by commas; jobs have it in their environment
# where this package was not installed, what it is made of is found from these
MAIN_LIBRARIES = (
    "albumentations",
    "mlflow",
    "mmdet",
    "prefect",
    "scikit-learn",
    "timm",
    "torchvision",
)
ALWAYS = frozenset({"sfda", "tasks", "flows", "builtins", "__main__", "test", "pip", "setuptools"})
REQUIREMENT = re.compile(r"\s*([\w.-]+)\s*(?:\[([^\]]*)\])?")
EXTRA = re.compile(r"extra\s*==\s*['\"]([^'\"]+)['\"]")


def trusted_packages() -> set[str]:
    """Packages whose code stored models may name: what `--trust-code` and SFDA_TRUST_CODE say.

    Raises BadInput for a part of Python itself: with those a model could do anything.
    """
    packages = set(os.environ.get(TRUST_CODE, "").replace(",", " ").split())
    if refused := sorted(word for word in packages if "@" not in word and is_never_trusted(word)):
        raise BadInput(
            f"--trust-code {refused[0]}: that is part of Python or of what runs here anyway, "
            "and a model that names it can run any command; name the package of whoever made "
            "the model"
        )
    return packages


def is_never_trusted(package: str) -> bool:
    """Whether a package, or the one that a dotted name begins with, can never be trusted.

    >>> is_never_trusted("psutil"), is_never_trusted("os.path"), is_never_trusted("my_lab")
    (True, True, False)
    """
    top = package.partition(".")[0]
    return top in sys.stdlib_module_names or top in ALWAYS or top in _made_of(tuple(sys.path))


@lru_cache
def _made_of(path: tuple[str, ...]) -> frozenset[str]:
    """Importable packages of every distribution that this one requires, extras included, and of
    what those require; `path` is where distributions are looked for."""
    waiting = [("sfda", frozenset({"*"})), *((name, frozenset[str]()) for name in MAIN_LIBRARIES)]
    known: dict[str, frozenset[str]] = {}
    while waiting:
        name, extras = waiting.pop()
        name = _plain(name)
        if name in known and extras <= known[name]:
            continue
        known[name] = extras = extras | known.get(name, frozenset())
        waiting += _required(name, extras)
    tops = metadata.packages_distributions().items()
    return frozenset(top for top, names in tops if any(_plain(name) in known for name in names))


def _required(name: str, extras: frozenset[str]) -> list[tuple[str, frozenset[str]]]:
    """Name and extras of what a distribution requires; of extras `*` is each of its own."""
    try:
        texts = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return []
    required = []
    for text in texts:
        asked = set(EXTRA.findall(text.partition(";")[2]))
        if (match := REQUIREMENT.match(text)) and (not asked or "*" in extras or asked & extras):
            own = (match[2] or "").split(",")
            required.append((match[1], frozenset(word.strip() for word in own if word.strip())))
    return required


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
