"""The app's Azure Functions. They convert requests and responses; the rest is `relay/flow.py`."""

import os

from relay import bootstrap

_environ = dict(os.environ)
"""The app settings, as the relay has read them."""
# Before the other imports: Entra is asked for a token while they run.
_app = bootstrap.app(_environ, ahead=True)
the_relay = _app.relay

import asyncio
import typing
from collections.abc import Iterable, Mapping
from http.cookies import SimpleCookie
from typing import Any, override

import azure.functions as func

import relay
from relay import log, pages
from relay.connections import DEFAULT
from relay.oauth.authorize import Started
from relay.oauth.request import Request
from relay.outcome import Answer
from relay.pages import Reply

# ANONYMOUS on purpose: the Functions host reads `?code=` as a function key, so any other level
# answers an authorization response with 401. The endpoint is protected by the state.
app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)

STORAGE = "AzureWebJobsStorage"
# The name itself and not `%OUTBOX_QUEUE%`: without that setting the host cannot resolve it, and
# neither function would load.
OUTBOX = _app.outbox_queue

# The worker does not load a function with `func.Out[list[str]]`.
Texts = typing.List[str]  # noqa: UP006

_examining = asyncio.Lock()


@app.function_name("callback")
@app.route("callback/{connection?}", methods=["GET", "POST", "HEAD", "OPTIONS"])
@app.queue_output("outbox", queue_name=OUTBOX, connection=STORAGE)
async def callback(req: func.HttpRequest, outbox: func.Out[str]) -> func.HttpResponse:
    """Receive an authorization response: the redirect URI.

    The host writes `outbox` before it sends the answer, and answers 500 if that fails: "held" is
    only said of a callback that is stored. HEAD and OPTIONS, with which providers probe a URI when
    it is registered, are answered whatever they ask for.
    """
    if req.method in ("HEAD", "OPTIONS"):
        return _response(pages.probe(req.method))
    request = _request(req)
    answer = await the_relay.receive(_name(req), request)
    if answer.held is not None:
        outbox.set(answer.held)
    return _response(_render(answer, request))


@app.function_name("redeliver")
@app.queue_trigger("message", queue_name=OUTBOX, connection=STORAGE)
@app.queue_output("dead", queue_name=f"{OUTBOX}-dead", connection=STORAGE)
async def redeliver(message: func.QueueMessage, dead: func.Out[str]) -> None:
    """Deliver a held callback. After an exception the host shows the message again later."""
    # The callback itself was the first attempt, and `dequeue_count` begins with one.
    letter = await the_relay.redeliver(message.get_body(), (message.dequeue_count or 0) + 1)
    if letter is not None:
        dead.set(letter.to_json())


@app.function_name("examine")
@app.queue_trigger("message", queue_name=f"{OUTBOX}-doctor", connection=STORAGE)
@app.queue_output("report", queue_name=f"{OUTBOX}-doctor-report", connection=STORAGE)
async def examine(message: func.QueueMessage, report: func.Out[Texts]) -> None:
    """Run the doctor where the app's own identity is, for an operator."""
    from relay.tools import examination  # noqa: PLC0415 - no callback needs it

    parts = await examination.run(
        message.get_body(),
        _environ,
        _examining,
        dequeued=message.dequeue_count,
        inserted=message.insertion_time,
    )
    if parts:
        report.set(parts)


@app.function_name("gauge")
@app.timer_trigger("timer", schedule="0 */15 * * * *")
async def gauge(timer: func.TimerRequest) -> None:  # noqa: ARG001 - bound by its name
    """Log how many messages lie in the queues: the alerts read these lines."""
    from relay.tools import gauge as gauges  # noqa: PLC0415 - no callback needs it

    await gauges.measure(_environ, the_relay.writer)


@app.function_name("authorize")
@app.route("authorize/{connection}", methods=["GET"])
async def authorize(req: func.HttpRequest) -> func.HttpResponse:
    """Start a flow at the relay: Dynamics sends a person here with a ticket."""
    request = _request(req)
    answer = the_relay.authorize(_name(req), request)
    if isinstance(answer, Started):
        return _response(pages.begin(answer))
    return _response(_render(answer, request))


