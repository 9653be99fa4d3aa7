"""What a developer's first command does: the message for an old Python, and the environment."""

import ast
import os
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
