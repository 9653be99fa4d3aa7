"""The programs in this folder as child processes: what others wrote, started for a test.

They come from npm: `npm ci --ignore-scripts` in this folder, which `dev.py test` does.
"""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from sandbox import browser

FOLDER = Path(__file__).resolve().parent
STOP_SECONDS = 10


def need_npm_packages() -> None:
    """Leave the test out, with words for what to do, where the npm packages are missing."""
    if shutil.which("node") is None:
        leave_out("Node.js is not on PATH; get 20.19 or later from https://nodejs.org/")
    if not (FOLDER / "node_modules" / "oidc-provider").is_dir():
        leave_out("npm packages are missing; run: npm ci --ignore-scripts --prefix tests/others")


def need_browser() -> None:
    """Leave the test out, with words for what to do, where there is no browser to drive."""
    if reason := browser.unavailable():
        leave_out(reason)


def leave_out(reason: str) -> None:
    """Skip the test; under CI=true, where nothing may be left out, fail it."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


class Program:
    """One of the programs; see the head of each for its configuration and its questions.

    `trust` is a PEM file of the certificate authority that it believes. A context manager. It ends
    with the block, and also when this process does, because its standard input ends then.
    """

    facts: dict[str, Any]
    """What it said when it was ready, such as its `url`."""

    def __init__(self, script: str, configuration: Mapping[str, object], *, trust: Path) -> None:
        self._command = ["node", str(FOLDER / script)]
        self._configuration = configuration
        self._environment = {
            **os.environ,
            "NODE_ENV": "production",
            "NODE_EXTRA_CA_CERTS": str(trust),
            # A proxy in the environment has no business on loopback.
            "NODE_USE_ENV_PROXY": "0",
        }

    def ask(self, **question: object) -> dict[str, Any]:
        """Ask one question and return the answer. Raises `RuntimeError` if it failed."""
        answer = self._hear(question)
        if "failed" in answer:
            raise RuntimeError(f"{Path(self._command[1]).name} failed with {answer['failed']}.")
        return answer

    def _hear(self, said: Mapping[str, object]) -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        with suppress(OSError):  # it has ended; its last words are below
            self._process.stdin.write(json.dumps(said) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            raise RuntimeError(f"{self._command[1]} ended. It said: {self._errors.read()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Self:
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8")
        self._process = subprocess.Popen(
            self._command,
            cwd=FOLDER,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            encoding="utf-8",
        )
        try:
            self.facts = self._hear(self._configuration)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        try:
            # Its input ends, and so does it.
            self._process.communicate(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        self._errors.close()
