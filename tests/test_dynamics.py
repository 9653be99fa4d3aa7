"""What Dynamics gets, and how its answer is read."""

import asyncio
import json
import re
import ssl
import traceback
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest
from pytest_httpx import HTTPXMock

from relay.callback import AccessToken, Receipt
from relay.connections import Target
from relay.dynamics import MAX_ANSWER, DynamicsClient
from relay.errors import Rejected, Unauthorized, Unavailable, Undelivered
from tests.helpers import CANARY, CODE, STATE, URL, connection
from tests.helpers import TOKEN as BEARER

type Change = Callable[[str], str]

TARGET = connection().target
TOKEN = AccessToken(BEARER, fresh_until=1e9, expires_at=1e9)
BODY = b'{"code":"canary-code-5f1c","state":"canary-state-b72e"}'
REFERENCE = "0123456789abcdef"
AX = "Microsoft.Dynamics.Platform.Integration.Services.OData.AxODataWriteException"
RECORD = "Cannot create a record in OAuth callbacks (OAuthCallbackInbox). State: {}.\n{}"
EXISTS = RECORD.format(STATE, "The record already exists..")


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def dynamics(clock: Clock) -> AsyncIterator[DynamicsClient]:
    # No CAs are loaded: nothing leaves this process.
    client = DynamicsClient(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), clock=clock)
    yield client
    await client.aclose()


async def deliver(
    dynamics: DynamicsClient,
    target: Target = TARGET,
    sent: Iterable[str] = (CODE, STATE),
    body: bytes = BODY,
) -> Receipt:
    return await dynamics.deliver(target, TOKEN, body, reference=REFERENCE, sent=sent)


async def failure[E: Undelivered](
    kind: type[E],
    dynamics: DynamicsClient,
    target: Target = TARGET,
    sent: Iterable[str] = (CODE, STATE),
) -> E:
    """Return the error that a delivery ends with, after a look for what it must not tell."""
    with pytest.raises(kind) as caught:
        await deliver(dynamics, target, sent)
    error = caught.value
    assert type(error) is kind
    told = "".join(traceback.format_exception(error)) + repr(error) + repr(vars(error))
    assert CANARY not in told
    return error


def odata(message: object, kind: object = AX) -> dict[str, object]:
    """Return an error of F&O's OData."""
    return {
        "error": {
            "code": "",
            "message": "An error has occurred.",
            "innererror": {"message": message, "type": kind, "stacktrace": "   at Dynamics.AX"},
        }
    }


# -- what Dynamics gets --------------------------------------------------------------------------


async def test_dynamics_gets_one_post_with_the_headers_of_the_contract(
    dynamics: DynamicsClient, httpx_mock: HTTPXMock
) -> None:
    httpx_mock.add_response(status_code=201)
    await deliver(dynamics)
    (request,) = httpx_mock.get_requests()
    assert request.method == "POST"
    assert str(request.url) == URL
    headers = sorted(request.headers.multi_items())
    transport = ("host", "accept-encoding", "connection", "content-length", "user-agent")
    assert [item for item in headers if item[0] not in transport] == [
        ("accept", "application/json"),
        ("authorization", f"Bearer {BEARER}"),
        ("content-type", "application/json"),
        ("odata-maxversion", "4.0"),
        ("odata-version", "4.0"),
        ("prefer", "return=minimal"),
        ("x-ms-client-request-id", REFERENCE),
    ]
    assert request.headers["content-length"] == str(len(BODY))


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(BODY, id="json"),
        pytest.param(b'{ "b" : 1,\r\n "a":"\\u00e9+%2B&="}', id="json-as-somebody-else-writes-it"),
        pytest.param(bytes(range(256)), id="every-byte"),
    ],
)
async def test_the_body_is_sent_byte_for_byte(
    dynamics: DynamicsClient, httpx_mock: HTTPXMock, body: bytes
) -> None:
    httpx_mock.add_response(status_code=201)
    await deliver(dynamics, body=body)
    (request,) = httpx_mock.get_requests()
    assert request.content == body


async def test_the_url_is_used_as_it_was_given(
    dynamics: DynamicsClient, httpx_mock: HTTPXMock
) -> None:
    url = "https://contoso.example:8443/api/v2.0/companies(1)/x?cross-company=true&a=%2F"
    httpx_mock.add_response(status_code=201)
    await deliver(dynamics, connection(url=url).target)
    (request,) = httpx_mock.get_requests()
    assert str(request.url) == url


