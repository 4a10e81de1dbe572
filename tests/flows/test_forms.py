"""Forms of flows: one group of settings with descriptions, choices and defaults; flat names too."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import flows
from flows import presets
from flows.adapt import adapt
from flows.ask_and_adapt import ask_and_adapt
from flows.compare import compare
from flows.deployments import read_jobs
from flows.refresh_target import refresh_target
from sfda import plugins
from sfda.errors import BadInput
from sfda.settings import AdaptSettings, RunSettings

GROUPED = {"adapt": adapt, "refresh": refresh_target, "ask": ask_and_adapt, "compare": compare}
every_form = pytest.mark.parametrize("flow", GROUPED.values(), ids=GROUPED)
MOST = 30  # lines of a flow's body


def shown(flow: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every field of a flow's form, by its path: parameters, and those of their groups."""
    schema = flow.parameters.model_dump()
    yield from ((f"{flow.name}.{name}", field) for name, field in schema["properties"].items())
    for group, model in schema["definitions"].items():
        if group in ("AdaptSettings", "RunSettings", "Schedule", "Views", "RefreshPolicy"):
            for name, field in model["properties"].items():
                yield f"{flow.name}.{group}.{name}", field
                assert "default" in field, f"{flow.name}.{group}.{name}"


def choices(field: dict[str, Any]) -> list[str]:
    """What a field's form offers."""
    return next((one["enum"] for one in [field, *field.get("anyOf", [])] if "enum" in one), [])


@every_form
def test_every_field_of_a_form_is_described(flow):
    silent = [path for path, field in shown(flow) if len(field.get("description", "")) < 8]
    assert not silent


@every_form
def test_every_field_has_its_default_and_says_what_it_needs(flow):
    own = flow.parameters.model_dump()
    bare = {name for name, field in own["properties"].items() if "default" not in field}
    assert bare == set(own["required"])
    assert len(own["properties"]) <= 7
    assert "adaptation" in own["properties"]


@every_form
def test_forms_offer_what_there_is(flow):
    fields = {path.partition(".")[2]: field for path, field in shown(flow)}
    group = flow.settings.__name__
    assert choices(fields[f"{group}.select_by"]) == [*plugins.names("validators"), "last"]
    assert choices(fields[f"{group}.device"]) == ["auto", "cpu", "cuda"]
    if flow is not compare:
        assert choices(fields[f"{group}.method"]) == [*plugins.names("methods"), "auto"]
        assert choices(fields["Schedule.optimizer"]) == ["sgd", "adam", "adamw"]


def test_settings_that_are_stated_flat_go_into_the_group():
    group = AdaptSettings(seed=7, epochs=9)
    inputs = {"source": "toy", "target": "t.yaml", "method": "shot", "epochs": 3}
    for stated in (inputs, inputs | {"adaptation": None}):
        checked = adapt.validate_parameters(stated)
        assert checked["adaptation"] == AdaptSettings(method="shot", epochs=3)
    for before in (group, {"seed": 7, "epochs": 9}):  # what is flat lies above
        checked = adapt.validate_parameters(inputs | {"adaptation": before})
        assert checked["adaptation"] == AdaptSettings(method="shot", epochs=3, seed=7)
    with pytest.raises(Exception, match="epoch"):
        adapt.validate_parameters(inputs | {"epoch": 3})
    with pytest.raises(Exception, match="did you mean 'shot'"):
        adapt.validate_parameters(inputs | {"method": "shoot"})


def test_a_flow_s_own_parameter_is_not_taken_for_the_group_s():
    """`budget` asks for labels; the time of the epochs was `time_budget`."""
    inputs = {"model": "toy", "target": "t.yaml", "by": "random", "budget": "1%"}
    checked = ask_and_adapt.validate_parameters(inputs | {"time_budget": "30m", "seed": 1})
    assert checked["budget"] == "1%"
    assert checked["adaptation"] == AdaptSettings(budget="30m", seed=1)
    stated = {"source": "a", "target": "t.yaml", "methods": ["aad"], "settings": {"aad": {}}}
    checked = compare.validate_parameters(stated | {"epochs": 2})
    assert (checked["settings"], checked["adaptation"]) == ({"aad": {}}, RunSettings(epochs=2))


PARAMETERS_0_1_0 = {
    adapt: "source target method settings schedule views select_by epochs seed name split "
    "test_split promote device workers budget",
    refresh_target: "target source method settings policy target_name labels name select_by epochs "
    "seed split promote budget announce device",
    ask_and_adapt: "model target by budget method settings query_settings name select_by epochs "
    "seed split promote time_budget patience device",
    compare: "source target methods seeds settings views select_by epochs split test_split device "
    "workers",
}


@every_form
def test_all_parameters_of_0_1_0_are_still_taken(flow):
    names = set(PARAMETERS_0_1_0[flow].split())
    assert names <= {*flow.parameters.properties, *flow.flat_names}
    assert presets.allowed_for(flow) >= names - {"source", "target"}


def test_the_server_takes_flat_values_of_deployments_that_it_has():
    """What stands in its database was stated before there was a group."""
    from prefect.utilities.schema_tools.validation import is_valid_schema, validate

    schema = adapt.parameters.model_dump_for_openapi()
    is_valid_schema(schema)
    stated = {"source": "models:/a/1", "target": "t.yaml", "epochs": 3, "name": "a"}
    validate(stated, schema, raise_on_error=True, ignore_required=True)
    validate(stated | {"select_by": None}, schema, raise_on_error=True, ignore_required=True)
    with pytest.raises(Exception, match="-1"):
        validate({"adaptation": {"seed": -1}}, schema, raise_on_error=True, ignore_required=True)


