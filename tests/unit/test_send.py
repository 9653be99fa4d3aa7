"""`python -m relay send` walks one record to Dynamics and says what became of it."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from starlette.responses import Response

from relay import log
from relay.tools import smoke_record
from relay.tools.commands import main
from relay.tools.doctor.reasons import HINTS
from sandbox.dynamics import Dynamics
from sandbox.entra import Entra
from sandbox.entra import Fault as EntraFault
from sandbox.serving import Server
from sandbox.target import Fault
from sandbox.tls import Authority
from tests.fakes import b64, compact, hs256
from tests.refusals import CASES

APP = "0f8e3a52-6d1b-4c47-9a35-2b1c0d9e8f70"
SECRET = "canary~secret"
KEY = "k1:QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE"


class Stage:
    """A relay's settings, and the Entra and Dynamics that they are of."""

    def __init__(self, stack: ExitStack) -> None:
        self.authority = authority = stack.enter_context(Authority())
        tls = authority.server_context()
        self.entra = Entra(clients={APP: SECRET})
        entra = stack.enter_context(Server(self.entra.app, tls=tls))
        self.dynamics = Dynamics(self.entra, key_length=1024)
        self.server = stack.enter_context(Server(self.dynamics.app, tls=tls))
        self.entra.resources.add(self.server.url)
        self.settings = {
            "ENTRA_AUTHORITY": f"{entra.url}/{self.entra.tenant}",
            "ENTRA_CLIENT_ID": APP,
            "ENTRA_CLIENT_SECRET": SECRET,
            "DYNAMICS_URL": f"{self.server.url}/data/OAuthCallbacks",
            "STATE_POLICY": "opaque",
            "CA_BUNDLE": str(authority.bundle),
        }


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Stage]:
    with ExitStack() as stack:
        made = Stage(stack)
        monkeypatch.chdir(tmp_path)
        for name, value in made.settings.items():
            monkeypatch.setenv(name, value)
        yield made


class Said:
    """What the command printed, by its labels, and how it ended."""

    def __init__(self, code: int, text: str) -> None:
        self.code, self.text = code, text
        self.words: dict[str, str] = {}
        label = ""
        for line in text.splitlines():
            assert len(line) <= 80
            label = line[:11].strip() or label
            self.words[label] = f"{self.words.get(label, '')} {line[11:].strip()}".strip()


@pytest.fixture
def send(stage: Stage, capsys: pytest.CaptureFixture[str]) -> "Send":
    return Send(stage, capsys)


