"""What a command states of a network's input, views and skeleton, over what its architecture or
the model itself states.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.cli.parsing import stated
from sfda.errors import BadInput

if TYPE_CHECKING:
    from sfda.problems._base import AnyProblem
    from sfda.refs import InputSpec, Skeleton, Views

UNSTATED = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


def stated_input(
    arch: str,
    problem: str,
    *,
    arch_settings: dict[str, Any] | None = None,
    new: bool = False,
    file: Path | None = None,
    size: str | None = None,
    resize: str | None = None,
    mean: str | None = None,
    std: str | None = None,
    channels: str | None = None,
    window: str | None = None,
) -> InputSpec | None:
    """An input spec from a YAML file or from single values, over what the architecture states.

    None where nothing is stated. Of a `new` network mean and std need not be: there is nothing
    that they must fit. Of somebody's own class, made with `arch_settings`, a probe pass tells what
    it can. Raises BadInput for what does not make a spec.
    """
    from pydantic import ValidationError

    from sfda.config import say_faults
    from sfda.networks.grammar import is_foreign
    from sfda.refs import InputSpec

    texts = stated(size=size, resize=resize, mean=mean, std=std, channels=channels, window=window)
    if file is None and not texts and not is_foreign(arch):
        return None
    usual = _problem_of(problem).defaults(arch)[0]
    values: dict[str, Any] = usual.model_dump() if usual else dict(UNSTATED if new else {})
    if is_foreign(arch):
        values |= _probed_input(arch, problem, arch_settings or {}, {*values, *texts}, file)
    if file is not None:
        values |= _input_file(file)
    options = {name: _option(name, text) for name, text in texts.items()}
    if "size" in options and "resize" not in options:
        values["resize"] = None
    if options.get("channels") == "gray" and values.get("channels", "rgb") != "gray":
        values |= {name: values[name][:1] for name in ("mean", "std") if name in values}
    try:
        return InputSpec.model_validate({**values, **options})
    except ValidationError as error:
        raise BadInput(say_faults(error, InputSpec, "input")) from None


def _probed_input(
    arch: str, problem: str, settings: dict[str, Any], stated: set[str], file: Path | None
) -> dict[str, Any]:
    """What a probe pass tells of a class's input. Raises BadInput where more must be stated."""
    from sfda.networks.foreign.build import needed_input, usable_input
    from sfda.networks.foreign.code import code_of, named_by_person

    if {"size", "channels"} <= stated or file is not None:
        return {}
    name, code = code_of(arch)
    with named_by_person(code):
        facts = usable_input(name, code, _problem_of(problem).answer, settings)
    if {"size", "mean", "std"} - {*stated, *facts}:
        raise needed_input(arch, facts)
    return facts


def _input_file(file: Path) -> dict[str, Any]:
    from sfda.config import read_yaml

    if not file.is_file():
        raise BadInput(f"no file {file}; it should say size, mean, std and channels as YAML")
    values = read_yaml(file, "it should say size, mean, std and channels")
    if not isinstance(values, dict):
        raise BadInput(f"{file} should say size, mean, std and channels as `name: value` lines")
    return values


def _option(name: str, text: str) -> tuple[int, int] | list[float] | str:
    """The value of an option of this name."""
    if name == "window" and text != "percentile":
        return _numbers(name, text, "0,4095")
    if name in ("size", "resize"):
        return _sides(name, text)
    return _numbers(name, text) if name in ("mean", "std") else text


def _sides(name: str, text: str) -> tuple[int, int]:
    """Height and width.

    >>> _sides("size", "224"), _sides("size", "120x160")
    ((224, 224), (120, 160))
    """
    try:
        sides = [int(part) for part in text.lower().split("x")]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2):
        raise BadInput(f"--{name} {text}: write pixels, 224, or height and width, 120x160")
    return sides[0], sides[-1]


def _numbers(name: str, text: str, such_as: str = "0.5,0.5,0.5") -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise BadInput(f"--{name} {text}: write numbers with commas, e.g. {such_as}") from None


