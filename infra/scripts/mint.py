"""Make the keys that the vault does not have: the hook after `azd provision`.

Hooks have no arguments, so `keys.py mint` cannot be one.
"""

import sys

import keys

if __name__ == "__main__":
    sys.exit(keys.main(["mint"]))
