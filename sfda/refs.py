"""Nouns that stages hand to each other: addresses with digests, never tensors."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple, NotRequired

from pydantic import AfterValidator, ConfigDict, Field, WithJsonSchema, model_validator, with_config
from typing_extensions import TypedDict  # below Python 3.12 pydantic asks for this one

from sfda.bounds.limits import CLASS_COUNT, NAME_CHARACTERS
from sfda.config import Config
from sfda.errors import OBEYED
from sfda.inputs import InputSpec as InputSpec
from sfda.inputs import Share as Share
from sfda.inputs import Views as Views
from sfda.problem_names import PROBLEM_NAMES


def _known_problem(name: str) -> str:
    if name not in PROBLEM_NAMES:
        raise ValueError(f"no problem '{name}'; there are {', '.join(PROBLEM_NAMES)}")
    return name


_SCHEMA = {"enum": [*PROBLEM_NAMES], "type": "string"}
ProblemName = Annotated[str, AfterValidator(_known_problem), WithJsonSchema(_SCHEMA)]
Scores = dict[str, float]
Metrics = dict[str, float]
MetricPoint = tuple[str, float, int]  # name, value, step


def printable_name(name: str) -> str:
    """The same name, if it is of one line and of no character that a terminal obeys; ValueError
    otherwise, and for one that is longer than names may be.
    """
    if len(name) > NAME_CHARACTERS.most:
        raise ValueError(f"{name[:80]!r} goes on for {NAME_CHARACTERS.refusal(len(name))}")
    if odd := sorted({ord(character) for character in name} & UNSEEN):
        raise ValueError(f"{name[:80]!r} holds {', '.join(f'U+{number:04X}' for number in odd)}")
    return name


UNSEEN = OBEYED | set(map(ord, "\t\n\u2028\u2029"))  # and tab and ends of lines
Name = Annotated[str, AfterValidator(printable_name)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def few_classes(classes: tuple[str, ...]) -> tuple[str, ...]:
    """The same classes, if they are not more than are taken; ValueError otherwise."""
    if len(classes) > CLASS_COUNT.most:
        raise ValueError(f"there are {CLASS_COUNT.refusal(len(classes))}")
    return classes


FewClasses = Annotated[tuple[Name, ...], AfterValidator(few_classes)]


class Skeleton(Config):
    """What is known of a set of joints besides their names: how they hang together."""

    edges: tuple[tuple[str, str], ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()  # left and right: they change places in a mirror
    groups: dict[Name, tuple[str, ...]] = {}  # joints that are reported together
    # what distances are a share of: that of two joints, or the longer side of the box
    unit: tuple[str, str] | Literal["box"] = "box"
    sigmas: dict[str, float] = {}  # of OKS; 0.05 for a joint that is not named

    def faults(self, joints: tuple[str, ...]) -> list[str]:
        """Names that are no joint's."""
        named = [name for pair in (*self.edges, *self.pairs) for name in pair]
        named += [name for group in self.groups.values() for name in group]
        named += [*self.sigmas, *(() if self.unit == "box" else self.unit)]
        return sorted(set(named) - set(joints))

    def index_pairs(
        self, pairs: tuple[tuple[str, str], ...], joints: tuple[str, ...]
    ) -> list[tuple[int, int]]:
        """Pairs of names as pairs of indices."""
        index = {name: number for number, name in enumerate(joints)}
        return [(index[a], index[b]) for a, b in pairs]


class ManifestRef(Config):
    """A manifest file by address and content."""

    path: str
    sha256: str
    # of the names of rows that cannot be read, kept below the home; they are as if not there
    without: Digest | None = None


class SplitRef(Config):
    """A split, or some of its rows, by address and by what an adaptation can see of it: equal
    digests are the same images in the same order, whatever their labels are, wherever they lie.
    """

    manifest: ManifestRef
    split: str
    seen: str  # of all rows
    rows: Digest | None = None  # of the numbers of those meant, kept below the home; None: all


class LabelledSplit(Config):
    """A split with labels, the digest of its images, and that of its masks, if they are files."""

    name: str
    seen: str
    masks: str | None = None


class FileRef(Config):
    """Any file by address and content."""

    path: str
    sha256: str


class NetworkCode(Config):
    """Whose code a network is built by: a package, or a source file that lies in the bundle."""

    kind: Literal["file", "package"]
    # my_package, resnet_cifar.py; people type it where they trust it, so nothing else is let in
    name: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=100)
    version: Name | None = None  # of a package that was installed
    sha256: Digest  # of the file, or over all source files of the package


