"""A table of authorization responses and how each has to end, by every way and under every policy.

A row is the raw text of a response. As a query it comes by GET (`response_mode=query`), the same
text as a body is `form_post`, and the same parameters as members are JSON: in their order, twice
where they stand twice, and with the very bytes where these are no UTF-8. So no row is left out
for any way; what only JSON can say has a table of its own. `unless` names the ways and policies
that end otherwise.
"""

import dataclasses
import functools
import itertools
import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from relay.connections import Connection, Connections, Provider, StatePolicy
from relay.delivery.sealing import Sealer
from relay.delivery.single_flight import SingleFlight
from relay.flow import Relay
from relay.oauth import error_codes
from relay.oauth.request import Request
from tests.fakes import Dynamics, Entra, Keys, but, compact, hs256, published
from tests.helpers import JSON, connection, get, post

NOW = datetime(2027, 3, 4, 12, 0, tzinfo=UTC)
SECONDS = int(NOW.timestamp())
KEY, STRANGERS_KEY = bytes(range(32)), bytes(range(1, 33))
SIGNER, STRANGER = (Ed25519PrivateKey.from_private_bytes(key) for key in (KEY, STRANGERS_KEY))
OUTBOX_KEY = "A" * 43 + "="
CODE = "SplxlOBeZQQYbYS6WxSbIA"  # RFC 6749 §4.1.2
ISSUER = "https://honest.as.example"  # RFC 9207 §2
CLIENT = "s6BhdRkqt3"  # RFC 6749 §4.1.1
VSCHAR = "".join(map(chr, range(0x20, 0x7F)))  # RFC 6749 Appendix A
ALL_OF_VSCHAR = "".join(f"%{ord(character):02X}" for character in VSCHAR)


# -- verdicts ------------------------------------------------------------------------------------


class Verdict(NamedTuple):
    outcome: str
    reason: str | None
    status: int


def invalid(reason: str, status: int = 400) -> Verdict:
    return Verdict("invalid", reason, status)


DELIVERED = Verdict("delivered", None, 200)
DECLINED = Verdict("declined", None, 400)
BARE = invalid("bare", 200)
DUPLICATE = invalid("duplicate")
ENCODING = invalid("encoding")
IMPLICIT = invalid("implicit")
STATE_MISSING = invalid("state_missing")
TOO_LARGE = invalid("too_large", 413)
CODE_CHARACTERS = invalid("code_characters")
ERROR_CHARACTERS = invalid("error_characters")
ISS_MISMATCH = invalid("iss_mismatch")

DECIDED = ("access_denied", "user_cancelled_authorize")
"""The errors of the table by which a person has decided."""

PATTERN = r"^CB-[0-9a-f]{16}$"
FORGED = {"pattern": invalid("state_mismatch"), "signed": invalid("state_signature")}
"""How a stranger's state ends: under `opaque` the relay knows none, and Dynamics alone refuses."""


def unsigned(fault: str) -> Mapping[str, Verdict]:
    """Return how a state with this fault ends, which `opaque` again does not see."""
    seen = "size" if fault == "size" else "mismatch"
    return {"pattern": invalid(f"state_{seen}"), "signed": invalid(f"state_{fault}")}


def nothing_in_it(*ways: str) -> Mapping[str, Verdict]:
    """A POST without parameters is no visitor who looks at the URL: its state is missing."""
    return dict.fromkeys(ways, STATE_MISSING)


BY_QUERY_TOO_LARGE = {"get": TOO_LARGE}
"""8 KiB are the host's limit for a request line; a body may have 32."""


# -- what stands between braces in a row ---------------------------------------------------------

STATE_HEADER: dict[str, object] = {"alg": "HS256", "typ": "JWT", "kid": "k1"}
STATE_CLAIMS: dict[str, object] = {
    "aud": "callback:table",
    "exp": SECONDS + 600,
    "jti": "n-0S6_WzA2Mj-0001",
}


def state_token(
    key: bytes = KEY, header: Mapping[str, object] | None = None, **claims: object
) -> str:
    return compact(but(STATE_HEADER, header or {}), but(STATE_CLAIMS, claims), hs256(key))


STATES = {
    "opaque": {"state": "xyz", "forged": "a-strangers-state"},  # xyz: RFC 6749 §4.1.2
    "pattern": {"state": "CB-0123456789abcdef", "forged": "CB-0123456789abcdeg"},
    "signed": {"state": state_token(), "forged": state_token(STRANGERS_KEY)},
}
"""`forged` is a text that the policy does not take, where it can tell."""

FAULTY_STATES = {
    "expired": state_token(exp=SECONDS - 60),
    "not-yet": state_token(nbf=SECONDS + 61),
    "for-ever": state_token(exp=SECONDS + 3661),
    "neighbours": state_token(aud="callback:another"),
    "ticket": state_token(aud="authorize:table"),
    "shared-audience": state_token(aud=["callback:table", "callback:another"]),
    "weak-jti": state_token(jti="short"),
    "no-expiry": state_token(exp=...),
    "boolean-expiry": state_token(exp=True),
    "alg-none": compact({**STATE_HEADER, "alg": "none"}, STATE_CLAIMS, lambda _: b""),
    "alg-hs512": state_token(header={"alg": "HS512"}),
    "unknown-kid": state_token(header={"kid": "k9"}),
    "no-kid": state_token(header={"kid": ...}),
    "critical": state_token(header={"crit": ["exp"]}),
    "access-token": state_token(header={"typ": "at+jwt"}),
    "no-signature": state_token().rpartition(".")[0] + ".",
    "bound": state_token(cookie="E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"),
    "1-KiB-state": state_token(pad="p" * 1024),
}
"""For `opaque` any text is a state; for `pattern` these are texts that do not match."""

JWT_HEADER: dict[str, object] = {"alg": "EdDSA", "typ": "JWT", "kid": "p1"}
JWT_CLAIMS: dict[str, object] = {
    "iss": ISSUER,
    "aud": CLIENT,
    "exp": SECONDS + 600,
    "code": "{code}",
    "state": "{state}",
}
NO_CODE_IN_IT: dict[str, object] = {"code": ..., "error": "access_denied"}


@dataclass(frozen=True)
class Jwt:
    """A response that is a JWT, but for these members, and signed by whoever signs."""

    claims: Mapping[str, object] = field(default_factory=dict)
    header: Mapping[str, object] = field(default_factory=dict)
    sign: Callable[[bytes], bytes] = SIGNER.sign
    raw: str = ""

    def text(self, texts: Mapping[str, str]) -> str:
        claims = self.raw or json.dumps(but(JWT_CLAIMS, self.claims))
        return compact(but(JWT_HEADER, self.header), fill(claims, texts), self.sign)


