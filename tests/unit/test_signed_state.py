"""STATE_POLICY=signed: which states are believed, and that a forged one gets nowhere, by name."""

import base64
import dataclasses
import hashlib
import hmac
import json
import re
import subprocess
import sys
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.connections import Connection, Provider, StatePolicy
from relay.errors import InvalidResponse
from relay.oauth import jws, state
from tests.helpers import ROOT, connection, response

NOW = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
SECONDS = int(NOW.timestamp())
KEY, OLD_KEY, STRANGERS_KEY = bytes(range(32)), bytes(range(1, 33)), bytes(range(2, 34))
JTI = "canary-jti-0042-abcdefg"
COOKIE = "canary-cookie-0123456789-0123456789-0123456"
NAME = "__Host-relay-canary-j"
HEADER: dict[str, object] = {"alg": "HS256", "typ": "JWT", "kid": "k1"}
CLAIMS: dict[str, object] = {"aud": "callback:xero", "exp": SECONDS + 600, "jti": JTI}


def signed(name: str = "xero") -> Connection:
    return dataclasses.replace(
        connection(
            name=name, provider=Provider(redirect_uri="https://relay.example/callback/xero")
        ),
        state_policy=StatePolicy.SIGNED,
        state_keys={"k1": KEY, "k0": OLD_KEY},
    )


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def sign(header: str | bytes, claims: str | bytes, key: bytes = KEY) -> str:
    """Return a token by hand, whatever stands in it."""
    parts = [part if isinstance(part, bytes) else part.encode() for part in (header, claims)]
    text = ".".join(b64(part) for part in parts)
    return f"{text}.{b64(hmac.digest(key, text.encode(), 'sha256'))}"


def token(
    header: Mapping[str, object] | None = None,
    claims: Mapping[str, object] | None = None,
    key: bytes = KEY,
) -> str:
    """Return a right token, but for these members; `...` leaves one out."""
    return sign(written(HEADER, header), written(CLAIMS, claims), key)


def written(right: Mapping[str, object], other: Mapping[str, object] | None) -> str:
    members = {**right, **(other or {})}
    return json.dumps({name: value for name, value in members.items() if value is not ...})


def refusal(text: str, cookies: str = "", policy: Connection | None = None) -> str:
    """Return the reason of the refusal, which says nothing of the token in any of its parts."""
    with pytest.raises(InvalidResponse) as refused:
        state.verify(response(state=text), policy or signed(), cookies, NOW)
    assert refused.value.status == 400
    assert str(refused.value) == state.STATE.sentence
    shown = "".join(traceback.format_exception(refused.value))
    assert "canary" not in shown.replace("canary_", "")
    return refused.value.reason


def accepted(text: str, cookies: str = "", policy: Connection | None = None) -> bool:
    verified = state.verify(response(state=text), policy or signed(), cookies, NOW)
    assert verified.state == text
    return True


# -- what is believed ----------------------------------------------------------------------------


def test_a_state_that_pyjwt_made_is_believed() -> None:
    assert accepted(jwt.encode(CLAIMS, KEY, "HS256", {"kid": "k1"}))


def test_a_state_that_was_made_by_hand_is_believed() -> None:
    assert accepted(token())


def test_a_state_that_the_relay_mints_is_believed() -> None:
    assert accepted(state.mint(signed(), JTI, NOW, timedelta(hours=1)))


def test_what_is_minted_is_exactly_the_contracts_format() -> None:
    text = state.mint(signed(), JTI, NOW, timedelta(minutes=10), COOKIE)
    header, claims, _ = text.split(".")
    assert json.loads(base64.urlsafe_b64decode(header + "==")) == HEADER
    assert json.loads(base64.urlsafe_b64decode(claims + "==")) == {
        **CLAIMS,
        "cookie": b64(hashlib.sha256(COOKIE.encode()).digest()),
    }
    assert len(text) < 300


def test_a_right_state_is_believed_whatever_its_parts_end_with() -> None:
    for number in range(300):
        assert accepted(token({"pad": number}, {"pad": number}))


def test_each_key_verifies_and_the_first_one_mints() -> None:
    assert accepted(token({"kid": "k0"}, key=OLD_KEY))
    minted = state.mint(signed(), JTI, NOW, timedelta(minutes=1))
    assert jwt.get_unverified_header(minted)["kid"] == "k1"


