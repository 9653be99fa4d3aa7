"""Azure's Python worker as a process: the child's side. `worker_channel.py` starts it.

It does what `workers/proxy_worker` of Azure/azure-functions-python-worker does for Python 3.13, in
the same order, with frames over pipes instead of gRPC. It imports the standard library, the
worker's packages and, once specialised, the app's; nothing of the sandbox.

    python -I -S worker_process.py FOLDER_OF_THE_WORKERS_PACKAGES

A frame is its length, four bytes in network order, and a pickle. The parent sends
`(number, handler, arguments)`. The child sends `(number, answer)` and log lines, whose number is
None; number 0 means that the placeholder is ready. Pickle is safe here: parent and child trust each
other and run the developer's own code.
"""

import asyncio
import contextlib
import importlib
import logging
import os
import pickle
import queue
import struct
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, BinaryIO, override

LENGTH = struct.Struct("!I")
READY = 0
"""The number of the frame that tells that the placeholder is ready."""


class _BindingInfo(SimpleNamespace):
    """Replaces a protobuf message and its Direction enum."""

    undefined, out, inout = 0, 1, 2


class _StatusResult(SimpleNamespace):
    """Replaces a protobuf message and its Status enum."""

    Failure, Success = 0, 1


# The protobuf messages that the runtime needs before an invocation: plain attributes are enough.
_protos = SimpleNamespace(
    BindingInfo=_BindingInfo,
    FunctionEnvironmentReloadResponse=SimpleNamespace,
    FunctionMetadataResponse=SimpleNamespace,
    RpcException=SimpleNamespace,
    RpcFunctionMetadata=SimpleNamespace,
    RpcRetryOptions=SimpleNamespace,
    StatusResult=_StatusResult,
    WorkerInitResponse=SimpleNamespace,
    WorkerMetadata=SimpleNamespace,
)


NO_ID: ContextVar[str | None] = ContextVar("NO_ID", default=None)


class _Task(asyncio.Task[Any]):
    """A task with the id of its invocation, which it inherits from the task that created it."""

    invocation_id: str | None = None


class _Handler(logging.Handler):
    """Sends text, level and logger of a record to the parent, without blocking."""

    def __init__(self, worker: "_Worker") -> None:
        super().__init__()
        self._worker = worker

    @override
    def emit(self, record: logging.LogRecord) -> None:
        invocation = self._worker.invocation_id()
        self._worker.send((None, record.levelno, record.name, self.format(record), invocation))