JWTS = {
    "jwt": Jwt(),
    "jwt-error": Jwt({**NO_CODE_IN_IT, "error_description": "No.\r\nTrace 1"}),
    "jwt-for-two": Jwt({"aud": ["another", CLIENT]}),
    "jwt-with-more": Jwt({"scope": "openid", "iat": SECONDS, "x": {"code": "inner"}}),
    "jwt-typed": Jwt(header={"typ": "oauth-authz-resp+jwt"}),
    "jwt-without-kid": Jwt(header={"kid": ...}),
    "jwt-forged-state": Jwt({"state": "{forged}"}),
    "jwt-forged-state-error": Jwt({**NO_CODE_IN_IT, "state": "{forged}"}),
    "jwt-no-state": Jwt({"state": ...}),
    "jwt-no-code": Jwt({"code": ...}),
    "jwt-hybrid": Jwt({"id_token": "e30.e30."}),
    "jwt-code-and-error": Jwt({"error": "access_denied"}),
    "jwt-code-is-a-number": Jwt({"code": 1234}),
    "jwt-code-with-line-break": Jwt({"code": "a\nb"}),
    "jwt-code-twice": Jwt(raw=json.dumps(JWT_CLAIMS)[:-1] + ', "code": "another"}'),
    "jwt-expired": Jwt({"exp": SECONDS - 60}),
    "jwt-no-expiry": Jwt({"exp": ...}),
    "jwt-for-an-hour": Jwt({"exp": SECONDS + 3600}),
    "jwt-not-yet": Jwt({"nbf": SECONDS + 61}),
    "jwt-another-audience": Jwt({"aud": "another"}),
    "jwt-no-audience": Jwt({"aud": ...}),
    "jwt-another-issuer": Jwt({"iss": "https://attacker.example"}),
    "jwt-no-issuer": Jwt({"iss": ...}),
    "jwt-another-signer": Jwt(sign=STRANGER.sign),
    "jwt-no-signature": Jwt(sign=lambda _: b""),
    "jwt-alg-none": Jwt(header={"alg": "none"}, sign=lambda _: b""),
    "jwt-hs256": Jwt(header={"alg": "HS256"}, sign=hs256(SIGNER.public_key().public_bytes_raw())),
    "jwt-unknown-kid": Jwt(header={"kid": "p9"}),
    "jwt-critical": Jwt(header={"crit": ["exp"]}),
    "jwt-access-token": Jwt(header={"typ": "at+jwt"}),
}

TEXTS = {
    "code": CODE,
    **FAULTY_STATES,
    "4-KiB": "v" * 4096,
    "5-KiB": "v" * 5 * 1024,
    "8-KiB": "v" * 8192,
    "33-KiB": "v" * 33 * 1024,
    "48-more": "".join(f"&p{number}=x" for number in range(48)),
    "49-more": "".join(f"&p{number}=x" for number in range(49)),
}


def fill(text: str, texts: Mapping[str, str]) -> str:
    """Put texts in for their names between braces; other braces stay what they are."""
    return re.sub(r"\{([\w-]+)\}", lambda found: texts.get(found[1], found[0]), text)


@functools.cache
def texts_of(policy: str) -> Mapping[str, str]:
    texts = TEXTS | STATES[policy]
    return texts | {name: jwt.text(texts) for name, jwt in JWTS.items()}


# -- the table -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One response. `values`: what it decodes to, beside the usual code or error, and state."""

    id: str
    raw: str
    verdict: Verdict
    source: str
    values: Mapping[str, str] = field(default_factory=dict)
    unless: Mapping[str, Verdict] = field(default_factory=dict)
    at: str = "plain"

    def verdict_of(self, way: str, policy: str) -> Verdict:
        return self.unless.get(way) or self.unless.get(policy) or self.verdict


PROVIDERS = {
    "plain": Provider(),
    "told": Provider(),
    "named": Provider(issuer=ISSUER),
    "strict": Provider(issuer=ISSUER, iss_required=True),
    "amazon": Provider(code_parameter="spapi_oauth_code"),
    "bank": Provider(issuer=ISSUER, client_id=CLIENT, response_mode="query.jwt"),
    "hybrid": Provider(response_type="code id_token"),
    "renamed": Provider(state_parameter="oauth_state"),
    "all": Provider(),
    "jarm-all": Provider(issuer=ISSUER, client_id=CLIENT, response_mode="query.jwt"),
}
"""Connections. `told`: Dynamics is told of errors and of one parameter of the provider too. `all`:
it gets all parameters."""

TOLD = json.dumps(
    {
        "code": "{code}",
        "state": "{state}",
        "error": "{error}",
        "error_description": "{error_description}",
        "error_uri": "{error_uri}",
        "session_state": "{session_state}",
        "realmId": "{param:realmId}",
    }
)

BODIES = {
    "told": TOLD,
    "hybrid": '{"code": "{code}", "state": "{state}", "id_token": "{param:id_token}"}',
    **dict.fromkeys(
        ("all", "jarm-all"), '{"code": "{code}", "state": "{state}", "all": "{params}"}'
    ),
}
NOTHING_SENT = {
    "error": "server_error",
    "error_description": "The response has neither a code nor an error.",
}
"""A response that has a state and nothing else, as an error response."""
UNREGISTERED = {"user_cancelled_authorize", "<img src=x onerror=alert(1)>"}
"""Errors that anybody could have written: they are shown where the state is signed."""

