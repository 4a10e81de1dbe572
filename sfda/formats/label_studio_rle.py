"""Label Studio's run-length code of painted masks: thi.ng's rle-pack over RGBA bytes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sfda.formats.masks import Bits

RUN_BITS = (3, 5, 9, 16)  # bits of a run's length; a run takes the first that holds it


def encode_mask(mask: Bits) -> list[int]:
    """A mask [H, W] as bytes: 32 bits of count, 5 of word size less 1, four sizes less 1, runs."""
    flat = np.repeat(mask.ravel().astype(np.uint8) * 255, 4)
    cuts = np.flatnonzero(np.diff(flat)) + 1
    starts = np.concatenate([[0], cuts])
    lengths = np.diff(np.concatenate([starts, [len(flat)]]))
    bits = [f"{len(flat):032b}", f"{7:05b}", *(f"{size - 1:04b}" for size in RUN_BITS)]
    for start, whole in zip(starts.tolist(), lengths.tolist(), strict=True):
        left = whole
        while left:
            run = min(left, 1 << RUN_BITS[-1])
            which = next(i for i, size in enumerate(RUN_BITS) if run <= 1 << size)
            bits.append(f"1{which:02b}{run - 1:0{RUN_BITS[which]}b}{int(flat[start]):08b}")
            left -= run
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return [int(text[i : i + 8], 2) for i in range(0, len(text), 8)]


def decode_mask(code: Sequence[int], height: int, width: int) -> Bits:
    """The mask of such bytes. ValueError if they are not one of this size."""
    if len(code) > 26 * height * width + 64:  # four runs of one value each a pixel, at worst
        raise ValueError(f"{len(code)} bytes, more than a mask of its size can have")
    text = "".join(f"{byte:08b}" for byte in bytes(code))
    at = 0

    def read(count: int) -> int:
        nonlocal at
        if at + count > len(text):
            raise ValueError("the code ends too early")
        at += count
        return int(text[at - count : at], 2)

    total, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    if total != height * width * 4:
        raise ValueError(f"the code holds {total} bytes, {height} x {width} x 4 were expected")
    out, i = np.zeros(total, np.uint8), 0
    while i < total:
        same = read(1)
        end = i + 1 + read(sizes[read(2)])
        if same:
            out[i:end] = read(word) & 255
        else:
            for position in range(i, min(end, total)):
                out[position] = read(word) & 255
        i = end
    mask: Bits = out.reshape(height, width, 4)[..., 3] > 0
    return mask
