"""What each refusal says, and the last character, byte or key that is still taken.

`python3 dev.py mutants` changed these, and no other test saw it.
"""

import base64
import json
import re
import string
from datetime import UTC, datetime
from typing import NamedTuple

import jwt
import pytest
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from relay import pages
from relay.body import Template, TemplateError
from relay.connections import Connection, Connections, Provider
from relay.delivery.callback import Callback
from relay.delivery.sealing import Sealer
from relay.errors import InvalidResponse, Unopenable
from relay.oauth import authorization, jarm, jws, state
from relay.oauth.authorization import MAX_HELD
from relay.oauth.request import Request, guard
from relay.outcome import Answer, Outcome
from relay.pages.translations import LANGUAGES
from tests.helpers import (
    CODE,
    JSON,
    STATE,
    connection,
    get,
    parse,
    post,
    post_json,
    response_jwt,
    verified,
)

NOW = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
REFERENCE = "00112233aabbccdd"
KIB = 1024
ISSUER, CLIENT = "https://as.example", "client"
SENT = f"code={CODE}&state={STATE}"

PLAIN = connection()
PATTERN = connection(pattern="[0-9]{4}")
STRICT = connection(provider=Provider(issuer=ISSUER, iss_required=True))
SECURED = connection(
    provider=Provider(issuer=ISSUER, client_id=CLIENT, response_mode="form_post.jwt")
)


# -- what a refusal says -------------------------------------------------------------------------


class Refusal(NamedTuple):
    """A request, and how it is refused: the reason is in the log, the sentence in the answer."""

    request: Request
    status: int
    reason: str
    sentence: str
    at: Connection = PLAIN


TOO_MANY = "The response has more than 50 parameters: no provider sends that."
TOO_LONG = "The response has a value that is too long: no provider sends that."
NOT_UTF_8 = "The response is not UTF-8."
OTHER_TYPE = "A response by POST is application/x-www-form-urlencoded or application/json."
NO_JWT = "The response is not the JWT that it has to be."
FULL = "&".join(f"{name}={'v' * 4 * KIB}" for name in ("state", "error", "iss", "session_state"))

REFUSALS = {
    "put": Refusal(
        Request("PUT", SENT, {}, b""), 405, "method", "A redirect URI takes GET and POST."
    ),
    "prefetch": Refusal(
        get(SENT, {"sec-purpose": "prefetch;prerender"}),
        503,
        "prefetch",
        "A redirect URI is not loaded ahead.",
    ),
    "nothing": Refusal(
        get(""), 200, "bare", "This is a redirect URI: a provider sends people here with a code."
    ),
    "a-query-of-9-kib": Refusal(
        get("x=" + "x" * 9 * KIB),
        413,
        "too_large",
        "The response has a query of more than 8 KiB: no provider sends that.",
    ),
    "a-body-of-33-kib": Refusal(
        post("x=" + "x" * 33 * KIB),
        413,
        "too_large",
        "The response has a body of more than 32 KiB: no provider sends that.",
    ),
    "chunked": Refusal(
        Request("POST", "", {}, b""),
        411,
        "length_required",
        "The body came without a Content-Length. Send it in one piece, not chunked.",
    ),
    "51-parameters": Refusal(get(SENT + "&x=" * 49), 413, "too_large", TOO_MANY),
    "51-in-two-places": Refusal(post("x=&" * 26, query="x=&" * 25), 413, "too_large", TOO_MANY),
    "a-code-of-9-kib": Refusal(post("code=" + "c" * 9 * KIB), 413, "too_large", TOO_LONG),
    "a-jwt-of-21-kib": Refusal(
        post("response=" + "r" * 21 * KIB), 413, "too_large", TOO_LONG, SECURED
    ),
    "25-kib-of-values": Refusal(
        post(f"code={'c' * 8 * KIB}&{FULL}"),
        413,
        "too_large",
        "The response has more than 24 KiB of values: no provider sends that.",
    ),
    "plain-text": Refusal(post(SENT, "text/plain"), 415, "media_type", OTHER_TYPE),
    "no-media-type": Refusal(post(SENT, None), 415, "media_type", OTHER_TYPE),
    "latin-1-in-a-query": Refusal(get("code=%E9"), 400, "encoding", NOT_UTF_8),
    "latin-1-in-a-body": Refusal(post(b"code=\xe9"), 400, "encoding", NOT_UTF_8),
    "half-a-character": Refusal(post(r'{"code": "\ud83d"}', JSON), 400, "encoding", NOT_UTF_8),
    "no-json": Refusal(post("{", JSON), 400, "json", "The body is not JSON."),
    "a-json-array": Refusal(post_json([]), 400, "json", "The body is not a JSON object."),
    "a-number": Refusal(post_json({"code": 1}), 400, "json", "The member code is not a string."),
    "a-state-twice": Refusal(
        get(f"{SENT}&state=x"),
        400,
        "duplicate",
        "A parameter stands in the response more than once.",
    ),
    "a-jwt-unasked-for": Refusal(
        get("response=x"),
        400,
        "jarm_unexpected",
        "The response is a JWT, and PROVIDER_RESPONSE_MODE does not say that it is.",
    ),
    "no-jwt": Refusal(get(SENT), 400, "jarm_missing", NO_JWT, SECURED),
    "a-jwt-and-more": Refusal(
        get(f"response=x&{SENT}"),
        400,
        "jarm_beside",
        "The response is a JWT and has parameters beside it.",
        SECURED,
    ),
    "no-state": Refusal(get("code=x"), 400, "state_missing", "The response has no state."),
    "a-strangers-state": Refusal(
        get(SENT),
        400,
        "state_mismatch",
        "The state is not one that Dynamics hands out for this address.",
        PATTERN,
    ),
    "code-and-error": Refusal(
        get(f"{SENT}&error=x"),
        400,
        "code_and_error",
        "The response has both a code and an error.",
    ),
    "a-token": Refusal(
        get(f"{SENT}&access_token=x"),
        400,
        "implicit",
        "The provider sent a token. Set it to the authorization code flow: response_type=code.",
    ),
    "a-line-break": Refusal(
        get("code=a%0Ab&state=x"),
        400,
        "code_characters",
        "The code has characters that RFC 6749 does not allow in it.",
    ),
    "no-issuer": Refusal(
        get(SENT), 400, "iss_missing", "The response does not name its issuer (iss).", STRICT
    ),
    "another-issuer": Refusal(
        get(f"{SENT}&iss=https://x.example"),
        400,
        "iss_mismatch",
        "The response comes from another issuer (iss).",
        STRICT,
    ),
}
EVERY = pytest.mark.parametrize("name", REFUSALS)
IN_PLACE = {"put": "method", "prefetch": "prefetch", "nothing": "bare"}
"""The pages of those that need no redirect to get a code out of an address bar."""


