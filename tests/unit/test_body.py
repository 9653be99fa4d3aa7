"""The JSON body for Dynamics."""

import json
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.body import Template, TemplateError

VALUES: dict[str, str | None] = {"code": "the-code", "state": "the-state", "iss": None}


def render(source: str, values: Mapping[str, str | None] = VALUES) -> object:
    body = Template(source).render(values)
    return json.loads(body)


def fault(source: str) -> str:
    with pytest.raises(TemplateError) as caught:
        Template(source)
    return str(caught.value)


@pytest.mark.parametrize(
    ("source", "body"),
    [
        pytest.param(
            '{"code": "{code}", "state": "{state}"}',
            {"code": "the-code", "state": "the-state"},
            id="flat",
        ),
        pytest.param(
            '{"_contract": {"Code": "{code}", "State": "{state}"}}',
            {"_contract": {"Code": "the-code", "State": "the-state"}},
            id="a-custom-service-nests",
        ),
        pytest.param(
            '{"c": "{code}", "dataAreaId": "usmf", "n": 1, "f": 1.5, "t": true, "x": null}',
            {
                "c": "the-code",
                "dataAreaId": "usmf",
                "n": 1,
                "f": 1.5,
                "t": True,
                "x": None,
            },
            id="constants-just-stand-there",
        ),
        pytest.param(
            '{"c": ["{code}", ["{state}"], {"x": "{state}"}, 7]}',
            {"c": ["the-code", ["the-state"], {"x": "the-state"}, 7]},
            id="lists",
        ),
        pytest.param(
            '{"c": "<{code}|{state}>{code}"}',
            {"c": "<the-code|the-state>the-code"},
            id="several-in-one-string",
        ),
        pytest.param(
            '{"c": "{{{code}}} {{}} {{state}}"}',
            {"c": "{the-code} {} {state}"},
            id="doubled-braces-are-literal",
        ),
        pytest.param(
            r'{"c": "\u007bcode}", "q": "\"\\\n"}',
            {"c": "the-code", "q": '"\\\n'},
            id="escapes-are-read-as-json-before-placeholders",
        ),
        pytest.param(
            '{"{state}": "{code}"}', {"{state}": "the-code"}, id="names-are-no-place-for-values"
        ),
        pytest.param('{"c": "{code}", "{": "é🔑"}', {"c": "the-code", "{": "é🔑"}, id="unicode"),
    ],
)
def test_placeholders_are_filled_in_strings_at_any_depth(source: str, body: object) -> None:
    assert render(source) == body


@pytest.mark.parametrize("absent", [{"iss": None}, {}], ids=["none", "unknown-to-the-caller"])
def test_a_member_that_is_one_placeholder_without_a_value_is_left_out(
    absent: Mapping[str, str | None],
) -> None:
    source = '{"c": "{code}", "i": "{iss}", "deep": {"i": "{iss}"}, "list": ["{iss}", "{code}"]}'
    assert render(source, {"code": "x", **absent}) == {"c": "x", "deep": {}, "list": ["x"]}


def test_a_placeholder_without_a_value_in_a_longer_string_is_empty() -> None:
    source = '{"c": "{code}", "one": "[{iss}]", "two": "{iss}{iss}", "brace": "{{{iss}"}'
    assert render(source) == {"c": "the-code", "one": "[]", "two": "", "brace": "{"}


def test_a_further_parameter_of_the_provider_has_its_own_placeholder() -> None:
    template = Template('{"c": "{code}", "realm": "{param:realmId}", "x": "{param:a.b-c d}"}')
    assert template.params == {"realmId", "a.b-c d"}
    body = template.render({"code": "x", "param:realmId": "9", "param:a.b-c d": "y"})
    assert json.loads(body) == {"c": "x", "realm": "9", "x": "y"}


def test_a_template_tells_which_placeholders_it_uses() -> None:
    template = Template('{"a": {"b": ["{code} {error}"]}, "c": "{{state}}", "d": "{param:x}"}')
    assert template.names == {"code", "error", "param:x"}
    assert template.params == {"x"}


