"""The app that ran in the real Functions host when real_host.json was recorded."""

import json
from collections.abc import Callable
from typing import Any

import azure.functions as func

app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)


def seen(name: str, req: func.HttpRequest) -> func.HttpResponse:
    """Tell what a function sees of a request."""
    body = req.get_body()
    told = {
        "function": name,
        "method": req.method,
        "url": req.url,
        "headers": dict(req.headers),
        "params": dict(req.params),
        "route": dict(req.route_params),
        "length": len(body),
        "body": body[:200].decode("latin-1"),
    }
    return func.HttpResponse(json.dumps(told), mimetype="application/json")


@app.function_name("callback")
@app.route("callback/{connection?}", methods=["GET", "POST", "HEAD", "OPTIONS"])
async def callback(req: func.HttpRequest) -> func.HttpResponse:
    return seen("callback", req)


@app.function_name("authorize")
@app.route("authorize/{connection}", methods=["GET"])
async def authorize(req: func.HttpRequest) -> func.HttpResponse:
    return seen("authorize", req)


@app.function_name("done")
@app.route("done/{outcome}", methods=["GET"])
async def done(req: func.HttpRequest) -> func.HttpResponse:
    return seen("done", req)


@app.function_name("health")
@app.route("health", methods=["GET"])
async def health(req: func.HttpRequest) -> func.HttpResponse:
    return seen("health", req)


@app.function_name("anything")
@app.route("anything")
async def anything(req: func.HttpRequest) -> func.HttpResponse:
    return seen("anything", req)


@app.function_name("keyed")
@app.route("keyed", methods=["GET"], auth_level=func.AuthLevel.FUNCTION)
async def keyed(req: func.HttpRequest) -> func.HttpResponse:
    return seen("keyed", req)


class _Cookies(func.HttpResponse):
    """Three cookies, as the SDK takes them."""

    def __init__(self) -> None:
        super().__init__("c")
        for cookie in (
            "a=1; Max-Age=60; Path=/; Secure; HttpOnly; SameSite=None",
            "b=2; Expires=Wed, 09 Jun 2027 10:18:14 GMT; Domain=example.com",
            "__Host-c=; Max-Age=0; Path=/",
        ):
            self.headers.add("Set-Cookie", cookie)


def _with(body: str, status: int = 200, **headers: str) -> func.HttpResponse:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return func.HttpResponse(body, status_code=status, headers=names)


def _json(body: str, mimetype: str = "application/json") -> func.HttpResponse:
    return func.HttpResponse(body, mimetype=mimetype)


ANSWERS: dict[str, Callable[[], Any]] = {
    "none": lambda: None,
    "empty": func.HttpResponse,
    "text": lambda: func.HttpResponse("plain"),
    "bytes": lambda: func.HttpResponse(b"\0\xff"),
    "utf8": lambda: func.HttpResponse("é€", mimetype="text/html"),
    "204": lambda: _with("", 204),
    "204body": lambda: _with("dropped", 204),
    "304": lambda: _with("", 304, ETag='"x"'),
    "303": lambda: _with("", 303, Location="/done/x"),
    "303utf": lambda: _with("", 303, Location="/done/é"),
    "405": lambda: _with("", 405, Allow="GET, POST"),
    "411": lambda: _with("l", 411),
    "499": lambda: _with("l", 499),
    "599": lambda: _with("l", 599),
    "600": lambda: _with("l", 600),
    "100": lambda: _with("l", 100),
    "cookie": lambda: _with("c", Set_Cookie="__Host-a=1; Path=/; Secure; HttpOnly; SameSite=Lax"),
    "cookies": _Cookies,
    "override": lambda: _with(
        "o",
        Cache_Control="public",
        Content_Security_Policy="default-src 'self'",
        X_Frame_Options="SAMEORIGIN",
    ),
    "length": lambda: _with("abc", Content_Length="99"),
    "chunked": lambda: _with("abc", Transfer_Encoding="chunked"),
    "connection": lambda: _with("abc", Connection="upgrade", Upgrade="h2c"),
    "ctype": lambda: _json("{}", "application/problem+json"),
    "ctype2": lambda: _with("{}", Content_Type="text/x"),
    "badname": lambda: func.HttpResponse("b", headers={"X A": "b"}),
    "crlf": lambda: _with("b", X_A="b\r\nX-B: c"),
    "latin": lambda: _with("b", X_A="é"),
    "emptyheader": lambda: _with("b", X_A=""),
    "vary": lambda: _with("b", Vary="Accept-Language", Content_Language="de"),
    "big": lambda: func.HttpResponse("x" * 300_000),
    "json": lambda: _json('{"a": 1}'),
    "string": lambda: '{"body": "x"}',
}


@app.function_name("answer")
@app.route("answer/{kind}", methods=["GET", "HEAD", "POST"])
async def answer(req: func.HttpRequest) -> func.HttpResponse:
    kind = req.route_params["kind"]
    if kind == "raise":
        raise ValueError("canary")
    if kind not in ANSWERS:
        return func.HttpResponse("unknown", status_code=404)
    answered: func.HttpResponse = ANSWERS[kind]()  # some are something else, which is the point
    return answered
