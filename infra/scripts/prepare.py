"""What has to be there before the template: the hook before `azd provision`.

It asks once whom the alerts tell. And Azure registers the resource providers of a template by
itself, but a subnet for Flex Consumption needs `Microsoft.App`, of which the template has no
resource.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

from az import az

EMAILS = "ALERT_EMAILS"


def main() -> int:
    """Set ALERT_EMAILS if it is not, register what PRIVATE_NETWORK needs; return the exit code."""
    if EMAILS not in os.environ:
        ask()
    if os.environ.get("PRIVATE_NETWORK", "").lower() == "true":
        of = os.environ.get("AZURE_SUBSCRIPTION_ID", "")
        subscription = ["--subscription", of] if of else []
        # Registering again does nothing.
        az("provider", "register", "--namespace", "Microsoft.App", "--wait", *subscription)
        print("Microsoft.App is registered: the private network needs it.")
    return 0


def ask() -> None:
    """Ask whom the alerts tell, and keep the answer in the environment of azd, nobody too."""
    azd = shutil.which("azd")
    if azd is None or not sys.stdin.isatty():
        print(f"The alerts tell nobody: {EMAILS} is not set (docs/deploy.md).")
        return
    print("Whom do the alerts of the relay tell? E-mail addresses, with commas between them.")
    while True:
        typed = input("Nobody: press Enter. > ").split(",")
        emails = [one.strip() for one in typed if one.strip()]
        if all("@" in one for one in emails):
            break
        print("An address has an @.")
    subprocess.run([azd, "env", "set", EMAILS, json.dumps(emails)], check=True)


if __name__ == "__main__":
    sys.exit(main())
