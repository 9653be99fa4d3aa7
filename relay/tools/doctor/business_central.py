"""Business Central: an API page in one company of one environment.

https://learn.microsoft.com/dynamics365/business-central/dev-itpro/administration/automation-apis-using-s2s-authentication
"""

from collections.abc import Iterator
from http import HTTPStatus
from tempfile import TemporaryFile

from relay.delivery.targets import Address
from relay.tools.doctor import entity, fields
from relay.tools.doctor.finding import Finding, Verdict, fail, ok, warn
from relay.tools.doctor.probe import Probe, ProbeResponse, names_in

NAME = "Business Central"
ROLE = "API.ReadWrite.All"
STANDARD = "v2.0"
"""The standard API, which every environment has."""
_WORDS = fields.Words("API page", "field", "In AL, in the table")
_PUBLISH = "In AL, check EntitySetName of the API page, and publish the extension."
_CARD = "the page Microsoft Entra Applications"
_KEY_UNKNOWN = (
    "the metadata do not describe it: the table needs a unique key over the field with {state} or "
    "{state_hash}; --write tries it"
)


def examine(probe: Probe, address: Address) -> Iterator[Finding]:
    """Examine one API page.

    In: the URL of `/api`; publisher, group and version, or `v2.0`; the company's id; the
    collection.
    """
    root, (route, company, name) = address
    api = f"{root}/{route}"
    answer = yield from probe.reach(NAME, f"{api}/companies?$select=id")
    if answer is None:
        return
    for finding in (_role(probe), _access(probe, answer)):
        if finding is not None:
            yield finding
            if finding.verdict is Verdict.FAIL:
                return
    if answer.status != HTTPStatus.FORBIDDEN:
        if not answer.is_success:
            yield _no_api(probe, root, answer)
            return
        yield ok("environment", "it has the API")
        known = _company(company, answer)
        yield known
        if known.verdict is Verdict.FAIL:
            return
    yield from _page(probe, api, name)


def _company(company: str, answer: ProbeResponse) -> Finding:
    if company.casefold() in [each.casefold() for each in names_in(answer.values, "id")]:
        return ok("company", "it exists")
    return fail(
        "company",
        "the environment has no company with the id in DYNAMICS_URL",
        "Put a company's id between the brackets of companies(…): GET …/companies of the same "
        "API lists them.",
    )


def _page(probe: Probe, api: str, name: str) -> Iterator[Finding]:
    with TemporaryFile() as file:
        answer = probe.get(f"{api}/$metadata", into=file)
        if not answer.is_success:
            yield fail(
                "entity",
                f"the API's metadata cannot be read (HTTP {answer.status})",
                "Run the doctor again in some minutes; if it stays so, publish the extension anew.",
            )
            return
        kind = yield from entity.examine(probe.connection, file, name, _PUBLISH, _WORDS)
    if kind is not None:
        yield ok("key", _KEY_UNKNOWN)


def _role(probe: Probe) -> Finding | None:
    """Check the application permission in the token's claims; `None` if they cannot tell."""
    if probe.by_adfs or probe.is_identity or not probe.claims:
        return None
    roles = probe.claims.get("roles")
    if isinstance(roles, list) and ROLE in roles:
        return ok("role", f"the token has {ROLE}")
    return fail(
        "role",
        f"the token has no role {ROLE}",
        "In the app registration, API permissions: add Dynamics 365 Business Central > "
        f"Application permissions > {ROLE}, and press Grant admin consent.",
    )


def _access(probe: Probe, answer: ProbeResponse) -> Finding:
    if answer.status == HTTPStatus.UNAUTHORIZED and probe.is_identity:
        return fail(
            "access",
            "Business Central does not take tokens of managed identities",
            "Let an app registration trust the identity (federated credential): set "
            "ENTRA_CLIENT_ID to its client id, and keep ENTRA_MANAGED_IDENTITY_CLIENT_ID.",
        )
    if answer.status == HTTPStatus.UNAUTHORIZED and not _is_own(probe):
        return fail(
            "access",
            "it does not take the token, and DYNAMICS_SCOPE is not its own address",
            f"Set DYNAMICS_SCOPE to {probe.origin}/.default, or leave it out.",
        )
    if answer.status == HTTPStatus.UNAUTHORIZED:
        return fail(
            "access",
            "the token is right, but Business Central does not know the application",
            f"On {_CARD}, add the client id {probe.client_id} and set State to Enabled. "
            "On-premises, ValidAudiences must have the resource of DYNAMICS_SCOPE.",
        )
    if answer.status == HTTPStatus.FORBIDDEN:
        return warn(
            "access",
            "it knows the application, which may not read companies, and perhaps nothing at all",
            f"On {_CARD}, give the application permission sets that have read on Company and "
            "insert on the table.",
        )
    return ok("access", "it knows the application")


def _is_own(probe: Probe) -> bool:
    # On-premises the audience is the app registration of Business Central itself.
    return probe.by_adfs or probe.connection.credentials.resource == probe.origin


def _no_api(probe: Probe, root: str, answer: ProbeResponse) -> Finding:
    """Distinguish a wrong environment, which has no API at all, from a wrong API."""
    if probe.ask(f"{root}/{STANDARD}/companies?$select=id") is None:
        return fail(
            "environment",
            f"there is no such environment (HTTP {answer.status})",
            "Check tenant and environment in DYNAMICS_URL: /v2.0/<tenant>/<environment>/api/…; "
            "the admin center lists environments by name.",
        )
    return fail(
        "environment",
        f"the environment has no such API (HTTP {answer.status})",
        "Check publisher, group and version after /api/ in DYNAMICS_URL, as APIPublisher, APIGroup "
        "and APIVersion in AL have them; publish the extension in this environment.",
    )
