"""The API Management variant: policies that are well-formed, safe, and in step with the relay.

No gateway runs offline. The text is read as the gateway reads it: XML first, then the expressions.
"""

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest

from relay import pages, settings
from relay.outcome import Outcome
from tests.infra.view import INFRA, parsed, used

APIM = INFRA / "apim"
CALLBACK = APIM / "callback.policy.xml"
DONE = APIM / "done.policy.xml"
POLICIES = [CALLBACK, DONE]

SECTIONS = ["inbound", "backend", "outbound", "on-error"]
ANYWHERE = {
    "base",
    "cache-lookup-value",
    "cache-remove-value",
    "cache-store-value",
    "choose",
    "retry",
    "return-response",
    "send-request",
    "set-variable",
}
ONLY_INBOUND = {"rate-limit-by-key"}
"""https://learn.microsoft.com/azure/api-management/api-management-policies"""

CHILDREN = {
    "choose": {"when", "otherwise"},
    "return-response": {"set-status", "set-header", "set-body"},
    "send-request": {"set-url", "set-method", "set-header", "set-body"},
    "set-header": {"value"},
}
HOLD_POLICIES = {"when", "otherwise", "retry"}

REQUIRED = {
    "cache-lookup-value": {"key", "variable-name"},
    "cache-remove-value": {"key"},
    "cache-store-value": {"key", "value", "duration"},
    "rate-limit-by-key": {"calls", "renewal-period", "counter-key"},
    "retry": {"condition", "count", "interval"},
    "send-request": {"mode", "response-variable-name", "timeout", "ignore-error"},
    "set-header": {"name", "exists-action"},
    "set-status": {"code", "reason"},
    "set-variable": {"name", "value"},
    "when": {"condition"},
}


def root(path: Path) -> ET.Element:
    return ET.fromstring(path.read_text(encoding="utf-8"))  # noqa: S314 - the project's own file


def expressions(path: Path) -> list[str]:
    """Return every policy expression, unescaped."""
    texts = [
        text
        for element in root(path).iter()
        for text in (*element.attrib.values(), (element.text or "").strip())
    ]
    return [text for text in texts if text.startswith("@")]


def without_strings(expression: str) -> str:
    """Return an expression without its string literals. Raises when one does not end."""
    kept = re.sub(r'@"(?:[^"]|"")*"|"(?:[^"\\]|\\.)*"', " ", expression)
    if '"' in kept:
        raise ValueError("a string without an end")
    return kept


def balanced(expression: str) -> bool:
    """Tell whether the brackets of an expression close in their order."""
    closing = {")": "(", "]": "[", "}": "{"}
    opened: list[str] = []
    for character in without_strings(expression.removeprefix("@")):
        if character in "([{":
            opened.append(character)
        elif character in closing and (not opened or opened.pop() != closing[character]):
            return False
    return not opened


def statements(element: ET.Element) -> Iterator[ET.Element]:
    """Return every policy below an element, those inside choose and retry too."""
    for child in element:
        yield child
        for holder in child.iter():
            if holder.tag in HOLD_POLICIES:
                yield from holder


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.name)
def test_a_policy_has_its_four_sections_in_order(path: Path) -> None:
    policies = root(path)
    assert policies.tag == "policies"
    assert [section.tag for section in policies] == SECTIONS
    for section in policies:
        assert section.find("base") is not None


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.name)
def test_only_known_policies_stand_in_a_section(path: Path) -> None:
    for section in root(path):
        allowed = ANYWHERE | (ONLY_INBOUND if section.tag == "inbound" else set())
        for statement in statements(section):
            assert statement.tag in allowed, f"{section.tag}: {statement.tag}"


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.name)
def test_every_policy_has_what_it_needs(path: Path) -> None:
    for element in root(path).iter():
        assert set(element.attrib) >= REQUIRED.get(element.tag, set()), element.tag
        for child in element:
            assert child.tag in CHILDREN.get(element.tag, {child.tag}), element.tag


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.name)
def test_every_expression_is_balanced(path: Path) -> None:
    found = expressions(path)
    assert len(found) > 5
    for expression in found:
        assert balanced(expression), expression
        assert expression.startswith("@(")
        assert expression.endswith(")")


@pytest.mark.parametrize("broken", ['@(a["b")', "@(a))", "@((a)", "@(a]", "@{ return (1; }"])
def test_an_expression_that_is_not_balanced_is_seen(broken: str) -> None:
    assert not balanced(broken)


