"""What the subscription needs before the template: the hook before `azd provision`.

Azure registers the resource providers of a template by itself. A subnet for Flex Consumption needs
`Microsoft.App`, of which the template has no resource.
"""

from __future__ import annotations

import os
import sys

from az import az


def main() -> int:
    """Register what PRIVATE_NETWORK needs; return the exit code."""
    if os.environ.get("PRIVATE_NETWORK", "").lower() == "true":
        of = os.environ.get("AZURE_SUBSCRIPTION_ID", "")
        subscription = ["--subscription", of] if of else []
        # Registering again does nothing.
        az("provider", "register", "--namespace", "Microsoft.App", "--wait", *subscription)
        print("Microsoft.App is registered: the private network needs it.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
