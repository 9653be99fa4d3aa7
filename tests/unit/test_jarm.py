"""Responses that are JWTs (JARM), and the keys that prove them, with the attacks by name."""

import asyncio
import base64
import dataclasses
import functools
import json
import socket
import traceback
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import EllipsisType
from typing import Any
from urllib.parse import urlencode

import jwt
import pytest
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwt as foreign
from joserfc.jwk import ECKey
from starlette.requests import Request as Incoming
from starlette.responses import JSONResponse, RedirectResponse, Response

from relay import outgoing
from relay.connections import Connection, Connections, Provider
from relay.delivery.sealing import Sealer
from relay.delivery.single_flight import SingleFlight
from relay.errors import InvalidResponse, KeysUnavailable, Unavailable
from relay.flow import Relay
from relay.oauth import jarm, jwks
from relay.oauth.authorization import AuthorizationResponse
from relay.oauth.jwks import KeyStore
from sandbox.serving import HalfBody, Hang, Reset, Server
from sandbox.tls import Authority
from tests.fakes import CREATED, Clock, Dynamics, Entra, Keys
from tests.helpers import CODE, STATE, connection, get, parse, post, post_json, response_jwt

NOW = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
SECONDS = int(NOW.timestamp())
ISSUER, CLIENT = "https://as.example/tenant", "canary-client"
CLAIMS: dict[str, object] = {
    "iss": ISSUER,
    "aud": CLIENT,
    "exp": SECONDS + 300,
    "code": CODE,
    "state": STATE,
}
ALGORITHMS = ("RS256", "PS256", "ES256", "EdDSA")


@functools.cache
def private(name: str) -> Any:
    """Return a key by what it is for; made once, because RSA takes a while."""
    curves = {"P-384": ec.SECP384R1(), "secp256k1": ec.SECP256K1()}
    match name:
        case "RS256" | "PS256":
            return rsa.generate_private_key(65537, 2048)
        case "weak":
            return rsa.generate_private_key(65537, 1024)  # noqa: S505 - to see it refused
        case "EdDSA":
            return ed25519.Ed25519PrivateKey.generate()
        case "Ed448":
            return ed448.Ed448PrivateKey.generate()
    return ec.generate_private_key(curves.get(name, ec.SECP256R1()))


KINDS = {
    "weak": "RS256",
    "other": "ES256",
    "P-384": "ES384",
    "secp256k1": "ES256K",
    "Ed448": "EdDSA",
}


def jwk(name: str, **members: object) -> dict[str, object]:
    """Return the public key as the issuer publishes it; `...` leaves a member out."""
    algorithm = jwt.get_algorithm_by_name(KINDS.get(name, name))
    public = algorithm.to_jwk(private(name).public_key(), as_dict=True)
    every = {**public, "kid": name, "use": "sig", **members}
    return {member: value for member, value in every.items() if value is not ...}


def keys() -> list[dict[str, object]]:
    return [jwk(name) for name in ALGORITHMS]


def token(
    algorithm: str = "ES256",
    claims: Mapping[str, object] | None = None,
    header: Mapping[str, object] | None = None,
    key: str | None = None,
) -> str:
    """Return a right response, but for these members."""
    members = {**CLAIMS, **(claims or {})}
    kept = {name: value for name, value in members.items() if value is not ...}
    return sign(json.dumps(kept), {"kid": algorithm, **(header or {})}, algorithm, key or algorithm)


def sign(claims: str, header: Mapping[str, object], algorithm: str, key: str) -> str:
    """Return a token by hand, whatever stands in it."""
    every = {"alg": algorithm, "typ": "JWT", **header}
    kept = {name: value for name, value in every.items() if value is not ...}
    text = f"{b64(json.dumps(kept).encode())}.{b64(claims.encode())}"
    signature = jwt.get_algorithm_by_name(algorithm).sign(text.encode(), private(key))
    return f"{text}.{b64(signature)}"


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def secured(mode: str = "jwt", body: str = '{"code": "{code}"}', **provider: Any) -> Connection:
    given_ = {"issuer": ISSUER, "client_id": CLIENT, "response_mode": mode, **provider}
    return connection(name="bank", provider=Provider(**given_), body=body)


def unpack(
    text: str, published: list[dict[str, object]] | None = None, at: Connection | None = None
) -> AuthorizationResponse:
    at = at or secured()
    return jarm.unpack(jarm.read(text, at, NOW), keys() if published is None else published, at)


def refusal(
    text: str, published: list[dict[str, object]] | None = None, at: Connection | None = None
) -> str:
    """Return the reason of a refusal, which shows nothing of the token."""
    with pytest.raises(InvalidResponse) as refused:
        unpack(text, published, at)
    assert refused.value.status == 400
    assert "canary" not in "".join(traceback.format_exception(refused.value))
    return refused.value.reason


def refused_before_a_key(text: str, at: Connection | None = None) -> str:
    """Return the reason of a refusal for which no key had to be fetched."""
    with pytest.raises(InvalidResponse) as refused:
        jarm.read(text, at or secured(), NOW)
    assert str(refused.value) == jarm.JARM.sentence
    assert "canary" not in "".join(traceback.format_exception(refused.value))
    return refused.value.reason