def test_a_key_that_was_rotated_out_verifies_no_more() -> None:
    rotated = dataclasses.replace(signed(), state_keys={"k2": STRANGERS_KEY, "k1": KEY})
    assert refusal(token({"kid": "k0"}, key=OLD_KEY), policy=rotated) == "state_key"


@pytest.mark.parametrize("typ", ["JWT", "jwt", "Jwt", "application/jwt", ...])
def test_the_type_may_be_missing_and_its_case_does_not_matter(typ: object) -> None:
    # RFC 7519 §5.1: a media type.
    assert accepted(token({"typ": typ}))


@pytest.mark.parametrize(
    "claims",
    [
        pytest.param({"exp": SECONDS + 3660}, id="an-hour-and-the-leeway-ahead"),
        pytest.param({"exp": SECONDS - 59}, id="expired-within-the-leeway"),
        pytest.param(
            {"nbf": SECONDS + 60, "iat": SECONDS + 60}, id="a-clock-that-is-a-minute-ahead"
        ),
        pytest.param({"nbf": 0, "iat": -5}, id="long-ago"),
        pytest.param({"jti": "a" * 16}, id="shortest-jti"),
        pytest.param({"jti": "-" * 64}, id="longest-jti"),
        pytest.param({"iss": 5, "sub": None, "extra": {"a": [1.5]}}, id="anything-else"),
    ],
)
def test_the_ends_of_what_is_allowed_are_believed(claims: dict[str, object]) -> None:
    assert accepted(token(claims=claims))


def test_a_header_that_nobody_asked_for_changes_nothing() -> None:
    assert accepted(token({"jku": "https://attacker.example", "jwk": {"kty": "oct"}, "x5u": "x"}))


def test_1024_characters_are_believed_and_one_more_is_refused() -> None:
    def padded(length: int) -> str:
        pads = ((few, many) for few in range(4) for many in range(700))
        texts = (token({"pad": "p" * few}, {"pad": "p" * many}) for few, many in pads)
        return next(text for text in texts if len(text) == length)

    assert accepted(padded(1024))
    assert refusal(padded(1025)) == "state_size"


def test_other_policies_ask_for_no_signature() -> None:
    for other in (connection(), connection(pattern="^cb-1$")):
        verified = state.verify(response(state="cb-1"), other)
        assert (verified.code_verifier, verified.redirect_uri) == (None, None)


def test_the_wall_clock_counts_where_no_other_is_given() -> None:
    minted = state.mint(signed(), JTI, datetime.now(UTC), timedelta(minutes=1))
    assert state.verify(response(state=minted), signed()).state == minted
    with pytest.raises(InvalidResponse, match="expired"):
        state.verify(response(state=token()), signed())


# -- what is refused -----------------------------------------------------------------------------

HEADERS = [
    pytest.param({"alg": "none"}, "algorithm", id="alg-none"),
    pytest.param({"alg": "None"}, "algorithm", id="alg-none-in-another-case"),
    pytest.param({"alg": "hs256"}, "algorithm", id="alg-in-another-case"),
    pytest.param({"alg": "HS384"}, "algorithm", id="another-hmac"),
    pytest.param({"alg": "RS256"}, "algorithm", id="rsa"),
    pytest.param({"alg": "EdDSA"}, "algorithm", id="eddsa"),
    pytest.param({"alg": ["HS256"]}, "algorithm", id="alg-in-a-list"),
    pytest.param({"alg": None}, "algorithm", id="alg-null"),
    pytest.param({"alg": ...}, "algorithm", id="no-alg"),
    pytest.param({"kid": ...}, "key", id="no-kid"),
    pytest.param({"kid": None}, "key", id="kid-null"),
    pytest.param({"kid": ""}, "key", id="empty-kid"),
    pytest.param({"kid": "k9"}, "key", id="unknown-kid"),
    pytest.param({"kid": "K1"}, "key", id="kid-in-another-case"),
    pytest.param({"kid": 1}, "key", id="kid-a-number"),
    pytest.param({"kid": ["k1"]}, "key", id="kid-in-a-list"),
    pytest.param({"kid": {"k1": 1}}, "key", id="kid-an-object"),
    pytest.param({"kid": "../../../../dev/null"}, "key", id="kid-a-path"),
    pytest.param({"kid": "k1' OR '1'='1"}, "key", id="kid-sql"),
    pytest.param({"typ": "at+jwt"}, "type", id="an-access-token"),
    pytest.param({"typ": "JWE"}, "type", id="another-type"),
    pytest.param({"typ": ""}, "type", id="empty-type"),
    pytest.param({"typ": None}, "type", id="type-null"),
    pytest.param({"typ": 1}, "type", id="type-a-number"),
    pytest.param({"typ": "text/jwt"}, "type", id="another-media-type"),
    pytest.param({"crit": ["exp"]}, "critical", id="crit"),
    pytest.param({"crit": []}, "critical", id="empty-crit"),
    pytest.param({"crit": None}, "critical", id="crit-null"),
    pytest.param({"b64": True}, "critical", id="b64-true"),
    pytest.param({"b64": False}, "critical", id="b64-false"),
    pytest.param({"b64": False, "crit": ["b64"]}, "critical", id="b64-declared-critical"),
]


