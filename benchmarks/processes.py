"""Child processes for measuring: on a core of their own, with what they cost read from /proc.

Where there is no /proc (not Linux) processor time and memory are `None`; where a process cannot be
pinned, or there is one core only, everything shares the cores, and `Cores` says so.
"""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

STOP_SECONDS = 10
_PROC = Path("/proc")
_KEPT = ("PATH", "HOME", "LANG", "TMPDIR")


@dataclass(frozen=True)
class Cores:
    """Which core runs the app, and which one everything else."""

    app: int | None
    load: int | None

    @classmethod
    def choose(cls) -> "Cores":
        """Return the first two cores that are no threads of one and the same core, or none."""
        if not hasattr(os, "sched_getaffinity"):
            return cls(None, None)
        first, *others = sorted(os.sched_getaffinity(0))
        siblings = _siblings(first)
        apart = [core for core in others if core not in siblings] or others
        return cls(first, apart[0]) if apart else cls(None, None)

    def __str__(self) -> str:
        """Say it."""
        if self.app is None:
            return "not pinned: app, host, load and upstreams share all cores"
        return f"app pinned to core {self.app}; host, load and upstreams to core {self.load}"

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Keep this process on its core meanwhile."""
        with _pinned(self.load):
            yield

    @contextmanager
    def starting(self) -> Iterator[None]:
        """Let children that start now have the app's core."""
        with _pinned(self.app):
            yield


@contextmanager
def _pinned(core: int | None) -> Iterator[None]:
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _siblings(core: int) -> set[int]:
    listed = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list")
    if not listed.is_file():
        return {core}
    siblings: set[int] = set()
    for part in listed.read_text().strip().split(","):
        start, _, end = part.partition("-")
        siblings.update(range(int(start), int(end or start) + 1))
    return siblings


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Return the settings and what any process needs of this one's environment, nothing else.

    No proxy, no trust and no app setting of the person who measures comes in.
    """
    return {name: os.environ[name] for name in _KEPT if name in os.environ} | dict(settings)


class Process:
    """A contestant: started at `started` (seconds of `time.monotonic`), ended with its children.

    With a `placeholder` the command is `benchmarks.host`: call `hand_over()`. What is measured
    then is the worker, because the sandbox's host stands for a part of the platform. `measured` is
    the id of that process.
    """

    def __init__(
        self,
        command: Sequence[str],
        settings: Mapping[str, str],
        *,
        directory: Path,
        log: IO[bytes],
        cores: Cores,
        placeholder: bool = False,
    ) -> None:
        self._log = Path(log.name)
        self._cores = cores
        with cores.starting():
            self.started = time.monotonic()
            self._process = subprocess.Popen(
                command,
                cwd=directory,
                env=environment(settings),
                stdin=subprocess.PIPE if placeholder else subprocess.DEVNULL,
                stdout=subprocess.PIPE if placeholder else log,
                stderr=log,
                start_new_session=True,
            )
        self.measured = self._process.pid
        self._before = 0.0

    def hand_over(self) -> None:
        """Wait for the placeholder and let it become the app; `started` is that moment.

        The host leaves the app's core to the worker. Returns at once when the process has ended.
        """
        assert self._process.stdin is not None  # noqa: S101 - there is a placeholder
        assert self._process.stdout is not None  # noqa: S101
        worker = self._process.stdout.readline()
        if not worker:
            return
        self.measured = int(worker)
        self._before = _cpu(_tree(self.measured)) or 0.0
        if self._cores.load is not None:
            for thread in (_PROC / str(self._process.pid) / "task").iterdir():
                os.sched_setaffinity(int(thread.name), {self._cores.load})
        self.started = time.monotonic()
        with suppress(BrokenPipeError):
            self._process.stdin.write(b"\n")
            self._process.stdin.flush()

    @property
    def ended(self) -> bool:
        """Whether it is gone already."""
        return self._process.poll() is not None

    @property
    def words(self) -> str:
        """The last lines that it wrote."""
        lines = self._log.read_text("utf-8", "replace").splitlines()
        return "\n".join(lines[-15:])

    def cpu(self) -> float | None:
        """Return the seconds of processor time of what is measured and its children.

        Counted from the hand-over, or from the start.
        """
        spent = _cpu(_tree(self.measured))
        return None if spent is None else spent - self._before

    def host_cpu(self) -> float:
        """Return the same of the sandbox's host; 0 where there is none, or no /proc."""
        measured = _tree(self.measured)
        return _cpu([pid for pid in _tree(self._process.pid) if pid not in measured]) or 0.0

    def memory(self) -> float | None:
        """Return the resident memory in MiB, of what is measured and its children."""
        if not _PROC.is_dir():
            return None
        kibibytes = 0
        for pid in _tree(self.measured):
            with suppress(OSError):
                for line in (_PROC / str(pid) / "status").read_text().splitlines():
                    if line.startswith("VmRSS:"):
                        kibibytes += int(line.split()[1])
        return kibibytes / 1024

    def stop(self) -> None:
        """End it and its children at once: nothing of a contestant is worth keeping."""
        if self.measured != self._process.pid:  # a worker has a session of its own
            with suppress(ProcessLookupError):
                os.kill(self.measured, signal.SIGKILL)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(STOP_SECONDS)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def _cpu(pids: Iterable[int]) -> float | None:
    if not _PROC.is_dir():
        return None
    ticks = 0
    for pid in pids:
        with suppress(OSError):
            # proc_pid_stat(5): after the name in parentheses, utime and stime are 12 and 13.
            fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _tree(root: int) -> list[int]:
    pids = [root]
    for pid in pids:  # grows meanwhile
        with suppress(OSError):
            for children in (_PROC / str(pid) / "task").glob("*/children"):
                pids += [int(child) for child in children.read_text().split()]
    return pids