@app.function_name("done")
@app.route("done/{outcome}", methods=["GET", "HEAD"])
async def done(req: func.HttpRequest) -> func.HttpResponse:
    """Return the page to which a browser is redirected after a callback."""
    reference = req.params.get("ref", "")
    connection = the_relay.connections.find(req.params.get("to"))
    return _response(
        pages.done(
            req.route_params.get("outcome", ""),
            reference,
            req.headers.get("accept-language", ""),
            connection,
            via=req.params.get("via", ""),
        )
    )


@app.function_name("health")
@app.route("health", methods=["GET", "HEAD"])
async def health(req: func.HttpRequest) -> func.HttpResponse:  # noqa: ARG001 - bound by its name
    """Return 200 if the settings validate, else 503. No I/O.

    Also writes the lines that wait for an invocation: who looks here wants to see them.
    """
    the_relay.writer.flush()
    healthy = not the_relay.connections.problems
    return _response(pages.health(relay.__version__, healthy=healthy))


# The host tries routes in the order of the functions' names: any function with a route whose name
# sorts after this one would never be reached.
@app.function_name("unknown")
@app.route("{*path}", methods=["GET", "HEAD"])
async def unknown(req: func.HttpRequest) -> func.HttpResponse:
    """Answer for every other address. Scanners ask for many: it logs nothing and reads no body."""
    html = "text/html" in req.headers.get("accept", "").lower()
    return _response(
        pages.unknown(html=html, accept_language=req.headers.get("accept-language", ""))
    )


def _name(req: func.HttpRequest) -> str:
    return req.route_params.get("connection") or DEFAULT


def _request(req: func.HttpRequest) -> Request:
    return Request(
        method=req.method,
        # Not `req.params`: the host has joined duplicates with a comma and dropped empty values.
        query=req.url.partition("?")[2],
        headers={name.lower(): value for name, value in req.headers.items()},
        body=req.get_body(),
    )


def _render(answer: Answer, request: Request) -> Reply:
    language = request.headers.get("accept-language", "")
    try:
        connection = the_relay.connections.find(answer.connection)
        return pages.render(
            answer, html=request.wants_html, accept_language=language, connection=connection
        )
    except Exception as error:  # noqa: BLE001 - a failed invocation would lose what `outbox` holds
        log.crash(error, answer.reference)
        return pages.render(answer, html=False)


def _response(reply: Reply) -> func.HttpResponse:
    if not reply.cookies:
        return func.HttpResponse(reply.body, status_code=reply.status, headers=dict(reply.headers))
    return _WithCookies(reply)


class _WithCookies(func.HttpResponse):
    """A response whose cookies reach the browser unchanged.

    The worker parses a Set-Cookie header and sends an absent Domain as an empty one; the host
    writes `domain=`, Azure's front end fills it in, and browsers drop a `__Host-` cookie that has a
    domain (azure-functions-python-worker#1902). So the first cookie is sent as a plain header (the
    host takes one header of each name), and further ones as parsed cookies whose Domain is `None`.
    """

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.body, status_code=reply.status)
        self._headers = _Headers(reply.headers, reply.cookies)

    @property
    @override
    def headers(self) -> Any:
        return self._headers


class _Headers(dict[str, str]):
    """The part of a header mapping that azure-functions' `HttpResponseConverter.encode` uses."""

    def __init__(self, headers: Mapping[str, str], cookies: Iterable[str]) -> None:
        first, *others = cookies
        super().__init__({name.lower(): value for name, value in headers.items()})
        self["set-cookie"] = first
        self._others = [SimpleCookie(cookie) for cookie in others]
        for jar in self._others:
            for cookie in jar.values():
                cookie["domain"] = None

    @override
    def __contains__(self, name: object) -> bool:
        return bool(self._others) if name == "Set-Cookie" else super().__contains__(name)

    def get_all(self, _name: str) -> list[SimpleCookie]:
        """Return the further cookies: the converter parses each, which keeps its `None` domain."""
        return self._others

    @override
    def pop(self, name: str, *_: object) -> str:
        """Return the first cookie and keep it: the converter would drop it."""
        return self[name.lower()]
