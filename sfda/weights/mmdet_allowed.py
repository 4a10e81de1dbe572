"""What a stored mmdet configuration may name: a model is data, and opening one runs nothing else.

mmengine imports whatever a dotted `type` says and calls it; mmcv evaluates the `type` of an NMS. So
all of a configuration is looked at before anything is built, and while it is built mmengine's own
imports by name are closed.
"""

from __future__ import annotations

import importlib
import inspect
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any, overload

from sfda.bounds.limits import MMDET_COUNT, MMDET_LEVELS, MMDET_VALUES
from sfda.errors import BadInput
from sfda.networks.foreign.trusted import is_never_trusted, trusted_packages

KEY = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
WORD = re.compile(r"[A-Za-z0-9_.,+\- ]{0,200}")
# where mmdet's, mmcv's and our registered classes may come from
SOURCES = (
    "mmdet.models",
    "mmcv.cnn.bricks",
    "mmcv.ops",
    "mmengine.model.averaged_model",
    "mmengine.utils.dl_utils.parrots_wrapper",
    "torch.nn.modules",
    "sfda.networks",
)
# of these: what reads files, fetches, evaluates strings, or is no detector of single images
CLOSED = (
    "mmdet.models.detectors.d2_wrapper",
    "mmdet.models.detectors.glip",
    "mmdet.models.detectors.grounding_dino",
    "mmdet.models.detectors.kd_one_stage",
    "mmdet.models.detectors.lad",
    "mmdet.models.dense_heads.atss_vlfusion_head",
    "mmdet.models.dense_heads.grounding_dino_head",
    "mmdet.models.language_models",
    "mmdet.models.mot",
    "mmdet.models.reid",
    "mmdet.models.task_modules.tracking",
    "mmdet.models.test_time_augs",
    "mmdet.models.trackers",
    "mmdet.models.tracking_heads",
    "mmdet.models.vis",
)
# words that mmdet and mmcv look up themselves, not in a registry
WORDS = frozenset({"conv", "interpolation_conv", "last_conv", "dilation", "offset"})
NMS = frozenset({"nms", "soft_nms"})
ROI_LAYERS = frozenset(
    {"RoIAlign", "RoIPool", "SimpleRoIAlign", "DeformRoIPoolPack", "ModulatedDeformRoIPoolPack"}
)
# keys by which mmengine and mmdet import, read a program, or load weights
REFUSED_KEYS = frozenset(
    {
        "checkpoint",
        "custom_imports",
        "func",
        "import",
        "imports",
        "lang_model_name",
        "language_model",
        "runner_type",
        "teacher_ckpt",
        "teacher_config",
    }
)
LONGEST_PACKAGE = 40  # characters of a name that a remedy repeats
TRUST_REMEDY = (
    "if you trust whoever made this model, say --trust-code {package} (in jobs SFDA_TRUST_CODE)"
)

_one_at_a_time = threading.RLock()


@overload
def without_other_weights(config: Mapping[str, Any]) -> dict[str, Any]: ...
@overload
def without_other_weights(config: object) -> object: ...
def without_other_weights(config: object) -> object:
    """The same without what would load weights from elsewhere: a bundle's own are all it gets."""
    if isinstance(config, list | tuple):
        return [without_other_weights(item) for item in config]
    if not isinstance(config, Mapping):
        return config
    return {
        name: None if name in ("init_cfg", "pretrained") else without_other_weights(part)
        for name, part in config.items()
    }


def check_size(config: object) -> None:
    """Raise BadInput for a configuration that is too deep, too large or no plain data."""
    deepest, most, largest = MMDET_LEVELS.most, MMDET_VALUES.most, MMDET_COUNT.most
    for number, (path, depth, value) in enumerate(_nodes(config)):
        if depth > deepest or number > most:
            limit = MMDET_LEVELS if depth > deepest else MMDET_VALUES
            raise BadInput(
                f"this model's mmdet configuration has {limit.beyond} at {path[:80]}: no "
                "detector's has"
            )
        plain = value is None or isinstance(value, Mapping | list | tuple | str | int | float)
        if not plain:
            raise BadInput(f"{path} of this model's mmdet configuration is no plain data")
        if isinstance(value, int) and abs(value) > largest:
            raise BadInput(
                f"{path[:80]} of this model's mmdet configuration counts {MMDET_COUNT.beyond}: no "
                "detector counts so far"
            )


