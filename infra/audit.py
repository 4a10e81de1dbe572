"""Known vulnerabilities of the locked packages; a word instead where no database is reachable."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

LOCK = Path(__file__).parents[1] / "requirements.lock"
PATIENCE = 120.0  # seconds for all packages together


def audit() -> int:
    """0 where nothing is known, or nothing can be asked; 1 with a line a finding."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        command = [sys.executable, "-m", "pip_audit", "-r", str(LOCK), "--no-deps", "--disable-pip"]
        command += ["--timeout", "5", "--progress-spinner", "off", "-f", "json", "-o", str(report)]
        try:
            subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False)
            packages = json.loads(report.read_text(encoding="utf-8"))["dependencies"]
        except (OSError, ValueError, KeyError, subprocess.TimeoutExpired):
            print("pip-audit: skipped, no database of advisories can be reached from here")
            return 0
    findings = [
        f"{package['name']} {package['version']}: {advisory['id']}, mended in "
        f"{', '.join(advisory['fix_versions']) or 'no version yet'}"
        for package in packages
        for advisory in package.get("vulns", ())
    ]
    print("\n".join(findings) or f"pip-audit: nothing known against {len(packages)} packages")
    return bool(findings)


if __name__ == "__main__":
    sys.exit(audit())
