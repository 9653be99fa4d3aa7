"""infra/dynamics/dataverse: the plug-in is compiled as C# 7 and driven.

Key Vault and the token endpoint are HTTPS servers on loopback. Microsoft.Xrm.Sdk is the stand-in in
`dataverse/Sdk.cs`, with a database behind it. Mono is needed: `mono-mcs`, `mono-runtime`,
`libmono-system-net-http4.0-cil`, `libmono-system-servicemodel4.0a-cil`.
"""

import base64
import dataclasses
import hashlib
import json
import os
import re
import shutil
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any
from urllib.parse import parse_qs

import pytest

from sandbox.tls import Authority

ROOT = Path(__file__).parents[2]
PLUGIN = ROOT / "infra" / "dynamics" / "dataverse" / "plugin" / "OAuthCallbackPlugins.cs"
STAND_IN = Path(__file__).parent / "dataverse"
LIBRARIES = (
    "Mono.Security",
    "System.Net.Http",
    "System.Runtime.Serialization",
    "System.ServiceModel",
    "System.Xml",
    "System.Xml.Linq",
)
ASSEMBLIES = Path("/usr/lib/mono/4.5")
MCS, MONO = (shutil.which(name) or "" for name in ("mcs", "mono"))
MISSING = (
    not MCS or not MONO or not all((ASSEMBLIES / f"{name}.dll").exists() for name in LIBRARIES)
)
pytestmark = pytest.mark.skipif(MISSING, reason="Mono and its libraries are not installed")

TOKENS = {"access_token": "at-1", "refresh_token": "rt-1", "expires_in": 3600}
UNREACHABLE = "unreachable"
WAITING = "waiting"
NOT_SET_UP = "not set up"


def compiled(folder: Path, *sources: Path) -> Path:
    """Compile C# 7 and return the program; a warning is an error."""
    program = folder / "program.exe"
    done = subprocess.run(
        [
            MCS,
            "-langversion:7",
            "-warnaserror",
            f"-out:{program}",
            *(f"-r:{name}" for name in LIBRARIES),
            *sources,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return program


# -- the vault and the token endpoint --------------------------------------------------------------


@dataclasses.dataclass
class Answer:
    """What the token endpoint answers; `status` 0 closes the connection without an answer."""

    status: int = 200
    body: str = json.dumps(TOKENS)
    headers: dict[str, str] = dataclasses.field(default_factory=dict)


class Cloud:
    """Key Vault and a provider's token endpoint behind one address."""

    def __init__(self) -> None:
        self.authority = Authority()
        cloud = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                """Log nothing."""

            def do_GET(self) -> None:
                self.answer(*cloud.vault("GET", self.path, self.headers["Authorization"], ""))

            def do_PUT(self) -> None:
                body = self.body()
                self.answer(*cloud.vault("PUT", self.path, self.headers["Authorization"], body))

            def do_POST(self) -> None:
                form = {name: value for name, [value] in parse_qs(self.body()).items()}
                cloud.requests.append((form, dict(self.headers)))
                answer = cloud.answers.pop(0) if cloud.answers else Answer()
                if answer.status:
                    self.answer(answer.status, answer.body, answer.headers)
                else:
                    self.close_connection = True

            def body(self) -> str:
                return self.rfile.read(int(self.headers["Content-Length"])).decode()

            def answer(self, status: int, body: str, headers: dict[str, str]) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body.encode())))
                self.end_headers()
                self.wfile.write(body.encode())

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.socket = self.authority.server_context().wrap_socket(
            self.server.socket, server_side=True
        )
        self.url = f"https://localhost:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()
        self.reset()

    def reset(self) -> None:
        self.secrets: dict[str, list[str]] = {"secret": ["s3cret"]}
        self.requests: list[tuple[dict[str, str], dict[str, str]]] = []
        self.answers: list[Answer] = []
        self.refuses: Callable[[str, str, str], int] = lambda _method, _name, _value: 0

    def vault(
        self, method: str, path: str, authorization: str, body: str
    ) -> tuple[int, str, dict[str, str]]:
        assert authorization == "Bearer token-for-https://vault.azure.net/.default"
        found = re.fullmatch(r"/secrets/([a-z-]+)(?:/(\d+))?\?api-version=7\.4", path)
        assert found
        name, version = found.groups()
        value = json.loads(body)["value"] if body else ""
        if status := self.refuses(method, name, value):
            return status, '{"error":{"code":"no"}}', {}
        if method == "PUT":
            self.secrets.setdefault(name, []).append(value)
        if name not in self.secrets:
            return 404, '{"error":{"code":"SecretNotFound"}}', {}
        number = int(version or len(self.secrets[name]))
        secret = {"id": f"{self.url}/secrets/{name}/{number}"}
        if (stored := self.secrets[name][number - 1]) is not None:
            secret["value"] = stored
        return 200, json.dumps(secret), {}

    @property
    def tokens(self) -> dict[str, Any]:
        """The tokens that whoever needs them finds."""
        stored: dict[str, Any] = json.loads(self.secrets["tokens"][-1])
        return stored

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()
        self.authority.close()


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    found = Cloud()
    yield found
    found.close()


