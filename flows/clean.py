"""A home -> what of it is old and needed by nobody is gone."""

from __future__ import annotations

from prefect import flow

from sfda.retention.policy import CleanReport, RetentionPolicy
from tasks.clean import clean_home
from tasks.prefect_runtime.tame_artifacts import create_table_artifact

USUAL_RETENTION = RetentionPolicy()
LINES_SHOWN = 20  # lines on what stays
COLUMNS = ("kind", "MB before", "files before", "MB after", "files after")
FLOWS = (
    *("adapt", "ask-and-adapt", "audit", "card", "clean", "compare", "import-model", "pipeline"),
    *("promote", "query-labels", "refresh-target", "rollback", "rounds", "train-prior"),
    *("train-source", "tune"),
    *("import_model", "train_prior", "train_source"),  # of 0.1.0
)
"""Names of all our flows: runs of others on the same server are not ours to delete."""


@flow(name="clean", flow_run_name="clean what is older than {policy.older_than}")
def clean(policy: RetentionPolicy = USUAL_RETENTION) -> CleanReport:
    """Delete from this home what is older than the policy says and needed by nobody.

    Args:
        policy: for how long, and how many of the newest, things stay
    """
    report = clean_home(policy, FLOWS)
    table = [dict(zip(COLUMNS, row, strict=True)) for row in report.rows()]
    create_table_artifact(table, key="clean", description=f"{report.freed / 1e6:.2f} MB freed")
    return report


def clean_text(report: CleanReport) -> str:
    """Sizes by kind before and after, and what was deleted, for a person."""
    head = f"{'kind':<42}{'MB':>10}{'files':>8}{'MB after':>11}{'files':>8}"
    lines = [head, *(f"{k:<42}{a:>10.2f}{n:>8}{b:>11.2f}{m:>8}" for k, a, n, b, m in report.rows())]
    counts = ", ".join(f"{n:,} {what}" for what, n in report.deleted.items() if n) or "nothing"
    verb = "would be deleted" if report.dry_run else "deleted"
    lines.append(f"{verb}: {counts}; {report.freed / 1e6:.2f} MB")
    lines += [f"stays: {line}" for line in report.left[:LINES_SHOWN]]
    if more := len(report.left) - LINES_SHOWN:
        lines += [f"stays: {more} more"] if more > 0 else []
    return "\n".join(lines)
