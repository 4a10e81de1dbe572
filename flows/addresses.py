"""Addresses of models and manifests: the name in one, and short forms for titles."""

from __future__ import annotations

from pathlib import Path


def short_address(path: str) -> str:
    """A manifest's or model's address, short enough for a run's name.

    >>> short_address("data_manifests/digits/usps.yaml"), short_address("models:/digits@source")
    ('digits/usps', 'digits@source')
    """
    if ":/" in path:
        return path.partition(":/")[2]
    file = Path(path)
    return "/".join([*file.parent.parts[-1:], file.stem])


def registered_name(source: str) -> str:
    """The registered name in a model's address, or the last part of a path."""
    if source.startswith("models:/"):
        return source.removeprefix("models:/").partition("@")[0].partition("/")[0]
    return source.rstrip("/").rpartition("/")[2] or "adapted"