# -- Dataverse -------------------------------------------------------------------------------------


class Dataverse:
    """The harness: a Dataverse with the plug-in's two steps."""

    def __init__(self, process: "subprocess.Popen[str]", cloud: Cloud) -> None:
        assert process.stdin
        assert process.stdout
        self._in: IO[str] = process.stdin
        self._out: IO[str] = process.stdout
        self.configuration = {
            "connectionName": "xero",
            "tokenEndpoint": f"{cloud.url}/token",
            "redirectUri": "https://relay.example/callback/xero",
            "clientId": "client",
            "vault": cloud.url,
            "clientSecretName": "secret",
            "tokensName": "tokens",
        }

    def run(self, command: str, **given: str) -> list[dict[str, str]]:
        self._in.write(f"{command} {json.dumps(given)}\n")
        self._in.flush()
        answer: list[dict[str, str]] = json.loads(self._out.readline())
        return answer

    def start(self, flow: str, state: str = "", **given: str) -> None:
        """Store a pending flow, as whoever starts one does."""
        row = {"connectionname": "xero", "expiresat": at(minutes=10), "used": "false"}
        if state:
            row["statehash"] = hashed(state)
        row.update(given)
        self.run("insert", table=PENDING, oacb_flowname=flow, **columns(row))

    def create(self, state: str, /, command: str = "create", **given: str) -> list[dict[str, str]]:
        """POST a callback, as the relay does."""
        row = {"state": state, "statehash": hashed(state), "connectionname": "xero"}
        row |= {"expiresat": at(minutes=4), "receivedat": at(), **given}
        return self.run(command, table=CALLBACK, **columns(row))

    def redeem(self, command: str = "redeem", /, **changes: Any) -> list[dict[str, str]]:
        return self.run(command, configuration=json.dumps(self.configuration | changes))

    def age(self, **changes: str) -> None:
        """Change columns of every callback, such as its times."""
        self.run("change", table=CALLBACK, **columns(changes))

    def plan(self, state: str, *codes: str) -> None:
        """Have the next updates of a callback end in these faults; 0 is none."""
        for code in codes:
            self.run("fault", **{"state hash": hashed(state), "code": code})

    def rows(self, table: str) -> list[dict[str, str]]:
        return self.run("rows", table=table)

    @property
    def callback(self) -> dict[str, str]:
        [row] = self.rows(CALLBACK)
        return {name.removeprefix("oacb_"): value for name, value in row.items()}

    @property
    def flow(self) -> dict[str, str]:
        [row] = self.rows(PENDING)
        return {name.removeprefix("oacb_"): value for name, value in row.items()}


CALLBACK, PENDING = "oacb_oauthcallback", "oacb_oauthpendingstate"
FLOW = "AQIDBAUGBwgJCgsMDQ4PEA"


def columns(given: dict[str, str]) -> dict[str, str]:
    return {name if name == "createdon" else f"oacb_{name}": v for name, v in given.items()}


def at(**ahead: float) -> str:
    return (datetime.now(UTC) + timedelta(**ahead)).isoformat()