def test_a_string_without_an_end_is_seen() -> None:
    with pytest.raises(ValueError, match="without an end"):
        balanced('@(a + "b)')


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.name)
def test_a_variable_is_set_before_it_is_read(path: Path) -> None:
    known: set[str] = set()
    for element in root(path).iter():
        for text in (*element.attrib.values(), element.text or ""):
            # A retry's condition is worked out after what stands in it.
            if element.tag != "retry":
                assert set(re.findall(r'context\.Variables\["(\w+)"\]', text)) <= known, text
        for name in ("name", "variable-name", "response-variable-name"):
            if element.tag in ("set-variable", "cache-lookup-value", "send-request"):
                known.add(element.attrib.get(name, ""))


# -- what it does ---------------------------------------------------------------------------------


def test_dynamics_gets_the_members_of_the_relays_default_body() -> None:
    template = settings.ConnectionSettings.model_fields["dynamics_body"].default
    rendered = json.loads(template.render({"code": "c", "state": "s"}))
    (body,) = (text for text in expressions(CALLBACK) if "new JObject(" in text)
    members = re.findall(r'new JProperty\("(\w+)", \(string\)context\.Variables\["(\w+)"\]\)', body)
    assert dict(members) == {"code": "code", "state": "state"}
    assert set(rendered) == set(dict(members))


def test_dynamics_gets_the_headers_of_the_contract() -> None:
    (send,) = (
        one
        for one in root(CALLBACK).iter("send-request")
        if one.attrib["response-variable-name"] == "delivery"
    )
    headers = {one.attrib["name"]: one.findtext("value") for one in send.iter("set-header")}
    assert headers == {
        "Authorization": '@("Bearer " + (string)context.Variables["token"])',
        "Content-Type": "application/json",
        "Accept": "application/json",
        "OData-Version": "4.0",
        "OData-MaxVersion": "4.0",
        "Prefer": "return=minimal",
        "x-ms-client-request-id": '@((string)context.Variables["reference"])',
    }
    assert send.findtext("set-method") == "POST"


def test_no_call_waits_for_ever() -> None:
    for send in root(CALLBACK).iter("send-request"):
        assert 0 < int(send.attrib["timeout"]) <= 20
        assert send.attrib["ignore-error"] == "true"


def test_every_field_of_the_token_request_is_encoded() -> None:
    (body,) = (text for text in expressions(CALLBACK) if "grant_type=client_credentials" in text)
    for name in re.findall(r"\{\{([\w-]+)\}\}", body):
        assert f'Uri.EscapeDataString(@"{{{{{name}}}}}")' in body
    assert {"client_id=", "client_secret=", "scope="} <= set(re.findall(r"[a-z_]+=", body))


def test_a_token_is_kept_as_long_as_it_lives_less_five_minutes() -> None:
    (store,) = root(CALLBACK).iter("cache-store-value")
    assert '["expires_in"] - 300' in store.attrib["duration"]
    (remove,) = root(CALLBACK).iter("cache-remove-value")
    assert remove.attrib["key"] == store.attrib["key"]


def test_the_state_is_checked_before_anything_else_is_believed() -> None:
    checks = [one.attrib["condition"] for one in root(CALLBACK).iter("when")]
    state = next(n for n, text in enumerate(checks) if "relay-state-pattern" in text)
    error = next(n for n, text in enumerate(checks) if 'ContainsKey("error")' in text)
    code = next(n for n, text in enumerate(checks) if "{1,8192}" in text)
    assert state < error < code
    # The whole of it: `$` would let a line feed through.
    assert r'@"\A(?:{{relay-state-pattern}})\z"' in checks[state]


def test_a_browser_that_only_looks_ahead_is_sent_away_before_anything_happens() -> None:
    first = next(root(CALLBACK).iter("when"))
    for word in ('"Sec-Purpose"', '"Purpose"', '"X-Moz"', '"prefetch|prerender"'):
        assert word in first.attrib["condition"]
    status = first.find("return-response/set-status")
    assert status is not None
    assert status.attrib["code"] == "503"


def test_a_parameter_given_twice_is_no_parameter() -> None:
    for name in ("code", "state"):
        (text,) = (
            one.attrib["value"]
            for one in root(CALLBACK).iter("set-variable")
            if one.attrib["name"] == name
        )
        assert f'Query["{name}"].Length == 1' in text


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.name)
def test_no_code_reaches_a_trace_or_a_page(path: Path) -> None:
    tags = {element.tag for element in root(path).iter()}
    assert not tags & {"trace", "log-to-eventhub", "emit-metric"}
    for response in root(path).iter("return-response"):
        text = "".join(response.itertext())
        for leak in (
            'Variables["code"]',
            'Variables["state"]',
            'Variables["token"]',
            "LastError.M",
        ):
            assert leak not in text


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.name)
def test_every_answer_stays_out_of_caches(path: Path) -> None:
    for response in root(path).iter("return-response"):
        headers = {one.attrib["name"]: one.findtext("value") for one in response.iter("set-header")}
        assert headers["Cache-Control"] == "no-store"


