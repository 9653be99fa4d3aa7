"""What Dynamics gets, and how its answer is read."""

import json
import re
import ssl
import traceback
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from pytest_httpx import HTTPXMock

from relay.connections import Target
from relay.delivery import targets
from relay.delivery.dynamics import DynamicsClient
from relay.delivery.targets import Known, Meaning
from relay.errors import ApplicationFailed, Rejected, Unauthorized, Unavailable, Undelivered
from relay.ports import AccessToken, Receipt
from tests.fakes import Clock
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


class Answers:
    """What Dynamics answers, in this order, and what it was asked."""

    def __init__(self, mock: HTTPXMock) -> None:
        self._mock = mock

    def add(
        self,
        status: int,
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes = b"",
        of: object = None,
        html: str | None = None,
        for_ever: bool = False,
    ) -> None:
        """Answer with this status, and `content`, JSON `of` something, or an HTML page."""
        body: dict[str, Any] = {"content": content}
        if of is not None:
            body = {"json": of}
        elif html is not None:
            body = {"html": html}
        self._mock.add_response(
            status_code=status, headers=dict(headers or {}), is_reusable=for_ever, **body
        )

    @property
    def requests(self) -> list[httpx.Request]:
        return self._mock.get_requests()


@pytest.fixture
def server(httpx_mock: HTTPXMock) -> Answers:
    return Answers(httpx_mock)


@pytest.fixture
async def dynamics(clock: Clock) -> AsyncIterator[DynamicsClient]:
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


@pytest.mark.parametrize(
    ("kind", "status", "of", "sentence"),
    [
        (Unauthorized, 401, {}, "Dynamics does not know the relay."),
        (Rejected, 400, {}, "Dynamics refuses the callback."),
        (Unavailable, 503, {}, "Dynamics is not available just now."),
        (ApplicationFailed, 500, {"ExceptionType": "X"}, "The application in Dynamics failed."),
    ],
)
async def test_a_program_is_told_in_a_sentence_of_the_relays_what_dynamics_answered(
    dynamics: DynamicsClient, server: Answers, kind: Any, status: int, of: object, sentence: str
) -> None:
    server.add(status, of=of)
    assert str(await failure(kind, dynamics)) == sentence


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (httpx.ReadTimeout(CANARY), "Dynamics did not answer in time."),
        (httpx.ConnectError(CANARY), "Dynamics cannot be reached."),
    ],
)
async def test_a_program_is_told_in_a_sentence_of_the_relays_that_none_came(
    dynamics: DynamicsClient, httpx_mock: HTTPXMock, fault: Exception, sentence: str
) -> None:
    httpx_mock.add_exception(fault)
    assert str(await failure(Unavailable, dynamics)) == sentence


# -- what Dynamics gets --------------------------------------------------------------------------


async def test_dynamics_gets_one_post_with_the_headers_of_the_contract(
    dynamics: DynamicsClient, server: Answers
) -> None:
    server.add(201)
    await deliver(dynamics)
    (request,) = server.requests
    assert request.method == "POST"
    assert str(request.url) == URL
    assert sorted(request.headers.items()) == [
        ("accept", "application/json"),
        ("accept-encoding", "identity"),
        ("authorization", f"Bearer {BEARER}"),
        ("connection", "keep-alive"),
        ("content-length", str(len(BODY))),
        ("content-type", "application/json"),
        ("host", urlsplit(URL).netloc),
        ("odata-maxversion", "4.0"),
        ("odata-version", "4.0"),
        ("prefer", "return=minimal"),
        ("user-agent", "dynamics-oauth-callback-relay"),
        ("x-ms-client-request-id", REFERENCE),
    ]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(BODY, id="json"),
        pytest.param(b'{ "b" : 1,\r\n "a":"\\u00e9+%2B&="}', id="json-as-somebody-else-writes-it"),
        pytest.param(bytes(range(256)), id="every-byte"),
    ],
)
async def test_the_body_is_sent_byte_for_byte(
    dynamics: DynamicsClient, server: Answers, body: bytes
) -> None:
    server.add(201)
    await deliver(dynamics, body=body)
    (request,) = server.requests
    assert request.content == body


async def test_the_url_is_used_as_it_was_given(dynamics: DynamicsClient, server: Answers) -> None:
    url = "https://contoso.example:8443/api/v2.0/companies(1)/x?cross-company=true&a=%2F"
    server.add(201)
    await deliver(dynamics, connection(url=url).target)
    (request,) = server.requests
    assert request.url.raw_path == b"/api/v2.0/companies(1)/x?cross-company=true&a=%2F"
    assert request.headers["host"] == "contoso.example:8443"


