"""Built-in data for pose: drawn stick figures, in a gym and on a street at night.

The source are figures in bright clothes before a plain wall. The target are others, darker, before
a wall with stripes, with a colour cast, blur and noise. The shift was set by what it costs a small
network that learnt the source.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from sfda.demo.drawn import Drawn, as_bytes, coco_files, put_demo

SIZE = 64  # pixels, height and width
JOINTS = (
    "head",
    "neck",
    "left_elbow",
    "right_elbow",
    "left_hand",
    "right_hand",
    "hip",
    "left_knee",
    "right_knee",
    "left_foot",
    "right_foot",
)
EDGES = (
    ("head", "neck"),
    ("neck", "left_elbow"),
    ("neck", "right_elbow"),
    ("left_elbow", "left_hand"),
    ("right_elbow", "right_hand"),
    ("neck", "hip"),
    ("hip", "left_knee"),
    ("hip", "right_knee"),
    ("left_knee", "left_foot"),
    ("right_knee", "right_foot"),
)
PAIRS = tuple((f"left_{p}", f"right_{p}") for p in ("elbow", "hand", "knee", "foot"))
GROUPS = {
    "arms": ("left_elbow", "right_elbow", "left_hand", "right_hand"),
    "legs": ("left_knee", "right_knee", "left_foot", "right_foot"),
}
SOURCE = {"train": 500, "val": 80}
TARGET = {"adapt": 300, "test": 100}
LEFT, RIGHT = (70.0, 120.0, 220.0), (220.0, 110.0, 60.0)  # limbs of either side
DARK = 0.55  # of the light that is left at night
CAST = np.array([0.85, 0.9, 1.15])  # of red, green and blue
GRAIN = 7.0  # standard deviation of the noise, in levels of 255


class Figure(NamedTuple):
    """An image uint8 [64, 64, 3] and joints [11, 2] as (x, y)."""

    image: np.ndarray
    joints: np.ndarray


def in_the_gym(number: int) -> Figure:
    """One figure of the source domain."""
    rng = np.random.default_rng([2028, 0, number])
    wall = np.full((SIZE, SIZE, 3), rng.uniform(170, 215))
    figure = _drawn(rng, wall)
    return figure._replace(image=as_bytes(figure.image + rng.normal(0, 4, figure.image.shape)))


def at_night(number: int) -> Figure:
    """One figure of the target domain."""
    rng = np.random.default_rng([2028, 1, number])
    across = np.sin(np.arange(SIZE) * rng.uniform(0.25, 0.6) + rng.uniform(0, 6))
    wall = rng.uniform(140, 190) + 18 * np.repeat(across[None, :, None], SIZE, 0).repeat(3, 2)
    figure = _drawn(rng, wall)
    image = cv2.GaussianBlur(figure.image * DARK * CAST + 12, (0, 0), 0.7)
    return figure._replace(image=as_bytes(image + rng.normal(0, GRAIN, image.shape)))


def write_demo(folder: Path) -> tuple[Path, Path]:
    """Write both domains as zips with COCO files and manifests: (source, target) manifests.

    The same bytes every time; what is there is replaced. Raises BadInput if it cannot be written.
    """
    files = _files(folder, "figures_gym", SOURCE) | _files(folder, "figures_night", TARGET)
    put_demo(folder, files)
    return folder / "figures_gym.yaml", folder / "figures_night.yaml"


def _posed(rng: np.random.Generator) -> np.ndarray:
    """Joints of a person who stands upright, arms and legs anywhere that they can be."""
    unit = rng.uniform(8.5, 11.0)
    lean = rng.normal(0, 0.12)
    neck = np.array([rng.uniform(26, 38), rng.uniform(17, 22)])

    def away(start: np.ndarray, angle: float, length: float) -> np.ndarray:
        """Angle 0 points down."""
        return start + unit * length * np.array([np.sin(angle), np.cos(angle)])

    head = away(neck, np.pi + lean + rng.normal(0, 0.15), 0.8)
    hip = away(neck, lean, 1.7)
    joints = {"head": head, "neck": neck, "hip": hip}
    for side, sign in (("left", 1), ("right", -1)):
        arm, bend = sign * rng.uniform(0.25, 2.2), sign * rng.uniform(-0.3, 1.3)
        elbow = away(neck, arm, 1.0)
        leg, turn = sign * rng.uniform(0.08, 0.55), sign * rng.uniform(-0.5, 0.15)
        knee = away(hip, leg, 1.15)
        joints |= {
            f"{side}_elbow": elbow,
            f"{side}_hand": away(elbow, arm + bend, 0.95),
            f"{side}_knee": knee,
            f"{side}_foot": away(knee, leg + turn, 1.1),
        }
    stacked = np.stack([joints[name] for name in JOINTS])
    return stacked.clip(1, SIZE - 2)


def _drawn(rng: np.random.Generator, wall: np.ndarray) -> Figure:
    joints, image = _posed(rng), wall.copy()
    pixels = np.round(joints).astype(int).tolist()
    pixel_of = {name: tuple(at) for name, at in zip(JOINTS, pixels, strict=True)}
    for a, b in EDGES:
        side = LEFT if "left" in b else RIGHT if "right" in b else (90.0, 90.0, 95.0)
        tone = np.array(side) * rng.uniform(0.85, 1.15)
        cv2.line(image, pixel_of[a], pixel_of[b], tone.tolist(), 3, cv2.LINE_AA)
    skin = np.array([205, 160, 130]) * rng.uniform(0.8, 1.1)
    cv2.circle(image, pixel_of["head"], 5, skin.tolist(), -1)
    return Figure(image, joints)


def _files(folder: Path, name: str, sizes: dict[str, int]) -> dict[Path, bytes]:
    draw = in_the_gym if name == "figures_gym" else at_night

    def drawn() -> Iterator[Drawn]:
        for number in range(1, sum(sizes.values()) + 1):
            figure = draw(number)
            marked = [v for x, y in figure.joints for v in (round(x, 2), round(y, 2), 2)]
            entry = {
                "category_id": 1,
                "keypoints": marked,
                "num_keypoints": len(JOINTS),
                "bbox": [0, 0, SIZE, SIZE],
                "area": SIZE * SIZE / 4,
            }
            yield figure.image, [entry]

    edges = [[JOINTS.index(a) + 1, JOINTS.index(b) + 1] for a, b in EDGES]
    category = {"id": 1, "name": "figure", "keypoints": list(JOINTS), "skeleton": edges}
    more = {
        "problem": "pose",
        "classes": list(JOINTS),
        "padding": 1.0,
        "skeleton": {
            "edges": [list(e) for e in EDGES],
            "pairs": [list(p) for p in PAIRS],
            "groups": {k: list(v) for k, v in GROUPS.items()},
            "unit": ["neck", "hip"],
        },
    }
    return coco_files(folder, name, sizes, drawn(), [category], more)