def state_of(flow: str, salt: str = "") -> str:
    claims = json.dumps({"aud": "callback:xero", "exp": 1, "jti": flow}).encode()
    return f"e30.{base64.urlsafe_b64encode(claims).decode().rstrip('=')}.sig{salt}"


def hashed(state: str) -> str:
    return hashlib.sha256(state.encode()).hexdigest()


STATE = state_of(FLOW)
DUPLICATE = {"fault": "80060892"}


@pytest.fixture(scope="module")
def harness(
    tmp_path_factory: pytest.TempPathFactory, cloud: Cloud
) -> "Iterator[subprocess.Popen[str]]":
    folder = tmp_path_factory.mktemp("plugin")
    program = compiled(folder, PLUGIN, *sorted(STAND_IN.glob("*.cs")))
    authority = folder / "ca.der"
    authority.write_bytes(ssl.PEM_cert_to_DER_cert(cloud.authority.bundle.read_text()))
    with subprocess.Popen(
        [MONO, program, authority],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder)},
    ) as process:
        yield process
        assert process.stdin
        process.stdin.close()
    assert process.returncode == 0


@pytest.fixture
def dataverse(harness: "subprocess.Popen[str]", cloud: Cloud) -> Dataverse:
    cloud.reset()
    found = Dataverse(harness, cloud)
    found.run("reset")
    return found


@pytest.fixture
def waiting(dataverse: Dataverse) -> Dataverse:
    """Return a Dataverse with one callback that has come and waits."""
    dataverse.start(FLOW, STATE, codeverifier="v" * 43)
    assert dataverse.create(STATE, code="c+d/e=") == [{"created": "yes"}]
    return dataverse


# -- redeeming -------------------------------------------------------------------------------------


def test_a_code_is_redeemed_and_its_tokens_are_in_the_vault(
    waiting: Dataverse, cloud: Cloud
) -> None:
    assert waiting.callback["outcome"] == waiting.flow["outcome"] == WAITING
    waiting.redeem()
    [(form, headers)] = cloud.requests
    assert form == {
        "grant_type": "authorization_code",
        "code": "c+d/e=",
        "redirect_uri": "https://relay.example/callback/xero",
        "code_verifier": "v" * 43,
        "client_id": "client",
        "client_secret": "s3cret",
    }
    assert headers["Accept"] == "application/json"
    assert waiting.callback["outcome"] == waiting.flow["outcome"] == "redeemed"
    assert waiting.callback["processed"] == "True"
    assert {name: cloud.tokens[name] for name in TOKENS} == TOKENS
    waiting.redeem()
    assert len(cloud.requests) == 1


def test_the_secret_goes_into_the_header_where_the_provider_wants_it(
    waiting: Dataverse, cloud: Cloud
) -> None:
    cloud.secrets["secret"] = ["a:b c"]
    waiting.redeem(secretInHeader=True)
    [(form, headers)] = cloud.requests
    assert base64.b64decode(headers["Authorization"].removeprefix("Basic ")) == b"client:a%3Ab%20c"
    assert not {"client_id", "client_secret"} & set(form)


HTML = "<html>busy</html>"
ERROR = '{"error":"invalid_grant"}'
# What the token endpoint answers, how the callback ends, and whether the code is sent again.
VERDICTS: dict[str, tuple[Answer, str, bool]] = {
    "GitHub says a bad code with 200": (
        Answer(body='{"error":"bad_verification_code"}'),
        "refused",
        False,
    ),
    "HTML with 200": (Answer(body=HTML), UNREACHABLE, False),
    "nothing with 200": (Answer(body=""), UNREACHABLE, False),
    "no object": (Answer(body='["at-1"]'), UNREACHABLE, False),
    "a token that is no string": (Answer(body='{"access_token":{"a":1}}'), UNREACHABLE, False),
    "a number as token": (Answer(body='{"access_token":17}'), UNREACHABLE, False),
    "an empty token": (Answer(body='{"access_token":""}'), UNREACHABLE, False),
    "an invalid grant": (Answer(400, ERROR), "refused", False),
    "HTML with 400": (Answer(400, HTML), "refused", False),
    "an unknown client": (Answer(401, '{"error":"invalid_client"}'), NOT_SET_UP, False),
    "a client without the grant": (
        Answer(400, '{"error":"unauthorized_client"}'),
        NOT_SET_UP,
        False,
    ),
    "a token with 500": (Answer(500), UNREACHABLE, False),
    "an error with 502": (Answer(502, ERROR), UNREACHABLE, False),
    "a redirect": (Answer(307, "", {"Location": "/token"}), UNREACHABLE, False),
    "no answer": (Answer(0), UNREACHABLE, False),
    "more than a mebibyte": (Answer(body=json.dumps(TOKENS) + " " * (1 << 20)), UNREACHABLE, False),
    "too many requests": (Answer(429, ERROR), WAITING, True),
    "out of service": (Answer(503, HTML), WAITING, True),
}


