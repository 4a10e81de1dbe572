"""Evidence without labels: what scores of three families say of a candidate B against the model
before, A (docs/methods/decide.md, section 4).

The families are kept apart since scores of one fail together. Dispersity: the nuclear norm of all
class distributions; of classification and segmentation. Perturbation: `agreement` between a weak
and a strong view, as the validator of that name has it; of every problem. Ensemble: agreement with
the consensus of all candidates, which each problem defines (`sfda.measures.opinions`). All of them
reward confident or constant answers, so they have a say only after the vetoes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse import csr_matrix
from torch import Tensor, nn

from sfda.decision.gate import Preference, Referee, ScoreFamily
from sfda.inference.forward import refuse_not_finite
from sfda.loading.opened import Opened
from sfda.loading.scan import scan_views
from sfda.measures.opinions import Counts, Opinions, PoolSize, mean_share
from sfda.problems._base import AnyProblem
from sfda.problems.registry import PROBLEMS
from sfda.refs import ModelSpec
from sfda.types import SeenViews

OutputParts = TypeVar("OutputParts", bound=NamedTuple)  # a batch's output by its parts

SOURCE_NAME = "source"  # how looks name the source model
LEAST_MEMBERS = 3  # of an ensemble that has something to say
SHARPNESS = 5.0  # of the members' weights by their information
RESAMPLES, QUANTILE = 200, 0.05
WEIGHTS_AT_ONCE = 2**21  # weights of resamples that are drawn at once
REFEREE_ALPHA = 0.05


class Look(NamedTuple):
    """What is kept of one model's look at a pool."""

    opinions: Opinions
    agreement: csr_matrix  # [N, 2 K]: Counts of a weak and a strong view, beside each other


class Score(NamedTuple):
    """A score as a function of sums over images, so that those of a resample are at hand."""

    parts: Float[np.ndarray, "N P"] | csr_matrix
    of: Callable[[Float[np.ndarray, "R P"]], Float[np.ndarray, " R"]]

    @property
    def value(self) -> float:
        """That of all images, once each."""
        return float(self.of(np.asarray(self.parts.sum(0)).reshape(1, -1))[0])


def look_at_pool(network: nn.Module, spec: ModelSpec, opened: Opened, device: torch.device) -> Look:
    """What a network on `device` makes of a pool: each image, and a weak and a strong view of it.

    Memory is that of a batch, and of what is kept: a few numbers an image and class. Raises
    NotFinite.
    """
    views = scan_views(opened.images, spec.input, spec.views, seed=0, device=device)
    pool = PoolSize(len(opened.images), len(spec.classes))
    return look_of(views(network), PROBLEMS[spec.problem], pool)


def look_of(batches: Iterable[SeenViews], problem: AnyProblem, pool: PoolSize) -> Look:
    """What is kept of a scan with views. Raises NotFinite."""
    opinions: list[Opinions] = []
    cells = _Cells()
    for batch in batches:
        refuse_not_finite(batch.output.logits)
        rows = batch.rows.tolist()
        opinions.append(problem.opinions(batch.output, rows, pool))
        for number, row in enumerate(rows):
            weak, strong = (_image_of(view, number) for view in (batch.weak, batch.strong))
            for seen, same in problem.agreement_counts(weak, strong, pool.classes):
                cells.add(row, 0, seen)
                cells.add(row, pool.classes, same)
    return Look(type(opinions[0]).joined(opinions), cells.table(pool.images, 2 * pool.classes))