SUCCESS = [
    Row("example", "code={code}&state={state}", DELIVERED, "RFC 6749 §4.1.2"),
    Row("other-order", "state={state}&code={code}", DELIVERED, "order means nothing"),
    Row(
        "unrecognized-parameters",
        "code={code}&state={state}&scope=openid%20email&authuser=0&prompt=consent",
        DELIVERED,
        "RFC 6749 §4.1.2: the client MUST ignore them; Google sends these",
    ),
    Row("unrecognized-twice", "x=1&code={code}&x=2&state={state}", DELIVERED, "ignored, as above"),
    Row("unrecognized-empty", "code={code}&x=&y&state={state}", DELIVERED, "ignored, as above"),
    Row(
        "session-state",
        "code={code}&state={state}&session_state=8b1f",
        DELIVERED,
        "OpenID Connect Session Management §2; Entra and Keycloak send it",
        values={"session_state": "8b1f"},
        at="told",
    ),
    Row(
        "further-parameter-that-is-wanted",
        "code={code}&state={state}&realmId=9130347&x=1",
        DELIVERED,
        "Intuit sends the company beside the code",
        values={"realmId": "9130347"},
        at="told",
    ),
    Row("leading-ampersand", "&code={code}&state={state}", DELIVERED, "URL Standard §5.1"),
    Row("trailing-ampersand", "code={code}&state={state}&", DELIVERED, "URL Standard §5.1"),
    Row("double-ampersand", "code={code}&&state={state}", DELIVERED, "URL Standard §5.1"),
    Row("one-character", "code=x&state={state}", DELIVERED, "A.11: 1*VSCHAR", {"code": "x"}),
    Row("a-space", "code=%20&state={state}", DELIVERED, "A.11: a space is VSCHAR", {"code": " "}),
    Row(
        "every-character-of-the-grammar",
        f"code={ALL_OF_VSCHAR}&state={{state}}",
        DELIVERED,
        "RFC 6749 A.11",
        {"code": VSCHAR},
    ),
    Row(
        "slash",
        "code=4%2F0AX4XfWh-Zq&state={state}",
        DELIVERED,
        "Google's codes have one",
        {"code": "4/0AX4XfWh-Zq"},
    ),
    Row("plus", "code=a+b&state={state}", DELIVERED, "B: plus is a space", {"code": "a b"}),
    Row("percent-20", "code=a%20b&state={state}", DELIVERED, "RFC 6749 B", {"code": "a b"}),
    Row("percent-2B", "code=a%2Bb&state={state}", DELIVERED, "RFC 6749 B", {"code": "a+b"}),
    Row("lower-case-hex", "code=a%2fb&state={state}", DELIVERED, "RFC 3986 §2.1", {"code": "a/b"}),
    Row(
        "encoded-twice",
        "code=a%252Fb&state={state}",
        DELIVERED,
        "decoded once and not until nothing changes",
        {"code": "a%2Fb"},
    ),
    Row(
        "encoded-separators",
        "code=a%26state%3Devil&state={state}",
        DELIVERED,
        "parameter smuggling: a separator that is encoded separates nothing",
        {"code": "a&state=evil"},
    ),
    Row(
        "semicolon",
        "code=a;state=evil&state={state}",
        DELIVERED,
        "CVE-2021-23336: only & separates",
        {"code": "a;state=evil"},
    ),
    Row(
        "equals-signs",
        "code=YWI==&state={state}",
        DELIVERED,
        "the first = counts",
        {"code": "YWI=="},
    ),
    Row(
        "lone-percent", "code=100%&state={state}", DELIVERED, "URL Standard §1.3", {"code": "100%"}
    ),
    Row("no-hex-digits", "code=%zz&state={state}", DELIVERED, "URL Standard §1.3", {"code": "%zz"}),
    Row(
        "comma",
        "code=a,b&state={state}",
        DELIVERED,
        "the Functions host joins duplicates so; this is none",
        {"code": "a,b"},
    ),
    Row(
        "encoded-name",
        "c%6Fde={code}&st%61te={state}",
        DELIVERED,
        "RFC 6749 B: names are encoded like values",
    ),
    Row(
        "markup",
        "code=%3Cscript%3Ealert(1)%3C/script%3E&state={state}",
        DELIVERED,
        "A.11: the grammar is no defence, so nothing shows a code",
        {"code": "<script>alert(1)</script>"},
    ),
    Row(
        "json-in-the-code",
        "code=x%22,%22state%22:%22evil&state={state}",
        DELIVERED,
        "injection into the body for Dynamics: a value stays one",
        {"code": 'x","state":"evil'},
    ),
    Row(
        "placeholder-in-the-code",
        "code=%7Berror_description%7D&state={state}",
        DELIVERED,
        "injection into the template: a value is not filled in again",
        {"code": "{error_description}"},
    ),
    Row(
        "jwt-as-code",
        "code={jwt}&state={state}",
        DELIVERED,
        "a code is opaque, also when it looks like a JWT",
        {"code": "{jwt}"},
    ),
    Row(
        "provider-names-it-otherwise",
        "spapi_oauth_code={code}&state={state}&selling_partner_id=A1",
        DELIVERED,
        "Amazon Selling Partner API",
        at="amazon",
    ),
    Row(
        "provider-names-it-otherwise-and-code-is-another",
        "spapi_oauth_code={code}&code=other&state={state}",
        DELIVERED,
        "`code` is then an unrecognized parameter",
        at="amazon",
    ),
    Row(
        "provider-names-the-state-otherwise",
        "code={code}&oauth_state={state}&state=x&state=y",
        DELIVERED,
        "contract §2: PROVIDER_STATE_PARAMETER; `state` is then unrecognized",
        at="renamed",
    ),
    Row(
        "all-parameters-in-their-order",
        "shop=a%2Fb&code={code}&hmac=1&x=%22%C3%A9%5C&shop=&hmac=2&state={state}",
        DELIVERED,
        "Shopify's HMAC covers them all",
        {
            "all": '[["shop","a/b"],["code","{code}"],["hmac","1"],["x","\\"é\\\\"],["shop",""],'
            '["hmac","2"],["state","{state}"]]'
        },
        at="all",
    ),
    Row(
        "all-claims-of-a-jwt",
        "response={jwt}&x=1",
        DELIVERED,
        "JARM: the claims are the parameters",
        {
            "all": f'[["iss","{ISSUER}"],["aud","{CLIENT}"],["exp",""],'
            '["code","{code}"],["state","{state}"]]'
        },
        at="jarm-all",
    ),
    Row(
        "all-parameters-and-one-is-not-utf-8",
        "code={code}&state={state}&x=%FF",
        ENCODING,
        "what is passed on is asked for",
        at="all",
    ),
    Row(
        "all-parameters-and-one-is-too-long",
        "code={code}&state={state}&x={5-KiB}",
        TOO_LARGE,
        "contract §3: 4 KiB",
        at="all",
    ),
]

NOTHING_THERE = [
    Row("nothing", "", BARE, "somebody looks at the URL", unless=nothing_in_it("form", "json")),
    Row(
        "only-separators",
        "&&",
        BARE,
        "mod_auth_openidc 2026 once crashed at `?&`",
        unless=nothing_in_it("form", "json"),
    ),
    Row("only-an-equals-sign", "=", STATE_MISSING, "a parameter without a name"),
    Row("unrecognized-only", "utm_source=x", STATE_MISSING, "no response"),
    *(
        Row(name, raw, DECLINED, source, NOTHING_SENT)
        for name, raw, source in [
            ("state-alone", "state={state}", "banks whose session has ended"),
            ("empty-code", "code=&state={state}", "§3.1: without a value is omitted"),
            ("code-without-equals-sign", "code&state={state}", "§3.1, as above"),
            ("code-in-upper-case", "CODE={code}&state={state}", "§1.9: case sensitive"),
            ("code-as-array", "code[]={code}&state={state}", "a PHP array is no code"),
            ("space-before-the-name", "%20code={code}&state={state}", "another name"),
        ]
    ),
    Row("forged-state-alone", "state={forged}", DECLINED, "", NOTHING_SENT, unless=FORGED),
    Row(
        "state-alone-is-told",
        "state={state}",
        DECLINED,
        "the template names {error}",
        NOTHING_SENT,
        at="told",
    ),
    Row(
        "no-state", "code={code}", STATE_MISSING, "OIDF …-response-with-invalid-missing-state-fails"
    ),
    Row("empty-state", "code={code}&state=", STATE_MISSING, "§3.1: without a value is omitted"),
    Row("state-in-upper-case", "code={code}&State={state}", STATE_MISSING, "§1.9: case sensitive"),
    Row("no-state-in-an-error", "error=access_denied", STATE_MISSING, "§4.1.2.1: REQUIRED too"),
    Row(
        "plain-code-where-it-has-another-name",
        "code={code}&state={state}",
        DECLINED,
        "Amazon Selling Partner API",
        NOTHING_SENT,
        at="amazon",
    ),
]