@pytest.mark.parametrize(("answer", "outcome", "again"), VERDICTS.values(), ids=list(VERDICTS))
def test_redeemed_means_that_a_token_is_there(
    waiting: Dataverse, cloud: Cloud, answer: Answer, outcome: str, again: bool
) -> None:
    cloud.secrets["tokens"] = ['{"access_token":"old","refresh_token":"older"}']
    cloud.answers = [answer]
    waiting.redeem()
    row = waiting.callback
    assert row["outcome"] == waiting.flow["outcome"] == outcome
    assert (row["processed"], "code" in row, "codeverifier" in row) == (
        str(not again),
        again,
        again,
    )
    assert cloud.tokens == {"access_token": "old", "refresh_token": "older"}
    waiting.redeem()
    assert len(cloud.requests) == 1 + again
    assert (waiting.callback["outcome"] == "redeemed") == again
    if again:
        assert cloud.requests[0][0] == cloud.requests[1][0]


@pytest.mark.parametrize(
    "configuration",
    [
        {"tokenEndpoint": "http://127.0.0.1/token"},
        {"tokenEndpoint": "/token"},
        {"vault": "http://v"},
    ],
    ids=["http", "relative", "vault over http"],
)
def test_a_secret_goes_over_https_only(
    waiting: Dataverse, cloud: Cloud, configuration: dict[str, Any]
) -> None:
    waiting.redeem(**configuration)
    assert waiting.callback["outcome"] == NOT_SET_UP
    assert waiting.callback["code"] == "c+d/e="
    assert not cloud.requests


# -- the code is spent last ------------------------------------------------------------------------


def missing(cloud: Cloud, name: str) -> None:
    del cloud.secrets[name]


def valueless(cloud: Cloud, value: Any) -> None:
    cloud.secrets["secret"] = [value]


def refusing(cloud: Cloud, method: str, name: str, status: int) -> None:
    cloud.refuses = lambda m, n, _value: status if (m, n) == (method, name) else 0


BEFORE: dict[str, Callable[[Cloud], None]] = {
    "no such secret": lambda cloud: missing(cloud, "secret"),
    "a secret without value": lambda cloud: valueless(cloud, None),
    "an empty secret": lambda cloud: valueless(cloud, ""),
    "no role to read": lambda cloud: refusing(cloud, "GET", "secret", 403),
    "no role to write": lambda cloud: refusing(cloud, "PUT", "tokens-hold", 403),
    "a deleted name": lambda cloud: refusing(cloud, "PUT", "tokens", 409),
    "a busy vault": lambda cloud: refusing(cloud, "GET", "tokens", 429),
}


@pytest.mark.parametrize("breaks", BEFORE.values(), ids=list(BEFORE))
def test_a_fault_before_the_request_costs_no_code(
    waiting: Dataverse, cloud: Cloud, breaks: Callable[[Cloud], None]
) -> None:
    breaks(cloud)
    waiting.redeem()
    assert not cloud.requests
    assert waiting.callback["outcome"] == waiting.flow["outcome"] == NOT_SET_UP
    assert waiting.callback["code"] == "c+d/e="
    cloud.reset()
    waiting.redeem()
    assert waiting.callback["outcome"] == "redeemed"
    assert cloud.requests[0][0]["code_verifier"] == "v" * 43


