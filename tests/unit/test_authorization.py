"""What is accepted as an authorization response, and what is refused."""

import contextlib
import json
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.connections import Connection, Provider
from relay.errors import InvalidResponse
from relay.oauth.authorization import AuthorizationResponse, check
from relay.oauth.request import Request, guard
from tests.helpers import (
    CANARY,
    CODE,
    FORM,
    JSON,
    STATE,
    connection,
    get,
    parse,
    post,
    post_json,
    verified,
)

KIB = 1024
KNOWN = ("code", "state", "error", "error_description", "error_uri", "iss", "session_state")
IMPLICIT = ("access_token", "id_token", "token")
type Way = Callable[[dict[str, str]], Request]
EVERYTHING = connection(
    body='{"code": "{code}", "state": "{state}", "a": "{param:a}", "b": "{param:b}"}'
)
"""A connection whose template names two further parameters, `a` and `b`."""


def refusal(request: Request, where: Connection | None = None) -> InvalidResponse:
    with pytest.raises(InvalidResponse) as caught:
        parse(request, where or connection())
    assert CANARY not in str(caught.value)
    return caught.value


# -- guard ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_get_and_post_are_let_through(method: str) -> None:
    guard(Request(method, "", {}, b""))


@pytest.mark.parametrize("method", ["HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", ""])
def test_any_other_method_is_refused_with_405(method: str) -> None:
    with pytest.raises(InvalidResponse) as refused:
        guard(Request(method, "", {}, b""))
    assert refused.value.status == 405


@pytest.mark.parametrize("header", ["sec-purpose", "purpose", "x-moz"])
@pytest.mark.parametrize(
    "value", ["prefetch", "prerender", "prefetch;prerender", "Prefetch", "a, PRERENDER"]
)
def test_a_page_loaded_ahead_is_refused_with_503_because_browsers_throw_that_away(
    header: str, value: str
) -> None:
    with pytest.raises(InvalidResponse) as refused:
        guard(get({"code": CODE}, {header: value}))
    assert refused.value.status == 503


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"sec-purpose": "navigate"}, id="another-purpose"),
        pytest.param({"sec-fetch-mode": "navigate"}, id="a-person-who-navigates"),
        pytest.param({"user-agent": "prefetch"}, id="the-word-in-another-header"),
    ],
)
def test_what_is_no_prefetch_is_let_through(headers: dict[str, str]) -> None:
    guard(get({"code": CODE}, headers))


# -- what is read --------------------------------------------------------------------------------

WAYS = [
    pytest.param(get, id="query"),
    pytest.param(lambda members: post(get(members).query), id="form"),
    pytest.param(post_json, id="json"),
    pytest.param(lambda members: post(b"", None, get(members).query), id="post-with-a-query"),
]


@pytest.mark.parametrize("way", WAYS)
def test_every_known_parameter_is_read_from(way: Way) -> None:
    sent = {
        "code": "c/4+5=",
        "state": "s t",
        "error": "e",
        "error_description": "d",
        "error_uri": "https://as.example/e?f=1",
        "iss": "https://as.example",
        "session_state": "ss",
    }
    read = parse(way(sent), connection())
    assert {name: getattr(read, name) for name in KNOWN} == sent
    assert not read.implicit


@pytest.mark.parametrize("way", WAYS)
def test_a_parameter_with_an_empty_value_is_absent_in(way: Way) -> None:
    read = parse(way(dict.fromkeys((*KNOWN, *IMPLICIT, "a"), "")), EVERYTHING)
    assert [getattr(read, name) for name in KNOWN] == [None] * len(KNOWN)
    assert not read.implicit
    assert read.extra == {}


@pytest.mark.parametrize("way", WAYS)
def test_only_further_parameters_that_the_template_names_are_kept_from(way: Way) -> None:
    read = parse(way({"code": CODE, "a": "1", "c": "3"}), EVERYTHING)
    assert read.extra == {"a": "1"}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", IMPLICIT)
