"""Azurite's queue service as a child process: Microsoft's emulator, with its data on disk.

It comes from npm: `npm ci` in sandbox/, which `dev.py test` does.
"""

import re
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from sandbox import Startable

START_SECONDS = 60
STOP_SECONDS = 10
MAIN = Path(__file__).resolve().parent / "node_modules/azurite/dist/src/queue/main.js"

# Azurite's default account and its key, which Microsoft has published.
_ACCOUNT = "devstoreaccount1"
_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
# Azurite saves and exits on SIGTERM, which Windows does not have. This does the same at the end of
# standard input, so it also exits when its parent process does.
_EXIT_ON_EOF = "data:text/javascript,process.stdin.on('end',()=>process.emit('SIGTERM')).resume()"
_LISTENS = re.compile(r"listens on http://127\.0\.0\.1:(\d+)")


def unavailable() -> str | None:
    """Return the reason why Azurite cannot be started here, or None if it can."""
    if shutil.which("node") is None:
        return "Node.js is not on PATH"
    if not MAIN.is_file():
        return "Azurite is not installed; run: npm ci --prefix sandbox"
    return None


class Azurite(Startable):
    """Azurite's queue service on 127.0.0.1, with its data in `folder`.

    Port 0 takes a free one, and keeps it: after `stop()` and `start()` the same storage is back.
    Azurite saves to disk every five seconds and when it stops, so `kill()` loses what real storage
    would not. A context manager.
    """

    port: int
    """The port; 0 until the first start unless one was asked for."""

    def __init__(self, folder: Path, *, port: int = 0) -> None:
        self.port = port
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def connection_string(self) -> str:
        """What `AzureWebJobsStorage` must be."""
        endpoint = f"http://127.0.0.1:{self.port}/{_ACCOUNT}"
        return (
            f"DefaultEndpointsProtocol=http;AccountName={_ACCOUNT};AccountKey={_KEY};"
            f"QueueEndpoint={endpoint};"
        )

    def start(self) -> None:
        """Start it; returns when it listens. Raises `RuntimeError` if it does not."""
        reason, node = unavailable(), shutil.which("node")
        if reason or node is None:
            raise RuntimeError(f"Azurite cannot start: {reason}.")
        self._folder.mkdir(parents=True, exist_ok=True)
        options = {
            "--queueHost": "127.0.0.1",
            "--queuePort": str(self.port),
            "--location": str(self._folder),
        }
        flags = ("--silent", "--skipApiVersionCheck", "--disableTelemetry")
        arguments = [part for pair in options.items() for part in pair]
        log = self._folder / "azurite.log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603 - found on PATH, as npm finds it
                [node, "--import", _EXIT_ON_EOF, str(MAIN), *arguments, *flags],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl+C is sent to the whole process group: Azurite must outlive its user.
                start_new_session=True,
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )
        deadline = time.monotonic() + START_SECONDS
        while not (found := _LISTENS.search(log.read_text("utf-8", errors="replace"))):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"Azurite did not start. It said: {log.read_text('utf-8')}")
            time.sleep(0.02)
        self.port = int(found[1])

    def stop(self) -> None:
        """Let it save and exit. Harmless when stopped."""
        if self._process is None or self._process.stdin is None:
            return
        with suppress(OSError):  # it may have exited by itself
            self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End it at once, as a power cut does. Harmless when stopped."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()
        self._process = None