CHARACTERS = [
    *(
        Row(f"code-with-{name}", f"code=a{raw}b&state={{state}}", CODE_CHARACTERS, source)
        for name, raw, source in [
            ("nul", "%00", "A.11: VSCHAR is %x20-7E"),
            ("tab", "%09", "A.11"),
            ("lone-cr", "%0D", "A.11; mod_auth_openidc 2026: a lone CR in headers"),
            ("crlf", "%0D%0ALocation:%20https://evil.example", "A.11; response splitting"),
            ("del", "%7F", "A.11: %x7F is beyond"),
            ("c1-control", "%C2%85", "A.11"),
            ("no-break-space", "%C2%A0", "A.11"),
            ("letter-beyond-ascii", "%C3%A9", "A.11"),
            ("line-separator", "%E2%80%A8", "A.11; U+2028 ends a line in JavaScript"),
            ("byte-order-mark", "%EF%BB%BF", "A.11"),
            ("four-bytes-of-utf-8", "%F0%9F%94%91", "A.11"),
        ]
    ),
    Row("code-with-line-break-at-its-end", "code=a%0A&state={state}", CODE_CHARACTERS, "A.11"),
    Row(
        "raw-letter-beyond-ascii",
        "code=aé&state={state}",
        CODE_CHARACTERS,
        "A.11, and not encoded as RFC 3986 has it",
    ),
    Row(
        "state-with-line-break-at-its-end",
        "code={code}&state={state}%0A",
        invalid("state_characters"),
        "A.5; `$` of a regular expression would let it pass",
        unless=unsigned("malformed"),
    ),
    Row(
        "state-with-letter-beyond-ascii",
        "code={code}&state={state}%C3%A9",
        invalid("state_characters"),
        "RFC 6749 A.5",
        unless=unsigned("malformed"),
    ),
    Row(
        "state-with-space-at-its-end",
        "code={code}&state={state}+",
        DELIVERED,
        "A.5: VSCHAR, but it is another state",
        {"state": "{state} "},
        unless=unsigned("malformed"),
    ),
    *(
        Row(
            f"error-with-{name}",
            f"error=access{raw}denied&state={{state}}",
            ERROR_CHARACTERS,
            "A.7",
        )
        for name, raw in [
            ("quote", "%22"),
            ("backslash", "%5C"),
            ("line-break", "%0A"),
            ("letter-beyond-ascii", "%C3%A9"),
        ]
    ),
    *(
        Row(f"not-utf-8-{name}", raw, ENCODING, "RFC 6749 B: UTF-8; strict, nothing is replaced")
        for name, raw in [
            ("never-a-byte", "code=%FF&state={state}"),
            ("cut-short", "code=a%C3&state={state}"),
            ("half-a-surrogate-pair", "code=%ED%A0%80&state={state}"),
            ("overlong", "code=%C0%AF&state={state}"),
            ("in-the-state", "code={code}&state={state}%FE"),
            ("in-a-name", "code={code}&state={state}&%FF=x"),
        ]
    ),
    Row(
        "not-utf-8-in-a-wanted-parameter",
        "code={code}&state={state}&realmId=%FF",
        ENCODING,
        "RFC 6749 B: Dynamics would get what the provider did not send",
        at="told",
    ),
    Row(
        "not-utf-8-in-an-unrecognized-one",
        "code={code}&state={state}&x=Z%FCrich&y=%C0%AF",
        DELIVERED,
        "some providers send the name of the person in Latin-1",
    ),
    Row(
        "not-utf-8-in-a-description",
        "error=access_denied&error_description=Z%FCrich&state={state}",
        DECLINED,
        "contract §3: never a reason to refuse",
        {"error_description": "Z\ufffdrich"},
    ),
]

TWICE = [
    Row("code-twice", "code={code}&code=evil&state={state}", DUPLICATE, "§3.1: not more than once"),
    Row("same-code-twice", "code={code}&state={state}&code={code}", DUPLICATE, "§3.1"),
    Row("state-twice", "code={code}&state={state}&state=evil", DUPLICATE, "oauth4webapi callback"),
    Row("state-behind-a-forged-one", "state={forged}&code={code}&state={state}", DUPLICATE, "§3.1"),
    Row("empty-one-first", "code=&code={code}&state={state}", DELIVERED, "§3.1: omitted"),
    Row("empty-state-behind", "state={state}&code={code}&state=", DELIVERED, "Strava sends this"),
    Row(
        "empty-ones-of-all-names",
        "code={code}&state={state}&code&state&error=&error&iss=&iss&id_token=",
        DELIVERED,
        "§3.1: omitted",
    ),
    Row(
        "empty-one-between-two",
        "code={code}&code=&state={state}&code=evil",
        DUPLICATE,
        "§3.1: two have a value",
    ),
    Row("encoded-spelling", "code={code}&c%6fde=evil&state={state}", DUPLICATE, "§3.1, B"),
    Row("error-twice", "error=a&error=b&state={state}", DUPLICATE, "§3.1"),
    Row(
        "description-twice",
        "error=a&error_description=b&error_description=c&state={state}",
        DUPLICATE,
        "§3.1; that it is no reason to refuse is about what stands in it",
    ),
    Row("iss-twice", "code={code}&state={state}&iss=a&iss=b", DUPLICATE, "oauth4webapi callback"),
    Row(
        "session-state-twice",
        "code={code}&state={state}&session_state=a&session_state=b",
        DUPLICATE,
        "§3.1",
    ),
    Row("token-twice", "access_token=a&access_token=b&state={state}", DUPLICATE, "§3.1"),
    Row(
        "wanted-parameter-twice",
        "code={code}&state={state}&realmId=1&realmId=2",
        DUPLICATE,
        "§3.1: nobody could say which company was meant",
        at="told",
    ),
    Row(
        "code-by-another-name-twice",
        "spapi_oauth_code={code}&spapi_oauth_code=evil&state={state}",
        DUPLICATE,
        "§3.1",
        at="amazon",
    ),
]