def test_a_token_is_noticed_and_not_kept_from(name: str, way: Way) -> None:
    read = parse(way({"code": CODE, "state": STATE, name: "canary-implicit"}), connection())
    assert read.implicit
    assert "canary-implicit" not in [
        getattr(read, field) for field in AuthorizationResponse.__slots__
    ]


@pytest.mark.parametrize("way", WAYS)
def test_a_provider_may_name_its_code_otherwise(way: Way) -> None:
    amazon = connection(provider=Provider(code_parameter="spapi_oauth_code"))
    read = parse(way({"spapi_oauth_code": "theirs", "code": "not-it", "state": STATE}), amazon)
    assert read.code == "theirs"


def test_a_query_and_a_body_together_are_one_response() -> None:
    read = parse(post("state=" + STATE, query="code=" + CODE), connection())
    assert (read.code, read.state) == (CODE, STATE)


@pytest.mark.parametrize(
    "media_type",
    [
        FORM,
        "application/x-www-form-urlencoded; charset=UTF-8",
        "APPLICATION/X-WWW-FORM-URLENCODED",
        " application/x-www-form-urlencoded ;charset=utf-8",
    ],
)
def test_a_form_is_known_by_its_media_type_however_it_is_written(media_type: str) -> None:
    assert parse(post(b"code=abc", media_type), connection()).code == "abc"


@pytest.mark.parametrize("media_type", [JSON, "application/json; charset=utf-8"])
def test_json_is_known_by_its_media_type_however_it_is_written(media_type: str) -> None:
    assert parse(post(b'{"code": "abc"}', media_type), connection()).code == "abc"


def test_a_body_of_a_get_is_not_read() -> None:
    request = Request("GET", "state=x", {"content-type": FORM}, b"code=abc")
    assert parse(request, connection()).code is None


def test_no_value_can_be_printed_by_accident() -> None:
    request = get(dict.fromkeys(KNOWN, "canary"), {"cookie": "canary"})
    assert CANARY not in repr(request)
    assert CANARY not in repr(post_json(dict.fromkeys(KNOWN, "canary")))
    read = parse(get(dict.fromkeys((*KNOWN, "a"), "canary")), EVERYTHING)
    assert read.code == "canary"
    assert CANARY not in repr(read)
    assert CANARY not in repr(verified(iss="canary", error="canary", extra={"a": "canary"}))


@pytest.mark.parametrize(
    ("accept", "html"),
    [
        pytest.param("text/html,application/xhtml+xml,*/*;q=0.8", True, id="browser"),
        pytest.param("Text/HTML", True, id="other-case"),
        pytest.param("*/*", False, id="curl"),
        pytest.param("application/json", False, id="program"),
        pytest.param(None, False, id="nothing-said"),
    ],
)
def test_a_browser_is_told_from_a_program(accept: str | None, html: bool) -> None:
    assert get("", {} if accept is None else {"accept": accept}).wants_html is html


# -- decoding ------------------------------------------------------------------------------------

DECODED = [
    pytest.param("a+b", "a b", id="plus-is-a-space"),
    pytest.param("a%20b", "a b", id="percent-20-is-a-space"),
    pytest.param("a%2Bb", "a+b", id="percent-2B-is-a-plus"),
    pytest.param("a%2bb", "a+b", id="lower-case-hex"),
    pytest.param("a%252Bb", "a%2Bb", id="twice-encoded-is-decoded-once"),
    pytest.param("a%2526b", "a%26b", id="twice-encoded-ampersand-is-decoded-once"),
    pytest.param("a%26code%3Db", "a&code=b", id="encoded-separators-do-not-separate"),
    pytest.param("a=b=", "a=b=", id="only-the-first-equals-sign-separates"),
    pytest.param("a;b", "a;b", id="a-semicolon-does-not-separate"),
    pytest.param("a%00b", "a\0b", id="a-nul-is-kept-for-the-grammar-to-refuse"),
    pytest.param("a%C3%A9", "aé", id="utf-8"),
    pytest.param("a%F0%9F%94%91", "a🔑", id="utf-8-of-four-bytes"),
    pytest.param("100%", "100%", id="a-lone-percent-sign"),
    pytest.param("%zz", "%zz", id="no-hex-digits"),
]


