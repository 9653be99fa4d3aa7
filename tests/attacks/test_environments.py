"""Attacks on the environments behind one redirect URI, named for what each would gain.

The promise behind each: a code reaches the environment that a key of that environment names, with
the credentials of that environment, or it reaches none.
"""

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from urllib.parse import parse_qs, urlsplit

import pytest

from relay import settings_reader
from relay.connections import ClientSecret, Connection, ManagedIdentity
from relay.delivery.sealing import Sealer
from relay.delivery.single_flight import SingleFlight
from relay.errors import Misconfigured, Unavailable, Unopenable
from relay.flow import Relay
from relay.oauth import state
from relay.oauth.authorize import Started
from relay.outcome import Answer
from relay.ports import Receipt
from tests.fakes import Dynamics, Entra, Keys, b64, but, compact, hs256
from tests.helpers import CODE, get

NOON = datetime(2027, 3, 4, 12, 0, 0, tzinfo=UTC)
OWN, DEV, PROD, STRANGERS = (bytes(range(i, i + 32)) for i in range(4))
JTI = "canary-jti-0042-abcdefg"
CLAIMS = {"aud": "callback:default", "exp": int(NOON.timestamp()) + 600, "jti": JTI}


def url(name: str) -> str:
    return f"https://{name}.operations.dynamics.com/data/OAuthCallbacks"


SETTINGS = {
    "ENTRA_TENANT_ID": "contoso.com",
    "ENTRA_CLIENT_ID": "client",
    "ENTRA_CLIENT_SECRET": "canary-secret",
    "DYNAMICS_URL": url("own"),
    "DYNAMICS_BODY": '{"c": "{code}", "s": "{state_hash}", "e": "{environment}"}',
    "STATE_KEYS": f"k1:{b64(OWN)}",
    "ENVIRONMENTS__DEV__DYNAMICS_URL": url("dev"),
    "ENVIRONMENTS__DEV__STATE_KEYS": f"k1:{b64(DEV)}",
    "ENVIRONMENTS__PROD__DYNAMICS_URL": url("prod"),
    "ENVIRONMENTS__PROD__STATE_KEYS": f"p1:{b64(PROD)}",
    "ENVIRONMENTS__PROD__ENTRA_CLIENT_SECRET": "canary-of-prod",
    "ENVIRONMENTS__PROD__DYNAMICS_TIMEOUT": "7",
    "OUTBOX_KEYS": "A" * 43 + "=",
}
FLOWS = {
    "PROVIDER_AUTHORIZATION_ENDPOINT": "https://as.example/authorize",
    "PROVIDER_CLIENT_ID": "dynamics",
    "PROVIDER_REDIRECT_URI": "https://relay.example/callback",
}


def minted(key: bytes, kid: str = "k1", **claims: object) -> str:
    """Return a token as whoever has the key could mint it; `...` leaves a claim out."""
    return compact({"alg": "HS256", "typ": "JWT", "kid": kid}, but(CLAIMS, claims), hs256(key))


class Stage:
    """A relay with these settings; what it could reach keeps what it was given."""

    def __init__(self, changes: Mapping[str, str] | None = None) -> None:
        self.entra, self.dynamics = Entra(), Dynamics()
        self.relay = self._relay(changes)

    def _relay(self, changes: Mapping[str, str] | None) -> Relay:
        read = settings_reader.read({**SETTINGS, **(changes or {})})
        return Relay(
            read.connections,
            self.entra,
            self.dynamics,
            Keys(),
            deliveries=SingleFlight[Receipt](),
            sealer=Sealer(read.app.outbox_keys),
            now=lambda: NOON,
        )

    def change(self, changes: Mapping[str, str]) -> None:
        """Deploy the relay with other settings; an empty value removes one."""
        self.relay = self._relay(changes)

    async def receive(self, sent: str, connection: str = "default") -> Answer:
        return await self.relay.receive(connection, get({"code": CODE, "state": sent}))


@pytest.fixture(autouse=True)
def _everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "relay")


def reason(caplog: pytest.LogCaptureFixture) -> str:
    return caplog.messages[-1].rpartition(" reason=")[2]


