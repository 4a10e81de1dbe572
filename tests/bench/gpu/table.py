"""The results of `make gpu` as Markdown."""

from __future__ import annotations

from statistics import median
from typing import Any

EPOCHS = (
    "| method, network | ms a step (min to max) | images/s | over the bare step | whole epoch, s "
    "| of it scan, scores | over the bare epoch | GB | waits a step |\n"
    "|---|---:|---:|---:|---:|---:|---:|---:|---:|"
)
PRECISION = (
    "| method, network | bf16: loss, 1st and last step | bf16: cosine | TF32: loss | TF32: cosine |"
    "\n|---|---:|---:|---:|---:|"
)


def text(results: dict[str, Any]) -> str:
    """All sections that there are."""
    sections = results["sections"]
    took = f", {results['seconds']} s" if "seconds" in results else ""
    lines = [
        f"{results['device']}, {results['cores']} cores, {results['workers']} workers, torch "
        f"{results['torch']}, {results['date']}, commit {results['commit']}{took}",
        "",
    ]
    for name, table in TABLES.items():
        if sections.get(name):
            lines += [table(sections[name], sections), ""]
    faults = [
        f"- {section}: {name}: {row.get('error') or 'not run: ' + row['not_run']}"
        for section, rows in sections.items()
        for name, row in rows.items()
        if not _whole(row)
    ]
    return "\n".join(lines + faults).rstrip()


def _whole(row: dict[str, Any]) -> bool:
    return "error" not in row and "not_run" not in row


def _spread(values: list[float], digits: int) -> str:
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def _epochs(rows: dict[str, Any], sections: dict[str, Any]) -> str:
    lines = [EPOCHS]
    for name, row in rows.items():
        if not _whole(row):
            continue
        waits = sections.get("waits", {}).get(name, {}).get("per_step")
        memory = "" if row["peak_gb"] is None else f"{row['peak_gb']:.1f}"
        lines.append(
            f"| {name} | {_spread(row['step_ms'], 1)} | {median(row['images_per_s']):.0f} "
            f"| {_spread(row['step_ratio'], 2)} | {_spread(row['epoch_s'], 2)} "
            f"| {median(row['scan_s']):.2f}, {median(row['scoring_s']):.2f} "
            f"| {_spread(row['epoch_ratio'], 2)} | {memory} "
            f"| {'' if waits is None else f'{waits:.1f}'} |"
        )
    return "\n".join(lines)


def _waits(rows: dict[str, Any], sections: dict[str, Any]) -> str:
    lines = ["Waits for the device in a step, by line:", ""]
    for name, row in rows.items():
        if _whole(row):
            most = ", ".join(f"{line} {count:g}" for line, count in row["lines"].items())
            lines.append(f"- {name}: {row['per_step']:g}, {row['refused']}; {most or 'none'}")
    return "\n".join(lines)


def _precision(rows: dict[str, Any], sections: dict[str, Any]) -> str:
    lines = [PRECISION]
    for name, row in rows.items():
        if not _whole(row):
            continue
        cells = []
        for kind in ("bf16", "tf32"):
            if kind in row:
                first, last = row[kind]["loss_difference"][0], row[kind]["loss_difference"][-1]
                cells += [f"{first:.1e}, {last:.1e}", f"{row[kind]['cosine']:.4f}"]
            else:
                cells += ["", ""]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _ddp(rows: dict[str, Any], sections: dict[str, Any]) -> str:
    lines = ["DistributedDataParallel with one process, over the same steps without it:", ""]
    for name, row in rows.items():
        if _whole(row):
            lines.append(
                f"- {name}: {_spread([100 * v for v in row['overhead']], 1)} % more time, losses "
                f"differ by {row['loss_difference']:.1e} at most"
            )
    return "\n".join(lines)


def _loading(rows: dict[str, Any], sections: dict[str, Any]) -> str:
    lines = ["The loader alone, images/s:", ""]
    for name, row in rows.items():
        if _whole(row):
            speeds = ", ".join(f"{v:.0f} ({k})" for k, v in row["images_per_s"].items())
            lines.append(f"- {name}: {speeds}")
    return "\n".join(lines)


def _many(rows: dict[str, Any], sections: dict[str, Any]) -> str:
    lines = []
    for row in rows.values():
        if not _whole(row):
            continue
        memory = "" if row["step_mb"] is None else f" and {row['step_mb']:.0f} MB while it runs"
        lines.append(
            f"SF(DA)²'s covariances with {row['classes']} classes, {row['dim']} features, batch "
            f"{row['batch']}, forward and backward: {_spread(row['step_ms'], 2)} ms, "
            f"{row['held_mb']:.0f} MB held{memory}"
        )
    return "\n".join(lines)


def _switches(rows: dict[str, Any], sections: dict[str, Any]) -> str:
    lines = []
    for name, row in rows.items():
        if not _whole(row):
            continue
        lines += [f"The bare step of {name} under torch's switches, ms:", ""]
        for switch, times in row["switches"].items():
            if isinstance(times, str):
                lines.append(f"- {switch}: {times}")
                continue
            lines.append(
                f"- {switch}: {_spread(times['step_ms'], 1)}, all asked for after "
                f"{median(times['launch_ms']):.1f}; first steps {times['first_s']:.0f} s"
            )
    return "\n".join(lines)


TABLES = {
    "epochs": _epochs,
    "waits": _waits,
    "precision": _precision,
    "ddp": _ddp,
    "loading": _loading,
    "many_classes": _many,
    "switches": _switches,
}
