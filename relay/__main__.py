"""`python -m relay`: see `relay/tools/commands.py`."""

import sys

if __name__ == "__main__":
    try:
        from relay.tools.commands import run
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] == "relay":
            raise
        sys.exit("First: python -m pip install -r requirements-operator.txt")
    sys.exit(run())
