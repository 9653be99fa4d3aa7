"""Finance & Operations: its OData entities, and what they share with its custom services.

https://learn.microsoft.com/dynamics365/fin-ops-core/dev-itpro/data-entities/odata
"""

from collections.abc import Generator, Iterator, Mapping
from http import HTTPStatus
from tempfile import TemporaryFile
from typing import IO
from urllib.parse import quote

from relay.body import Member
from relay.delivery.targets import Address
from relay.tools.doctor import entity, fields
from relay.tools.doctor.finding import Finding, Verdict, fail, ok, warn
from relay.tools.doctor.metadata import Property
from relay.tools.doctor.probe import FINANCE, FORM, Probe, ProbeResponse

COMPANY = "dataAreaId"
_WORDS = fields.Words("entity", "property", "In the table and its data entity")
_PUBLISH = (
    "In Visual Studio, give the data entity IsPublic = Yes and this Public Collection Name; "
    "build, and synchronize the database."
)
_UNIQUE = (
    "Give the table a unique index over the field that holds {state} or {state_hash}, and the "
    "data entity that field as its key."
)
_ENGLISH = "; the service user's language must be English, or duplicates are not recognised"
_COMPANIES = {"Companies": "DataArea", "LegalEntities": "LegalEntityId"}
"""Standard collections that list companies, and which property is the `dataAreaId` of others."""


def examine(probe: Probe, address: Address) -> Iterator[Finding]:
    """Examine one entity: the URL of `/data`, and the collection."""
    root, (name,) = address
    with TemporaryFile() as file:
        answer = yield from admit(probe, f"{root}/$metadata", file)
        if answer is None:
            return
        if not answer.is_success:
            yield fail(
                "entity",
                f"there is no OData service at this address (HTTP {answer.status})",
                "Check the path of DYNAMICS_URL: /data/ and the collection, on-premises "
                "/namespaces/AXSF/data/ and the collection.",
            )
            return
        kind = yield from entity.examine(probe.connection, file, name, _PUBLISH, _WORDS)
    if kind is None:
        return
    members = list(probe.connection.target.body.members())
    yield entity.key(kind.key, members, _UNIQUE, _ENGLISH)
    yield from _company(probe, root, kind.properties, members)


def admit(
    probe: Probe, url: str, into: IO[bytes] | None = None
) -> Generator[Finding, None, ProbeResponse | None]:
    """GET the first URL, and return the answer if Finance & Operations takes the token."""
    answer = yield from probe.reach(FINANCE, url, into)
    if answer is None:
        return None
    findings = [] if probe.by_adfs else [_scope(probe)]
    for finding in (*findings, _access(probe, answer)):
        yield finding
        if finding.verdict is Verdict.FAIL:
            return None
    return answer


def _scope(probe: Probe) -> Finding:
    """https://learn.microsoft.com/dynamics365/fin-ops-core/dev-itpro/data-entities/troubleshoot-service-authentication."""
    origin = probe.origin
    resource = probe.connection.credentials.resource
    if resource == origin:
        return ok("scope", "it is the environment's own address")
    fix = f"Set DYNAMICS_SCOPE to {origin}/.default, or leave it out."
    if resource.casefold().rstrip("/") == origin:
        return fail(
            "scope",
            "DYNAMICS_SCOPE has capitals or a slash too many, and Dynamics compares to the letter",
            fix,
        )
    return fail("scope", "DYNAMICS_SCOPE is not the environment's own address", fix)


def _access(probe: Probe, answer: ProbeResponse) -> Finding:
    if answer.status == HTTPStatus.UNAUTHORIZED:
        fix = f"In {FORM}, add the client id {probe.client_id} with a user."
        if probe.is_identity:
            fix += (
                " If it is there already: let an app registration trust the identity (federated "
                "credential), and set ENTRA_CLIENT_ID to that."
            )
        return fail("access", "the token is right, but Dynamics does not know the application", fix)
    if answer.status == HTTPStatus.FORBIDDEN:
        return fail(
            "access",
            "Dynamics knows the application, but its user may do nothing",
            f"In System administration > Users, enable the user that {FORM.rpartition('> ')[2]} "
            f"names for the client id {probe.client_id}, and give it a role.",
        )
    return ok("access", "it knows the application")


def _company(
    probe: Probe, root: str, properties: Mapping[str, Property], members: list[Member]
) -> Iterator[Finding]:
    """https://learn.microsoft.com/dynamics365/fin-ops-core/dev-itpro/data-entities/cross-company-behavior."""
    if COMPANY not in properties:
        return
    given = next((each for each in members if each.path == (COMPANY,)), None)
    if given is None:
        yield warn(
            "company",
            "DYNAMICS_BODY has no dataAreaId: records land in the service user's default company",
            'Add a constant to DYNAMICS_BODY, such as "dataAreaId": "usmf".',
        )
    elif given.names or not isinstance(given.constant, str):
        yield warn(
            "company",
            "dataAreaId is no constant text in DYNAMICS_BODY",
            'Make it the id of a company, such as "dataAreaId": "usmf".',
        )
    else:
        yield _judge(_exists(probe, root, given.constant))


def _judge(exists: bool | None) -> Finding:  # noqa: FBT001 - what was found out
    if exists is None:
        return ok("company", "there is one; which companies exist the user may not read")
    if exists:
        return ok("company", "it exists")
    return fail(
        "company",
        "there is no company with this dataAreaId",
        "Put the id of a company from Organization administration > Organizations > Legal "
        "entities into DYNAMICS_BODY.",
    )


def _exists(probe: Probe, root: str, company: str) -> bool | None:
    """Tell whether there is a company, `None` where it cannot be read."""
    literal = quote("'" + company.replace("'", "''") + "'")
    for collection, name in _COMPANIES.items():
        answer = probe.ask(f"{root}/{collection}?$filter={name}%20eq%20{literal}&$select={name}")
        if answer is not None:
            ids = [str(each.get(name)).casefold() for each in answer.values]
            return company.casefold() in ids
    return None
