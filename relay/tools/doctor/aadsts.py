"""What Entra's error codes mean for the person who sets the relay up, and the next step.

The texts are for people and decide nothing. The codes:
https://learn.microsoft.com/entra/identity-platform/reference-error-codes
"""

from collections.abc import Mapping
from typing import NamedTuple


class Hint(NamedTuple):
    """What is wrong, as the second half of a sentence, and the next step."""

    wrong: str
    fix: str


_FEDERATED = (
    "In the app registration, Certificates & secrets > Federated credentials: add the scenario "
    "Managed Identity"
)

_BY_CODES: Mapping[tuple[int, ...], Hint] = {
    (7000215,): Hint(
        "the client secret is wrong",
        "Paste the secret's Value into ENTRA_CLIENT_SECRET, not its Secret ID.",
    ),
    (7000222,): Hint(
        "the client secret has expired",
        "Make a new one under Certificates & secrets and put its Value into ENTRA_CLIENT_SECRET.",
    ),
    (7000218, 900144): Hint(
        "the request has no credential",
        "Set one of ENTRA_CLIENT_SECRET, ENTRA_CLIENT_CERTIFICATE and "
        "ENTRA_MANAGED_IDENTITY_CLIENT_ID.",
    ),
    (700016, 700011): Hint(
        "the application is not in this tenant",
        "Check ENTRA_CLIENT_ID (Application (client) ID, not Object ID), the tenant and the cloud.",
    ),
    (70001, 7000112): Hint(
        "the application is disabled",
        "In Entra, Enterprise applications: set Enabled for users to sign-in to Yes.",
    ),
    (90002, 900023): Hint(
        "the tenant does not exist in this cloud",
        "Check ENTRA_TENANT_ID (the tenant's id or a domain of it); for US Government or China set "
        "ENTRA_AUTHORITY.",
    ),
    (90038, 900382, 900432): Hint(
        "the tenant is in another national cloud",
        "Set ENTRA_AUTHORITY to that cloud: https://login.microsoftonline.us/<tenant> or "
        "https://login.partner.microsoftonline.cn/<tenant>.",
    ),
    (50059, 50194): Hint(
        "the authority names no tenant",
        "Put the tenant's own id into ENTRA_TENANT_ID, not common or organizations.",
    ),
    (500011, 50001): Hint(
        "the tenant does not know the resource",
        "Check DYNAMICS_URL and DYNAMICS_SCOPE: the environment's own address, in lower case, "
        "without a path or a slash at its end.",
    ),
    (650057, 65001): Hint(
        "the permission to Dynamics is missing or nobody has consented to it",
        "In the app registration, API permissions: add the application permission for Dynamics and "
        "press Grant admin consent.",
    ),
    (650052, 650056): Hint(
        "the tenant has not subscribed to Dynamics, or the permission is not listed",
        "Check that the Dynamics environment belongs to this tenant; add its permission and grant "
        "admin consent.",
    ),
    (1002012, 70011, 28002): Hint(
        "the scope is not one that Entra takes",
        "DYNAMICS_SCOPE must be exactly the resource and /.default, such as "
        "https://contoso.operations.dynamics.com/.default.",
    ),
    (700027, 50012, 700030): Hint(
        "the certificate is not one that the app registration has",
        "Upload the public certificate of ENTRA_CLIENT_CERTIFICATE under Certificates & secrets, "
        "and check that it has not expired.",
    ),
    (700024, 500133): Hint(
        "the assertion is outside of its time",
        "Check the clock of the machine; certificates and identities need it within five minutes.",
    ),
    (700211,): Hint(
        "no federated credential has the identity's tenant as its issuer",
        f"{_FEDERATED}; app and identity must be in the same tenant.",
    ),
    (700212,): Hint(
        "the federated credential has another audience",
        f"{_FEDERATED} with the audience api://AzureADTokenExchange (USGov and China have their "
        "own).",
    ),
    (700213,): Hint(
        "no federated credential has this identity as its subject",
        f"{_FEDERATED}; its subject is the identity's object (principal) id, not the client id.",
    ),
    (700025,): Hint(
        "the application is registered as a public client",
        "In the app registration, Authentication: set Allow public client flows to No.",
    ),
    (53003,): Hint(
        "Conditional Access blocks the relay",
        "Let an administrator exempt this workload identity, or allow the outgoing addresses of "
        "the Function App.",
    ),
    (50034,): Hint(
        "Entra looks for a user, who does not take part here",
        "Check that ENTRA_CLIENT_ID is an application's and ENTRA_TENANT_ID the tenant's.",
    ),
    (50196,): Hint(
        "the application asks in a loop",
        "Wait some minutes; then look for another program that uses the same application.",
    ),
    (90055, 90033, 90006, 50033, 90024): Hint(
        "Entra is busy just now", "Wait a minute and run the doctor again."
    ),
}
HINTS = {code: found for codes, found in _BY_CODES.items() for code in codes}
"""By AADSTS number."""

_OTHERS = {
    "certificate_unreadable": Hint(
        "the certificate cannot be opened, or its key and certificate do not belong together",
        "Check ENTRA_CLIENT_CERTIFICATE_PASSWORD, and that the file holds the private key too.",
    ),
    "identity_missing": Hint(
        "this machine has no managed identity",
        "In Azure, assign one to the Function App (Identity). A developer's machine has none: "
        "there use a secret or a certificate, or run python -m relay doctor --app NAME, which has "
        "the app itself examine its set-up.",
    ),
    "identity_400": Hint(
        "the Function App does not have this managed identity",
        "Assign the identity with that client id to the Function App (Identity > User assigned), "
        "or correct ENTRA_MANAGED_IDENTITY_CLIENT_ID.",
    ),
    "identity_500": Hint(
        "the platform gives no token for this resource",
        "Check DYNAMICS_SCOPE, and that the resource exists in the identity's tenant.",
    ),
    "entra_connect": Hint(
        "Entra cannot be reached",
        "Check the host's name, DNS and firewalls from where the relay runs.",
    ),
    "entra_timeout": Hint("Entra does not answer in time", "Check networks and firewalls."),
    "entra_tls": Hint(
        "the certificate of Entra is not trusted",
        "Put the private CA that signed it into a PEM file and name it in CA_BUNDLE.",
    ),
    "entra_invalid_resource": Hint(
        "AD FS does not know the resource (MSIS9602)",
        "Register the resource in AD FS, and set DYNAMICS_SCOPE to it with /.default: "
        "https://ax.contoso.com without /namespaces/AXSF.",
    ),
    "entra_invalid_client": Hint(
        "the client id or its secret is wrong",
        "Check ENTRA_CLIENT_ID and the credential in AD FS, Application Groups.",
    ),
    "entra_unauthorized_client": Hint(
        "AD FS lets this client not ask for the resource",
        "In AD FS, Application Groups: give the server application permission to the D365 Web API.",
    ),
}


def hint(reason: str) -> Hint:
    """Return what is wrong and the next step, for the reason of a refusal.

    `reason` is as `relay.entra` writes it: `AADSTS7000215`, `identity_400`, `entra_invalid_client`.
    """
    code = reason.removeprefix("AADSTS")
    if code != reason and code.isdecimal():
        unknown = Hint(
            "Entra refuses",
            f"Read https://login.microsoftonline.com/error?code={code} and mend what it names.",
        )
        found = HINTS.get(int(code), unknown)
        return Hint(f"{found.wrong} ({reason})", found.fix)
    otherwise = Hint(
        f"Entra refuses ({reason})", "Check the authority, the client id and the credential."
    )
    return _OTHERS.get(reason, otherwise)