class _Worker:
    """Handles the parent's frames as tasks of one event loop."""

    def __init__(self, packages: str, incoming: BinaryIO, outgoing: BinaryIO) -> None:
        self._packages = packages
        self._incoming = incoming
        self._outgoing = outgoing
        self._frames: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._runtime: ModuleType

    async def run(self) -> None:
        """Serve until the process is ended."""
        loop = asyncio.get_running_loop()
        loop.set_task_factory(_make_task)
        root = logging.getLogger()
        root.setLevel(logging.INFO)
        root.addHandler(_Handler(self))
        for target in (self._write, self._read):
            # Daemons: they must not delay the end of the process.
            threading.Thread(target=target, args=(loop,), daemon=True).start()
        await loop.create_task(self._become_placeholder())
        await loop.create_future()

    def send(self, frame: tuple[Any, ...]) -> None:
        """Put a frame into the unbounded queue of the writing thread."""
        self._frames.put(pickle.dumps(frame))

    def invocation_id(self) -> str | None:
        """Return the id of the current invocation: by its task, else by the context."""
        found = None
        with contextlib.suppress(RuntimeError):  # no loop runs in this thread
            found = getattr(asyncio.current_task(), "invocation_id", None)
        if found is None and hasattr(self, "_runtime"):
            found = self._runtime.invocation_id_cv.get()
        return found

    def _write(self, _: asyncio.AbstractEventLoop) -> None:
        with contextlib.suppress(BrokenPipeError):  # the parent has exited; `_read` handles it
            while True:
                frame = self._frames.get()
                self._outgoing.write(LENGTH.pack(len(frame)) + frame)
                self._outgoing.flush()

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        while (head := self._incoming.read(LENGTH.size)) and len(head) == LENGTH.size:
            frame = self._incoming.read(*LENGTH.unpack(head))
            number, handler, arguments = pickle.loads(frame)  # noqa: S301 - see above
            work = self._answer(number, getattr(self, handler), arguments)
            loop.call_soon_threadsafe(loop.create_task, work)
        os._exit(0)  # the parent has exited

    async def _answer(
        self, number: int, handler: Callable[..., Awaitable[Any]], arguments: tuple[Any, ...]
    ) -> None:
        self.send((number, await handler(*arguments)))

    async def _become_placeholder(self) -> None:
        """Initialise the worker as the host does before it has an app."""
        self._import_runtime()
        await self._runtime.worker_init_request(
            _request("worker_init_request", function_app_directory="", capabilities={})
        )
        self.send((READY, sys.version_info[:2]))

    async def specialise(
        self, directory: str, packages: str, environment: dict[str, str]
    ) -> tuple[list[tuple[str, str, list[str]]], str | None]:
        """Load the app: return its functions (name, id, raw bindings), or the error's message."""
        self._unload_worker_packages(packages)
        self._import_runtime()
        # Appends the app's folder to `sys.path`, clears and fills the environment, imports and
        # indexes function_app.py, and changes into the folder, in that order.
        response = await self._runtime.function_environment_reload_request(
            _request(
                "function_environment_reload_request",
                function_app_directory=directory,
                environment_variables=environment,
            )
        )
        if response.result.status != _StatusResult.Success:
            return [], response.result.exception.message
        reported = await self._runtime.functions_metadata_request(_request(""))
        functions = reported.function_metadata_results or []
        return [(each.name, each.function_id, each.raw_bindings) for each in functions], None

    async def invoke(
        self, invocation_id: str, function_id: str, inputs: list[Any], metadata: dict[str, Any]
    ) -> tuple[Any, list[Any], str | None]:
        """Run a function; return its value, its outputs, and the exception if it raised."""
        task = asyncio.current_task()
        if isinstance(task, _Task):
            task.invocation_id = invocation_id
        native: Any = importlib.import_module("azure_functions_runtime.native_invocation")
        # Over gRPC, as in Azure, no async function gets its id by a context variable: what it logs
        # in a thread has none (azure-functions-python-worker#1860).
        native.invocation_id_cv = NO_ID
        ok, returned, outputs, error, _ = await native.invocation_request_native(
            invocation_id, function_id, inputs, metadata
        )
        return returned, outputs, None if ok else error

    def _import_runtime(self) -> None:
        self._runtime = importlib.import_module("azure_functions_runtime")
        self._runtime.start_threadpool_executor()

    def _unload_worker_packages(self, packages: str) -> None:
        """Unload modules of the worker's folder, so that the app's own copies are imported."""
        for name, module in list(sys.modules.items()):
            if any(place.startswith(self._packages) for place in _places(module)):
                del sys.modules[name]
        sys.path.insert(0, packages)


def _make_task(
    loop: asyncio.AbstractEventLoop,
    coro: Coroutine[Any, Any, Any],
    **options: Any,  # noqa: ANN401 - of asyncio.Task
) -> _Task:
    task = _Task(coro, loop=loop, **options)
    task.invocation_id = getattr(asyncio.current_task(loop), "invocation_id", None)
    return task


def _places(module: ModuleType) -> list[str]:
    file = getattr(module, "__file__", None)
    return [*(getattr(module, "__path__", None) or ()), *([file] if file else ())]


def _request(kind: str, **members: object) -> SimpleNamespace:
    """Wrap a message of the host as the gRPC side does for the runtime."""
    message = SimpleNamespace(**{kind: SimpleNamespace(**members)})
    return SimpleNamespace(request=message, properties={"protos": _protos, "host": "127.0.0.1"})


def _pipes() -> tuple[BinaryIO, BinaryIO]:
    """Return standard input and output for the frames; redirect the app's output to stderr."""
    incoming, outgoing = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return os.fdopen(incoming, "rb"), os.fdopen(outgoing, "wb")


def main(packages: str) -> None:
    """Run the worker whose packages are in this folder, until the parent ends it."""
    incoming, outgoing = _pipes()
    sys.path.insert(0, packages)
    # Without uvloop, as on Windows, the worker silently uses asyncio.
    with contextlib.suppress(Exception):
        uvloop = importlib.import_module("uvloop")
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.run(_Worker(packages, incoming, outgoing).run())


if __name__ == "__main__":
    main(str(Path(sys.argv[1]).resolve()))
