"""One run of the loop: killed anywhere it ends as undisturbed, and it keeps what it must, whole."""

import io
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pytest
import small
import torch

from sfda import plugins
from sfda.adaptation.run_folder import best_epoch, read_history
from sfda.adaptation.scoring import EpochScores, score_unlabelled
from sfda.adaptation.training import Training
from sfda.errors import BadInput
from sfda.methods._base import Method, MethodConfig
from sfda.refs import Adaptation, Scores
from sfda.types import Clock, Losses, SeenViews, TargetBatch
from sfda.weights.bundle import bundle_digest, read_spec
from tasks import tracking
from tasks.tracking.watch import RunWatch, log_history

EPOCHS = 4
GIVEN = small.target_arrays()
IMAGES = GIVEN["x"][GIVEN["split"] == 0]


class Killed(BaseException):
    """The process is gone: no handler runs."""


def make(name: str, **schedule: object) -> Method:
    kind = plugins.load("methods", name)
    settings = {
        "schedule": small.FAST | {"epochs": EPOCHS} | schedule,
        "lr_scale": {"backbone": 1.0},
    }
    return kind(small.source(), small.info(len(IMAGES)), kind.Config.from_settings(settings))


def infomax(network: torch.nn.Module) -> EpochScores:
    """What the adaptation's stage would score with."""
    look = small.look(IMAGES)
    result = {name: plugins.load("validators", name)() for name in ("infomax", "nuclear_norm")}
    return score_unlabelled((SeenViews(*seen) for seen in look(network)), result)


@dataclass
class DiesAt:
    """A scorer, or batches, in which the process dies at the n-th call."""

    inner: object
    number: int
    calls: int = 0

    def __call__(self, network: torch.nn.Module) -> EpochScores:
        self.calls += 1
        if self.calls == self.number:
            raise Killed
        return self.inner(network)

    def steps(self, rows: object = None) -> int:
        return self.inner.steps(rows)

    def epoch(self, epoch: int, rows: object = None) -> Iterator[TargetBatch]:
        for batch in self.inner.epoch(epoch, rows):
            self.calls += 1
            if self.calls == self.number:
                raise Killed
            yield batch


@pytest.fixture
def training(home, tmp_path) -> Callable[..., Training]:
    """Makes a run of the loop; the same folder resumes the same run."""

    def make_training(method: Method, folder: str = "run", **changes: object) -> Training:
        with pytest.raises(Killed), tracking.run("job", key=folder, tags={}, params={}) as run_id:
            raise Killed  # the next start of the same work continues this run
        strong = type(method).views != "none"
        inputs = {
            "folder": tmp_path / folder,
            "method": method,
            "spec": small.SPEC,
            "batches": small.batches(IMAGES, strong=strong),
            "scan": small.look(IMAGES),
            "schedule": method.config.schedule,
            "seed": 3,
            "scorer": infomax,
            "select_by": "infomax",
            "keep": "best",
            "watch": RunWatch(run_id, "toy"),
            "title": "toy",
        }
        return Training(**(inputs | changes))

    return make_training


def outcome(result: Adaptation) -> list[tuple[str | None, Scores]]:
    """What must not depend on kills: weights and scores of every epoch."""
    return [(c.sha256, c.scores) for c in result.candidates]


def curves(run_id: str) -> dict[str, dict[int, float]]:
    """Every metric of a run that does not tell time, by step."""
    client = tracking.client()
    names = [n for n in client.get_run(run_id).data.metrics if "per_second" not in n]
    return {n: {m.step: m.value for m in client.get_metric_history(run_id, n)} for n in names}


@pytest.mark.parametrize(
    ("name", "schedule"),
    [("shot", {}), ("aad", {"optimizer": "adam", "lr": 1e-3}), ("mean_teacher", {})],
)
def test_a_killed_run_ends_as_the_undisturbed_one(training, name, schedule):
    undisturbed = training(make(name, **schedule), "undisturbed")
    expected = undisturbed.run()
    assert len({sha for sha, _ in outcome(expected)}) == EPOCHS  # it does learn

    in_second_scan = training(make(name, **schedule), scorer=DiesAt(infomax, 2))
    with pytest.raises(Killed):
        in_second_scan.run()
    in_third_epoch = training(make(name, **schedule))
    steps = in_third_epoch.batches.steps()
    in_third_epoch.batches = DiesAt(in_third_epoch.batches, steps + 3)
    with pytest.raises(Killed):
        in_third_epoch.run()
    history = json.loads(torch.load(in_third_epoch.folder / "state.pt")["history"])
    assert [epoch["epoch"] for epoch in history] == [0, 1]

    last = training(make(name, **schedule))
    result = last.run()
    assert outcome(result) == outcome(expected)
    assert curves(last.watch.run_id) == curves(undisturbed.watch.run_id)
    assert curves(last.watch.run_id)["epoch"] == {1: 1, 2: 2, 3: 3, 4: 4}


