"""The commands that decide which version of a model is champion."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.model_input import problem_of_model
from flows.cli.options import (
    DecisionOption,
    DeviceOption,
    JsonOption,
    NotifyOption,
    PromoteOption,
    RegisteredNameArgument,
    SeedOption,
    SkipUnreadableOption,
    SplitOption,
    TargetOption,
)
from flows.cli.output import Output, show_champion, skipped_lines, verdict_text
from flows.cli.parsing import stated_policy
from flows.cli.session import session
from sfda.errors import BadInput

if TYPE_CHECKING:  # these import torch
    from tasks.audit import AuditStanding


def promote(
    name: RegisteredNameArgument,
    version: str,
    notify: NotifyOption = None,
    json: JsonOption = False,
) -> None:
    """Make a version of a model the champion."""
    with session(json, flow=True) as out:
        from flows.promote import promote as flow
        from tasks.tracking import forget_move

        show_champion(out, flow(name, version, notify))
        forget_move(name)


def rollback(
    name: RegisteredNameArgument, notify: NotifyOption = None, json: JsonOption = False
) -> None:
    """Make the champion before this one the champion again."""
    with session(json, flow=True) as out:
        from flows.rollback import rollback as flow
        from tasks.tracking import forget_move

        show_champion(out, flow(name, notify))
        forget_move(name)  # from now on the same words mean the one before


def audit(
    folder: Annotated[Path | None, typer.Argument(help="the folder of an audit")] = None,
    answers: Annotated[
        list[Path] | None,
        typer.Argument(help="the page's files, the CSV, Label Studio's or CVAT's exports"),
    ] = None,
    candidate: Annotated[
        str | None, typer.Option(help="models:/NAME@candidate, models:/NAME/3, a bundle")
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="default: the champion of that name, else its source")
    ] = None,
    target: Annotated[str | None, typer.Option(help="a manifest, or a folder of images")] = None,
    out: Annotated[Path | None, typer.Option(help="a new folder for the questions")] = None,
    budget: Annotated[int | None, typer.Option(min=1, help="answers that decide; 40")] = None,
    decision: DecisionOption = None,
    before: Annotated[
        list[Path] | None, typer.Option(help="an earlier audit of these images, used again")
    ] = None,
    split: SplitOption = "adapt",
    skip_unreadable: SkipUnreadableOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    person: Annotated[str, typer.Option(help="a second person: for agreement alone")] = "",
    write_manifest: Annotated[
        bool, typer.Option("--write-manifest", help="answers become the target's next version")
    ] = False,
    promote: PromoteOption = False,
    notify: NotifyOption = None,
    json: JsonOption = False,
) -> None:
    """Ask a person, blind, where two models differ; with a folder, take answers and decide."""
    asks = candidate is not None or target is not None or out is not None
    models = [uri for uri in (candidate, against) if uri]
    needs_server, data = promote or notify is not None, [target] if target else []
    with session(json, flow=needs_server, models=models, data=data) as output:
        if notify:
            from tasks.prefect_runtime.notify import check_block

            check_block(notify)
        if folder is not None:
            if asks or against or before:
                raise BadInput("name the folder of an audit, or models to audit, not both")
            _take(output, folder, answers or [], person, write_manifest, promote, notify)
            return
        if promote or person or write_manifest:
            raise BadInput("--promote, --person and --write-manifest go with an audit's folder")
        if candidate is None or target is None or out is None:
            raise BadInput(
                "an audit needs --candidate, --target and --out; with answers: sfda audit DIR "
                "ANSWERS"
            )
        from sfda.adaptation.target import as_manifest
        from sfda.annotation.audit.questions import AUDIT_FILE
        from sfda.loading.opened import manifest_ref
        from sfda.policy import DecisionPolicy
        from tasks.audit import ask_audit, audit_job, notify_of_audit, standing
        from tasks.readable import readable_splits
        from tasks.tracking.models import model_ref

        stated = stated_policy(decision) or {}
        policy = DecisionPolicy.from_settings(stated | ({"budget": budget} if budget else {}))
        uri = candidate
        manifest = manifest_ref(as_manifest(target, lambda: problem_of_model(uri)))
        manifest, skipped = readable_splits(
            model_ref(candidate), manifest, [split, "test"], skip_unreadable, target
        )
        job = audit_job(candidate, against, manifest, split, policy, seed)
        again = (out / AUDIT_FILE).is_file()  # another than this one is refused
        request = ask_audit(out, job, before or [], device)
        now = standing(out)
        notify_of_audit(notify, now)
        text = f"{out}: {len(request.questions)} questions to a person; audit.html may be sent"
        text = "\n".join([text + ("; done already" if again else ""), *skipped_lines(skipped)])
        _show_audit(output, now, text, out, {"skipped": list(skipped)})


def _take(
    output: Output,
    folder: Path,
    answers: list[Path],
    person: str,
    write_manifest: bool,
    promote: bool,
    notify: str | None,
) -> None:
    """Take answers part by part, with where the audit stands after each; then the verdict."""
    from tasks.audit import conclude, notify_of_audit, standing, take_part

    parts: list[dict[str, Any]] = []
    for path in answers:
        taken = take_part(folder, path, person)
        parts.append({"name": taken.name, "answers": taken.fresh, "again": taken.again})
        what = "taken already" if taken.again else f"{taken.fresh} new answers"
        now = standing(folder)
        if not output.as_json:
            output.show({}, f"{path}: {what}\n{now.result.text(now.request)}")
    more: dict[str, Any] = {"parts": parts}
    now, text = standing(folder), ""
    if answers or promote:
        now = conclude(now, promote=promote)
    if answers and now.kind != "hold":
        from tasks.prefect_runtime.resume import go_on

        more["resumed"] = go_on(folder, folder)
        text = f"run {more['resumed']} goes on" if more["resumed"] else ""
        notify_of_audit(notify, now)
    if not answers:
        text = now.result.text(now.request)
    if write_manifest:
        from sfda.annotation.audit.answers import taken_answers
        from sfda.annotation.audit.as_labels import write_labels

        written = write_labels(now.request, taken_answers(folder, now.request).answers)
        more["manifest"] = str(written.manifest)
        text = f"{text}\n{written.manifest}: {written.labels} answers are labels now".strip()
    _show_audit(output, now, text, folder, more)


def _show_audit(
    output: Output,
    standing: AuditStanding,
    text: str,
    folder: Path,
    more: dict[str, Any] | None = None,
) -> None:
    """Where an audit stands; the verdict and what to type next come last."""
    result = {
        "audit": str(folder),
        "questions": len(standing.request.questions),
        "change": standing.request.change.model_dump(),
        **standing.result.model_dump(mode="json", exclude={"verdict"}),
        "kind": standing.kind,
        "verdict": standing.sentence,
        "promoted": standing.promoted,
        "next": list(standing.next_commands),
        **(more or {}),
    }
    output.show(result, f"{text}\n{verdict_text(result)}".strip())


def shadow(
    candidate: Annotated[str, typer.Option(help="models:/NAME@candidate, a bundle")],
    data: TargetOption,
    out: Annotated[Path, typer.Option(help="a folder for the answers of both")],
    champion: Annotated[
        str | None, typer.Option(help="default: the champion of the candidate's name")
    ] = None,
    split: SplitOption = "adapt",
    skip_unreadable: SkipUnreadableOption = None,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Answer a batch with the champion, and with a candidate beside it: how much would change."""
    with session(json) as output:
        from flows.addresses import registered_name
        from sfda.adaptation.target import as_manifest
        from tasks.shadow import answer_in_shadow
        from tasks.tracking.models import model_ref

        present = model_ref(champion or f"models:/{registered_name(candidate)}@champion")
        manifest = as_manifest(data, lambda: present.problem)
        other = model_ref(candidate)
        report = answer_in_shadow(
            present, other, manifest, split, out, device, skip_unreadable, data
        )
        result = {"champion": present.uri, "candidate": other.uri, **report.model_dump()}
        output.show(result, f"{out}: {present.uri} answers; {other.uri} {report.text()}")


