"""App settings for the commands: the environment, and `local.settings.json` where there is one."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

FILE = "local.settings.json"


class UnreadableError(Exception):
    """`local.settings.json` exists and cannot be used. The message says why, without values."""


def read(folder: Path | None = None, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the app settings as Core Tools would give them to the app.

    The environment counts before `Values` of the file in `folder` (default: where the command was
    started). Raises `UnreadableError`.
    """
    path = (folder or Path()) / FILE
    if not path.is_file():
        return dict(environ)
    try:
        # Editors on Windows begin files with a byte order mark.
        content = json.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UnreadableError(f"{FILE} cannot be read: {type(error).__name__}") from None
    values = content.get("Values") if isinstance(content, dict) else None
    if not isinstance(values, dict) or not all(isinstance(each, str) for each in values.values()):
        raise UnreadableError(f'{FILE}: expected {{"Values": {{…}}}} with texts only')
    if content.get("IsEncrypted"):
        raise UnreadableError(f"{FILE} is encrypted; run: func settings decrypt")
    return {**values, **environ}