# -- what is believed ----------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_signed_response_is_unpacked(algorithm: str) -> None:
    response = unpack(token(algorithm))
    assert (response.code, response.state, response.iss) == (CODE, STATE, ISSUER)
    assert (response.error, response.implicit) == (None, False)


def test_a_signed_error_response_is_unpacked() -> None:
    claims = {"code": ..., "error": "access_denied", "error_description": "no\r\nway"}
    response = unpack(token(claims=claims))
    assert (response.code, response.error) == (None, "access_denied")
    assert response.error_description == "no  way"


def test_a_response_that_another_library_signed_is_unpacked() -> None:
    theirs = ECKey.import_key(jwk_private("ES256"))
    text = foreign.encode({"alg": "ES256", "kid": "ES256"}, CLAIMS, theirs)
    assert unpack(text).code == CODE


def jwk_private(name: str) -> dict[str, str | list[str]]:
    made = jwt.get_algorithm_by_name(name).to_jwk(private(name), as_dict=True)
    return {str(member): str(value) for member, value in made.items() if member != "key_ops"}


@pytest.mark.parametrize(
    "claims",
    [
        pytest.param({"aud": [CLIENT]}, id="a-list-of-one"),
        pytest.param({"aud": ["other", CLIENT]}, id="one-of-a-list"),
        pytest.param({"exp": SECONDS + 660}, id="ten-minutes-and-the-leeway-ahead"),
        pytest.param({"exp": SECONDS - 59}, id="expired-within-the-leeway"),
        pytest.param({"exp": SECONDS + 0.5}, id="a-fraction"),
        pytest.param({"nbf": SECONDS + 60, "iat": SECONDS + 60}, id="a-clock-a-minute-ahead"),
        pytest.param({"s_hash": "x", "extra": {"a": 1}}, id="anything-else"),
    ],
)
def test_the_ends_of_what_is_allowed_are_believed(claims: dict[str, object]) -> None:
    assert unpack(token(claims=claims)).code == CODE


@pytest.mark.parametrize("typ", ["JWT", "jwt", "oauth-authz-resp+jwt", "application/jwt", ...])
def test_types_that_providers_use_are_believed(typ: str | EllipsisType) -> None:
    assert unpack(token(header={"typ": typ})).code == CODE


def test_without_a_kid_the_only_key_of_its_kind_counts() -> None:
    for algorithm in ("ES256", "EdDSA"):
        assert unpack(token(algorithm, header={"kid": ...})).code == CODE


def test_a_key_may_leave_out_what_it_is_for() -> None:
    bare = [jwk("ES256", use=..., alg=..., key_ops=...)]
    assert unpack(token(), bare).code == CODE
    full = [jwk("ES256", alg="ES256", key_ops=["verify", "other"])]
    assert unpack(token(), full).code == CODE


@pytest.mark.parametrize("named", ["EdDSA", "Ed25519"])
@pytest.mark.parametrize("published", ["EdDSA", "Ed25519", ...])
def test_an_edwards_key_serves_by_either_name_of_its_algorithm(
    named: str, published: str | EllipsisType
) -> None:
    """RFC 9864 §2.2: `Ed25519` is the name that says which of the curves is meant."""
    signed = token("EdDSA", header={"alg": named})
    key = jwk("EdDSA", alg=published)
    assert unpack(signed, [key]).code == CODE
    assert refusal(tampered(signed), [key]) == "jarm_signature"
    assert refusal(signed, [jwk("EdDSA", alg="ES256")]) == "jarm_key"


def tampered(text: str) -> str:
    """Return a token with another signature of the same length."""
    head, _, signature = text.rpartition(".")
    return f"{head}.{'B' if signature[0] == 'A' else 'A'}{signature[1:]}"


def test_two_keys_with_one_id_are_told_apart_by_their_kind() -> None:
    published = [jwk("RS256", kid="1"), jwk("ES256", kid="1"), jwk("P-384", kid="1")]
    assert unpack(token(header={"kid": "1"}), published).code == CODE


def test_nothing_of_it_is_shown_when_it_is_printed() -> None:
    read = jarm.read(token(header={"kid": "canary-key"}), secured(), NOW)
    assert "canary" not in repr(read)
    assert read.token.text not in repr(read)
    with pytest.raises(dataclasses.FrozenInstanceError):
        read.algorithm = "HS256"  # type: ignore[misc]