def test_a_page_has_the_relays_headers() -> None:
    (page,) = root(DONE).iter("return-response")
    headers = {one.attrib["name"]: one.findtext("value") for one in page.iter("set-header")}
    for name in ("Referrer-Policy", "X-Content-Type-Options", "X-Frame-Options", "X-Robots-Tag"):
        assert headers[name] == pages.SECURITY_HEADERS[name]
    assert "default-src 'none'" in str(headers["Content-Security-Policy"])
    assert "unsafe" not in str(headers["Content-Security-Policy"])


def test_the_callback_ends_at_a_page_that_there_is() -> None:
    values = [
        text
        for one in root(CALLBACK).iter("set-variable")
        if one.attrib["name"] == "outcome"
        for text in re.findall(r'^(\w+)$|"(\w+)"', one.attrib["value"])
    ]
    outcomes = {first or second for first, second in values} & {str(one) for one in Outcome}
    assert outcomes == {"delivered", "duplicate", "declined", "invalid", "rejected"}
    shown = re.findall(r'Variables\["outcome"\] == "(\w+)"', DONE.read_text())
    assert set(shown) == outcomes


def test_a_page_has_the_status_that_the_relays_page_has() -> None:
    for when in root(DONE).iter("when"):
        (outcome,) = re.findall(r'== "(\w+)"', when.attrib["condition"])
        status = when.find("set-variable[@name='status']")
        assert status is not None
        assert status.attrib["value"] == f"@({pages.done(outcome, '').status:d})"
    other = root(DONE).find(".//otherwise/set-variable[@name='status']")
    assert other is not None
    assert other.attrib["value"] == f"@({pages.done('nonsense', '').status:d})"


def test_every_mark_of_a_duplicate_is_looked_for_after_the_sent_values_are_cut_out() -> None:
    variables = {
        one.attrib["name"]: one.attrib["value"] for one in root(CALLBACK).iter("set-variable")
    }
    for name in ("code", "state"):
        assert f'.Replace((string)context.Variables["{name}"], "")' in variables["answer"]
    for mark in (
        "already exists",
        "DuplicateKeyException",
        "Internal_EntityWithSameKeyExists",
        "0x80060892",
    ):
        assert f'"{mark}"' in CALLBACK.read_text()


# -- its Bicep ------------------------------------------------------------------------------------


def test_every_named_value_is_given_and_used() -> None:
    service = used(APIM / "main.bicep", "avm/res/api-management/service")
    given = {one["name"] for one in service["namedValues"]}
    named = set(re.findall(r"\{\{([\w-]+)\}\}", CALLBACK.read_text() + DONE.read_text()))
    assert given == named


def test_the_secret_comes_from_the_vault_and_nothing_else_is_one() -> None:
    service = used(APIM / "main.bicep", "avm/res/api-management/service")
    (secret,) = (one for one in service["namedValues"] if "keyVault" in one)
    assert secret["name"] == "relay-client-secret"
    assert secret["secret"] is True
    assert "value" not in secret


def test_the_api_is_open_but_for_its_state_and_has_the_relays_paths() -> None:
    service = used(APIM / "main.bicep", "avm/res/api-management/service")
    (api,) = service["apis"]
    assert api["path"] == ""
    assert api["protocols"] == ["https"]
    assert api["subscriptionRequired"] is False
    routes = {one["urlTemplate"]: one["method"] for one in api["operations"]}
    assert routes == {"/callback": "GET", "/done/{outcome}": "GET"}
    for operation in api["operations"]:
        (policy,) = operation["policies"]
        assert policy["format"] == "xml"


def test_no_log_of_the_gateway_is_on() -> None:
    service = used(APIM / "main.bicep", "avm/res/api-management/service")
    assert service["diagnosticSettings"] == []
    assert "loggers" not in service


def test_the_tier_has_a_cache_for_the_token() -> None:
    assert "@allowed(['BasicV2', 'StandardV2', 'Developer'])" in (APIM / "main.bicep").read_text()


def test_the_readmes_command_gives_every_parameter_that_must_be_given() -> None:
    text = (APIM / "README.md").read_text()
    command = text[text.index("az deployment group create") : text.index("It prints")]
    wanted = parsed(APIM / "main.bicep")["parameters"]
    required = {name for name, one in wanted.items() if one["default"] is None}
    assert set(re.findall(r"(\w+)=", command)) == required
    assert "`GatewayLogs`" in text
