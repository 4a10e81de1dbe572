"""What a manifest file may say, and how one is opened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PrivateAttr,
    field_validator,
    model_validator,
)

from sfda.config import Config
from sfda.documents import cut_off
from sfda.errors import listed
from sfda.problems.registry import PROBLEMS
from sfda.refs import Name, ProblemName, Skeleton, few_classes, printable_name

DIGEST_CHARACTERS = 64


def _below(name: str) -> str:
    """The name of a file below a folder. Raises ValueError for a path that leads elsewhere."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise ValueError(
            f"{cut_off(name)!r} is to be a path below the manifest's folder or its root, "
            "relative and without .."
        )
    return name


def _of_split(name: str) -> str:
    """A split's name, which files are called after. Raises ValueError for what leads elsewhere."""
    if "/" in name or "\\" in name or name in ("", ".", ".."):
        raise ValueError(f"{cut_off(name)!r} is no name of a split: it may not be a path")
    return name


def _quoted(value: object) -> object:
    """A digest of digits alone, which YAML takes for a number."""
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    if len(str(value)) != DIGEST_CHARACTERS:  # it began with 0, so YAML read it in another way
        raise ValueError("YAML takes these digits for a number; put them in quotes")
    return str(value)


SplitName = Annotated[Name, AfterValidator(_of_split)]
Below = Annotated[str, AfterValidator(_below)]
Sha256 = Annotated[
    str, BeforeValidator(_quoted), Field(pattern=rf"^[0-9a-f]{{{DIGEST_CHARACTERS}}}$")
]
REMAKE = "make it anew with `sfda manifest`, or put the original file back"


class Archive(Config):
    """One file that holds all images: a zip of image files, or an npz of arrays."""

    file: Below
    sha256: Sha256


class Arrays(Config):
    """Names of the arrays in an npz: images uint8 [N, H, W] or [N, H, W, 3], the others [N].

    Masks are uint8 [N, H, W], of the images' size; groups are numbers or text.
    """

    image: str
    label: str | None = None
    mask: str | None = None
    group: str | None = None
    split: str | None = None


class AnnotationsSpec(Config):
    """Answers that people gave for single rows of a split, as `sfda answer` writes them: a CSV
    beside the manifest with the class (of `classes`) or the mask of each row, or a COCO JSON with
    the boxes or joints of each.
    """

    rows: Below
    sha256: Sha256
    count: int = Field(ge=1)
    classes: tuple[str, ...]


class SplitSpec(Config):
    """Which rows form a split, and how many they are.

    With `rows`: the rows of that CSV, of which `where` picks those whose `split` column says so;
    or the images of that COCO JSON (boxes and all), picked by a key `split` of theirs.
    With `equals` (npz alone): those where the split array has this value. With neither: all.
    """

    rows: Below | None = None
    sha256: Sha256 | None = None
    where: str | None = None
    equals: int | None = None
    count: int = Field(ge=0)
    answers: AnnotationsSpec | None = None

    @field_validator("where", mode="before")
    @classmethod
    def _text(cls, value: object) -> object:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _consistent(self) -> SplitSpec:
        if self.rows and not self.sha256:
            raise ValueError("`rows` needs the `sha256` of that file")
        if self.where is not None and not self.rows:
            raise ValueError("`where` picks rows of a file: it needs `rows`")
        if self.rows and self.equals is not None:
            raise ValueError("`rows` and `equals` exclude each other")
        return self