ERRORS = [
    *(
        Row(name, f"error={name}&state={{state}}", DECLINED, source, {"error": name})
        for name, source in [
            ("access_denied", "RFC 6749 §4.1.2.1"),
            ("invalid_request", "RFC 6749 §4.1.2.1"),
            ("unauthorized_client", "RFC 6749 §4.1.2.1"),
            ("unsupported_response_type", "RFC 6749 §4.1.2.1"),
            ("invalid_scope", "RFC 6749 §4.1.2.1"),
            ("server_error", "RFC 6749 §4.1.2.1"),
            ("temporarily_unavailable", "RFC 6749 §4.1.2.1"),
            ("interaction_required", "OpenID Connect Core §3.1.2.6"),
            ("consent_required", "OpenID Connect Core §3.1.2.6"),
            ("invalid_target", "RFC 8707 §2"),
            ("user_cancelled_authorize", "LinkedIn's own"),
        ]
    ),
    Row(
        "description-with-line-breaks",
        "error=access_denied&error_description=AADSTS65004%3a+no.%0d%0aTrace+ID%3a+1&state={state}",
        DECLINED,
        "Entra sends CR LF",
        {"error_description": "AADSTS65004: no.  Trace ID: 1"},
    ),
    Row(
        "description-beyond-its-grammar",
        "error=access_denied&error_description=%22%C3%A9%22+%3Cb%3E%5C%00&state={state}",
        DECLINED,
        "A.8 does not allow it, and it is tidied up and not refused",
        {"error_description": '"é" <b>\\'},
    ),
    Row(
        "long-description",
        "error=access_denied&error_description={5-KiB}&state={state}",
        DECLINED,
        "never a reason to refuse",
        {"error_description": "v" * 1000},
    ),
    Row(
        "empty-description",
        "error=access_denied&error_description=&state={state}",
        DECLINED,
        "§3.1",
    ),
    Row(
        "nothing-legible",
        "error=access_denied&error_description=%0A&state={state}",
        DECLINED,
        "A.8",
    ),
    Row(
        "markup-in-the-error",
        "error=%3Cimg+src=x+onerror=alert(1)%3E&state={state}",
        DECLINED,
        "A.7 allows < and >: the page escapes it (fastmcp PR 2090)",
        {"error": "<img src=x onerror=alert(1)>"},
    ),
    Row("error-code-and-empty-code", "error=access_denied&code=&state={state}", DECLINED, "§3.1"),
    Row("empty-error-and-a-code", "error=&code={code}&state={state}", DELIVERED, "§3.1"),
    Row(
        "error-and-code",
        "error=access_denied&code={code}&state={state}",
        invalid("code_and_error"),
        "§4.1.2.1",
    ),
    Row(
        "description-alone",
        "error_description=no&state={state}",
        DECLINED,
        "§4.1.2.1: error REQUIRED",
        NOTHING_SENT,
    ),
    Row(
        "description-beside-a-code",
        "code={code}&error_description=x&error_uri=y&state={state}",
        DELIVERED,
        "without an error there is none",
    ),
    Row(
        "forged-state-in-an-error",
        "error=access_denied&state={forged}",
        DECLINED,
        "order: state before error; Authlib 1.9 and oauth2-proxy do it the other way",
        unless=FORGED,
    ),
    Row(
        "told-of-an-error",
        "error=access_denied&error_description=no%0Away&error_uri=https://as.example/e%231"
        "&state={state}",
        DECLINED,
        "contract §4: the template names {error}",
        {"error_description": "no way", "error_uri": "https://as.example/e#1"},
        at="told",
    ),
    *(
        Row(
            f"error-uri-{name}",
            f"error=access_denied&error_uri={uri}&state={{state}}",
            DECLINED,
            "A.9, and only absolute https; any other is dropped",
            at="told",
        )
        for name, uri in [
            ("javascript", "javascript:alert(1)"),
            ("http", "http://as.example/e"),
            ("relative", "/e"),
            ("with-line-break", "https://as.example/%0D%0AX:%20y"),
        ]
    ),
    Row(
        "forged-error-is-not-told",
        "error=access_denied&state={forged}",
        DECLINED,
        "order: state before error",
        {"state": "{forged}"},
        unless=FORGED,
        at="told",
    ),
]

ISSUERS = [
    Row(
        "iss",
        "code={code}&state={state}&iss=https%3A%2F%2Fhonest.as.example",
        DELIVERED,
        "RFC 9207 §2.1: the example",
        at="strict",
    ),
    Row(
        "iss-in-an-error",
        "error=access_denied&state={state}&iss=https%3A%2F%2Fhonest.as.example",
        DECLINED,
        "RFC 9207 §2.2: the example of an error",
        at="strict",
    ),
    Row(
        "iss-not-encoded",
        f"iss={ISSUER}&code={{code}}&state={{state}}",
        DELIVERED,
        "RFC 3986 §3.4",
        at="named",
    ),
    *(
        Row(
            f"iss-{name}",
            f"code={{code}}&state={{state}}&iss={iss}",
            ISS_MISMATCH,
            source,
            at="named",
        )
        for name, iss, source in [
            ("of-the-attacker", "https%3A%2F%2Fattacker.example", "RFC 9207 §2.4: mix-up"),
            ("with-a-slash", f"{ISSUER}/", "RFC 9207 §2.4: simple string comparison"),
            ("in-other-case", "https://HONEST.as.example", "RFC 9207 §2.4, RFC 3986 §6.2.1"),
            ("with-a-port", f"{ISSUER}:443", "RFC 9207 §2.4"),
            ("with-http", "http://honest.as.example", "RFC 9207 §2: https"),
            ("encoded-twice", "https%253A%252F%252Fhonest.as.example", "RFC 9207 §2.4: decode"),
            ("with-a-line-break", f"{ISSUER}%0A", "RFC 9207 §2.4"),
            ("with-the-same-beginning", f"{ISSUER}.attacker.example", "RFC 9207 §2.4"),
        ]
    ),
    Row(
        "another-iss-in-an-error",
        "error=access_denied&state={state}&iss=https://attacker.example",
        ISS_MISMATCH,
        "RFC 9207 §2.4: errors included",
        at="named",
    ),
    Row(
        "no-iss-and-not-required",
        "code={code}&state={state}",
        DELIVERED,
        "RFC 9207 §2.4",
        at="named",
    ),
    Row(
        "no-iss",
        "code={code}&state={state}",
        invalid("iss_missing"),
        "OIDF remove-authorization-response-iss",
        at="strict",
    ),
    Row(
        "empty-iss",
        "code={code}&state={state}&iss=",
        invalid("iss_missing"),
        "mod_auth_openidc 2026: an empty iss was read out of bounds",
        at="strict",
    ),
    Row(
        "no-iss-in-an-error",
        "error=access_denied&state={state}",
        invalid("iss_missing"),
        "RFC 9207 §2.4",
        at="strict",
    ),
    Row(
        "iss-of-a-provider-not-known",
        "code={code}&state={state}&iss=x",
        DELIVERED,
        "unrecognized there",
    ),
    Row(
        "forged-state-and-another-iss",
        "code={code}&state={forged}&iss=https://attacker.example",
        ISS_MISMATCH,
        "order: state before iss",
        unless=FORGED,
        at="named",
    ),
    Row(
        "another-iss-and-a-token",
        "access_token=x&state={state}&iss=https://attacker.example",
        ISS_MISMATCH,
        "order: iss before the tokens",
        at="named",
    ),
]