# -- what is refused before any key is fetched ---------------------------------------------------


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        pytest.param({"alg": "none"}, "algorithm", id="alg-none"),
        pytest.param({"alg": "HS256"}, "algorithm", id="symmetric"),
        pytest.param({"alg": "HS512"}, "algorithm", id="symmetric-512"),
        pytest.param({"alg": "RS384"}, "algorithm", id="rs384"),
        pytest.param({"alg": "RS512"}, "algorithm", id="rs512"),
        pytest.param({"alg": "ES384"}, "algorithm", id="es384"),
        pytest.param({"alg": "ES256K"}, "algorithm", id="es256k"),
        pytest.param({"alg": "es256"}, "algorithm", id="in-another-case"),
        pytest.param({"alg": ["ES256"]}, "algorithm", id="alg-in-a-list"),
        pytest.param({"alg": None}, "algorithm", id="alg-null"),
        pytest.param({"alg": ...}, "algorithm", id="no-alg"),
        pytest.param({"kid": 1}, "key", id="kid-a-number"),
        pytest.param({"kid": ["ES256"]}, "key", id="kid-in-a-list"),
        pytest.param({"crit": ["exp"]}, "critical", id="crit"),
        pytest.param({"b64": False, "crit": ["b64"]}, "critical", id="b64"),
        pytest.param({"typ": "at+jwt"}, "type", id="an-access-token"),
        pytest.param({"typ": "logout+jwt"}, "type", id="a-logout-token"),
        pytest.param({"typ": "dpop+jwt"}, "type", id="a-dpop-proof"),
    ],
)
def test_a_header_that_no_key_could_help_is_refused(header: dict[str, object], reason: str) -> None:
    """Algorithm confusion: CVE-2022-29217, CVE-2024-37568, CVE-2026-48523."""
    assert refused_before_a_key(token(header=header)) == f"jarm_{reason}"


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        pytest.param({"iss": "https://evil.example"}, "issuer", id="another-issuer"),
        pytest.param({"iss": ISSUER + "/"}, "issuer", id="a-slash-behind"),
        pytest.param({"iss": ISSUER.upper()}, "issuer", id="in-another-case"),
        pytest.param({"iss": [ISSUER]}, "issuer", id="iss-in-a-list"),
        pytest.param({"iss": None}, "issuer", id="iss-null"),
        pytest.param({"iss": ...}, "issuer", id="no-iss"),
        pytest.param({"aud": "another"}, "audience", id="another-client"),
        pytest.param({"aud": ["another"]}, "audience", id="a-list-of-another"),
        pytest.param({"aud": []}, "audience", id="an-empty-list"),
        pytest.param({"aud": [[CLIENT]]}, "audience", id="a-list-in-a-list"),
        pytest.param({"aud": {CLIENT: 1}}, "audience", id="aud-an-object"),
        pytest.param({"aud": CLIENT + "x"}, "audience", id="a-longer-client"),
        pytest.param({"aud": None}, "audience", id="aud-null"),
        pytest.param({"aud": ...}, "audience", id="no-aud"),
        pytest.param({"exp": SECONDS - 60}, "expired", id="expired"),
        pytest.param({"exp": SECONDS + 661}, "lifetime", id="more-than-ten-minutes-ahead"),
        pytest.param({"exp": 1e300}, "lifetime", id="for-ever"),
        pytest.param({"exp": True}, "times", id="exp-true"),
        pytest.param({"exp": str(SECONDS)}, "times", id="exp-a-string"),
        pytest.param({"exp": ...}, "times", id="no-exp"),
        pytest.param({"nbf": SECONDS + 61}, "early", id="not-yet"),
        pytest.param({"nbf": "0"}, "times", id="nbf-a-string"),
        pytest.param({"iat": SECONDS + 61}, "early", id="issued-in-the-future"),
        pytest.param({"iat": False}, "times", id="iat-false"),
    ],
)
def test_claims_that_are_not_for_this_client_are_refused(
    claims: dict[str, object], reason: str
) -> None:
    """Mix-up (RFC 9700 §4.4), and what the OIDF suite tries with JARM."""
    assert refused_before_a_key(token(claims=claims)) == f"jarm_{reason}"


def test_numbers_that_are_none_are_refused() -> None:
    for number in ("NaN", "Infinity", "-Infinity"):
        claims = json.dumps(CLAIMS)[:-1] + f', "nbf": {number}}}'
        assert refused_before_a_key(sign(claims, {}, "ES256", "ES256")) == "jarm_malformed"
    claims = json.dumps(CLAIMS)[:-1] + ', "nbf": 1e999}'
    assert refused_before_a_key(sign(claims, {}, "ES256", "ES256")) == "jarm_early"


def test_a_member_that_stands_twice_is_refused() -> None:
    claims = json.dumps(CLAIMS)[:-1] + ', "code": "canary-other"}'
    assert refused_before_a_key(sign(claims, {}, "ES256", "ES256")) == "jarm_malformed"


def test_what_is_encrypted_is_named_as_that() -> None:
    assert refused_before_a_key("e30.a.b.c.d") == "jarm_encrypted"


@pytest.mark.parametrize("text", ["canary", "a.b", "..", token() + ".", "a" * 20_481])
def test_what_is_no_token_is_refused(text: str) -> None:
    assert refused_before_a_key(text) in ("jarm_malformed", "jarm_size")


def test_a_connection_without_issuer_or_client_takes_none() -> None:
    for claims in ({"iss": ...}, {"iss": None}):
        at = secured(issuer=None)
        assert refused_before_a_key(token(claims=claims), at) == "jarm_issuer"
    for audience in (..., None, [None]):
        at = secured(client_id=None)
        assert refused_before_a_key(token(claims={"aud": audience}), at) == "jarm_audience"


# -- what its key refuses ------------------------------------------------------------------------


def test_a_signature_of_another_key_is_refused() -> None:
    assert refusal(token(key="other")) == "jarm_signature"


def test_changed_claims_are_refused() -> None:
    header, _, signature = token().split(".")
    claims = b64(json.dumps({**CLAIMS, "code": "canary-other"}).encode())
    assert refusal(f"{header}.{claims}.{signature}") == "jarm_signature"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_empty_or_a_cut_signature_is_refused(algorithm: str) -> None:
    body, _, text = token(algorithm).rpartition(".")
    signature = base64.urlsafe_b64decode(text + "==")
    for other in (b"", signature[:3], signature[:-1], signature + b"\0", bytes(64)):
        assert refusal(f"{body}.{b64(other)}") == "jarm_signature"


