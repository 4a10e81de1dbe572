"""What to type next: names of files and models are words to a shell, whatever they hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sfda.errors import shell_command
from sfda.refs import Version

if TYPE_CHECKING:
    from tasks.decide import Decision


def next_commands(
    decision: Decision, version: Version, source: str, target: str, audit: str | None
) -> tuple[str, ...]:
    """What to type after a verdict, with the addresses of this run; `audit` is the folder of the
    questions that wait for a person.
    """
    champion, kind = f"models:/{version.name}@champion", decision.verdict.kind
    if not decision.promoted and not decision.champion.startswith(f"models:/{version.name}/"):
        champion = decision.champion  # the name has none: the source stays
    predict = predict_command(champion, target)
    if decision.promoted:
        return (predict,)
    if kind == "promote":
        return (shell_command("sfda", "promote", version.name, version.version),)
    if kind == "hold":
        page = shell_command("open", f"{audit}/audit.html")
        return (page, shell_command("sfda", "audit", audit, "ANSWERS", "--promote"))
    words = ("--source", source, "--target", target, "--method", "bn")
    again = shell_command("sfda", "adapt", *words)
    return (again, predict) if kind == "reject" else (predict,)


def predict_command(model: str, data: object) -> str:
    """How a model's answers about a target are written down."""
    return shell_command("sfda", "predict", "--model", model, "--data", data, "--out", "DIR")