@pytest.mark.parametrize(("raw", "value"), DECODED)
def test_a_query_is_decoded_exactly_once(raw: str, value: str) -> None:
    assert parse(get(f"code={raw}"), connection()).code == value


@pytest.mark.parametrize(("raw", "value"), DECODED)
def test_a_form_is_decoded_exactly_once(raw: str, value: str) -> None:
    assert parse(post(f"code={raw}"), connection()).code == value


@pytest.mark.parametrize("value", ["a+b", "a%2Bb", "a%26b", "a&code=b"])
def test_json_is_not_percent_decoded_at_all(value: str) -> None:
    assert parse(post_json({"code": value}), connection()).code == value


def test_names_are_decoded_like_values() -> None:
    assert parse(get("c%6Fde=abc"), connection()).code == "abc"


def test_names_are_compared_with_their_case() -> None:
    assert parse(get("Code=abc&STATE=def"), connection()).code is None


NOT_UTF8 = [
    pytest.param(b"%FF", id="a-byte-that-is-never-utf-8"),
    pytest.param(b"%C3", id="a-character-cut-short"),
    pytest.param(b"%ED%A0%80", id="half-of-a-surrogate-pair"),
    pytest.param(b"%C0%AF", id="an-overlong-slash"),
]


@pytest.mark.parametrize("raw", NOT_UTF8)
@pytest.mark.parametrize("sent", ["code=canary{}", "nobody-knows-it{}=canary"])
def test_a_query_that_is_not_utf8_is_refused(sent: str, raw: bytes) -> None:
    refused = refusal(get(sent.format(raw.decode())))
    assert (refused.reason, refused.status) == ("encoding", 400)


@pytest.mark.parametrize("raw", NOT_UTF8)
def test_a_form_that_is_not_utf8_is_refused(raw: bytes) -> None:
    refused = refusal(post(b"code=canary" + raw))
    assert (refused.reason, refused.status) == ("encoding", 400)


@pytest.mark.parametrize("media_type", [FORM, JSON])
def test_raw_bytes_that_are_not_utf8_are_refused(media_type: str) -> None:
    refused = refusal(post(b'{"code": "\xff"}', media_type))
    assert (refused.reason, refused.status) == ("encoding", 400)


def test_a_query_that_the_host_could_not_read_is_refused() -> None:
    refused = refusal(get("code=canary\udcff"))
    assert (refused.reason, refused.status) == ("encoding", 400)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(rb'{"code": "\ud800"}', id="in-a-value"),
        pytest.param(rb'{"\udfff": "x"}', id="in-a-name"),
        pytest.param(rb'{"code": "\ud83d", "state": "\udd11"}', id="two-halves-in-two-values"),
    ],
)
def test_half_a_surrogate_pair_in_json_is_refused(body: bytes) -> None:
    refused = refusal(post(body, JSON))
    assert (refused.reason, refused.status) == ("encoding", 400)


def test_a_whole_surrogate_pair_in_json_is_one_character() -> None:
    assert parse(post(rb'{"code": "\ud83d\udd11"}', JSON), connection()).code == "🔑"


# -- JSON ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("", id="blank"),
        pytest.param("canary", id="no-json"),
        pytest.param('{"code": "canary"', id="cut-short"),
        pytest.param('{"code": "canary"} x', id="with-a-tail"),
        pytest.param('["code", "canary"]', id="an-array"),
        pytest.param('[["code", "canary"]]', id="an-array-that-looks-like-members"),
        pytest.param('"canary"', id="a-string"),
        pytest.param("null", id="null"),
        pytest.param('{"n": NaN}', id="nan"),
        pytest.param('{"n": -Infinity}', id="infinity"),
        pytest.param('{"n": ' + "1" * 5_000 + "}", id="a-number-of-5000-digits"),
        pytest.param("[" * 16_000 + "]" * 16_000, id="deep-arrays"),
        pytest.param('\ufeff{"code": "canary"}', id="byte-order-mark"),
    ],
)
def test_a_body_that_is_no_json_object_is_refused(body: str) -> None:
    refused = refusal(post(body or " ", JSON))
    assert refused.status == 400


