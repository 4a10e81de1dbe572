"""Raw intensities of any type and range, made 8 bits."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

Raw = np.ndarray[Any, Any]  # [H, W] or [H, W, 3], of any type of number
Picture = np.ndarray[Any, np.dtype[np.uint8]]  # [H, W, 3] or [H, W]
Window = tuple[float, float] | Literal["percentile"] | None
PERCENTILES = (
    0.5,
    99.5,
)  # per cent of the intensities that a percentile window leaves below its ends

DIM = 63  # of 255: what 14 bits in 16 come to without a window


def to_bytes(raw: Raw, window: Window, ends: tuple[float, float] | None = None) -> Picture:
    """Intensities as uint8: `window` is mapped linearly to 0..255, what lies outside is clipped.

    A window of "percentile" goes from 0.5 to 99.5 % of the intensities, or is `ends` where they
    come from more than this image. None leaves 8 bits as they are, takes the upper 8 of 16, and
    counts as "percentile" for floating-point images.

    >>> to_bytes(np.array([[-1000, 0, 400]]), (-1000, 400)).tolist()
    [[0, 182, 255]]
    """
    if window is None:
        if raw.dtype == np.uint8:
            return raw
        if np.issubdtype(raw.dtype, np.integer):
            return (raw.clip(0, 65535) // 257).astype(np.uint8)
        window = "percentile"
    low, high = (ends or percentiles(raw)) if window == "percentile" else window
    if high <= low:  # all but a few intensities are the same
        return np.where(raw > low, 255, 0).astype(np.uint8)
    known = raw
    if not np.issubdtype(raw.dtype, np.integer):
        known = np.nan_to_num(raw, nan=low, posinf=high, neginf=low)
    scaled = (known.astype(np.float32) - np.float32(low)) * np.float32(255 / (high - low))
    done: Picture = np.rint(scaled.clip(0, 255)).astype(np.uint8)
    return done


def range_unused(low: float, high: float) -> str:
    """What to say of images of more than 8 bits whose intensities all lie from `low` to `high`,
    and which without a window are nearly black.

    >>> range_unused(3, 4000).split("; ")[1]
    'import or train the model with --window 0,4095, or --window percentile'
    """
    bits = max(8, int(high).bit_length())
    window = f"0,{2**bits - 1}" if low >= 0 else f"{low:g},{high:g}"
    return (
        f"the images hold intensities from {low:g} to {high:g}, in more than 8 bits each: a model "
        f"without a window sees at most {max(0, int(high)) // 257} of 255; import or train the "
        f"model with --window {window}, or --window percentile"
    )


def percentiles(raw: Raw) -> tuple[float, float]:
    """The intensities that 0.5 % and 99.5 % lie below; those that are no numbers do not count."""
    known = raw if np.issubdtype(raw.dtype, np.integer) else raw[np.isfinite(raw)]
    if not known.size:
        return 0.0, 0.0
    low, high = np.percentile(known, PERCENTILES)
    return float(low), float(high)