def test_a_public_key_does_not_serve_as_a_secret() -> None:
    """HS/RS confusion, CVE-2022-29217: the header says RS256, the signature is an HMAC."""
    public = private("RS256").public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for algorithm in ("HS256", "RS256"):
        text = token("RS256", header={"alg": algorithm}).rpartition(".")[0]
        mac = jwt.get_algorithm_by_name("HS256").sign(text.encode(), pem)
        with pytest.raises(InvalidResponse):
            unpack(f"{text}.{b64(mac)}")


def test_the_header_does_not_choose_how_a_key_is_used() -> None:
    signed = token("RS256", header={"alg": "PS256"})
    assert refusal(signed, [jwk("RS256", kid="RS256")]) == "jarm_signature"
    assert refusal(signed, [jwk("RS256", alg="RS256")]) == "jarm_key"


def test_a_key_in_the_token_is_not_looked_at() -> None:
    """CVE-2018-0114 and its like: `jwk`, `jku`, `x5u` and `x5c` in the header."""
    header = {"jwk": jwk("other"), "jku": "https://evil.example", "x5u": "https://evil.example"}
    assert refusal(token(header=header, key="other")) == "jarm_signature"


@pytest.mark.parametrize(
    ("text", "published"),
    [
        pytest.param(token(), [], id="no-keys"),
        pytest.param(token(header={"kid": "k9"}), None, id="an-unknown-kid"),
        pytest.param(token(header={"kid": "RS256"}), None, id="the-id-of-another-kind"),
        pytest.param(token(), [jwk("ES256"), jwk("other", kid="ES256")], id="one-id-twice"),
        pytest.param(
            token(header={"kid": ...}), [jwk("ES256"), jwk("other")], id="no-kid-two-keys"
        ),
        pytest.param(token(header={"kid": ...}), [jwk("RS256")], id="no-kid-and-none-fits"),
        pytest.param(token(), [jwk("ES256", use="enc")], id="for-encryption"),
        pytest.param(token(), [jwk("ES256", alg="ES384")], id="for-another-algorithm"),
        pytest.param(token(), [jwk("ES256", alg="HS256")], id="for-an-hmac"),
        pytest.param(token(), [jwk("ES256", key_ops=["sign"])], id="for-signing"),
        pytest.param(token(), [jwk("ES256", key_ops=[])], id="for-nothing"),
        pytest.param(token(), [jwk("ES256", key_ops="verify")], id="operations-a-string"),
        pytest.param(token(), [jwk("ES256", kty="RSA")], id="of-another-type"),
        pytest.param(token(), [jwk("ES256", crv="P-384")], id="on-another-curve"),
        pytest.param(token(), [jwk("ES256", d="AA")], id="a-private-one"),
        pytest.param(token(), [jwk("ES256", x="AA")], id="broken"),
        pytest.param(token(), [jwk("ES256", x=1)], id="broken-by-a-number"),
        pytest.param(token(), [jwk("ES256", x=...)], id="without-a-coordinate"),
        pytest.param(token(), [jwk("ES256", y=jwk("other")["y"])], id="beside-the-curve"),
        pytest.param(token("EdDSA"), [jwk("EdDSA", x="AA")], id="an-edwards-point-too-short"),
        pytest.param(token("RS256"), [jwk("RS256", n="")], id="an-empty-modulus"),
        pytest.param(token("RS256"), [{"kty": "oct", "kid": "RS256", "k": "AA"}], id="a-secret"),
        pytest.param(
            token("EdDSA", header={"kid": "Ed448"}, key="Ed448"), [jwk("Ed448")], id="ed448"
        ),
        pytest.param(
            token(header={"kid": "secp256k1"}), [jwk("secp256k1")], id="the-curve-of-bitcoin"
        ),
    ],
)
def test_a_key_that_does_not_fit_is_none(
    text: str, published: list[dict[str, object]] | None
) -> None:
    assert refusal(text, published) == "jarm_key"


def test_an_rsa_key_below_2048_bits_is_refused() -> None:
    weak = token("RS256", header={"kid": "weak"}, key="weak")
    assert refusal(weak, [jwk("weak")]) == "jarm_signature"


@given(at=st.integers(0, 400), put=st.sampled_from("ABCxyz019-_.=+ "))
def test_a_response_with_any_change_is_refused(at: int, put: str) -> None:
    text = token(header={"kid": "ES256"})
    changed = text[:at] + put + text[at + 1 :]
    if changed != text:
        assert refusal(changed).startswith("jarm_")


# -- what is in it is held against the same limits -------------------------------------------------


def test_parameters_in_it_are_strings() -> None:
    for name in ("code", "state", "error", "access_token"):
        with pytest.raises(InvalidResponse) as refused:
            unpack(token(claims={name: 5}))
        assert refused.value.reason == "json"
    assert unpack(token(claims={"code": None})).code is None
    assert unpack(token(claims={"code": ""})).code is None