@pytest.mark.parametrize("name", ["kl(p||q)", "../up", "a//b", "a" * 196, "line\n", 3])
def test_a_loss_that_cannot_be_logged_ends_it_at_the_first_step(training, name):
    method = make("shot")
    losses = method.losses
    method.losses = lambda batch, clock: {name: sum(losses(batch, clock).values())}
    run = training(method, batches=DiesAt(small.batches(IMAGES), 2))
    with pytest.raises(BadInput, match=r"the loss .* has no name that MLflow takes: at most 195"):
        run.run()


def test_a_score_that_is_no_number_ends_it_at_once(training):
    def score(network: torch.nn.Module) -> EpochScores:
        return EpochScores({"infomax": float("nan")}, None)

    run = training(make("shot"), scorer=score)
    with pytest.raises(BadInput, match=r"after epoch 1 the score 'infomax' is not a number"):
        run.run()
    assert not list(run.folder.iterdir())


def test_a_run_that_is_done_is_not_run_again(training):
    first = training(make("shot")).run()
    again = training(make("shot"), scorer=DiesAt(infomax, 1)).run()  # would die if it were
    assert outcome(again) == outcome(first)
    assert again.history_sha256 == first.history_sha256


def test_the_history_is_shown_by_another_run_that_finds_it_done(training):
    first = training(make("shot"))
    result = first.run()
    other = training(make("shot"), "other")
    log_history(result, other.watch.run_id)
    assert curves(other.watch.run_id) == curves(first.watch.run_id)
    log_history(result, other.watch.run_id)  # nothing twice
    history = tracking.client().get_metric_history(other.watch.run_id, "epoch")
    assert [m.step for m in history] == [1, 2, 3, 4]


class Scripted:
    """A score that is known beforehand, epoch by epoch."""

    def __init__(
        self, values: list[float], folder: Path | None = None, reject: float | None = None
    ) -> None:
        self.values, self.folder, self.reject = iter(values), folder, reject
        self.seen: list[list[str]] = []

    def __call__(self, network: torch.nn.Module) -> EpochScores:
        if self.folder:
            self.seen.append(epochs_on(self.folder))
        return EpochScores({"infomax": next(self.values)}, self.reject)


def epochs_on(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("epoch-*"))


def test_only_the_best_and_the_last_weights_are_kept(training, tmp_path):
    scores = Scripted([0.3, 0.9, 0.1, 0.9], tmp_path / "run")
    result = training(make("shot"), scorer=scores).run()
    assert scores.seen == [[], ["epoch-0000"], ["epoch-0001"], ["epoch-0001", "epoch-0002"]]
    assert epochs_on(tmp_path / "run") == ["epoch-0001", "epoch-0003"]
    assert [c.weights is not None for c in result.candidates] == [False, True, False, True]
    assert [c.scores["infomax"] for c in result.candidates] == [0.3, 0.9, 0.1, 0.9]
    history = json.loads((tmp_path / "run" / "history.json").read_text())
    names = "epoch steps losses rate last_step images seconds scores sha256 weights spent vetoes"
    assert {tuple(epoch) for epoch in history} == {tuple(names.split())}
    typed = read_history(tmp_path / "run", result.history_sha256)
    assert [epoch.model_dump(mode="json") for epoch in typed] == history
    assert best_epoch(typed, "infomax") == 1  # the earliest of equals
    assert best_epoch(typed, "last") == 3


def test_the_threshold_of_rejection_is_part_of_the_model(training):
    with_it = training(make("shot"), scorer=Scripted([0.1] * 4, reject=0.4)).run()
    without = training(make("shot"), "other", scorer=Scripted([0.1] * 4)).run()
    specs = [read_spec(Path(str(f.candidates[-1].weights))) for f in (with_it, without)]
    assert [spec.reject for spec in specs] == [0.4, None]
    assert with_it.candidates[-1].sha256 != without.candidates[-1].sha256


def test_a_comparison_keeps_all_weights(training, tmp_path):
    result = training(make("shot"), scorer=Scripted([0.3, 0.9, 0.1, 0.2]), keep="all").run()
    assert epochs_on(tmp_path / "run") == [f"epoch-000{i}" for i in range(4)]
    assert [c.weights for c in result.candidates] == [None] * 4  # they go when it has scored them


class PoisonConfig(MethodConfig):
    """No settings of its own."""


