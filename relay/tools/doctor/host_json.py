"""Checks of host.json, and of the platform's own app settings."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from relay import pages
from relay.oauth.request import MAX_BODY
from relay.tools.doctor.finding import Finding, fail, ok, skip, warn

FILE = "host.json"
OVERRIDE = "azurefunctionsjobhost"
"""Prefix of the app settings that override host.json, in lower case
(https://learn.microsoft.com/azure/azure-functions/functions-host-json#override-hostjson-values)."""

OUTAGE = timedelta(minutes=60)
"""An outage of Dynamics that error records must survive."""
SLOW = timedelta(seconds=20)
"""The longest time between two attempts: a code that lives for a minute gets a few of them."""
MANY = 360
"""Attempts that last for an hour, with the time between them in the relay's host.json."""
IDLE = timedelta(seconds=10)
"""The longest time until a new message is noticed."""
SHORTEST = timedelta(minutes=1)
"""The least `functionTimeout`: time for a token and two attempts at Dynamics."""

BODY_LIMIT = "FUNCTIONS_REQUEST_BODY_SIZE_LIMIT"
"""The host's own limit, in bytes; without it, or with text in it, the host takes 100 MiB of a body
into memory before it asks the relay (HttpRequestBodySizeMiddleware)."""
MAX_BODY_LIMIT = 1024 * 1024

_TIMESPAN = re.compile(r"(?:(\d{1,5})\.)?(\d{1,2}):(\d{1,2}):(\d{1,2}(?:\.\d+)?)")
_REVEALING = ("trace", "debug", "information")


@dataclass(frozen=True, slots=True)
class Value:
    """A value of host.json, and its source: a path in the file, or an app setting."""

    value: object
    where: str

    @property
    def is_true(self) -> bool:
        """Tell whether .NET reads it as true."""
        return str(self.value).lower() == "true"

    @property
    def span(self) -> timedelta | None:
        """The duration that it is (TimeSpan.Parse), if it is one."""
        found = _TIMESPAN.fullmatch(str(self.value).strip())
        if found is None:
            return None
        days, hours, minutes, seconds = (float(part or 0) for part in found.groups())
        return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)


class Effective:
    """The effective host.json: the file, and the app settings that override it."""

    def __init__(self, document: Mapping[str, Any], environ: Mapping[str, str]) -> None:
        self._values = {
            tuple(step.lower() for step in path): Value(value, ".".join(path))
            for path, value in _leaves(document)
        }
        for name, text in environ.items():
            root, *path = name.lower().replace(":", "__").split("__")
            if root == OVERRIDE and path:
                self._values[tuple(path)] = Value(text, f"the app setting {name}")

    def get(self, path: str, default: object = None) -> Value:
        """Return the value at a path such as `extensions.http.routePrefix`, or the default."""
        return self._values.get(tuple(path.lower().split(".")), Value(default, path))

    def below(self, path: str) -> dict[str, Value]:
        """Return the values directly below a path, by their names in lower case."""
        above = tuple(path.lower().split("."))
        return {key[-1]: value for key, value in self._values.items() if key[:-1] == above}


def _leaves(document: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[Any]:
    for name, value in document.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*above, name))
        else:
            yield (*above, name), value


