"""The Azure Functions host, for a developer's machine.

Microsoft's own worker code runs the functions (`sandbox/worker.py`); this module replaces the HTTP
side of the .NET host, and `sandbox/queues.py` its queue side. Source files named here are those of
Azure/azure-functions-host and, where they begin with WebJobs, of
Azure/azure-webjobs-sdk or Azure/azure-webjobs-sdk-extensions.

    python -m sandbox.host [--directory .] [--port 7071] [--certificate FILE --key FILE]
        [--worker-process]
"""

import argparse
import asyncio
import json
import logging
import os
import re
import signal
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Protocol

import uvicorn
from azure.functions.meta import Datum
from starlette.requests import ClientDisconnect
from starlette.requests import Request as Incoming
from starlette.types import Receive, Scope, Send

from sandbox import aspnet, kestrel, loops, refuse_in_azure, worker
from sandbox.packages import Deployment
from sandbox.queue_listener import LEASE
from sandbox.queues import STORAGE, QueueExtension
from sandbox.serving import listen
from sandbox.storage import MemoryQueues, Queues
from sandbox.worker_channel import WorkerProcess

FUNCTION_KEY = "local"
"""The key of functions whose `auth_level` is not anonymous."""

ENVIRONMENT = "AZURE_FUNCTIONS_ENVIRONMENT"
DEFAULT_BODY_LIMIT = 104_857_600
HOMEPAGE = b"<!DOCTYPE html><title>Functions</title><p>Your Functions app is up and running."

WriteOutput = Callable[[Mapping[str, Any], Datum], Awaitable[None]]
"""Writes one output, given the raw binding and the value; returns when it is stored, or raises."""

if TYPE_CHECKING:
    from sandbox.azure_storage import AzureQueues

_log = logging.getLogger("sandbox.host")
_sendable = re.compile(r"[\t\x20-\x7e]*")
_header_name = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_reserved = re.compile(r"/(admin|runtime)/.", re.IGNORECASE)


class Worker(Protocol):
    """Runs the functions: the module `sandbox.worker`, or a `WorkerProcess`."""

    def index(self, directory: Path, settings: Mapping[str, str]) -> list[worker.Indexed]:
        """Import the folder's app with these settings and return its functions."""

    async def run(
        self, function_id: str, inputs: list[tuple[str, Datum]], metadata: Mapping[str, Datum]
    ) -> worker.Result:
        """Run one function."""


class FunctionFailedError(Exception):
    """A function raised, or its output could not be written or sent. The log says which."""


@dataclass(frozen=True)
class Function:
    """One function of the app. `route`, `methods` and `auth_level` are those of an HTTP trigger.

    `route` includes the prefix; empty `methods` allow any.
    """

    name: str
    function_id: str
    trigger_type: str
    route: str | None
    methods: tuple[str, ...]
    auth_level: str | None
    bindings: tuple[Mapping[str, Any], ...]

    @property
    def trigger(self) -> Mapping[str, Any]:
        """The raw binding of its trigger; its `name` is the function's parameter."""
        return next(binding for binding in self.bindings if binding["type"] == self.trigger_type)


