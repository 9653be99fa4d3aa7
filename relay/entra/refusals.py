"""Refusals of Entra, AD FS and the identity endpoint: which ones pass, and what a person does.

One entry for each kind. A refusal is for good unless its entry says that it passes, or its status
does (`relay.delivery.retry_after`). Wording and next step are what the doctor and `send` say, and
what docs/operate.md prints. The codes:
https://learn.microsoft.com/entra/identity-platform/reference-error-codes
"""

from enum import Enum, auto
from typing import NamedTuple

from relay.errors import Hint


class Retry(Enum):
    """Whether the same request may work later, whatever its status says."""

    NEVER = auto()
    LATER = auto()
    AT_ONCE = auto()
    """Later, and once more within the same attempt."""
    ANEW = auto()
    """Later, with a new assertion: MSAL keeps one for minutes."""


class Known(NamedTuple):
    """A kind of refusal. `names`: numbers of AADSTS, or reasons of the log.

    `wrong` is the second half of a sentence, `fix` the next step.
    """

    names: tuple[int | str, ...]
    wrong: str
    fix: str
    retry: Retry = Retry.NEVER

    @property
    def reasons(self) -> tuple[str, ...]:
        """The reasons of the log that it has: `AADSTS7000215`, `identity_400`."""
        return tuple(f"AADSTS{name}" if isinstance(name, int) else name for name in self.names)


_FEDERATED = (
    "In the app registration, Certificates & secrets > Federated credentials: add the scenario "
    "Managed Identity"
)

_TIME = (
    "the assertion is outside of its time",
    "Check the clock of the machine; certificates and identities need it within five minutes.",
)

