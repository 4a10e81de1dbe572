"""What README and docs/ say there is, is there: links, commands, options, targets, files."""

from __future__ import annotations

import importlib
import importlib.util
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *(ROOT / name for name in ("data_manifests/README.md", "tests/golden/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
SPECIFICATIONS = [p for p in PAGES if p.parent.name == "methods" and p.name != "index.md"]
OF_THIS_VERSION = [  # specifications speak of what is to come, CHANGELOG of what has gone
    p for p in PAGES if p not in SPECIFICATIONS and p.name != "CHANGELOG.md"
]
TOP = ("sfda", "tasks", "flows", "tests", "infra", "docs", "data_manifests")
MADE_LATER = ("infra/secrets.env",)


def titled(page: Path) -> str:
    return str(page.relative_to(ROOT))


@cache
def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@cache
def fences(page: Path) -> list[tuple[str, str]]:
    """Language and text of every fenced block."""
    return re.findall(r"^```(\S*)\n(.*?)^```", read(page), re.M | re.S)


@cache
def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", read(page), flags=re.M | re.S)


@cache
def code_spans(page: Path) -> list[str]:
    """Inline code, as one line each."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(page))]


@cache
def command_lines(page: Path) -> list[str]:
    """Lines of shell in blocks and inline code; continued lines are one, comments are left out."""
    lines = [
        line
        for language, block in fences(page)
        if language in ("", "bash")
        for line in block.replace("\\\n", " ").splitlines()
    ]
    return [
        re.split(r"\s#\s|\s&&\s|\s>\s", line)[0].strip() for line in [*lines, *code_spans(page)]
    ]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as a code host makes them."""
    titles = re.findall(r"^#+ +(.+?)\s*$", prose(page), re.M)
    plain = [re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", title) for title in titles]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in plain}


def links(page: Path) -> Iterator[str]:
    text = re.sub(r"`[^`]*`", "", prose(page))
    yield from re.findall(r"\]\(([^)\s]+)\)", text)


@cache
def commands() -> dict[str, set[str]]:
    """Every command of `sfda` with its options."""
    import typer.main

    from flows.cli.app import app

    group: Any = typer.main.get_command(app)
    return {
        name: {opt for p in command.params for opt in p.opts if opt.startswith("--")} | {"--help"}
        for name, command in group.commands.items()
    }


@cache
def targets() -> set[str]:
    """The targets of the Makefile."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.+)$", makefile, re.M)
    return set(phony.split())


def shown_commands(page: Path) -> Iterator[tuple[str, set[str], str]]:
    """Command, its options and the line, for every call of `sfda` that a page shows."""
    for line in command_lines(page):
        if match := re.search(r"(?:^|[ ;])(?:\S*/bin/)?sfda ([a-z][\w-]*)(.*)$", line):
            shown = set(re.findall(r"(?<=[ (])(--[a-z][\w-]*)", match[2]))
            yield match[1], shown, line


every_page = pytest.mark.parametrize("page", PAGES, ids=titled)
current_page = pytest.mark.parametrize("page", OF_THIS_VERSION, ids=titled)


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    dead = []
    for link in links(page):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            dead.append(link)
    assert not dead


@current_page
def test_commands_and_their_options_exist(page: Path) -> None:
    wrong = []
    for name, options, line in shown_commands(page):
        if name not in commands() or options - commands()[name]:
            wrong.append(line)
    assert not wrong


@current_page
def test_options_named_alone_exist(page: Path) -> None:
    """Of some command, or of a script of infra/ or tests."""
    scripts = [*(ROOT / "infra").glob("*.py"), *(ROOT / "tests").rglob("__main__.py")]
    known = set().union(*commands().values())
    known |= {opt for file in scripts for opt in re.findall(r'"(--[\w-]+)"', read(file))}
    known |= {"--profile", "--force-exclude"}  # of docker compose and ruff
    named = {m for s in code_spans(page) for m in re.findall(r"(?:^|(?<=[ (]))--[a-z][\w-]*", s)}
    assert not named - known


def test_every_command_and_option_is_documented() -> None:
    """Commands in the tables of README and of docs/commands.md, options on that page."""
    page = ROOT / "docs/commands.md"
    for table in (ROOT / "README.md", page):
        assert set(commands()) == {name for name, _, _ in shown_commands(table)}
    options = set().union(*commands().values())
    assert not {opt for opt in options if not re.search(rf"{opt}(?![\w-])", read(page))}


@every_page
def test_make_targets_exist(page: Path) -> None:
    named = {
        m
        for line in command_lines(page)
        for m in re.findall(r"(?:^|[ ;])make (?:[A-Z]+=\S+ )?([a-z]+)", line)
    }
    assert not named - targets()


def test_every_make_target_is_documented() -> None:
    text = read(ROOT / "CONTRIBUTING.md")
    assert not {name for name in targets() if f"make {name}" not in text}
    helped = re.findall(r'echo "make (\w+)', (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert set(helped) == targets() - {"help"}


@current_page
def test_benchmarks_exist(page: Path) -> None:
    from tests.bench.__main__ import NAMES

    named = [
        name
        for line in command_lines(page)
        for call in re.findall(r"python -m tests\.bench((?: [a-z_]+)*)", line)
        for name in call.split()
    ]
    assert not set(named) - set(NAMES)


@current_page
def test_files_that_are_named_exist(page: Path) -> None:
    code = [*code_spans(page), *(b for lang, b in fences(page) if lang in ("", "bash", "yaml"))]
    pattern = rf"(?<![\w/.$-])((?:{'|'.join(TOP)})/[\w./*-]*[\w*/])"
    named = {m for text in code for m in re.findall(pattern, text) if "NAME" not in m}
    named -= set(MADE_LATER)
    assert not {name for name in named if not any(ROOT.glob(name.rstrip("/")))}


@current_page
def test_modules_that_are_named_exist(page: Path) -> None:
    code = [*code_spans(page), *(block for _, block in fences(page))]
    named = {
        m
        for text in code
        for m in re.findall(r"(?<![\w/.@-])((?:sfda|tasks|flows)(?:\.[a-z_]\w*)+)(?![\w/(-])", text)
    }
    events = {n for n in named if f"{n}.".startswith(("sfda.manifest.", "sfda.model."))}
    assert not {name for name in named - events if not exists(name)}


def exists(name: str) -> bool:
    """Whether a dotted name is a module, or a class or function of one."""
    path = ROOT / name.replace(".", "/")
    if name in {f"sfda.{public}" for public in importlib.import_module("sfda").__all__}:
        return True
    if path.is_dir() or path.with_suffix(".py").is_file():
        return True
    module = path.parent.with_suffix(".py")
    return module.is_file() and bool(
        re.search(rf"^(?:class|def) {path.name}\b", read(module), re.M)
    )


def test_the_migration_tables_lead_to_what_is_there() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \| `([\w.]+)` \|", read(ROOT / "CHANGELOG.md"), re.M)
    assert rows
    assert not [new for _, new in rows if not exists(new)]


def test_the_house_of_design_is_the_tree() -> None:
    """Every room and every module of it; of open rooms new files need not be listed."""
    house = next(b for _, b in fences(ROOT / "docs/design.md") if b.startswith("sfda/\n"))
    shown: dict[str, set[str]] = {}
    top = room = ""
    for line in house.splitlines():
        if match := re.match(r"( *)([\w/]+)/(?:  |$)", line):
            top = top if match[1] else match[2]
            room = f"{top}/{match[2]}" if match[1] else top
            shown[room] = set()
        else:
            shown[room] |= set(line.split())
    folders = {f.parent for name in TOP[:3] for f in (ROOT / name).rglob("__init__.py")}
    tree = {
        titled(folder): {f.stem for f in folder.glob("*.py")} - {"__init__"} for folder in folders
    }
    del tree["flows/presets"]
    for name in ("methods", "validators", "queries", "networks/families"):
        tree[f"sfda/{name}"] &= shown[f"sfda/{name}"]
    assert shown == tree, "docs/design.md, The house: list what the folders hold"


@pytest.mark.parametrize("page", OF_THIS_VERSION, ids=titled)
def test_code_that_is_shown_is_the_file_s(page: Path) -> None:
    """A block that begins with the name of a file of ours holds lines of it, in order."""
    for language, block in fences(page):
        match = re.match(r"# ((?:sfda|tasks|flows)/\S+\.py)\n", block)
        if language != "python" or not match:
            continue
        source = iter((ROOT / match[1]).read_text(encoding="utf-8").splitlines())
        for line in block.splitlines()[1:]:
            if line.strip() not in ("", "..."):
                assert line in source, f"{match[1]} has no line {line!r} there"


def test_docstrings_cite_specifications_that_are_there() -> None:
    cited = {
        (file, name)
        for top in TOP[:4]
        for file in (ROOT / top).rglob("*.py")
        if file != Path(__file__)
        for name in re.findall(r"docs/[\w/-]+\.md", file.read_text(encoding="utf-8"))
    }
    assert not {(str(file), name) for file, name in cited if not (ROOT / name).is_file()}


def test_one_version() -> None:
    import sfda

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (newest, *_) = re.findall(r"^## (\d+\.\d+\.\d+)", read(ROOT / "CHANGELOG.md"), re.M)
    assert project["version"] == sfda.__version__ == newest


def test_pictures_are_small_and_used() -> None:
    used = {
        (page.parent / link).resolve()
        for page in PAGES
        for link in re.findall(r"!\[[^\]]*\]\(([^)\s]+)\)", read(page))
    }
    pictures = set((ROOT / "docs/images").iterdir())
    assert pictures == used
    assert max(p.stat().st_size for p in pictures) < 200_000


def test_the_pages_build_and_load_nothing_from_elsewhere(tmp_path: Path) -> None:
    """What `make docs` does, without its setup."""
    if importlib.util.find_spec("sphinx") is None:
        pytest.skip("sphinx is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going",
         "--doctree-dir", str(tmp_path / "trees"), str(ROOT / "docs"), str(tmp_path / "html")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    pages = list((tmp_path / "html").rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        html = page.read_text(encoding="utf-8")
        assert not re.findall(r'<(?:script|img|iframe|source)[^>]*src="(?:https?:)?//[^"]*"', html)
        assert not re.findall(r'<link[^>]*href="(?:https?:)?//[^"]*"', html)
    for sheet in (tmp_path / "html").rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        assert not re.findall(r"(?:url\(|@import )['\"]?(?:https?:)?//", text)