@pytest.mark.parametrize(("header", "reason"), HEADERS)
def test_a_header_that_is_not_ours_is_refused(header: dict[str, object], reason: str) -> None:
    assert refusal(token(header)) == f"state_{reason}"


CLAIM_FAULTS = [
    pytest.param({"aud": "callback:bank"}, "audience", id="another-connection"),
    pytest.param({"aud": "authorize:xero"}, "audience", id="a-ticket"),
    pytest.param({"aud": "callback:xero "}, "audience", id="a-space-behind"),
    pytest.param({"aud": "CALLBACK:xero"}, "audience", id="in-another-case"),
    pytest.param({"aud": "callback:"}, "audience", id="no-connection"),
    pytest.param({"aud": ["callback:xero"]}, "audience", id="a-list-of-one"),
    pytest.param({"aud": ["callback:xero", "callback:bank"]}, "audience", id="a-list-of-two"),
    pytest.param({"aud": {"callback:xero": 1}}, "audience", id="aud-an-object"),
    pytest.param({"aud": None}, "audience", id="aud-null"),
    pytest.param({"aud": ...}, "audience", id="no-aud"),
    pytest.param({"exp": SECONDS - 60}, "expired", id="expired-by-the-leeway"),
    pytest.param({"exp": 0}, "expired", id="expired-in-1970"),
    pytest.param({"exp": -(10**30)}, "expired", id="expired-before-the-universe"),
    pytest.param({"exp": SECONDS + 3661}, "lifetime", id="more-than-an-hour-ahead"),
    pytest.param({"exp": 10**30}, "lifetime", id="for-ever"),
    pytest.param({"exp": (SECONDS + 600) * 1000}, "lifetime", id="in-milliseconds"),
    pytest.param({"exp": True}, "times", id="exp-true"),
    pytest.param({"exp": False}, "times", id="exp-false"),
    pytest.param({"exp": SECONDS + 600.0}, "times", id="exp-a-float"),
    pytest.param({"exp": str(SECONDS + 600)}, "times", id="exp-a-string"),
    pytest.param({"exp": [SECONDS + 600]}, "times", id="exp-in-a-list"),
    pytest.param({"exp": None}, "times", id="exp-null"),
    pytest.param({"exp": ...}, "times", id="no-exp"),
    pytest.param({"nbf": SECONDS + 61}, "early", id="not-yet"),
    pytest.param({"nbf": True}, "times", id="nbf-true"),
    pytest.param({"nbf": 0.0}, "times", id="nbf-a-float"),
    pytest.param({"nbf": None}, "times", id="nbf-null"),
    pytest.param({"iat": SECONDS + 61}, "early", id="issued-in-the-future"),
    pytest.param({"iat": "0"}, "times", id="iat-a-string"),
    pytest.param({"jti": "a" * 15}, "jti", id="jti-too-short"),
    pytest.param({"jti": "a" * 65}, "jti", id="jti-too-long"),
    pytest.param({"jti": "a" * 15 + "="}, "jti", id="jti-with-padding"),
    pytest.param({"jti": "a" * 15 + "\n"}, "jti", id="jti-with-a-line-break"),
    pytest.param({"jti": "a" * 16 + "\n"}, "jti", id="jti-that-dollar-overlooks"),
    pytest.param({"jti": "a" * 15 + "é"}, "jti", id="jti-beyond-ascii"),
    pytest.param({"jti": 10**20}, "jti", id="jti-a-number"),
    pytest.param({"jti": ["a" * 16]}, "jti", id="jti-in-a-list"),
    pytest.param({"jti": None}, "jti", id="jti-null"),
    pytest.param({"jti": ...}, "jti", id="no-jti"),
    pytest.param({"cookie": None}, "cookie", id="cookie-null"),
    pytest.param({"cookie": ""}, "cookie", id="cookie-empty"),
    pytest.param({"cookie": False}, "cookie", id="cookie-false"),
    pytest.param({"cookie": "a" * 42}, "cookie", id="cookie-too-short"),
    pytest.param({"cookie": "a" * 44}, "cookie", id="cookie-too-long"),
    pytest.param({"cookie": "a" * 43 + "\n"}, "cookie", id="cookie-that-dollar-overlooks"),
]


