"""The doctor names what keeps Entra from giving a token that Dynamics takes, and the fix."""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from relay import log
from relay.entra import refusals
from relay.tools import doctor
from relay.tools.doctor.finding import Finding, Verdict
from sandbox.aadsts import AADSTS
from sandbox.entra import EXCHANGE, FederatedCredential
from sandbox.identity import Identity, IdentityEndpoint
from sandbox.issuer import Fault
from sandbox.tls import Authority, client_certificate
from sandbox.world import CLIENT_ID, CLIENT_SECRET, World
from tests.unit import doctor_sentences

IDENTITY = Identity("11111111-2222-3333-4444-555555555555", "aaaaaaaa-0000-0000-0000-000000000001")
PASSWORD = "canary~password"
CHECKS = ("settings", "authority", "certificate", "credential", "token")
"""Those of this part of the doctor, in their order."""

type Break = Callable[[World, dict[str, str]], None]


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[World, dict[str, str]]]:
    with World() as world:
        endpoint = IdentityEndpoint(world.entra, [IDENTITY])
        yield world, endpoint.environment(world.add(endpoint.app, tls=False).url)


@pytest.fixture
def world(
    servers: tuple[World, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    log.quiet()
    world, environment = servers
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    yield world
    entra = world.entra
    entra.mode = None
    entra.clients = {CLIENT_ID: CLIENT_SECRET}
    entra.refuse.clear()
    entra.expired.clear()
    entra.without_oid.clear()
    entra.certificates.clear()
    entra.federated.clear()
    entra.cloud = "microsoftonline.com"


def examine(settings: Mapping[str, str], connection: str = "default") -> list[Finding]:
    """Return what the doctor finds out about Entra."""
    found = list(doctor.examine(settings, only=connection))
    told = "".join(f"{finding}" for finding in found)
    assert "canary" not in told
    assert CLIENT_SECRET not in told
    return [finding for finding in found if finding.check in CHECKS]


def without_secret(settings: dict[str, str], **others: str) -> None:
    settings["ENTRA_CLIENT_SECRET"] = ""
    settings |= others


def test_a_healthy_set_up_is_told_in_four_lines(world: World) -> None:
    found = examine(world.settings)
    assert [(one.verdict, one.check) for one in found] == [
        (Verdict.OK, "settings"),
        (Verdict.OK, "authority"),
        (Verdict.OK, "credential"),
        (Verdict.OK, "token"),
    ]
    assert not any(one.fix for one in found)


@pytest.mark.parametrize("days", [365, 20])
def test_a_certificate_is_warned_of_before_it_ends(world: World, tmp_path: Path, days: int) -> None:
    files = client_certificate(tmp_path, common_name="c", password=PASSWORD, days=days)
    world.entra.certificates[CLIENT_ID] = [files.x509]
    settings = dict(world.settings)
    without_secret(
        settings,
        ENTRA_CLIENT_CERTIFICATE=str(files.pfx),
        ENTRA_CLIENT_CERTIFICATE_PASSWORD=PASSWORD,
    )
    found = {one.check: one for one in examine(settings)}
    assert found["certificate"].verdict is (Verdict.OK if days > 30 else Verdict.WARN)
    assert f"{files.x509.not_valid_after_utc:%Y-%m-%d}" in found["certificate"].message
    assert found["credential"].message.endswith("certificate")
    assert found["token"].verdict is Verdict.OK


def test_an_identity_and_a_federated_credential_are_examined_too(world: World) -> None:
    entra = world.entra
    entra.federated[CLIENT_ID] = [FederatedCredential(entra.issuer, IDENTITY.principal_id)]
    settings = dict(world.settings)
    without_secret(settings, ENTRA_MANAGED_IDENTITY_CLIENT_ID=IDENTITY.client_id)
    assert [one.message for one in examine(settings) if one.check == "credential"] == [
        "Entra gives a token for the federated credential"
    ]
    settings["ENTRA_CLIENT_ID"] = ""
    found = examine(settings)
    assert [one.check for one in found] == ["settings", "credential", "token"]
    assert all(one.verdict is Verdict.OK for one in found)


# -- what is broken, and what is said of it --------------------------------------------------------


def wrong_secret(_: World, settings: dict[str, str]) -> None:
    settings["ENTRA_CLIENT_SECRET"] = "canary~wrong"


def secrets_id(_: World, settings: dict[str, str]) -> None:
    settings["ENTRA_CLIENT_SECRET"] = "0c9a5b1e-1111-2222-3333-444455556666"


def expired_secret(world: World, _: dict[str, str]) -> None:
    world.entra.expired.add(CLIENT_ID)


def wrong_tenant(world: World, settings: dict[str, str]) -> None:
    settings["ENTRA_AUTHORITY"] = f"{world.entra_server.url}/nobody.example"


def wrong_client(_: World, settings: dict[str, str]) -> None:
    settings["ENTRA_CLIENT_ID"] = "00000000-1111-2222-3333-444444444444"


def wrong_cloud(world: World, _: dict[str, str]) -> None:
    world.entra.cloud = "microsoftonline.us"


def refused_for_its_cloud(world: World, _: dict[str, str]) -> None:
    world.entra.refuse[CLIENT_ID] = 900382


def unknown_resource(_: World, settings: dict[str, str]) -> None:
    settings["DYNAMICS_SCOPE"] = "https://fabrikam.operations.dynamics.com/.default"


def trailing_slash(world: World, settings: dict[str, str]) -> None:
    settings["DYNAMICS_SCOPE"] = f"{world.dynamics_server.url}//.default"


def no_consent(world: World, _: dict[str, str]) -> None:
    world.entra.refuse[CLIENT_ID] = 65001


def disabled(world: World, _: dict[str, str]) -> None:
    world.entra.refuse[CLIENT_ID] = 70001


def conditional_access(world: World, _: dict[str, str]) -> None:
    world.entra.refuse[CLIENT_ID] = 53003


def public_client(world: World, _: dict[str, str]) -> None:
    world.entra.refuse[CLIENT_ID] = 700025


def unknown_code(world: World, _: dict[str, str]) -> None:
    world.entra.refuse[CLIENT_ID] = 5000811


def busy(world: World, _: dict[str, str]) -> None:
    world.entra.mode = Fault.UNAVAILABLE


def no_service_principal(world: World, _: dict[str, str]) -> None:
    world.entra.without_oid.add(CLIENT_ID)


def nobody_there(_: World, settings: dict[str, str]) -> None:
    settings["ENTRA_AUTHORITY"] = "https://127.0.0.1:9/contoso.com"


def untrusted(world: World, settings: dict[str, str]) -> None:
    with Authority() as other:
        content = other.bundle.read_bytes()
    path = Path(settings["CA_BUNDLE"]).with_name("another.pem")
    path.write_bytes(content)
    settings["CA_BUNDLE"] = str(path)


def no_authority(world: World, settings: dict[str, str]) -> None:
    settings["ENTRA_AUTHORITY"] = f"{world.dynamics_server.url}/contoso.com"


def unregistered_certificate(world: World, settings: dict[str, str]) -> None:
    folder = Path(settings["CA_BUNDLE"]).parent
    files = client_certificate(folder, common_name="unregistered", password=PASSWORD)
    without_secret(
        settings,
        ENTRA_CLIENT_CERTIFICATE=str(files.pfx),
        ENTRA_CLIENT_CERTIFICATE_PASSWORD=PASSWORD,
    )


def expired_certificate(world: World, settings: dict[str, str]) -> None:
    folder = Path(settings["CA_BUNDLE"]).parent
    files = client_certificate(folder, common_name="expired", password=PASSWORD, days=-3)
    world.entra.certificates[CLIENT_ID] = [files.x509]
    without_secret(
        settings,
        ENTRA_CLIENT_CERTIFICATE=str(files.pfx),
        ENTRA_CLIENT_CERTIFICATE_PASSWORD=PASSWORD,
    )


def wrong_password(world: World, settings: dict[str, str]) -> None:
    unregistered_certificate(world, settings)
    settings["ENTRA_CLIENT_CERTIFICATE_PASSWORD"] = "canary~wrong"


def missing_file(_: World, settings: dict[str, str]) -> None:
    without_secret(settings, ENTRA_CLIENT_CERTIFICATE="canary.pfx")


def no_credential(_: World, settings: dict[str, str]) -> None:
    without_secret(settings)


def unassigned_identity(_: World, settings: dict[str, str]) -> None:
    without_secret(
        settings,
        ENTRA_CLIENT_ID="",
        ENTRA_MANAGED_IDENTITY_CLIENT_ID="99999999-2222-3333-4444-555555555555",
    )


def no_identity(_: World, settings: dict[str, str]) -> None:
    unassigned_identity(_, settings)
    os.environ.pop("IDENTITY_ENDPOINT")


def federation(part: str, value: str) -> Break:
    def broken(world: World, settings: dict[str, str]) -> None:
        right = {"issuer": world.entra.issuer, "subject": IDENTITY.principal_id}
        world.entra.federated[CLIENT_ID] = [FederatedCredential(**(right | {part: value}))]
        without_secret(settings, ENTRA_MANAGED_IDENTITY_CLIENT_ID=IDENTITY.client_id)

    broken.__name__ = f"federated_{part}"
    return broken


BROKEN: list[tuple[Break, str, str, str]] = [
    (wrong_secret, "credential", "client secret is wrong (AADSTS7000215)", "Value"),
    (secrets_id, "credential", "holds the secret's id (AADSTS7000215)", "not its Secret ID"),
    (expired_secret, "credential", "secret has expired (AADSTS7000222)", "Make a new one"),
    (wrong_tenant, "authority", "does not exist in this cloud (AADSTS90002)", "ENTRA_TENANT_ID"),
    (wrong_client, "credential", "not in this tenant (AADSTS700016)", "ENTRA_CLIENT_ID"),
    (wrong_cloud, "authority", "US Government", "https://login.microsoftonline.us/<tenant>"),
    (refused_for_its_cloud, "credential", "another national cloud (AADSTS900382)", "AUTHORITY"),
    (unknown_resource, "credential", "does not know the resource (AADSTS500011)", "DYNAMICS_URL"),
    (trailing_slash, "settings", "DYNAMICS_SCOPE", "without a slash at its end"),
    (no_consent, "credential", "consented to it (AADSTS65001)", "admin consent"),
    (disabled, "credential", "disabled (AADSTS70001)", "Enterprise applications"),
    (conditional_access, "credential", "Conditional Access", "exempt"),
    (public_client, "credential", "public client (AADSTS700025)", "Authentication"),
    (unknown_code, "credential", "Entra refuses (AADSTS5000811)", "error?code=5000811"),
    (busy, "credential", "busy just now (AADSTS90033)", "run the doctor again"),
    (no_service_principal, "token", "no service principal", "admin consent"),
    (nobody_there, "authority", "cannot be reached", "DNS"),
    (untrusted, "authority", "certificate of Entra is not trusted", "CA_BUNDLE"),
    (no_authority, "authority", "is no authority", "https://login.microsoftonline.com/<tenant>"),
    (unregistered_certificate, "credential", "app registration has (AADSTS700027)", "Upload"),
    (expired_certificate, "certificate", "it expired on", "upload its public part"),
    (wrong_password, "credential", "cannot be opened", "ENTRA_CLIENT_CERTIFICATE_PASSWORD"),
    (missing_file, "settings", "ENTRA_CLIENT_CERTIFICATE", "path of a PEM or PFX file"),
    (no_credential, "settings", "ENTRA_CLIENT_SECRET", "expected one of"),
    (unassigned_identity, "credential", "does not have this managed identity", "Assign"),
    (no_identity, "credential", "no managed identity", "assign one to the Function App"),
    (federation("issuer", "https://x"), "credential", "issuer (AADSTS700211)", "same tenant"),
    (federation("audience", EXCHANGE[1]), "credential", "audience (AADSTS700212)", "audience"),
    (federation("subject", "x"), "credential", "subject (AADSTS700213)", "object (principal) id"),
]


@pytest.mark.parametrize(
    ("breaks", "check", "wrong", "fix"), BROKEN, ids=[row[0].__name__ for row in BROKEN]
)
def test_exactly_the_cause_is_named_with_its_fix(
    world: World, breaks: Break, check: str, wrong: str, fix: str
) -> None:
    settings = dict(world.settings)
    breaks(world, settings)
    found = examine(settings)
    first = next(one for one in found if one.verdict is not Verdict.OK)
    assert (first.verdict, first.check) == (Verdict.FAIL, check)
    assert wrong in first.message
    assert fix in first.fix
    assert first.connection == "default"
    doctor_sentences.assert_told(f"entra: {breaks.__name__}", first)
    fails = [one.check for one in found if one.verdict is Verdict.FAIL]
    # Entra refuses an expired certificate as well, and says so less clearly.
    assert fails == ([check, "credential"] if check == "certificate" else [check])


def test_a_mended_set_up_is_well_at_once(world: World) -> None:
    world.entra.refuse[CLIENT_ID] = 65001
    assert examine(world.settings)[-1].verdict is Verdict.FAIL
    world.entra.refuse.clear()
    assert examine(world.settings)[-1].verdict is Verdict.OK


def test_one_connection_is_examined_alone(world: World) -> None:
    settings = world.settings | {"CONNECTIONS__XERO__ENTRA_CLIENT_SECRET": "canary~wrong"}
    assert {one.connection for one in examine(settings, "xero")} == {"xero"}
    assert examine(settings, "xero")[-1].verdict is Verdict.FAIL
    assert examine(settings)[-1].verdict is Verdict.OK


@pytest.mark.parametrize("code", AADSTS)
def test_every_code_has_a_hint_in_plain_words(code: int) -> None:
    wrong, fix = refusals.hint(f"AADSTS{code}")
    assert wrong.endswith(f"(AADSTS{code})")
    assert fix.endswith(".")
    assert len(fix) < 200