@pytest.mark.parametrize("value", [1, 1.5, True, False, ["x"], [], {"x": "y"}, {}])
@pytest.mark.parametrize("name", [*KNOWN, *IMPLICIT])
def test_a_known_member_of_json_has_to_be_a_string(name: str, value: object) -> None:
    if name == "error_description":  # never a reason to refuse
        read = parse(post_json({"error": "access_denied", name: value}), connection())
        assert (read.error, read.error_description) == ("access_denied", None)
        return
    refused = refusal(post_json({name: value}))
    assert (refused.reason, refused.status) == ("json", 400)


def test_a_null_in_json_is_absent() -> None:
    assert parse(post_json({"code": None, "state": STATE}), connection()).code is None


@pytest.mark.parametrize("value", [1, True, ["x"], {"code": "inner"}, [["code", "inner"]]])
def test_an_unknown_member_of_json_may_be_anything(value: object) -> None:
    read = parse(post_json({"code": CODE, "expires_in": value}), connection())
    assert read.code == CODE


def test_nesting_of_json_is_no_trouble() -> None:
    body = '{"deep": ' + "[" * 100 + "]" * 100 + ', "code": "abc"}'
    assert parse(post(body, JSON), connection()).code == "abc"


def test_deeper_objects_of_json_are_no_parameters() -> None:
    body = '{"x": {"code": "inner", "code": "inner"}, "code": "outer"}'
    assert parse(post(body, JSON), connection()).code == "outer"


# -- given twice ---------------------------------------------------------------------------------


@pytest.mark.parametrize("second", ["one", "two"], ids=["the-same-value", "another-value"])
@pytest.mark.parametrize("name", [*KNOWN, *IMPLICIT, "a"])
@pytest.mark.parametrize("where", ["query", "form", "json", "query-and-form", "query-and-json"])
def test_a_known_parameter_given_twice_is_refused(where: str, name: str, second: str) -> None:
    one, two = f"{name}=one", f"{name}={second}"
    request = {
        "query": get(f"{one}&x=y&{two}"),
        "form": post(f"{one}&x=y&{two}"),
        "json": post(f'{{"{name}": "one", "x": "y", "{name}": "{second}"}}', JSON),
        "query-and-form": post(two, query=one),
        "query-and-json": post_json({name: second}, query=one),
    }[where]
    refused = refusal(request, EVERYTHING)
    assert (refused.reason, refused.status) == ("duplicate", 400)


def test_the_name_of_the_providers_own_code_given_twice_is_refused() -> None:
    amazon = connection(provider=Provider(code_parameter="spapi_oauth_code"))
    assert refusal(get("spapi_oauth_code=a&spapi_oauth_code=b"), amazon).reason == "duplicate"


def test_an_encoded_spelling_of_a_name_does_not_hide_a_duplicate() -> None:
    assert refusal(get("state=a&st%61te=b")).reason == "duplicate"


def test_an_unknown_parameter_may_be_given_twice() -> None:
    assert parse(get("x=1&code=abc&x=2"), connection()).code == "abc"


# -- nothing at all ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query", [pytest.param("", id="no-query"), pytest.param("&", id="only-a-separator")]
)
def test_a_get_without_any_parameter_is_somebody_who_looks_at_the_url(query: str) -> None:
    refused = refusal(get(query))
    assert refused.status == 200
    assert refused.page == "bare"


def test_a_get_with_a_parameter_is_not_taken_for_somebody_who_looks() -> None:
    assert parse(get("utm_source=x"), connection()).code is None


# -- responses that are JWTs ---------------------------------------------------------------------