WRONG = {"epochs": 0, "method": "shoot", "views": {"flip": 3}, "epoch": 3, "budget": "soon"}


@pytest.mark.flow
@pytest.mark.parametrize("name", WRONG)
def test_the_server_refuses_a_wrong_flat_value_before_there_is_a_run(prefect_api, name):
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError

    from flows.deployments import deployments

    (made,) = [one for one in deployments(()) if one.flow_name == "adapt"]
    address = made.apply()
    stated = {"source": "models:/a/1", "target": "t.yaml", "seed": 3}
    with get_client(sync_client=True) as client:
        form = client.read_deployment(address).parameter_openapi_schema
        assert set(form["properties"]) == {"source", "target", "adaptation"}
        run = client.create_flow_run_from_deployment(address, parameters=stated)
        assert run.parameters == stated
        with pytest.raises(PrefectHTTPStatusError, match="409") as caught:
            client.create_flow_run_from_deployment(address, parameters=stated | {name: WRONG[name]})
    assert name in caught.value.response.text


JOBS_0_1_0 = """
jobs:
  - name: site
    every: 1h
    target: /data/new_site
    source: models:/scanner@source
    labels: /data/tested.csv
    register_as: site
    method: shot
    settings: {pseudo_weight: 0.1, schedule: {lr: 0.01}}
    select_by: last
    epochs: 2
    seed: 3
    split: adapt
    promote: true
    budget: 30m
    device: cpu
    policy: {min_files: 5}
"""


def test_a_jobs_file_of_0_1_0_is_read(tmp_path):
    from flows.deployments import deployments

    file = tmp_path / "jobs.yaml"
    file.write_text(JOBS_0_1_0)
    (site,) = [d for d in deployments(read_jobs(file)) if d.name == "site"]
    assert set(site.parameters) == {
        "target", "source", "labels", "policy", "target_name", "adaptation"
    }  # fmt: skip
    checked = refresh_target.validate_parameters(site.parameters)
    assert checked["policy"].min_files == 5
    assert checked["adaptation"] == AdaptSettings(
        method="shot", settings={"pseudo_weight": 0.1, "schedule": {"lr": 0.01}}, select_by="last",
        epochs=2, seed=3, name="site", promote=True, budget="30m", device="cpu",
    )  # fmt: skip
    file.write_text(JOBS_0_1_0.replace("epochs: 2", "epochs: 0"))
    with pytest.raises(BadInput, match=r"jobs\.yaml: job site: .*epochs"):
        read_jobs(file)


def test_very_many_jobs_are_refused_by_their_number(tmp_path):
    file = tmp_path / "jobs.yaml"
    file.write_text("jobs:\n" + "  - {}\n" * 501)
    with pytest.raises(BadInput, match=r"lists 501 jobs, more than 500 \(SFDA_LIMIT_JOBS raises"):
        read_jobs(file)


def test_a_jobs_file_may_state_the_group(tmp_path):
    file = tmp_path / "jobs.yaml"
    file.write_text(
        "jobs:\n  - {name: site, every: 1h, target: /data, source: 'models:/a/1', "
        "adaptation: {method: aad, name: b}}\n"
    )
    (job,) = read_jobs(file)
    checked = refresh_target.validate_parameters(
        {"target": job.target, "source": job.source, **job.parameters}
    )
    assert checked["adaptation"] == AdaptSettings(method="aad", name="b")


def test_settings_lie_above_the_schedule():
    asked = AdaptSettings.from_settings(
        {"schedule": {"lr": 0.5, "epochs": 4}, "settings": {"push": 2.0, "schedule": {"lr": 0.1}}}
    )
    overrides = asked.overrides
    assert (overrides["push"], overrides["schedule"]["lr"]) == (2.0, 0.1)
    assert overrides["schedule"]["epochs"] == 4
    assert AdaptSettings().overrides == {}


def bodies() -> Iterator[tuple[str, int]]:
    """Every flow, and the lines of its body without the docstring."""
    for file in sorted(Path(flows.__file__).parent.glob("*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and any(
                isinstance(one, ast.Call) and getattr(one.func, "id", "") == "flow"
                for one in node.decorator_list
            ):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                yield f"{file.stem}.{node.name}", int(body[-1].end_lineno) - body[0].lineno + 1


def test_the_body_of_a_flow_is_short():
    sizes = dict(bodies())
    assert len(sizes) >= 11
    assert not {name: size for name, size in sizes.items() if size >= MOST}


def test_a_deployments_flat_parameters_pass_prefects_start_of_a_run():
    """There parameters are held against the function's signature before they are checked."""
    from types import SimpleNamespace

    from prefect.flow_engine import _flow_parameters

    from flows.ask_and_adapt import ask_and_adapt

    stored = {"model": "m", "target": "t", "by": "margin", "budget": "6"}
    run = SimpleNamespace(parameters=stored | {"method": "lp_ft", "epochs": 1, "time_budget": "9m"})
    checked = ask_and_adapt.validate_parameters(_flow_parameters(ask_and_adapt, run, None))
    settings = checked["adaptation"]
    assert (settings.method, settings.epochs, settings.budget) == ("lp_ft", 1, "9m")
    assert checked["budget"] == "6"
