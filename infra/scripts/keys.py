"""The keys in Key Vault: mint the missing ones, rotate, retire, put. No key is ever printed.

mint            make OUTBOX_KEYS and STATE_KEYS where the vault has none; azd runs it
rotate SETTING  put a new key before the first one, and drop the others
retire SETTING  keep the first key only
put SETTING     store a secret: typed, from a pipe, or with --file, as certificates must be

Secrets are written through Azure Resource Manager: that needs no right to read them, and works
when the vault cannot be reached from this machine. `rotate` and `retire` read one, and need the
role Key Vault Secrets User.
"""

from __future__ import annotations

import argparse
import base64
import getpass
import secrets
import sys
import time
from pathlib import Path
from typing import Any

from az import arm, az, command, deployed

VAULT_API = "2023-07-01"
SITE_API = "2022-03-01"
MINTED = ("OUTBOX_KEYS", "STATE_KEYS")


def main(arguments: list[str]) -> int:
    """Run one command; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--wait", type=float, default=20, help="seconds between two looks")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("mint", help="make the keys that the vault does not have")
    for name in ("rotate", "retire"):
        commands.add_parser(name).add_argument("setting", choices=MINTED)
    putting = commands.add_parser("put")
    putting.add_argument("setting")
    putting.add_argument("--file", type=Path, help="take the secret from this file")
    given = parser.parse_args(arguments)
    values = deployed("RELAY_VAULT_ID", "RELAY_APP_ID", "RELAY_VAULT_SETTINGS")
    vault_id, settings = values["RELAY_VAULT_ID"], values["RELAY_VAULT_SETTINGS"].split(",")
    if given.command == "mint":
        mint(vault_id)
    elif given.command == "put":
        put(vault_id, given.setting, settings, given.file)
    else:
        turn(vault_id, given.setting, given.command)
    return tell(refresh(values["RELAY_APP_ID"], given.wait), settings)


def mint(vault_id: str) -> None:
    """Create the missing keys. An existing key stays, even a disabled one: messages may need it."""
    there = existing(vault_id)
    for setting in MINTED:
        if secret_name(setting) in there:
            print(f"{setting}: in the vault already, left as it is")
        else:
            write(vault_id, setting, fresh(setting))
            print(f"{setting}: minted")


def turn(vault_id: str, setting: str, command: str) -> None:
    """Put a new key before the first one (`rotate`), or keep the first one only (`retire`)."""
    vault = vault_id.rpartition("/")[2]
    name = secret_name(setting)
    where = ("--vault-name", vault, "--name", name)
    value = az("keyvault", "secret", "show", *where, "--query", "value", "--output", "tsv")
    first = value.strip().split(",")[0]
    if not first:
        sys.exit(f"{setting} is empty in the vault {vault}.")
    write(vault_id, setting, f"{fresh(setting)},{first}" if command == "rotate" else first)
    print(f"{setting}: {'new key in front, one behind it' if command == 'rotate' else 'one key'}")


def put(vault_id: str, setting: str, settings: list[str], file: Path | None) -> None:
    """Store a secret that was created elsewhere."""
    if setting not in settings:
        sys.exit(
            f"{setting}: not a setting of the vault. Name it in VAULT_SETTINGS, and run "
            "azd provision: docs/deploy.md"
        )
    value = secret(setting, file).strip().removeprefix("\ufeff")
    if not value:
        sys.exit(f"{setting}: nothing came.")
    if "-----BEGIN" in value and value.count("-----BEGIN") != value.count("-----END"):
        sys.exit(f"{setting}: a certificate or key that is not whole. Nothing was stored.")
    write(vault_id, setting, value)
    print(f"{setting}: stored")


def secret(setting: str, file: Path | None) -> str:
    """Read a secret from a file, from a pipe, or hidden from the keyboard. Ends the script."""
    if file is not None:
        try:
            return file.read_text(encoding="utf-8")
        except OSError as error:
            sys.exit(f"{file}: {error.strerror}")
        except UnicodeDecodeError:
            sys.exit(f"{file} is no text in UTF-8. A certificate is stored as PEM, not as PFX.")
    if not sys.stdin.isatty():
        return sys.stdin.read()
    advice = command("keys.py", "put", setting, "--file", "<its PEM file>")
    if setting.endswith("CERTIFICATE"):
        sys.exit(f"A certificate has several lines, and a prompt takes one. Run: {advice}")
    typed = line = getpass.getpass(f"{setting}: ")
    while typed.startswith("-----BEGIN") and line.strip():
        # The rest of a pasted key is on its way, and would be shown as the next commands.
        line = getpass.getpass("This is not all of it, and nothing is stored. Press Enter: ")
    return typed


def fresh(setting: str) -> str:
    """Return a new key in the setting's form: a Fernet key, or `kid:key` without padding."""
    key = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
    return key if setting == "OUTBOX_KEYS" else f"k{secrets.token_hex(4)}:{key.rstrip('=')}"


def secret_name(setting: str) -> str:
    """Return a setting's name in the vault, which allows no underscores, as app.bicep does."""
    return setting.lower().replace("_", "-")


def existing(vault_id: str) -> set[str]:
    """Return the names of all secrets of the vault."""
    names: set[str] = set()
    path = f"{vault_id}/secrets?api-version={VAULT_API}"
    while path:
        page = arm("get", path)
        names |= {secret["name"] for secret in page["value"]}
        path = page.get("nextLink") or ""
    return names


def write(vault_id: str, setting: str, value: str) -> None:
    """Store one secret. Ends the script when it cannot."""
    path = f"{vault_id}/secrets/{secret_name(setting)}?api-version={VAULT_API}"
    arm("put", path, {"properties": {"value": value, "contentType": f"{setting} of the relay"}})


def refresh(app_id: str, wait: float) -> dict[str, str]:
    """Make the app read its Key Vault references again; return the status of those it could not.

    Retried, because a new role assignment takes some minutes. Without the request the app reads its
    references once a day.
    https://learn.microsoft.com/azure/app-service/app-service-key-vault-references
    """
    path = f"{app_id}/config/configreferences/appsettings/refresh?api-version={SITE_API}"
    for attempt in range(6):
        found = statuses(arm("post", path))
        unread = {name: status for name, status in found.items() if status != "Resolved"}
        if unread.keys().isdisjoint(MINTED):
            return unread
        if attempt < 5:  # noqa: PLR2004 - the last one
            time.sleep(wait)
    return unread


def statuses(answer: dict[str, Any]) -> dict[str, str]:
    """Return the status of each reference by its setting.

    Azure's description has two forms of the answer: a list of resources, and one resource whose
    property `keyToReferenceStatuses` has an object for each setting.
    """
    listed = {one["name"]: one["properties"] for one in answer.get("value", [])}
    keyed = answer.get("properties", {}).get("keyToReferenceStatuses", {})
    return {name: one.get("status", "unknown") for name, one in (listed | keyed).items()}


def tell(unread: dict[str, str], settings: list[str]) -> int:
    """Print which settings the app cannot read yet, and the next step for each."""
    for name, status in unread.items():
        if name in MINTED:
            advice = "azd hooks run postprovision"
            print(f"{name}: the app cannot read it yet ({status}). Run: {advice}")
        else:
            advice = command("keys.py", "put", name)
            print(f"{name}: not in the vault yet ({status}). Run: {advice}")
    if not unread:
        print(f"The app reads {', '.join(settings)} from the vault.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