async def test_each_delivery_has_its_own_token_and_reference(
    dynamics: DynamicsClient, server: Answers
) -> None:
    server.add(201, for_ever=True)
    for name in ("one", "two"):
        token = AccessToken(name, fresh_until=1e9, expires_at=1e9)
        await dynamics.deliver(TARGET, token, BODY, reference=name, sent=())
    assert [
        (request.headers["authorization"], request.headers["x-ms-client-request-id"])
        for request in server.requests
    ] == [("Bearer one", "one"), ("Bearer two", "two")]


async def test_a_cookie_of_dynamics_is_not_carried_to_the_next_callback(
    dynamics: DynamicsClient, server: Answers
) -> None:
    cookie = {"set-cookie": "ARRAffinity=abc; Path=/; Secure; HttpOnly"}
    server.add(201, headers=cookie, for_ever=True)
    await deliver(dynamics)
    await deliver(dynamics)
    assert [request.headers.get("cookie") for request in server.requests] == [None, None]


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
    server: Answers,
    status: int,
    media_type: str | None,
    answer: bytes,
) -> None:
    headers = {"content-type": media_type} if media_type else {}
    server.add(status, headers=headers, content=answer)
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
async def test_a_page_with_200_is_no_success_and_may_pass(
    dynamics: DynamicsClient,
    server: Answers,
    status: int,
    media_type: str | None,
    answer: bytes,
) -> None:
    headers = {"content-type": media_type} if media_type else {}
    server.add(status, headers=headers, content=answer + b"canary")
    error = await failure(Unavailable, dynamics)
    assert error.dynamics_status == status


# -- duplicate -----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 412, 422, 429, 500, 503])
async def test_record_exists_is_a_duplicate_whatever_the_status(
    dynamics: DynamicsClient, server: Answers, status: int
) -> None:
    message = "Write failed for table row of type 'OAuthCallback'. Infolog: Info: " + EXISTS
    server.add(status, of=odata(message))
    assert await deliver(dynamics) == Receipt(existed=True, status=status)


async def test_record_exists_in_capitals_is_a_duplicate_too(
    dynamics: DynamicsClient, server: Answers
) -> None:
    server.add(500, of=odata("THE RECORD ALREADY EXISTS"))
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
    dynamics: DynamicsClient, server: Answers, echo: str, repeated: Change
) -> None:
    message = RECORD.format(repeated(echo), "Field 'Code' must be filled in.")
    server.add(400, of=odata(message))
    await failure(Rejected, dynamics, sent=[CODE, echo])


async def test_values_within_values_are_all_cut_out(
    dynamics: DynamicsClient, server: Answers
) -> None:
    message = RECORD.format("exists: record already exists", "Field 'Code' must be filled in.")
    server.add(400, of=odata(message))
    await failure(Rejected, dynamics, sent=["exists", "exists: record already exists", "record"])


async def test_cutting_a_value_out_does_not_make_the_words_it_stood_between(
    dynamics: DynamicsClient, server: Answers
) -> None:
    server.add(400, of=odata("already zzexists"))
    await failure(Rejected, dynamics, sent=["zz"])


@pytest.mark.parametrize("piece", ["", " ", "a", "exists", "already", "ready ex"])
async def test_a_value_that_is_a_piece_of_the_words_does_not_hide_them(
    dynamics: DynamicsClient, server: Answers, piece: str
) -> None:
    message = RECORD.format(piece, "The record already exists.")
    server.add(500, of=odata(message))
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
    dynamics: DynamicsClient, server: Answers, answer: object
) -> None:
    server.add(400, of=answer)
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
    dynamics: DynamicsClient, server: Answers, answer: object, status: int
) -> None:
    server.add(status, of=answer)
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
    dynamics: DynamicsClient, server: Answers, answer: object
) -> None:
    server.add(400, of=answer)
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
    dynamics: DynamicsClient, server: Answers, answer: bytes
) -> None:
    server.add(500, content=answer)
    assert (await failure(Unavailable, dynamics)).dynamics_status == 500


# -- unauthorized and rejected -------------------------------------------------------------------


async def test_401_is_told_apart_because_a_fresh_token_may_help(
    dynamics: DynamicsClient, server: Answers
) -> None:
    challenge = {"www-authenticate": 'Bearer error="invalid_token", error_description="canary"'}
    server.add(401, headers=challenge, content=b"canary")
    assert (await failure(Unauthorized, dynamics)).dynamics_status == 401


