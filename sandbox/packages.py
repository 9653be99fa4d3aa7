"""Folders as Azure has them: the worker's packages, the app's packages, and what is deployed."""

import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import Self

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "infra" / "scripts" / "package.py"
SITE_PACKAGES = ".python_packages/lib/site-packages"

WORKER = (
    "azure-functions",
    "azure-functions-runtime",
    "azurefunctions-extensions-base",
    "markupsafe",
    "uvloop",
    "werkzeug",
)
"""What Azure's worker for Python 3.13 brings, without its gRPC side, which the sandbox has not."""


class PackagingError(Exception):
    """The folder that is deployed could not be made. The script has said why."""


@dataclass(frozen=True)
class Deployment:
    """An app as a worker process gets it: three folders, and nothing of the environment."""

    directory: Path
    """With function_app.py and host.json."""
    packages: Path
    """The app's packages, as requirements.txt names them."""
    worker: Path
    """The worker's packages."""

    @classmethod
    def of(cls, directory: Path, folder: Path) -> Self:
        """Take the app where it is; what it has no packages of is copied from this environment.

        Its packages are in its `.python_packages`, as in Azure, or else those that its
        requirements.txt names. `folder` takes what is copied. Raises `PackageNotFoundError` for
        what is not installed here.
        """
        packages = directory / SITE_PACKAGES
        if not packages.is_dir():
            lines = (directory / "requirements.txt").read_text("utf-8").splitlines()
            packages = copy(
                [line.partition("==")[0] for line in lines if "==" in line], folder / "app"
            )
        return cls(directory, packages, copy(WORKER, folder / "worker"))

    @classmethod
    def built(cls, folder: Path) -> Self:
        """Build what is deployed, with the script that deployments use. pip needs the network.

        Raises `PackagingError` when that fails.
        """
        directory = folder / "wwwroot"
        command = [sys.executable, str(SCRIPT), "--out", str(directory)]
        if subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode:  # noqa: S603
            raise PackagingError("The folder that is deployed could not be made.")
        return cls(directory, directory / SITE_PACKAGES, copy(WORKER, folder / "worker"))


def unfit() -> str | None:
    """Give the reason why what is deployed does not run on this machine, or None if it does."""
    if (sys.platform, platform.machine(), sys.version_info[:2]) != ("linux", "x86_64", (3, 13)):
        return "what is deployed is for Python 3.13 on Linux and x86_64"
    return None


def copy(names: Iterable[str], folder: Path) -> Path:
    """Copy these distributions, and none that they need, from this environment into a folder.

    Raises `PackageNotFoundError` for what is not installed.
    """
    for name in names:
        for file in distribution(name).files or ():
            if ".." in file.parts:
                continue  # a command
            target = folder / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(str(file.locate()), target)
    return folder