SECURED = connection(provider=Provider(response_mode="form_post.jwt"))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["code", "error", "response"])
def test_a_plain_response_is_not_taken_where_it_has_to_be_a_jwt(name: str, way: Way) -> None:
    refused = refusal(way({name: CODE, "state": STATE}), SECURED)
    assert (refused.reason, refused.status) == ("jarm_missing", 400)


@pytest.mark.parametrize("way", WAYS)
def test_a_jwt_that_nobody_expects_is_refused_with_a_reason(way: Way) -> None:
    refused = refusal(way({"response": CODE}))
    assert (refused.reason, refused.status) == ("jarm_unexpected", 400)


@pytest.mark.parametrize("way", WAYS)
def test_a_parameter_named_response_beside_a_code_is_an_unknown_one(way: Way) -> None:
    assert parse(way({"response": "x", "code": CODE}), connection()).code == CODE


# -- sizes ---------------------------------------------------------------------------------------


def test_a_query_of_8_kib_is_read_and_one_more_byte_is_refused() -> None:
    pad = "state=x&pad="
    most = pad + "p" * (8 * KIB - len(pad))
    assert parse(get(most), connection()).state == "x"
    refused = refusal(get(most + "p"))
    assert (refused.reason, refused.status) == ("too_large", 413)


def test_the_size_of_a_query_is_counted_in_bytes() -> None:
    assert refusal(get("state=x&pad=" + "é" * (4 * KIB))).status == 413


def test_a_body_of_32_kib_is_read_and_one_more_byte_is_refused() -> None:
    pad = b"state=x&pad="
    most = pad + b"p" * (32 * KIB - len(pad))
    assert parse(post(most), connection()).state == "x"
    refused = refusal(post(most + b"p"))
    assert (refused.reason, refused.status) == ("too_large", 413)


def test_a_body_that_is_too_large_is_refused_even_where_none_is_read() -> None:
    assert refusal(Request("GET", "state=x", {}, b"p" * (32 * KIB + 1))).status == 413


def many(count: int) -> str:
    return "&".join(f"p{number}=x" for number in range(count))