def test_values_in_it_have_their_limits() -> None:
    with pytest.raises(InvalidResponse) as refused:
        unpack(token(claims={"code": "c" * 8193}))
    assert refused.value.status == 413
    assert unpack(token(claims={"code": "c" * 8192, "state": "s" * 4096})).code == "c" * 8192


def test_half_a_surrogate_pair_in_it_is_refused() -> None:
    with pytest.raises(InvalidResponse) as refused:
        unpack(token(claims={"code": "\ud800"}))
    assert refused.value.reason == "encoding"


def test_a_token_of_the_implicit_flow_in_it_is_seen() -> None:
    assert unpack(token(claims={"access_token": "canary"})).implicit


def test_a_further_parameter_that_the_template_names_is_kept() -> None:
    at = secured(body='{"code": "{code}", "realm": "{param:realmId}"}')
    assert unpack(token(claims={"realmId": "7", "other": "x"}), at=at).extra == {"realmId": "7"}


def test_the_code_may_have_another_name_in_it() -> None:
    at = secured(code_parameter="spapi_oauth_code")
    claims = {"code": ..., "spapi_oauth_code": CODE}
    assert unpack(token(claims=claims), at=at).code == CODE


# -- where it stands in the request --------------------------------------------------------------

MODES = ("jwt", "query.jwt", "form_post.jwt", "fragment.jwt")


@pytest.mark.parametrize("mode", MODES)
def test_it_is_found_in_a_query_in_a_form_and_in_json(mode: str) -> None:
    for request in (
        get({"response": "a.b.c"}),
        post(urlencode({"response": "a.b.c"})),
        post_json({"response": "a.b.c"}),
        get({"response": "a.b.c", "utm": "x", "iss": ISSUER, "code": "", "session_state": "y"}),
    ):
        assert response_jwt(request, secured(mode)) == "a.b.c"


@pytest.mark.parametrize("mode", [None, "query", "form_post", "fragment"])
def test_other_connections_have_none(mode: str | None) -> None:
    at = connection(provider=Provider(response_mode=mode))
    assert response_jwt(get({"response": "a.b.c"}), at) is None


@pytest.mark.parametrize(
    "query",
    [
        pytest.param({"code": CODE, "state": STATE}, id="a-plain-response"),
        pytest.param({"error": "access_denied", "state": STATE}, id="a-plain-error"),
        pytest.param({"response": ""}, id="an-empty-one"),
        pytest.param({"Response": "a.b.c"}, id="in-another-case"),
    ],
)
def test_a_plain_response_is_refused_where_a_signed_one_is_wanted(query: dict[str, str]) -> None:
    """Downgrade: whoever may leave the signature out needs none."""
    for read in (response_jwt, parse):
        with pytest.raises(InvalidResponse) as refused:
            read(get(query), secured())
        assert refused.value.reason == "jarm_missing"


@pytest.mark.parametrize("beside", ["code", "state", "error", "spapi_oauth_code"])
def test_nothing_of_a_plain_response_stands_beside_it(beside: str) -> None:
    at = secured(code_parameter="spapi_oauth_code")
    with pytest.raises(InvalidResponse) as refused:
        response_jwt(get({"response": "a.b.c", beside: "x"}), at)
    assert refused.value.reason == "jarm_beside"


@pytest.mark.parametrize("name", ["response", "code", "state", "error"])
def test_no_parameter_stands_twice(name: str) -> None:
    twice = f"response=a.b.c&{name}=x&{name}=x"
    with pytest.raises(InvalidResponse) as refused:
        response_jwt(get(twice), secured())
    assert refused.value.reason == "duplicate"
    with pytest.raises(InvalidResponse) as refused:
        response_jwt(post("response=a.b.c", query="response=a.b.c"), secured())
    assert refused.value.reason == "duplicate"


def test_20_kib_are_read_and_one_character_more_is_refused() -> None:
    most = "a" * 20_480
    assert response_jwt(post(f"response={most}"), secured()) == most
    with pytest.raises(InvalidResponse) as refused:
        response_jwt(post(f"response={most}a"), secured())
    assert refused.value.status == 413


def test_somebody_who_looks_at_the_url_sees_the_page_with_the_fragments_script() -> None:
    for mode in MODES:
        with pytest.raises(InvalidResponse) as refused:
            response_jwt(get(""), secured(mode))
        assert refused.value.page == "bare"


def test_a_signed_response_that_nobody_asked_for_is_named_as_that() -> None:
    with pytest.raises(InvalidResponse) as refused:
        parse(get({"response": "a.b.c"}), connection())
    assert refused.value.reason == "jarm_unexpected"


def test_a_parameter_of_that_name_beside_a_plain_response_is_ignored() -> None:
    for beside in ({"code": CODE}, {"state": STATE}, {"error": "x"}):
        parse(get({"response": "yes", **beside}), connection())


# -- the issuer's keys ---------------------------------------------------------------------------


