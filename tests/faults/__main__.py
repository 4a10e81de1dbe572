"""`python -m tests.faults --signals 300 --seed 0`: signals to the commands that write; a table.

Nothing may be lost, doubled or half-written, no process may stay, weights are those of a run that
nobody disturbed. The seed fixes commands, signals and steps; where a signal comes after a time the
machine has its say, too.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.faults.trial import Case, Count, Undisturbed, trial, undisturbed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--signals", type=int, default=300, help="how many in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="a,b: these commands alone")
    parser.add_argument("--flows", type=float, default=0.25, help="share of trials with a server")
    parser.add_argument("--minutes", type=float, default=600, help="end after this time")
    asked = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # a fork has none of the threads of its parent's pool
    from tests.faults.cases import CASES

    cases = [case for case in CASES if not asked.only or case.name in asked.only.split(",")]
    with tempfile.TemporaryDirectory(prefix="faults-") as scratch:
        return go_through(cases, asked, Path(scratch))


def in_turn(cases: list[Case], rng: random.Random) -> Iterator[Case] | None:
    """All cases in a random order, again and again: none is left out by chance."""
    passes = (rng.sample(cases, len(cases)) for _ in itertools.count())
    return itertools.chain.from_iterable(passes) if cases else None


def go_through(cases: list[Case], asked: argparse.Namespace, scratch: Path) -> int:
    """Trials until the number of signals is reached; 1 where there was a fault."""
    from tests.faults.cases import write_asked, write_plain

    work, begun = scratch / "trial" / "work", time.monotonic()
    work.mkdir(parents=True)
    templates = {"plain": scratch / "plain", "asked": scratch / "asked"}
    write_plain(work)
    work.rename(templates["plain"])
    if any(case.before == "asked" for case in cases):
        from tests.faults.trial import fresh

        fresh(templates["plain"], work)
        write_asked(work)
        work.rename(templates["asked"])
    rng = random.Random(asked.seed)
    known: dict[str, Undisturbed] = {}
    counts = {case.name: Count() for case in cases}
    turns = [in_turn([c for c in cases if c.flow == flow], rng) for flow in (False, True)]
    while sum(count.signals for count in counts.values()) < asked.signals:
        if time.monotonic() - begun > 60 * asked.minutes:
            break
        heavy = rng.random() < asked.flows
        case = next(turns[heavy] or turns[not heavy])
        template, count = templates[case.before], counts[case.name]
        if case.name not in known:
            known[case.name] = undisturbed(case, template, work)
        before = len(count.faults)
        trial(case, template, work, known[case.name], rng, count)
        for fault in count.faults[before:]:
            print(fault, file=sys.stderr, flush=True)
        sent = sum(count.signals for count in counts.values())
        print(f"{sent} signals, last to {case.name}", file=sys.stderr, flush=True)
    total = show(counts)
    print(f"seed {asked.seed}, {(time.monotonic() - begun) / 60:.1f} minutes")
    return int(bool(total.faults))


def show(counts: dict[str, Count]) -> Count:
    """Print a line for each command; all of them together."""
    print(f"{'command':<18}{'trials':>7}{'signals':>8}{'too late':>9}{'faults':>7}")
    total = Count()
    for name, count in counts.items():
        print(f"{name:<18}{count.trials:>7}{count.signals:>8}{count.late:>9}{len(count.faults):>7}")
        total.trials += count.trials
        total.signals += count.signals
        total.late += count.late
        total.faults += count.faults
    print(f"{'all':<18}{total.trials:>7}{total.signals:>8}{total.late:>9}{len(total.faults):>7}")
    return total


if __name__ == "__main__":
    sys.exit(main())
