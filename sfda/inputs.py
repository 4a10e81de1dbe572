"""How a network wants its images, and what random views of them may change."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from sfda.config import Config

Pixels = Annotated[int, Field(ge=1, le=16384)]
Share = Annotated[float, Field(ge=0, le=1)]
Zoom = Annotated[float, Field(gt=0, le=100)]


class InputSpec(Config):
    """How a network wants its images: it belongs to the model and is part of its digest.

    An image is resized to `resize`, cropped to `size`, divided by `scale` and standardised with
    `mean` and `std`. All sizes are (height, width) in pixels.
    """

    size: tuple[Pixels, Pixels]
    resize: tuple[Pixels, Pixels] | None = None  # None: straight to `size`, nothing cropped
    tiled: bool = False  # True: nothing is resized; the network sees tiles of `size`
    letterbox: bool = False  # True: ratio kept, at the top left; the rest is filled with the mean
    keep_ratio: bool = False  # True: the shorter side is resized and the middle square is kept
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    channels: Literal["rgb", "bgr", "gray"] = "rgb"
    scale: float = Field(255.0, gt=0)
    window: tuple[float, float] | Literal["percentile"] | None = None  # intensities made 0 to 255
    mean: tuple[float, ...]
    std: tuple[float, ...]

    model_config = ConfigDict(allow_inf_nan=False)

    @model_validator(mode="after")
    def _consistent(self) -> InputSpec:
        if not len(self.mean) == len(self.std) == self.depth:
            raise ValueError(f"mean and std need {self.depth} values for {self.channels} images")
        if min(self.std) <= 0:
            raise ValueError("std must be above 0")
        if self.resize and (self.resize[0] < self.size[0] or self.resize[1] < self.size[1]):
            raise ValueError(f"resize {self.resize} is smaller than size {self.size}")
        if self.tiled and self.resize:
            raise ValueError("a tiled input resizes nothing: leave out `resize`")
        if self.letterbox and (self.tiled or self.resize or self.keep_ratio):
            raise ValueError("`letterbox` goes without tiled, resize and keep_ratio")
        if isinstance(self.window, tuple) and self.window[0] >= self.window[1]:
            raise ValueError(f"window {self.window}: the lower end must lie below the upper one")
        return self

    @property
    def depth(self) -> int:
        """Number of channels, 1 or 3."""
        return 1 if self.channels == "gray" else 3

    @property
    def text(self) -> str:
        """What is done to an image, on a line: sizes as height x width, and colours."""
        size = "x".join(map(str, self.size))
        frame = "tiles of " if self.tiled else "letterbox of " if self.letterbox else ""
        resized = f" out of {'x'.join(map(str, self.resize))}" if self.resize else ""
        mean, std = (",".join(f"{v:g}" for v in values) for values in (self.mean, self.std))
        window = f", window {self.window}" if self.window else ""
        return (
            f"{frame}{size}{resized}, {self.channels}, divided by {self.scale:g}, mean {mean}, "
            f"std {std}{window}"
        )

    @property
    def stored(self) -> tuple[int, int]:
        """(height, width) at which decoded images are kept: before the crop."""
        return self.resize or self.size


class Views(Config):
    """What random views of an image may change. Weak: crop, flip, rotation; strong: all."""

    crop: bool = Field(
        True, description="a random crop of the size out of the resized; without room see pad"
    )
    pad: int = Field(0, ge=0, le=16384, description="pixels of black border before the crop")
    flip: bool = Field(True, description="mirror left to right, half of the time")
    rotate: float = Field(0.0, ge=0, le=180, description="at most this many degrees, either way")
    shear: float = Field(
        0.0, ge=0, lt=80, description="pose: at most this many degrees, either way"
    )
    move: float = Field(
        0.0, ge=0, le=0.5, description="pose: at most this share of the side, either way"
    )
    zoom: tuple[Zoom, Zoom] = Field((1.0, 1.0), description="pose: from and to")
    jitter: float = Field(
        0.4, ge=0, le=1, description="strong: change of brightness, contrast, saturation"
    )
    jittered: Share = Field(1.0, description="strong: probability of that and of a hue")
    hue: float = Field(0.1, ge=0, le=0.5, description="strong: change of the hue")
    grayscale: float = Field(0.2, ge=0, le=1, description="strong: probability of gray")
    blur: float = Field(0.5, ge=0, le=1, description="strong: probability of a Gaussian blur")
    blur_sigma: float | None = Field(
        None, ge=0.1, le=1000, description="its most, in pixels; none: by the image's size"
    )
    erase: Share | tuple[Share, Share, Share] = Field(
        0.5,
        description="strong: probability of a rectangle of one colour; three numbers: of three of "
        "noise, a larger one and two longer ones",
    )

    model_config = ConfigDict(allow_inf_nan=False)

    def unmoved(self) -> Views:
        """The same with nothing but colours changed."""
        still = {"crop": False, "flip": False, "rotate": 0.0, "shear": 0.0, "move": 0.0}
        return self.model_copy(update=still | {"zoom": (1.0, 1.0)})
