"""The decision: what is known of a version against the champion, the verdict, and the promotion."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prefect import task

from sfda.building_blocks.device import DeviceName, choose, to_device
from sfda.config import Config
from sfda.decision.change import ChangeReport, Side, scan_change
from sfda.decision.evidence import SOURCE_NAME, Look, paired_scores, preferences
from sfda.decision.gate import Evidence, Preference, Verdict, decide
from sfda.decision.judge import judge
from sfda.decision.paired import PairedInterval, paired_interval
from sfda.decision.ranking import Contender, look_at_all
from sfda.decision.vetoes import Expected
from sfda.loading.opened import open_labelled, open_part
from sfda.loading.pool import pool_of, whole_split
from sfda.policy import DecisionPolicy
from sfda.refs import LabelledSplit, ManifestRef, ModelRef, SplitRef, Version
from sfda.rehearsal.likeness import Likeness, likeness_among
from sfda.rehearsal.plan import AdaptedWith
from sfda.rehearsal.rehearse import digest_without_card
from sfda.report.report_text import change_text
from sfda.weights.bundle import read_spec
from sfda.weights.rehearsals import Rehearsals
from sfda.weights.source_card import read_card
from tasks import tracking
from tasks.champion import make_champion, number_of, promotions_of
from tasks.change import open_side
from tasks.prefect_runtime.cache import SameWork
from tasks.prefect_runtime.retry import SERVERS
from tasks.prefect_runtime.tame_artifacts import create_markdown_artifact
from tasks.tracking.models import locate, model_ref, open_model


class DecisionPool(Config):
    """What a decision is made on: images without labels, and the labels of them where there are
    some. `says` tells what the images are, where they are not held out.
    """

    target: SplitRef
    labelled: LabelledSplit | None = None
    says: str = ""


def pool_for(manifest: ManifestRef, split: str, test: LabelledSplit | None) -> DecisionPool:
    """What to judge a candidate on that is adapted to `split`: all of a labelled split for tests,
    else what is held out.
    """
    pool = whole_split(manifest, split, test) if test else pool_of(manifest, split)
    return DecisionPool(target=pool.part, labelled=test, says=pool.says)


class Contest(Config):
    """A candidate, the source it was made from, and by which policy it is judged on what pool."""

    candidate: ModelRef
    source: ModelRef
    pool: DecisionPool
    policy: DecisionPolicy
    expected: Expected
    others: tuple[ModelRef, ...] = ()  # epochs of the same run, that scores may be taken over
    minimised: tuple[str, ...] = ()  # scores that the method itself minimises: they have no vote
    by: AdaptedWith | None = None  # what the source was adapted with; None: not to be compared


class Decision(Config):
    """What became of a candidate."""

    verdict: Verdict
    evidence: Evidence | None
    champion: str  # address of the model that it was held against
    promoted: bool

    @property
    def text(self) -> str:
        """The sentence."""
        verdict = self.verdict
        if verdict.kind == "promote" and not self.promoted:
            return f"{verdict.text}; not promoted: --promote was not asked for"
        return verdict.promoted_text

    @property
    def state_name(self) -> str:
        """The name of a run's final state."""
        if self.promoted:
            return "Promoted"
        return {"promote": "Better", "keep": "Kept", "hold": "Held", "reject": "Rejected"}[
            self.verdict.kind
        ]


@task(
    name="comparison with the champion",
    cache_policy=SameWork(),
    persist_result=True,
    result_serializer="json",
    **SERVERS,
)
def gather_evidence(
    champion: ModelRef,
    contest: Contest,
    device: DeviceName = "auto",
) -> Evidence:
    """All that is known of the candidate against the champion, without asking anybody.

    The candidate is looked at on the pool beside the champion; where that is labelled their gain is
    measured, and that over the source as well.
    """
    chosen, pool = choose(device), contest.pool
    before, after = (
        open_side(model, pool.target, device) for model in (champion, contest.candidate)
    )
    evidence = judge(before, after, chosen, limits=contest.policy.vetoes, expected=contest.expected)
    more: dict[str, Any] = {"pool": pool.says}
    gain = _gain(champion, contest, device) if pool.labelled else None
    if gain is not None:
        more["labelled"] = gain
        if champion.sha256 != contest.source.sha256:
            more["labelled_source"] = _gain(contest.source, contest, device)
    undecided = gain is None or gain.too_few
    asked = undecided and contest.policy.unattended and not evidence.vetoes
    rehearsals = _rehearsals(contest)
    if asked or rehearsals:
        looks = _looks(champion, contest, device)
        if asked:
            more["preferences"] = _preferences(looks, champion, contest)
        if rehearsals:
            known = evidence.change if champion.sha256 == contest.source.sha256 else None
            more["rehearsed"] = _likeness(rehearsals, looks, contest, device, known)
    return evidence.model_copy(update=more)


def _looks(champion: ModelRef, contest: Contest, device: DeviceName) -> dict[str, Look]:
    """What the source, the candidate and the other epochs of its run make of the pool, and the
    champion where that is another one; one network is held at a time.
    """
    named = {SOURCE_NAME: contest.source, "candidate": contest.candidate}
    named |= {f"epoch {number}": model for number, model in enumerate(contest.others)}
    if champion.sha256 != contest.source.sha256:
        named["champion"] = champion

    def contenders() -> Iterator[tuple[str, Contender]]:
        for name, model in named.items():
            side = open_side(model, contest.pool.target, device)
            yield name, Contender(side.network, side.spec, side.opened)

    return look_at_all(contenders(), choose(device)).looks


