"""What several tests build: a connection, requests, responses. All values are made up."""

import hashlib
import json
import os
import re
import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlencode

import pytest

from relay.body import Template
from relay.connections import (
    DEFAULT,
    ClientCredentials,
    ClientSecret,
    Connection,
    Provider,
    StatePolicy,
    Target,
)
from relay.oauth import authorization
from relay.oauth.authorization import AuthorizationResponse, VerifiedResponse
from relay.oauth.request import Request, response_parameters

ROOT = Path(__file__).resolve().parent.parent
"""The repository."""
SHEBANG = f"""#!/bin/sh
'''exec' "{sys.executable}" "$0" "$@"
' '''"""
"""The first lines of a Python script that is run by its name: `#!` takes no path with blanks."""

TRUST = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""The environment variables that name the CAs to trust."""
GIVEN_TRUST = {name: os.environ[name] for name in TRUST if name in os.environ}

CODE = "canary-code-5f1c"
STATE = "canary-state-b72e"
SECRET = "canary-secret-90ad"
TOKEN = "canary-token-3e68"
CANARY = "canary"
"""Stands in every value above: what must not leak is looked for by this word."""

URL = "https://contoso.operations.dynamics.com/data/OAuthCallbacks"
FORM = "application/x-www-form-urlencoded"
JSON = "application/json"


def connection(
    *,
    name: str = DEFAULT,
    provider: Provider | None = None,
    pattern: str | None = None,
    body: str = '{"code": "{code}", "state": "{state}"}',
    url: str = URL,
    timeout: float = 5.0,
    code_ttl: int = 300,
) -> Connection:
    """Return a connection: policy `opaque`, or `pattern` when there is one."""
    return Connection(
        name=name,
        provider=provider or Provider(),
        state_policy=StatePolicy.OPAQUE if pattern is None else StatePolicy.PATTERN,
        state_pattern=None if pattern is None else re.compile(pattern),
        state_keys={},
        code_ttl=timedelta(seconds=code_ttl),
        credentials=ClientCredentials(
            authority="https://login.microsoftonline.com/contoso.com",
            client_id="client",
            credential=ClientSecret(SECRET),
            scope="https://contoso.operations.dynamics.com/.default",
        ),
        target=Target(name, url, Template(body), timeout),
    )


def get(query: str | Mapping[str, str], headers: Mapping[str, str] | None = None) -> Request:
    """Return the GET of `response_mode=query`; a text is taken raw."""
    raw = query if isinstance(query, str) else urlencode(query)
    return Request("GET", raw, headers or {}, b"")


def post(body: str | bytes, media_type: str | None = FORM, query: str = "") -> Request:
    """Return a POST with a body as it is."""
    raw = body.encode() if isinstance(body, str) else body
    headers = {"content-length": str(len(raw))}
    if media_type is not None:
        headers["content-type"] = media_type
    return Request("POST", query, headers, raw)


def post_json(members: object, query: str = "") -> Request:
    """Return a POST of JSON."""
    return post(json.dumps(members), JSON, query)


def response(
    *,
    code: str | None = CODE,
    state: str | None = STATE,
    error: str | None = None,
    iss: str | None = None,
    implicit: bool = False,
    extra: Mapping[str, str] | None = None,
) -> AuthorizationResponse:
    """Return what the provider's redirect said, not believed yet."""
    return AuthorizationResponse(
        code, state, error=error, iss=iss, implicit=implicit, extra=extra or {}
    )


def verified(
    *,
    code: str | None = CODE,
    state: str = STATE,
    error: str | None = None,
    iss: str | None = None,
    implicit: bool = False,
    extra: Mapping[str, str] | None = None,
) -> VerifiedResponse:
    """Return a response that is believed."""
    return VerifiedResponse(code, state, error=error, iss=iss, implicit=implicit, extra=extra or {})


@contextmanager
def public_trust() -> Iterator[None]:
    """Trust what this machine trusts, for a process that needs the network.

    In all other tests conftest.py leaves a CA that nobody uses.
    """
    with pytest.MonkeyPatch.context() as environment:
        for name in TRUST:
            environment.delenv(name, raising=False)
        for name, value in GIVEN_TRUST.items():
            environment.setenv(name, value)
        yield


def tiny_wheel(folder: Path) -> str:
    """Make the smallest package that pip installs; return the line that pins it."""
    name = "tiny-1.0.dist-info"
    file = folder / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("tiny/__init__.py", "ANSWER = 42\n")
        archive.writestr(f"{name}/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        tags = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr(f"{name}/WHEEL", tags)
        archive.writestr(f"{name}/RECORD", "")
    return f"tiny==1.0 --hash=sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}\n"


def parse(request: Request, where: Connection) -> AuthorizationResponse:
    """Return the authorization response of a request, not verified."""
    return authorization.parse(response_parameters(request), where)


def response_jwt(request: Request, where: Connection) -> str | None:
    """Return the JWT that the response of a request is (JARM)."""
    return authorization.secured(response_parameters(request), where)
