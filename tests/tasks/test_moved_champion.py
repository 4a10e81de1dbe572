"""A promotion or a rollback that was killed is finished by the same command, and not made twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import small

from tasks import tracking
from tasks.champion import ChampionMove, move_champion
from tasks.tracking import moves, registry

CALLS = (
    "set_registered_model_alias",
    "set_registered_model_tag",
    "delete_registered_model_alias",
)


class Killed(BaseException):
    """The process is gone."""


class Dies:
    """The registry's client, in whose n-th writing call the process dies: before it, or after."""

    def __init__(self, inner: Any, number: int, *, after: bool) -> None:
        self.inner, self.left, self.after = inner, number, after

    def __getattr__(self, name: str) -> Any:
        call = getattr(self.inner, name)
        if name not in CALLS:
            return call

        def counted(*words: Any, **more: Any) -> Any:
            self.left -= 1
            if self.left == 0 and not self.after:
                raise Killed
            result = call(*words, **more)
            if self.left == 0:
                raise Killed
            return result

        return counted


@pytest.fixture
def three(home: Path, tmp_path: Path) -> None:
    """A name with three versions, each champion once."""
    model = small.bundle(tmp_path / "model")
    for number in range(3):
        with tracking.run("job", key=str(number), tags={}, params={}) as run:
            tags = {"sha256": model.sha256}
            tracking.register_bundle(run, tmp_path / "model", "toy", depth=1, tags=tags)
        told(str(number + 1))


def told(version: str | None) -> ChampionMove:
    """The whole command."""
    moved = move_champion.fn("toy", version, "command")
    tracking.forget_move("toy")
    return moved


def standing() -> tuple[str | None, str | None, list[str]]:
    held = [tracking.by_alias("toy", alias) for alias in ("champion", "previous")]
    champion, previous = (one.version if one else None for one in held)
    return champion, previous, tracking.champions("toy")


def kills(monkeypatch: pytest.MonkeyPatch, command: Callable[[], Any]) -> Iterator[int]:
    """Kill it at each writing call, before and after."""
    for after in (False, True):
        for number in range(1, 20):
            with monkeypatch.context() as patched:
                dies = Dies(registry.client(), number, after=after)
                for module in (registry, moves):
                    patched.setattr(module, "client", lambda dies=dies: dies)
                try:
                    command()
                except Killed:
                    killed = True
                else:
                    killed = False
            if not killed:
                break
            yield number


@pytest.mark.parametrize(
    ("version", "expected", "before"),
    [(None, ("2", "1", ["1", "2"]), "3"), ("1", ("1", "3", ["1", "2", "3", "1"]), "3")],
)
def test_a_killed_move_is_made_once(three, monkeypatch, version, expected, before):
    count = 0
    for _ in kills(monkeypatch, lambda: move_champion.fn("toy", version, "command")):
        moved = told(version)
        assert (moved.version, moved.previous) == (expected[0], before)
        assert standing() == expected
        count += 1
        tracking.set_champion(tracking.find_version("toy", "3"), ["1", "2", "3"])
        assert standing() == ("3", "2", ["1", "2", "3"])
    assert count >= 6


def test_killed_before_anybody_was_told_it_is_not_made_twice(three):
    first = move_champion.fn("toy", None, "command")  # and the process ends
    assert told(None) == first
    assert standing() == ("2", "1", ["1", "2"])
    assert told(None).version == "1"  # somebody was told: this is another one


def test_a_run_does_not_take_another_ones_move_for_its_own(three):
    move_champion.fn("toy", None, "run-1")
    assert move_champion.fn("toy", None, "run-1").version == "2"  # started again
    assert move_champion.fn("toy", None, "run-2").version == "1"


def test_what_is_champion_stays_and_says_so(three):
    again = told("3")
    assert again.again
    assert again.text == "toy: done already, champion is version 3"
    assert standing() == ("3", "2", ["1", "2", "3"])
