"""Locks of pieces of work: one process at a time, also where `sfda clean` deletes the file."""

from __future__ import annotations

import threading

from sfda.state_folder import if_nobody_works, one_at_a_time


def test_whoever_need_not_wait_is_told_that_somebody_works(tmp_path):
    with one_at_a_time(tmp_path / "run"), if_nobody_works(tmp_path / "run") as free:
        assert not free
    with if_nobody_works(tmp_path / "run") as free:
        assert free


def test_a_lock_that_is_deleted_under_one_who_waits_is_taken_anew(tmp_path):
    order: list[str] = []

    def wait() -> None:
        with one_at_a_time(tmp_path / "run"):
            order.append("second")
            with if_nobody_works(tmp_path / "run") as free:
                assert not free  # a third would see the lock that the second holds
                order.append("third stays out")

    waiting = threading.Thread(target=wait)
    with one_at_a_time(tmp_path / "run"):
        waiting.start()
        waiting.join(0.2)
        (tmp_path / "run.lock").unlink()
        order.append("first")
    waiting.join(5)
    assert order == ["first", "second", "third stays out"]