async def test_each_delivery_has_its_own_token_and_reference(
    dynamics: DynamicsClient, httpx_mock: HTTPXMock
) -> None:
    httpx_mock.add_response(status_code=201, is_reusable=True)
    for name in ("one", "two"):
        token = AccessToken(name, fresh_until=1e9, expires_at=1e9)
        await dynamics.deliver(TARGET, token, BODY, reference=name, sent=())
    assert [
        (request.headers["authorization"], request.headers["x-ms-client-request-id"])
        for request in httpx_mock.get_requests()
    ] == [("Bearer one", "one"), ("Bearer two", "two")]


async def test_a_cookie_of_dynamics_is_not_carried_to_the_next_callback(
    dynamics: DynamicsClient, httpx_mock: HTTPXMock
) -> None:
    cookie = {"set-cookie": "ARRAffinity=abc; Path=/; Secure; HttpOnly"}
    httpx_mock.add_response(status_code=201, headers=cookie, is_reusable=True)
    await deliver(dynamics)
    await deliver(dynamics)
    assert [request.headers.get("cookie") for request in httpx_mock.get_requests()] == [None, None]


# -- delivered -----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
@pytest.mark.parametrize(
    ("media_type", "answer"),
    [
        pytest.param("application/json;odata.metadata=minimal", b'{"code": "<b>"}', id="json"),
        pytest.param(None, b"", id="nothing"),
        pytest.param("text/plain", b"ok", id="text"),
        pytest.param("application/json", b"not json at all", id="something"),
    ],
)
async def test_2xx_that_is_no_html_is_delivered(
    dynamics: DynamicsClient,
    httpx_mock: HTTPXMock,
    status: int,
    media_type: str | None,
    answer: bytes,
) -> None:
    headers = {"content-type": media_type} if media_type else {}
    httpx_mock.add_response(status_code=status, headers=headers, content=answer)
    assert await deliver(dynamics) == Receipt(existed=False, status=status)


@pytest.mark.parametrize(
    ("media_type", "answer"),
    [
        pytest.param("text/html", b"<!doctype html><title>Sign in</title>", id="html"),
        pytest.param("Text/HTML; charset=utf-8", b"Sign in", id="html-by-its-media-type"),
        pytest.param("application/octet-stream", b"\r\n <html>", id="html-by-its-looks"),
        pytest.param(None, b"<html>", id="html-without-media-type"),
        pytest.param("application/json", b"<html>", id="html-that-says-it-is-json"),
    ],
)
@pytest.mark.parametrize("status", [200, 201])
async def test_a_sign_in_page_with_200_is_rejected(
    dynamics: DynamicsClient,
    httpx_mock: HTTPXMock,
    status: int,
    media_type: str | None,
    answer: bytes,
) -> None:
    headers = {"content-type": media_type} if media_type else {}
    httpx_mock.add_response(status_code=status, headers=headers, content=answer + b"canary")
    error = await failure(Rejected, dynamics)
    assert error.dynamics_status == status


# -- duplicate -----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 412, 422, 429, 500, 503])
async def test_record_exists_is_a_duplicate_whatever_the_status(
    dynamics: DynamicsClient, httpx_mock: HTTPXMock, status: int
) -> None:
    message = "Write failed for table row of type 'OAuthCallback'. Infolog: Info: " + EXISTS
    httpx_mock.add_response(status_code=status, json=odata(message))
    assert await deliver(dynamics) == Receipt(existed=True, status=status)


async def test_record_exists_in_capitals_is_a_duplicate_too(
    dynamics: DynamicsClient, httpx_mock: HTTPXMock
) -> None:
    httpx_mock.add_response(status_code=500, json=odata("THE RECORD ALREADY EXISTS"))
    assert (await deliver(dynamics)).existed


@pytest.mark.parametrize(
    "echo",
    [
        pytest.param("already exists", id="the-very-words"),
        pytest.param("Already Exists", id="the-very-words-in-other-case"),
        pytest.param("The record already exists.", id="the-whole-sentence"),
        pytest.param("my already exists state", id="the-words-inside"),
    ],
)
@pytest.mark.parametrize("repeated", [str, str.upper], ids=["as-it-was", "in-capitals"])
async def test_a_value_that_reads_already_exists_is_not_taken_for_dynamics_own_words(
    dynamics: DynamicsClient, httpx_mock: HTTPXMock, echo: str, repeated: Change
) -> None:
    message = RECORD.format(repeated(echo), "Field 'Code' must be filled in.")
    httpx_mock.add_response(status_code=400, json=odata(message))
    await failure(Rejected, dynamics, sent=[CODE, echo])


