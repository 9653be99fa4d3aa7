"""Print what only a person may do after `azd up`, with the exact values of this deployment."""

from __future__ import annotations

import json
import sys

from az import deployed

NAMES = (
    "RELAY_URL",
    "RELAY_CALLBACKS",
    "RELAY_CLIENT_ID",
    "RELAY_FEDERATED",
    "RELAY_REGISTRATION_CREATED",
    "RELAY_IDENTITY_PRINCIPAL_ID",
    "RELAY_FEDERATION_ISSUER",
    "RELAY_FEDERATION_AUDIENCE",
    "RELAY_VAULT_NAME",
)
OF_A_DOMAIN = ("RELAY_DOMAIN", "RELAY_DOMAIN_VALIDATION", "RELAY_ENDPOINT_HOST")

DOMAIN = """\
At your DNS provider, make two records:
     CNAME  {RELAY_DOMAIN}  {RELAY_ENDPOINT_HOST}
     TXT    _dnsauth.{RELAY_DOMAIN}  {RELAY_DOMAIN_VALIDATION}
   The certificate comes by itself, within minutes or hours."""

PROVIDER = """\
At the provider, register the redirect URI, exactly as it stands here:
{uris}"""

ENTRA = """\
In Entra, let the relay's identity speak for your app registration. Write this to credential.json:
     {credential}
   and run, as an owner of the registration:
     az ad app federated-credential create --id {RELAY_CLIENT_ID} --parameters @credential.json"""

DYNAMICS = """\
In Dynamics, let the client in. Its client id is
     {RELAY_CLIENT_ID}
   Finance & Operations: System administration > Setup > Microsoft Entra ID applications, with a
   user who may create records of the entity and nothing else, and whose language is en-US.
   Dataverse: an application user with such a role.
   Business Central: a Microsoft Entra application card, the permission API.ReadWrite.All at the
   registration, and an administrator's consent to it:
     {consent}"""

KEYS = """\
For STATE_POLICY=signed, give Dynamics the key that it signs states with. Whoever has the role
   Key Vault Secrets User reads it with:
     az keyvault secret show --vault-name {RELAY_VAULT_NAME} --name state-keys --query value"""

CHECK = """\
See that it works:
     {RELAY_URL}/health answers {{"status":"ok",...}}
     {RELAY_URL}/callback shows the page "This is a redirect URI\""""


def main() -> int:
    """Print the list; return the exit code."""
    values = deployed(*NAMES, optional=OF_A_DOMAIN)
    print("\nThe relay is deployed. What is left is for a person:\n")
    for number, step in enumerate(steps(values), 1):
        print(f"{number}. {step.format(**values, **derived(values))}\n")
    return 0


def steps(values: dict[str, str]) -> list[str]:
    """Return the steps that this deployment needs, in their order."""
    federated, created = (
        values[name].lower() == "true" for name in ("RELAY_FEDERATED", "RELAY_REGISTRATION_CREATED")
    )
    chosen = (
        (bool(values["RELAY_DOMAIN"]), DOMAIN),
        (True, PROVIDER),
        # The deployment gives its own registration the credential.
        (federated and not created, ENTRA),
        (True, DYNAMICS),
        (True, KEYS),
        (True, CHECK),
    )
    return [step for needed, step in chosen if needed]


def derived(values: dict[str, str]) -> dict[str, str]:
    """Return the values that are composed of several outputs."""
    paths = values["RELAY_CALLBACKS"].split(",")
    credential = {
        "name": "relay",
        "issuer": values["RELAY_FEDERATION_ISSUER"],
        "subject": values["RELAY_IDENTITY_PRINCIPAL_ID"],
        "audiences": [values["RELAY_FEDERATION_AUDIENCE"]],
    }
    tenant = values["RELAY_FEDERATION_ISSUER"].removesuffix("/v2.0")
    return {
        "uris": "\n".join(f"     {values['RELAY_URL']}{path}" for path in paths),
        "credential": json.dumps(credential),
        "consent": f"{tenant}/adminconsent?client_id={values['RELAY_CLIENT_ID']}",
    }


if __name__ == "__main__":
    sys.exit(main())
