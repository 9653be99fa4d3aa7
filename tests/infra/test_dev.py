"""What a developer's first command does: the message for an old Python, and the environment."""

import ast
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tokenize
import venv
from importlib.metadata import distribution
from pathlib import Path

import pytest

import dev
from sandbox.world import APP
from tests.helpers import tiny_wheel

SCRIPT = APP / "dev.py"


def test_an_old_interpreter_can_read_it() -> None:
    ast.parse(SCRIPT.read_text("utf-8"), feature_version=(3, 8))
    # The parser takes any f-string. Before 3.12 (PEP 701) their expressions held no backslash, no
    # comment, no line break, and no quotation mark of the f-string itself.
    quotes: list[str] = []
    with SCRIPT.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type == tokenize.FSTRING_START:
                assert not quotes, token.line
                quotes.append(token.string.lstrip("fFrR"))
            elif token.type == tokenize.FSTRING_END:
                quotes.pop()
            elif quotes and token.type != tokenize.FSTRING_MIDDLE:
                assert "\\" not in token.string, token.line
                assert quotes[-1] not in token.string, token.line
                assert token.type not in (tokenize.COMMENT, tokenize.NL), token.line


def test_an_old_interpreter_says_which_one_is_needed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.version_info", (3, 8, 18))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert dev.main(["demo"]) == 2
    assert "Python 3.13 or later is needed, this is 3.8." in capsys.readouterr().out


def older() -> str:
    """Return an interpreter that is too old, or skip the test."""
    for name in [f"{at}python3.{minor}" for minor in range(8, 13) for at in ("", "/usr/bin/")]:
        if shutil.which(name):
            tell = [name, "-c", "import sys; print(sys.executable)"]
            told = subprocess.run(tell, check=False, capture_output=True, text=True)
            if told.returncode == 0:
                return told.stdout.strip()
    pytest.skip("no Python from 3.8 to 3.12 is installed")


def test_a_real_old_interpreter_gets_as_far_as_the_message(tmp_path: Path) -> None:
    ended = subprocess.run(
        [older(), str(SCRIPT), "demo"],
        env={"PATH": str(tmp_path)},
        check=False,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2, ended.stderr
    assert "Python 3.13 or later is needed" in ended.stdout


def test_a_python_without_ensurepip_names_the_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "ensurepip" else find(name)
    )
    with pytest.raises(SystemExit, match=r"apt install python3\.\d+-venv"):
        dev.make_environment(tmp_path / "new", "requirements.txt")
    assert not (tmp_path / "new").exists()


def test_help_names_every_command_and_a_misspelt_one_gets_the_nearest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert dev.main([]) == 0
    bare = capsys.readouterr().out
    assert dev.main(["--help"]) == 0
    assert capsys.readouterr().out == bare
    assert dev.main(["tset"]) == 2
    told = capsys.readouterr()
    assert "Did you mean test?" in told.err
    commands = told.out.partition(" are ")[2].partition(";")[0].split(", ")
    assert len(commands) > 4
    for command in commands:
        assert f"python3 dev.py {command}" in bare


SURROUNDINGS = {
    "behind a proxy, in an encoding without arrows": {
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "HTTP_PROXY": "http://127.0.0.1:9",
        "PYTHONIOENCODING": "cp1252:replace",
    },
    "behind a proxy with exceptions, in LANG=C": {
        "https_proxy": "http://127.0.0.1:9",
        "no_proxy": "intranet.example",
        "LC_ALL": "C",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONUTF8": "0",
    },
}


DEMO = """
import pathlib, sys
sys.path.insert(0, sys.argv[1])
import dev
dev.PYTHON = pathlib.Path(sys.executable)
sys.exit(dev.demo([]))
"""


@pytest.mark.parametrize("settings", SURROUNDINGS.values(), ids=SURROUNDINGS)
def test_the_demonstration_works(settings: dict[str, str], tmp_path: Path) -> None:
    """In a path with a blank, started from another folder, beside somebody's own settings."""
    project = tmp_path / "the project"
    left = shutil.ignore_patterns(".*", "__pycache__", "node_modules", "tests", "docs", "infra")
    shutil.copytree(APP, project, ignore=left)
    own = {"DYNAMICS_URL": "https://own.example/x", "CODE_TTL": "none"}
    (project / "local.settings.json").write_text(json.dumps({"Values": own}))
    ended = subprocess.run(
        [sys.executable, "-c", DEMO, str(project)],
        cwd=tmp_path,
        env={**os.environ, **settings},
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said = ended.stdout.decode("utf-8", "replace")
    assert ended.returncode == 0, said
    assert said.endswith(f"All six steps worked.{os.linesep}")


@pytest.fixture
def borrowed_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let new environments use this one's pip: to give each its own takes ten times as long."""
    create = venv.create

    def create_without_pip(folder: Path, *, with_pip: bool, clear: bool) -> None:
        assert with_pip
        create(folder, clear=clear)
        [site_packages] = folder.rglob("site-packages")
        pip = distribution("pip").locate_file("")
        (site_packages / "pip.pth").write_text(f"{pip}\n")

    monkeypatch.setattr(venv, "create", create_without_pip)


@pytest.mark.usefixtures("borrowed_pip")
def test_an_environment_is_made_once_and_only_of_the_files_that_are_pinned(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(dev, "HERE", tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    folder, requirements = tmp_path / "environment", tmp_path / "requirements.txt"
    pin = tiny_wheel(tmp_path)

    for refused in (f"tiny==1.0 --hash=sha256:{'0' * 64}", "tiny==1.0"):
        requirements.write_text(f"{refused}\n")
        assert not dev.make_environment(folder, requirements.name)

    requirements.write_text(pin)
    assert dev.make_environment(folder, requirements.name)
    assert [*folder.rglob("tiny/__init__.py")]

    kept = folder / "kept"
    kept.touch()
    assert dev.make_environment(folder, requirements.name)
    assert kept.exists()


@pytest.mark.parametrize(
    ("unchecked", "arguments", "code"),
    [
        ("", [], 0),
        ("No advisory service answers here.", [], 1),
        ("No advisory service answers here.", ["--no-advisories"], 0),
    ],
)
def test_advisories_that_cannot_be_asked_for_fail_unless_one_says_so(
    monkeypatch: pytest.MonkeyPatch, unchecked: str, arguments: list[str], code: int
) -> None:
    ran: list[tuple[str, ...]] = []

    def run(*command: str) -> int:
        ran.append(command)
        return 0

    monkeypatch.setattr(dev, "run", run)
    monkeypatch.setattr(dev, "install_npm", lambda *_: "")
    monkeypatch.setattr(dev, "install_scanner", lambda: "")
    monkeypatch.setattr(dev, "advisories", lambda: (False, unchecked))
    assert dev.test([*arguments, "--no-bicep", "tests/unit"]) == code
    assert ran[-1][-3:] == ("tests/unit", "--ignore", "tests/infra/test_compiler.py")
    assert "--no-advisories" not in ran[-1]