async def test_values_within_values_are_all_cut_out(
    dynamics: DynamicsClient, httpx_mock: HTTPXMock
) -> None:
    message = RECORD.format("exists: record already exists", "Field 'Code' must be filled in.")
    httpx_mock.add_response(status_code=400, json=odata(message))
    await failure(Rejected, dynamics, sent=["exists", "exists: record already exists", "record"])


async def test_cutting_a_value_out_does_not_make_the_words_it_stood_between(
    dynamics: DynamicsClient, httpx_mock: HTTPXMock
) -> None:
    httpx_mock.add_response(status_code=400, json=odata("already zzexists"))
    await failure(Rejected, dynamics, sent=["zz"])


@pytest.mark.parametrize("piece", ["", " ", "a", "exists", "already", "ready ex"])
async def test_a_value_that_is_a_piece_of_the_words_does_not_hide_them(
    dynamics: DynamicsClient, httpx_mock: HTTPXMock, piece: str
) -> None:
    message = RECORD.format(piece, "The record already exists.")
    httpx_mock.add_response(status_code=500, json=odata(message))
    assert (await deliver(dynamics, sent=[CODE, piece])).existed


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(odata("Der Datensatz ist bereits vorhanden."), id="in-another-language"),
        pytest.param(odata(EXISTS, "System.InvalidOperationException"), id="another-exception"),
        pytest.param(odata(EXISTS, None), id="no-exception"),
        pytest.param(odata(None), id="no-message"),
        pytest.param(odata([EXISTS]), id="a-message-that-is-a-list"),
        pytest.param({"error": {"message": EXISTS, "type": AX}}, id="not-in-the-inner-error"),
        pytest.param({"error": {"innererror": {"message": EXISTS}}}, id="without-a-type"),
        pytest.param({"error": {"innererror": {"type": AX}}}, id="without-a-message"),
        pytest.param({"error": {"innererror": EXISTS}}, id="an-inner-error-that-is-text"),
        pytest.param({"error": EXISTS}, id="an-error-that-is-text"),
        pytest.param({"error": None}, id="an-error-that-is-null"),
        pytest.param([odata(EXISTS)], id="a-list"),
        pytest.param(EXISTS, id="text"),
        pytest.param(None, id="null"),
    ],
)
async def test_anything_less_than_f_and_o_saying_so_is_no_duplicate(
    dynamics: DynamicsClient, httpx_mock: HTTPXMock, answer: object
) -> None:
    httpx_mock.add_response(status_code=400, json=answer)
    await failure(Rejected, dynamics)


def custom_service(kind: object) -> object:
    message = f"An exception occured when invoking the operation - {STATE} already exists"
    return {"Message": message, "ExceptionType": kind, "ActivityId": "0"}


def coded(code: object) -> object:
    return {"error": {"code": code, "message": f"State='{STATE}' already exists."}}


@pytest.mark.parametrize("status", [400, 409, 412, 500])
@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(custom_service("DuplicateKeyException"), id="custom-service"),
        pytest.param(
            custom_service("Microsoft.Dynamics.Ax.Xpp.DuplicateKeyException"), id="by-full-name"
        ),
        pytest.param(coded("Internal_EntityWithSameKeyExists"), id="business-central"),
        pytest.param(coded("0x80060892"), id="dataverse"),
    ],
)
async def test_each_target_says_in_its_own_way_that_a_record_exists(
    dynamics: DynamicsClient, httpx_mock: HTTPXMock, answer: object, status: int
) -> None:
    httpx_mock.add_response(status_code=status, json=answer)
    sent = ["the record already exists"]  # told by a code, which no value can imitate
    assert await deliver(dynamics, sent=sent) == Receipt(existed=True, status=status)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(custom_service("XppException"), id="another-x++-exception"),
        pytest.param(custom_service("NoDuplicateKeyException"), id="another-name"),
        pytest.param(custom_service(None), id="no-exception-type"),
        pytest.param(coded("Application_StringExceededLength"), id="another-code-of-bc"),
        pytest.param(coded("0x80060891"), id="another-code-of-dataverse"),
        pytest.param(coded(None), id="no-code"),
        pytest.param({"code": "0x80060892"}, id="a-code-outside-of-the-error"),
        pytest.param({"error": {"message": "DuplicateKeyException 0x80060892"}}, id="in-words"),
    ],
)
async def test_any_other_refusal_of_a_target_is_no_duplicate(
    dynamics: DynamicsClient, httpx_mock: HTTPXMock, answer: object
) -> None:
    httpx_mock.add_response(status_code=400, json=answer)
    await failure(Rejected, dynamics)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"<html>The record already exists AxODataWriteException", id="html"),
        pytest.param(json.dumps(odata(EXISTS)).encode()[:-1], id="json-cut-short"),
        pytest.param(b"\xff\xfe\xfd", id="no-text"),
        pytest.param(b"[" * 100_000, id="deep-json"),
        pytest.param(b"9" * 5_000, id="a-number-of-5000-digits"),
    ],
)
async def test_an_answer_that_is_no_json_is_read_by_its_status(
    dynamics: DynamicsClient, httpx_mock: HTTPXMock, answer: bytes
) -> None:
    httpx_mock.add_response(status_code=500, content=answer)
    assert (await failure(Unavailable, dynamics)).dynamics_status == 500