class Send:
    """Types the command, and looks for what it must never print."""

    def __init__(self, stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
        self.stage, self.capsys = stage, capsys

    def __call__(self, *options: str) -> Said:
        log.quiet()
        code = main(["send", *options])
        printed = self.capsys.readouterr()
        for secret in ("canary", "eyJ", "QUFB", *self.stage.dynamics.rows):
            assert secret not in printed.out + printed.err
        return Said(code, printed.out)


def test_a_record_is_delivered_and_can_be_found_again(stage: Stage, send: Send) -> None:
    said = send()
    assert said.code == 0
    assert (said.words["outcome"], said.words["dynamics"]) == ("delivered", "HTTP 204")
    assert smoke_record.CODE in said.words["next"]
    (row,) = stage.dynamics.rows.values()
    assert row["code"] == smoke_record.CODE
    (post,) = [seen for seen in stage.dynamics.requests if seen.method == "POST"]
    assert post.headers["x-ms-client-request-id"] == said.words["reference"]


def test_a_record_is_delivered_on_plain_asyncio_too(
    stage: Stage, send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has only what requirements.txt names has no uvloop."""
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert send().words["outcome"] == "delivered"


def test_blanks_around_the_path_of_the_bundle_change_nothing(
    stage: Stage, send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CA_BUNDLE", f" {stage.settings['CA_BUNDLE']}\n")
    assert send().words["outcome"] == "delivered"


def test_each_run_is_another_record(stage: Stage, send: Send) -> None:
    assert [send().code, send().code] == [0, 0]
    assert len(stage.dynamics.rows) == 2


def test_a_state_of_dynamics_is_sent_as_it_is_and_told_as_a_duplicate_then(
    stage: Stage, send: Send
) -> None:
    state = "canary-of-dynamics"
    assert send("--state", state).words["outcome"] == "delivered"
    again = send("--state", state)
    assert (again.code, again.words["outcome"]) == (0, "duplicate")
    assert list(stage.dynamics.rows) == [state]


@pytest.mark.parametrize(
    ("fault", "dynamics", "reason", "fix"),
    [
        (Fault.FORBIDDEN, "HTTP 403", "dynamics_403", "privilege"),
        (Fault.VALIDATION, "HTTP 400", "dynamics_400", "send --state"),
        (Fault.NOT_FOUND, "HTTP 404", "dynamics_404", "nearest name"),
        (Fault.UNAUTHORIZED, "HTTP 401", "dynamics_401", "registration"),
        (Fault.THROTTLED, "HTTP 429", "dynamics_429", "Wait"),
        (Fault.UNAVAILABLE, "HTTP 503", "dynamics_503", "Wait"),
        (Fault.SERVER_ERROR, "HTTP 500", "dynamics_500", "exception"),
        (Fault.SIGN_IN_PAGE, "HTTP 200", "dynamics_html", "authority"),
        (Fault.REDIRECT, "HTTP 302", "dynamics_redirect", "authority"),
        (Fault.RESET, None, "dynamics_connection", "doctor"),
    ],
)
def test_what_dynamics_refuses_is_told_with_the_next_step(
    stage: Stage, send: Send, fault: Fault, dynamics: str | None, reason: str, fix: str
) -> None:
    stage.dynamics.mode = fault
    said = send()
    assert (said.code, said.words["outcome"]) == (1, "rejected")
    assert said.words.get("dynamics") == dynamics
    assert said.words["reason"] == reason
    assert fix in said.words["next"]
    assert stage.dynamics.rows == {}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("bc-row-lock", "dynamics_busy"),
        ("bc-just-published", "dynamics_publishing"),
        ("bc-starting", "dynamics_starting"),
        ("dv-administration-mode", "dynamics_administration"),
        ("dv-disabled", "dynamics_disabled"),
        ("dv-requests", "dynamics_throttled"),
    ],
)
def test_a_refusal_that_passes_is_told_by_what_it_says_and_not_by_its_status(
    stage: Stage, send: Send, line: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = CASES[line].dynamics[0]
    answer = Response(given.content, given.status)
    monkeypatch.setattr(stage.dynamics, "_attempt", lambda *_: answer)
    said = send()
    assert (said.words["reason"], said.words["dynamics"]) == (reason, f"HTTP {given.status}")
    wrong, fix = HINTS[reason]
    assert (said.words["that is"], said.words["next"]) == (f"{wrong} (HTTP {given.status})", fix)


def test_what_entra_refuses_is_told_by_its_code(
    stage: Stage, send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENTRA_CLIENT_SECRET", "canary~wrong")
    said = send()
    assert (said.code, said.words["reason"]) == (1, "AADSTS7000215")
    assert "ENTRA_CLIENT_SECRET" in said.words["next"]
    assert stage.dynamics.posts == 0


def test_an_outage_of_entra_is_told_as_its_own(stage: Stage, send: Send) -> None:
    stage.entra.mode = EntraFault.UNAVAILABLE
    said = send()
    assert (said.code, said.words["reason"]) == (1, "AADSTS90033")
    assert "dynamics" not in said.words


def test_a_state_that_the_connection_does_not_take_goes_nowhere(
    stage: Stage, send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STATE_POLICY", "pattern")
    monkeypatch.setenv("STATE_PATTERN", "^[A-Z]{20}$")
    said = send()
    assert (said.code, said.words["outcome"]) == (1, "invalid")
    assert "--state" in said.words["next"]
    assert (stage.entra.token_requests, stage.dynamics.posts) == (0, 0)
    assert send("--state", "A" * 20).words["outcome"] == "delivered"


def test_a_signed_state_is_minted_and_bound_as_at_the_start_of_a_flow(
    stage: Stage, send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "STATE_POLICY": "signed",
        "STATE_KEYS": KEY,
        "PROVIDER_AUTHORIZATION_ENDPOINT": "https://provider.example/authorize",
        "PROVIDER_CLIENT_ID": "dynamics",
        "PROVIDER_REDIRECT_URI": "https://relay.example/callback",
        "DYNAMICS_BODY": json.dumps(
            {"code": "{code}", "state": "{state}", "error": "{code_verifier}{redirect_uri}"}
        ),
    }.items():
        monkeypatch.setenv(name, value)
    assert send().code == 0
    (row,) = stage.dynamics.rows.values()
    signed, _, mac = row["state"].rpartition(".")
    assert mac == b64(hs256(b"A" * 32)(signed.encode()))
    assert len(row["error"]) == 43 + len("https://relay.example/callback")


def test_another_connection_is_sent_to_by_its_name(
    stage: Stage, send: Send, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DYNAMICS_URL")
    url = stage.settings["DYNAMICS_URL"]
    monkeypatch.setenv("CONNECTIONS__XERO__DYNAMICS_URL", url)
    assert send("--connection", "xero").code == 0
    assert main(["send"]) == 1
    assert "xero" in capsys.readouterr().err


def test_the_record_has_what_a_providers_response_has(
    stage: Stage, send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = {"code": "{code}", "state": "{state}", "error": "{iss} {param:realm}"}
    monkeypatch.setenv("DYNAMICS_BODY", json.dumps(template))
    monkeypatch.setenv("PROVIDER_ISSUER", "https://provider.example")
    monkeypatch.setenv("PROVIDER_ISS_REQUIRED", "true")
    assert send().code == 0
    (row,) = stage.dynamics.rows.values()
    assert row["error"] == f"https://provider.example {smoke_record.CODE}"


# -- environments --------------------------------------------------------------------------------

ENVIRONMENTS = {
    "STATE_POLICY": "signed",
    "STATE_KEYS": KEY,
    "ENVIRONMENTS__UAT__STATE_KEYS": f"u1:{b64(b'B' * 32)}",
}


@pytest.fixture
def uat(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dynamics]:
    """Return the Dynamics of an environment `uat` behind the same redirect URI."""
    dynamics = Dynamics(stage.entra, key_length=1024)
    with Server(dynamics.app, tls=stage.authority.server_context()) as server:
        stage.entra.resources.add(server.url)
        url = f"{server.url}/data/OAuthCallbacks"
        for name, value in {**ENVIRONMENTS, "ENVIRONMENTS__UAT__DYNAMICS_URL": url}.items():
            monkeypatch.setenv(name, value)
        yield dynamics


@pytest.mark.parametrize("name", ["uat", "UAT"])
def test_a_record_is_sent_to_the_environment_that_is_named(
    stage: Stage, uat: Dynamics, send: Send, name: str
) -> None:
    assert send("--environment", name).words["outcome"] == "delivered"
    assert (len(uat.rows), len(stage.dynamics.rows)) == (1, 0)
    assert send().words["outcome"] == "delivered"
    assert (len(uat.rows), len(stage.dynamics.rows)) == (1, 1)


def test_a_state_of_another_environment_goes_nowhere(
    stage: Stage, uat: Dynamics, send: Send, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["state", "--environment", "uat"]) == 0
    minted = capsys.readouterr().out.strip()
    said = send("--state", minted)
    assert (said.code, said.words["outcome"]) == (1, "invalid")
    assert "--environment" in said.words["next"]
    assert (uat.posts, stage.dynamics.posts) == (0, 0)
    assert send("--state", minted, "--environment", "uat").words["outcome"] == "delivered"
    assert list(uat.rows) == [minted]


@pytest.mark.parametrize("command", ["send", "state", "ticket"])
def test_an_environment_that_is_not_there_is_answered_with_those_that_are(
    uat: Dynamics, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    def refusal(*options: str) -> str:
        assert main([command, *options]) == 1
        printed = capsys.readouterr()
        assert printed.out == ""
        return printed.err

    assert "There are: uat" in refusal("--environment", "canary")
    assert "canary" not in refusal("--environment", "canary")
    monkeypatch.setenv("CONNECTIONS__XERO__CODE_TTL", "60")  # inherits the environment alone
    assert "--environment: uat" in refusal("--connection", "xero")
    monkeypatch.delenv("ENVIRONMENTS__UAT__STATE_KEYS")
    assert "ENVIRONMENTS__UAT__STATE_KEYS: expected" in refusal("--environment", "uat")
    monkeypatch.delenv("ENVIRONMENTS__UAT__DYNAMICS_URL")
    monkeypatch.delenv("CONNECTIONS__XERO__CODE_TTL")
    assert "has no environments" in refusal("--environment", "uat")
    assert uat.posts == 0


def test_a_state_under_the_key_of_an_environment_that_names_none_goes_nowhere(
    stage: Stage, uat: Dynamics, send: Send
) -> None:
    claims = {"aud": "callback:default", "exp": int(time.time()) + 600, "jti": "j" * 16}
    minted = compact({"alg": "HS256", "typ": "JWT", "kid": "u1"}, claims, hs256(b"B" * 32))
    said = send("--state", minted, "--environment", "uat")
    assert (said.code, said.words["outcome"]) == (1, "invalid")
    assert (uat.posts, stage.dynamics.posts) == (0, 0)
