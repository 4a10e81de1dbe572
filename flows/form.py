"""Forms of flows: names that Prefect's form offers, and one group of settings for an adaptation."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar

from prefect import Flow
from prefect.utilities.callables import ParameterSchema
from pydantic import BaseModel

from sfda.adaptation.supervised import BOUND
from sfda.config import merged
from sfda.settings import AdaptSettings, NameIn, RunSettings

QueryName = Annotated[str, NameIn("queries")]
ComparedName = Annotated[str, NameIn("methods", BOUND)]
SETTINGS_GROUP = "adaptation"  # the parameter of a flow that is a group of settings
USUAL = AdaptSettings()  # what is meant where nothing is asked for
USUAL_RUN = RunSettings()

_P = ParamSpec("_P")
_R = TypeVar("_R")


class FlatSchema(ParameterSchema):
    """A form whose server also checks what is stated flat, and refuses what is no parameter.

    Flat names stand where a form shows no fields of them. Both are called as in JSON Schema.
    """

    patternProperties: dict[str, Any]
    additionalProperties: bool


class GroupedFlow(Flow[_P, _R]):
    """A flow whose parameter `adaptation` is a group of settings that may also be stated flat.

    Version 0.1.0 knew no groups: its deployments, jobs and callers state `epochs=3` and not
    `adaptation={"epochs": 3}`. A name that is a parameter of the flow itself stays that.
    """

    renamed: Mapping[str, str]  # old flat names -> names in the group
    body: Callable[..., Any]  # the function as it was written; `fn` takes the flat names, too

    @property
    def settings(self) -> type[RunSettings]:
        """The model of the group."""
        signature = inspect.signature(self.body, eval_str=True)
        kind: type[RunSettings] = signature.parameters[SETTINGS_GROUP].annotation
        return kind

    @property
    def flat_names(self) -> dict[str, str]:
        """Names that may be stated flat, and what they are called in the group."""
        own = set(self.parameters.properties)
        names = {name: name for name in self.settings.model_fields} | dict(self.renamed)
        return {flat: name for flat, name in names.items() if flat not in own}

    def grouped(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """The same parameters with the flat ones put into the group, above what it states; a flat
        one that is None states nothing.
        """
        names = self.flat_names
        stated = {name: value for name, value in parameters.items() if name in names}
        rest = {name: value for name, value in parameters.items() if name not in names}
        flat = {names[name]: value for name, value in stated.items() if value is not None}
        if not flat:
            return rest
        group = rest.get(SETTINGS_GROUP) or {}
        if isinstance(group, BaseModel):
            group = group.model_dump(exclude_unset=True)
        return rest | {SETTINGS_GROUP: merged(group, flat)}

    def validate_parameters(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Prefect's check, of grouped parameters and the function as it was written."""
        plain = copy.copy(self)
        plain.fn = self.body
        return Flow.validate_parameters(plain, self.grouped(parameters))

    if not TYPE_CHECKING:  # for the type checker a call states the group

        def __call__(self, *args, **kwargs):
            return super().__call__(*args, **self.grouped(kwargs))


def takes_flat(**renamed: str) -> Callable[[Flow[_P, _R]], GroupedFlow[_P, _R]]:
    """Let a flow's settings also be stated flat; `renamed` are old names of some of them."""

    def wrap(flow: Flow[_P, _R]) -> GroupedFlow[_P, _R]:
        made: GroupedFlow[_P, _R] = GroupedFlow.__new__(GroupedFlow)
        made.__dict__.update(flow.__dict__)  # Prefect warns of two flows that are made of one name
        made.renamed, made.body = renamed, flow.fn
        made.fn = _taking_flat_names(made)
        made.parameters = _flat_schema(made)
        return made

    return wrap


def _flat_schema(flow: GroupedFlow[Any, Any]) -> FlatSchema:
    """The flow's form, with what the group says of a field for the flat name of it."""
    own = flow.parameters
    fields = own.definitions[flow.settings.__name__]["properties"]
    flat = {
        f"^{name}$": {"anyOf": [fields[in_group], {"type": "null"}]}
        for name, in_group in flow.flat_names.items()
    }
    return FlatSchema(**own.model_dump(), patternProperties=flat, additionalProperties=False)


def _taking_flat_names(flow: GroupedFlow[Any, Any]) -> Callable[..., Any]:
    """The flow's function with the flat names in its signature: where Prefect starts the run of a
    deployment, it holds the run's parameters against that before it checks them.
    """
    signature = inspect.signature(flow.body)
    flat = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Any)
        for name in sorted(flow.flat_names)
    ]

    @functools.wraps(flow.body)
    def call(*args: Any, **kwargs: Any) -> Any:
        return flow.body(*args, **flow.grouped(kwargs))

    every = [*signature.parameters.values(), *flat]
    call.__signature__ = signature.replace(parameters=every)  # type: ignore[attr-defined]
    return call
