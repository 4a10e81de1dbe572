"""What `sfda serve` offers: every flow as a form, and the jobs of a file with their schedules."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from prefect import Flow
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.types.entrypoint import EntrypointType
from pydantic import Field, ValidationError, model_validator

from flows.adapt import adapt
from flows.ask_and_adapt import ask_and_adapt
from flows.audit import audit
from flows.clean import clean
from flows.compare import compare
from flows.pipeline import pipeline
from flows.promote import promote
from flows.query_labels import query
from flows.refresh_target import refresh_target
from flows.rollback import rollback
from flows.tune import tune
from sfda.bounds.limits import JOB_COUNT
from sfda.config import Config, read_yaml, say_faults
from sfda.errors import BadInput
from sfda.retention.policy import RetentionPolicy
from sfda.settings import Duration, seconds_of

NIGHTLY = "30 3 * * *"
TAGS = ["sfda"]  # the automations look for it
FORMS: tuple[tuple[Flow[..., Any], str], ...] = (
    (adapt, "adapt"),
    (refresh_target, "refresh"),
    (compare, "compare"),
    (query, "query"),
    (ask_and_adapt, "ask"),
    (audit, "audit"),
    (pipeline, "pipeline"),
    (tune, "tune"),
    (promote, "promote"),
    (rollback, "rollback"),
    (clean, "clean"),
)


ALONE = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)


class Job(Config):
    """A target that is looked at again and again; the other keys are those of `refresh_target`."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)
    every: Duration | None = None
    cron: str | None = None
    timezone: str = "UTC"
    target: str
    source: str
    register_as: str | None = None  # default: the source's name
    parameters: dict[str, Any] = {}

    @model_validator(mode="after")
    def _one_schedule(self) -> Job:
        if (self.every is None) == (self.cron is None):
            raise ValueError("give `every` (30m) or `cron` (0 2 * * *), one of them")
        return self


class Cleaning(RetentionPolicy):
    """When a home is cleaned, and of what."""

    cron: str = NIGHTLY
    timezone: str = "UTC"


class Jobs(Config):
    """The file that `sfda serve --jobs` reads."""

    jobs: tuple[Job, ...] = ()
    clean: Cleaning | Literal[False] = Cleaning()

    @model_validator(mode="after")
    def _distinct(self) -> Jobs:
        names = [job.name for job in self.jobs]
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"two jobs are called {', '.join(twice)}")
        return self


def read_jobs(file: Path) -> tuple[Job, ...]:
    """The jobs of a YAML file. Raises BadInput that names every fault.

    Keys of a job beyond its name, schedule, target and source are parameters of `refresh_target`.
    Relative targets and bundles are relative to the file.
    """
    return read_schedule(file).jobs


def read_schedule(file: Path) -> Jobs:
    """The same, with when the home is cleaned."""
    raw = read_yaml(file, "it should list jobs, see docs/operations.md")
    if not isinstance(raw, dict) or not isinstance(raw.get("jobs"), list):
        raise BadInput(f"{file} should have a key `jobs`, a list")
    if len(raw["jobs"]) > JOB_COUNT.most:
        raise BadInput(f"{file} lists {JOB_COUNT.refusal(len(raw['jobs']))}")
    own = set(Job.model_fields) - {"parameters"}
    entries = []
    for entry in raw["jobs"]:
        if not isinstance(entry, dict):
            raise BadInput(f"{file}: a job is a mapping with name, target, source and a schedule")
        more = {k: v for k, v in entry.items() if k not in own}
        entries.append({k: v for k, v in entry.items() if k in own} | {"parameters": more})
    try:
        stated = Jobs.model_validate({**raw, "jobs": entries})
    except ValidationError as error:
        raise BadInput(f"{file}: {say_faults(error, Jobs, 'jobs')}") from None
    jobs = tuple(
        job.model_copy(
            update={"target": _beside(file, job.target), "source": _beside(file, job.source)}
        )
        for job in stated.jobs
    )
    for job in jobs:
        _check(job, file)
    if stated.clean:
        seconds_of(stated.clean.older_than)
        _check_cron(stated.clean.cron, stated.clean.timezone, f"{file}: clean")
    return stated.model_copy(update={"jobs": jobs})