KNOWN = (
    Known(
        (7000215,),
        "the client secret is wrong",
        "Paste the secret's Value into ENTRA_CLIENT_SECRET, not its Secret ID.",
    ),
    Known(
        (7000222,),
        "the client secret has expired",
        "Make a new one under Certificates & secrets and put its Value into ENTRA_CLIENT_SECRET.",
    ),
    Known(
        (7000218, 900144),
        "the request has no credential",
        "Set one of ENTRA_CLIENT_SECRET, ENTRA_CLIENT_CERTIFICATE and "
        "ENTRA_MANAGED_IDENTITY_CLIENT_ID.",
    ),
    Known(
        (700016, 700011),
        "the application is not in this tenant",
        "Check ENTRA_CLIENT_ID (Application (client) ID, not Object ID), the tenant and the cloud.",
    ),
    Known(
        (70001, 7000112),
        "the application is disabled",
        "In Entra, Enterprise applications: set Enabled for users to sign-in to Yes.",
    ),
    Known(
        (90002, 900023),
        "the tenant does not exist in this cloud",
        "Check ENTRA_TENANT_ID (the tenant's id or a domain of it); for US Government or China set "
        "ENTRA_AUTHORITY.",
    ),
    Known(
        (90038, 900382, 900432),
        "the tenant is in another national cloud",
        "Set ENTRA_AUTHORITY to that cloud: https://login.microsoftonline.us/<tenant> or "
        "https://login.partner.microsoftonline.cn/<tenant>.",
    ),
    Known(
        (50059, 50194),
        "the authority names no tenant",
        "Put the tenant's own id into ENTRA_TENANT_ID, not common or organizations.",
    ),
    Known(
        (500011, 50001),
        "the tenant does not know the resource",
        "Check DYNAMICS_URL and DYNAMICS_SCOPE: the environment's own address, in lower case, "
        "without a path or a slash at its end.",
    ),
    Known(
        (650057, 65001),
        "the permission to Dynamics is missing or nobody has consented to it",
        "In the app registration, API permissions: add the application permission for Dynamics and "
        "press Grant admin consent.",
    ),
    Known(
        (650052, 650056),
        "the tenant has not subscribed to Dynamics, or the permission is not listed",
        "Check that the Dynamics environment belongs to this tenant; add its permission and grant "
        "admin consent.",
    ),
    Known(
        (1002012, 70011, 28002),
        "the scope is not one that Entra takes",
        "DYNAMICS_SCOPE must be exactly the resource and /.default, such as "
        "https://contoso.operations.dynamics.com/.default.",
    ),
    Known(
        (700027, 50012, 700030),
        "the certificate is not one that the app registration has",
        "Upload the public certificate of ENTRA_CLIENT_CERTIFICATE under Certificates & secrets, "
        "and check that it has not expired.",
    ),
    Known((700024,), *_TIME, Retry.ANEW),
    Known((500133,), *_TIME),
    # Replicas can be behind, so a right credential is refused now and then.
    # https://learn.microsoft.com/entra/workload-id/workload-identity-federation-considerations
    Known(
        (70021,),
        "no federated credential fits what the identity presents",
        f"{_FEDERATED}; after a change wait some minutes.",
        Retry.AT_ONCE,
    ),
    Known(
        (700211,),
        "no federated credential has the identity's tenant as its issuer",
        f"{_FEDERATED}; app and identity must be in the same tenant.",
        Retry.AT_ONCE,
    ),
    Known(
        (700212,),
        "the federated credential has another audience",
        f"{_FEDERATED} with the audience api://AzureADTokenExchange (USGov and China have their "
        "own).",
        Retry.AT_ONCE,
    ),
    Known(
        (700213,),
        "no federated credential has this identity as its subject",
        f"{_FEDERATED}; its subject is the identity's object (principal) id, not the client id.",
        Retry.AT_ONCE,
    ),
    Known(
        (700025,),
        "the application is registered as a public client",
        "In the app registration, Authentication: set Allow public client flows to No.",
    ),
    Known(
        (53003,),
        "Conditional Access blocks the relay",
        "Let an administrator exempt this workload identity, or allow the outgoing addresses of "
        "the Function App.",
    ),
    Known(
        (50034,),
        "Entra looks for a user, who does not take part here",
        "Check that ENTRA_CLIENT_ID is an application's and ENTRA_TENANT_ID the tenant's.",
    ),
    Known(
        (50196,),
        "the application asks in a loop",
        "Wait some minutes; then look for another program that uses the same application.",
        Retry.LATER,
    ),
    Known(
        (
            *(90006, 90012, 90024, 90033, 90055, 90090, 90091),
            *(40010, 50033, 50087, 51005, 70012, 80005),
            *("entra_temporarily_unavailable", "entra_server_error"),
        ),
        "Entra is busy just now",
        "Wait a minute and run the doctor again.",
        Retry.LATER,
    ),
    Known(
        ("certificate_unreadable",),
        "the certificate cannot be opened, or its key and certificate do not belong together",
        "Check ENTRA_CLIENT_CERTIFICATE_PASSWORD, and that the file holds the private key too.",
    ),
    Known(
        ("identity_missing",),
        "this machine has no managed identity",
        "In Azure, assign one to the Function App (Identity). A developer's machine has none: "
        "there use a secret or a certificate, or run python -m relay doctor --app NAME, which has "
        "the app itself examine its set-up.",
    ),
    Known(
        ("identity_400",),
        "the Function App does not have this managed identity",
        "Assign the identity with that client id to the Function App (Identity > User assigned), "
        "or correct ENTRA_MANAGED_IDENTITY_CLIENT_ID.",
    ),
    Known(
        ("identity_404", "identity_410"),
        "the platform's identity endpoint is starting or is being updated",
        "Wait a minute and run the doctor again.",
        Retry.LATER,
    ),
    Known(
        ("identity_500",),
        "the platform gives no token for this resource",
        "Check DYNAMICS_SCOPE, and that the resource exists in the identity's tenant.",
    ),
    Known(
        ("entra_connect",),
        "Entra cannot be reached",
        "Check the host's name, DNS and firewalls from where the relay runs.",
    ),
    Known(("entra_timeout",), "Entra does not answer in time", "Check networks and firewalls."),
    Known(
        ("entra_tls",),
        "the certificate of Entra is not trusted",
        "Put the private CA that signed it into a PEM file and name it in CA_BUNDLE.",
    ),
    Known(
        ("entra_invalid_resource",),
        "AD FS does not know the resource (MSIS9602)",
        "Register the resource in AD FS, and set DYNAMICS_SCOPE to it with /.default: "
        "https://ax.contoso.com without /namespaces/AXSF.",
    ),
    Known(
        ("entra_invalid_client",),
        "the client id or its secret is wrong",
        "Check ENTRA_CLIENT_ID and the credential in AD FS, Application Groups.",
    ),
    Known(
        ("entra_unauthorized_client", "entra_access_denied"),
        "AD FS lets this client not ask for the resource",
        "In AD FS, Application Groups: give the server application permission to the D365 Web API.",
    ),
)


def retry(*reasons: str) -> Retry:
    """Return what the table says of a refusal with these reasons; a reason that passes counts."""
    found = [known.retry for known in KNOWN if not {*reasons}.isdisjoint(known.reasons)]
    return next((each for each in found if each is not Retry.NEVER), Retry.NEVER)


def hint(reason: str) -> Hint:
    """Return what is wrong and the next step, for the reason of a refusal in the log."""
    known = next((known for known in KNOWN if reason in known.reasons), None)
    code = reason.removeprefix("AADSTS")
    if code != reason and code.isdecimal():
        if known is None:
            fix = (
                f"Read https://login.microsoftonline.com/error?code={code} and mend what it names."
            )
            return Hint(f"Entra refuses ({reason})", fix)
        return Hint(f"{known.wrong} ({reason})", known.fix)
    if known is None:
        fix = "Check the authority, the client id and the credential."
        return Hint(f"Entra refuses ({reason})", fix)
    return Hint(known.wrong, known.fix)