class ModelSpec(Config):
    """`spec.json` of a bundle: all that is needed to build the network that the weights fit."""

    format: Literal[1] = 1
    problem: ProblemName
    arch: Name  # torchvision:resnet50, timm:..., sfda:lenet, sfda:tiny
    classes: Annotated[FewClasses, Field(min_length=1)]
    input: InputSpec
    views: Views
    head: Literal["bottleneck", "plain"] = "bottleneck"  # SHOT's, or the network's own
    bottleneck_dim: int = 256
    bottleneck_dropout: float = Field(0.0, ge=0, lt=1)
    gaussian_head: bool = False  # classification: a closed-form score beside the last layer
    binary_logit: bool = False  # segmentation: the head has one output, of the second class
    config: dict[str, Any] | None = None  # detection: the model part of an mmdet configuration
    skeleton: Skeleton | None = None  # pose: `classes` are the joints
    padding: float | None = Field(None, gt=0, le=10)  # pose: of the crops it was trained on
    prior_hidden: tuple[int, ...] | None = None  # pose: widths of the prior's layers, if it has one
    reject: float | None = Field(None, ge=0, le=1)  # uncertainty above which it says "unknown"
    card_sha256: Digest | None = None  # of the card's file; None: no card, or one of version 0.1.0
    code: NetworkCode | None = None  # None: a network of a library that sfda knows
    arch_settings: dict[str, Any] = {}  # what a class of that code is made with
    cut: tuple[Name, ...] = ()  # layers of that network: its head, or its three parts

    model_config = ConfigDict(allow_inf_nan=False)

    @model_validator(mode="after")
    def _unambiguous(self) -> ModelSpec:
        if self.skeleton and (odd := self.skeleton.faults(self.classes)):
            raise ValueError(f"the skeleton names what is no joint: {', '.join(odd[:10])}")
        if self.reject is not None and "unknown" in self.classes:
            raise ValueError("a class is called 'unknown', so 'unknown' cannot mean rejection")
        return self

    @property
    def joint_pairs(self) -> list[tuple[int, int]]:
        """Left and right joints of a pose network, by their indices among its joints."""
        return self.skeleton.index_pairs(self.skeleton.pairs, self.classes) if self.skeleton else []


class ModelRef(Config):
    """A model by address and content: equal digests are equal specs and weights."""

    uri: str
    sha256: str
    problem: ProblemName
    arch: str
    classes: tuple[str, ...]


@with_config(ConfigDict(extra="allow"))
class Profile(TypedDict):
    """What a model sees in a target: counts by class, and of confidences in 20 equal bins."""

    classes: dict[str, int]
    confidence_histogram: list[int]
    mean_confidence: float
    unit: NotRequired[str]  # what is counted; absent: images
    total: NotRequired[int]  # of which a class is a share, where classes do not exclude each other
    per_image: NotRequired[float]  # boxes


class PredictionsRef(Config):
    """One scan of the target with the source model, kept on disk: labels, confidences, features."""

    folder: str
    sha256: str  # of its index file, which names the digest of every shard
    source_sha256: str
    count: int
    profile: Profile


SOURCE_EPOCH = -1  # of a candidate that is the source model itself


class Candidate(Config):
    """The adapted network after one epoch, scored without labels; its weights may be gone again."""

    epoch: int  # 0 for the first; SOURCE_EPOCH: nothing of the run was good enough
    scores: Scores
    weights: str | None  # path of its bundle; None if only the scores are kept, or by `compare`
    sha256: str | None


def candidate_model(candidate: Candidate, like: ModelRef | ModelSpec) -> ModelRef:
    """A candidate's weights as a model like the one it was made from."""
    return ModelRef(
        uri=str(candidate.weights),
        sha256=str(candidate.sha256),
        problem=like.problem,
        arch=like.arch,
        classes=like.classes,
    )


class Attestation(Config):
    """What the adapting process could reach, as the kernel enforced it, or why it did not."""

    enforced: bool
    says: str
    abi: int = 0  # Landlock's level
    network: bool = True  # False: every probe of a socket was refused
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    # each way out -> "refused", "open: why" or "not enforceable here: why", as the process tried it
    ways_out: dict[str, str] = {}
    source_sha256: str | None = None
    manifest_sha256: str | None = None
    code_sha256: str | None = None
    kernel: str | None = None


class Adaptation(Config):
    """What one adaptation left: candidates in order, and what it cost."""

    folder: str
    history_sha256: str
    candidates: tuple[Candidate, ...]
    seconds: float  # steps and loading, without the scans
    images_per_second: float
    peak_memory_mb: float
    cut: str | None = None  # what a budget of time left out
    parts: int = Field(1, ge=1, le=64)  # that memory took each batch in
    confinement: Attestation | None = None

    @property
    def warning(self) -> str | None:
        """What a person should know of how it went."""
        parts = f"for want of memory each batch was taken in {self.parts} parts"
        texts = [self.cut, f"{parts}; batch norm saw those" if self.parts > 1 else None]
        return "; ".join(text for text in texts if text) or None


class ReliabilityBin(NamedTuple):
    """Answers that a model is about as sure of: how many, how sure on the mean, the share that is
    right.
    """

    answers: int
    confidence: float
    right: float


class Report(Config):
    """Metrics of one model on one labelled split: scalars by unambiguous names, and per class."""

    split: str
    count: int
    metrics: Metrics
    per_class: dict[str, dict[str, float]]  # class -> {accuracy, count}, or {iou, dice, pixels ...}
    confusion: list[list[int]]  # rows: truth, columns: prediction; images, or pixels; [] of poses
    note: str = ""  # how the metrics are to be read, such as what a distance is a share of
    reliability: tuple[ReliabilityBin, ...] = ()  # bins that hold answers, the least sure first


class SideBySide(Config):
    """Reports of source and adapted model on one split; None where the target has no labels."""

    split: str | None
    source: Report | None
    adapted: Report | None
    reject: float | None = None  # uncertainty above which both said "unknown"
    picture: str | None = None  # path of the PNG
    panel: str | None = None  # path of the PNG of the images whose predictions changed most


class Version(Config):
    """A registered model version."""

    name: str
    version: str
    uri: str
    aliases: tuple[str, ...] = ()