@pytest.mark.parametrize(
    "status", [400, 402, 403, 404, 405, 406, 409, 410, 411, 412, 413, 415, 422, 428, 431, 451]
)
async def test_any_other_4xx_is_rejected(
    dynamics: DynamicsClient, server: Answers, status: int
) -> None:
    server.add(status, of=odata(f"canary {CODE} {STATE}"))
    assert (await failure(Rejected, dynamics)).dynamics_status == status


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
async def test_a_redirect_is_not_followed_and_may_pass(
    dynamics: DynamicsClient, server: Answers, status: int
) -> None:
    headers = {"location": "https://adfs.example/canary"}
    server.add(status, headers=headers)
    assert (await failure(Unavailable, dynamics)).dynamics_status == status
    assert len(server.requests) == 1


# -- unavailable ---------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 425, 429, 500, 501, 502, 503, 504, 520, 599])
@pytest.mark.parametrize("html", [True, False], ids=["html", "json"])
async def test_what_may_be_otherwise_next_time_is_unavailable(
    dynamics: DynamicsClient, server: Answers, status: int, html: bool
) -> None:
    if html:
        server.add(status, html="<title>canary</title>")
    else:
        server.add(status, of=odata("canary"))
    error = await failure(Unavailable, dynamics)
    assert error.dynamics_status == status
    assert error.status == 503


async def test_what_the_entry_of_a_target_says_of_a_refusal_counts(
    dynamics: DynamicsClient, server: Answers, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = replace(
        targets.DATAVERSE,
        refusals=(
            Known(Meaning.EXISTS, codes=("there",)),
            Known(Meaning.PASSES, "dynamics_busy", codes=("later",), statuses=(403,)),
        ),
    )
    monkeypatch.setattr(targets, "TARGETS", (*targets.TARGETS, entry))
    server.add(400, of=coded("There"))
    assert (await deliver(dynamics)).existed
    server.add(403, headers={"retry-after": "17"}, of=coded("later"))
    error = await failure(Unavailable, dynamics)
    assert (error.dynamics_status, error.reason, error.retry_after) == (403, "dynamics_busy", 17)
    clock.seconds += 17
    server.add(404, of=coded("later"))
    assert (await failure(Rejected, dynamics)).reason == "dynamics_404"


# -- Retry-After ---------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_closes_the_way_to_that_target_for_that_long(
    dynamics: DynamicsClient, server: Answers, clock: Clock, status: int
) -> None:
    server.add(status, headers={"retry-after": "17"})
    assert dynamics.pause(TARGET) == 0
    assert (await failure(Unavailable, dynamics)).retry_after == 17
    assert dynamics.pause(TARGET) == 17
    clock.seconds += 16.5
    assert dynamics.pause(TARGET) == 0.5
    clock.seconds += 0.5
    assert dynamics.pause(TARGET) == 0
    clock.seconds += 100
    assert dynamics.pause(TARGET) == 0


async def test_retry_after_may_be_a_date(dynamics: DynamicsClient, server: Answers) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    server.add(503, headers={"retry-after": date})
    await failure(Unavailable, dynamics)
    assert 50 < dynamics.pause(TARGET) <= 100


async def test_no_target_is_left_alone_for_more_than_five_minutes(
    dynamics: DynamicsClient, server: Answers
) -> None:
    server.add(503, headers={"retry-after": "86400"})
    await failure(Unavailable, dynamics)
    assert dynamics.pause(TARGET) == 300


async def test_another_target_stays_open(dynamics: DynamicsClient, server: Answers) -> None:
    server.add(503, headers={"retry-after": "17"})
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
        pytest.param(401, "17", id="a-challenge"),
    ],
)
async def test_nothing_else_closes_the_way(
    dynamics: DynamicsClient, server: Answers, status: int, value: str | None
) -> None:
    headers = {} if value is None else {"retry-after": value}
    server.add(status, headers=headers)
    with pytest.raises(Undelivered):
        await deliver(dynamics)
    assert dynamics.pause(TARGET) == 0


@pytest.mark.parametrize("status", [200, 302, 400, 401, 403, 429, 500])
async def test_a_reason_is_one_fixed_word(
    dynamics: DynamicsClient, server: Answers, status: int
) -> None:
    server.add(status, html="<p>canary</p>")
    with pytest.raises(Undelivered) as caught:
        await deliver(dynamics)
    assert re.fullmatch(r"dynamics_[a-z0-9]+", caught.value.reason)