def examine(folder: Path, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Examine host.json in the app's folder, and the platform's own settings."""
    yield from _host_json(folder / FILE, environ)
    found = list(_platform(folder, environ))
    yield from found or [ok("platform", "nothing in the environment stands in the way")]


def _host_json(file: Path, environ: Mapping[str, str]) -> Iterator[Finding]:
    if not file.is_file():
        yield skip(
            FILE,
            "it is not in this folder, and was not examined",
            "Run the doctor in the folder of the app, where function_app.py is.",
        )
        return
    try:
        document = json.loads(file.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        yield fail(
            FILE,
            "it cannot be read: plain JSON is expected, without comments",
            "Take the file that comes with the relay.",
        )
        return
    host = Effective(document, environ)
    checks = (_routes, _queues, _http, _time, _logging)
    found = [each for check in checks for each in check(host)]
    yield from found or [ok(FILE, "routes, queues, headers and logging are right")]


def _routes(host: Effective) -> Iterator[Finding]:
    prefix = host.get("extensions.http.routePrefix", "api")
    if str(prefix.value).strip("/"):
        what = "no route is where the redirect URI says: each begins with a prefix"
        yield _wrong(fail, prefix, what, '""')
    if not host.get("extensionBundle.id").value:
        yield _wrong(
            fail,
            host.get("extensionBundle.id"),
            "the host does not know queues, and loads neither callback nor redeliver",
            "Microsoft.Azure.Functions.ExtensionBundle, and its version to [4.*, 5.0.0)",
        )


def _queues(host: Effective) -> Iterator[Finding]:
    section = "extensions.queues"
    pause = host.get(f"{section}.visibilityTimeout", "00:00:00")
    attempts = host.get(f"{section}.maxDequeueCount", 5)
    between, most = pause.span, str(attempts.value)
    if between is None or not re.fullmatch(r"\d{1,9}", most):
        wrong = pause if between is None else attempts
        yield _wrong(fail, wrong, "the host cannot read it", '"00:00:10" and 500')
    elif between <= timedelta(0):
        what = "held callbacks are given up within seconds: attempts follow without a pause"
        yield _wrong(fail, pause, what, '"00:00:10"')
    else:
        lasts = between.total_seconds() * int(most)
        if lasts < OUTAGE.total_seconds():
            what = f"held callbacks are given up after {_spoken(lasts)}"
            if int(most) < MANY:
                yield _wrong(warn, attempts, what, "500")
            else:
                yield _wrong(warn, pause, what, '"00:00:10"')
        if between > SLOW:
            what = "a code expires before it was tried a few times"
            yield _wrong(warn, pause, what, '"00:00:10"')
    idle = host.get(f"{section}.maxPollingInterval", "00:01:00")
    if idle.span is None or idle.span > IDLE:
        yield _wrong(warn, idle, "held callbacks are seen too late", '"00:00:02"')
    encoding = host.get(f"{section}.messageEncoding", "base64")
    if str(encoding.value).lower() != "base64":
        yield _wrong(warn, encoding, "what was held in base64 is no longer read", '"base64"')


def _spoken(seconds: float) -> str:
    minutes = int(seconds // 60)
    return f"{minutes} minutes" if minutes > 1 else f"{seconds:.0f} seconds"


def _http(host: Effective) -> Iterator[Finding]:
    hsts = host.get("extensions.http.hsts.isEnabled", "false")
    if not hsts.is_true:
        yield _wrong(warn, hsts, "browsers are not told to keep to https", "true")
    given = host.below("extensions.http.customHeaders")
    wrong = [
        name
        for name, value in pages.SECURITY_HEADERS.items()
        if name.lower() not in given or str(given[name.lower()].value) != value
    ]
    if wrong:
        yield warn(
            FILE,
            f"the host's own pages go without the relay's {', '.join(wrong)}",
            "Set extensions.http.customHeaders as in the file that comes with the relay.",
        )


def _time(host: Effective) -> Iterator[Finding]:
    limit = host.get("functionTimeout", "-1")  # no limit; without the setting the plan has its own
    if limit.value != "-1" and (limit.span is None or limit.span < SHORTEST):
        yield _wrong(warn, limit, "deliveries are cut off before they end", '"00:02:00"')


def _logging(host: Effective) -> Iterator[Finding]:
    query = host.get("logging.applicationInsights.enableQueryStringTracing", "false")
    if query.is_true:
        what = "Application Insights keeps the query of each callback, code and all"
        yield _wrong(fail, query, what, "false")
    for category, level in host.below("logging.logLevel").items():
        ours = category.startswith("microsoft.azure.webjobs")
        reveals = str(level.value).lower() in _REVEALING
        if category.startswith("microsoft") and not ours and reveals:
            what = "ASP.NET logs the address of each callback, code and all"
            yield _wrong(fail, level, what, '"Warning"')


def _wrong(
    verdict: Callable[[str, str, str], Finding], value: Value, what: str, right: str
) -> Finding:
    if value.where.startswith("the app setting"):
        return verdict(FILE, f"{what}, by {value.where}", "Remove that app setting.")
    return verdict(FILE, f"{what} ({value.where})", f"Set {value.where} to {right} in host.json.")


_SWITCHES = {
    "WEBSITE_AUTH_ENABLED": warn(
        "platform",
        "App Service authentication is on, and may ask for a sign-in before each callback",
        "In the Function App, Authentication: allow unauthenticated access, or turn it off.",
    ),
    "WEBSITE_HTTPLOGGING_ENABLED": fail(
        "platform",
        "the web server logs the address of each callback, code and all",
        "In the Function App, App Service logs: turn Web server logging off, and leave the "
        "category AppServiceHTTPLogs out of diagnostic settings.",
    ),
    "OTEL_DOTNET_EXPERIMENTAL_ASPNETCORE_DISABLE_URL_QUERY_REDACTION": fail(
        "platform",
        "traces keep the query of each callback, the state too",
        "Remove OTEL_DOTNET_EXPERIMENTAL_ASPNETCORE_DISABLE_URL_QUERY_REDACTION.",
    ),
}
"""App settings that must not be on, and what is wrong if they are."""


def _platform(folder: Path, environ: Mapping[str, str]) -> Iterator[Finding]:
    given = {name.lower(): value.strip() for name, value in environ.items()}

    def is_on(name: str) -> bool:
        return given.get(name.lower(), "").lower() in ("1", "true")

    version = given.get("functions_extension_version", "~4")
    if not version.lstrip("~").startswith("4"):
        yield fail(
            "platform",
            "the Functions runtime is not version 4",
            "Set FUNCTIONS_EXTENSION_VERSION to ~4.",
        )
    if given.get("functions_worker_runtime", "python") != "python":
        yield fail(
            "platform",
            "the Function App is not one for Python",
            "Make a Function App with the runtime stack Python 3.13.",
        )
    for name in ("callback", "redeliver", "authorize", "examine", "gauge"):
        if is_on(f"AzureWebJobs.{name}.Disabled") or is_on(f"AzureWebJobs_{name}_Disabled"):
            yield fail(
                "platform",
                f"the function {name} is disabled",
                f"Enable it (Function App, Functions), or remove AzureWebJobs.{name}.Disabled.",
            )
    for name, finding in _SWITCHES.items():
        if is_on(name):
            yield finding
    # Azure sets the name. Elsewhere only the developer sends requests, so no limit is needed.
    if given.get("website_site_name"):
        yield from _body_limit(given.get(BODY_LIMIT.lower(), ""))
    file = folder / "requirements.txt"
    asked = is_on("PYTHON_APPLICATIONINSIGHTS_ENABLE_TELEMETRY") and file.is_file()
    if asked and "azure-monitor-opentelemetry" not in file.read_text("utf-8", errors="replace"):
        yield warn(
            "platform",
            "the relay's log goes nowhere: a package for it is missing",
            "Add azure-monitor-opentelemetry to pyproject.toml and compile requirements.txt, or "
            "remove PYTHON_APPLICATIONINSIGHTS_ENABLE_TELEMETRY.",
        )


def _body_limit(text: str) -> Iterator[Finding]:
    limit = int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None
    if limit is None or limit > MAX_BODY_LIMIT:
        yield fail(
            "platform",
            "anybody can fill the memory of the app with large bodies, which the host takes before "
            f"it asks the relay: {BODY_LIMIT} sets no limit to them",
            f"Set {BODY_LIMIT} to {2 * MAX_BODY}.",
        )
    elif limit <= MAX_BODY:
        yield fail(
            "platform",
            f"the host answers 500 to bodies that the relay takes, by {BODY_LIMIT}",
            f"Set {BODY_LIMIT} to {2 * MAX_BODY}.",
        )