# -- unauthorized and rejected -------------------------------------------------------------------


async def test_401_is_told_apart_because_a_fresh_token_may_help(
    dynamics: DynamicsClient, httpx_mock: HTTPXMock
) -> None:
    challenge = {"www-authenticate": 'Bearer error="invalid_token", error_description="canary"'}
    httpx_mock.add_response(status_code=401, headers=challenge, text="canary")
    assert (await failure(Unauthorized, dynamics)).dynamics_status == 401


@pytest.mark.parametrize(
    "status", [400, 402, 403, 404, 405, 406, 409, 410, 411, 412, 413, 415, 422, 428, 431, 451]
)
async def test_any_other_4xx_is_rejected(
    dynamics: DynamicsClient, httpx_mock: HTTPXMock, status: int
) -> None:
    httpx_mock.add_response(status_code=status, json=odata(f"canary {CODE} {STATE}"))
    assert (await failure(Rejected, dynamics)).dynamics_status == status


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
async def test_a_redirect_is_not_followed_and_rejected(
    dynamics: DynamicsClient, httpx_mock: HTTPXMock, status: int
) -> None:
    headers = {"location": "https://adfs.example/canary"}
    httpx_mock.add_response(status_code=status, headers=headers)
    assert (await failure(Rejected, dynamics)).dynamics_status == status
    assert len(httpx_mock.get_requests()) == 1


# -- unavailable ---------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 425, 429, 500, 501, 502, 503, 504, 520, 599])
@pytest.mark.parametrize("html", [True, False], ids=["html", "json"])
async def test_what_may_be_otherwise_next_time_is_unavailable(
    dynamics: DynamicsClient, httpx_mock: HTTPXMock, status: int, html: bool
) -> None:
    if html:
        httpx_mock.add_response(status_code=status, html="<title>canary</title>")
    else:
        httpx_mock.add_response(status_code=status, json=odata("canary"))
    error = await failure(Unavailable, dynamics)
    assert error.dynamics_status == status
    assert error.status == 503


@pytest.mark.parametrize(
    "trouble",
    [
        httpx.ConnectTimeout,
        httpx.ReadTimeout,
        httpx.WriteTimeout,
        httpx.PoolTimeout,
        httpx.ConnectError,
        httpx.ReadError,
        httpx.WriteError,
        httpx.CloseError,
        httpx.RemoteProtocolError,
        httpx.LocalProtocolError,
        httpx.ProxyError,
        httpx.DecodingError,
    ],
)
async def test_trouble_on_the_way_is_unavailable_and_quotes_nothing(
    dynamics: DynamicsClient, httpx_mock: HTTPXMock, trouble: type[httpx.RequestError]
) -> None:
    httpx_mock.add_exception(trouble(f"Illegal header value b'Bearer {BEARER}'"))
    error = await failure(Unavailable, dynamics)
    assert error.dynamics_status is None
    assert error.status == 503


async def test_tls_that_fails_is_unavailable(
    dynamics: DynamicsClient, httpx_mock: HTTPXMock
) -> None:
    try:
        raise ssl.SSLCertVerificationError(1, "certificate verify failed: canary")
    except ssl.SSLError as cause:
        trouble = httpx.ConnectError("canary")
        trouble.__cause__ = cause
    httpx_mock.add_exception(trouble)
    await failure(Unavailable, dynamics)


