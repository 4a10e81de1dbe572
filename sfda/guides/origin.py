"""What a guide is made of: its address resolved to files and digests, before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, cast

from sfda.config import Config
from sfda.errors import BadInput, listed
from sfda.guides.table import GuideKind
from sfda.guides.texts import class_texts
from sfda.manifests.digests import file_digest, key_of
from sfda.problems.registry import PROBLEMS
from sfda.refs import ModelRef
from sfda.settings import GuideSettings

LIBRARY_NAMES: dict[str, str] = {
    "timm": "timm",
    "torchvision": "torchvision",
    "clip": "open_clip_torch",
}
GUIDE_FORMS = (
    "csv:FILE, timm:ARCH@FILE, torchvision:ARCH@FILE, clip:ARCH@FILE, a model's address, or self"
)
FILE_KINDS = ("csv", *LIBRARY_NAMES)


class GuideOrigin(Config):
    """A guide with its files, each by its digest; `digest` does not depend on where they lie."""

    kind: GuideKind
    arch: str = ""
    file: str = ""  # of weights or answers; the folder of a bundle
    sha256: str = ""
    library: str = ""
    class_file: str | None = None
    class_sha256: str | None = None
    names: tuple[str, ...] = ()  # of the model's classes, as texts
    templates: tuple[str, ...] = ()
    settings: GuideSettings

    @property
    def temperature(self) -> float | Literal["match"]:
        """What divides its logits."""
        usual: float | Literal["match"] = 1.0 if self.kind in ("clip", "csv") else "match"
        return self.settings.temperature or usual

    @property
    def provides(self) -> frozenset[str]:
        """What its table has: logits, features, text."""
        own = {"csv": {"logits"}, "clip": {"logits", "features", "text"}}
        return frozenset(own.get(self.kind, {"logits", "features"}))

    def key(self, **target: object) -> str:
        """Digest of all that fixes its table on a target."""
        own = self.model_dump(mode="json", exclude={"file", "class_file", "settings"})
        asked = self.settings.model_dump(mode="json", include={"quick_gelu", "input"})
        return key_of(**own, **asked, **target)

    @property
    def digest(self) -> str:
        """Digest of the guide and of how its answers are taken, whatever the target."""
        return self.key(temperature=self.temperature)


def guide_origin(
    settings: GuideSettings, source: ModelRef, resolve: Callable[[str], tuple[Path, ModelRef]]
) -> GuideOrigin:
    """The origin of a guide for a source model. `resolve` gives folder and reference of a model's
    address. Raises BadInput where a file is missing, or the guide is the source itself.
    """
    if not PROBLEMS[source.problem].one_class_an_image:
        raise BadInput(f"guides are for one class an image, and this model is for {source.problem}")
    head, _, rest = settings.uri.partition(":")
    if head in FILE_KINDS:
        own = _of_file(cast("GuideKind", head), rest, settings)
    elif settings.uri == "self":
        own = {"kind": "self", "sha256": source.sha256}
    else:
        own = _of_model(settings, source, resolve)
    own |= _class_file(settings.classes)
    if own["kind"] in ("self", "csv", "clip") and settings.classes:
        raise BadInput(f"--guide-classes is not for a guide of the kind {own['kind']}")
    if own["kind"] != "clip" and (settings.names or settings.templates):
        raise BadInput("names and templates are texts, which a clip guide alone has")
    if own["kind"] == "clip":
        own |= class_texts(settings, source.classes)._asdict()
    return GuideOrigin(**own, settings=settings)


def _of_file(kind: GuideKind, rest: str, settings: GuideSettings) -> dict[str, Any]:
    arch, at, file = ("", "@", rest) if kind == "csv" else rest.partition("@")
    if kind == "clip" and arch.startswith("local-dir:") and not at:
        at, file = "@", arch.removeprefix("local-dir:")
    if not at or not file:
        raise BadInput(
            f"'{settings.uri[:200]}' names no file: weights are a local file, {kind}:ARCH@FILE; "
            "nothing is downloaded"
        )
    path = Path(file)
    if not path.is_file() and not (arch.startswith("local-dir:") and path.is_dir()):
        raise BadInput(
            f"no file {path} of the guide {settings.uri[:200]}; fetch its weights yourself and "
            "name them there, since nothing is downloaded"
        )
    own: dict[str, Any] = {"kind": kind, "arch": arch, "file": str(path.absolute())}
    if kind in LIBRARY_NAMES:
        own["library"] = f"{LIBRARY_NAMES[kind]} {_installed(kind)}"
    return own | {"sha256": _content(path)}


def _content(path: Path) -> str:
    if path.is_file():
        return file_digest(path.absolute())
    files = sorted(file for file in path.iterdir() if file.is_file())
    return key_of(files={file.name: file_digest(file.absolute()) for file in files})


def _installed(kind: str) -> str:
    try:
        return version(LIBRARY_NAMES[kind])
    except ModuleNotFoundError:
        raise BadInput("a clip guide needs open_clip: pip install 'sfda[clip]'") from None


def _of_model(
    settings: GuideSettings, source: ModelRef, resolve: Callable[[str], tuple[Path, ModelRef]]
) -> dict[str, Any]:
    if not settings.uri.startswith(("models:/", "runs:/")) and not Path(settings.uri).is_dir():
        raise BadInput(f"'{settings.uri[:200]}' is no guide; write {GUIDE_FORMS}")
    folder, model = resolve(settings.uri)
    if model.problem != source.problem:
        raise BadInput(f"{settings.uri} is for {model.problem}, the source for {source.problem}")
    if model.sha256 == source.sha256:
        raise BadInput(f"{settings.uri} is the source model itself: that is no second opinion")
    return {"kind": "model", "arch": model.arch, "file": str(folder), "sha256": model.sha256}


def _class_file(file: str | None) -> dict[str, Any]:
    if file is None:
        return {}
    path = Path(file)
    if not path.is_file():
        raise BadInput(f"no file {file} that says which of the guide's classes are which")
    return {"class_file": str(path.absolute()), "class_sha256": file_digest(path.absolute())}


def refuse_lacking(needs: frozenset[str], origin: GuideOrigin | None, method: str) -> None:
    """Raise BadInput unless a guide provides what a method needs of one."""
    kinds = {
        "features": "timm:, torchvision:, clip:, a model, or self",
        "logits": "any kind",
        "text": "clip:",
    }
    if origin is None:
        if needs:
            raise BadInput(f"{method} needs a guide; name one with --guide: {GUIDE_FORMS}")
        return
    if lacking := sorted(needs - origin.provides):
        have = "; ".join(f"{name}: {kinds[name]}" for name in lacking)
        raise BadInput(
            f"{method} needs {listed(lacking)} of its guide, and {origin.kind}: has none ({have})"
        )
