"""Whom the relay trusts: one TLS context for Entra and Dynamics, made once."""

import os
import ssl
from collections.abc import Mapping
from pathlib import Path

import certifi


def trust(ca_bundle: str | None, environ: Mapping[str, str] = os.environ) -> ssl.SSLContext:
    """Return a client context of the system's trust and further CAs.

    `ca_bundle`: the path of a PEM file with further CAs, such as an on-premises AD FS has. The
    environment variables that `requests` reads are added too, never instead: with `requests` alone
    they silently replace whatever `verify` says (psf/requests#3829). Raises `OSError`, of which
    `ssl.SSLError` is one, when a file cannot be read.
    """
    context = ssl.create_default_context()
    paths = ssl.get_default_verify_paths()
    if os.name != "nt" and not (paths.cafile or paths.capath):
        # A Python that was not built for this system (python.org on macOS) knows no CAs at all.
        context.load_verify_locations(certifi.where())
    further = [environ.get(name) for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")]
    # Each file once: reading a whole trust store costs every cold start 20 ms.
    known = {paths.cafile and os.path.realpath(paths.cafile)}
    for path in filter(None, (*further, ca_bundle)):
        real = os.path.realpath(path)
        if real not in known:
            _load(context, Path(path))
            known.add(real)
    return context


def _load(context: ssl.SSLContext, path: Path) -> None:
    if path.is_dir():
        context.load_verify_locations(capath=path)
    else:
        context.load_verify_locations(cafile=path)
