"""Whose code a network is built by: where it lies, its digest, and whether a person trusts it.

A bundle is data. One whose network is somebody's own class states the code: a package by name,
version and digest of its files, or a source file that lies in the bundle. Neither is imported
before a person has named it: a package by its name, a file by its name and digest, since anybody
can call a file by any name. Who names a class or a file on the command line has named its code.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import linecache
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, lru_cache
from importlib import metadata
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType

from sfda.bounds.files import Unreadable, read_bounded
from sfda.bounds.limits import CODE_BYTES
from sfda.errors import BadInput
from sfda.networks.foreign.trusted import TRUST_CODE, is_never_trusted, trusted_packages
from sfda.networks.grammar import FILE, MODULE, is_foreign
from sfda.refs import NetworkCode

DIGITS = 32  # digits of a digest, of 64: as many a person has to give
_named: ContextVar[frozenset[NetworkCode]] = ContextVar(
    "code named in this call", default=frozenset()
)

log = logging.getLogger("sfda")


@contextmanager
def named_by_person(*codes: NetworkCode | None) -> Iterator[None]:
    """Inside, this code is trusted: a person has named it for what is done here."""
    token = _named.set(_named.get() | {code for code in codes if code is not None})
    try:
        yield
    finally:
        _named.reset(token)


def trust_word(code: NetworkCode) -> str:
    """What `--trust-code` and SFDA_TRUST_CODE take for this code."""
    return code.name if code.kind == "package" else f"{code.name}@{code.sha256[:DIGITS]}"


def check_trusted(code: NetworkCode, arch: str) -> None:
    """Raise BadInput for code that nobody has named: it would run with all that the user may."""
    if code in _named.get():
        return
    words = trusted_packages()
    if code.kind == "package" and code.name in words:
        return
    for word in words:
        name, at, digits = word.partition("@")
        long = at and len(digits) >= DIGITS
        if code.kind == "file" and long and name == code.name and code.sha256.startswith(digits):
            return
    if code.kind == "package" and is_never_trusted(code.name):
        raise BadInput(
            f"this model's network {arch} is code of the package {code.name}, which is part of "
            "Python or of what runs here anyway: do not open it, it can run any command here"
        )
    what = "in this bundle" if code.kind == "file" else f"of the package {code.name}"
    raise BadInput(
        f"this model's network {arch} is code {what}, digest {code.sha256[:DIGITS]}, and opening "
        f"it runs that code; if you trust whoever made it, say --trust-code {trust_word(code)} "
        f"(in jobs and for MLflow {TRUST_CODE}={trust_word(code)})"
    )


def code_of(arch: str) -> tuple[str, NetworkCode]:
    """How a model stores an arch that a person gives, and the code behind it, imported.

    Of a file its name alone is stored, and its source is taken along. Raises BadInput.
    """
    if match := FILE.fullmatch(arch):
        source = _read(Path(match["file"]))
        name = Path(match["file"]).name
        code = NetworkCode(kind="file", name=name, sha256=hashlib.sha256(source).hexdigest())
        with named_by_person(code):
            import_source(code, source)
        return f"{name}:{match['name']}", code
    match = MODULE.fullmatch(arch)
    if match is None:
        raise BadInput(f"{arch}: write package.module:Class or FILE.py:Class")
    top = match["module"].partition(".")[0]
    if top in sys.stdlib_module_names:
        raise BadInput(f"{arch}: {top} is part of Python, which has no networks")
    digest = package_digest(top)
    if digest is None:
        raise BadInput(
            f"--arch {arch}: there is neither a library of networks nor an installed package "
            f"'{top}'; install it, put its folder on PYTHONPATH, or name a file: ./FILE.py:Class"
        )
    return arch, NetworkCode(kind="package", name=top, version=_version(top), sha256=digest)


def _read(file: Path) -> bytes:
    try:
        source = read_bounded(file, CODE_BYTES)
    except OSError as error:
        raise BadInput(f"--arch {file}: the file cannot be read ({error.strerror})") from None
    except Unreadable as error:
        raise BadInput(f"--arch {file} is no source of a network: {error}") from None
    if not re.fullmatch(r"[\w.-]+", file.name):
        raise BadInput(f"{file}: a file that travels is called by letters, digits, '_', '-', '.'")
    return source


def module_of(arch: str, code: NetworkCode) -> tuple[ModuleType, str]:
    """The module that an arch of a spec names, and the name in it; trusted before it is imported.

    Raises BadInput, also where the arch is not of the code that the spec states.
    """
    check_trusted(code, arch)
    match = (FILE if code.kind == "file" else MODULE).fullmatch(arch)
    owner = match and (match["file"] if code.kind == "file" else match["module"].partition(".")[0])
    if match is None or owner != code.name:
        raise BadInput(f"the spec of this model names {arch} and states the code of {code.name}")
    if code.kind == "file":
        module = sys.modules.get(_module_name(code))
        if module is None:
            raise BadInput(f"the source of {arch} was not read: open the bundle that holds it")
        return module, match["name"]
    _compare(code)
    try:
        return importlib.import_module(match["module"]), match["name"]
    except (Exception, SystemExit) as error:  # somebody else's code: it may raise anything
        raise BadInput(
            f"{match['module']} cannot be imported ({reason(error)}); install {code.name} "
            f"{code.version or ''} here".rstrip()
        ) from error


def import_source(code: NetworkCode, source: bytes) -> None:
    """Run a source file as a module of its own; once a process. Raises BadInput."""
    check_trusted(code, code.name)
    if hashlib.sha256(source).hexdigest() != code.sha256:
        raise BadInput(f"{code.name} was changed after the model was written")
    name = _module_name(code)
    if name in sys.modules:
        return
    module = ModuleType(name)
    module.__file__ = f"<{code.name}@{code.sha256[:8]}>"
    module.__dict__["__source__"] = source
    sys.modules[name] = module  # where dataclasses look names up
    try:
        text = source.decode()
        linecache.cache[module.__file__] = len(text), None, text.splitlines(True), module.__file__
        exec(compile(text, module.__file__, "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise BadInput(
            f"{code.name} cannot be imported ({reason(error)}); it travels alone, so it may import "
            "installed packages but no other file"
        ) from error


def source_of(code: NetworkCode) -> bytes:
    """The source of a file whose network lives in this process."""
    source: bytes = vars(sys.modules[_module_name(code)])["__source__"]
    return source


def _module_name(code: NetworkCode) -> str:
    return f"sfda_network_{code.sha256[:DIGITS]}"


@lru_cache
def package_files(package: str, path: tuple[str, ...]) -> tuple[tuple[Path, Path], ...]:
    """Folder and source files of a package, without importing it; `path` is where it is sought."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return ()
    if spec is None:
        return ()
    suffixes = (".py", *EXTENSION_SUFFIXES)
    roots = [Path(folder) for folder in spec.submodule_search_locations or ()]
    files = [(r, f) for r in roots for f in sorted(r.rglob("*")) if f.name.endswith(suffixes)]
    if not roots and spec.origin and Path(spec.origin).is_file():
        files = [(Path(spec.origin).parent, Path(spec.origin))]
    return tuple(files)