@dataclass
class Issuer:
    """Serves metadata and keys, and counts. `answers` are those that differ from the right ones."""

    keys: list[dict[str, object]] = field(default_factory=lambda: [{"kid": "k1", "kty": "EC"}])
    answers: dict[str, Response | Callable[[], Response]] = field(default_factory=dict)
    delay: float = 0.0
    asked: list[str] = field(default_factory=list)
    heads: list[Mapping[str, str]] = field(default_factory=list)
    url: str = ""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Incoming(scope, receive)
        assert request.method == "GET"
        self.asked.append(request.url.path)
        self.heads.append(dict(request.headers))
        await asyncio.sleep(self.delay)
        answer = self.answers.get(request.url.path) or self._answer(request.url.path)
        await (answer if isinstance(answer, Response) else answer())(scope, receive, send)

    def _answer(self, path: str) -> Response:
        if path == "/keys":
            return JSONResponse({"keys": self.keys})
        if path == "/.well-known/oauth-authorization-server/tenant":
            return JSONResponse({"issuer": f"{self.url}/tenant", "jwks_uri": f"{self.url}/keys"})
        return Response(status_code=404)

    @property
    def fetches(self) -> int:
        return self.asked.count("/keys")


@dataclass
class Stage:
    issuer: Issuer
    store: KeyStore
    clock: Clock
    server: Server

    @property
    def provider(self) -> Provider:
        return Provider(issuer=f"{self.issuer.url}/tenant")

    async def get(self, kid: str | None = "k1", provider: Provider | None = None) -> list[object]:
        found = await self.store.get(provider or self.provider, kid)
        return [key.get("kid") for key in found]

    async def refusal(self, kid: str | None = "k1", provider: Provider | None = None) -> str:
        with pytest.raises(KeysUnavailable) as refused:
            await self.get(kid, provider)
        assert refused.value.status == 503
        assert refused.value.outcome == "rejected"
        assert refused.value.page == "keys"
        return refused.value.reason


@pytest.fixture
async def stage(authority: Authority) -> AsyncIterator[Stage]:
    issuer, clock = Issuer(), Clock()
    with Server(issuer, tls=authority.server_context()) as server:
        issuer.url = server.url
        store = KeyStore(outgoing.trust(str(authority.bundle), {}), clock=clock)
        yield Stage(issuer, store, clock, server)
        await store.aclose()


async def test_keys_are_found_by_the_issuers_metadata(stage: Stage) -> None:
    assert await stage.get() == ["k1"]
    assert stage.issuer.asked == ["/.well-known/oauth-authorization-server/tenant", "/keys"]
    assert {head["accept-encoding"] for head in stage.issuer.heads} == {"identity"}


async def test_openid_metadata_serves_as_well(stage: Stage) -> None:
    metadata = {"issuer": stage.provider.issuer, "jwks_uri": f"{stage.issuer.url}/keys"}
    for first in (Response(status_code=404), Response("<p>"), JSONResponse({"issuer": "other"})):
        stage.issuer.answers = {
            "/.well-known/oauth-authorization-server/tenant": first,
            "/tenant/.well-known/openid-configuration": JSONResponse(metadata),
        }
        assert await stage.get() == ["k1"]
        stage.clock.seconds += 1_000


async def test_an_issuer_without_a_path_has_its_metadata_at_the_root(stage: Stage) -> None:
    for issuer in (stage.issuer.url, stage.issuer.url + "/"):
        stage.issuer.asked.clear()
        await stage.refusal(provider=Provider(issuer=issuer))
        assert stage.issuer.asked == [
            "/.well-known/oauth-authorization-server",
            "/.well-known/openid-configuration",
        ]


async def test_an_address_from_the_settings_needs_no_metadata(stage: Stage) -> None:
    own = Provider(issuer="https://elsewhere.example", jwks_uri=f"{stage.issuer.url}/keys")
    assert await stage.get(provider=own) == ["k1"]
    assert stage.issuer.asked == ["/keys"]


async def test_keys_are_fetched_once_for_five_minutes(stage: Stage) -> None:
    for _ in range(3):
        await stage.get()
        stage.clock.seconds += 99.75
    stage.clock.seconds += 0.5
    await stage.get()
    assert stage.issuer.fetches == 1
    stage.clock.seconds += 0.25
    await stage.get()
    assert stage.issuer.fetches == 2


async def test_many_who_ask_at_once_share_one_fetch(stage: Stage) -> None:
    stage.issuer.delay = 0.1
    kids = ["k1", None, "k9"] * 20
    assert await asyncio.gather(*(stage.get(kid) for kid in kids)) == [["k1"]] * 60
    assert stage.issuer.fetches == 1


async def test_one_who_goes_away_does_not_take_the_others_keys_along(stage: Stage) -> None:
    stage.issuer.delay = 0.1
    first, second = asyncio.create_task(stage.get()), asyncio.create_task(stage.get())
    await asyncio.sleep(0.05)
    first.cancel()
    assert await second == ["k1"]


async def test_a_hundred_made_up_key_ids_cause_one_fetch_a_minute(stage: Stage) -> None:
    """mod_auth_openidc 2026: refetching by unknown `kid`."""
    await stage.get()
    stage.clock.seconds += 59.9
    for number in range(100):
        assert await stage.get(f"made-up-{number}") == ["k1"]
    assert stage.issuer.fetches == 1
    stage.clock.seconds += 0.1
    for number in range(100):
        await stage.get(f"made-up-{number}")
    assert stage.issuer.fetches == 2


async def test_a_new_key_is_found_after_a_minute(stage: Stage) -> None:
    await stage.get()
    stage.issuer.keys = [{"kid": "k2"}]
    stage.clock.seconds += 60
    assert await stage.get("k1") == ["k1"]
    assert await stage.get("k2") == ["k2"]


