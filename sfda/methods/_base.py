"""What every method is: a student, four hooks around a loss, and the network to deploy."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Self, cast

from jaxtyping import Int
from pydantic import NonNegativeFloat
from torch import Tensor, nn

from sfda.building_blocks.norm import keep_statistics
from sfda.config import Config, merged
from sfda.errors import BadInput
from sfda.problems.registry import PROBLEMS, ProblemsOfNetworks, annotated_loss
from sfda.refs import ModelSpec, Share
from sfda.settings import Schedule
from sfda.types import Clock, Losses, Scan, SeenViews, TargetBatch, TargetInfo

Rejection = Share | Literal["auto"]
"""Above which entropy, as a share of log C, the deployed model answers "unknown"; "auto" splits the
target's entropies into two clusters."""


Learns = Literal["network", "statistics", "nothing"]
"""What an adaptation changes: parameters by gradient; what the target's statistics alone fix, of
norms or of classes; nothing at all."""


class MethodConfig(Config):
    """Settings of all methods. `lr_scale` names parts of the network: absent is 1, 0 freezes."""

    schedule: Schedule = Schedule()
    lr_scale: dict[str, float] = {}
    labelled_weight: NonNegativeFloat = 1.0  # of the loss on rows that a person has labelled
    reject: Rejection | Literal["never"] | None = None  # None: as the method does by itself