def check_names(config: object, *, registered: Mapping[str, Any]) -> None:
    """Raise BadInput for the first thing that a stored configuration may not name.

    `registered` are mmdet's and mmengine's classes of models and their task utilities by name.
    """
    for path, _, value in _nodes(config):
        if isinstance(value, str) and not WORD.fullmatch(value):
            raise BadInput(
                f"{path} of this model's mmdet configuration is {value[:80]!r}: only plain words "
                "may stand there, no addresses, paths or programs"
            )
        if isinstance(value, str) and value in registered:
            _check_class(path, value, registered[value])
        if not isinstance(value, Mapping):
            continue
        for key in value:
            if not isinstance(key, str) or not KEY.fullmatch(key) or key in REFUSED_KEYS:
                raise BadInput(
                    f"{path or 'its top'} of this model's mmdet configuration has the key "
                    f"{str(key)[:80]!r}, by which it could load what is not its own: refused"
                )
        if (name := value.get("type")) is not None:
            _check_type(f"{path}.type".lstrip("."), name, registered)


def _check_type(path: str, name: object, registered: Mapping[str, Any]) -> None:
    if isinstance(name, str) and (name in WORDS | NMS | ROI_LAYERS or name in registered):
        return  # those registered were looked at as words
    package = str(name).partition(".")[0]
    if isinstance(name, str) and "." in name and package in trusted_packages():
        return
    raise BadInput(
        f"{path} of this model's mmdet configuration is {str(name)[:80]!r}, which is no module "
        f"that mmdet registers; {_remedy(package)}"
    )


def _remedy(package: str) -> str:
    if is_never_trusted(package):
        return "do not open it: it is made to run something on this machine"
    is_name = package.isidentifier() and len(package) <= LONGEST_PACKAGE
    return TRUST_REMEDY.format(package=package if is_name else "PACKAGE")  # to be typed in a shell


def _check_class(path: str, name: str, kind: object) -> None:
    module = str(getattr(kind, "__module__", ""))
    if inspect.isclass(kind) and _below(module, SOURCES) and not _below(module, CLOSED):
        return
    package = module.partition(".")[0]
    if package in trusted_packages():
        return
    if _below(module, SOURCES):
        raise BadInput(
            f"{path} of this model's mmdet configuration names {name} of {module}, which reads "
            "files or is no detector of images: it cannot be opened here"
        )
    raise BadInput(
        f"{path} of this model's mmdet configuration names {name} of {module}, which is not "
        f"mmdet's own code; {_remedy(package)}"
    )


def _below(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def _nodes(config: object) -> Iterator[tuple[str, int, Any]]:
    """Path, depth and value of everything in a configuration, without recursion."""
    waiting: list[tuple[str, int, Any]] = [("", 0, config)]
    while waiting:
        path, depth, value = waiting.pop()
        yield path, depth, value
        if isinstance(value, Mapping):
            waiting += [(f"{path}.{k}".lstrip("."), depth + 1, v) for k, v in value.items()]
        elif isinstance(value, list | tuple):
            waiting += [(f"{path}[{n}]", depth + 1, v) for n, v in enumerate(value)]


def registered_classes() -> dict[str, Any]:
    """What mmdet would find by a plain name among models and task utilities."""
    from mmdet.registry import MODELS, TASK_UTILS

    classes: dict[str, Any] = {}
    for registry in (TASK_UTILS, MODELS):
        for part in (registry.parent, registry):
            classes |= part.module_dict
    return classes


def import_trusted_() -> None:
    """Import the packages whose code the person trusts, so that they register what they have."""
    for package in sorted(word for word in trusted_packages() if "@" not in word):  # no files
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise BadInput(f"--trust-code {package}: it cannot be imported: {error}") from error


def _own_of_trusted(name: str, kind: object) -> object:
    """What a dotted name came to, if a trusted package made it and not what that imports."""
    owner = str(getattr(kind, "__module__", "")).partition(".")[0]
    if inspect.isclass(kind) and owner in trusted_packages():
        return kind
    raise BadInput(
        f"this model's mmdet configuration names {name[:80]!r}, which is no class of the package "
        f"that is trusted but of {owner[:40] or 'another'}: refused"
    )


@contextmanager
def imports_closed() -> Iterator[None]:
    """While mmengine builds, a name that is not registered is an error, never an import.

    Configurations are checked before; this holds where a class makes a `type` out of another word.
    """
    from mmengine.registry import registry

    real_object, real_module = registry.get_object_from_string, registry.import_module
    trusted = {"mmdet", "mmcv", "mmengine"} | trusted_packages()

    def module(name: str, package: str | None = None) -> ModuleType:
        if name.partition(".")[0] not in trusted:
            raise ImportError(f"{name} is not imported for a model")
        imported: ModuleType = real_module(name, package)
        return imported

    def named(name: str) -> object:
        if "." in name and name.partition(".")[0] in trusted_packages():
            return _own_of_trusted(name, real_object(name))
        raise BadInput(f"mmdet has no {name[:80]!r}; nothing is imported for a model")

    with _one_at_a_time:
        registry.get_object_from_string, registry.import_module = named, module
        try:
            yield
        finally:
            registry.get_object_from_string, registry.import_module = real_object, real_module
