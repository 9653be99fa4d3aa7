"""Print what only a person may do after `azd up`, with the exact values of this deployment.

At its end it asks `/health?code=probe` until the answer is 200, for ten minutes at most: the host
looks for its keys in Blob storage then, as it does for each callback, and the roles for that take
some minutes. `/health` alone is answered before.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import time
import urllib.error
import urllib.request
from urllib.parse import urlsplit

from az import command, deployed

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
    "RELAY_STORAGE_NAME",
    "RELAY_APP_NAME",
    "RELAY_STATE_POLICY",
)
BUSINESS_CENTRAL = "996def3d-b36c-4153-8607-a6fd3c01b89f"
"""The application id of Dynamics 365 Business Central, the same in every tenant."""
API_READ_WRITE_ALL = "a42b0b75-311e-488d-b67e-8fe84f924341"
"""Its application role API.ReadWrite.All."""
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
     az ad app federated-credential create --id {RELAY_CLIENT_ID} --parameters "@credential.json"
   In every PowerShell the quotes are needed."""

DYNAMICS = """\
In Dynamics, let the client in. Its client id is
     {RELAY_CLIENT_ID}
   Finance & Operations: System administration > Setup > Microsoft Entra ID applications, with a
   user who may create records of the entity and nothing else, and whose language is en-US.
   Dataverse: an application user with such a role.
   Business Central: a Microsoft Entra application card, and the permission API.ReadWrite.All, which
   an administrator adds to the registration and grants:
     az ad app permission add --id {RELAY_CLIENT_ID} --api {api} --api-permissions {role}=Role
     az ad app permission admin-consent --id {RELAY_CLIENT_ID}"""

KEYS = """\
Give Dynamics the key that it signs states with. Whoever has the role Key Vault Secrets User reads
   it with:
     az keyvault secret show --vault-name {RELAY_VAULT_NAME} --name state-keys --query value"""

OPEN = """\
STATE_POLICY is {RELAY_STATE_POLICY}: strangers can write rows into Dynamics, through this address.
   With STATE_POLICY=signed, and states that Dynamics signs, they cannot: docs/minting.md"""

CHECK = """\
See that it works:
     {RELAY_URL}/callback shows the page "This is a redirect URI\""""

MISSING = {
    None: """\
there is no answer. The app may be starting again and again because it may not use its storage
   {RELAY_STORAGE_NAME}: has the identity its roles there? docs/operate-storage.md""",
    403: """\
somebody in between refuses. With Front Door only its own address answers: docs/deploy.md""",
    404: """\
there is no such function. Deploy the code: azd deploy""",
    500: """\
the app does not come to its storage {RELAY_STORAGE_NAME}, where the host's keys are. Has the
   identity its roles there, and can the app reach it? docs/operate-storage.md""",
    503: """\
the settings do not validate; a secret that is not in the vault yet counts too. What is wrong, says
     python -m relay doctor --app {RELAY_APP_NAME}""",
}
"""What to say of an answer that is not 200; `None`: no answer."""


def main(arguments: list[str]) -> int:
    """Print the list, then wait for the relay; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--wait", type=float, default=600, help="seconds to wait for the relay")
    parser.add_argument("--pause", type=float, default=10, help="seconds between two looks")
    given = parser.parse_args(arguments)
    values = deployed(*NAMES, optional=OF_A_DOMAIN)
    print("\nThe relay is deployed. What is left is for a person:\n")
    for number, step in enumerate(steps(values), 1):
        print(f"{number}. {step.format(**values, **derived(values))}\n")
    # A domain whose records are not made yet has nothing to wait for.
    wait = 0.0 if values["RELAY_DOMAIN"] else given.wait
    return tell(values, probe(f"{values['RELAY_URL']}/health?code=probe", wait, given.pause))


def probe(url: str, wait: float, pause: float) -> int | None:
    """Ask until the answer is 200 or the time is over; return the last status, `None` for none."""
    print(f"Asking {url} until callbacks come through ...", flush=True)
    ends = time.monotonic() + wait
    while True:
        status = ask(url)
        if status == http.HTTPStatus.OK or time.monotonic() + pause > ends:
            return status
        time.sleep(pause)


def ask(url: str) -> int | None:
    """Return the status of one answer. A host whose storage fails takes half a minute for it."""
    if urlsplit(url).scheme not in ("http", "https"):
        sys.exit(f"RELAY_URL: {url} is no address of the web.")
    try:
        with urllib.request.urlopen(url, timeout=40) as answer:  # noqa: S310 - looked at above
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, http.client.HTTPException):
        return None


def tell(values: dict[str, str], status: int | None) -> int:
    """Print what the last answer means; return the exit code."""
    if status == http.HTTPStatus.OK:
        print("200: callbacks come through.")
        return 0
    if values["RELAY_DOMAIN"]:
        print("Not yet. Once the records of the domain are there, this asks again:")
        print(f"     {command('checklist.py')}")
        return 0
    why = MISSING.get(status, "see docs/operate.md.").format(**values)
    print(f"Not yet ({status or 'no answer'}): {why}")
    print(f"   Roles take some minutes at first. To ask again: {command('checklist.py')}")
    return 1


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
        (values["RELAY_STATE_POLICY"] == "signed", KEYS),
        (values["RELAY_STATE_POLICY"] != "signed", OPEN),
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
    return {
        "uris": "\n".join(f"     {values['RELAY_URL']}{path}" for path in paths),
        "credential": json.dumps(credential),
        "api": BUSINESS_CENTRAL,
        "role": API_READ_WRITE_ALL,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
