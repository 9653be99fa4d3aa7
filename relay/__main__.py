"""`python -m relay`: see `relay/tools/commands.py`."""

import sys

from relay.tools.commands import run

if __name__ == "__main__":
    sys.exit(run())
