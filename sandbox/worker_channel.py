"""Microsoft's worker code in a process of its own: the host's side.

`worker.py` has the same functions, `index` and `run`, for the worker code in the host's process.
The child's side and the protocol are in `worker_process.py`.
"""

import asyncio
import itertools
import json
import logging
import os
import pickle
import subprocess
import sys
import threading
import uuid
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from azure.functions.meta import Datum

from sandbox import Startable, refuse_in_azure, worker_process
from sandbox.worker import Indexed, Result, exception_name
from sandbox.worker_process import LENGTH, READY

START_SECONDS = 60
INDEX_SECONDS = 120
"""The same limit as in Azure."""
SYSTEM = ("azure_functions_runtime", "azure.functions")
"""Loggers whose records the host takes at any time, as its own."""


class WorkerProcessError(Exception):
    """The process did not start, did not load the app, or has exited. The message says which."""


class WorkerProcess(Startable):
    """A worker whose interpreter sees the standard library, its own packages and one app.

    `worker` is the folder of the worker's packages, `packages` that of the app's. As in Azure
    `start()` makes a placeholder, `index()` specialises it for the app, once, and `run()` runs a
    function. Log records of the app are logged here with their names and levels if they are of a
    running invocation: the host takes no others, those of a thread or of the import. Its standard
    output goes to standard error.

    A context manager. Linux and macOS only: the runtime's specialisation needs `time.tzset`. It
    refuses to start inside Azure.
    """

    def __init__(self, worker: Path, packages: Path) -> None:
        self._worker = worker.resolve()
        self._packages = packages.resolve()
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._numbers = itertools.count(READY + 1)
        self._lock = threading.Lock()  # for writing, `_alive` and `_pending`
        self._alive = False
        self._pending: dict[int, Future[Any]] = {}
        self._running: set[str] = set()

    @property
    def pid(self) -> int:
        """The process id. Raises `WorkerProcessError` if the process is not started."""
        if self._process is None:
            raise WorkerProcessError("The worker has not been started.")
        return self._process.pid

    def start(self) -> None:
        """Start a placeholder: an interpreter that has imported the worker's own packages.

        Raises `WorkerProcessError` if it exits before it is ready.
        """
        refuse_in_azure(os.environ)
        ready = self._pending[READY] = Future()
        self._process = subprocess.Popen(  # noqa: S603 - this interpreter, and a file beside this
            [sys.executable, "-I", "-S", worker_process.__file__, str(self._worker)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=self._worker,  # as in Azure, the app's folder is entered after its import
            start_new_session=True,  # on Ctrl+C the host ends the process
        )
        self._alive = True
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()
        try:
            ready.result(START_SECONDS)
        except BaseException:
            self.stop()
            raise

    def index(self, directory: Path, settings: Mapping[str, str]) -> list[Indexed]:
        """Load the app in a folder, with `settings` in its environment; return its functions.

        Starts the process if needed. Raises `FileNotFoundError` if there is no function_app.py, and
        `WorkerProcessError` with the message of an import or indexing error.
        """
        if not (directory / "function_app.py").is_file():
            raise FileNotFoundError(f"There is no function_app.py in {directory}.")
        if self._process is None:
            self.start()
        environment = {**os.environ, **settings}
        handed_over = self._send("specialise", str(directory), str(self._packages), environment)
        functions, problem = handed_over.result(INDEX_SECONDS)
        if problem is not None:
            raise WorkerProcessError(problem)
        return [
            Indexed(name, function_id, tuple(json.loads(raw) for raw in bindings))
            for name, function_id, bindings in functions
        ]

    async def run(
        self, function_id: str, inputs: list[tuple[str, Datum]], metadata: Mapping[str, Datum]
    ) -> Result:
        """Run a function with these values for its parameters, under a new invocation id.

        If the process exits meanwhile, the result has that error.
        """
        invocation = (str(uuid.uuid4()), function_id, inputs, dict(metadata))
        self._running.add(invocation[0])
        try:
            sent = self._send("invoke", *invocation)
            sent.add_done_callback(lambda _: self._running.discard(invocation[0]))
            answer = await asyncio.wrap_future(sent)
        except WorkerProcessError as ended:
            self._running.discard(invocation[0])  # it was not sent
            return Result(None, [], type(ended).__name__)
        returned, outputs, error = answer
        return Result(returned, outputs, None if error is None else exception_name(error))

    def stop(self) -> None:
        """Terminate it with SIGTERM, for which it has no handler. Harmless when stopped."""
        if self._process is None or self._process.stdin is None or self._reader is None:
            return
        self._process.terminate()
        self._process.wait()
        self._reader.join()
        with self._lock, suppress(BrokenPipeError):  # of unread frames
            self._process.stdin.close()
        self._process = self._reader = None

    def _send(self, handler: str, *arguments: object) -> Future[Any]:
        """Send a frame and return its answer. Raises `WorkerProcessError` without a process."""
        number = next(self._numbers)
        frame = pickle.dumps((number, handler, arguments))
        answer: Future[Any] = Future()
        # Running: a cancelled caller must not cancel the invocation.
        answer.set_running_or_notify_cancel()
        with self._lock:
            if not self._alive or self._process is None or self._process.stdin is None:
                raise WorkerProcessError("The worker process has ended.")
            self._pending[number] = answer
            with suppress(BrokenPipeError):  # `_read` handles the end of the process
                self._process.stdin.write(LENGTH.pack(len(frame)) + frame)
                self._process.stdin.flush()
        return answer

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None  # noqa: S101 - it was asked for
        with process.stdout as frames:
            while (frame := _frame(frames)) is not None:
                match frame:
                    case (None, level, name, text, invocation):
                        if invocation in self._running or name.startswith(SYSTEM):
                            extra = {"invocation_id": invocation}
                            logging.getLogger(name).log(level, "%s", text, extra=extra)
                    case (number, answer):
                        self._pending.pop(number).set_result(answer)
        with self._lock:
            # The pipe for writing may still be open for a moment.
            self._alive = False
            waiting, self._pending = self._pending, {}
        for unanswered in waiting.values():
            unanswered.set_exception(WorkerProcessError("The worker process has ended."))


def _frame(frames: IO[bytes]) -> Any:  # noqa: ANN401 - whatever the child sends
    """Read the next frame; return None at the end of the stream."""
    head = frames.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    body = frames.read(*LENGTH.unpack(head))
    return pickle.loads(body)  # noqa: S301 - our own child