TOKENS = [
    Row("hybrid", "code={code}&id_token=e30.e30.&state={state}", IMPLICIT, "oauth4webapi callback"),
    Row(
        "code-and-access-token",
        "code={code}&access_token=x&state={state}",
        IMPLICIT,
        "RFC 9700 §2.1.2",
    ),
    Row("code-and-token", "code={code}&token=x&state={state}", IMPLICIT, "oauth4webapi callback"),
    Row(
        "error-and-token",
        "error=access_denied&token=x&state={state}",
        IMPLICIT,
        "§4.2.2.1 has none",
    ),
    Row("token-only", "access_token=x&state={state}", IMPLICIT, "RFC 6749 §4.2.2"),
    Row(
        "hybrid-where-it-is-expected",
        "code={code}&id_token=e30.e30.&state={state}",
        DELIVERED,
        "FAPI 1: banks that offer nothing but code id_token",
        {"id_token": "e30.e30."},
        at="hybrid",
    ),
    Row(
        "code-alone-where-an-id-token-is-expected",
        "code={code}&state={state}",
        DELIVERED,
        "Dynamics sees that none is there",
        at="hybrid",
    ),
    Row(
        "access-token-where-an-id-token-is-expected",
        "code={code}&id_token=e30.e30.&access_token=x&state={state}",
        IMPLICIT,
        "RFC 9700 §2.1.2",
        at="hybrid",
    ),
    Row(
        "id-token-twice",
        "code={code}&id_token=e30.e30.&id_token=x&state={state}",
        DUPLICATE,
        "§3.1",
        at="hybrid",
    ),
    Row("empty-token", "code={code}&access_token=&state={state}", DELIVERED, "§3.1: omitted"),
    Row(
        "token-type-only", "code={code}&token_type=bearer&state={state}", DELIVERED, "unrecognized"
    ),
    Row(
        "forged-state-and-a-token",
        "code={code}&access_token=x&state={forged}",
        IMPLICIT,
        "order: state before tokens",
        unless=FORGED,
    ),
    Row(
        "token-and-bad-code",
        "code=%C3%A9&token=x&state={state}",
        IMPLICIT,
        "order: tokens before characters",
    ),
]

SIZES = [
    Row(
        "longest-code",
        "code={8-KiB}&state={state}",
        DELIVERED,
        "RFC 6749 §4.1.2: the size of a code is undefined; contract §3: 8 KiB",
        {"code": "{8-KiB}"},
        unless=BY_QUERY_TOO_LARGE,
    ),
    Row("code-one-longer", "code={8-KiB}v&state={state}", TOO_LARGE, "contract §3"),
    Row(
        "longest-state",
        "code={code}&state={4-KiB}",
        DELIVERED,
        "contract §3: 4 KiB; FAPI: a state may have more than 1000 characters",
        {"state": "{4-KiB}"},
        unless=unsigned("size"),
    ),
    Row("state-one-longer", "code={code}&state={4-KiB}v", TOO_LARGE, "contract §3"),
    Row("error-one-longer", "error={4-KiB}v&state={state}", TOO_LARGE, "contract §3"),
    Row("iss-one-longer", "code={code}&state={state}&iss={4-KiB}v", TOO_LARGE, "contract §3"),
    Row("50-parameters", "code={code}&state={state}{48-more}", DELIVERED, "contract §3"),
    Row("51-parameters", "code={code}&state={state}{49-more}", TOO_LARGE, "contract §3"),
    Row(
        "50-parameters-and-more-separators",
        "code={code}&state={state}{48-more}&&&",
        TOO_LARGE,
        "contract §3: 50 fields are split, and no more",
        unless={"json": DELIVERED},
    ),
    Row("more-than-a-body", "code={code}&state={state}&x={33-KiB}", TOO_LARGE, "contract §3"),
    Row(
        "more-than-a-query",
        "code={code}&state={state}&x={8-KiB}",
        DELIVERED,
        "contract §3: nobody keeps x",
        unless=BY_QUERY_TOO_LARGE,
    ),
    Row(
        "forged-and-too-large",
        "code={8-KiB}v&state={forged}",
        TOO_LARGE,
        "order: sizes before state",
    ),
]

STATE = [
    Row(
        "forged-state",
        "code={code}&state={forged}",
        DELIVERED,
        "OIDF …-response-with-invalid-state-fails; RFC 6749 §10.12",
        {"state": "{forged}"},
        unless=FORGED,
    ),
    Row(
        "state-cut-short",
        "code={code}&state=CB-0",
        DELIVERED,
        "another state",
        {"state": "CB-0"},
        unless=unsigned("malformed"),
    ),
    Row(
        "state-with-a-tail",
        "code={code}&state={state}.x",
        DELIVERED,
        "another state",
        {"state": "{state}.x"},
        unless=unsigned("malformed"),
    ),
    Row(
        "state-with-a-head",
        "code={code}&state=x{state}",
        DELIVERED,
        "the pattern is to match in full",
        {"state": "x{state}"},
        unless=unsigned("malformed"),
    ),
    Row(
        "state-padded",
        "code={code}&state={state}%3D",
        DELIVERED,
        "RFC 7515 §2: no padding; one state has one spelling",
        {"state": "{state}="},
        unless=unsigned("malformed"),
    ),
    *(
        Row(
            f"state-{name}",
            f"code={{code}}&state={{{name}}}",
            DELIVERED,
            source,
            {"state": f"{{{name}}}"},
            unless=unsigned(fault),
        )
        for name, fault, source in [
            ("expired", "expired", "RFC 7519 §4.1.4"),
            ("not-yet", "early", "RFC 7519 §4.1.5"),
            ("for-ever", "lifetime", "contract §5: an hour at most"),
            ("neighbours", "audience", "RFC 9700 §4.4: mix-up between connections"),
            ("ticket", "audience", "CVE-2023-48309: a token for something else"),
            ("shared-audience", "audience", "contract §5: one string"),
            ("weak-jti", "jti", "contract §5: 16 characters at least"),
            ("no-expiry", "times", "contract §5"),
            ("boolean-expiry", "times", "contract §5: an integer"),
            ("alg-none", "algorithm", "CVE-2026-28802 and its siblings"),
            ("alg-hs512", "algorithm", "RFC 8725 §3.1"),
            ("unknown-kid", "key", "contract §5"),
            ("no-kid", "key", "contract §5: kid is required"),
            ("critical", "critical", "RFC 7515 §4.1.11"),
            ("access-token", "type", "RFC 8725 §3.11: a JWT of another type"),
            ("no-signature", "signature", "RFC 7515 §5.2"),
            ("bound", "cookie_missing", "RFC 9700 §2.1: from another browser"),
            ("1-KiB-state", "size", "contract §5: 1024 characters"),
        ]
    ),
]

