"""The contract tests that ship find what is broken, and say so."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import nn

from sfda.methods._base import Method, MethodConfig
from sfda.methods.aad import EXPORT as AaD
from sfda.methods.source import EXPORT as Unadapted
from sfda.problems.classification.network import Classifier
from sfda.queries._base import Query
from sfda.queries.entropy import EXPORT as EntropyQuery
from sfda.testing import check_method, check_network, check_query, check_validator
from sfda.testing.toys import classification as toy
from sfda.testing.toys import toys
from sfda.validators._base import Validator, ValidatorConfig
from sfda.validators.infomax import EXPORT as Infomax


class Vector(AaD):
    def losses(self, batch: Any, clock: Any) -> Any:
        return {"attract": self.student(batch.weak).logits.sum(1)}


class OffTheGraph(AaD):
    def losses(self, batch: Any, clock: Any) -> Any:
        return {"attract": torch.tensor(1.0)}


class Silent(AaD):
    def losses(self, batch: Any, clock: Any) -> Any:
        return {}


class Unloggable(AaD):
    def losses(self, batch: Any, clock: Any) -> Any:
        return {"kl(p||q)": self.student(batch.weak).logits.square().mean()}


class ByPosition(AaD):
    def losses(self, batch: Any, clock: Any) -> Any:
        return {"first": self.student(batch.weak).logits[:3].square().mean()}


class Forgetful(AaD):
    """A step count that is no part of the state."""

    step = 0

    def losses(self, batch: Any, clock: Any) -> Any:
        self.step += 1
        return {"all": self.student(batch.weak).logits.square().mean() * self.step}


class Loose(AaD):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.more = nn.Linear(2, 2)


class Worse(AaD):
    def losses(self, batch: Any, clock: Any) -> Any:
        return {"all": 10 * self.student(batch.weak).logits.softmax(1)[:, 0].mean()}


class Fails(AaD):
    def losses(self, batch: Any, clock: Any) -> Any:
        raise KeyError("bank")


class Wrong(Unadapted):
    learns = "network"


class NeedsConfig(MethodConfig):
    needed: int


class Needs(AaD):
    Config = NeedsConfig


class Lossless(Method):
    Config = MethodConfig


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Vector, "is no scalar"),
        (OffTheGraph, "is not on the graph"),
        (Silent, "losses are"),
        (Unloggable, r"the loss 'kl\(p\|\|q\)' has no name that MLflow takes"),
        (ByPosition, "one batch in two orders"),
        (Forgetful, "is it all in state_dict"),
        (Loose, "takes gradient"),
        (Worse, "made worse"),
        (Fails, "ended with KeyError: 'bank'"),
        (Wrong, "learns = 'network'"),
        (Needs, "field without a default"),
        (Lossless, "defines no `losses`"),
        (int, "is no Method"),
    ],
)
def test_a_broken_method_is_seen(kind: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message) as seen:
        check_method(kind, "classification")
    assert kind.__name__ in str(seen.value)


def test_a_whole_method_passes_and_is_for_its_problems_alone() -> None:
    check_method(AaD, "classification", settings={"neighbours": 3})
    with pytest.raises(AssertionError, match="AaD is not for pose"):
        check_method(AaD, "pose")


class Noisy(Infomax):
    numbers = itertools.count()

    def compute(self) -> float:
        return super().compute() + next(self.numbers)


class OfTheLast(Infomax):
    def update(self, seen: Any) -> None:
        self.__init__()  # type: ignore[misc]
        super().update(seen)


class Careless(Infomax):
    def update(self, seen: Any) -> None:
        super().update(seen)
        seen.output.logits.zero_()


class Never(Infomax):
    def compute(self) -> float:
        return super().compute() if self.sum is not None else 0.0


class Constant(Infomax):
    def compute(self) -> float:
        super().compute()
        return 1.0


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Noisy, "shared state"),
        (OfTheLast, "in another order"),
        (Careless, "changed the output"),
        (Never, "raise ValueError"),
        (Constant, "untrained network both score"),
        (Validator, "defines no `update`"),
        (int, "is no Validator"),
    ],
)
def test_a_broken_validator_is_seen(kind: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_validator(kind, "classification")


class OldValidator(Infomax):
    """Of before validators had settings: it takes none."""

    def __init__(self) -> None:
        super().__init__()


def test_a_validator_without_settings_need_not_take_any() -> None:
    check_validator(OldValidator, "classification")
    assert Infomax().config == ValidatorConfig()


class Greedy(EntropyQuery):
    def choose(self, pool: Any, budget: int, *, seed: int = 0) -> Any:
        return super().choose(pool, budget + 1, seed=seed)


class Repeats(EntropyQuery):
    def choose(self, pool: Any, budget: int, *, seed: int = 0) -> Any:
        rows = super().choose(pool, budget, seed=seed)
        rows[1:2] = rows[:1]
        return rows


class Labelled(EntropyQuery):
    def choose(self, pool: Any, budget: int, *, seed: int = 0) -> Any:
        rows = super().choose(pool, budget, seed=seed)
        rows[:1] = pool.labelled[:1]
        return rows


class ByShard(EntropyQuery):
    def choose(self, pool: Any, budget: int, *, seed: int = 0) -> Any:
        return super().choose(pool, budget, seed=seed)[:: 1 if len(pool.shards) > 1 else -1]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Greedy, "of a budget of 20 it chose 21"),
        (Repeats, "chosen twice"),
        (Labelled, "have labels"),
        (ByShard, "in one piece"),
        (Query, "defines no `_choose`"),
        (int, "is no Query"),
    ],
)
def test_a_broken_query_is_seen(kind: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_query(kind, "classification")


@pytest.mark.parametrize("case", toys(), ids=lambda case: case.__name__.rpartition(".")[2])
def test_networks_of_all_problems_pass(case: Any) -> None:
    x, _ = case.images(size=6)
    check_network(case.network(), x, case.PROBLEM)


class Foreign(nn.Module):
    def forward(self, images: Any) -> Any:
        return images


def classifier(**changes: Any) -> Classifier:
    network = toy.source()
    for name, value in changes.items():
        setattr(network, name, value)
    return network


class Odd(nn.Module):
    """What lies before the head, and adds what it has no right to."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, z: Any) -> Any:
        if self.fault == "random":
            return z + torch.randn_like(z)
        if self.fault == "batch":
            return z - z.mean(0)
        if self.fault == "moves":
            self.calls += 1
        if self.fault == "nan":
            return z * torch.nan
        return z.detach().clone().requires_grad_() if self.fault == "cut" else z


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Foreign(), "set its class attribute `problem`"),
        (classifier(num_classes=4), "3 logits, and `num_classes` is 4"),
        (classifier(feature_dim=9), "features have 8 columns, and `feature_dim` is 9"),
        (classifier(bottleneck=Odd("random"), feature_dim=16, head=nn.Linear(16, 3)), "twice"),
        (classifier(bottleneck=Odd("batch"), feature_dim=16, head=nn.Linear(16, 3)), "alone"),
        (classifier(bottleneck=Odd("moves"), feature_dim=16, head=nn.Linear(16, 3)), "eval mode"),
        (classifier(bottleneck=Odd("nan"), feature_dim=16, head=nn.Linear(16, 3)), "not finite"),
    ],
)
def test_a_broken_network_is_seen(network: nn.Module, message: str) -> None:
    x, _ = toy.images(size=6)
    with pytest.raises(AssertionError, match=message):
        check_network(network, x)