class Method(nn.Module):
    """A way to adapt a source model to unlabelled target data.

    Only `losses` must be written. The loop calls `start_epoch`, then `losses` and `after_step` for
    every batch, then `end_epoch`; it optimises the parameters of `student` alone.
    """

    idea: ClassVar[str] = ""  # what it does, in one clause, for tables
    Config: ClassVar[type[MethodConfig]]
    networks: ClassVar[tuple[type[nn.Module], ...]] = (nn.Module,)
    """Classes of networks that it can adapt: those of one problem, or of several, or of all."""
    problems: ClassVar[frozenset[str]] = cast("frozenset[str]", ProblemsOfNetworks())
    """Problems that it serves: by default those of `networks`."""
    setting: ClassVar[str] = "closed set"
    views: ClassVar[Literal["none", "photometric", "geometric"]] = "none"
    moves_views: ClassVar[bool] = True
    """Whether views are cropped, turned and mirrored as the model's are; else they are as a scan's,
    and `flips` says whether the method may mirror them itself."""
    minimises: ClassVar[frozenset[str]] = frozenset()  # validators that its own loss contains
    defaults_by_problem: ClassVar[Mapping[str, dict[str, Any]]] = MappingProxyType({})
    """Settings by problem that stand in for the defaults, below those of the user."""
    labelled_rows: ClassVar[Literal["added", "own", "none"]] = "added"
    """What labelled rows are to it: their loss is added, is its own affair, or is not for it."""
    learns: ClassVar[Learns] = "network"
    mixes_batch: ClassVar[bool] = False
    """Whether it draws by batch and not by row, so that a batch in another order is another one."""
    brief: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    """Settings with which three short epochs go through all its phases, for `sfda.testing`."""
    labelled_steps: int = (
        0  # steps of an epoch over labelled rows alone; 0: it learns from the target
    )
    needs_guide: ClassVar[frozenset[str]] = frozenset()
    """What it needs of a guide, of logits, features and text; it is in `target.guide`."""
    takes_guide: ClassVar[bool] = False  # and uses one where there is one, though it needs none
    pairs: Callable[[nn.Module], Iterable[SeenViews]] | None = None
    """Every target sample once, with a weak and a strong view of it, for methods whose `views` asks
    for strong ones; None where there is no such look."""
    flips: bool = False  # whether mirrored images are like others to this model
    student: Any  # nn.Module in truth; methods know which network their problem has

    @classmethod
    def defaults_for(cls, problem: str) -> dict[str, Any]:
        """Settings that stand in for the defaults in a problem: those that the problem has for a
        method of ours, and above them `defaults_by_problem`.
        """
        package, _, name = cls.__module__.rpartition(".")
        own = PROBLEMS[problem].settings.get(name, {}) if package.startswith("sfda.") else {}
        return merged(dict(own), cls.defaults_by_problem.get(problem, {}))

    def __init__(self, source: nn.Module, target: TargetInfo, config: MethodConfig) -> None:
        super().__init__()
        self.config = config
        self.target = target
        self.student = copy.deepcopy(source)
        freeze_(self.student, config.lr_scale)

    def start_epoch(self, scan: Scan, clock: Clock) -> None:
        """Look at the whole target set before the epoch's first batch."""

    def losses(self, batch: TargetBatch, clock: Clock) -> Losses:
        """Named, already weighted scalars on the graph; empty for no optimiser step."""
        raise NotImplementedError(f"{type(self).__name__} names no losses")

    def labelled_losses(self, batch: TargetBatch, clock: Clock) -> Losses:
        """The supervised loss of the labelled rows, for methods that have none of their own.

        They are few and not drawn at random, so batch norm's running statistics stay the target's.
        """
        if (
            batch.labelled is None
            or self.labelled_rows != "added"
            or not self.config.labelled_weight
        ):
            return {}
        labelled, weight = batch.labelled, self.config.labelled_weight
        with keep_statistics(self.student):
            terms = annotated_loss(self.student, labelled.images, labelled.targets)
        return {f"labelled_{name}": weight * term for name, term in terms.items()}

    def phase(self, epoch: int) -> int:
        """The phase of training that an epoch is in: each has an optimiser of its own."""
        return 0

    def enter_phase(self, phase: int) -> None:
        """Let learn what learns in this phase, before its optimiser is made."""

    def status(self) -> str:
        """What a person should know of the look that `start_epoch` took; empty for nothing."""
        return ""

    def pseudo_labels_left(self) -> float | None:
        """How many pseudo-labels the last epoch had, as a share of the first one's; None where the
        method makes none, or their number is fixed.
        """
        return None

    def after_step(self, clock: Clock) -> None:
        """Moving averages and the like, after the optimiser's step."""

    def end_epoch(self, clock: Clock) -> Iterator[Losses]:
        """Further losses after the last batch; each is minimised and not counted by the clock."""
        return iter(())

    def sample(self, epoch: int) -> Int[Tensor, " R"] | None:
        """Rows that this epoch runs over, repeats allowed; None: every row once."""
        return None

    def train(self, mode: bool = True) -> Self:
        """Switch the student alone: teachers and banks keep the mode they are in."""
        self.training = mode
        self.student.train(mode)
        return self

    @property
    def adapted(self) -> nn.Module:
        """The network to deploy."""
        student: nn.Module = self.student
        return student

    @property
    def rejection(self) -> Rejection | None:
        """When the deployed network answers "unknown"; None: never."""
        chosen = self.config.reject
        if chosen is None:
            return self.own_rejection()
        return None if chosen == "never" else chosen

    def own_rejection(self) -> Rejection | None:
        """The same where the settings leave it to the method."""
        return None

    @classmethod
    def adapted_spec(cls, spec: ModelSpec) -> ModelSpec:
        """The spec of what it deploys, from the source's: another one where it adds to the network,
        which the spec must then say."""
        return spec

    def parameter_groups(self, schedule: Schedule) -> list[dict[str, Any]]:
        """Every trained parameter in exactly one group: one group a part of the network."""
        scale = self.config.lr_scale
        parts = {name: list(part.parameters()) for name, part in self.student.named_children()}
        parts[""] = list(self.student.parameters(recurse=False))
        return [
            {"params": trained, "scale": scale.get(name, 1.0), "name": name}
            for name, parameters in parts.items()
            if (trained := [p for p in parameters if p.requires_grad])
        ]


def freeze_(network: nn.Module, lr_scale: dict[str, float]) -> None:
    """Freeze the parts whose scale is 0 and those the network itself calls frozen.

    Raises BadInput for a name that is no part of the network.
    """
    parts = dict(network.named_children())
    if unknown := sorted(set(lr_scale) - set(parts)):
        known = ", ".join(parts) or "none"
        raise BadInput(f"lr_scale names {', '.join(unknown)}; the network's parts are {known}")
    for name in {n for n, scale in lr_scale.items() if scale == 0} | set(
        getattr(network, "frozen", ())
    ):
        parts[name].requires_grad_(False)