@pytest.mark.parametrize(("claims", "reason"), CLAIM_FAULTS)
def test_claims_that_are_not_for_this_callback_are_refused(
    claims: dict[str, object], reason: str
) -> None:
    assert refusal(token(claims=claims)) == f"state_{reason}"


TEXT = json.dumps(HEADER)
CLAIMS_TEXT = json.dumps(CLAIMS)

MALFORMED = [
    pytest.param(sign(TEXT[:-1] + ', "alg": "HS256"}', CLAIMS_TEXT), id="alg-twice"),
    pytest.param(sign('{"kid": "k9", ' + TEXT[1:], CLAIMS_TEXT), id="kid-twice"),
    pytest.param(sign(TEXT, CLAIMS_TEXT[:-1] + ', "aud": "callback:xero"}'), id="aud-twice"),
    pytest.param(sign(TEXT, '{"exp": 1, ' + CLAIMS_TEXT[1:]), id="exp-twice"),
    pytest.param(
        sign(TEXT, CLAIMS_TEXT[:-1] + ', "\\u006ati": "aaaaaaaaaaaaaaaa"}'), id="jti-twice"
    ),
    pytest.param(sign(TEXT, CLAIMS_TEXT[:-1] + ', "x": {"y": 1, "y": 1}}'), id="twice-deep-down"),
    pytest.param(sign(TEXT, CLAIMS_TEXT[:-1] + ', "x": NaN}'), id="nan"),
    pytest.param(sign(TEXT, CLAIMS_TEXT[:-1] + ', "x": -Infinity}'), id="infinity"),
    pytest.param(sign(TEXT, "[" + CLAIMS_TEXT + "]"), id="claims-in-a-list"),
    pytest.param(sign(TEXT, '"canary"'), id="claims-a-string"),
    pytest.param(sign(TEXT, "null"), id="claims-null"),
    pytest.param(sign(TEXT, ""), id="no-claims"),
    pytest.param(sign("[]", CLAIMS_TEXT), id="header-a-list"),
    pytest.param(sign("", CLAIMS_TEXT), id="no-header"),
    pytest.param(sign(TEXT, CLAIMS_TEXT + "x"), id="something-behind-the-claims"),
    pytest.param(sign(TEXT, "\ufeff" + CLAIMS_TEXT), id="a-byte-order-mark"),
    pytest.param(sign(TEXT, CLAIMS_TEXT.encode("utf-16")), id="utf-16"),
    pytest.param(sign(TEXT, CLAIMS_TEXT[:-1].encode() + b', "x": "\xff"}'), id="not-utf-8"),
    pytest.param(token().replace(".", "..", 1), id="an-empty-part"),
    pytest.param(token() + ".", id="a-fourth-part"),
    pytest.param("." + token(), id="a-part-before"),
    pytest.param(token().rpartition(".")[0], id="two-parts"),
    pytest.param(token() + "..", id="five-parts-as-of-a-jwe"),
    pytest.param("canary", id="no-parts"),
    pytest.param("..", id="nothing-but-dots"),
    pytest.param(token().replace("e", "\u0435", 1), id="a-letter-of-another-alphabet"),
    pytest.param(json.dumps({"payload": "canary", "signatures": []}), id="the-json-form-of-a-jws"),
]


@pytest.mark.parametrize("text", MALFORMED)
def test_what_is_no_single_clear_token_is_refused(text: str) -> None:
    assert refusal(text) == "state_malformed"