def walk(request: Request, where: Connection) -> None:
    """Go through the checks in the contract's order."""
    guard(request)
    response_jwt(request, where)
    believed = state.verify(parse(request, where), where, "", NOW)
    authorization.check(believed, where)


def refuse(name: str) -> InvalidResponse:
    with pytest.raises(InvalidResponse) as refused:
        walk(REFUSALS[name].request, REFUSALS[name].at)
    return refused.value


@EVERY
def test_a_refusal_has_one_word_for_the_log_and_one_sentence_for_the_sender(name: str) -> None:
    _, status, reason, sentence, _ = REFUSALS[name]
    refused = refuse(name)
    assert (refused.status, refused.reason, str(refused)) == (status, reason, sentence)


@EVERY
def test_every_browser_that_is_refused_gets_to_a_page_that_says_what_to_do(name: str) -> None:
    refused = refuse(name)
    answer = Answer(Outcome.INVALID, REFERENCE, refused.status, page=refused.page)
    reply = pages.render(answer, html=True)
    if name in IN_PLACE:
        title = LANGUAGES["en"].pages[IN_PLACE[name]].title
        assert f"<h1>{title}</h1>" in reply.body.decode()
    else:
        assert reply.headers["Location"] == f"/done/invalid?ref={REFERENCE}"
        reply = pages.done("invalid", REFERENCE)
    assert re.search("[Ss]tart (again )?from Dynamics\u00a0365", reply.body.decode())


@pytest.mark.parametrize("query", [SENT + "&x=" * 48, SENT + "&" * 48], ids=["used", "empty"])
def test_50_parameters_are_not_too_many(query: str) -> None:
    assert parse(get(query), PLAIN).code == CODE


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ('{"code": "{code}", "n": NaN}', "NaN and Infinity are not JSON"),
        ('{"code": "{code}", "n": 1e999}', "NaN and Infinity are not JSON"),
        ('{"code": "{code}", "n": ' + "[" * 33 + "]" * 33 + "}", "objects in objects, too many"),
        ('{"x":' * 33 + '"{code}"' + "}" * 33, "objects in objects, too many"),
    ],
)
def test_a_template_is_refused_with_what_is_wrong(template: str, sentence: str) -> None:
    with pytest.raises(TemplateError) as refused:
        Template(template)
    assert str(refused.value) == sentence