# -- each code to its own ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "environment", "seconds", "secret"),
    [
        pytest.param(minted(OWN), None, 20.0, "canary-secret", id="own"),
        pytest.param(minted(DEV, env="dev"), "dev", 20.0, "canary-secret", id="dev"),
        pytest.param(minted(PROD, "p1", env="prod"), "prod", 7.0, "canary-of-prod", id="prod"),
        pytest.param(minted(PROD, "p1", env="PrOd"), "prod", 7.0, "canary-of-prod", id="case"),
    ],
)
async def test_a_code_reaches_the_environment_that_its_state_names(
    sent: str,
    environment: str | None,
    seconds: float,
    secret: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    stage = Stage()
    assert (await stage.receive(sent)).outcome == "delivered"
    [posted], [asked] = stage.dynamics.posted, stage.entra.asked
    assert posted.target.url == url(environment or "own")
    assert (posted.target.timeout, asked.credential) == (seconds, ClientSecret(secret))
    assert asked.scope == f"https://{environment or 'own'}.operations.dynamics.com/.default"
    assert posted.body.get("e") == environment
    named = f" environment={environment}" if environment else ""
    assert re.search(rf"dynamics_status=201{named}$", caplog.messages[-1])


async def test_a_flow_that_begins_here_is_for_the_environment_of_its_ticket(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stage = Stage(FLOWS)
    ticket = minted(DEV, aud="authorize:default", env="DEV")
    started = stage.relay.authorize("default", get({"ticket": ticket}))
    assert isinstance(started, Started)
    assert caplog.messages[-1].endswith(" environment=dev")
    [sent] = parse_qs(urlsplit(started.location).query)["state"]
    cookie = started.cookies[0].partition(";")[0]
    request = replace(get({"code": CODE, "state": sent}), headers={"cookie": cookie})
    assert (await stage.relay.receive("default", request)).outcome == "delivered"
    assert stage.dynamics.posted[0].target.url == url("dev")


# -- forged, and nothing is touched --------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        pytest.param(minted(DEV, env="prod"), "state_key", id="prod-under-the-key-of-dev"),
        pytest.param(minted(DEV, "p1", env="prod"), "state_signature", id="and-the-kid-of-prod"),
        pytest.param(minted(OWN, env="prod"), "state_key", id="prod-under-the-connections-key"),
        pytest.param(minted(DEV), "state_signature", id="own-target-under-the-key-of-dev"),
        pytest.param(minted(PROD, "p1"), "state_key", id="own-target-under-the-key-of-prod"),
        pytest.param(minted(STRANGERS, env="dev"), "state_signature", id="a-strangers-key"),
        pytest.param(minted(DEV, env="uat"), "state_environment", id="not-configured"),
        pytest.param(minted(DEV, env=["dev"]), "state_environment", id="a-list"),
        pytest.param(minted(DEV, env=None), "state_environment", id="null"),
        pytest.param(minted(DEV, env={"dev": 1}), "state_environment", id="an-object"),
        pytest.param(minted(DEV, env=True), "state_environment", id="a-boolean"),
        pytest.param(minted(DEV, env=""), "state_environment", id="empty"),
        pytest.param(minted(OWN, env=""), "state_environment", id="empty-for-the-own-target"),
        pytest.param(minted(DEV, env="dev/../prod"), "state_environment", id="a-path"),
        pytest.param(minted(DEV, env="dev\n"), "state_environment", id="a-line-break"),
        pytest.param(minted(DEV, env="ｄｅｖ"), "state_environment", id="wide-letters"),  # noqa: RUF001
        pytest.param(minted(DEV, env="d" * 65), "state_environment", id="65-characters"),
        pytest.param(minted(DEV, env="dev", aud="callback:xero"), "state_audience", id="other"),
        pytest.param(
            minted(DEV, env="dev").rpartition(".")[0] + ".", "state_signature", id="unsigned"
        ),
        pytest.param(
            compact({"alg": "none"}, {**CLAIMS, "env": "dev"}, lambda _: b""),
            "state_algorithm",
            id="alg-none",
        ),
    ],
)
async def test_a_forged_environment_is_refused(
    sent: str, expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage()
    answer = await stage.receive(sent)
    assert (answer.outcome, answer.detail, reason(caplog)) == (
        "invalid",
        state.STATE.sentence,
        expected,
    )
    assert not stage.entra.asked
    assert not stage.dynamics.posted


@pytest.mark.parametrize(
    ("ticket", "expected"),
    [
        pytest.param(minted(DEV, aud="authorize:xero", env="dev"), "audience", id="other"),
        pytest.param(minted(DEV, aud="authorize:default", env="prod"), "key", id="other-key"),
        pytest.param(minted(DEV, aud="authorize:default", env=[]), "environment", id="list"),
        pytest.param(minted(DEV, aud="authorize:default", env=""), "environment", id="empty"),
        pytest.param(minted(DEV, aud="authorize:default", env="../dev"), "environment", id="path"),
        pytest.param(minted(DEV, aud="authorize:default", env="d" * 65), "environment", id="65"),
        pytest.param(minted(DEV, aud="authorize:default"), "signature", id="none"),
        pytest.param(minted(DEV, env="dev"), "audience", id="a-state-as-a-ticket"),
    ],
)
def test_a_ticket_of_another_cannot_start_a_flow(
    ticket: str, expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    answer = Stage(FLOWS).relay.authorize("default", get({"ticket": ticket}))
    assert isinstance(answer, Answer)
    assert (answer.outcome, reason(caplog)) == ("invalid", f"ticket_{expected}")


async def test_without_a_target_of_its_own_a_state_has_to_name_an_environment(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stage = Stage({"CONNECTIONS__XERO__CODE_TTL": "60"})  # inherits the plain DYNAMICS_URL only
    assert (await stage.receive(minted(OWN, aud="callback:xero"), "xero")).outcome == "invalid"
    assert reason(caplog) == "state_environment"
    assert not stage.dynamics.posted
    assert (await stage.receive(minted(DEV, aud="callback:xero", env="dev"), "xero")).status == 200
    named = Stage({"DYNAMICS_URL": "", "STATE_KEYS": ""})
    assert named.relay.connections.problems == ()
    assert (await named.receive(minted(OWN))).outcome == "invalid"
    assert (await named.receive(minted(DEV, env="dev"))).outcome == "delivered"


async def test_a_connection_without_environments_takes_no_state_that_names_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stage = Stage({name: "" for name in SETTINGS if name.startswith("ENVIRONMENTS")})
    assert (await stage.receive(minted(OWN, env="own"))).outcome == "invalid"
    assert reason(caplog) == "state_environment"
    assert (await stage.receive(minted(OWN))).outcome == "delivered"


# -- the named group of a pattern ----------------------------------------------------------------

PATTERN = {"STATE_POLICY": "pattern", "STATE_PATTERN": r"^(?:(?P<env>[A-Za-z_./]{0,70})~)?\d{8}$"}


@pytest.mark.parametrize(
    ("sent", "reached"),
    [
        pytest.param("dev~12345678", "dev", id="named"),
        pytest.param("DEV~12345678", "dev", id="in-other-letters"),
        pytest.param("12345678", "own", id="a-group-that-did-not-match"),
        pytest.param("uat~12345678", None, id="not-configured"),
        pytest.param("~12345678", None, id="empty"),
        pytest.param("dev/../prod~12345678", None, id="a-path"),
        pytest.param("d" * 65 + "~12345678", None, id="65-characters"),
    ],
)
async def test_a_pattern_names_the_environment_by_its_group(
    sent: str, reached: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage(PATTERN)
    answer = await stage.receive(sent)
    expected = [] if reached is None else [url(reached)]
    assert [posted.target.url for posted in stage.dynamics.posted] == expected
    if reached is None:
        assert (answer.outcome, reason(caplog)) == ("invalid", "state_environment")


def test_that_strangers_choose_the_environment_is_a_warning() -> None:
    [warning] = settings_reader.read({**SETTINGS, **PATTERN}).warnings
    assert warning.startswith("STATE_PATTERN: names the environment, so strangers choose it")


# -- what was held -------------------------------------------------------------------------------


async def held(stage: Stage, sent: str) -> bytes:
    stage.dynamics.answers = [Unavailable("dynamics_503", "It is down.")]
    answer = await stage.receive(sent)
    assert answer.held is not None
    stage.dynamics.answers = [Receipt(existed=False, status=201)]
    stage.dynamics.posted.clear()
    return answer.held.encode()


async def test_a_held_callback_is_delivered_to_its_environment() -> None:
    stage = Stage()
    message = await held(stage, minted(PROD, "p1", env="prod"))
    stage.change({"ENVIRONMENTS__PROD__ENTRA_CLIENT_SECRET": "canary-new"})
    assert await stage.relay.redeliver(message, 2) is None
    [posted] = stage.dynamics.posted
    assert (posted.target.url, posted.body["e"]) == (url("prod"), "prod")
    assert stage.entra.asked[-1].credential == ClientSecret("canary-new")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param(
            {name: "" for name in SETTINGS if name.startswith("ENVIRONMENTS__PROD")},
            "outbox_environment",
            id="removed",
        ),
        pytest.param(
            {"ENVIRONMENTS__PROD__DYNAMICS_URL": url("elsewhere")},
            "outbox_environment_url",
            id="leads-elsewhere",
        ),
    ],
)
async def test_a_held_callback_whose_environment_is_gone_reaches_nobody(
    changes: dict[str, str], expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage()
    message = await held(stage, minted(PROD, "p1", env="prod"))
    stage.change(changes)
    with pytest.raises(Unopenable):
        await stage.relay.redeliver(message, 2)
    assert reason(caplog) == expected
    assert " connection=default reference=" in caplog.messages[-1]
    assert " environment=prod " in caplog.messages[-1]
    assert not stage.dynamics.posted
    stage.change({})  # until it is poison, the environment may come back
    assert await stage.relay.redeliver(message, 3) is None


async def test_what_is_held_for_a_target_of_its_own_that_is_gone_reaches_no_environment(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stage = Stage()
    message = await held(stage, minted(OWN))
    stage.change({"DYNAMICS_URL": "", "STATE_KEYS": ""})
    with pytest.raises(Unopenable):
        await stage.relay.redeliver(message, 2)
    assert reason(caplog) == "outbox_environment"
    assert not stage.dynamics.posted


async def test_a_dead_letter_names_its_environment() -> None:
    stage = Stage()
    message = await held(stage, minted(DEV, env="dev"))
    stage.relay = replace(stage.relay, now=lambda: datetime(2027, 3, 4, 13, tzinfo=UTC))
    letter = await stage.relay.redeliver(message, 9)
    assert letter is not None
    assert json.loads(letter.to_json())["environment"] == "dev"


# -- settings that would open a way --------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param(
            {"ENVIRONMENTS__DEV__DYNAMICS_URL": ""},
            "ENVIRONMENTS__DEV__DYNAMICS_URL: missing",
            id="no-url-never-the-connections",
        ),
        pytest.param(
            {"ENVIRONMENTS__DEV__STATE_KEYS": ""},
            "ENVIRONMENTS__DEV__STATE_KEYS: expected its own",
            id="no-keys-never-the-connections",
        ),
        pytest.param(
            {"ENVIRONMENTS__DEV__CODE_TTL": "60"},
            "ENVIRONMENTS__DEV__CODE_TTL: is for the whole connection",
            id="a-setting-of-the-connection",
        ),
        pytest.param(
            {"ENVIRONMENTS__DEV__DYNAMIC_URL": url("x")},
            "ENVIRONMENTS__DEV__DYNAMIC_URL: no such setting; the nearest is DYNAMICS_URL",
            id="misspelt",
        ),
        pytest.param(
            {"DYNAMICS_SCOPE": "https://own.operations.dynamics.com/.default"},
            "DYNAMICS_SCOPE: is of another host than ENVIRONMENTS__DEV__DYNAMICS_URL; expected "
            "ENVIRONMENTS__DEV__DYNAMICS_SCOPE beside it",
            id="a-token-by-inheritance",
        ),
        pytest.param(
            {"ENVIRONMENTS__DEV__ENTRA_AUTHORITY": "https://adfs.example.com/adfs"},
            "ENVIRONMENTS__DEV__ENTRA_AUTHORITY: is of another host than the inherited credential",
            id="a-secret-by-inheritance",
        ),
    ],
)
async def test_an_environment_with_bad_settings_is_closed_and_the_others_work(
    changes: dict[str, str], expected: str
) -> None:
    stage = Stage(changes)
    problems = stage.relay.connections.problems
    assert any(problem.startswith(expected) for problem in problems), problems
    assert not any("canary" in problem for problem in problems)
    assert (await stage.receive(minted(DEV, env="dev"))).outcome == "misconfigured"
    assert not stage.dynamics.posted
    assert (await stage.receive(minted(OWN))).outcome == "delivered"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param(
            {"ENVIRONMENTS__DEV__STATE_KEYS": f"k1:{b64(DEV)},old:{b64(PROD)}"},
            "ENVIRONMENTS__PROD__STATE_KEYS: expected its own",
            id="one-key-for-two-environments",
        ),
        pytest.param(
            {"ENVIRONMENTS__DEV__STATE_KEYS": f"x:{b64(OWN)}"},
            "ENVIRONMENTS__DEV__STATE_KEYS: expected its own",
            id="the-connections-key",
        ),
        pytest.param(
            {"STATE_POLICY": "opaque"},
            "STATE_POLICY: expected signed, because ENVIRONMENTS__… is set",
            id="opaque-states-name-none",
        ),
        pytest.param(
            {**PATTERN, "STATE_PATTERN": r"^\d{8}$"},
            "STATE_PATTERN: expected a group (?P<env>…)",
            id="a-pattern-that-names-none",
        ),
    ],
)
def test_settings_by_which_one_could_speak_for_another_are_refused(
    changes: dict[str, str], expected: str
) -> None:
    found = settings_reader.read({**SETTINGS, **changes}).connections
    assert isinstance(found.by_name["default"], Misconfigured)
    assert any(problem.startswith(expected) for problem in found.problems), found.problems


