"""`python -m tests.fuzz --inputs 3000 --seed 0`: a count of what parsers do with damaged files.

Exit code 1 where there is a fault: what is neither accepted nor refused in one line, takes more
than 30 s or a gigabyte, or leaves files.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the small models and data of tests

os.environ.update(
    NO_ALBUMENTATIONS_UPDATE="1",
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    PREFECT_LOGGING_LEVEL="CRITICAL",
    PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL="CRITICAL",
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="parsers whose name has this in it")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    import torch

    torch.set_num_threads(1)
    from tests.fuzz.parsers import PARSERS
    from tests.fuzz.runner import outcomes, table

    parsers = [one for one in PARSERS if not asked.only or asked.only in one.name]
    done = []
    for one in outcomes(parsers, asked.inputs, asked.seed):
        done.append(one)
        if one.fault:
            print(f"FAULT input {one.number} {one.parser}: {one.how}: {one.fault}", flush=True)
    print(table(parsers, done))
    sys.exit(any(one.fault for one in done))


if __name__ == "__main__":
    main()