def _problem_of(problem: str) -> AnyProblem:
    """A problem by its name. Raises BadInput for one that is not built yet."""
    from sfda.problems.registry import PROBLEMS

    if problem not in PROBLEMS:
        raise BadInput(f"there are no networks for {problem} yet; there are {', '.join(PROBLEMS)}")
    return PROBLEMS[problem]


def check_problem_of(arch: str, problem: str) -> None:
    """Raise BadInput, with the word to add, for a network of a library that is of other problems
    alone.
    """
    from sfda import plugins
    from sfda.networks.grammar import FOLDER, family
    from sfda.problems.registry import PROBLEMS

    library, _, name = arch.partition(":")
    serving = [library] if library in PROBLEMS else []
    if library in plugins.names(FOLDER):
        kind = family(library)
        able = [one for one, served in PROBLEMS.items() if served.answer in kind.answers]
        having = [one for one in able if kind.known(name, PROBLEMS[one].answer) is not None]
        serving = having if problem in able else able
    if serving and problem not in serving:
        raise BadInput(
            f"no architecture '{arch}' for {_problem_of(problem).answer} (--problem {problem}), "
            f"but for {' and '.join(serving)}: add --problem {serving[0]}"
        )


def new_views(arch: str, problem: str, settings: dict[str, Any]) -> Views | None:
    """An architecture's views with some of them changed; None if none is. Raises BadInput."""
    if not settings:
        return None
    from sfda.refs import Views

    usual = _problem_of(problem).defaults(arch)[1]
    return Views.from_settings({**usual.model_dump(), **settings})


def model_views(uri: str, settings: dict[str, Any]) -> Views | None:
    """A model's own views with some of them changed; None if none is. Raises BadInput."""
    if not settings:
        return None
    from sfda.refs import Views
    from tasks.tracking.models import open_spec

    return Views.from_settings({**open_spec(uri).views.model_dump(), **settings}, "views")


def problem_of_manifest(path: Path) -> str:
    """The problem that a manifest is for. Raises BadInput."""
    from sfda.manifests.opening import parse_manifest

    return parse_manifest(path).problem


def problem_of_model(uri: str) -> str:
    """The problem that a model is for. Raises BadInput."""
    from tasks.tracking.models import open_spec

    return open_spec(uri).problem


def skeleton_of(path: Path | None, problem: str) -> Skeleton | None:
    """The skeleton that a file holds, or None. Raises BadInput, also where it has no meaning."""
    if path is None:
        return None
    from sfda.authoring.from_keypoints import read_skeleton
    from sfda.problems.registry import PROBLEMS

    if "skeleton" not in PROBLEMS[problem].manifest_fields:
        raise BadInput(f"--skeleton is for joints, and this is {problem}")
    return read_skeleton(path)


def with_pairs(skeleton: Skeleton | None, joints: tuple[str, ...], problem: str) -> Skeleton | None:
    """A skeleton with the pairs that the names of joints tell, if it does not state its own; None
    where a problem has no joints.
    """
    from sfda.authoring.left_right import pairs_by_name
    from sfda.problems.registry import PROBLEMS
    from sfda.refs import Skeleton

    if "skeleton" not in PROBLEMS[problem].manifest_fields:
        return None
    skeleton = skeleton or Skeleton()
    if "pairs" in skeleton.model_fields_set:
        return skeleton
    return Skeleton(**{**dict(skeleton), "pairs": pairs_by_name(joints)})


def check_padding(padding: float | None, problem: str) -> None:
    """Raise BadInput for a padding of crops that no model can have."""
    from sfda.problems.registry import PROBLEMS

    if padding is None:
        return
    if "padding" not in PROBLEMS[problem].manifest_fields:
        raise BadInput(f"--padding is for crops of persons, and this is {problem}")
    if not 0 < padding <= 10:
        raise BadInput(f"--padding {padding:g} is no size of a crop: above 0, at most 10")