async def test_a_withdrawn_key_is_gone_after_five_minutes(stage: Stage) -> None:
    await stage.get()
    stage.issuer.keys = [{"kid": "k2"}]
    stage.clock.seconds += 300
    assert await stage.get("k1") == ["k2"]


async def test_connections_of_one_issuer_share_its_keys_and_others_do_not(stage: Stage) -> None:
    await stage.get()
    await stage.get(provider=stage.provider._replace(client_id="another"))
    assert stage.issuer.fetches == 1
    await stage.get(provider=Provider(issuer="x", jwks_uri=f"{stage.issuer.url}/keys"))
    assert stage.issuer.fetches == 2


BROKEN = [
    pytest.param("/keys", Response(status_code=500), "jwks_500", id="an-error"),
    pytest.param("/keys", Response(status_code=404), "jwks_404", id="not-there"),
    pytest.param("/keys", Response(status_code=204), "jwks_204", id="nothing"),
    pytest.param("/keys", Response("<html>"), "jwks_json", id="a-page"),
    pytest.param("/keys", JSONResponse([]), "jwks_json", id="a-list"),
    pytest.param("/keys", JSONResponse({}), "jwks_json", id="no-keys-in-it"),
    pytest.param("/keys", JSONResponse({"keys": {}}), "jwks_json", id="keys-no-list"),
    pytest.param("/keys", Response("[" * 100_000), "jwks_json", id="too-deep"),
    pytest.param("/keys", Response(b"\xff\xfe\xff"), "jwks_json", id="no-text"),
    pytest.param("/keys", Response(b" " * 262_145), "jwks_size", id="too-large"),
    pytest.param("/keys", Reset(), "jwks_ReadError", id="a-reset"),
    pytest.param(
        "/keys",
        HalfBody(JSONResponse({"keys": []})),
        "jwks_RemoteProtocolError",
        id="half-an-answer",
    ),
    pytest.param("/keys", RedirectResponse("/other"), "jwks_307", id="a-redirect"),
    pytest.param(
        "/keys",
        Response(b"\x1f\x8b", headers={"content-encoding": "gzip"}),
        "jwks_json",
        id="compressed-although-unasked",
    ),
]


@pytest.mark.parametrize(("path", "answer", "reason"), BROKEN)
async def test_keys_that_can_not_be_had_are_unavailable_and_a_reload_tries_again(
    path: str, answer: Response, reason: str, stage: Stage
) -> None:
    stage.issuer.answers = {path: answer, "/other": JSONResponse({"keys": []})}
    assert await stage.refusal() == reason
    assert "/other" not in stage.issuer.asked
    stage.issuer.answers.clear()
    assert await stage.get() == ["k1"]


async def test_256_kib_are_read(stage: Stage) -> None:
    body = json.dumps({"keys": stage.issuer.keys}).encode().ljust(262_144)
    stage.issuer.answers = {"/keys": Response(body)}
    assert await stage.get() == ["k1"]


async def test_a_key_that_is_no_object_is_passed_over(stage: Stage) -> None:
    stage.issuer.answers = {"/keys": JSONResponse({"keys": [None, "k9", {"kid": "k1"}, 5]})}
    assert await stage.get() == ["k1"]


@pytest.mark.parametrize(
    "metadata",
    [
        pytest.param({"issuer": "{url}/other", "jwks_uri": "{url}/keys"}, id="another-issuer"),
        pytest.param({"issuer": "{url}/tenant/", "jwks_uri": "{url}/keys"}, id="a-slash-behind"),
        pytest.param({"jwks_uri": "{url}/keys"}, id="no-issuer"),
        pytest.param({"issuer": "{url}/tenant"}, id="no-address"),
        pytest.param({"issuer": "{url}/tenant", "jwks_uri": 5}, id="an-address-that-is-a-number"),
        pytest.param({"issuer": "{url}/tenant", "jwks_uri": "/keys"}, id="a-relative-address"),
        pytest.param(
            {"issuer": "{url}/tenant", "jwks_uri": "http://169.254.169.254/keys"},
            id="the-metadata-service-of-the-data-centre",
        ),
        pytest.param({"issuer": "{url}/tenant", "jwks_uri": "file:///etc/passwd"}, id="a-file"),
    ],
)
async def test_metadata_of_another_issuer_or_without_https_is_not_used(
    metadata: dict[str, Any], stage: Stage
) -> None:
    """SSRF through metadata: CVE-2026-1180."""
    filled = {
        name: value.format(url=stage.issuer.url) if isinstance(value, str) else value
        for name, value in metadata.items()
    }
    answer = JSONResponse(filled)
    stage.issuer.answers = {
        "/.well-known/oauth-authorization-server/tenant": answer,
        "/tenant/.well-known/openid-configuration": answer,
    }
    assert await stage.refusal() == "jwks_metadata"
    assert stage.issuer.fetches == 0


async def test_an_address_that_is_none_is_unavailable(stage: Stage) -> None:
    for address in ("https://", "https://[", "https://a b", "https://\x00", "https://x:99999"):
        metadata = JSONResponse({"issuer": stage.provider.issuer, "jwks_uri": address})
        stage.issuer.answers = {"/.well-known/oauth-authorization-server/tenant": metadata}
        assert (await stage.refusal()).startswith("jwks_")
        stage.clock.seconds += 100