@dataclass
class _Answer:
    """An HTTP answer. Header names are lower-case."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    cookies: list[str] = field(default_factory=list)
    body: bytes = b""


class FunctionsHost:
    """ASGI application: answers as the Azure Functions host would, for the app in a folder.

    `settings` are the app settings; they are in the environment only while `function_app.py` is
    imported. `queues` is the storage of its queue bindings. Queue triggers run between the startup
    and the shutdown of ASGI's lifespan; without lifespan they do not run. `lease` is for how many
    seconds a received message is invisible. Outputs are written before the HTTP answer is sent, as
    in WorkerFunctionInvoker.cs: an error there makes the answer a 500. `write_output` replaces the
    writer. `process` is a `WorkerProcess` for the functions, which otherwise run in this process.

    Raises what importing or indexing the app raises, and `ValueError` for a wrong host.json. Hosts
    in one process share only `queues` and may serve from different threads. There is no scaling,
    throttling or time-out, and no clock: `invoke` runs a function with a timer.
    """

    functions: tuple[Function, ...]
    """In the order in which their routes are tried."""

    errors: dict[str, str]
    """Why functions did not load, by name. As in ScriptHost.cs the others still run."""

    keys_fail: bool = False
    """Whether the storage with the host's keys does not answer. A request with a key, which `code`
    in the query counts as, then gets an empty 500 and reaches no function, not even an anonymous
    one (AuthenticationLevelHandler.cs). May be changed at any time."""

    def __init__(
        self,
        directory: Path,
        settings: Mapping[str, str],
        *,
        queues: Queues | None = None,
        lease: int = LEASE,
        write_output: WriteOutput | None = None,
        process: Worker | None = None,
    ) -> None:
        refuse_in_azure(os.environ)
        directory = directory.resolve()
        # The default of Core Tools; in Azure it is Production.
        stage = os.environ.get(ENVIRONMENT, "Development")
        settings = {ENVIRONMENT: stage, **settings}
        self._settings = {**os.environ, **settings}
        host_json = _overridden(_read_json(directory / "host.json"), self._settings)
        extensions = host_json.get("extensions", {})
        http = extensions.get("http", {})
        self._custom_headers: dict[str, str] = http.get("customHeaders", {})
        self._hsts = aspnet.hsts(http.get("hsts", {}))
        self._queues: QueueExtension | None = None
        self._write_output = write_output
        if queues is not None:
            section = extensions.get("queues", {})
            self._queues = QueueExtension(queues, section, self._settings, lease=lease)
            self._write_output = write_output or self._queues.write

        self._worker: Worker = worker
        if process is not None:
            self._worker = process
        prefix = http.get("routePrefix", "api")
        indexed = self._worker.index(directory, settings)
        functions = [_function(each, prefix) for each in indexed]
        self.errors = {}
        functions = [function for function in functions if self._loads(function)]
        # FunctionMetadataManager.cs sorts by name, and WebJobsRouteBuilder.cs tries the routes in
        # that order: a literal route does not win over a parameter, unlike in ASP.NET Core.
        self.functions = tuple(sorted(functions, key=lambda function: function.name.upper()))
        self._by_name = {function.name: function for function in self.functions}
        self._routes = [
            (aspnet.route_pattern(function.route), function)
            for function in self.functions
            if function.route is not None and not self._is_disabled(function)
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the server's start and stop."""
        if scope["type"] == "lifespan":
            await receive()
            async with asyncio.TaskGroup() as group:
                listening = group.create_task(self._queues.listen()) if self._queues else None
                await send({"type": "lifespan.startup.complete"})
                await receive()
                if listening is not None:
                    listening.cancel()
            await send({"type": "lifespan.shutdown.complete"})
        else:
            request = aspnet.Request.read(scope)
            try:
                answer = await self._answer(request, Incoming(scope, receive))
            except FunctionFailedError:
                answer = _Answer(HTTPStatus.INTERNAL_SERVER_ERROR)
            except ClientDisconnect:
                return
            self._add_headers(request, answer)
            await _send(send, answer)

    async def invoke(
        self, name: str, inputs: list[tuple[str, Datum]], metadata: Mapping[str, Datum]
    ) -> Datum | None:
        """Run a function by its name, write its outputs, and return its value.

        `inputs` are values for its parameters; `metadata` is the trigger's (of a queue: `Id`,
        `DequeueCount`, …). Raises `FunctionFailedError`, also when an output could not be written:
        the trigger then keeps its message.
        """
        function = self._by_name[name]
        returned, outputs, error = await self._worker.run(function.function_id, inputs, metadata)
        if error:
            raise _failed(name, error)
        bindings = {binding["name"]: binding for binding in function.bindings}
        if returned and bindings.get("$return", {}).get("type", "http") != "http":
            outputs.append(("$return", returned))
        for output, datum in outputs:
            await self._write(name, bindings[output], datum)
        return returned

    def _loads(self, function: Function) -> bool:
        """Add the function's trigger, or record in `errors` why that is not possible."""
        if function.trigger_type != "queueTrigger" or self._queues is None:
            return True

        async def run(body: str, metadata: Mapping[str, Datum]) -> bool:
            inputs = [(function.trigger["name"], Datum(body, "string"))]
            try:
                await self.invoke(function.name, inputs, metadata)
            except FunctionFailedError:
                return False
            return True

        try:
            if not self._is_disabled(function):
                self._queues.add_trigger(function.trigger, run)
        except ValueError as problem:
            self.errors[function.name] = str(problem)
            _log.error("The '%s' function is in error: %s", function.name, problem)
            return False
        return True

    def _is_disabled(self, function: Function) -> bool:
        # WebJobs: HostListenerFactory.cs. FunctionInvocationMiddleware.cs then answers 404.
        names = (f"AzureWebJobs.{function.name}.Disabled", f"AzureWebJobs_{function.name}_Disabled")
        return any(self._settings.get(name, "").lower() in {"1", "true"} for name in names)

    async def _write(self, name: str, binding: Mapping[str, Any], datum: Datum) -> None:
        where = f"output {binding['name']} ({binding['type']})"
        if self._write_output is None:
            raise _failed(name, f"nothing here writes its {where}")
        try:
            await self._write_output(binding, datum)
        except Exception as problem:
            raise _failed(name, f"{type(problem).__name__} while writing its {where}") from problem

    async def _answer(self, request: aspnet.Request, incoming: Incoming) -> _Answer:
        if _reserved.match(request.path):
            return _reserved_answer(request.path.lower())
        found = self._match(request)
        if found is None:
            return self._homepage() if request.path == "/" else _Answer(HTTPStatus.NOT_FOUND)
        function, params = found
        # The key is checked before the function runs: an OAuth code counts as a wrong key.
        if self.keys_fail and request.function_key:
            raise _failed(function.name, "the host cannot load its keys")
        if function.auth_level != "anonymous" and request.function_key != FUNCTION_KEY:
            return _Answer(HTTPStatus.UNAUTHORIZED)
        if not request.host:
            raise _failed(function.name, "the request has no URL")
        if request.content_length > self._body_limit:
            # Kestrel says 413; ExceptionMiddleware.cs makes it a 500 (the host's issue 10519).
            raise _failed(function.name, "the body of the request is too large")
        # Only a body with a length is passed on: a chunked one arrives empty.
        body = await incoming.body() if request.content_length else b""
        inputs = [(function.trigger["name"], _http_datum(request, params, body))]
        # No metadata: the worker asks to leave it out for HTTP (handle_event.py).
        returned = await self.invoke(function.name, inputs, {})
        try:
            return _http_answer(returned)
        except ValueError as problem:
            raise _failed(function.name, f"its response cannot be sent: {problem}") from problem

    def _match(self, request: aspnet.Request) -> tuple[Function, dict[str, str]] | None:
        for pattern, function in self._routes:
            found = pattern.fullmatch(request.path)
            if found and (not function.methods or request.method in function.methods):
                params = found.groupdict().items()
                return function, {name: value for name, value in params if value is not None}
        return None

    @property
    def _body_limit(self) -> int:
        # HttpRequestBodySizeMiddleware.cs ignores a value that is not a number.
        limit = self._settings.get("FUNCTIONS_REQUEST_BODY_SIZE_LIMIT", "")
        return int(limit) if limit.isdecimal() else DEFAULT_BODY_LIMIT

    def _homepage(self) -> _Answer:
        if self._settings.get("AzureWebJobsDisableHomepage", "").lower() == "true":
            return _Answer(HTTPStatus.NO_CONTENT)
        return _Answer(HTTPStatus.OK, {"content-type": "text/html"}, body=HOMEPAGE)

    def _add_headers(self, request: aspnet.Request, answer: _Answer) -> None:
        # HstsConfigurationMiddleware.cs sets its header before the function runs, and the first
        # value is kept; CustomHttpHeadersMiddleware.cs only adds missing headers.
        if self._hsts and aspnet.gets_hsts(request):
            answer.headers["strict-transport-security"] = self._hsts
        for name, value in self._custom_headers.items():
            answer.headers.setdefault(name.lower(), value)