class Poisoned(Method):
    """Two losses, of which one is not a number at a given step."""

    Config = PoisonConfig
    problems = frozenset({"classification"})
    step = 8

    def losses(self, batch: TargetBatch, clock: Clock) -> Losses:
        good = self.student(batch.weak).logits.square().mean()
        bad = float("nan") if clock.step == self.step else 0.0
        return {"good": good, "poison": bad * good.detach()}


class Exploding(Poisoned):
    """Finite losses, but the last step of the first epoch throws the weights to infinity."""

    def losses(self, batch: TargetBatch, clock: Clock) -> Losses:
        out = self.student(batch.weak).logits.square().mean()
        return {"good": out * (1e36 if clock.step == 5 else 1e-3)}


def poisoned(kind: type[Method], **schedule: object) -> Method:
    config = PoisonConfig.from_settings({"schedule": small.FAST | {"epochs": 3} | schedule})
    return kind(small.source(), small.info(len(IMAGES)), config)


def test_a_loss_that_is_no_number_ends_the_run_and_is_named_with_its_step(training, tmp_path):
    run = training(poisoned(Poisoned))
    output = "toy: the loss 'poison' is not finite at step 8; lower the .*schedule.lr=0.003"
    with pytest.raises(BadInput, match=output):
        run.run()
    state = torch.load(tmp_path / "run" / "state.pt")
    assert state["next_epoch"] == 1  # of 6 steps each; the spoilt second epoch is not kept
    assert epochs_on(tmp_path / "run") == ["epoch-0000"]
    assert curves(run.watch.run_id)["epoch"] == {1: 1}


def test_an_adaptation_falls_back_to_the_epochs_before_it_lost_its_numbers(training, tmp_path):
    result = training(poisoned(Poisoned), falls_back=True).run()
    assert [candidate.epoch for candidate in result.candidates] == [0]
    assert str(result.cut).startswith(
        "stopped after 1 of 3 epochs: the loss 'poison' is not finite at step 8"
    )
    again = training(poisoned(Poisoned), falls_back=True).run()  # as after a kill
    assert outcome(again) == outcome(result)
    with pytest.raises(BadInput, match="not finite"):  # there is nothing before the first epoch
        training(poisoned(Exploding), "first", falls_back=True).run()


class Vetoed(Scripted):
    """Meets a veto in one epoch, counted from 0."""

    def __init__(self, values: list[float], epoch: int) -> None:
        super().__init__(values)
        self.epoch, self.calls = epoch, 0

    def __call__(self, network: torch.nn.Module) -> EpochScores:
        scores = super().__call__(network)
        self.calls += 1
        return scores._replace(vetoes=("1.0 effective classes",) * (self.calls == self.epoch + 1))


def test_an_epoch_that_meets_a_veto_ends_the_run_and_is_not_chosen(training):
    result = training(make("shot"), scorer=Vetoed([0.1, 0.2, 0.9, 0.3], epoch=2)).run()
    assert result.cut == "stopped after 3 of 4 epochs: 1.0 effective classes"
    history = read_history(Path(result.folder), result.history_sha256)
    assert [epoch.vetoes for epoch in history] == [(), (), ("1.0 effective classes",)]
    assert best_epoch(history, "infomax") == best_epoch(history, "last") == 1
    assert [c.weights is not None for c in result.candidates] == [False, True, True]
    again = training(make("shot"), scorer=Vetoed([], epoch=9)).run()
    assert outcome(again) == outcome(result)  # a later start does not go on


def test_where_every_epoch_meets_a_veto_none_is_chosen(training):
    result = training(make("shot"), scorer=Vetoed([0.5], epoch=0)).run()
    history = read_history(Path(result.folder), result.history_sha256)
    assert best_epoch(history, "infomax") is None


def test_a_comparison_goes_on_after_a_veto_and_does_not_choose_it(training):
    scorer = Vetoed([0.1, 0.9, 0.2, 0.3], epoch=1)
    result = training(make("shot"), scorer=scorer, keep="all").run()
    assert len(result.candidates) == 4
    history = read_history(Path(result.folder), result.history_sha256)
    assert best_epoch(history, "infomax") == 3


def test_a_finished_run_without_its_state_is_not_done_again(training):
    first = training(make("shot"))
    expected = first.run()
    (first.folder / "state.pt").unlink()
    again = training(make("shot"), scorer=Vetoed([], epoch=9)).run()  # it has no score left to give
    assert outcome(again) == outcome(expected)
    shutil.rmtree(next(first.folder.glob("epoch-*")))
    assert outcome(training(make("shot")).run()) == outcome(expected)  # made anew


