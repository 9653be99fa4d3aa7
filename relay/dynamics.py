"""Dynamics: one POST, and what its answer means.

Dynamics says "exists already" with 500, sends a sign-in page with 200, and repeats in its errors
what was sent to it. So the body decides before the status, no redirect is followed, and nothing of
a body ever leaves this file: callers get a `Receipt` or an error with a fixed word.
"""

import asyncio
import json
import ssl
import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import NoReturn
from urllib.parse import urlsplit

from relay.callback import AccessToken, Receipt
from relay.connections import Target
from relay.errors import Rejected, Unauthorized, Unavailable
from relay.retry_after import TRANSIENT, seconds
from relay.wire import Answer, Wire, WireError

MAX_ANSWER = 256 * 1024
"""Bytes of an answer that are read; F&O sends stack traces."""

_HEADERS = (
    ("Accept", "application/json"),
    # What is compressed has no size until it is unpacked.
    ("Accept-Encoding", "identity"),
    ("Content-Type", "application/json"),
    ("OData-Version", "4.0"),
    ("OData-MaxVersion", "4.0"),
    ("Prefer", "return=minimal"),
    ("User-Agent", "dynamics-oauth-callback-relay"),
)

_REDIRECTS = range(300, 400)


class DynamicsClient:
    """One HTTP client for all targets, for the life of the process.

    `context` is the trust for TLS. Who is about to deliver asks `pause` first: a target that sent
    Retry-After is left alone for that long.
    """

    def __init__(
        self, context: ssl.SSLContext, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._wire = Wire(context, clock=clock)
        self._clock = clock
        self._closed_until: dict[str, float] = {}

    def pause(self, target: Target) -> float:
        """Return for how many seconds the target still wants to be left alone."""
        return max(0.0, self._closed_until.get(_origin(target), 0.0) - self._clock())

    async def deliver(
        self,
        target: Target,
        token: AccessToken,
        body: bytes,
        *,
        reference: str,
        sent: Iterable[str],
    ) -> Receipt:
        """POST one callback and read the answer.

        In: the bearer token, the JSON body, the reference for `x-ms-client-request-id`, and the
        values that the body holds, because Dynamics repeats them and they must not be taken for its
        own words. Raises `Unauthorized`, `Rejected` or `Unavailable`.
        """
        headers = (
            *_HEADERS,
            ("Authorization", f"Bearer {token.value}"),
            ("x-ms-client-request-id", reference),
        )
        try:
            async with asyncio.timeout(target.timeout):
                answer = await self._wire.post(target.url, headers, body, limit=MAX_ANSWER)
        except TimeoutError:
            raise Unavailable("dynamics_timeout", "Dynamics did not answer in time.") from None
        except WireError as error:
            reason = f"dynamics_{error.reason}"
            raise Unavailable(reason, "Dynamics cannot be reached.") from None
        return self._judge(target, answer, sent)

    def close(self) -> None:
        """Close the connections to Dynamics."""
        self._wire.close()

    def _judge(self, target: Target, answer: Answer, sent: Iterable[str]) -> Receipt:
        status = answer.status
        if answer.is_success and not _is_html(answer):
            return Receipt(existed=False, status=status)
        if _says_exists(answer.body, sent):
            return Receipt(existed=True, status=status)
        if status == HTTPStatus.UNAUTHORIZED:
            raise Unauthorized(
                "dynamics_401", "Dynamics does not know the relay.", dynamics_status=status
            )
        if status in TRANSIENT:
            self._close(target, answer)
        if answer.is_success:
            reason = "dynamics_html"
        elif status in _REDIRECTS:
            reason = "dynamics_redirect"
        else:
            reason = f"dynamics_{status}"
        raise Rejected(reason, "Dynamics refuses the callback.", dynamics_status=status)

    def _close(self, target: Target, answer: Answer) -> NoReturn:
        status, retry_after = answer.status, seconds(answer.headers.get("retry-after"))
        if retry_after:
            self._closed_until[_origin(target)] = self._clock() + retry_after
        raise Unavailable(
            f"dynamics_{status}",
            "Dynamics is not available just now.",
            dynamics_status=status,
            retry_after=retry_after,
        )


def _origin(target: Target) -> str:
    return urlsplit(target.url).netloc


def _is_html(answer: Answer) -> bool:
    """Tell a sign-in page, which AD FS and proxies serve with 200, from an answer of OData."""
    media_type = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    return media_type == "text/html" or answer.body.lstrip()[:1] == b"<"


_EXISTS = "already exists"


def _says_exists(answer: bytes, sent: Iterable[str]) -> bool:
    """Tell whether an answer says that the record exists, in the manner of any of the targets.

    The status says nothing: for F&O it is 500, and 400 in other versions.
    """
    try:
        document = json.loads(answer)
    except (ValueError, RecursionError):
        return False
    match document:
        case {"error": {"code": "Internal_EntityWithSameKeyExists" | "0x80060892"}}:
            return True  # Business Central; Dataverse, for an alternate key
        case {"ExceptionType": str(kind)}:  # F&O custom service
            return kind.rpartition(".")[2] == "DuplicateKeyException"
        case {"error": {"innererror": {"type": str(kind), "message": str(message)}}}:
            return kind.endswith(".AxODataWriteException") and _write_found_it(message, sent)
    return False


def _write_found_it(message: str, sent: Iterable[str]) -> bool:
    """Tell whether F&O OData's own words, which are all it has, are "already exists"."""
    sent = tuple(value.casefold() for value in sent)
    if any(_EXISTS in value for value in sent):
        # Repeated whole, in part or rewritten, it could not be told from Dynamics' own words.
        return False
    return _EXISTS in _own_words(message, sent)


def _own_words(message: str, sent: tuple[str, ...]) -> str:
    """Cut out of Dynamics' message what it only repeats of what was sent, in lower case."""
    message = message.casefold()
    for value in sorted(sent, key=len, reverse=True):
        # A piece of the very phrase proves nothing on its own, and cutting it would hide the truth.
        if value and value not in _EXISTS:
            message = message.replace(value, "\ufffd")
    return message