def test_json_that_is_too_deep_is_refused_and_not_a_crash(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # 1,024 characters are not deep enough for it: so let there be more.
    deep = state.STATE._replace(size=10**6)
    monkeypatch.setattr(state, "STATE", deep)
    nested = sign(TEXT, CLAIMS_TEXT[:-1] + ', "x": ' + "[" * 100_000 + "]" * 100_000 + "}")
    assert refusal(nested) == "state_malformed"
    huge = sign(TEXT, CLAIMS_TEXT[:-1] + ', "x": ' + "9" * 5_000 + "}")
    assert refusal(huge) == "state_malformed"


def test_an_empty_or_another_signature_is_refused() -> None:
    body = token().rpartition(".")[0]
    assert refusal(f"{body}.") == "state_signature"
    assert refusal(f"{body}.{b64(bytes(32))}") == "state_signature"
    assert refusal(f"{body}.{b64(bytes(31))}") == "state_signature"
    assert refusal(token(key=STRANGERS_KEY)) == "state_signature"
    assert refusal(token(key=OLD_KEY)) == "state_signature"


def test_the_key_itself_is_used_and_not_its_text() -> None:
    assert refusal(token(key=b64(KEY).encode())) == "state_signature"


def test_a_ticket_is_no_state_and_a_state_no_ticket() -> None:
    """Token-type confusion, as NextAuth's CVE-2023-48309."""
    assert refusal(state.mint_ticket(signed(), JTI, NOW, timedelta(minutes=5))) == "state_audience"
    with pytest.raises(InvalidResponse) as refused:
        state.verify_ticket(state.mint(signed(), JTI, NOW, timedelta(minutes=5)), signed(), NOW)
    assert refused.value.reason == "ticket_audience"
    assert str(refused.value) == state.TICKET.sentence


def test_a_state_of_one_connection_is_none_of_another() -> None:
    """Swapping, RFC 9700 §4.7: same keys, another redirect URI."""
    assert refusal(token(), policy=signed("bank")) == "state_audience"


def test_a_state_that_was_signed_in_another_algorithm_with_the_very_key_is_refused() -> None:
    for algorithm in ("HS384", "HS512"):
        with pytest.warns(jwt.InsecureKeyLengthWarning):
            text = jwt.encode(CLAIMS, KEY, algorithm, {"kid": "k1"})
        assert refusal(text) == "state_algorithm"


def test_an_unsigned_token_is_refused() -> None:
    """CVE-2026-28802 and its many siblings: alg none."""
    text = jwt.encode(CLAIMS, "", "none", {"kid": "k1"})
    assert refusal(text) == "state_algorithm"


# -- one state, one spelling ---------------------------------------------------------------------


def spellings(part: str) -> list[str]:
    """Return other texts for one part of a token that a lenient decoder takes for the same."""
    found = [part + "=" * n for n in (1, 2, 3)]
    found += [part + " ", " " + part, part[:4] + "\n" + part[4:], part + "\n", part + "\x00"]
    found += [part[:4] + "!" + part[4:], part[:4] + "%3D" + part[4:], part[:4] + "=" + part[4:]]
    found.append(part.replace("-", "+").replace("_", "/"))
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    bits = {0: 0, 2: 4, 3: 2}[len(part) % 4]  # that the last character has and no byte needs
    last = alphabet.index(part[-1])
    found += [part[:-1] + alphabet[last | spare] for spare in range(1, 1 << bits)]
    return [text for text in found if text != part]


def parts_of(length: int) -> dict[str, object]:
    """Return claims that make the second part end with another number of spare bits."""
    return {"pad": "?>" * 4 + "p" * length}


@pytest.mark.parametrize("pad", [0, 1, 2])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_state_has_one_spelling(place: int, pad: int) -> None:
    text = token({"pad": "?>" * 4 + "p" * pad}, parts_of(pad))
    assert accepted(text)
    parts = text.split(".")
    others = spellings(parts[place])
    assert len(others) > 8
    for other in others:
        respelled = ".".join([*parts[:place], other, *parts[place + 1 :]])
        assert refusal(respelled) == "state_malformed", respelled


ALPHABET = st.sampled_from("ABCwxyz0189-_.=+/ \n%é\x00")


@st.composite
def mutations(draw: st.DrawFn) -> str:
    """Return a valid state after some edits of it."""
    text = token()
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(text)))
        edit = draw(st.sampled_from(["insert", "delete", "replace", "swap", "case", "cut"]))
        match edit:
            case "insert":
                text = text[:at] + draw(ALPHABET) + text[at:]
            case "delete":
                text = text[:at] + text[at + 1 :]
            case "replace":
                text = text[:at] + draw(ALPHABET) + text[at + 1 :]
            case "swap":
                text = text[:at] + text[at : at + 2][::-1] + text[at + 2 :]
            case "case":
                text = text[:at] + text[at : at + 1].swapcase() + text[at + 1 :]
            case "cut":
                text = text[:at]
    return text


@given(text=mutations())
def test_a_state_with_any_change_is_refused(text: str) -> None:
    if text != token() and text:
        assert refusal(text)