def _preferences(
    looks: dict[str, Look], champion: ModelRef, contest: Contest
) -> tuple[Preference, ...]:
    """What scores without labels say of the candidate against the champion."""
    before = SOURCE_NAME if champion.sha256 == contest.source.sha256 else "champion"
    if not {before, "candidate"} <= looks.keys():
        return ()
    groups = open_part(contest.pool.target, read_spec(locate(champion.uri))).split.groups
    return preferences(looks, before, "candidate", minimised=contest.minimised, groups=groups)


def _rehearsals(contest: Contest) -> Rehearsals | None:
    """Those in the source's card, where they are of this very model and method."""
    card = read_card(locate(contest.source.uri)) if contest.by else None
    done = card.facts.rehearsals if card else None
    if done is None or contest.by is None or done.method != contest.by.name:
        return None
    same = done.model_sha256 == digest_without_card(*open_model(contest.source))
    return done if same and done.problem == contest.source.problem else None


def _likeness(
    rehearsals: Rehearsals,
    looks: dict[str, Look],
    contest: Contest,
    device: DeviceName,
    known: ChangeReport | None,
) -> Likeness | None:
    """Where the candidate lies among rehearsals; None where it answers as the source, or outputs
    are not finite. `known` is what changes against the source, where that was looked at already.
    """
    if not {SOURCE_NAME, "candidate"} <= looks.keys() or contest.by is None:
        return None
    change = known or _change(contest, device)
    if not change.changed:
        return None
    pairs = paired_scores(looks, SOURCE_NAME, "candidate")
    return likeness_among(
        rehearsals,
        change.share,
        {name: before.value for name, (_, before, _) in pairs.items()},
        {name: after.value for name, (_, _, after) in pairs.items()},
        settings_sha256=contest.by.settings_sha256,
    )


def _change(contest: Contest, device: DeviceName) -> ChangeReport:
    """What the candidate changes in the source's answers on the pool."""
    one, other = (
        open_side(model, contest.pool.target, device)
        for model in (contest.source, contest.candidate)
    )
    return scan_change(
        one.network, other.network, one.opened, one.spec, other.spec, choose(device)
    ).report


def _gain(before: ModelRef, contest: Contest, device: DeviceName) -> PairedInterval:
    """The gain of the candidate over a model, by the pool's labels. A model that rejects nothing
    gets the candidate's threshold: what is compared is what it has learnt.
    """
    assert contest.pool.labelled is not None
    manifest, split = contest.pool.target.manifest, contest.pool.labelled.name
    network, spec = open_model(before)
    other, other_spec = open_model(contest.candidate)
    if spec.reject is None:
        spec = spec.model_copy(update={"reject": other_spec.reject})
    chosen = choose(device)
    return paired_interval(
        Side(to_device(network, chosen), spec, open_labelled(manifest, split, spec)),
        Side(to_device(other, chosen), other_spec, open_labelled(manifest, split, other_spec)),
        chosen,
        alpha=contest.policy.alpha,
    )


@task(name="promotion", **SERVERS)
def settle(
    version: Version,
    contest: Contest,
    requested: bool,
    run_id: str,
    device: DeviceName = "auto",
) -> Decision:
    """The verdict on a new version, and the promotion where that is the verdict and asked for.

    The champion that it is held against is the one that there is when it is promoted: where another
    machine promotes meanwhile, the evidence is gathered anew. Nothing is promoted where anything
    fails on the way.
    """
    with promotions_of(version.name):
        while True:
            champion = tracking.by_alias(version.name, "champion")
            decision = _decide(version, contest, champion, device)
            if number_of(tracking.by_alias(version.name, "champion")) == number_of(champion):
                break  # else another machine has promoted meanwhile
        if decision.verdict.kind == "promote" and requested:
            decision = decision.model_copy(update={"promoted": True})
            make_champion(version)
    record(version, decision, run_id)
    return decision


def _decide(
    version: Version, contest: Contest, champion: Version | None, device: DeviceName
) -> Decision:
    """The verdict against the present champion, or against the source where there is none."""
    before = model_ref(champion.uri) if champion else contest.source
    if champion and champion.version == version.version:
        already = Verdict(kind="keep", level=0, reason="it is champion already")
        return Decision(verdict=already, evidence=None, champion=before.uri, promoted=True)
    evidence = gather_evidence(before, contest, device)
    verdict = decide(evidence, contest.policy)
    return Decision(verdict=verdict, evidence=evidence, champion=before.uri, promoted=False)


def record(version: Version, decision: Decision, run_id: str | None) -> None:
    """Keep the verdict with the version and its run, and show it on the page of the flow run."""
    tracking.tag_version(version, {"verdict": decision.text, "verdict.kind": decision.verdict.kind})
    if run_id:
        tracking.set_tags(run_id, {"verdict": decision.text})
        if decision.evidence:
            tracking.log_json(run_id, "decision.json", decision.model_dump(mode="json"))
            share = decision.evidence.change.share
            tracking.log_points(run_id, [("change", share, 0)])
    text = f"### {version.name} {version.version}\n\n{decision.text}"
    if decision.evidence:
        text += f"\n\nAgainst `{decision.champion}`: {change_text(decision.evidence.change)}"
    create_markdown_artifact(text, key="promotion-verdict")