def test_weights_that_explode_in_the_last_step_of_an_epoch_end_the_run_too(training, tmp_path):
    with pytest.raises(BadInput, match=r"toy: .*not finite.*schedule.lr=0.003"):
        training(poisoned(Exploding)).run()
    assert epochs_on(tmp_path / "run") == []
    assert not (tmp_path / "run" / "state.pt").exists()


def test_a_kill_while_the_state_is_written_costs_one_epoch_and_no_number(
    training, tmp_path, monkeypatch
):
    expected = training(make("shot"), "undisturbed").run()
    save, count = torch.save, [0]

    def dies_half_way(remaining: object, file: BinaryIO) -> None:
        count[0] += 1
        whole = io.BytesIO()
        save(remaining, whole)
        content = whole.getvalue()
        if count[0] != 2:
            file.write(content)
            return
        file.write(content[: len(content) // 2])
        file.flush()
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", dies_half_way)
        with pytest.raises(Killed):
            training(make("shot")).run()
    left = [path.name for path in (tmp_path / "run").iterdir() if path.name.startswith(".state")]
    assert len(left) == 1
    assert torch.load(tmp_path / "run" / "state.pt")["next_epoch"] == 1  # the old one, whole
    scores = DiesAt(infomax, 99)
    assert outcome(training(make("shot"), scorer=scores).run()) == outcome(expected)
    assert scores.calls == EPOCHS - 1  # the first epoch was not gone through again
    assert not list((tmp_path / "run").glob(".state*"))
    assert len(epochs_on(tmp_path / "run")) <= 2


@pytest.mark.parametrize("spoil", ["alter", "delete"])
def test_a_finished_run_whose_weights_are_spoilt_is_run_again(training, spoil):
    expected = training(make("shot")).run()
    weights = Path(str(expected.candidates[-1].weights), "weights.safetensors")
    content = weights.read_bytes()
    weights.unlink()
    if spoil == "alter":
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    again = training(make("shot")).run()
    assert outcome(again) == outcome(expected)
    assert bundle_digest(weights.parent) == expected.candidates[-1].sha256


class Watch:
    """A clock on which every look takes a second: one at the start, one a step, one an epoch."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        self.seconds += 1.0
        return self.seconds


def test_a_budget_ends_the_run_with_the_epochs_that_it_allows(training):
    whole = training(make("shot"), "whole").run()
    steps = training(make("shot"), "count").batches.steps()
    budget = 2.5 * (steps + 1)  # in the middle of the third epoch
    timed = training(make("shot"), budget=budget, now=Watch())
    result = timed.run()
    assert outcome(result) == outcome(whole)[:2]
    assert result.cut == f"the budget of {budget:g} s ended after 2 of {EPOCHS} epochs"
    assert curves(timed.watch.run_id)["epoch"] == {1: 1, 2: 2}
    assert whole.cut is None

    again = training(make("shot"), budget=budget, now=Watch()).run()
    assert outcome(again)[:2] == outcome(result)  # what is left of the budget is not used twice
    assert len(again.candidates) <= 3

    more = training(make("shot"), budget=1e9, now=Watch()).run()
    assert outcome(more) == outcome(whole)
    assert more.cut is None


def test_a_budget_below_one_epoch_gives_the_network_as_it_is_then(training):
    steps = training(make("shot"), "count").batches.steps()
    assert steps > 3
    short = training(make("shot"), budget=2.5, now=Watch())
    result = short.run()
    assert [c.epoch for c in result.candidates] == [0]
    assert result.cut is not None
    assert "after 0 of" in result.cut
    assert not (short.folder / "state.pt").exists()  # a longer run starts anew
    whole = training(make("shot"), "whole").run()
    assert outcome(result) != outcome(whole)[:1]
    assert outcome(training(make("shot")).run()) == outcome(whole)


def test_a_budget_that_ends_with_the_last_step_of_an_epoch_keeps_the_epoch(training):
    steps = training(make("shot"), "count").batches.steps()
    result = training(make("shot"), budget=steps - 0.5, now=Watch()).run()
    assert outcome(result) == outcome(training(make("shot"), "whole").run())[:1]
    assert result.cut is not None
    assert "after 1 of" in result.cut


def test_a_budget_ends_a_run_whose_epochs_have_one_step(training):
    made = training(make("shot"), budget=6.5, now=Watch())
    batches = made.batches
    made.batches = OneStep(batches)
    result = made.run()
    assert result.cut is not None
    assert 1 <= len(made.history) < EPOCHS


class OneStep:
    """The first batch of every epoch."""

    def __init__(self, batches):
        self.batches = batches

    def steps(self, rows=None):
        return 1

    def epoch(self, epoch, rows=None):
        yield next(iter(self.batches.epoch(epoch, rows)))
