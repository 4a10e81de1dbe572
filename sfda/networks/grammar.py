"""What `--arch` says, for every problem: a library and a network in it, or somebody's own class.

    LIBRARY:NAME              a family of sfda/networks/families, or of another distribution:
                              torchvision:resnet50, timm:convnext_tiny, smp:unet/resnet18, sfda:tiny
    package.module:Class      any importable class of networks, or a function that makes one
    FILE.py:Class             the same in a file of one's own, which travels in the bundle

For poses `pose:resnet50`, `pose:timm:NAME` and `pose:tiny` are older words for
`torchvision:resnet50`, `timm:NAME` and `sfda:tiny`; models that state them stay what they are.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from sfda import plugins
from sfda.errors import BadInput
from sfda.networks.families._base import Answer, Family

MODULE = re.compile(r"(?P<module>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):(?P<name>[A-Za-z_]\w*)")
FILE = re.compile(r"(?P<file>.*?[\w.-]+\.py):(?P<name>[A-Za-z_]\w*)")
FOLDER = "networks"
OLD_WORD = "pose:"
PROPOSED = ("sfda", "torchvision")  # whose names are proposed where no library was named


class Arch(NamedTuple):
    """A library by name, and what is asked of it."""

    library: str
    name: str


def parse(arch: str, answer: Answer) -> Arch:
    """Library and name of a network that a library has for a problem. Raises BadInput.

    >>> parse("torchvision:resnet50", "classes")
    Arch(library='torchvision', name='resnet50')
    >>> parse("pose:timm:resnet18", "joints")
    Arch(library='timm', name='resnet18')
    """
    library, _, name = _modern(arch, answer).partition(":")
    if library in plugins.names(FOLDER) and answer in family(library).answers:
        known = family(library).known(name, answer)
        if known is not None:
            return Arch(library, known)
    raise BadInput(_unknown(arch, answer))


def family(library: str) -> Family:
    """The family of a name. Raises BadInput."""
    made: Family = plugins.load(FOLDER, library)()
    return made


def is_foreign(arch: str) -> bool:
    """Whether an arch names a class of somebody's own, and not a network of a library.

    >>> is_foreign("my_lab.models:Net"), is_foreign("./net.py:Net"), is_foreign("timm:resnet18")
    (True, True, False)
    """
    if arch.partition(":")[0] in {*plugins.names(FOLDER), OLD_WORD[:-1]}:
        return False
    return bool(MODULE.fullmatch(arch) or FILE.fullmatch(arch))


def _modern(arch: str, answer: Answer) -> str:
    """Without the older words for poses."""
    name = arch.removeprefix(OLD_WORD)
    if answer != "joints" or not arch.startswith(OLD_WORD) or not name:
        return arch
    if name == "tiny":
        return "sfda:tiny"
    return name if name.startswith("timm:") else f"torchvision:{name}"


def _unknown(arch: str, answer: Answer) -> str:
    """What to say of a name that no library has."""
    library, colon, name = arch.partition(":")
    name = name if colon else arch
    libraries = plugins.names(FOLDER)
    own = [library] if library in libraries and answer in family(library).answers else []
    near = [n for one in own or PROPOSED for n in family(one).alike(name, answer)]
    forms = [family(one).forms.get(answer) or f"{one}:<name>" for one in serving(answer)]
    ways = ", ".join([*forms, "package.module:Class or FILE.py:Class"])
    hint = f"; did you mean {', '.join(near)}?" if near else ""
    return f"no architecture '{arch}' for {answer}: it is written {ways}{hint}"


def serving(answer: Answer) -> list[str]:
    """The libraries that have networks for a problem."""
    return [one for one in plugins.names(FOLDER) if answer in family(one).answers]