class _Cells:
    """What is not 0 of a table."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.columns: list[int] = []
        self.values: list[float] = []

    def add(self, row: int, first: int, counts: Tensor) -> None:
        """Numbers of a row, from the column `first` on."""
        for column in counts.nonzero().flatten().tolist():
            self.rows.append(row)
            self.columns.append(first + column)
            self.values.append(float(counts[column]))

    def table(self, height: int, width: int) -> csr_matrix:
        """All of it; what was added twice is added up."""
        return csr_matrix((self.values, (self.rows, self.columns)), shape=(height, width))


def _image_of(output: OutputParts, number: int) -> OutputParts:
    """What an output says of one image of its batch."""
    parts = (
        part[number : number + 1] if isinstance(part, Tensor | list) else part for part in output
    )
    return type(output)._make(parts)


def distinct(looks: Mapping[str, Look]) -> list[str]:
    """Names of those that say something of their own, the source first; of several that say just
    the same, the first.
    """
    names: list[str] = []
    for name in sorted(looks, key=lambda name: name != SOURCE_NAME):
        own = looks[name].opinions
        if not any(own.same_as(looks[other].opinions) for other in names):
            names.append(name)
    return names


def member_weights(opinions: Sequence[Opinions]) -> list[float]:
    """softmax(5 infomax) of the members of an ensemble; equal where there is no infomax."""
    information = [own.information() for own in opinions]
    known = np.array([value for value in information if value is not None])
    if len(known) < len(opinions):
        return [1 / len(opinions)] * len(opinions)
    powers = np.exp(SHARPNESS * (known - known.max()))
    shares: list[float] = (powers / powers.sum()).tolist()
    return shares


def ensemble_scores(looks: Mapping[str, Look]) -> dict[str, Score]:
    """How far each model agrees with the consensus of all (`ensv`, Hu et al., NeurIPS 2024, with
    weighted members); empty unless the source and two other distinct models are among them.
    """
    names = distinct(looks)
    if SOURCE_NAME not in names or len(names) < LEAST_MEMBERS:
        return {}
    members = [looks[name].opinions for name in names]
    consensus = members[0].common(members[1:], member_weights(members))
    return {name: _of_counts(look.opinions.matched(consensus)) for name, look in looks.items()}


def _of_counts(counts: Counts) -> Score:
    return _of_table(np.concatenate([counts.seen, counts.same], axis=1))


def _of_table(table: Float[np.ndarray, "N P"] | csr_matrix) -> Score:
    kinds = table.shape[1] // 2
    return Score(table, lambda sums: mean_share(sums[:, :kinds], sums[:, kinds:]))


def agreement_score(look: Look) -> Score:
    """Of a weak and a strong view."""
    return _of_table(look.agreement)


def nuclear_score(look: Look) -> Score | None:
    """To first order in how often each image counts; None where there are no distributions."""
    dispersion = look.opinions.dispersion()
    if dispersion is None:
        return None
    half, images = dispersion.score / 2, len(dispersion.parts)
    return Score(
        np.stack([dispersion.parts, np.ones(images)], axis=1),
        lambda sums: half + images * sums[:, 0] / sums[:, 1],
    )


def preferences(
    looks: Mapping[str, Look],
    before: str,
    after: str,
    *,
    minimised: Collection[str] = (),
    groups: Sequence[str] | None = None,
    seed: int = 0,
) -> tuple[Preference, ...]:
    """What each family says of the model `after` against `before`, as gain with a lower limit.

    `looks` are those of all candidates of the run that met no veto, by name, on one pool: the
    source under SOURCE_NAME, the champion too where that is another one. `minimised` are scores
    that the candidate's method itself minimises, which have no vote. The limit is the 5 % quantile
    over 200 resamples of the images, or of `groups` (volumes, videos, by image). A family that has
    nothing to say is missing. Raises KeyError for a name that is not there.
    """
    preferred = []
    for name, (family, first, second) in paired_scores(looks, before, after).items():
        if name in minimised:
            continue
        gain = second.value - first.value
        low = lower_limit(first, second, groups, seed)
        preferred.append(Preference(family=family, score=name, gain=gain, low=low))
    return tuple(preferred)


def paired_scores(
    looks: Mapping[str, Look], before: str, after: str
) -> dict[str, tuple[ScoreFamily, Score, Score]]:
    """By their name, the family and both models' values of all scores that have something to say.

    `looks` as of `preferences`. Raises KeyError for a name that is not there.
    """
    one, other = looks[before], looks[after]
    ensemble = ensemble_scores(looks)
    pairs: dict[str, tuple[ScoreFamily, Score | None, Score | None]] = {
        "ensv": ("ensemble", ensemble.get(before), ensemble.get(after)),
        "nuclear_norm": ("dispersity", nuclear_score(one), nuclear_score(other)),
        "agreement": ("perturbation", agreement_score(one), agreement_score(other)),
    }
    return {
        name: (family, first, second)
        for name, (family, first, second) in pairs.items()
        if first is not None and second is not None
    }


def lower_limit(
    before: Score, after: Score, groups: Sequence[str] | None = None, seed: int = 0
) -> float:
    """The 5 % quantile of the gain over resamples of the images, or of their groups."""
    gains = [
        after.of(weights @ after.parts) - before.of(weights @ before.parts)
        for weights in resamples(before.parts.shape[0], groups, seed)
    ]
    return float(np.quantile(np.concatenate(gains), QUANTILE))


def resamples(
    size: int, groups: Sequence[str] | None, seed: int
) -> Iterator[Int[np.ndarray, "R N"]]:
    """How often each image counts, some resamples at once; whole groups are drawn."""
    group_of: Int[np.ndarray, " N"] = np.arange(size)
    if groups is not None:
        group_of = np.unique(np.array(groups), return_inverse=True)[1]
    units, random = int(group_of.max()) + 1, np.random.default_rng(seed)
    step = max(1, WEIGHTS_AT_ONCE // size)
    for first in range(0, RESAMPLES, step):
        count = min(step, RESAMPLES - first)
        drawn = random.multinomial(units, np.full(units, 1 / units), size=count)
        yield drawn[:, group_of]


def ask_referee(name: str, guide: Opinions, before: Opinions, after: Opinions) -> Referee:
    """How often an independent frozen model answers as the candidate, and as the model before,
    where these differ. By a sign test over the images, it is against the candidate where it would
    back the model before so much more often in 5 % of cases by chance.
    """
    from scipy.stats import binomtest  # slow to import

    backing = before.backed(after, guide)
    first, second = (int((a > b).sum()) for a, b in (backing, backing[::-1]))
    against = (
        first > second
        and float(binomtest(first, first + second, alternative="greater").pvalue) <= REFEREE_ALPHA
    )
    return Referee(
        name=name,
        with_candidate=round(float(backing.second.sum())),
        with_champion=round(float(backing.first.sum())),
        against=against,
    )