def _function(indexed: worker.Indexed, prefix: str) -> Function:
    name, function_id, bindings = indexed
    trigger = next(binding for binding in bindings if binding["type"].endswith("Trigger"))
    http = trigger["type"] == "httpTrigger"
    route = trigger.get("route") or name  # WebScriptHostHttpRoutesManager.cs
    return Function(
        name=name,
        function_id=function_id,
        trigger_type=trigger["type"],
        route=(f"{prefix}/{route}" if prefix else route) if http else None,
        methods=tuple(method.upper() for method in trigger.get("methods") or ()),
        auth_level=trigger.get("authLevel", "function").lower() if http else None,
        bindings=bindings,
    )


def _http_datum(request: aspnet.Request, params: Mapping[str, str], body: bytes) -> Datum:
    """Convert a request to the worker's input (GrpcMessageConversionExtensions.cs)."""

    def texts(values: Mapping[str, str]) -> dict[str, Datum]:
        return {name: Datum(value, "string") for name, value in values.items()}

    http = {
        "method": Datum(request.method, "string"),
        "url": Datum(request.url, "string"),
        "headers": texts(request.headers),
        "query": texts(request.query),
        "params": texts(params),
        "body": Datum(body, "bytes"),
    }
    return Datum(http, "http")


def _http_answer(returned: Datum | None) -> _Answer:
    """Convert an HTTP function's return value (HttpBinding.cs, RawScriptResult.cs).

    Raises `ValueError` for a header that ASP.NET Core refuses to send.
    """
    if returned is None:
        return _Answer(HTTPStatus.OK)
    if returned.type == "string":
        plain = {"content-type": "text/plain; charset=utf-8"}
        return _Answer(HTTPStatus.OK, plain, body=_unwrapped(returned.value).encode())
    http = returned.value
    answer = _Answer(int(http["status_code"].value), body=http["body"].value)
    for name, header in http["headers"].items():
        answer.headers.setdefault(name.lower(), header.value)
    for name in ("content-length", "transfer-encoding"):  # the server's own
        answer.headers.pop(name, None)
    if not all(map(_header_name.fullmatch, answer.headers)):
        raise ValueError("A header has a name that is no token.")
    for jar in http["cookies"] or ():
        answer.cookies += [aspnet.set_cookie(cookie) for cookie in jar.values()]
    if not all(map(_sendable.fullmatch, (*answer.headers.values(), *answer.cookies))):
        raise ValueError("A header has a character that is not printable ASCII.")
    return answer