class Manifest(Config):
    """A set of images: where they lie, which splits there are, what the classes are called.

    It knows the file it came from and whether labels may be read through it.
    """

    name: Name
    problem: ProblemName
    version: int = 1
    origin: str
    licence: str | None = None
    root: str
    classes: tuple[str, ...] | int | None = None  # a bare number: so many classes without names
    ignore: int | None = Field(255, ge=0, le=65535)  # masks: the value that does not count
    values: tuple[int, ...] | None = None  # masks: the value of each class; None: 0, 1, 2 ...
    archive: Archive | None = None
    arrays: Arrays | None = None
    splits: dict[SplitName, SplitSpec] = {}
    template: bool = False  # True: says what a benchmark holds; its rows are made by its owner
    layout: str | None = None  # how the files are expected to lie, for a reader
    counts: int | dict[str, int] | None = None  # official number of images, in all or by class
    skeleton: Skeleton | None = (
        None  # pose: `classes` are the joints, this is how they hang together
    )
    padding: float = Field(1.25, gt=0, le=10)  # pose: a crop's side by the longer side of the box

    _path: Path = PrivateAttr(default=Path())
    _data_root: Path = PrivateAttr(default=Path())
    _labelled: bool = PrivateAttr(default=True)
    _sha256: str = PrivateAttr(default="")
    _without: frozenset[str] = PrivateAttr(default=frozenset())

    @field_validator("classes", mode="before")
    @classmethod
    def _names(cls, value: object) -> object:
        if not isinstance(value, list | tuple):
            return value
        odd = [name for name in value if isinstance(name, bool) or not isinstance(name, str | int)]
        if odd:
            name = cut_off(repr(odd[0]))
            raise ValueError(f"class {name} is not text; put it in quotes")
        return few_classes(tuple(printable_name(str(name)) for name in value))

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        if isinstance(self.classes, int) and (isinstance(self.classes, bool) or self.classes < 1):
            raise ValueError("`classes` is a list of names or a number above 0")
        if isinstance(self.classes, tuple):
            twice = sorted(name for name, times in Counter(self.classes).items() if times > 1)
            if twice or not self.classes or "" in self.classes:
                raise ValueError(f"`classes` must be distinct names; twice: {listed(twice)}")
        if self.arrays and not self.archive:
            raise ValueError("`arrays` needs an `archive`, the npz they lie in")
        if not self.template and not self.splits:
            raise ValueError("there is no split")
        if fault := PROBLEMS[self.problem].manifest_fault(self) or self._foreign_field():
            raise ValueError(fault)
        for name, split in self.splits.items():
            if not self.template and not self.arrays and not split.rows:
                raise ValueError(f"split '{name}' needs `rows`: only an npz does without")
            if split.equals is not None and not (self.arrays and self.arrays.split):
                raise ValueError(f"split '{name}': `equals` needs a `split` array")
        if PurePosixPath(self.root).is_absolute() or self.root.startswith("."):
            return self
        if ".." in PurePosixPath(self.root).parts:
            raise ValueError(f"root {self.root!r} leaves the data folder")
        return self

    def _foreign_field(self) -> str:
        """A field that was stated and says something of another problem; '' for none."""
        for name in sorted(self.model_fields_set - PROBLEMS[self.problem].manifest_fields):
            for owner in PROBLEMS.values():
                if name in owner.manifest_fields:
                    return f"`{name}` is for {owner.label_word}, and this is {self.problem}"
        return ""

    @property
    def mask_values(self) -> tuple[int, ...]:
        """The pixel value of each class in the masks."""
        return tuple(range(self.num_classes or 0)) if self.values is None else self.values

    @property
    def path(self) -> Path:
        """The file this manifest was read from."""
        return self._path

    @property
    def sha256(self) -> str:
        """Digest of the file this manifest was read from, as it was then."""
        return self._sha256

    @property
    def labelled(self) -> bool:
        """Whether labels and masks may be read; False for good after `unlabelled()`."""
        return self._labelled

    @property
    def left_out(self) -> frozenset[str]:
        """Names of rows that are as if they were not there."""
        return self._without

    def less(self, names: Collection[str]) -> Manifest:
        """A copy without the rows of these names, in whichever split."""
        copy = self.model_copy()
        copy._without = self._without | frozenset(names)
        return copy

    @property
    def location(self) -> Path:
        """The folder that `root` names."""
        if self.root.startswith("."):
            return self._path.parent / self.root
        return self._data_root / self.root  # an absolute root stands for itself

    @property
    def data_root(self) -> Path:
        """The folder that a root without a leading dot is below of."""
        return self._data_root

    @property
    def archive_path(self) -> Path | None:
        """The zip or npz, if the images lie in one."""
        return self.location / self.archive.file if self.archive else None

    @property
    def key_column(self) -> str:
        """The column of a row file that names an image."""
        return "index" if self.arrays else "file"

    def row_name(self, key: str) -> str:
        """The name of a row, which its id is the digest of."""
        return f"{self.arrays.image}:{key}" if self.arrays else key

    @property
    def num_classes(self) -> int | None:
        """Number of classes, None where the manifest does not say."""
        return len(self.classes) if isinstance(self.classes, tuple) else self.classes

    def rows_path(self, spec: SplitSpec) -> Path | None:
        """The row file of a split: beside the manifest, or else below the root."""
        if not spec.rows:
            return None
        beside = self._path.parent / spec.rows
        return beside if beside.is_file() else self.location / spec.rows

    def unlabelled(self) -> Manifest:
        """A copy that can never give labels or masks: none of them leaves this package.

        Groups and priors stay: they are what the user knows, not what somebody drew. So do answers:
        people gave them so that a method may learn from them.
        """
        none = {"label": None, "mask": None}
        arrays = self.arrays.model_copy(update=none) if self.arrays else None
        copy = self.model_copy(update={"arrays": arrays})
        copy._labelled = False
        return copy
