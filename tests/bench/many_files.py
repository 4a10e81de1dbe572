"""What large targets cost besides their pixels: 10^5 small images as files, and 10^6 rows.

Each step has a process of its own, so nothing but the home carries over; imports are not counted.
The files of the 10^6 rows are empty: they are listed, stamped and digested, and none is decoded.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

FILES, ROWS, IN_A_FOLDER = 100_000, 1_000_000, 1000

BEGIN = """
import json, resource, sys, time
from pathlib import Path
folder, out = Path(sys.argv[1]), Path(sys.argv[2])
manifest, bundle, target = out / "all.yaml", out / "model", out / "home" / "targets" / "many"
def done(began):
    whole, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": whole, "cpu": cpu, "peak_mb": peak}))
"""

STEPS = {
    "`manifest`": """
from sfda.authoring.from_folder import build_manifest
began = time.perf_counter(), time.process_time()
build_manifest(folder, problem="classification", out=manifest)
done(began)
""",
    "`check`": """
from sfda.manifests.verify import verify_manifest
began = time.perf_counter(), time.process_time()
assert verify_manifest(manifest).ok
done(began)
""",
    "`refresh`, first survey": """
from sfda.adaptation.target_versions import RefreshPolicy, check_target, next_version, remember
target.mkdir(parents=True)
began = time.perf_counter(), time.process_time()
check = check_target(target, str(folder), RefreshPolicy(settle=0), "adapt", None)
done(began)
record = next_version(check, str(folder), "classification", ("a", "b"))
remember(check.folder, record, adapted=1, adapted_marks=record.marks)
""",
    "`refresh`, nothing changed": """
from sfda.adaptation.target_versions import RefreshPolicy, check_target
began = time.perf_counter(), time.process_time()
check = check_target(target, str(folder), RefreshPolicy(settle=0), "adapt", None)
assert not check.since_version.count
done(began)
""",
    "start of `adapt`, the first": "",
    "start of `adapt`, later": "",
}
DECODE = """
from sfda.loading.opened import manifest_ref, open_ref, open_split
from sfda.weights.bundle import read_spec
open_split(open_ref(manifest_ref(manifest)).unlabelled(), "adapt", read_spec(bundle).input)
"""
START = """
import tempfile
from sfda.adaptation.plan import make_plan
from sfda.loading.opened import manifest_ref, open_unlabelled, shift_of, stamps_of
from sfda.loading.sealed import open_sealed, seal
from sfda.refs import ModelRef
from sfda.settings import AdaptSettings
from sfda.weights.bundle import bundle_digest, read_spec
began = time.perf_counter(), time.process_time()
spec = read_spec(bundle)
model = ModelRef(uri=str(bundle), sha256=bundle_digest(bundle), problem=spec.problem,
                 arch=spec.arch, classes=spec.classes)
ref = manifest_ref(manifest)
plan = make_plan(model, ref, AdaptSettings(method="shot"), bundle=bundle)
part = plan.on(ref)
open_unlabelled(ref, "adapt", spec, seen=part.seen)  # before the pseudo-labels
shift_of(ref, model)
opened = open_unlabelled(ref, "adapt", spec, seen=part.seen)
stamps = stamps_of(part, opened.split)
sealed = Path(tempfile.mkdtemp(dir=out))
seal(part, stamps, spec, sealed, answers=False)
open_sealed(sealed, spec)  # in the adapting process
done(began)
"""
MILLION = """
from sfda.authoring.from_folder import build_manifest
from sfda.loading.opened import manifest_ref, open_ref, split_ref, stamps_of
from sfda.manifests.rows import read_split
began = time.perf_counter(), time.process_time()
if not manifest.exists():
    build_manifest(folder, problem="classification", out=manifest)
ref = manifest_ref(manifest)
part = split_ref(ref, "adapt")
rows = read_split(open_ref(ref).unlabelled(), "adapt")
stamps_of(part, rows)
assert len(rows) == int(sys.argv[3])
done(began)
"""


def measure(out: Path) -> dict[str, Any]:
    """Every step once, in order; the first start of `adapt` has a home where nothing is known."""
    folder, work = out / "many_files", out / "many_files_work"
    write(folder, FILES, pixels=True)
    work.mkdir()
    _model(work / "model")
    result: dict[str, Any] = {}
    for name, code in STEPS.items():
        if name.endswith("the first"):
            _run(DECODE, folder, work)
            (work / "home" / "digests.sqlite3").unlink()
        result[name] = _run(code or START, folder, work)
    empty, work = out / "million_files", out / "million_files_work"
    write(empty, ROWS, pixels=False)
    work.mkdir()
    for name in ("10^6 rows, the first time", "10^6 rows, later"):
        result[name] = _run(MILLION, empty, work, str(ROWS))
    return {"steps": result, "files": FILES, "rows": ROWS}


def _run(code: str, *arguments: object) -> Any:
    """What the step says of itself."""
    home = Path(str(arguments[1])) / "home"
    home.mkdir(mode=0o700, exist_ok=True)
    answer = subprocess.run(
        [sys.executable, "-c", BEGIN + code, *map(str, arguments)],
        stdout=subprocess.PIPE, check=True, text=True, env={**os.environ, "SFDA_HOME": str(home)},
    )  # fmt: skip
    return json.loads(answer.stdout) if answer.stdout else None


def write(folder: Path, count: int, *, pixels: bool) -> None:
    """PNGs of 16 x 16 pixels, no two alike; or empty files."""
    import numpy as np
    from PIL import Image

    generator = np.random.default_rng(0)
    for first in range(0, count, IN_A_FOLDER):
        part = folder / f"{first // IN_A_FOLDER:04d}"
        part.mkdir(parents=True)
        for n in range(first, min(first + IN_A_FOLDER, count)):
            content = io.BytesIO()
            if pixels:
                image = generator.integers(0, 256, (16, 16), dtype=np.uint8)
                Image.fromarray(image).save(content, "PNG")
            (part / f"{n:07d}.png").write_bytes(content.getvalue())


def _model(bundle: Path) -> None:
    from sfda.problems.classification.network import build_from_spec, make_spec
    from sfda.weights.bundle import write_bundle

    spec = make_spec("sfda:tiny", ("a", "b"))
    write_bundle(bundle, build_from_spec(spec), spec)


def text(result: dict[str, Any]) -> str:
    lines = ["| step | seconds | of them on the processor | peak of the process, MB |"]
    lines += ["|---|---:|---:|---:|"]
    lines += [
        f"| {name} | {row['seconds']:.1f} | {row['cpu']:.1f} | {row['peak_mb']:.0f} |"
        for name, row in result["steps"].items()
    ]
    return "\n".join(lines)