@pytest.mark.parametrize(
    "name",
    [
        "code",
        "state",
        "error",
        "error_description",
        "error_uri",
        "iss",
        "session_state",
        "code_verifier",
        "redirect_uri",
        "connection",
        "delivery_id",
        "state_hash",
        "reference",
        "received_at",
        "expires_at",
    ],
)
def test_every_placeholder_of_the_contract_is_known(name: str) -> None:
    source = f'{{"code": "{{code}}", "it": "{{{name}}}"}}'
    assert render(source, {"code": "c", name: "its value"}) == {
        "code": "its value" if name == "code" else "c",
        "it": "its value",
    }


def test_a_body_has_no_blanks_that_nobody_reads() -> None:
    source = '{ "code" : "{code}", "n": [1, 2] }'
    assert Template(source).render(VALUES) == b'{"code":"the-code","n":[1,2]}'


OBJECT = "expected one JSON object"
NO_JSON = "NaN and Infinity are not JSON"
TWICE = "a member stands twice in one object"
NO_CODE = "expected {code} somewhere, or Dynamics never gets one"


@pytest.mark.parametrize(
    ("source", "told"),
    [
        pytest.param("", OBJECT, id="nothing"),
        pytest.param("{code}", OBJECT, id="no-json"),
        pytest.param('{"code": "{code}"', OBJECT, id="cut-short"),
        pytest.param("{'code': '{code}'}", OBJECT, id="single-quotes"),
        pytest.param('{"code": "{code}"} x', OBJECT, id="with-a-tail"),
        pytest.param('["{code}"]', OBJECT, id="an-array"),
        pytest.param('"{code}"', OBJECT, id="a-string"),
        pytest.param('{"code": "{code}", "n": NaN}', NO_JSON, id="nan"),
        pytest.param('{"code": "{code}", "n": -Infinity}', NO_JSON, id="infinity"),
        pytest.param('{"code": "{code}", "n": 1e999}', NO_JSON, id="a-number-beyond-all-numbers"),
        pytest.param(
            '{"code": "{code}", "n": ' + "1" * 5_000 + "}", OBJECT, id="a-number-of-5000-digits"
        ),
        pytest.param('{"code": "{code}", "code": "x"}', TWICE, id="a-member-twice"),
        pytest.param('{"x": {"code": "{code}", "code": "x"}}', TWICE, id="a-deeper-member-twice"),
        pytest.param('{"state": "{state}"}', NO_CODE, id="without-a-code"),
        pytest.param('{"{code}": "x"}', NO_CODE, id="the-code-only-as-a-name"),
        pytest.param('{"code": "{{code}}"}', NO_CODE, id="the-code-only-in-literal-braces"),
    ],
)
def test_a_template_that_can_not_work_is_refused_when_it_is_read(source: str, told: str) -> None:
    assert fault(source) == told


def test_a_template_has_at_most_32_levels_of_objects_and_arrays() -> None:
    for opened, closed in (("[", "]"), ('{"y": ', "}")):
        deepest = opened * 31 + "{at}" + closed * 31
        Template('{"code": "{code}", "x": ' + deepest.replace("{at}", "1") + "}")
        deeper = opened * 32 + "1" + closed * 32
        told = fault('{"code": "{code}", "x": ' + deeper + "}")
        assert told == "objects in objects, too many"