@pytest.mark.parametrize(
    "template",
    ['{"x":' * 32 + '"{code}"' + "}" * 32, '{"x":' + "[" * 31 + '"{code}"' + "]" * 31 + "}"],
)
def test_a_template_may_be_32_levels_deep(template: str) -> None:
    assert template.replace("{code}", "c").encode() == Template(template).render({"code": "c"})


# -- what Dynamics and the queue get -------------------------------------------------------------


def test_dynamics_gets_not_a_byte_more_than_the_values_need() -> None:
    body = Template('{ "code": "{code}", "more": [1, {"state": "{state}"}] }')
    filled = body.render({"code": "c", "state": "é"})
    assert filled == rb'{"code":"c","more":[1,{"state":"\u00e9"}]}'


def test_the_largest_callback_fits_a_queue_message_in_any_script() -> None:
    # In JSON's escapes every one of these two bytes would be six.
    extra = {f"p{number}": "é" * (2 * KIB) for number in range(MAX_HELD // (4 * KIB))}
    held = Callback.received(PLAIN, verified(extra=extra), REFERENCE, NOW)
    message = Sealer([Fernet.generate_key().decode()]).seal(held)
    assert len(base64.b64encode(message.encode())) <= 64 * KIB


def test_what_yesterdays_relay_has_sealed_is_opened_after_the_update() -> None:
    held = Callback.received(PLAIN, verified(extra={"realmId": "9"}), REFERENCE, NOW)
    sealed = {
        "version": 1,
        "connection": "default",
        "reference": REFERENCE,
        "delivery_id": held.delivery_id,
        "response": {
            "code": CODE,
            "state": STATE,
            "error": None,
            "error_description": None,
            "error_uri": None,
            "iss": None,
            "session_state": None,
            "implicit": False,
            "extra": {"realmId": "9"},
            "code_verifier": None,
            "redirect_uri": None,
        },
        "received_at": NOW.timestamp(),
        "expires_at": NOW.timestamp() + 300,
    }
    key = Fernet.generate_key()
    message = Fernet(key).encrypt(json.dumps(sealed).encode())
    assert Sealer([key.decode()]).open(message).callback(Connections({PLAIN.name: PLAIN})) == held


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[]", "outbox_seal"),
        (b"{", "outbox_seal"),
        (b'{"connection": "default", "version": 2}', "outbox_version"),
        (b'{"connection": "default", "version": 1}', "outbox_version"),
    ],
)
def test_the_log_tells_a_strange_message_from_a_newer_relays(content: bytes, reason: str) -> None:
    key = Fernet.generate_key()
    with pytest.raises(Unopenable) as refused:
        Sealer([key.decode()]).open(Fernet(key).encrypt(content)).callback(
            Connections({PLAIN.name: PLAIN})
        )
    assert refused.value.reason == reason


# -- tokens --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "reason", "sentence"),
    [
        (
            state.STATE,
            "state_expired",
            "The state was not issued for this address and this browser, or it has expired.",
        ),
        (
            state.TICKET,
            "ticket_expired",
            "The link does not come from Dynamics 365 for this address, or it has expired.",
        ),
        (
            jarm.JARM,
            "jarm_expired",
            "The response was not signed by the provider for this address, or it has expired.",
        ),
    ],
    ids=["state", "ticket", "jarm"],
)
def test_a_token_is_refused_with_one_sentence_whatever_is_wrong_with_it(
    kind: jws.Kind, reason: str, sentence: str
) -> None:
    refused = kind.refused("expired")
    assert (refused.status, refused.reason, str(refused)) == (400, reason, sentence)


BASE64URL = string.ascii_letters + string.digits + "-_"


@pytest.mark.parametrize("last", BASE64URL)
def test_a_signature_may_end_in_any_character(last: str) -> None:
    # One of 3072-bit RSA does: 384 bytes are 512 characters, without a bit to spare.
    assert jws.read(f"e30.e30.{'A' * 511}{last}", jarm.JARM).text.endswith(last)


def test_a_private_key_that_the_issuer_publishes_by_mistake_proves_nothing() -> None:
    private = Ed25519PrivateKey.generate()
    leaked = json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(private))
    public = {name: value for name, value in leaked.items() if name != "d"}
    claims = {"iss": ISSUER, "aud": CLIENT, "exp": int(NOW.timestamp()) + 60, "code": CODE}
    secured = jarm.read(jwt.encode(claims, private, "EdDSA"), SECURED, NOW)
    with pytest.raises(InvalidResponse) as refused:
        jarm.unpack(secured, [leaked], SECURED)
    assert refused.value.reason == "jarm_key"
    assert jarm.unpack(secured, [leaked, public], SECURED).code == CODE
