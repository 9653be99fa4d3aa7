"""The script around Microsoft's compiler, with a stand-in for it that checks its arguments."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import SHEBANG
from tests.infra.view import INFRA

SCRIPT = INFRA / "scripts" / "bicep.py"

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the stand-in is a POSIX script")

BICEP = """{shebang}
import pathlib, sys
command, file, *options = sys.argv[1:]
text = pathlib.Path(file).read_text()
if command == "build":
    assert options == ["--stdout"]
    print("a template that says: (1,1) : Warning in a text")
elif command == "lint":
    assert options == []
    if "sloppy" in text:
        print(file + "(1,7) : Warning no-unused-params: it is never used", file=sys.stderr)
elif command == "format":
    assert options == ["--stdout", "--newline-kind", "LF"]
    print(text.replace("  ", " "))
elif command == "snapshot":
    assert options[:2] == ["--mode", "overwrite"] and "--subscription-id" in options
    pathlib.Path(file).with_suffix(".snapshot.json").write_text("{{}}")
else:
    sys.exit("unknown command")
"""

AZ = """#!/bin/sh
test "$*" = "bicep install --version v0.49.2" || exit 1
mkdir -p "$AZURE_CONFIG_DIR/bin"
cp "$STANDIN" "$AZURE_CONFIG_DIR/bin/bicep"
"""


class Compiler:
    """A folder like infra/, and a path with a stand-in for the compiler or for az."""

    def __init__(self, folder: Path) -> None:
        self.infra, self.bin, self.config = folder / "infra", folder / "bin", folder / "config"
        for name in ("apim", "snapshots", "modules"):
            (self.infra / name).mkdir(parents=True)
        self.bin.mkdir()
        for name in ("main.bicep", "apim/main.bicep", "modules/app.bicep"):
            (self.infra / name).write_text("param location string\n")
        for name in ("default", "private"):
            (self.infra / "snapshots" / f"{name}.bicepparam").write_text("using '../main.bicep'\n")
        self.standin = folder / "standin"
        self.put(self.standin, BICEP.format(shebang=SHEBANG))

    def put(self, path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environ = {
            "PATH": f"{self.bin}{os.pathsep}/usr/bin{os.pathsep}/bin",
            "AZURE_CONFIG_DIR": str(self.config),
            "STANDIN": str(self.standin),
        }
        return subprocess.run(
            [sys.executable, str(SCRIPT), "--infra", str(self.infra), *arguments],
            check=False,
            capture_output=True,
            text=True,
            env=environ,
        )


@pytest.fixture
def compiler(tmp_path: Path) -> Compiler:
    compiler = Compiler(tmp_path)
    compiler.put(compiler.bin / "bicep", compiler.standin.read_text())
    return compiler


def test_what_builds_lints_and_is_formatted_passes(compiler: Compiler) -> None:
    done = compiler.run("check")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("param sloppy string\n", "no-unused-params", id="a warning"),
        pytest.param("param  location string\n", "not formatted", id="its format"),
    ],
)
def test_a_warning_and_another_format_fail(compiler: Compiler, text: str, said: str) -> None:
    (compiler.infra / "modules" / "app.bicep").write_text(text)
    done = compiler.run("check")
    assert done.returncode == 1
    assert said in done.stdout


def test_there_is_a_snapshot_for_each_parameter_file(compiler: Compiler, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert compiler.run("snapshots", "--out", str(out)).returncode == 0
    assert {path.name for path in out.iterdir()} == {
        "default.snapshot.json",
        "private.snapshot.json",
    }
    assert not [*compiler.infra.rglob("*.json")]


def test_az_brings_the_compiler_where_it_is_missing(compiler: Compiler) -> None:
    (compiler.bin / "bicep").unlink()
    compiler.put(compiler.bin / "az", AZ)
    done = compiler.run("check")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (compiler.config / "bin" / "bicep").is_file()


def test_without_a_compiler_it_says_where_to_get_one(compiler: Compiler) -> None:
    (compiler.bin / "bicep").unlink()
    done = compiler.run("check")
    assert done.returncode == 2
    assert "bicep-install" in done.stderr


def test_three_deployments_are_compared() -> None:
    names = {path.stem for path in (INFRA / "snapshots").glob("*.bicepparam")}
    assert names == {"default", "private", "front-door"}
