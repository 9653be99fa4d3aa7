"""The doctor names what is wrong with host.json, what overrides it, and what writes codes down."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from relay import log, pages
from relay.tools import doctor
from relay.tools.doctor.finding import Finding, Verdict
from relay.tools.doctor.host_json import BODY_LIMIT
from tests.helpers import ROOT
from tests.unit import doctor_sentences

CHECKS = ("host.json", "platform")
OVERRIDE = "AzureFunctionsJobHost__"

type Document = dict[str, Any]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Start in the folder of an app, with the host.json that comes with the relay."""
    log.quiet()
    monkeypatch.chdir(tmp_path)
    for name in ("host.json", "requirements.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    return tmp_path


def examine(environ: Mapping[str, str]) -> list[Finding]:
    """Return what the doctor finds out about the host. `canary` may stand in no finding."""
    found = list(doctor.examine(environ))
    assert "canary" not in "".join(f"{finding}" for finding in found)
    return [finding for finding in found if finding.check in CHECKS]


def test_the_file_that_comes_with_the_relay_is_well() -> None:
    found = examine({"FUNCTIONS_EXTENSION_VERSION": "~4", "FUNCTIONS_WORKER_RUNTIME": "python"})
    assert [(one.verdict, one.check) for one in found] == [
        (Verdict.OK, "host.json"),
        (Verdict.OK, "platform"),
    ]


def test_a_file_with_a_byte_order_mark_is_read(folder: Path) -> None:
    content = (folder / "host.json").read_text("utf-8")
    (folder / "host.json").write_text(content, "utf-8-sig")
    assert examine({})[0].verdict is Verdict.OK


def test_in_another_folder_the_doctor_says_where_to_start_and_examines_the_rest(
    folder: Path,
) -> None:
    (folder / "host.json").unlink()
    found = examine({"WEBSITE_HTTPLOGGING_ENABLED": "1"})
    assert [(one.verdict, one.check) for one in found] == [
        (Verdict.SKIP, "host.json"),
        (Verdict.FAIL, "platform"),
    ]
    assert "where function_app.py is" in found[0].fix


@pytest.mark.parametrize("content", ["{", "[]", '"text"', "// canary\n{}"])
def test_a_file_that_is_no_json_object_is_named(folder: Path, content: str) -> None:
    (folder / "host.json").write_text(content)
    found = examine({})
    assert found[0].verdict is Verdict.FAIL
    assert "without comments" in found[0].message


def test_an_empty_file_is_held_against_the_hosts_own_values(folder: Path) -> None:
    (folder / "host.json").write_text('{"version": "2.0"}')
    told = [f"{one.message} {one.fix}" for one in examine({}) if one.check == "host.json"]
    for expected in (
        "routePrefix",
        "extensionBundle",
        "visibilityTimeout",
        "maxPollingInterval",
        "hsts",
        "customHeaders",
    ):
        assert any(expected in text for text in told), expected
    assert len(told) == 6


# -- what is broken, and what is said of it --------------------------------------------------------


def http(document: Document) -> Document:
    return document["extensions"]["http"]  # type: ignore[no-any-return]


def queues(document: Document) -> Document:
    return document["extensions"]["queues"]  # type: ignore[no-any-return]


type Break = Callable[[Document], object]

BROKEN: list[tuple[str, Break, str, str, str]] = [
    (
        "the prefix that a new app has",
        lambda it: http(it).update(routePrefix="api"),
        "fail",
        "no route is where",
        'extensions.http.routePrefix to ""',
    ),
    (
        "no prefix named, which is api",
        lambda it: http(it).pop("routePrefix"),
        "fail",
        "no route is where",
        'extensions.http.routePrefix to ""',
    ),
    (
        "no extension bundle",
        lambda it: it.pop("extensionBundle"),
        "fail",
        "does not know queues",
        "ExtensionBundle",
    ),
    (
        "no pause between attempts",
        lambda it: queues(it).update(visibilityTimeout="00:00:00"),
        "fail",
        "given up within seconds",
        "extensions.queues.visibilityTimeout",
    ),
    (
        "no pause named, which is none",
        lambda it: queues(it).pop("visibilityTimeout"),
        "fail",
        "given up within seconds",
        "extensions.queues.visibilityTimeout",
    ),
    (
        "too few attempts for an outage of an hour",
        lambda it: queues(it).update(maxDequeueCount=359),
        "warn",
        "given up after 59 minutes",
        "extensions.queues.maxDequeueCount to 500",
    ),
    (
        "no number of attempts named, which is five",
        lambda it: queues(it).pop("maxDequeueCount"),
        "warn",
        "given up after 50 seconds",
        "extensions.queues.maxDequeueCount",
    ),
    (
        "a pause that is over too soon for an outage of an hour",
        lambda it: queues(it).update(visibilityTimeout="00:00:01"),
        "warn",
        "given up after 8 minutes",
        "extensions.queues.visibilityTimeout",
    ),
    (
        "a pause in which a code expires",
        lambda it: queues(it).update(visibilityTimeout="00:05:00"),
        "warn",
        "a code expires",
        "extensions.queues.visibilityTimeout",
    ),
    (
        "a pause that the host cannot read",
        lambda it: queues(it).update(visibilityTimeout="canary"),
        "fail",
        "cannot read it",
        "extensions.queues.visibilityTimeout",
    ),
    (
        "attempts that the host cannot read",
        lambda it: queues(it).update(maxDequeueCount="canary"),
        "fail",
        "cannot read it",
        "extensions.queues.maxDequeueCount",
    ),
    (
        "polling that takes its time",
        lambda it: queues(it).update(maxPollingInterval="00:01:00"),
        "warn",
        "seen too late",
        "extensions.queues.maxPollingInterval",
    ),
    (
        "another encoding",
        lambda it: queues(it).update(messageEncoding="none"),
        "warn",
        "no longer read",
        "extensions.queues.messageEncoding",
    ),
    (
        "no HSTS",
        lambda it: http(it)["hsts"].update(isEnabled=False),
        "warn",
        "keep to https",
        "extensions.http.hsts.isEnabled to true",
    ),
    (
        "a header that is not there",
        lambda it: http(it)["customHeaders"].pop("Referrer-Policy"),
        "warn",
        "go without the relay's Referrer-Policy",
        "extensions.http.customHeaders",
    ),
    (
        "a header with another value",
        lambda it: http(it)["customHeaders"].update({"X-Frame-Options": "SAMEORIGIN"}),
        "warn",
        "go without the relay's X-Frame-Options",
        "extensions.http.customHeaders",
    ),
    (
        "a time-out that cuts deliveries off",
        lambda it: it.update(functionTimeout="00:00:30"),
        "warn",
        "cut off",
        "functionTimeout",
    ),
    (
        "query string tracing",
        lambda it: it["logging"]["applicationInsights"].update(enableQueryStringTracing=True),
        "fail",
        "code and all",
        "logging.applicationInsights.enableQueryStringTracing to false",
    ),
    (
        "ASP.NET's log",
        lambda it: it["logging"]["logLevel"].update({"Microsoft.AspNetCore": "Information"}),
        "fail",
        "code and all",
        "logging.logLevel.Microsoft.AspNetCore",
    ),
    (
        "everything of Microsoft's",
        lambda it: it["logging"]["logLevel"].update({"Microsoft": "Trace"}),
        "fail",
        "code and all",
        "logging.logLevel.Microsoft to",
    ),
]


@pytest.mark.parametrize(
    ("name", "breaks", "verdict", "wrong", "fix"), BROKEN, ids=[row[0] for row in BROKEN]
)
def test_exactly_the_cause_is_named_with_its_fix(
    folder: Path, name: str, breaks: Break, verdict: str, wrong: str, fix: str
) -> None:
    document = json.loads((folder / "host.json").read_text("utf-8"))
    breaks(document)
    (folder / "host.json").write_text(json.dumps(document))
    trouble = assert_only(examine({}), verdict, "host.json", wrong, fix)
    doctor_sentences.assert_told(f"host.json: {name}", trouble)


def assert_only(found: list[Finding], verdict: str, check: str, wrong: str, fix: str) -> Finding:
    (trouble,) = [one for one in found if one.verdict is not Verdict.OK]
    assert (trouble.verdict, trouble.check) == (Verdict(verdict), check)
    assert wrong in trouble.message
    assert fix in trouble.fix
    assert trouble.connection is None
    return trouble


@pytest.mark.parametrize(
    "changes",
    [
        lambda it: it.pop("functionTimeout"),
        lambda it: it.update(functionTimeout="-1"),
        lambda it: queues(it).update(visibilityTimeout="0.00:00:20", maxDequeueCount=180),
        lambda it: queues(it).update(messageEncoding="Base64"),
        lambda it: it["logging"]["logLevel"].update({"Microsoft": "Warning"}),
        lambda it: it["logging"]["logLevel"].update({"default": "Information"}),
        lambda it: it["logging"]["logLevel"].update({"Microsoft.Azure.WebJobs": "Information"}),
        lambda it: http(it)["customHeaders"].update({"X-Further": "is fine"}),
        lambda it: queues(it).update(batchSize=1),
    ],
)
def test_what_is_a_matter_of_taste_is_left_alone(folder: Path, changes: Break) -> None:
    document = json.loads((folder / "host.json").read_text("utf-8"))
    changes(document)
    (folder / "host.json").write_text(json.dumps(document))
    assert {one.verdict for one in examine({})} == {Verdict.OK}


@pytest.mark.parametrize(
    ("path", "value", "verdict", "wrong"),
    [
        ("extensions__http__routePrefix", "canary", "fail", "no route is where"),
        ("EXTENSIONS__QUEUES__VISIBILITYTIMEOUT", "00:00:00", "fail", "within seconds"),
        ("extensions__queues__maxDequeueCount", "5", "warn", "after 50 seconds"),
        ("extensions__http__hsts__isEnabled", "False", "warn", "keep to https"),
        (
            "logging__applicationInsights__enableQueryStringTracing",
            "True",
            "fail",
            "code and all",
        ),
        ("logging__logLevel__Microsoft", "Debug", "fail", "code and all"),
    ],
)
def test_an_app_setting_that_overrides_the_file_is_named_itself(
    path: str, value: str, verdict: str, wrong: str
) -> None:
    name = f"{OVERRIDE}{path}"
    assert_only(examine({name: value}), verdict, "host.json", wrong, "Remove that app setting")
    (trouble,) = [one for one in examine({name: value}) if one.verdict is not Verdict.OK]
    assert name in trouble.message


def test_an_override_is_read_as_windows_may_spell_it() -> None:
    name = "AzureFunctionsJobHost:extensions:http:routePrefix"
    assert_only(examine({name: "api"}), "fail", "host.json", name, "Remove that app setting")


def test_an_override_that_mends_the_file_counts(folder: Path) -> None:
    document = json.loads((folder / "host.json").read_text("utf-8"))
    http(document)["routePrefix"] = "api"
    (folder / "host.json").write_text(json.dumps(document))
    assert examine({f"{OVERRIDE}extensions__http__routePrefix": ""})[0].verdict is Verdict.OK


def test_the_headers_that_are_asked_for_are_the_pages_own(folder: Path) -> None:
    document = json.loads((folder / "host.json").read_text("utf-8"))
    http(document)["customHeaders"] = {}
    (folder / "host.json").write_text(json.dumps(document))
    for name in pages.SECURITY_HEADERS:
        assert name in examine({})[0].message


# -- the environment -------------------------------------------------------------------------------

REDACTION = "OTEL_DOTNET_EXPERIMENTAL_ASPNETCORE_DISABLE_URL_QUERY_REDACTION"
TELEMETRY = "PYTHON_APPLICATIONINSIGHTS_ENABLE_TELEMETRY"


@pytest.mark.parametrize(
    ("name", "value", "verdict", "wrong", "fix"),
    [
        ("FUNCTIONS_EXTENSION_VERSION", "~3", "fail", "not version 4", "~4"),
        ("FUNCTIONS_WORKER_RUNTIME", "dotnet", "fail", "not one for Python", "Python 3.13"),
        ("AzureWebJobs.redeliver.Disabled", "true", "fail", "redeliver is disabled", "Enable"),
        ("AzureWebJobs_callback_Disabled", "1", "fail", "callback is disabled", "Enable"),
        ("WEBSITE_AUTH_ENABLED", "True", "warn", "sign-in", "unauthenticated"),
        ("WEBSITE_HTTPLOGGING_ENABLED", "1", "fail", "code and all", "AppServiceHTTPLogs"),
        (REDACTION, "true", "fail", "traces keep", f"Remove {REDACTION}"),
        (TELEMETRY, "true", "warn", "log goes nowhere", "azure-monitor-opentelemetry"),
    ],
)
def test_what_stands_in_the_way_in_the_environment_is_named(
    name: str, value: str, verdict: str, wrong: str, fix: str
) -> None:
    trouble = assert_only(examine({name: value}), verdict, "platform", wrong, fix)
    doctor_sentences.assert_told(f"platform: {name}={value}", trouble)


@pytest.mark.parametrize(
    ("limit", "wrong"),
    [
        (None, "fill the memory"),
        ("", "fill the memory"),
        ("64 KB", "fill the memory"),
        ("-1", "fill the memory"),
        ("104857600", "fill the memory"),
        ("16384", "answers 500 to bodies that the relay takes"),
        ("0", "answers 500 to bodies that the relay takes"),
    ],
)
def test_in_azure_large_bodies_need_a_limit(limit: str | None, wrong: str) -> None:
    given = {} if limit is None else {BODY_LIMIT: limit}
    environ = {"WEBSITE_SITE_NAME": "func-relay", **given}
    assert_only(examine(environ), "fail", "platform", wrong, f"Set {BODY_LIMIT} to 65536.")
    # At a desk nobody else posts.
    assert {one.verdict for one in examine(given)} == {Verdict.OK}


def test_the_limit_that_the_deployment_sets_is_right() -> None:
    environ = {"WEBSITE_SITE_NAME": "func-relay", BODY_LIMIT: "65536"}
    assert {one.verdict for one in examine(environ)} == {Verdict.OK}


def test_what_is_off_or_provided_for_is_left_alone(folder: Path) -> None:
    with (folder / "requirements.txt").open("a") as file:
        file.write("azure-monitor-opentelemetry==1.8.0\n")
    environ = {
        "FUNCTIONS_EXTENSION_VERSION": "4.1040.300",
        "AzureWebJobs.redeliver.Disabled": "false",
        "WEBSITE_AUTH_ENABLED": "False",
        "WEBSITE_HTTPLOGGING_ENABLED": "0",
        TELEMETRY: "true",
    }
    assert {one.verdict for one in examine(environ)} == {Verdict.OK}