async def test_an_issuer_that_is_not_trusted_is_unavailable(stage: Stage) -> None:
    stranger = KeyStore(outgoing.trust(None, {}), clock=stage.clock)
    with pytest.raises(KeysUnavailable) as refused:
        await stranger.get(stage.provider, None)
    assert refused.value.reason == "jwks_ConnectError"
    await stranger.aclose()
    assert stage.issuer.asked == []


async def test_an_issuer_that_does_not_answer_is_given_up(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "TIMEOUT", 0.2)
    stage.issuer.answers = {"/keys": Hang()}
    assert await stage.refusal() == "jwks_TimeoutError"


async def test_an_outage_is_asked_about_less_and_less(stage: Stage) -> None:
    stage.issuer.answers = {"/keys": Response(status_code=503)}
    asked = []
    for _ in range(400):
        before = stage.issuer.fetches
        await stage.refusal()
        if stage.issuer.fetches > before:
            asked.append(stage.clock.seconds - 1_000)
        stage.clock.seconds += 0.5
    # The first reload at once, then after 1, 2, 4, 8, 15, 30 and 60 seconds, and 60 again.
    assert asked == [0.0, 0.5, 1.5, 3.5, 7.5, 15.5, 30.5, 60.5, 120.5, 180.5]
    stage.issuer.answers.clear()
    stage.clock.seconds += 60
    assert await stage.get() == ["k1"]
    # After that it begins again: the first reload at once.
    stage.clock.seconds += 300
    stage.issuer.answers = {"/keys": Response(status_code=503)}
    assert [await stage.get() for _ in range(3)] == [["k1"]] * 3
    assert stage.issuer.fetches == 13


async def test_an_issuer_that_breaks_off_is_asked_less_and_less_too(stage: Stage) -> None:
    stage.issuer.answers = {"/keys": Reset()}
    reasons = [await stage.refusal() for _ in range(5)]
    assert reasons == ["jwks_ReadError"] * 2 + ["jwks_pause"] * 3


async def test_keys_come_through_the_proxy_that_the_environment_names(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stage.get()
    with socket.create_server(("127.0.0.1", 0)) as proxy:  # nobody accepts
        monkeypatch.setattr(jwks, "TIMEOUT", 0.2)
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        elsewhere = Provider(issuer="x", jwks_uri=f"{stage.issuer.url}/keys")
        assert await stage.refusal(provider=elsewhere) == "jwks_TimeoutError"
    assert stage.issuer.fetches == 1


async def test_without_an_issuer_there_is_no_metadata(stage: Stage) -> None:
    assert await stage.refusal(provider=Provider()) == "jwks_UnsupportedProtocol"


async def test_an_issuers_cookies_are_not_carried_along(stage: Stage) -> None:
    answer = JSONResponse({"keys": stage.issuer.keys}, headers={"set-cookie": "canary=1; Path=/"})
    stage.issuer.answers = {"/keys": answer}
    await stage.get()
    stage.clock.seconds += 300
    await stage.get()
    assert not any("cookie" in head for head in stage.issuer.heads)


async def test_keys_serve_for_an_hour_while_the_issuer_is_down(stage: Stage) -> None:
    await stage.get()
    stage.server.stop()
    for _ in range(35):
        stage.clock.seconds += 100
        assert await stage.get() == ["k1"]
        assert await stage.get(None) == ["k1"]
    stage.clock.seconds += 99.75
    assert await stage.get() == ["k1"]
    stage.clock.seconds += 0.25
    assert await stage.refusal() in ("jwks_ConnectError", "jwks_pause")
    stage.server.start()


async def test_an_unknown_key_id_is_not_refused_while_nobody_can_tell(stage: Stage) -> None:
    await stage.get()
    stage.issuer.answers = {"/keys": Response(status_code=503)}
    stage.clock.seconds += 60
    assert await stage.refusal("k2") == "jwks_503"
    assert await stage.get("k1") == ["k1"]


async def test_from_the_request_to_the_response_with_keys_over_tls(stage: Stage) -> None:
    stage.issuer.keys = keys()
    at = secured(issuer=stage.provider.issuer)
    query = {"response": token("PS256", {"iss": stage.provider.issuer})}
    text = response_jwt(get(query), at)
    assert text is not None
    read = jarm.read(text, at, NOW)
    response = jarm.unpack(read, await stage.store.get(at.provider, read.kid), at)
    assert response.code == CODE


async def test_a_signed_response_is_held_and_delivered_like_any_other() -> None:
    down = Unavailable("dynamics_503", "…", dynamics_status=503)
    bank, dynamics = secured(), Dynamics([down, CREATED])
    relay = Relay(
        Connections({"bank": bank}),
        Entra(),
        dynamics,
        Keys(tuple(keys())),
        SingleFlight(),
        Sealer([Fernet.generate_key().decode()]),
        lambda: NOW,
    )
    answer = await relay.receive("bank", get({"response": token()}))
    assert (answer.outcome, dynamics.stored) == ("held", [])
    assert answer.held is not None
    assert await relay.redeliver(answer.held.encode(), 1) is None
    assert dynamics.stored == [{"code": CODE}]
