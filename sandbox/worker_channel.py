"""Microsoft's worker code in a process of its own: the side of the host.

`worker.py` has the same two calls, `index` and `run`, for the same code in the host's own process.
The side of the child, and the protocol, are in `worker_process.py`.
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
"""Azure gives the worker as long."""


class WorkerProcessError(Exception):
    """The process did not start, did not load the app, or has ended. The message says which."""


class WorkerProcess(Startable):
    """A worker whose interpreter sees the standard library, its own packages and one app.

    `worker` is the folder of the worker's packages, `packages` that of the app's. Its life is that
    of Azure's: `start()` makes a placeholder, `index()` hands the app over to it, once, and `run()`
    runs a function. What the app logs is logged here, under the name and with the level that it
    had; what it prints goes to standard error.

    A context manager. It is for Linux and macOS: the hand-over of the runtime needs `time.tzset`.
    It refuses to start inside Azure.
    """

    def __init__(self, worker: Path, packages: Path) -> None:
        self._worker = worker.resolve()
        self._packages = packages.resolve()
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._numbers = itertools.count(READY + 1)
        self._lock = threading.Lock()  # of the rest, and of writing
        self._alive = False
        self._pending: dict[int, Future[Any]] = {}

    @property
    def pid(self) -> int:
        """The id of the process. Raises `WorkerProcessError` if there is none."""
        if self._process is None:
            raise WorkerProcessError("The worker has not been started.")
        return self._process.pid

    def start(self) -> None:
        """Start the interpreter and import the worker's own packages: a placeholder, ready.

        Raises `WorkerProcessError` if it ends before it is.
        """
        refuse_in_azure(os.environ)
        ready = self._pending[READY] = Future()
        self._process = subprocess.Popen(  # noqa: S603 - this interpreter, and a file beside this
            [sys.executable, "-I", "-S", worker_process.__file__, str(self._worker)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=self._worker,  # not the folder of the app: that comes after its import
            start_new_session=True,  # Ctrl+C in a terminal is for the host, which then ends this
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
        """Hand over the app in a folder, with `settings` in its environment; return its functions.

        Starts the process if that has not been done. Raises `FileNotFoundError` if there is no
        function_app.py, and `WorkerProcessError` with what the import or the indexing raised.
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

        When the process ends meanwhile, that is the result's error.
        """
        invocation = (str(uuid.uuid4()), function_id, inputs, dict(metadata))
        try:
            answer = await asyncio.wrap_future(self._send("invoke", *invocation))
        except WorkerProcessError as ended:
            return Result(None, [], type(ended).__name__)
        returned, outputs, error = answer
        return Result(returned, outputs, None if error is None else exception_name(error))

    def stop(self) -> None:
        """End it with SIGTERM, for which it has no handler. Harmless when stopped."""
        if self._process is None or self._process.stdin is None or self._reader is None:
            return
        self._process.terminate()
        self._process.wait()
        self._reader.join()
        with self._lock, suppress(BrokenPipeError):  # what nobody has read
            self._process.stdin.close()
        self._process = self._reader = None

    def _send(self, handler: str, *arguments: object) -> Future[Any]:
        """Send a frame and return its answer. Raises `WorkerProcessError` without a process."""
        number = next(self._numbers)
        frame = pickle.dumps((number, handler, arguments))
        answer: Future[Any] = Future()
        # Runs from now on: whoever waits for it may go away, the invocation does not.
        answer.set_running_or_notify_cancel()
        with self._lock:
            if not self._alive or self._process is None or self._process.stdin is None:
                raise WorkerProcessError("The worker process has ended.")
            self._pending[number] = answer
            with suppress(BrokenPipeError):  # `_read` sees the end too
                self._process.stdin.write(LENGTH.pack(len(frame)) + frame)
                self._process.stdin.flush()
        return answer

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None  # noqa: S101 - it was asked for
        with process.stdout as frames:
            while (frame := _frame(frames)) is not None:
                match frame:
                    case (None, level, name, text, invocation):
                        extra = {"invocation_id": invocation}
                        logging.getLogger(name).log(level, "%s", text, extra=extra)
                    case (number, answer):
                        self._pending.pop(number).set_result(answer)
        with self._lock:
            # The other pipe may be open for a moment longer.
            self._alive = False
            waiting, self._pending = self._pending, {}
        for unanswered in waiting.values():
            unanswered.set_exception(WorkerProcessError("The worker process has ended."))


def _frame(frames: IO[bytes]) -> Any:  # noqa: ANN401 - whatever the child sends
    """Return the next frame, or None at the end."""
    head = frames.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    body = frames.read(*LENGTH.unpack(head))
    return pickle.loads(body)  # noqa: S301 - our own child
