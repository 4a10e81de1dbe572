"""Known vulnerabilities of the locked packages; a word instead where no database is reachable."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

LOCK = Path(__file__).parents[1] / "requirements.lock"
PATIENCE = 120.0  # seconds for all packages together
SKIPPED = "pip-audit: skipped, no database of advisories can be reached from here"
# how pip-audit ends where it has no connection: its own words, or what requests raised
UNREACHABLE = re.compile(
    r"^requests\.exceptions\.(ConnectionError|ProxyError|SSLError|ConnectTimeout|ReadTimeout)\b"
    r"|Could not connect to PyPI",
    re.MULTILINE,
)


def audit(lock: Path = LOCK, patience: float = PATIENCE) -> tuple[int, str]:
    """An exit code and what to print: 0 where nothing is known, or nobody can be asked; 1 with a
    line a finding, or with what pip-audit said last where it failed otherwise.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        command = [sys.executable, "-m", "pip_audit", "-r", str(lock), "--no-deps", "--disable-pip"]
        command += ["--timeout", "5", "--progress-spinner", "off", "-f", "json", "-o", str(report)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=patience, check=False
            )
        except subprocess.TimeoutExpired:
            return 0, SKIPPED
        if report.is_file():
            return verdict(report.read_text(encoding="utf-8"))
    if UNREACHABLE.search(done.stderr):
        return 0, SKIPPED
    return 1, "pip-audit failed:\n" + "\n".join(done.stderr.splitlines()[-5:])


def verdict(report: str) -> tuple[int, str]:
    """The same of pip-audit's report, which is JSON. Whoever knows no package is no database."""
    packages = json.loads(report)["dependencies"]
    asked = [package for package in packages if not package.get("skip_reason")]
    findings = [
        f"{package['name']} {package['version']}: {advisory['id']}, mended in "
        f"{', '.join(advisory['fix_versions']) or 'no version yet'}"
        for package in asked
        for advisory in package["vulns"]
    ]
    if findings:
        return 1, "\n".join(findings)
    if packages and not asked:
        return 0, SKIPPED
    unknown = f"; {left} are not known there" if (left := len(packages) - len(asked)) else ""
    return 0, f"pip-audit: nothing known against {len(asked)} packages{unknown}"


if __name__ == "__main__":
    code, says = audit()
    print(says)
    sys.exit(code)
