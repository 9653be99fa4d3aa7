"""`dev.py demo` and `dev.py up`, as a person starts them."""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
import pytest

from sandbox.world import APP, PASSWORD, USER


@dataclass
class Terminal:
    """A program in a terminal: what it has said, and a way to type."""

    process: subprocess.Popen[str]
    said: str = ""
    _reader: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.said += line

    def type(self, line: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def expect(self, is_so: Callable[[str], object], seconds: float) -> float:
        started = time.monotonic()
        while not is_so(self.said):
            assert self.process.poll() is None, self.said
            assert time.monotonic() - started < seconds, self.said
            time.sleep(0.05)
        return time.monotonic() - started

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        self._reader.join()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream
            stream.close()


@contextmanager
def running_up(environ: Mapping[str, str]) -> Iterator[Terminal]:
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "sandbox.up", "--port", "0"],
        cwd=APP,
        env=environ,
        text=True,
        encoding="utf-8",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    terminal = Terminal(process)
    try:
        terminal.expect(lambda said: "Ctrl+C ends it" in said, 90)
        yield terminal
    finally:
        terminal.close()


@pytest.fixture(scope="module")
def up() -> Iterator[Terminal]:
    with running_up(os.environ) as terminal:
        yield terminal


def printed_commands(said: str) -> list[str]:
    """Return what `up` prints to be run in another terminal."""
    return re.findall(r"^    \S*python (-m relay .+)$", said, re.MULTILINE)


def run_printed(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command.split()],
        cwd=APP,
        text=True,
        encoding="utf-8",
        capture_output=True,
        timeout=60,
        check=False,
    )


def test_the_commands_that_up_prints_find_nothing_that_fails(up: Terminal) -> None:
    doctor, send = map(run_printed, printed_commands(up.said))
    assert doctor.returncode == 0, doctor.stdout
    assert re.findall(r"^  (?:fail|skip) +(\w+)", doctor.stdout, re.MULTILINE) == ["permission"]
    assert (send.returncode, send.stderr) == (0, "")
    assert "outcome    delivered" in send.stdout


def test_without_node_too_the_doctor_finds_nothing_that_fails() -> None:
    """Queues in memory cannot be examined from another process, and are left out."""
    with running_up({**os.environ, "PATH": ""}) as up:
        doctor = run_printed(printed_commands(up.said)[0])
    assert "in memory (Node.js is not on PATH)" in up.said
    assert doctor.returncode == 0, doctor.stdout
    assert "  skip  storage " in doctor.stdout


def authorize(url: str) -> httpx.Response:
    """Play the person in the browser."""
    form = {"username": USER, "password": PASSWORD, "decision": "allow"}
    accept = {"accept": "text/html"}
    with httpx.Client(headers=accept, follow_redirects=True, trust_env=False) as browser:
        return browser.post(url, data=form, timeout=30)


def start_url(said: str) -> str:
    return [line for line in said.splitlines() if "/authorize?" in line][-1]


def test_dynamics_taken_down_during_up_has_the_code_within_30_seconds_after_it_is_back(
    up: Terminal,
) -> None:
    assert "Authorization complete" in authorize(start_url(up.said)).text
    up.expect(lambda said: said.count("called the API") == 1 and said.count("/authorize?") == 2, 10)

    url = start_url(up.said)
    up.type("d")
    up.expect(lambda said: "Dynamics is down" in said, 10)
    assert "Authorization received, not delivered yet" in authorize(url).text
    up.type("d")
    up.expect(lambda said: "Dynamics is up again" in said, 10)
    assert up.expect(lambda said: said.count("called the API") == 2, 30) < 30
    assert "callback held" in up.said
    assert "callback delivered" in up.said


def test_the_demo_walks_all_six_steps_and_exits_0_without_telling_a_secret() -> None:
    demo = subprocess.run(
        [sys.executable, "-m", "sandbox.demo"],
        cwd=APP,
        text=True,
        encoding="utf-8",
        capture_output=True,
        timeout=90,
        check=False,
    )
    assert (demo.returncode, demo.stderr.count("callback delivered")) == (0, 2), demo.stderr
    for step in range(1, 7):
        assert f"\n{step}. " in demo.stdout
    assert "All six steps worked." in demo.stdout


def test_a_demo_that_fails_says_so_and_exits_1() -> None:
    broken = (
        "import sandbox.world as w, sandbox.demo as d, sys\n"
        "enter = w.World.__enter__\n"
        "def spoilt(self):\n"
        "    world = enter(self); world.entra.clients = {}; return world\n"
        "w.World.__enter__ = spoilt\n"
        "sys.exit(d.main())\n"
    )
    demo = subprocess.run(
        [sys.executable, "-c", broken],
        cwd=APP,
        text=True,
        encoding="utf-8",
        capture_output=True,
        timeout=90,
        check=False,
    )
    assert demo.returncode == 1
    assert "The demonstration stopped: DemoError: the relay said rejected" in demo.stderr
    assert "python3 dev.py test" in demo.stderr