def _beside(file: Path, address: str) -> str:
    """An address as it is, a path as one from the file's folder."""
    return address if ":/" in address else str((file.parent / address).absolute())


def _check(job: Job, file: Path) -> None:
    """Raise BadInput where the flow would refuse the job's parameters at every tick."""
    seconds_of(job.every)
    if job.cron:
        _check_cron(job.cron, job.timezone, f"{file}: job {job.name}")
    try:
        refresh_target.validate_parameters(_parameters(job))
    except Exception as error:  # Prefect's own, or pydantic's
        raise BadInput(f"{file}: job {job.name}: {_first_line(error)}") from None


def _check_cron(cron: str, timezone: str, where: str) -> None:
    """Raise BadInput for no schedule, and for one of a day that never comes, such as 30 February:
    Prefect would look for that day every few seconds, and log that it finds none."""
    from prefect.server.schemas.schedules import CronSchedule as ServedSchedule

    try:
        CronSchedule(cron=cron, timezone=timezone)
        asyncio.run(ServedSchedule(cron=cron, timezone=timezone).get_dates(1))
    except ValidationError as error:
        raise BadInput(f"{where}: {_first_line(error)}") from None
    except ValueError:
        raise BadInput(f"{where}: `{cron}` names no day that comes; write another one") from None


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:400]


def _parameters(job: Job) -> dict[str, Any]:
    called = job.parameters.get("target_name") or job.name
    parameters = {**job.parameters, "target_name": called}
    if job.register_as:
        parameters["name"] = job.register_as
    stated = {"target": job.target, "source": job.source, **parameters}
    return refresh_target.grouped(stated)


def deployments(
    jobs: tuple[Job, ...], cleaning: Cleaning | Literal[False] = False
) -> list[RunnerDeployment]:
    """A form for every flow, a scheduled look for every job, and a time for `cleaning` the home.

    A look that is due while the last one still works is left out: the next sees the same.
    """
    forms = [_deployment(flow, name) for flow, name in FORMS]
    return [*forms, *_scheduled(jobs), *([_every_night(cleaning)] if cleaning else [])]


def _every_night(cleaning: Cleaning) -> RunnerDeployment:
    return _deployment(
        clean,
        "every-night",
        parameters={"policy": cleaning.model_dump(include=set(RetentionPolicy.model_fields))},
        schedule=CronSchedule(cron=cleaning.cron, timezone=cleaning.timezone),
        concurrency_limit=ALONE,
    )


def deploy_jobs(jobs: tuple[Job, ...], pool: str) -> list[str]:
    """Put the jobs on a work pool; their names. Its workers need this package installed."""
    scheduled = _scheduled(jobs)
    for deployment in scheduled:
        deployment.work_pool_name = pool
        deployment.apply()
    return [f"{deployment.flow_name}/{deployment.name}" for deployment in scheduled]


def _scheduled(jobs: tuple[Job, ...]) -> list[RunnerDeployment]:
    scheduled = []
    for job in jobs:
        seconds = seconds_of(job.every)
        scheduled.append(
            _deployment(
                refresh_target,
                job.name,
                parameters=_parameters(job),
                interval=timedelta(seconds=seconds) if seconds else None,
                schedule=CronSchedule(cron=job.cron, timezone=job.timezone) if job.cron else None,
                concurrency_limit=ALONE,
            )
        )
    return scheduled


def _deployment(flow: Flow[..., Any], name: str, **more: Any) -> RunnerDeployment:
    made: Any = flow.to_deployment(
        name, tags=TAGS, entrypoint_type=EntrypointType.MODULE_PATH, **more
    )
    made._parameter_openapi_schema = flow.parameters  # it would be read off the signature again
    return made  # type: ignore[no-any-return]