def test_a_plugin_without_identity_keeps_the_code(waiting: Dataverse, cloud: Cloud) -> None:
    waiting.run("identity", fails="true")
    waiting.redeem()
    assert (waiting.callback["outcome"], cloud.requests) == (NOT_SET_UP, [])
    waiting.run("identity", fails="false")
    waiting.redeem()
    assert waiting.callback["outcome"] == "redeemed"


NOT_BEGUN = "RedeemCallback took no callback: look at the unsecure configuration of its step."
CONFIGURATIONS: dict[str, Callable[[str], str]] = {
    "none": lambda _right: "",
    "a null": lambda _right: "null",
    "a list": lambda _right: "[]",
    "empty": lambda _right: "{}",
    "half of it": lambda right: right[: len(right) // 2],
    "a missing member": lambda right: right.replace("tokensName", "tokenName"),
    "a member of another type": lambda right: right[:-1] + ', "secretInHeader": "sometimes"}',
    "no connection": lambda right: right.replace('"xero"', '""'),
}


@pytest.mark.parametrize("broken", CONFIGURATIONS.values(), ids=list(CONFIGURATIONS))
def test_a_step_with_a_broken_configuration_says_so_and_costs_no_code(
    waiting: Dataverse, cloud: Cloud, broken: Callable[[str], str]
) -> None:
    right = json.dumps(waiting.configuration)
    assert broken(right) != right
    told = waiting.run("redeem", configuration=broken(right))
    assert told == [{"traced": NOT_BEGUN}]  # a failed job would keep the code
    assert (waiting.callback["outcome"], waiting.callback["code"]) == (WAITING, "c+d/e=")
    assert not cloud.requests
    assert waiting.redeem() == []
    assert waiting.callback["outcome"] == "redeemed"


def test_a_job_without_services_does_not_fail(waiting: Dataverse) -> None:
    waiting.run("services", fail="true")
    assert waiting.redeem() == []
    waiting.run("services", fail="false")
    assert (waiting.callback["outcome"], waiting.callback["code"]) == (WAITING, "c+d/e=")


def test_a_code_whose_time_is_over_is_not_sent(waiting: Dataverse, cloud: Cloud) -> None:
    waiting.age(expiresat=at(seconds=-1))
    waiting.redeem()
    assert waiting.callback["outcome"] == waiting.flow["outcome"] == "expired"
    assert not {"code", "codeverifier"} & set(waiting.callback)
    assert not cloud.requests


# -- tokens are never lost -------------------------------------------------------------------------


def test_tokens_that_the_vault_refuses_wait_encrypted(waiting: Dataverse, cloud: Cloud) -> None:
    cloud.refuses = lambda method, name, value: (
        403 * ((method, name) == ("PUT", "tokens") and value != "{}")
    )
    waiting.redeem()
    row = waiting.callback
    assert row["outcome"] == waiting.flow["outcome"] == "tokens not stored yet"
    assert row["processed"] == "False"
    readable = "".join(row.values()) + base64.b64decode(row["heldtokens"]).decode("latin-1")
    assert "at-1" not in readable
    assert cloud.secrets["tokens-hold"][0] not in readable
    waiting.redeem()
    assert waiting.callback["outcome"] == "tokens not stored yet"
    cloud.refuses = lambda _method, _name, _value: 0
    waiting.redeem()
    assert waiting.callback["outcome"] == waiting.flow["outcome"] == "redeemed"
    assert {name: cloud.tokens[name] for name in TOKENS} == TOKENS
    assert not {"heldtokens", "heldkey"} & set(waiting.callback)
    assert len(cloud.requests) == 1


def test_held_tokens_end_after_a_day(waiting: Dataverse, cloud: Cloud) -> None:
    cloud.refuses = lambda method, name, value: (
        400 * ((method, name) == ("PUT", "tokens") and len(value) > 2)
    )
    waiting.redeem()
    waiting.age(claimedat=at(hours=-25))
    waiting.redeem()
    assert waiting.callback["outcome"] == "interrupted"
    assert not {"heldtokens", "heldkey"} & set(waiting.callback)


def test_held_tokens_do_not_replace_newer_ones(waiting: Dataverse, cloud: Cloud) -> None:
    cloud.refuses = lambda method, name, value: (
        429 * ((method, name) == ("PUT", "tokens") and "at-1" in value)
    )
    waiting.redeem()
    cloud.refuses = lambda _method, _name, _value: 0
    later = (datetime.now(UTC) + timedelta(minutes=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    newer = json.dumps({"access_token": "newer", "relay_obtained_at": later})
    cloud.secrets["tokens"].append(newer)
    waiting.redeem()
    assert cloud.tokens["access_token"] == "newer"
    assert waiting.callback["outcome"] == "interrupted"


def test_a_row_that_cannot_be_written_at_once_keeps_the_tokens(
    waiting: Dataverse, cloud: Cloud
) -> None:
    cloud.refuses = lambda method, name, value: 403 * ("at-1" in value)
    waiting.plan(STATE, "0", "80044150", "80044150")  # the claim passes, two writes after it fail
    waiting.redeem()
    assert waiting.callback["outcome"] == "tokens not stored yet"


# -- one bad row stops nobody ----------------------------------------------------------------------


def several(dataverse: Dataverse, count: int = 3) -> list[str]:
    states = [state_of(f"flow-number-{number:04}") for number in range(count)]
    for number, state in enumerate(states):
        dataverse.start(f"flow-number-{number:04}", state)
        dataverse.create(state, code=f"code-{number}")
    return states


def outcomes(dataverse: Dataverse) -> list[str]:
    return [row["oacb_outcome"] for row in dataverse.rows(CALLBACK)]


@pytest.mark.parametrize("code", ["80040216", "80044150", "80072322"])
def test_a_fault_at_one_row_leaves_it_waiting_and_the_others_go_on(
    dataverse: Dataverse, cloud: Cloud, code: str
) -> None:
    states = several(dataverse)
    dataverse.plan(states[1], code)
    dataverse.redeem()
    assert outcomes(dataverse) == ["redeemed", WAITING, "redeemed"]
    assert [form["code"] for form, _ in cloud.requests] == ["code-0", "code-2"]
    dataverse.redeem()
    assert outcomes(dataverse) == ["redeemed"] * 3


def test_a_row_that_another_job_has_claimed_is_left_to_it(waiting: Dataverse, cloud: Cloud) -> None:
    waiting.plan(STATE, "80060882")
    waiting.redeem()
    assert not cloud.requests


def test_two_jobs_at_once_send_a_code_once(waiting: Dataverse, cloud: Cloud) -> None:
    waiting.redeem("redeem-twice")
    assert len(cloud.requests) == 1
    assert waiting.callback["outcome"] == "redeemed"


def test_a_job_that_dies_after_the_claim_leaves_no_code(waiting: Dataverse, cloud: Cloud) -> None:
    cloud.answers = [Answer(400, ERROR)]
    waiting.plan(STATE, "0", "80044150")  # the claim passes, the outcome is not written
    waiting.redeem()
    assert waiting.callback["outcome"] == "redeeming"
    assert not {"code", "codeverifier"} & set(waiting.callback)
    waiting.redeem()
    assert len(cloud.requests) == 1


def test_a_job_that_died_ends_as_interrupted(waiting: Dataverse, cloud: Cloud) -> None:
    waiting.age(outcome="redeeming", claimedat=at(minutes=-9))
    waiting.redeem()
    assert waiting.callback["outcome"] == "redeeming"
    waiting.age(claimedat=at(minutes=-11))
    waiting.redeem()
    assert waiting.callback["outcome"] == waiting.flow["outcome"] == "interrupted"
    assert waiting.callback["processed"] == "True"
    assert not {"code", "codeverifier"} & set(waiting.callback)
    assert not cloud.requests


def test_old_rows_are_purged_and_a_used_state_outlives_its_callback(dataverse: Dataverse) -> None:
    dataverse.start(FLOW, STATE, expiresat=at(hours=-25))
    dataverse.start("another-flow-1234", used="true")
    old = columns({"statehash": "0" * 64, "processed": "true", "createdon": at(days=-31)})
    dataverse.run("insert", table=CALLBACK, **old)
    dataverse.redeem()
    assert dataverse.rows(CALLBACK) == []
    assert dataverse.flow["flowname"] == "another-flow-1234"


# -- one row for one state -------------------------------------------------------------------------


def test_two_creates_at_the_same_instant_store_one_row(dataverse: Dataverse) -> None:
    dataverse.start(FLOW, STATE)
    answers = dataverse.create(STATE, "create-twice", code="c")
    assert answers == [{"created": "yes"}, DUPLICATE]
    assert dataverse.callback["code"] == "c"


def test_a_repeated_delivery_reaches_the_key(waiting: Dataverse) -> None:
    assert waiting.create(STATE, code="c+d/e=") == [DUPLICATE]
    waiting.redeem()
    assert waiting.create(STATE, code="c+d/e=") == [DUPLICATE]


@pytest.mark.parametrize("status", ["Pending", "InProgress", "Failed"])
def test_a_key_that_is_not_active_refuses_loudly(dataverse: Dataverse, status: str) -> None:
    dataverse.start(FLOW, STATE)
    dataverse.run("key", status=status)
    assert dataverse.create(STATE, code="c") == [{"created": "yes"}]
    assert dataverse.create(STATE, code="c") == [
        {"refused": "The key of the callbacks is not active."}
    ]


def test_a_code_replaces_an_error_of_the_same_state(dataverse: Dataverse, cloud: Cloud) -> None:
    dataverse.start(FLOW, STATE, codeverifier="v" * 43)
    dataverse.create(STATE, error="temporarily_unavailable")
    assert dataverse.callback["outcome"] == dataverse.flow["outcome"] == "declined"
    assert dataverse.create(STATE, error="access_denied") == [DUPLICATE]
    assert dataverse.create(STATE, code="c") == [{"created": "yes"}]
    assert dataverse.create(STATE, error="access_denied") == [DUPLICATE]
    dataverse.redeem()
    assert dataverse.callback["outcome"] == dataverse.flow["outcome"] == "redeemed"
    assert cloud.requests[0][0]["code_verifier"] == "v" * 43


def test_a_used_state_cannot_be_used_again_when_its_row_is_gone(dataverse: Dataverse) -> None:
    dataverse.start(FLOW, STATE, used="true")
    assert dataverse.create(STATE, code="c") == [{"refused": "The state has been used."}]


def test_a_second_state_of_one_ticket_is_a_duplicate_where_the_body_names_the_jti(
    dataverse: Dataverse,
) -> None:
    dataverse.start(FLOW)
    second = state_of(FLOW, "2")
    assert dataverse.create(STATE, code="c", flowname=FLOW) == [{"created": "yes"}]
    assert dataverse.create(second, code="d", flowname=FLOW) == [DUPLICATE]
    assert dataverse.create(second, code="d") == [
        {"refused": "Dataverse does not wait for this state."}
    ]
    assert dataverse.callback["code"] == "c"


OTHER = state_of("another-flow-1234")
REFUSALS: dict[str, tuple[dict[str, str], str]] = {
    "another's hash": (
        {"statehash": "0" * 64},
        "The hash does not belong to the state.",
    ),
    "an unknown flow": (
        {"state": OTHER, "statehash": hashed(OTHER)},
        "Dataverse does not wait for this state.",
    ),
    "no state of ours": (
        {"state": "x", "statehash": hashed("x")},
        "Dataverse does not wait for this state.",
    ),
    "another connection": (
        {"connectionname": "default"},
        "Dataverse does not wait for this state.",
    ),
    "another state of this flow": (
        {"state": state_of(FLOW, "2"), "statehash": hashed(state_of(FLOW, "2"))},
        "Dataverse does not wait for this state.",
    ),
    "too late": (
        {"receivedat": at(days=1)},
        "The callback came after the end of its state.",
    ),
}


@pytest.mark.parametrize(("given", "message"), REFUSALS.values(), ids=list(REFUSALS))
def test_a_callback_that_nobody_waits_for_is_refused(
    dataverse: Dataverse, given: dict[str, str], message: str
) -> None:
    dataverse.start(FLOW, STATE)
    assert dataverse.create(STATE, **({"code": "c"} | given)) == [{"refused": message}]
    assert dataverse.rows(CALLBACK) == []
    assert dataverse.flow["used"] == "False"


# -- lifetimes -------------------------------------------------------------------------------------

LIFETIMES: dict[str, tuple[object, float | None]] = {
    "a number": (3600, 3600),
    "a string": ("3600", 3600),
    "nothing": (None, None),
    "a word": ("soon", None),
    "zero": (0, 0),
    "a negative number": (-60, 0),
    "sixty days": (5_184_000, 5_184_000),
    "more than an int": (9_999_999_999, 315_360_000),
    "a fraction": (3600.5, 3600.5),
}


@pytest.mark.parametrize(("given", "seconds"), LIFETIMES.values(), ids=list(LIFETIMES))
def test_the_vault_says_when_a_token_ends_if_the_provider_does(
    waiting: Dataverse, cloud: Cloud, given: object, seconds: float | None
) -> None:
    answer = {"access_token": "at-1"} | ({} if given is None else {"expires_in": given})
    cloud.answers = [Answer(body=json.dumps(answer))]
    waiting.redeem()
    if seconds is None:
        assert "relay_expires_at" not in cloud.tokens
    else:
        obtained, ends = (
            datetime.fromisoformat(cloud.tokens[f"relay_{name}_at"])
            for name in ("obtained", "expires")
        )
        assert abs((ends - obtained).total_seconds() - seconds) <= 1


def test_a_refresh_token_stays_when_the_answer_has_none(waiting: Dataverse, cloud: Cloud) -> None:
    cloud.secrets["tokens"] = ['{"access_token":"old","refresh_token":"kept"}']
    cloud.answers = [
        Answer(body='{"access_token":"at-2","token_type":"Bearer",".expires":[1,null]}')
    ]
    waiting.redeem()
    assert cloud.tokens["access_token"] == "at-2"
    assert cloud.tokens["refresh_token"] == "kept"
    assert cloud.tokens[".expires"] == [1, None]


# -- secrets ---------------------------------------------------------------------------------------


def test_the_verifier_goes_with_the_code(waiting: Dataverse) -> None:
    assert waiting.callback["codeverifier"] == "v" * 43
    assert "codeverifier" not in waiting.flow
    waiting.redeem()
    assert not {"code", "codeverifier"} & set(waiting.callback)


def test_the_relays_own_verifier_is_preferred(dataverse: Dataverse, cloud: Cloud) -> None:
    dataverse.start(FLOW)
    dataverse.create(STATE, code="c", codeverifier="r" * 43, redirecturi="https://relay/other")
    dataverse.redeem()
    [(form, _)] = cloud.requests
    assert form["code_verifier"] == "r" * 43
    assert form["redirect_uri"] == "https://relay/other"


# -- docs/minting.md -------------------------------------------------------------------------------


def test_the_printed_csharp_compiles_and_mints_the_printed_tokens(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "minting.md").read_text("utf-8")
    [code] = re.findall(r"```csharp\n(.*?)```", page, re.DOTALL)
    given = dict(re.findall(r"^\| (\w+) \| `([^`]+)` \|$", page, re.MULTILINE))
    printed = tmp_path / "Printed.cs"
    printed.write_text(code)
    arguments = ", ".join(f'"{given[name]}"' for name in ("connection", "kid", "key", "jti"))
    end = f"DateTimeOffset.FromUnixTimeSeconds({given['exp']})"
    main = tmp_path / "Main.cs"
    main.write_text(
        "using System; static class Program { static void Main() {"
        f" Console.WriteLine(OAuthRelayToken.State({arguments}, {end}));"
        f" Console.WriteLine(OAuthRelayToken.Ticket({arguments}, {end}));"
        " Console.WriteLine(OAuthRelayToken.NewId() != OAuthRelayToken.NewId()); } }"
    )
    program = compiled(tmp_path, printed, main)
    ran = subprocess.run([MONO, program], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == [given["state"], given["ticket"], "True"]