SECURED = [
    Row("jwt", "response={jwt}", DELIVERED, "JARM §2.1, §2.3.1", at="bank"),
    Row(
        "jwt-error",
        "response={jwt-error}",
        DECLINED,
        "JARM §2.1: the error response",
        {"error_description": "No.  Trace 1"},
        at="bank",
    ),
    Row("jwt-for-two", "response={jwt-for-two}", DELIVERED, "RFC 7519 §4.1.3", at="bank"),
    Row(
        "jwt-with-more",
        "response={jwt-with-more}",
        DELIVERED,
        "JARM §2.1: further claims",
        at="bank",
    ),
    Row("jwt-typed", "response={jwt-typed}", DELIVERED, "RFC 8725 §3.11", at="bank"),
    Row(
        "jwt-without-kid",
        "response={jwt-without-kid}",
        DELIVERED,
        "one key fits: RFC 7515 §4.1.4",
        at="bank",
    ),
    Row("jwt-beside-unrecognized", "x=1&response={jwt}&iss=x", DELIVERED, "ignored", at="bank"),
    *(
        Row(
            f"jwt-beside-{name}",
            f"response={{jwt}}&{name}=x",
            invalid("jarm_beside"),
            "contract §5: which one counts?",
            at="bank",
        )
        for name in ("code", "state", "error")
    ),
    Row("jwt-twice", "response={jwt}&response={jwt}", DUPLICATE, "RFC 6749 §3.1", at="bank"),
    Row(
        "plain-where-a-jwt-is-wanted",
        "code={code}&state={state}",
        invalid("jarm_missing"),
        "downgrade",
        at="bank",
    ),
    Row(
        "plain-error-where-a-jwt-is-wanted",
        "error=access_denied&state={state}",
        invalid("jarm_missing"),
        "downgrade",
        at="bank",
    ),
    Row(
        "empty-response",
        "response=&x=y",
        invalid("jarm_missing"),
        "oauth4webapi jarm.test",
        at="bank",
    ),
    Row(
        "jwt-where-none-is-wanted",
        "response={jwt}",
        invalid("jarm_unexpected"),
        "oauth4webapi callback",
    ),
    Row(
        "response-beside-a-code",
        "response=x&code={code}&state={state}",
        DELIVERED,
        "unrecognized there",
    ),
    Row("no-jwt", "response=foo", invalid("jarm_malformed"), "oauth4webapi jarm.test", at="bank"),
    Row(
        "jwe", "response=e30.e30.e30.e30.e30", invalid("jarm_encrypted"), "RFC 7516 §3.1", at="bank"
    ),
    *(
        Row(name, f"response={{{name}}}", invalid(reason), source, at="bank")
        for name, reason, source in [
            ("jwt-no-state", "state_missing", "JARM §2.1 is a response of RFC 6749"),
            ("jwt-hybrid", "implicit", "RFC 9700 §2.1.2"),
            ("jwt-code-and-error", "code_and_error", "RFC 6749 §4.1.2.1"),
            ("jwt-code-is-a-number", "json", "JARM §2.1: parameters are texts"),
            ("jwt-code-with-line-break", "code_characters", "RFC 6749 A.11"),
            ("jwt-code-twice", "jarm_malformed", "RFC 7519 §4: names are unique"),
            ("jwt-expired", "jarm_expired", "OIDF ensure-jarm-with-expired-exp-fails"),
            ("jwt-no-expiry", "jarm_times", "OIDF ensure-jarm-without-exp-fails"),
            ("jwt-for-an-hour", "jarm_lifetime", "JARM §2.1: 10 minutes"),
            ("jwt-not-yet", "jarm_early", "RFC 7519 §4.1.5"),
            ("jwt-another-audience", "jarm_audience", "OIDF ensure-jarm-with-invalid-aud-fails"),
            ("jwt-no-audience", "jarm_audience", "OIDF ensure-jarm-without-aud-fails"),
            ("jwt-another-issuer", "jarm_issuer", "OIDF ensure-jarm-with-invalid-iss-fails"),
            ("jwt-no-issuer", "jarm_issuer", "OIDF ensure-jarm-without-iss-fails"),
            ("jwt-another-signer", "jarm_signature", "OIDF ensure-jarm-with-invalid-sig-fails"),
            ("jwt-no-signature", "jarm_signature", "RFC 7515 §5.2"),
            ("jwt-alg-none", "jarm_algorithm", "OIDF ensure-jarm-signature-is-not-none"),
            ("jwt-hs256", "jarm_algorithm", "CVE-2022-29217: a public key as a secret"),
            ("jwt-unknown-kid", "jarm_key", "JARM §2.4"),
            ("jwt-critical", "jarm_critical", "RFC 7515 §4.1.11"),
            ("jwt-access-token", "jarm_type", "RFC 8725 §3.11: a JWT of another type"),
        ]
    ),
    Row(
        "jwt-forged-state",
        "response={jwt-forged-state}",
        DELIVERED,
        "the provider's signature proves nothing of the state",
        {"state": "{forged}"},
        unless=FORGED,
        at="bank",
    ),
    Row(
        "jwt-no-code",
        "response={jwt-no-code}",
        DECLINED,
        "RFC 6749 §4.1.2",
        NOTHING_SENT,
        at="bank",
    ),
    Row(
        "jwt-forged-state-error",
        "response={jwt-forged-state-error}",
        DECLINED,
        "order: state before error",
        unless=FORGED,
        at="bank",
    ),
]

ROWS = [
    *SUCCESS,
    *NOTHING_THERE,
    *CHARACTERS,
    *TWICE,
    *ERRORS,
    *ISSUERS,
    *TOKENS,
    *SIZES,
    *STATE,
    *SECURED,
]