@given(text=st.text(min_size=1))
def test_no_text_is_a_state_by_chance(text: str) -> None:
    assert refusal(text)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
NAMES = st.sampled_from(
    ["alg", "typ", "kid", "crit", "b64", "aud", "exp", "jti", "nbf", "iat", "cookie"]
)


@given(
    header=st.dictionaries(NAMES, JSON_VALUES, max_size=3),
    claims=st.dictionaries(NAMES, JSON_VALUES, max_size=3),
)
def test_only_what_the_contract_allows_is_believed_even_when_it_is_signed(
    header: dict[str, object], claims: dict[str, object]
) -> None:
    text = token(header, claims)
    try:
        state.verify(response(state=text), signed(), "", NOW)
    except InvalidResponse:
        return
    header, claims = {**HEADER, **header}, {**CLAIMS, **claims}
    assert (header["alg"], header["kid"], claims["aud"]) == ("HS256", "k1", "callback:xero")
    assert not {"crit", "b64"} & set(header)
    assert "cookie" not in claims
    assert len(str(claims["jti"])) >= 16
    times = [claims[name] for name in ("exp", "nbf", "iat") if name in claims]
    assert all(type(time) is int for time in times)


# -- what it costs -------------------------------------------------------------------------------


@pytest.fixture
def macs(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Count the HMACs that are made."""
    made: list[bytes] = []
    mac = jws._mac

    def counted(signed: str, key: bytes) -> bytes:
        made.append(key)
        return mac(signed, key)

    monkeypatch.setattr(jws, "_mac", counted)
    return made


@pytest.mark.parametrize(("header", "reason"), HEADERS)
def test_a_wrong_header_costs_no_hmac(
    header: dict[str, object], reason: str, macs: list[bytes]
) -> None:
    refusal(token(header))
    assert macs == []


@pytest.mark.parametrize(("claims", "reason"), CLAIM_FAULTS)
def test_wrong_claims_cost_no_hmac(
    claims: dict[str, object], reason: str, macs: list[bytes]
) -> None:
    refusal(token(claims=claims))
    assert macs == []


def test_a_forged_state_costs_one_hmac_however_many_keys_there_are(macs: list[bytes]) -> None:
    keys = {f"k{n}": bytes([n]) * 32 for n in range(20)}
    many = dataclasses.replace(signed(), state_keys=keys)
    assert refusal(token({"kid": "k7"}, key=STRANGERS_KEY), policy=many) == "state_signature"
    assert macs == [bytes([7]) * 32]


def test_only_a_signed_state_costs_the_import_of_pyjwt() -> None:
    program = (
        "import sys; from relay import flow\nfrom relay.oauth import authorize, jarm, state\n"
        "from tests.helpers import connection, response\n"
        "state.verify(response(), connection())\n"
        "assert not {'jwt', 'cryptography'} & set(sys.modules), 'imported'"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


# -- the browser that began ----------------------------------------------------------------------


def bound(cookie: str = COOKIE) -> str:
    return state.mint(signed(), JTI, NOW, timedelta(minutes=10), cookie)


def test_a_bound_state_is_believed_from_its_browser() -> None:
    verified = state.verify(response(state=bound()), signed(), f"{NAME}={COOKIE}", NOW)
    assert verified.redirect_uri == "https://relay.example/callback/xero"
    assert verified.cookie_name == NAME


@pytest.mark.parametrize(
    "cookies",
    [
        pytest.param("a=b; {}", id="behind-another"),
        pytest.param("{}; a=b", id="before-another"),
        pytest.param("a=b;{};c=d", id="without-spaces"),
        pytest.param('a="x;y"; {}; __Host-relay-other123=x; b; =c; ', id="among-odd-ones"),
    ],
)
def test_the_cookie_is_found_among_others(cookies: str) -> None:
    assert accepted(bound(), cookies.format(f"{NAME}={COOKIE}"))


OTHER = "b" * 43


@pytest.mark.parametrize(
    ("cookies", "reason"),
    [
        pytest.param("", "missing", id="no-cookies"),
        pytest.param("a=b", "missing", id="others-only"),
        pytest.param(f"{NAME}x={COOKIE}", "missing", id="a-longer-name"),
        pytest.param(f"{NAME[:-1]}={COOKIE}", "missing", id="a-shorter-name"),
        pytest.param(f"{NAME.lower()}={COOKIE}", "missing", id="a-name-in-another-case"),
        pytest.param(f"relay-canary-j={COOKIE}", "missing", id="without-the-prefix"),
        pytest.param(f"a=b;  {NAME}={COOKIE}", "missing", id="a-name-with-a-space"),
        pytest.param(f"\u2000{NAME}={COOKIE}", "missing", id="a-name-behind-a-wide-space"),
        pytest.param(f"\t{NAME}={COOKIE}", "missing", id="a-name-behind-a-tab"),
        pytest.param(f"{NAME} ={COOKIE}", "missing", id="a-name-before-a-space"),
        pytest.param(f"a={NAME}={COOKIE}", "missing", id="inside-another-value"),
        pytest.param(f'a="; {NAME}={COOKIE}"', "mismatch", id="in-quotes-of-another"),
        pytest.param(NAME, "mismatch", id="without-a-value"),
        pytest.param(f"{NAME}=", "mismatch", id="an-empty-value"),
        pytest.param(f"{NAME}={OTHER}", "mismatch", id="another-flows-value"),
        pytest.param(f'{NAME}="{COOKIE}"', "mismatch", id="in-quotes"),
        pytest.param(f"{NAME}={COOKIE} ", "mismatch", id="a-space-behind"),
        pytest.param(f"{NAME}={COOKIE}=", "mismatch", id="padded"),
        pytest.param(f"{NAME}={COOKIE},b=c", "mismatch", id="joined-with-a-comma"),
        pytest.param(f"{NAME}={COOKIE}; {NAME}={OTHER}", "repeated", id="tossed-behind"),
        pytest.param(f"{NAME}={OTHER}; {NAME}={COOKIE}", "repeated", id="tossed-before"),
        pytest.param(f"{NAME}={COOKIE}; {NAME}={COOKIE}", "repeated", id="the-same-twice"),
    ],
)
def test_a_bound_state_from_another_browser_is_refused(cookies: str, reason: str) -> None:
    """CSRF: CVE-2025-68481, CVE-2025-68158. Cookie tossing: Squarcina et al., USENIX 2023."""
    assert refusal(bound(), cookies) == f"state_cookie_{reason}"


def test_a_value_that_is_no_cookie_of_ours_is_refused_even_if_its_hash_is_right() -> None:
    for value in ("short", "a" * 42, "a" * 44, "a" * 42 + "=", "a" * 42 + "é"):
        assert refusal(bound(value), f"{NAME}={value}") == "state_cookie_mismatch"


def test_one_flows_cookie_does_not_open_another_flow() -> None:
    theirs = state.mint(signed(), "canary-jti-0042-another", NOW, timedelta(minutes=5), OTHER)
    assert refusal(theirs, f"{NAME}={COOKIE}") == "state_cookie_mismatch"


def test_a_forged_state_is_refused_before_its_cookie_is_looked_at() -> None:
    claims = {"cookie": state.fingerprint(COOKIE)}
    text = token(claims=claims, key=STRANGERS_KEY)
    assert refusal(text, f"{NAME}={COOKIE}") == "state_signature"
    assert refusal(text) == "state_signature"


def test_a_state_that_dynamics_minted_needs_no_cookie_and_has_no_verifier() -> None:
    verified = state.verify(response(state=token()), signed(), f"{NAME}={COOKIE}", NOW)
    assert (verified.code_verifier, verified.redirect_uri) == (None, None)
    assert verified.cookie_name is None


def test_the_cookie_claim_can_not_be_taken_out_of_a_state() -> None:
    """Downgrade: a stolen bound state without its binding."""
    header, claims, signature = bound().split(".")
    members = json.loads(base64.urlsafe_b64decode(claims + "=="))
    del members["cookie"]
    assert refusal(f"{header}.{b64(json.dumps(members).encode())}.{signature}") == "state_signature"


# -- PKCE ----------------------------------------------------------------------------------------


def test_the_code_verifier_is_derived_as_the_contract_says() -> None:
    mac = hmac.new(KEY, f"pkce:{JTI}:{COOKIE}".encode(), hashlib.sha256).digest()
    verified = state.verify(response(state=bound()), signed(), f"{NAME}={COOKIE}", NOW)
    assert verified.code_verifier == b64(mac)
    # RFC 7636 §4.1
    assert re.fullmatch(r"[A-Za-z0-9._~-]{43,128}", b64(mac))


def test_the_code_verifier_takes_the_key_the_flow_and_the_browser() -> None:
    verifiers = {
        state.derive_verifier(key, jti, cookie)
        for key in (KEY, OLD_KEY)
        for jti in (JTI, JTI + "x")
        for cookie in (COOKIE, OTHER)
    }
    assert len(verifiers) == 8


def test_the_code_verifier_outlives_the_rotation_of_the_key() -> None:
    rotated = dataclasses.replace(signed(), state_keys={"k2": STRANGERS_KEY, "k1": KEY})
    before = state.verify(response(state=bound()), signed(), f"{NAME}={COOKIE}", NOW)
    after = state.verify(response(state=bound()), rotated, f"{NAME}={COOKIE}", NOW)
    assert before.code_verifier == after.code_verifier


def test_nothing_secret_is_shown_when_it_is_printed() -> None:
    text = bound()
    verified = state.verify(response(state=text), signed(), f"{NAME}={COOKIE}", NOW)
    ticket = state.mint_ticket(signed(), JTI, NOW, timedelta(minutes=5))
    claims = state.verify_ticket(ticket, signed(), NOW)
    shown = repr(verified) + repr(claims) + repr(jws.read(text, state.STATE)) + repr(signed())
    assert repr(KEY)[2:10] not in shown
    for secret in ("canary", text, "kid", "aud", str(verified.code_verifier)):
        assert secret not in shown, secret


def test_what_was_checked_can_not_be_changed_afterwards() -> None:
    read = jws.read(bound(), state.STATE)
    ticket = state.mint_ticket(signed(), JTI, NOW, timedelta(minutes=5))
    for checked, name in (
        (read, "claims"),
        (read.kind, "size"),
        (state.verify_ticket(ticket, signed(), NOW), "jti"),
        (state.verify(response(state=bound()), signed(), f"{NAME}={COOKIE}", NOW), "code"),
    ):
        with pytest.raises(AttributeError):
            setattr(checked, name, "x")


# -- tickets -------------------------------------------------------------------------------------


def test_a_ticket_says_for_which_flow_it_is() -> None:
    ticket = token(claims={"aud": "authorize:xero"})
    assert state.verify_ticket(ticket, signed(), NOW).jti == JTI
    minted = state.mint_ticket(signed(), JTI, NOW, timedelta(minutes=5))
    assert state.verify_ticket(minted, signed(), NOW).jti == JTI


@pytest.mark.parametrize(
    ("claims", "reason"), [row for row in CLAIM_FAULTS if row.id != "a-ticket"]
)
def test_a_ticket_is_held_against_the_same_rules(claims: dict[str, object], reason: str) -> None:
    with pytest.raises(InvalidResponse) as refused:
        state.verify_ticket(token(claims={"aud": "authorize:xero", **claims}), signed(), NOW)
    assert refused.value.reason == f"ticket_{reason}"


# -- docs/minting.md -----------------------------------------------------------------------------


def vector() -> dict[str, str]:
    page = (ROOT / "docs" / "minting.md").read_text("utf-8")
    return dict(re.findall(r"^\| (\w+) \| `([^`]+)` \|$", page, re.MULTILINE))


def vectors_connection() -> Connection:
    given_ = vector()
    key = base64.urlsafe_b64decode(given_["key"] + "=")
    return dataclasses.replace(signed(given_["connection"]), state_keys={given_["kid"]: key})


def test_the_documented_state_and_ticket_are_believed() -> None:
    given_ = vector()
    at = datetime.fromtimestamp(int(given_["exp"]) - 600, UTC)
    verified = state.verify(response(state=given_["state"]), vectors_connection(), "", at)
    assert verified.state == given_["state"]
    assert state.verify_ticket(given_["ticket"], vectors_connection(), at).jti == given_["jti"]


@pytest.mark.parametrize(("name", "use"), [("state", "callback"), ("ticket", "authorize")])
def test_the_documented_tokens_are_what_the_documented_texts_make(name: str, use: str) -> None:
    given_ = vector()
    header = '{"alg":"HS256","typ":"JWT","kid":"' + given_["kid"] + '"}'
    claims = (
        f'{{"aud":"{use}:{given_["connection"]}","exp":{given_["exp"]},"jti":"{given_["jti"]}"}}'
    )
    key = base64.urlsafe_b64decode(given_["key"] + "=")
    assert sign(header, claims, key) == given_[name]


def test_the_snippets_write_the_documented_texts() -> None:
    page = (ROOT / "docs" / "minting.md").read_text("utf-8").replace('\\"', '"')
    for piece in ('{"alg":"HS256","typ":"JWT","kid":"', '{"aud":"', '","exp":', ',"jti":"'):
        assert page.count(piece) >= 3, piece
