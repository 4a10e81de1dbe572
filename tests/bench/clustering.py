"""What GLC's clustering of a whole target costs, at VisDA-C's size, on features made up here.

Every epoch each source class is set against all other samples by one k-means of its own: seconds,
and memory beyond the bank's. Once a run the number of classes is estimated, above all by t-SNE.
Needs no data.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.nn.functional as F
from torch import Tensor

from sfda.methods._class_count import best_coefficient, class_count_scores
from sfda.methods.glc import GlcConfig, global_labels

SIZE, CLASSES, DIM = 55_388, 12, 256  # VisDA-C, and the bottleneck of every network in the paper
LOOKS = 4
GAMMA = 1.0
ROUNDS = 3


def measure(out: Path) -> dict[str, Any]:
    """Rounds of one epoch's step, then the estimate once."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    features, probs, truth = target(device)
    config = GlcConfig()
    rounds = [
        costs(lambda: global_labels(features, probs, gamma=GAMMA, rho=config.suppression), device)
        for _ in range(ROUNDS)
    ]
    labels = rounds[0][0]
    scores, seconds, _ = costs(
        lambda: class_count_scores(features, CLASSES, config.estimate_rows), device
    )
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
        "threads": torch.get_num_threads(),
        "shape": {"N": SIZE, "C": CLASSES, "D": DIM},
        "step_s": [took for _, took, _ in rounds],
        "step_peak_mb": [peak for _, _, peak in rounds],
        "bank_mb": (features.nbytes + probs.nbytes) / 1e6,
        "known_share": float((labels >= 0).double().mean()),
        "right_share_of_known": float((labels == truth)[labels >= 0].double().mean()),
        "estimate_rows": config.estimate_rows,
        "estimate_s": seconds,
        "estimate_scores": scores.tolist(),
        "estimate_gamma": best_coefficient(scores.tolist()),
    }


def target(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Unit features in overlapping clusters, the probabilities of a fair classifier, and classes.

    Every class has four looks, two classes hold a third of the samples, and the classifier's
    weights point beside the classes' centres: 77 % of its answers are right.
    """
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        drawn: Tensor = torch.randn(*shape, DIM, generator=generator) / DIM**0.5
        return drawn

    share = torch.ones(CLASSES)
    share[:2] = CLASSES / 4
    truth = share.multinomial(SIZE, replacement=True, generator=generator)
    look = torch.randint(LOOKS, (SIZE,), generator=generator)
    centres = noise(CLASSES)
    looks = centres[:, None] + 0.8 * noise(CLASSES, LOOKS)
    features = F.normalize(looks[truth, look] + 2 * noise(SIZE), dim=1)
    probs = (12 * features @ F.normalize(centres + 2.5 * noise(CLASSES), dim=1).T).softmax(1)
    return features.to(device), probs.to(device), truth.to(device)


def costs(work: Callable[[], Tensor], device: torch.device) -> tuple[Tensor, float, float]:
    """What `work` returns, its seconds, and the most memory it held at a time, in MB."""
    with peak_memory(device) as peak:
        started = time.perf_counter()
        result = work().cpu()  # waits for the device
        seconds = time.perf_counter() - started
    return result, seconds, peak()


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Callable[[], float]]:
    """Megabytes above those held at the start: of the GPU, or of the process, looked at often."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield lambda: (torch.cuda.max_memory_allocated() - before) / 1e6
        return
    process, done = psutil.Process(), threading.Event()
    seen = [process.memory_info().rss]

    def look() -> None:
        while not done.wait(0.002):
            seen.append(process.memory_info().rss)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield lambda: (max(seen) - seen[0]) / 1e6
    finally:
        done.set()
        watcher.join()


def text(result: dict[str, Any]) -> str:
    shape = result["shape"]
    step, peak = result["step_s"], result["step_peak_mb"]
    return "\n".join(
        [
            f"N = {shape['N']}, C = {shape['C']}, D = {shape['D']}, {result['device']}, "
            f"{result['threads']} threads; the bank itself holds {result['bank_mb']:.0f} MB",
            "",
            "| GLC, clustering the whole target | median | min to max |",
            "|---|---:|---:|",
            f"| one epoch's one-vs-all step, s | {statistics.median(step):.1f} "
            f"| {min(step):.1f} to {max(step):.1f} |",
            f"| its memory beyond the bank, MB | {statistics.median(peak):.0f} "
            f"| {min(peak):.0f} to {max(peak):.0f} |",
            f"| number of classes, once a run, {result['estimate_rows']} rows, s "
            f"| {result['estimate_s']:.0f} | one run |",
        ]
    )