@pytest.mark.parametrize(
    "name", ["ENVIRONMENTS__A.B__DYNAMICS_URL", f"ENVIRONMENTS__{'A' * 65}__DYNAMICS_URL"]
)
def test_a_name_that_no_state_could_have_is_refused(name: str) -> None:
    found = settings_reader.read({**SETTINGS, name: url("x")}).connections.problems
    assert [each.partition(":")[0] for each in found] == ["ENVIRONMENTS__…"]


def test_the_environment_wins_over_the_connection_and_this_over_the_app() -> None:
    given = SETTINGS | {
        "DYNAMICS_TIMEOUT": "1",
        "CONNECTIONS__XERO__DYNAMICS_TIMEOUT": "2",
        "CONNECTIONS__XERO__ENVIRONMENTS__UAT_2__DYNAMICS_URL": url("uat-2"),
        "CONNECTIONS__XERO__ENVIRONMENTS__UAT_2__STATE_KEYS": f"u:{b64(STRANGERS)}",
        "CONNECTIONS__XERO__ENVIRONMENTS__PROD__DYNAMICS_TIMEOUT": "3",
    }
    xero = settings_reader.read(given).connections.get("xero")
    timeouts = {
        each.environment: each.target.timeout
        for each in xero.targets
        if isinstance(each, Connection)
    }
    assert timeouts == {"dev": 2.0, "prod": 3.0, "uat-2": 2.0}
    assert {each.environment for each in _targets(given, "default")} == {None, "dev", "prod"}


