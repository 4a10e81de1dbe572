"""The house of docs/design.md: no circles, small folders and files, plain names of one meaning.

These tests read the sources and import nothing, so they cost a second or two.
"""

import ast
import builtins
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("sfda", "tasks", "flows")
FILES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
OPEN = {
    "methods",
    "online",
    "validators",
    "queries",
    "families",
}  # as many files as there are methods
COMMAND = re.compile(r"\bsfda [a-z][a-z-]*\b[^`]* \{|\bopen \{")  # sfda's, with a name in it
MOST_FILES, MOST_LINES, MOST_LONG = 15, 300, 3
HARD_WORDS = {"found", "given", "kept", "place", "told", "wanted", "said"}
MODULE_NAMES = {"__file__", "__name__", "__path__"}
ANYWHERE = {"EXPORT", "log", "main"}  # every module may have one: they mean the same in all


@pytest.fixture(scope="module")
def trees() -> dict[Path, ast.Module]:
    """Every source file, parsed."""
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def lines(faults: Iterable[str]) -> str:
    """All of them, one a line: pytest would shorten the list."""
    return "\n".join(faults)


def module_of(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


def imported(tree: ast.Module, modules: set[str]) -> Iterator[str]:
    """The modules of ours that this one imports, wherever: also for types, also in functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                below = f"{node.module}.{alias.name}"
                name = below if below in modules else node.module
                if name in modules:
                    yield name


def test_no_two_modules_import_each_other(trees):
    modules = {module_of(path) for path in trees}
    edges = {module_of(path): set(imported(tree, modules)) for path, tree in trees.items()}
    circles = sorted(
        f"{one} <-> {other}"
        for one, others in edges.items()
        for other in others
        if one < other and one in edges[other]
    )
    assert not circles, lines(circles)


def test_no_import_is_relative(trees):
    """Such a one would hide from the test of circles."""
    relative = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert not relative, lines(relative)


def test_a_folder_is_small_enough_to_be_read():
    counts = defaultdict(int)
    for path in FILES:
        folder = path.parent.relative_to(ROOT)
        if folder.parts[0] == "sfda" and folder.name not in OPEN:
            counts[str(folder)] += 1
    full = [f"{name}: {count} files" for name, count in counts.items() if count > MOST_FILES]
    assert not full, lines(full)


def test_a_long_file_says_why_and_there_are_few(trees):
    sizes = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in trees}
    long = {str(path.relative_to(ROOT)): size for path, size in sizes.items() if size > MOST_LINES}
    # its docstring says "long because ...", or there is a second idea in it
    silent = [
        name for name in long if "long because" not in (ast.get_docstring(trees[ROOT / name]) or "")
    ]
    assert not silent, lines(silent)
    assert len(long) <= MOST_LONG, lines(long)


def test_the_formatter_formats_everything(trees):
    skipped = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in trees
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if "# fmt:" in line
    ]
    assert not skipped, lines(skipped)


def test_commands_are_made_of_words_not_of_text(trees):
    """What a name holds would be a command to the shell that it is pasted into."""
    pasted = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr) and COMMAND.search(ast.unparse(node))
    ]
    assert not pasted, lines(pasted)


def names_in(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Every name that the module gives to something, or asks something for."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.lineno, node.name
            case ast.Name(ctx=ast.Store()):
                yield node.lineno, node.id
            case ast.arg() | ast.keyword():
                yield node.lineno, node.arg or ""
            case ast.Attribute():
                yield node.lineno, node.attr
            case ast.alias():
                yield node.lineno, node.asname or ""
            case ast.MatchAs() | ast.MatchStar():
                yield node.lineno, node.name or ""


def test_names_are_nouns_of_the_thing(trees):
    hard = [
        f"{path.relative_to(ROOT)}:{line} {name}"
        for path, tree in trees.items()
        for line, name in names_in(tree)
        if name.strip("_") in HARD_WORDS
    ]
    assert not hard, lines(hard)


def bound_names(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Import() | ast.ImportFrom():
                yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name
            case ast.Name(ctx=ast.Store()):
                yield node.id
            case ast.arg():
                yield node.arg
            case ast.ExceptHandler() | ast.MatchAs() | ast.MatchStar():
                yield node.name or ""
            case ast.MatchMapping():
                yield node.rest or ""


def test_every_name_is_bound(trees):
    """Ruff and mypy have to be silent about this: to them shapes such as "B C" are names."""
    unbound = []
    for path, tree in trees.items():
        known = {*bound_names(tree), *dir(builtins), *MODULE_NAMES}
        unbound += [
            f"{path.relative_to(ROOT)}:{node.lineno} {node.id}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Name) and node.id not in known
        ]
    assert not unbound, lines(unbound)


def public_names(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                names = [node.name]
            case ast.Assign():
                names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            case ast.AnnAssign(target=ast.Name()):
                names = [node.target.id]
            case _:
                names = []
        yield from (name for name in names if not name.startswith("_"))


def same_meaning(name: str, paths: list[Path]) -> bool:
    """Whether a name that several modules define is one idea in parallel modules, or one verb that
    goes through the layers: the library's function, its task, its flow and its command.
    """
    parts = [path.relative_to(ROOT).parts for path in paths]
    if name in ANYWHERE or all(part[:2] == ("sfda", "demo") for part in parts):
        return True
    if all(part[:2] == ("sfda", "problems") for part in parts):
        return len({part[-1] for part in parts}) == 1
    if name == "register" and any(part[:2] == ("flows", "cli") for part in parts):
        paths = [path for path, part in zip(paths, parts, strict=True) if part[1] != "cli"]
        return len(paths) < 2 or same_meaning(name, paths)
    layers = [part[:2] if part[:2] == ("flows", "cli") else part[:1] for part in parts]
    return name.islower() and len(set(layers)) == len(layers)


def test_a_public_name_has_one_meaning(trees):
    defined = defaultdict(list)
    for path, tree in trees.items():
        if path.is_relative_to(ROOT / "sfda/testing/toys"):
            continue  # what their names mean, `Toy` says
        for name in dict.fromkeys(public_names(tree)):
            defined[name].append(path)
    double = [
        f"{name}: {', '.join(map(module_of, paths))}"
        for name, paths in defined.items()
        if len(paths) > 1 and not same_meaning(name, paths)
    ]
    assert not double, lines(double)


PROBLEM_FOLDERS = sorted(path.parent for path in (ROOT / "sfda/problems").glob("*/__init__.py"))
NETWORKS = {"Classifier", "MultilabelClassifier", "Segmenter", "Detector", "PoseNet"}
MOST_PLACES = 20


def test_few_places_know_a_problem(trees):
    """A place outside of `sfda/problems` that names a problem or tests for its network; demos and
    COCO's field of that name are among them.
    """
    names = {folder.name for folder in PROBLEM_FOLDERS}
    places = []
    for path, tree in trees.items():
        if path.is_relative_to(ROOT / "sfda/problems"):
            continue
        for node in ast.walk(tree):
            match node:
                case ast.Constant(value=str(value)) if value in names:
                    places.append(f"{path.relative_to(ROOT)}:{node.lineno} {value}")
                case ast.Call(func=ast.Name(id="isinstance" | "issubclass"), args=[_, kinds]):
                    asked = {n.id for n in ast.walk(kinds) if isinstance(n, ast.Name)} & NETWORKS
                    places += [f"{path.relative_to(ROOT)}:{node.lineno} {n}" for n in asked]
    assert len(places) <= MOST_PLACES, lines(places)


def test_the_files_of_a_problem_are_called_alike():
    """What the interface asks of a folder lies in the file that its docstring names."""
    interface = [ROOT / f"sfda/problems/{name}.py" for name in ("_base", "_outputs", "_rows")]
    asked = {
        node.args[0].value
        for path in interface
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "_file"
        and isinstance(node.args[0], ast.Constant)
    }
    assert asked
    lacking = [
        f"{folder.name}/{name}.py"
        for folder in PROBLEM_FOLDERS
        for name in sorted(asked)
        if not (folder / f"{name}.py").is_file() and not overridden(folder, name)
    ]
    assert not lacking, lines(lacking)


def overridden(folder: Path, name: str) -> bool:
    """Whether a problem answers itself what that file would answer: it has none then."""
    answers = {"card": "make_card", "panel": "draw_changed"}
    return name in answers and f"def {answers[name]}(" in (folder / "__init__.py").read_text()