@pytest.mark.parametrize(
    ("most", "more"),
    [
        pytest.param(get(many(50)), get(many(51)), id="query"),
        pytest.param(post(many(50)), post(many(51)), id="form"),
        pytest.param(
            post_json(dict.fromkeys(map(str, range(50)), "x")),
            post_json(dict.fromkeys(map(str, range(51)), "x")),
            id="json",
        ),
        pytest.param(
            post_json({str(number): number for number in range(50)}),
            post_json({str(number): number for number in range(51)}),
            id="json-numbers",
        ),
        pytest.param(
            post(many(25), query=many(25)), post(many(26), query=many(25)), id="query-and-form"
        ),
    ],
)
def test_50_parameters_are_read_and_51_are_refused(most: Request, more: Request) -> None:
    parse(most, connection())
    refused = refusal(more)
    assert (refused.reason, refused.status) == ("too_large", 413)


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("code", 8 * KIB),
        ("state", 4 * KIB),
        ("error", 4 * KIB),
        ("error_uri", 4 * KIB),
        ("iss", 4 * KIB),
        ("session_state", 4 * KIB),
        ("a", 4 * KIB),
    ],
)
def test_a_value_is_read_up_to_its_limit_and_refused_beyond(name: str, limit: int) -> None:
    parse(post(f"{name}=" + "v" * limit), EVERYTHING)
    refused = refusal(post(f"{name}=" + "v" * (limit + 1)), EVERYTHING)
    assert (refused.reason, refused.status) == ("too_large", 413)
    # Two bytes each: what counts is bytes, as they were sent.
    assert refusal(post_json({name: "é" * (limit // 2 + 1)}), EVERYTHING).status == 413


def test_the_limit_of_a_code_follows_the_providers_own_name() -> None:
    amazon = connection(provider=Provider(code_parameter="spapi_oauth_code"))
    read = parse(post("spapi_oauth_code=" + "v" * (8 * KIB)), amazon)
    assert read.code == "v" * (8 * KIB)


def test_values_that_may_be_held_are_together_24_kib_at_most() -> None:
    sent = {"code": "c" * 8 * KIB, "state": "s" * 4 * KIB, "iss": "i" * 4 * KIB, "a": "a" * 4 * KIB}
    sent["b"] = "b" * (24 * KIB - len(json.dumps({**sent, "b": ""})))
    assert len(sent["b"]) < 4 * KIB
    assert parse(post_json(sent), EVERYTHING).extra["b"] == sent["b"]
    refused = refusal(post_json({**sent, "b": sent["b"] + "b"}), EVERYTHING)
    assert (refused.reason, refused.status) == ("too_large", 413)


def test_what_may_be_held_is_counted_as_the_json_that_it_becomes() -> None:
    # 4 KiB each, and six times that in JSON.
    assert parse(post("iss=" + "%01" * 4_000), connection()).iss == "\x01" * 4_000
    assert refusal(post_json({"iss": "\x01" * 4 * KIB})).status == 413


def test_what_is_not_held_does_not_count() -> None:
    held = {"code": "c" * 8 * KIB, "state": "s" * 4 * KIB}
    read = parse(post_json({**held, "nobody-keeps-it": "x" * 16 * KIB}), connection())
    assert read.code == held["code"]


# -- the media type and the length ---------------------------------------------------------------


@pytest.mark.parametrize(
    "media_type",
    [None, "", "text/plain", "multipart/form-data; boundary=x", "application/xml", "text/json"],
)
def test_a_body_of_another_media_type_is_refused_with_415(media_type: str | None) -> None:
    refused = refusal(post(b"code=canary", media_type))
    assert (refused.reason, refused.status) == ("media_type", 415)


def test_a_chunked_body_is_refused_with_411_because_the_host_has_lost_it() -> None:
    refused = refusal(Request("POST", "", {"content-type": FORM}, b""))
    assert (refused.reason, refused.status) == ("length_required", 411)


def test_an_empty_body_that_says_so_is_no_lost_one() -> None:
    request = Request("POST", "code=abc", {"content-length": "0"}, b"")
    assert parse(request, connection()).code == "abc"


def test_a_body_that_came_needs_no_content_length() -> None:
    request = Request("POST", "", {"content-type": FORM}, b"code=abc")
    assert parse(request, connection()).code == "abc"


# -- error_description and error_uri -------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        pytest.param("AADSTS65004: no.\r\nTrace ID: 1", "AADSTS65004: no.  Trace ID: 1", id="crlf"),
        pytest.param("a\0b\tc\x1bd\x7fe", "a b c d e", id="control-characters"),
        pytest.param("a\x85b\u2028c\u2029d", "a b c d", id="line-ends-of-unicode"),
        pytest.param('"quoted" \\ <b>', '"quoted" \\ <b>', id="beyond-the-grammar"),
        pytest.param("Accès refusé 🔑", "Accès refusé 🔑", id="beyond-ascii"),
        pytest.param("x" * 1_000, "x" * 1_000, id="1000-characters"),
        pytest.param("x" * 1_001, "x" * 1_000, id="1001-characters"),
        pytest.param("\r\n\t", None, id="nothing-legible"),
    ],
)
def test_an_error_description_is_tidied_up(sent: str, shown: str | None) -> None:
    for request in (get({"error_description": sent}), post_json({"error_description": sent})):
        assert parse(request, connection()).error_description == shown


@pytest.mark.parametrize("way", WAYS[1:3])
@pytest.mark.parametrize("kib", [5, 30])
def test_an_error_description_is_never_a_reason_to_refuse(way: Way, kib: int) -> None:
    sent = {"error": "access_denied", "error_description": "x" * kib * KIB, "state": STATE}
    assert parse(way(sent), connection()).error_description == "x" * 1_000


@pytest.mark.parametrize(
    "uri",
    [
        "https://as.example/errors/42",
        "https://as.example:8443/e?code=1;x=[2]&y=(3)#frag%20ment~_!$'*+,@",
    ],
)
def test_an_absolute_https_error_uri_is_kept(uri: str) -> None:
    assert parse(get({"error_uri": uri}), connection()).error_uri == uri


@pytest.mark.parametrize(
    "uri",
    [
        pytest.param("http://as.example/e", id="http"),
        pytest.param("javascript:alert(1)", id="javascript"),
        pytest.param("javascript:alert(1)//https://as.example", id="javascript-before-https"),
        pytest.param("/relative", id="relative"),
        pytest.param("//as.example/e", id="without-scheme"),
        pytest.param("https://", id="without-host"),
        pytest.param("https://as.example/a b", id="with-a-space"),
        pytest.param("https://as.example/\r\nX: y", id="with-a-line-break"),
        pytest.param("https://as.example/e\n", id="with-a-line-break-at-its-end"),
        pytest.param('https://as.example/"><script>', id="with-markup"),
        pytest.param("https://as.example\\@evil.example", id="with-a-backslash"),
        pytest.param("https://as.example/é", id="beyond-ascii"),
    ],
)
def test_any_other_error_uri_is_dropped_without_a_word(uri: str) -> None:
    read = parse(get({"error": "access_denied", "error_uri": uri}), connection())
    assert (read.error, read.error_uri) == ("access_denied", None)


# -- check ---------------------------------------------------------------------------------------

ISSUER = "https://as.example/tenant"
NAMED = connection(provider=Provider(issuer=ISSUER))
STRICT = connection(provider=Provider(issuer=ISSUER, iss_required=True))


@pytest.mark.parametrize(
    ("where", "iss"),
    [
        pytest.param(connection(), None, id="unknown-issuer"),
        pytest.param(connection(), "https://anybody.example", id="unknown-issuer-anybody"),
        pytest.param(NAMED, ISSUER, id="the-issuer"),
        pytest.param(NAMED, None, id="not-named-and-not-required"),
        pytest.param(STRICT, ISSUER, id="the-issuer-required"),
    ],
)
def test_a_response_of_the_right_issuer_is_accepted(where: Connection, iss: str | None) -> None:
    check(verified(iss=iss), where)


@pytest.mark.parametrize(
    "iss",
    [
        pytest.param("https://evil.example", id="another"),
        pytest.param("https://as.example/tenant/", id="with-a-slash"),
        pytest.param("https://AS.example/tenant", id="in-other-case"),
        pytest.param("https://as.example:443/tenant", id="with-the-default-port"),
        pytest.param("https://as.example/%74enant", id="encoded-otherwise"),
        pytest.param("https://as.example", id="its-origin"),
        pytest.param("https://as.example/tenant-two", id="with-the-same-beginning"),
    ],
)
@pytest.mark.parametrize("where", [NAMED, STRICT], ids=["named", "required"])
@pytest.mark.parametrize("error", [None, "access_denied"], ids=["code", "error"])
def test_a_response_of_another_issuer_is_refused(
    where: Connection, iss: str, error: str | None
) -> None:
    with pytest.raises(InvalidResponse) as refused:
        check(verified(code=None if error else CODE, error=error, iss=iss), where)
    assert refused.value.reason == "iss_mismatch"


@pytest.mark.parametrize("error", [None, "access_denied"], ids=["code", "error"])
def test_a_response_without_issuer_is_refused_where_it_is_required(error: str | None) -> None:
    with pytest.raises(InvalidResponse) as refused:
        check(verified(code=None if error else CODE, error=error), STRICT)
    assert refused.value.reason == "iss_missing"


def test_a_response_with_neither_code_nor_error_is_an_error_of_the_provider() -> None:
    checked = check(verified(code=None), connection())
    assert (checked.code, checked.error) == (None, "server_error")
    assert checked.error_description == "The response has neither a code nor an error."
    assert checked.state == verified().state


def test_a_response_with_both_code_and_error_is_refused() -> None:
    with pytest.raises(InvalidResponse) as refused:
        check(verified(error="access_denied"), connection())
    assert refused.value.reason == "code_and_error"


@pytest.mark.parametrize("error", [None, "access_denied"], ids=["code", "error"])
def test_a_response_that_brought_tokens_is_refused(error: str | None) -> None:
    with pytest.raises(InvalidResponse) as refused:
        check(verified(code=None if error else CODE, error=error, implicit=True), connection())
    assert refused.value.reason == "implicit"


VISIBLE = "".join(map(chr, range(0x20, 0x7F)))
FOREIGN = ["\0", "\t", "\r", "\n", "\x1f", "\x7f", "\x80", "é", "\u2028", "\u00ad", "🔑"]


def test_every_character_of_the_grammar_is_accepted_in_code_and_state() -> None:
    check(verified(code=VISIBLE, state=VISIBLE), connection())


@pytest.mark.parametrize("at", ["{}abc", "ab{}c", "abc{}"], ids=["first", "inside", "last"])
@pytest.mark.parametrize("character", FOREIGN, ids=ascii)
def test_any_other_character_is_refused_in_code_and_in_state(character: str, at: str) -> None:
    value = at.format(character)
    with pytest.raises(InvalidResponse) as refused:
        check(verified(code=value), connection())
    assert refused.value.reason == "code_characters"
    with pytest.raises(InvalidResponse) as refused:
        check(verified(state=value), connection())
    assert refused.value.reason == "state_characters"


def test_every_character_of_the_grammar_is_accepted_in_error() -> None:
    plain = VISIBLE.replace('"', "").replace("\\", "")
    check(verified(code=None, error=plain), connection())


@pytest.mark.parametrize("character", [*FOREIGN, '"', "\\"], ids=ascii)
def test_any_other_character_is_refused_in_error(character: str) -> None:
    with pytest.raises(InvalidResponse) as refused:
        check(verified(code=None, error=f"access{character}denied"), connection())
    assert refused.value.reason == "error_characters"


# -- whatever is sent ----------------------------------------------------------------------------

_pieces = st.sampled_from(
    ["code", "state", "error", "iss", "=", "&", "+", "%", "%2B", "%00", "%FF", "%ED%A0%80", "a"]
)
_queries = st.one_of(
    st.text(max_size=200),
    st.text(st.characters(categories=["Cs", "Lu"]), max_size=5),
    st.lists(_pieces, max_size=120).map("".join),
)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*KNOWN, "token", "a"]) | st.text(), inner, max_size=6)
    ),
    max_leaves=12,
)
_bodies = st.one_of(
    st.binary(max_size=200),
    _queries.map(lambda text: text.encode("utf-8", "surrogatepass")),
    _json.map(lambda members: json.dumps(members).encode()),
)
_media_types = st.sampled_from([FORM, JSON, JSON + ";charset=utf-8", "text/plain", ""]) | st.text()


@settings(deadline=None, max_examples=400)
@given(_queries, _bodies, _media_types, st.sampled_from(["GET", "POST"]))
def test_whatever_is_sent_is_read_or_refused_and_nothing_else(
    query: str, body: bytes, media_type: str, method: str
) -> None:
    headers = {"content-type": media_type, "content-length": str(len(body))}
    with contextlib.suppress(InvalidResponse):
        read = parse(Request(method, query, headers, body), EVERYTHING)
        kept = [getattr(read, name) for name in KNOWN] + list(read.extra.values())
        assert all(value is None or value.encode() for value in kept)


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([*KNOWN[:2], "a", "b"]),
        st.text(st.characters(codec="utf-8"), min_size=1, max_size=99),
    )
)
def test_what_is_sent_rightly_is_read_as_it_was_meant(sent: dict[str, str]) -> None:
    for request in (get({**sent, "x": ""}), post(get({**sent, "x": ""}).query), post_json(sent)):
        read = parse(request, EVERYTHING)
        known = {name: value for name in KNOWN if (value := getattr(read, name))}
        assert {**known, **read.extra} == sent
