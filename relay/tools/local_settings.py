"""App settings for the commands: the environment, and `local.settings.json` where there is one."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

FILE = "local.settings.json"


class UnreadableError(Exception):
    """The file of settings exists and cannot be used. The message says why, without values."""


def read(file: Path | None = None, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the app settings as Core Tools would give them to the app.

    The environment counts before `Values` of `file`, which is by default `local.settings.json`
    where the command was started, if there is one. Raises `UnreadableError`.
    """
    path = file or Path(FILE)
    if file is None and not path.is_file():
        if Path(f"{FILE}.txt").is_file():
            raise UnreadableError(f"{FILE}.txt: expected the name {FILE}; Windows hides .txt")
        return dict(environ)
    try:
        # Editors on Windows begin files with a byte order mark.
        content = json.loads(path.read_text("utf-8-sig"))
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise UnreadableError(f"{path} is no JSON: {error.msg} ({where})") from None
    except UnicodeError:
        raise UnreadableError(f"{path} cannot be read: save it as UTF-8") from None
    except (OSError, RecursionError) as error:
        raise UnreadableError(f"{path} cannot be read: {type(error).__name__}") from None
    values = content.get("Values") if isinstance(content, dict) else None
    if not isinstance(values, dict):
        raise UnreadableError(f'{path}: expected {{"Values": {{…}}}}')
    for name, value in values.items():
        if not isinstance(value, str):
            raise UnreadableError(f"{path}: {_shown(name)}: expected a text, in quotes")
    if content.get("IsEncrypted"):
        raise UnreadableError(f"{path} is encrypted; run: func settings decrypt")
    return {**values, **environ}


def _shown(name: str) -> str:
    """Return the name of a setting; not what somebody has put in a name's place."""
    return name if re.fullmatch(r"[A-Za-z][A-Za-z0-9_.:]{0,126}", name) else "a name"