@pytest.mark.parametrize("levels", [3_000, 30_000], ids=["to-fill", "to-read"])
def test_a_template_that_is_too_deep_is_refused_when_it_is_read(levels: int) -> None:
    source = '{"code": "{code}", "x": ' + "[" * levels + "]" * levels + "}"
    try:
        fault(source)
    except RecursionError:
        pytest.fail("RecursionError", pytrace=False)  # whose traceback has a thousand lines


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("{codes}", id="misspelt"),
        pytest.param("{Code}", id="other-case"),
        pytest.param("{ code }", id="with-spaces"),
        pytest.param("{}", id="empty"),
        pytest.param("{}}", id="empty-before-a-brace"),
        pytest.param("{param:}", id="a-parameter-without-a-name"),
        pytest.param("{Param:x}", id="another-prefix"),
        pytest.param("{client_secret}", id="none-of-the-outside-world"),
    ],
)
def test_an_unknown_placeholder_is_refused_and_the_known_ones_are_named(text: str) -> None:
    message = fault(f'{{"code": "{{code}}", "x": "{text}"}}')
    assert message.startswith("unknown placeholder; known are {code} {state} ")
    assert "{state_hash}" in message
    assert message.endswith(" {param:NAME}")


@pytest.mark.parametrize("text", ["{", "}", "a}b", "{code", "{{}", "{co{de}"])
def test_a_single_brace_is_refused(text: str) -> None:
    told = fault(f'{{"code": "{{code}}", "x": "{text}"}}')
    assert told == "a single brace: write {{ or }} for a literal one"


@pytest.mark.parametrize(
    "source",
    [
        '{"code": "{code}", "x": "canary',
        '{"code": "{code}", "x": "{canary}"}',
        '{"code": "{code}", "x": "canary}"}',
        '{"code": "{code}", "canary": 1, "canary": 2}',
        '{"x": "canary"}',
        '["canary"]',
    ],
)
def test_a_fault_is_told_without_a_word_of_the_template(source: str) -> None:
    assert "canary" not in fault(source)


_texts = st.text(st.characters(codec="utf-8"))


@settings(deadline=None)
@given(_texts, _texts)
def test_any_code_and_state_arrive_byte_for_byte(code: str, state: str) -> None:
    source = '{"one": {"c": "{code}", "s": "{state}"}, "both": "{{{code}|{state}}}", "n": 1}'
    assert render(source, {"code": code, "state": state}) == {
        "one": {"c": code, "s": state},
        "both": f"{{{code}|{state}}}",
        "n": 1,
    }


@settings(deadline=None)
@given(_texts)
def test_a_value_that_looks_like_a_placeholder_is_only_a_value(text: str) -> None:
    values: dict[str, str | None] = {"code": "{state}" + text, "state": "{code}{{"}
    assert render('{"c": "{code}{state}"}', values) == {"c": "{state}" + text + "{code}{{"}


@settings(deadline=None)
@given(_texts)
def test_any_literal_text_can_be_written_with_doubled_braces(text: str) -> None:
    doubled = text.replace("{", "{{").replace("}", "}}")
    source = json.dumps({"code": "{code}", "text": doubled})
    assert render(source) == {"code": "the-code", "text": text}


@settings(deadline=None)
@given(_texts)
def test_a_body_is_ascii_so_that_no_one_on_the_way_can_misread_it(text: str) -> None:
    assert Template('{"c": "{code}", "é": "é"}').render({"code": text}).isascii()


@settings(deadline=None, max_examples=300)
@given(
    st.text()
    | st.lists(
        st.sampled_from(["{", "}", '"', ":", ",", "[", "]", "code", "{code}", "1", "\\", "\ud800"])
    ).map("".join)
)
def test_whatever_the_template_is_it_works_or_is_refused(source: str) -> None:
    try:
        template = Template(source)
    except TemplateError:
        return
    json.loads(template.render({"code": "x"}))


def test_members_tell_what_stands_where() -> None:
    template = Template(
        '{"code": "{code}", "_contract": {"State": "s-{state}{{", "n": 1, "none": null},'
        ' "list": ["{iss}", "x"], "dataAreaId": "usmf"}'
    )
    assert list(template.members()) == [
        (("code",), ("code",), ""),
        (("_contract", "State"), ("state",), "s-{"),
        (("_contract", "n"), (), 1),
        (("_contract", "none"), (), None),
        (("list",), ("iss",), ""),
        (("list",), (), "x"),
        (("dataAreaId",), (), "usmf"),
    ]