def _targets(given: Mapping[str, str], name: str) -> list[Connection]:
    found = settings_reader.read(given).connections.get(name).targets
    return [each for each in found if isinstance(each, Connection)]


def test_two_environments_with_equal_credentials_share_one_token() -> None:
    scope = {"DYNAMICS_SCOPE": "api://relay/.default"}
    given = {
        **SETTINGS,
        "ENVIRONMENTS__DEV__DYNAMICS_SCOPE": scope["DYNAMICS_SCOPE"],
        "ENVIRONMENTS__UAT__DYNAMICS_SCOPE": scope["DYNAMICS_SCOPE"],
        "ENVIRONMENTS__UAT__DYNAMICS_URL": url("uat"),
        "ENVIRONMENTS__UAT__STATE_KEYS": f"u:{b64(STRANGERS)}",
    }
    found = {each.environment: each.credentials for each in _targets(given, "default")}
    # Equal credentials are one entry of the token cache, and so one request.
    assert len({found["dev"], found["uat"]}) == 1
    assert len({found["dev"], found["prod"], found[None]}) == 3


def test_a_connection_without_a_target_mixes_no_credentials() -> None:
    given = SETTINGS | {
        "DYNAMICS_URL": "",
        "ENVIRONMENTS__DEV__ENTRA_MANAGED_IDENTITY_CLIENT_ID": "system",
    }
    read = settings_reader.read(given).connections
    assert read.problems == ()
    dev = read.get("default").at("dev").credentials
    assert dev.credential == ManagedIdentity(None)
    assert dev.client_id is None