def monitor(
    name: RegisteredNameArgument,
    target: Annotated[
        str | None, typer.Option(help="a manifest, or a folder of images: write this week's")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="a new folder for them; default: below the home")
    ] = None,
    split: SplitOption = "adapt",
    skip_unreadable: SkipUnreadableOption = None,
    decision: DecisionOption = None,
    notify: NotifyOption = None,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Watch a champion by a few questions a week; without --target, decide by the answers."""
    with session(json, flow=True, data=[target] if target else []) as output:
        from sfda.adaptation.target import as_manifest
        from sfda.loading.opened import manifest_ref
        from sfda.policy import DecisionPolicy
        from tasks.monitor import ask_week, conclude_weeks
        from tasks.prefect_runtime.notify import check_block, notify_verdict
        from tasks.readable import readable_splits
        from tasks.tracking.models import model_ref

        check_block(notify)

        text, more = "", {}
        if target is not None:
            uri = f"models:/{name}@champion"
            manifest = manifest_ref(as_manifest(target, lambda: problem_of_model(uri)))
            policy = DecisionPolicy.from_settings(stated_policy(decision) or {})
            part = [split, "test"]
            manifest, skipped = readable_splits(
                model_ref(uri), manifest, part, skip_unreadable, target
            )
            folder, request = ask_week(name, manifest, split, policy, out, device)
            lines = [f"{folder}: {len(request.questions)} questions of this week"]
            text = "\n".join([*lines, *skipped_lines(skipped), ""])
            more = {"audit": str(folder), "skipped": list(skipped)}
        now = conclude_weeks(name)
        if more or now.rolled_back_to:
            notify_verdict(notify, name, f"{text}{now.sentence}", now.next_commands)
        result = {
            "name": name,
            "champion": now.monitor.champion,
            "before": now.monitor.before,
            **now.state.model_dump(),
            "rolled_back_to": now.rolled_back_to,
            "verdict": now.sentence,
            "next": list(now.next_commands),
            **more,
        }
        output.show(result, text + verdict_text(result))


def register(app: typer.Typer) -> None:
    """Put these commands on the command line."""
    for command in (promote, rollback, audit, shadow, monitor):
        app.command()(command)
