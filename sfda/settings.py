"""What a run is told: how it is optimised, and all that an adaptation can be asked for."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from sfda import plugins
from sfda.bounds.limits import DURATION_DAYS
from sfda.bounds.limits import LIMITS as LIMITS
from sfda.config import Config, merged
from sfda.documents import cut_off
from sfda.errors import BadInput
from sfda.policy import DecisionPolicy
from sfda.refs import InputSpec, Views

DeviceName = Literal["auto", "cpu", "cuda"]
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class NameIn:
    """The type of a name in an open folder: a form lists what there is, and others are refused."""

    def __init__(self, folder: str, *more: str) -> None:
        self.folder, self.more = folder, more

    def _check(self, name: str) -> str:
        if name not in self.more:
            plugins.load(self.folder, name)
        return name

    def __get_pydantic_core_schema__(
        self, source: type[str], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"type": "string", "enum": [*plugins.names(self.folder), *self.more]}


AUTO = "auto"  # the method that the target's profile recommends
MethodName = Annotated[str, NameIn("methods")]
AdaptedBy = Annotated[str, NameIn("methods", AUTO)]
ValidatorName = Annotated[str, NameIn("validators", "last")]
Epochs = Annotated[int, Field(ge=1, description="overrides the method's own number of epochs")]
SkippedShare = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Duration = Annotated[
    str, Field(pattern=r"^\d+(\.\d+)?[smhd]$", description="a time, as 90s, 30m, 2h, 1d")
]


def seconds_of(duration: str | None) -> float | None:
    """A time in seconds. Raises BadInput for what is none.

    >>> seconds_of("30m"), seconds_of("1.5h")
    (1800.0, 5400.0)
    """
    if duration is None:
        return None
    try:
        seconds = float(duration[:-1]) * UNITS[duration[-1:]]
    except (ValueError, KeyError):
        seconds = -1.0
    if not seconds > 0:
        raise BadInput(
            f"'{cut_off(duration)}' is no time; write a number above 0 and a unit: 90s, 30m, 2h"
        )
    if seconds > DURATION_DAYS.most * UNITS["d"]:
        met = DURATION_DAYS.refusal(f"{seconds / UNITS['d']:.4g}")
        raise BadInput(f"'{cut_off(duration)}' is too long: {met}")
    return seconds


class Schedule(Config):
    """How a run is optimised. Defaults: SHOT's (Liang et al., ICML 2020, arXiv:2002.08546)."""

    optimizer: Literal["sgd", "adam", "adamw"] = Field("sgd", description="the optimiser")
    lr: PositiveFloat = Field(1e-2, description="learning rate at the start")
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd alone")
    nesterov: bool = Field(True, description="Nesterov's momentum; of sgd alone")
    weight_decay: NonNegativeFloat = Field(1e-3, description="decay of the weights")
    decay: Literal["shot", "poly", "steps", "none"] = Field(
        "shot", description="how the learning rate falls over the run"
    )
    decay_every: PositiveInt = Field(20, description="epochs between two steps; of steps alone")
    decay_factor: float = Field(0.9, gt=0, le=1, description="of each step; of steps alone")
    batch_size: int = Field(64, ge=1, description="images a step")
    drop_last: bool = Field(False, description="leave out an epoch's last batch if it is smaller")
    epochs: PositiveInt = Field(
        15, description="times that the target is gone through, or parts of the run: see steps"
    )
    steps: PositiveInt | None = Field(
        None, description="steps of the whole run, in so many equal epochs; none: see epochs"
    )
    steps_per_epoch: PositiveInt | None = Field(
        None, description="steps of an epoch, after which the network is scored; none: one pass"
    )
    clip_norm: PositiveFloat | None = Field(
        None, description="largest norm of the gradient; none: not limited"
    )

    def epoch_steps(self, a_pass: int) -> int:
        """Steps of one epoch, where going through the target once takes `a_pass`.

        >>> Schedule().epoch_steps(40), Schedule(steps=1000, epochs=15).epoch_steps(40)
        (40, 67)
        >>> Schedule(steps_per_epoch=500).epoch_steps(40)
        500
        """
        if self.steps_per_epoch is not None:
            return self.steps_per_epoch
        return a_pass if self.steps is None else -(-self.steps // self.epochs)

    def with_epochs(self, epochs: int) -> Schedule:
        """The same with another number of epochs: of what a person asks for it is said last."""
        both = self.steps is not None and self.steps_per_epoch is not None
        return self.model_copy(update={"epochs": epochs} | ({"steps": None} if both else {}))

    @model_validator(mode="before")
    @classmethod
    def _count_epochs(cls, stated: object) -> object:
        """Where both numbers of steps are stated, they state how many epochs there are."""
        if isinstance(stated, dict):
            match stated.get("steps"), stated.get("steps_per_epoch"):
                case int(steps), int(each) if steps > 0 and each > 0:
                    return {**stated, "epochs": -(-steps // each)}
        return stated


Prior = dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]]


Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class GuideSettings(Config):
    """A frozen second model, or a table of answers that were made elsewhere."""

    uri: str = Field(
        "self",
        description="csv:FILE, timm:ARCH@FILE, torchvision:ARCH@FILE, clip:ARCH@FILE, a model's "
        "address, a bundle folder, or self",
    )
    classes: str | None = Field(
        None, description="a YAML file: which of the guide's classes are which of the model's"
    )
    names: str | None = Field(
        None, description="of clip: a file with better names of the classes, one a line"
    )
    templates: str | None = Field(
        None, description="of clip: a file of sentences, one a line, each with one {}"
    )
    temperature: Positive | Literal["match"] | None = Field(
        None, description="divides its logits; match: to the source's spread; none: by its kind"
    )
    quick_gelu: bool | None = Field(
        None, description="of clip: whether the weights were trained with QuickGELU"
    )
    input: InputSpec | None = Field(
        None, description="of timm and torchvision: how it wants its images; none: as its arch"
    )


class RunSettings(Config):
    """What every run on a target can be asked for, whichever its method."""

    select_by: ValidatorName | None = Field(
        None, description="what chooses the epoch, without labels; none: by problem and method"
    )
    epochs: Epochs | None = Field(
        None, description="instead of the method's own number of epochs; none: its own"
    )
    views: Views | None = Field(None, description="random views of images; none: the model's own")
    split: str = Field("adapt", description="the split of the target that is adapted to")
    test_split: str | None = Field(
        None, description="the labelled split of the report; none: test, where there is one"
    )
    prior: Prior | None = Field(
        None, description="shares of the target's classes, where they are known; none: unknown"
    )
    guide: GuideSettings | None = Field(
        None, description="a second opinion that guided methods learn from; none: nobody's"
    )
    decision: DecisionPolicy = Field(
        DecisionPolicy(), description="when the result becomes champion, and what is vetoed"
    )
    device: DeviceName = Field("auto", description="where it is computed; auto: a GPU if there is")
    workers: int = Field(0, ge=0, description="processes that load images")
    skip_unreadable: SkippedShare | None = Field(
        None, description="share of images that may be broken and left out; none: 10, or 1 %"
    )


class AdaptSettings(RunSettings):
    """All that an adaptation can be asked for, besides the model and the target."""

    method: AdaptedBy | None = Field(
        None, description="the way to adapt; none: the problem's usual one; auto: as profiled"
    )
    settings: dict[str, Any] | None = Field(
        None, description="settings of the method, put over its defaults part by part"
    )
    schedule: Schedule | None = Field(
        None, description="how it is optimised, all of it; none: the method's own schedule"
    )
    seed: Seed = Field(0, description="of all random numbers")
    name: str | None = Field(
        None, description="the name that the result is registered under; none: the source's"
    )
    promote: bool = Field(False, description="make it champion if the verdict says so")
    again: bool = Field(
        False, description="register anew what the same work has registered already"
    )
    notify: str | None = Field(
        None, description="a Prefect block that tells people of a verdict; none: nobody is told"
    )
    budget: Duration | None = Field(
        None, description="time for the epochs, as 30m: the best until then is taken; none: all"
    )

    @property
    def overrides(self) -> dict[str, Any]:
        """The method's settings as they were asked for: `settings` over `schedule`."""
        stated = {"schedule": self.schedule.model_dump()} if self.schedule else {}
        return merged(stated, self.settings or {})