def package_digest(package: str) -> str | None:
    """SHA-256 over names and content of a package's source files; None where there is none."""
    files = package_files(package, tuple(sys.path))
    if not files:
        return None
    total = hashlib.sha256()
    for root, file in files:
        digest = hashlib.sha256(file.read_bytes()).digest()
        total.update(str(file.relative_to(root)).encode() + b"\0" + digest)
    return total.hexdigest()


def package_here(arch: str) -> str | None:
    """The digest of the package that an arch names, as it is here now; None for other archs."""
    match = MODULE.fullmatch(arch) if is_foreign(arch) else None
    return package_digest(match["module"].partition(".")[0]) if match else None


def package_folders(code: NetworkCode | None) -> list[Path]:
    """Folders and files that a process must be able to read to import this code."""
    if code is None or code.kind == "file":
        return []
    files = package_files(code.name, tuple(sys.path))
    package = [root for root, file in files if root.name == code.name]
    return sorted({*package, *(file for root, file in files if root.name != code.name)})


@cache
def _compare(code: NetworkCode) -> None:
    """Say it, once, where a package is another one here than where the model was made."""
    here = package_digest(code.name)
    if here is not None and here != code.sha256:
        log.warning(
            "the package %s here (version %s, digest %s) is not the one that the model was made "
            "with (version %s, digest %s): it may answer otherwise",
            code.name,
            _version(code.name) or "unknown",
            here[:16],
            code.version or "unknown",
            code.sha256[:16],
        )


def distribution(package: str) -> str | None:
    """The distribution that a package is of, if it was installed."""
    names = metadata.packages_distributions().get(package)
    return names[0] if names else None


def _version(package: str) -> str | None:
    name = distribution(package)
    return metadata.version(name) if name else None


def reason(error: BaseException) -> str:
    """Kind and text of an error on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def belongs(maker: object, code: NetworkCode) -> bool:
    """Whether a class or function is defined by this code, and not by what that imports."""
    module = str(getattr(maker, "__module__", ""))
    if code.kind == "file":
        return module == _module_name(code)
    return module.partition(".")[0] == code.name
