"""Azure's Python worker as a process: the side of the child. `worker_channel.py` starts it.

It does what `workers/proxy_worker` of Azure/azure-functions-python-worker does for Python 3.13, in
the same order, with frames over pipes in the place of gRPC. It imports the standard library and the
worker's packages, and from the hand-over on what the app brings: nothing of the sandbox.

    python -I -S worker_process.py FOLDER_OF_THE_WORKERS_PACKAGES

A frame is its length, four bytes in network order, and a pickle. The parent sends
`(number, handler, arguments)`. The child sends `(number, answer)` and log lines, whose number is
None; number 0 says that the placeholder is ready. Pickle is safe here: the parent starts this very
file, and both run what the developer has on the machine.
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
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, BinaryIO, override

LENGTH = struct.Struct("!I")
READY = 0
"""The number of the frame that says that the placeholder is ready."""


class _BindingInfo(SimpleNamespace):
    """Stands in for a protobuf message and its Direction enum."""

    undefined, out, inout = 0, 1, 2


class _StatusResult(SimpleNamespace):
    """Stands in for a protobuf message and its Status enum."""

    Failure, Success = 0, 1


# What the runtime asks of the gRPC protocol until the first invocation: values with names.
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


class _Task(asyncio.Task[Any]):
    """A task that knows of which invocation it is, because the task that made it does."""

    invocation_id: str | None = None


class _Handler(logging.Handler):
    """Forwards the text of a log line, and nothing else of the record. Never waits."""

    def __init__(self, worker: "_Worker") -> None:
        super().__init__()
        self._worker = worker

    @override
    def emit(self, record: logging.LogRecord) -> None:
        invocation = self._worker.invocation_id()
        self._worker.send((None, record.levelno, record.name, self.format(record), invocation))


class _Worker:
    """Handles the frames of the parent as tasks of one loop."""

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
            # Daemons, because SIGTERM and the end of the parent wait for nobody.
            threading.Thread(target=target, args=(loop,), daemon=True).start()
        await loop.create_task(self._become_placeholder())
        await loop.create_future()

    def send(self, frame: tuple[Any, ...]) -> None:
        """Put a frame into the queue of what leaves, which has no bound."""
        self._frames.put(pickle.dumps(frame))

    def invocation_id(self) -> str | None:
        """Return the id of the invocation that runs here: by its task, else by the context."""
        found = None
        with contextlib.suppress(RuntimeError):  # no loop runs in this thread
            found = getattr(asyncio.current_task(), "invocation_id", None)
        if found is None and hasattr(self, "_runtime"):
            found = self._runtime.invocation_id_cv.get()
        return found

    def _write(self, _: asyncio.AbstractEventLoop) -> None:
        with contextlib.suppress(BrokenPipeError):  # the parent is gone, and `_read` sees it too
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
        os._exit(0)  # nobody is left to work for

    async def _answer(
        self, number: int, handler: Callable[..., Awaitable[Any]], arguments: tuple[Any, ...]
    ) -> None:
        self.send((number, await handler(*arguments)))

    async def _become_placeholder(self) -> None:
        """Do what the host asks of a worker before it knows of which app it will be."""
        self._import_runtime()
        await self._runtime.worker_init_request(
            _request("worker_init_request", function_app_directory="", capabilities={})
        )
        self.send((READY, sys.version_info[:2]))

    async def specialise(
        self, directory: str, packages: str, environment: dict[str, str]
    ) -> tuple[list[tuple[str, str, list[str]]], str | None]:
        """Take the app over: return its functions (name, id, raw bindings), or what is wrong."""
        self._prefer_the_packages_of_the_app(packages)
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
        native = importlib.import_module("azure_functions_runtime.native_invocation")
        ok, returned, outputs, error, _ = await native.invocation_request_native(
            invocation_id, function_id, inputs, metadata
        )
        return returned, outputs, None if ok else error

    def _import_runtime(self) -> None:
        self._runtime = importlib.import_module("azure_functions_runtime")
        self._runtime.start_threadpool_executor()

    def _prefer_the_packages_of_the_app(self, packages: str) -> None:
        """Forget what came from the worker's folder, so that the app's own copies win."""
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
    """Wrap a message of the host as the runtime gets it from the gRPC side."""
    message = SimpleNamespace(**{kind: SimpleNamespace(**members)})
    return SimpleNamespace(request=message, properties={"protos": _protos, "host": "127.0.0.1"})


def _pipes() -> tuple[BinaryIO, BinaryIO]:
    """Take standard input and output for the frames; what the app prints goes to standard error."""
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
    # No uvloop, as on Windows: plain asyncio, and nobody is told.
    with contextlib.suppress(Exception):
        uvloop = importlib.import_module("uvloop")
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.run(_Worker(packages, incoming, outgoing).run())


if __name__ == "__main__":
    main(str(Path(sys.argv[1]).resolve()))
