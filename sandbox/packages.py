"""Folders as in Azure: the deployed app, its packages, and the worker's packages."""

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
"""The packages of Azure's worker for Python 3.13, except gRPC, which the sandbox does not use."""


class PackagingError(Exception):
    """The deployment folder could not be built. The script has printed the reason."""


@dataclass(frozen=True)
class Deployment:
    """The folders of an app in a worker process, which sees no other packages."""

    directory: Path
    """With function_app.py and host.json."""
    packages: Path
    """The app's packages, as requirements.txt names them."""
    worker: Path
    """The worker's packages."""

    @classmethod
    def of(cls, directory: Path, folder: Path) -> Self:
        """Use the app in its own folder.

        Its packages are those in its `.python_packages`, as in Azure, or else those that its
        requirements.txt names. They and the worker's are copied from this environment into
        `folder`. Raises `PackageNotFoundError` for a package that is not installed here.
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
        """Build the deployment folder with the script that deployments use. pip needs the network.

        Raises `PackagingError` when that fails.
        """
        directory = folder / "wwwroot"
        command = [sys.executable, str(SCRIPT), "--out", str(directory)]
        if subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode:  # noqa: S603
            raise PackagingError("The folder that is deployed could not be made.")
        return cls(directory, directory / SITE_PACKAGES, copy(WORKER, folder / "worker"))


def unfit() -> str | None:
    """Return why the deployed app cannot run on this machine, or None if it can."""
    if (sys.platform, platform.machine(), sys.version_info[:2]) != ("linux", "x86_64", (3, 13)):
        return "what is deployed is for Python 3.13 on Linux and x86_64"
    return None


def copy(names: Iterable[str], folder: Path) -> Path:
    """Copy these distributions, without their dependencies, from this environment into a folder.

    Raises `PackageNotFoundError` for one that is not installed.
    """
    for name in names:
        for file in distribution(name).files or ():
            if ".." in file.parts:
                continue  # a script in bin/
            target = folder / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(str(file.locate()), target)
    return folder
