"""Whether a server of the user's is named: read as Prefect itself reads it."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from tasks.prefect_runtime import folder_settings
from tasks.prefect_runtime.home import prepare_environment
from tasks.prefect_runtime.secrets import CLIENT, SERVER, know_own_server, lock_own_server
from tasks.prefect_runtime.stated import states_address

TEAM = "http://team:4200/api"
PROFILE = f'active = "team"\n[profiles.team]\nPREFECT_API_URL = "{TEAM}"\n'
FILES = [
    ("", "", {}, False),
    ("", "", {"PREFECT_API_URL": TEAM}, True),
    (".env", f"PREFECT_API_URL={TEAM}\n", {}, True),
    (".env", f"export PREFECT_API_URL = '{TEAM}'\n", {}, True),
    (".env", "PREFECT_LOGGING_LEVEL=DEBUG\n# PREFECT_API_URL=x\nPREFECT_API_URL=\n", {}, False),
    ("prefect.toml", f'[api]\nurl = "{TEAM}"\n', {}, True),
    ("prefect.toml", '[api]\nrequest_timeout = 30\n[logging]\nlevel = "DEBUG"\n', {}, False),
    ("prefect.toml", "api = [", {}, False),
    ("prefect.toml", f'# {"." * 200}\n[api]\nkey = "{"." * 200}"\nurl = "{TEAM}"\n', {}, True),
    ("pyproject.toml", f'[tool.prefect.api]\nurl = "{TEAM}"\n', {}, True),
    ("pyproject.toml", "[tool.prefect.results]\npersist_by_default = true\n", {}, False),
    ("prefect/profiles.toml", PROFILE, {}, True),
    ("prefect/profiles.toml", PROFILE.replace("active", "former"), {}, False),
    ("prefect/profiles.toml", PROFILE, {"PREFECT_PROFILE": "other"}, False),
    ("prefect/profiles.toml", PROFILE.replace("active", "x"), {"PREFECT_PROFILE": "team"}, True),
    ("own.toml", PROFILE, {"PREFECT_PROFILES_PATH": "own.toml"}, True),
]
ASKS = """
import warnings; warnings.simplefilter("ignore")
from prefect.settings import get_current_settings
print(get_current_settings().api.url)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in list(os.environ):
        if name.startswith("PREFECT_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    (tmp_path / "prefect").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(folder_settings, "_ignored", False)  # as in a program of somebody else's
    return tmp_path


@pytest.mark.parametrize(("file", "text", "env", "stated"), FILES)
def test_an_address_is_read_where_prefect_reads_it(folder, monkeypatch, file, text, env, stated):
    if file:
        (folder / file).write_text(text)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert states_address() == stated


@pytest.mark.slow
@pytest.mark.parametrize(("file", "text", "env", "stated"), FILES)
def test_prefect_reads_it_the_same_way(folder, monkeypatch, file, text, env, stated):
    if file:
        (folder / file).write_text(text)
    output = subprocess.run(
        [sys.executable, "-c", ASKS], env=os.environ | env, capture_output=True, text=True
    )  # Prefect is imported anew, which takes seconds
    assert (output.stdout.strip() == TEAM) == stated, output


OURS = """
import sys
from tasks.prefect_runtime.folder_settings import ignore_folder_settings
if sys.argv[1:] == ["late"]:
    import prefect.settings
ignore_folder_settings()
from prefect.settings import Settings, get_current_settings
if not sys.argv[1:]:
    now = get_current_settings()
    print(now.api.url, now.logging.config_path, now.profiles_path)
print(Settings().api.url)
"""
HOSTILE = {
    "prefect.toml": '[api]\nurl = "http://evil/api"\n[logging]\nconfig_path = "evil.yml"\n',
    "pyproject.toml": '[tool.prefect.logging]\nconfig_path = "evil.yml"\n',
    ".env": "PREFECT_LOGGING_SETTINGS_PATH=evil.yml\nPREFECT_PROFILES_PATH=evil.toml\n",
    "evil.toml": PROFILE,
}


def test_our_processes_read_no_settings_of_the_current_folder(folder):
    """Such a file names a logging configuration, which names what is to be called."""
    for file, text in HOSTILE.items():
        (folder / file).write_text(text)
    own = folder / "prefect"
    expected = {"": f"None {own}/logging.yml {own}/profiles.toml\nNone\n", "late": "None\n"}
    for word, text in expected.items():
        command = [sys.executable, "-c", OURS, *word.split()]
        assert subprocess.run(command, capture_output=True, text=True).stdout == text


OPENS = """
import sys
def watch(event, arguments):
    if event == "open" and str(arguments[0]).endswith(".env"):
        print("opened", arguments[0])
sys.addaudithook(watch)
if sys.argv[1] == "served":
    sys.argv = ["served", "prefect.server.api.server"]  # which uvicorn imports there
    from tasks.prefect_runtime import served
    served.main()
else:
    from tasks.prefect_runtime.folder_settings import ignore_folder_settings
    if sys.argv[1] == "late":
        import pydantic_settings
    ignore_folder_settings()
    import prefect.flows, mlflow
    if sys.argv[1] == "command":
        import flows.adapt
print("done")
"""


@pytest.mark.parametrize("start", ["command", "late", "served"])
def test_no_process_of_ours_opens_a_file_of_variables_of_the_current_folder(folder, start):
    """A short one of names in names unpacks to more than the machine's memory."""
    (folder / ".env").write_text(
        "A0=aa\n" + "".join(f"A{n + 1}=${{A{n}}}${{A{n}}}\n" for n in range(20))
    )
    words = [sys.executable, "-P", "-c", OPENS, start]
    path = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(words, env=os.environ | path, capture_output=True, text=True)
    assert done.stdout == "done\n", done.stderr


def test_profiles_of_the_user_are_read(folder):
    (folder / "prefect" / "profiles.toml").write_text(PROFILE)
    (folder / "prefect.toml").write_text('[api]\nurl = "http://evil/api"\n')
    output = subprocess.run([sys.executable, "-c", OURS], capture_output=True, text=True).stdout
    assert output.startswith(TEAM)
    assert output.endswith(f"{TEAM}\n")


@pytest.mark.parametrize("url", [None, ""])
@pytest.mark.parametrize("file", ["prefect.toml", ".env", "pyproject.toml"])
def test_a_command_says_that_a_file_is_not_read(folder, monkeypatch, caplog, file, url):
    stated = {
        "prefect.toml": f'[api]\nurl = "{TEAM}"\n',
        "pyproject.toml": f'[tool.prefect.api]\nurl = "{TEAM}"\n',
        ".env": f"PREFECT_API_URL={TEAM}\n",
    }
    monkeypatch.setenv("SFDA_HOME", str(folder / "home"))
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(folder_settings, "_ignored", True)
    if url is not None:
        os.environ["PREFECT_API_URL"] = url
    (folder / file).write_text(stated[file])
    prepare_environment()
    assert f"{file} names a Prefect server and is not read; export PREFECT_API_URL" in caplog.text
    assert not states_address()
    caplog.clear()
    os.environ["PREFECT_API_URL"] = TEAM
    prepare_environment()
    assert caplog.text == ""


def test_a_server_that_prefect_starts_for_a_flow_from_python_has_a_secret(folder, monkeypatch):
    monkeypatch.setattr(sys, "modules", {})
    lock_own_server()
    secret = os.environ[SERVER]
    assert os.environ[CLIENT] == secret
    assert len(secret) > 40
    lock_own_server()
    assert os.environ[SERVER] == secret
    (folder / "prefect" / "profiles.toml").write_text(PROFILE)
    know_own_server()  # a home that names a server after all
    assert not {CLIENT, SERVER} & set(os.environ)


@pytest.mark.parametrize("env", [{"PREFECT_API_URL": TEAM}, {CLIENT: "my:own"}, {SERVER: "my:own"}])
def test_what_the_user_has_set_is_left(folder, monkeypatch, env):
    monkeypatch.setattr(sys, "modules", {})
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    lock_own_server()
    know_own_server()
    assert dict(os.environ) == before


def test_once_prefect_is_imported_nothing_is_set(folder, monkeypatch):
    monkeypatch.setattr(sys, "modules", {"prefect": None})
    lock_own_server()
    assert not {CLIENT, SERVER} & set(os.environ)


LONG_NAME = "a." * 31_000 + "a = 1"


@pytest.mark.parametrize(
    ("file", "text"),
    [
        (".env", "\n" * 100_000),  # minutes, were each empty line looked through to the end
        ("prefect.toml", "a = " + "[" * 30_000),
        ("prefect.toml", "a." * 60_000 + "a = 1"),  # minutes, were it parsed
        ("pyproject.toml", LONG_NAME),
        ("prefect/profiles.toml", LONG_NAME),
        ("prefect.toml", f'b = """\'""""\n# \'\n{LONG_NAME}'),  # quotes within quotes
        ("prefect.toml", f'b = ["""\n\' """, {{{LONG_NAME}}}, "\'"]'),
        ("prefect.toml", 'a = """' + '\\"""' * 15_000),
    ],
)
def test_a_file_of_many_lines_brackets_or_dots_takes_no_time(folder, file, text):
    (folder / file).write_text(text)
    started = time.perf_counter()
    assert not states_address()
    assert time.perf_counter() - started < 30  # it took minutes


@pytest.mark.parametrize("file", [".env", "prefect.toml", "pyproject.toml"])
def test_a_pipe_in_the_current_folder_stops_no_command(folder, file):
    os.mkfifo(folder / file)
    code = "from tasks.prefect_runtime.stated import states_address; print(states_address())"
    words = [sys.executable, "-P", "-c", code]
    path = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        words, env=os.environ | path, capture_output=True, text=True, timeout=60, cwd=folder
    )
    assert done.stdout == "False\n", done.stderr