NO_JSON = invalid("json")
AS_JSON = [
    Row("members", '{"code": "{code}", "state": "{state}"}', DELIVERED, "the article's function"),
    Row(
        "not-percent-decoded",
        '{"code": "a%2Bb+c", "state": "{state}"}',
        DELIVERED,
        "RFC 8259 knows no such encoding",
        {"code": "a%2Bb+c"},
    ),
    Row("escapes", r'{"\u0063ode": "\u0078", "state": "{state}"}', DELIVERED, "§7", {"code": "x"}),
    Row("null", '{"code": null, "state": "{state}"}', DECLINED, "null is none", NOTHING_SENT),
    Row("number", '{"code": 1234, "state": "{state}"}', NO_JSON, "a code is a text"),
    Row("list", '{"code": "{code}", "state": ["{state}"]}', NO_JSON, "parameter pollution"),
    Row("no-text-in-an-error", '{"error": true, "state": "{state}"}', NO_JSON, "A.7"),
    Row(
        "other-members",
        '{"expires_in": 1, "x": {"code": "a", "code": "b"}, "code": "{code}", "state": "{state}"}',
        DELIVERED,
        "unrecognized, whatever they are",
    ),
    Row(
        "escaped-spelling",
        r'{"code": "{code}", "c\u006fde": "evil", "state": "{state}"}',
        DUPLICATE,
        "RFC 6749 §3.1, RFC 8259 §8.3",
    ),
    Row("two-halves", r'{"code": "\ud83d\udd11", "state": "{state}"}', CODE_CHARACTERS, "A.11"),
    Row("one-half", r'{"code": "\ud83d", "state": "{state}"}', ENCODING, "RFC 8259 §8.2"),
    Row("array", '[["code", "{code}"], ["state", "{state}"]]', NO_JSON, "no object"),
    Row("text", '"code={code}&state={state}"', NO_JSON, "no object"),
    Row("form-under-a-wrong-name", "code={code}&state={state}", NO_JSON, "no JSON"),
    Row("cut-short", '{"code": "{code}", "state": "{state}"', NO_JSON, "RFC 8259 §2"),
    Row("nan", '{"code": "{code}", "state": "{state}", "x": NaN}', NO_JSON, "RFC 8259 §6"),
    Row(
        "byte-order-mark", '\ufeff{"code": "{code}", "state": "{state}"}', NO_JSON, "RFC 8259 §8.1"
    ),
    Row("deep", "[" * 16_000 + "]" * 16_000, NO_JSON, "RFC 8259 §9: no crash"),
    Row("empty-object", "{}", STATE_MISSING, "contract §3: only a GET is somebody who looks"),
]
"""Bodies that are JSON, as raw texts."""


# -- the ways a response comes -------------------------------------------------------------------


def members(raw: str) -> bytes:
    """Return the parameters of a raw text as the members of a JSON object, byte for byte."""
    pairs = [part.partition("=") for part in raw.split("&") if part]
    written = ", ".join(f"{quoted(name)}: {quoted(value)}" for name, _, value in pairs)
    return f"{{{written}}}".encode("utf-8", "surrogateescape")


def quoted(encoded: str) -> str:
    raw = unquote_to_bytes(encoded.replace("+", " "))
    return json.dumps(raw.decode("utf-8", "surrogateescape"), ensure_ascii=False)


def as_json(text: str | bytes) -> Request:
    return post(text, JSON)


type Way = Callable[[str], Request]
WAYS: dict[str, Way] = {"get": get, "form": post, "json": lambda raw: as_json(members(raw))}
POLICIES = tuple(str(policy) for policy in StatePolicy)


@functools.cache
def table_connection(at: str, policy: str) -> Connection:
    where = connection(name="table", provider=PROVIDERS[at], pattern=PATTERN)
    if at in BODIES:
        where = connection(name="table", provider=PROVIDERS[at], body=BODIES[at], pattern=PATTERN)
    return dataclasses.replace(
        where, state_policy=StatePolicy(policy), state_keys={"k1": KEY, "k0": bytes(32)}
    )


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
async def test_a_response_ends_as_the_table_says_by_every_way_and_policy(
    row: Row, caplog: pytest.LogCaptureFixture
) -> None:
    for way, policy in itertools.product(WAYS, POLICIES):
        await hold_against(row, WAYS[way], row.verdict_of(way, policy), policy, caplog)


@pytest.mark.parametrize("row", AS_JSON, ids=lambda row: row.id)
async def test_a_body_of_json_ends_as_the_table_says_under_every_policy(
    row: Row, caplog: pytest.LogCaptureFixture
) -> None:
    for policy in POLICIES:
        await hold_against(row, as_json, row.verdict, policy, caplog)


async def hold_against(
    row: Row, way: Way, verdict: Verdict, policy: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "relay")
    caplog.clear()
    entra, dynamics, keys = Entra(), Dynamics(), Keys((published(SIGNER, "p1"),))
    relay = Relay(
        Connections({"table": table_connection(row.at, policy)}),
        entra,
        dynamics,
        keys,
        deliveries=SingleFlight(),
        sealer=Sealer([OUTBOX_KEY]),
        now=lambda: NOW,
    )
    request = way(fill(row.raw, texts_of(policy)))
    answer = await relay.receive("table", request)

    (line,) = [vars(record) for record in caplog.records if record.name == "relay"]
    usual = {"declined": {"error": "access_denied"}, "delivered": {"code": "{code}"}}
    meant = {"state": "{state}", **usual.get(verdict.outcome, {}), **row.values}
    values = {name: fill(value, texts_of(policy)) for name, value in meant.items()}
    reason = line.get("reason")
    if verdict == DECLINED:
        # The error itself where it is a word of a standard, and no text of anybody else's.
        assert reason == (values["error"] if values["error"] in error_codes.REGISTERED else "other")
        assert (answer.page == "fault") is (values["error"] not in DECIDED)
        reason = None
    found = Verdict(answer.outcome, reason, answer.status)
    assert found == verdict, (row.source, request.method, policy)
    assert (line["levelname"] == "DEBUG") == (verdict == BARE)
    delivered = verdict == DELIVERED or (verdict == DECLINED and row.at == "told")
    assert [posted.body for posted in dynamics.posted] == ([values] if delivered else [])
    assert len(entra.asked) == len(dynamics.posted)
    assert answer.held is None
    shown = {"error", "error_description"} if verdict == DECLINED else set()
    if policy != "signed":
        shown -= {"error_description"} | (
            {"error"} if values.get("error") in UNREGISTERED else set()
        )
    told = {"error": answer.error, "error_description": answer.error_description}
    assert told == {name: values.get(name) if name in shown else None for name in told}
    # Neither what is believed nor what is refused gets into the log, but for a registered error.
    secret = [value for value in values.values() if value not in error_codes.REGISTERED]
    assert not [value for value in secret if len(value) > 4 and value in caplog.text]


def test_the_table_has_its_rows_once_and_by_different_texts() -> None:
    assert len({row.id for row in ROWS}) == len(ROWS) >= 80
    assert len({(row.raw, row.at) for row in ROWS}) == len(ROWS)


def test_the_table_uses_every_text_that_it_defines() -> None:
    raw = " ".join(row.raw for row in ROWS)
    assert not [name for name in {**TEXTS, **JWTS} if f"{{{name}}}" not in raw]