async def test_an_answer_that_does_not_come_in_time_is_unavailable(
    dynamics: DynamicsClient, httpx_mock: HTTPXMock
) -> None:
    async def never(_request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(30)
        return httpx.Response(201)

    httpx_mock.add_callback(never)
    error = await failure(Unavailable, dynamics, connection(timeout=0.02).target)
    assert error.reason == "dynamics_timeout"


class Drip(httpx.AsyncByteStream):
    """An answer that comes in pieces, without an end."""

    def __init__(self, piece: bytes, seconds: float = 0.0) -> None:
        self.piece = piece
        self.seconds = seconds
        self.given = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(self.seconds)
            self.given += len(self.piece)
            yield self.piece


async def test_the_time_is_for_the_attempt_as_a_whole_and_not_for_each_piece(
    dynamics: DynamicsClient, httpx_mock: HTTPXMock
) -> None:
    httpx_mock.add_callback(lambda _request: httpx.Response(201, stream=Drip(b"x", 0.01)))
    error = await failure(Unavailable, dynamics, connection(timeout=0.05).target)
    assert error.reason == "dynamics_timeout"


async def test_an_answer_without_end_is_not_read_to_its_end(
    dynamics: DynamicsClient, httpx_mock: HTTPXMock
) -> None:
    drip = Drip(b"x" * 1024)
    httpx_mock.add_callback(lambda _request: httpx.Response(201, stream=drip))
    assert (await deliver(dynamics)).status == 201
    assert drip.given <= MAX_ANSWER + 2 * 1024


# -- Retry-After ---------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_closes_the_way_to_that_target_for_that_long(
    dynamics: DynamicsClient, httpx_mock: HTTPXMock, clock: Clock, status: int
) -> None:
    httpx_mock.add_response(status_code=status, headers={"retry-after": "17"})
    assert dynamics.pause(TARGET) == 0
    assert (await failure(Unavailable, dynamics)).retry_after == 17
    assert dynamics.pause(TARGET) == 17
    clock.seconds += 16.5
    assert dynamics.pause(TARGET) == 0.5
    clock.seconds += 0.5
    assert dynamics.pause(TARGET) == 0
    clock.seconds += 100
    assert dynamics.pause(TARGET) == 0


async def test_retry_after_may_be_a_date(dynamics: DynamicsClient, httpx_mock: HTTPXMock) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    httpx_mock.add_response(status_code=503, headers={"retry-after": date})
    await failure(Unavailable, dynamics)
    assert 50 < dynamics.pause(TARGET) <= 100


async def test_no_target_is_left_alone_for_more_than_five_minutes(
    dynamics: DynamicsClient, httpx_mock: HTTPXMock
) -> None:
    httpx_mock.add_response(status_code=503, headers={"retry-after": "86400"})
    await failure(Unavailable, dynamics)
    assert dynamics.pause(TARGET) == 300


async def test_another_target_stays_open(dynamics: DynamicsClient, httpx_mock: HTTPXMock) -> None:
    httpx_mock.add_response(status_code=503, headers={"retry-after": "17"})
    await failure(Unavailable, dynamics)
    assert dynamics.pause(connection(url="https://fabrikam.example/data/X").target) == 0


@pytest.mark.parametrize(
    ("status", "value"),
    [
        pytest.param(503, None, id="none"),
        pytest.param(503, "0", id="at-once"),
        pytest.param(503, "soon", id="nonsense"),
        pytest.param(
            503, "Thu, 04 Mar 99999999999999999999 12:00:17 GMT", id="a-date-that-is-none"
        ),
        pytest.param(403, "17", id="a-refusal"),
        pytest.param(302, "17", id="a-redirect"),
        pytest.param(401, "17", id="a-challenge"),
    ],
)
async def test_nothing_else_closes_the_way(
    dynamics: DynamicsClient, httpx_mock: HTTPXMock, status: int, value: str | None
) -> None:
    headers = {} if value is None else {"retry-after": value}
    httpx_mock.add_response(status_code=status, headers=headers)
    with pytest.raises(Undelivered):
        await deliver(dynamics)
    assert dynamics.pause(TARGET) == 0


@pytest.mark.parametrize("status", [200, 302, 400, 401, 403, 429, 500])
async def test_a_reason_is_one_fixed_word(
    dynamics: DynamicsClient, httpx_mock: HTTPXMock, status: int
) -> None:
    httpx_mock.add_response(status_code=status, html="<p>canary</p>")
    with pytest.raises(Undelivered) as caught:
        await deliver(dynamics)
    assert re.fullmatch(r"dynamics_[a-z0-9]+", caught.value.reason)