def _unwrapped(text: str) -> str:
    """Return the text; if it is a JSON object with a string `body`, return that member."""
    try:
        parsed = json.loads(text)
    except ValueError:
        return text
    body = parsed.get("body") if isinstance(parsed, dict) else None
    return body if isinstance(body, str) else text


def _reserved_answer(path: str) -> _Answer:
    """Answer a request to the host's own addresses, which no function's route can match."""
    if path == "/admin/host/ping":
        no_cache = {"cache-control": "no-store,no-cache", "pragma": "no-cache"}
        return _Answer(HTTPStatus.OK, no_cache)
    if path.startswith(("/admin/", "/runtime/webhooks/")):
        return _Answer(HTTPStatus.UNAUTHORIZED, {"www-authenticate": "Bearer"})
    return _Answer(HTTPStatus.NOT_FOUND)


async def _send(send: Send, answer: _Answer) -> None:
    headers = [*answer.headers.items(), *(("set-cookie", cookie) for cookie in answer.cookies)]
    body = answer.body
    if answer.status in {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}:
        body = b""
    else:
        headers.append(("content-length", str(len(body))))
    raw = [(name.encode("ascii"), value.encode("ascii")) for name, value in headers]
    await send({"type": "http.response.start", "status": answer.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


def _failed(name: str, why: str) -> FunctionFailedError:
    _log.error("Function %s failed: %s", name, why)
    return FunctionFailedError(name)


def _overridden(host_json: dict[str, Any], settings: Mapping[str, str]) -> dict[str, Any]:
    """Return host.json with app settings such as `AzureFunctionsJobHost__logging__…` applied.

    https://learn.microsoft.com/azure/azure-functions/functions-host-json#override-hostjson-values;
    names are case-insensitive, as in .NET.
    """
    for setting, value in settings.items():
        root, *path = setting.split("__")
        if root.lower() != "azurefunctionsjobhost" or not path:
            continue
        section = host_json
        for step in path[:-1]:
            section = section.setdefault(_spelled(step, section), {})
        plain: Any = {"true": True, "false": False}.get(value.lower(), value)
        section[_spelled(path[-1], section)] = plain
    return host_json


def _spelled(name: str, names: Iterable[str]) -> str:
    return next((known for known in names if known.lower() == name.lower()), name)


def _read_json(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text("utf-8-sig")) if file.is_file() else {}
    return content


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve the app in a folder on 127.0.0.1 until SIGINT or SIGTERM, as `func start` does."""
    parser = argparse.ArgumentParser(prog="python -m sandbox.host", description=main.__doc__)
    parser.add_argument("--directory", type=Path, default=Path(), help="where function_app.py is")
    parser.add_argument("--port", type=int, default=7071, help="0 takes a free one")
    parser.add_argument("--certificate", type=Path, help="PEM file; the app is served by https")
    parser.add_argument("--key", type=Path, help="PEM file of the certificate's private key")
    parser.add_argument("--ready-file", type=Path, help="gets the port once it is open")
    parser.add_argument(
        "--require-storage",
        action="store_true",
        help=f"never keep queues in memory: wait for what {STORAGE} leads to",
    )
    parser.add_argument(
        "--lease",
        type=int,
        default=LEASE,
        help="seconds for which a received message is out of sight; %(default)s in Azure",
    )
    parser.add_argument(
        "--worker-process",
        action="store_true",
        help="run the functions in a process that has only the app's and the worker's packages",
    )
    options = parser.parse_args(arguments)
    # uvicorn raises the signal that stopped it again at its end.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit())
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("azure.core").setLevel(logging.WARNING)  # it logs every request

    directory = options.directory.resolve()
    local = _read_json(directory / "local.settings.json").get("Values", {})
    os.environ.update({name: local[name] for name in local if name not in os.environ})
    sys.path.insert(0, str(directory))  # for what functions import while they run
    with (
        closing(_storage(required=options.require_storage)) as queues,
        _worker_process(directory) if options.worker_process else nullcontext() as process,
    ):
        host = FunctionsHost(directory, {}, queues=queues, lease=options.lease, process=process)
        serve(
            host,
            port=options.port,
            certificate=options.certificate,
            key=options.key,
            ready_file=options.ready_file,
        )


@contextmanager
def _worker_process(directory: Path) -> Iterator[WorkerProcess]:
    with TemporaryDirectory() as folder:
        deployment = Deployment.of(directory, Path(folder))
        with WorkerProcess(deployment.worker, deployment.packages) as process:
            yield process


def serve(
    host: FunctionsHost,
    *,
    port: int,
    certificate: Path | None = None,
    key: Path | None = None,
    ready_file: Path | None = None,
) -> None:
    """Serve on 127.0.0.1 until a signal ends it. The options are those of the command line."""
    config = uvicorn.Config(
        host,
        loop=f"{loops.__name__}:{loops.new_event_loop.__name__}",
        http=kestrel.Connection,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,  # it would contain codes and states
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=5,
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )
    config.load()  # a wrong certificate must fail before the port is announced
    with listen(port) as listener:
        port = listener.getsockname()[1]
        _print_functions(host, f"{'https' if certificate else 'http'}://localhost:{port}")
        if ready_file:
            # Written elsewhere and renamed: a reader never finds it empty.
            draft = ready_file.with_name(f"{ready_file.name}.draft")
            draft.write_text(str(port), "ascii")
            draft.replace(ready_file)
        uvicorn.Server(config).run(sockets=[listener])


def _storage(*, required: bool) -> Queues:
    """Return the queues at AzureWebJobsStorage, or queues in memory with a warning."""
    connection = os.environ.setdefault(STORAGE, "UseDevelopmentStorage=true")
    try:
        queues = _azure_queues(connection)
    except ValueError as problem:
        if required:
            sys.exit(f"{STORAGE}: {problem}")
        why = str(problem)
    else:
        if required or queues.answers():
            return queues
        queues.close()
        why = "Nothing answers there."
    print(
        f"WARNING: {STORAGE}: {why} Queues are kept in memory, and end with this process.",
        file=sys.stderr,
    )
    return MemoryQueues()


def _azure_queues(connection: str) -> "AzureQueues":
    if "=" not in connection:
        raise ValueError("It is no connection string.")
    from sandbox.azure_storage import AzureQueues  # noqa: PLC0415 - 30 MiB, only if it is used

    return AzureQueues(connection)


def _print_functions(host: FunctionsHost, url: str) -> None:
    print("\nFunctions:\n")
    for function in host.functions:
        methods = f"[{','.join(function.methods)}] " if function.methods else ""
        at = function.trigger_type if function.route is None else f"{methods}{url}/{function.route}"
        print(f"        {function.name}: {at}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
