"""Whom the relay trusts. Handshakes are real ones, in memory."""

import hashlib
import ssl
from pathlib import Path

import pytest
import trustme
from cryptography import x509

from relay import outgoing

HOST = "dynamics.example"


class Authority:
    """A CA with its file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ca = trustme.CA()
        self.ca.cert_pem.write_to_path(str(path))


@pytest.fixture
def one(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "one.pem")


@pytest.fixture
def two(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "two.pem")


def handshake(context: ssl.SSLContext, authority: Authority, host: str = HOST) -> None:
    """Connect to a server that `authority` has certified. Raises `ssl.SSLError`."""
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.ca.issue_cert(HOST).configure_cert(server_context)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(to_client, to_server, server_hostname=host)
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    waiting = [client, server]
    while waiting:
        side = waiting.pop(0)
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            waiting.append(side)


def trusts(context: ssl.SSLContext, authority: Authority) -> bool:
    try:
        handshake(context, authority)
    except ssl.SSLCertVerificationError:
        return False
    return True


def test_a_stranger_is_not_trusted(one: Authority) -> None:
    assert not trusts(outgoing.trust(None, {}), one)


def test_a_further_ca_is_trusted_and_no_other(one: Authority, two: Authority) -> None:
    context = outgoing.trust(str(one.path), {})
    assert trusts(context, one)
    assert not trusts(context, two)


def test_whom_the_system_trusts_stays_trusted(
    one: Authority, two: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(one.path))
    assert trusts(outgoing.trust(None, {}), one)
    assert trusts(outgoing.trust(str(two.path), {}), one)
    assert trusts(outgoing.trust(None, {"REQUESTS_CA_BUNDLE": str(two.path)}), one)


def hash_link(authority: Authority) -> str:
    """Return the name under which OpenSSL looks for a CA in a directory."""
    subject = x509.load_pem_x509_certificate(authority.path.read_bytes()).subject
    lower = x509.Name([x509.NameAttribute(each.oid, str(each.value).lower()) for each in subject])
    digest = hashlib.sha1(lower.public_bytes()[2:], usedforsecurity=False).digest()
    return f"{int.from_bytes(digest[:4], 'little'):08x}.0"


@pytest.mark.parametrize("has_links", [True, False])
@pytest.mark.parametrize("is_default", [True, False])
def test_debians_directory_of_cas_stands_for_its_file(
    tmp_path: Path,
    one: Authority,
    monkeypatch: pytest.MonkeyPatch,
    *,
    has_links: bool,
    is_default: bool,
) -> None:
    folder, file = tmp_path / "certs", tmp_path / "cert.pem"
    folder.mkdir()
    if has_links:
        (folder / hash_link(one)).symlink_to(one.path)
    other = Authority(folder / "ca-certificates.crt")
    file.symlink_to(other.path)
    default = file if is_default else tmp_path / "default.pem"
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    monkeypatch.setenv("SSL_CERT_DIR", str(folder))
    paths = ssl.get_default_verify_paths()._replace(openssl_cafile=str(default))
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: paths)
    context = outgoing.trust(None, {})
    assert trusts(context, one) == has_links
    assert trusts(context, other) == (not has_links or not is_default)  # Debian has it in both


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_the_variables_that_requests_reads_add_and_never_replace(
    name: str, one: Authority, two: Authority
) -> None:
    context = outgoing.trust(str(one.path), {name: str(two.path)})
    assert trusts(context, one)
    assert trusts(context, two)


def test_an_empty_variable_counts_as_none(one: Authority) -> None:
    environ = {"REQUESTS_CA_BUNDLE": "", "CURL_CA_BUNDLE": ""}
    assert trusts(outgoing.trust(str(one.path), environ), one)


def test_the_name_in_the_certificate_has_to_be_the_hosts(one: Authority) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(outgoing.trust(str(one.path), {}), one, host="evil.example")


def test_nothing_older_than_tls_1_2_is_spoken() -> None:
    assert outgoing.trust(None, {}).minimum_version >= ssl.TLSVersion.TLSv1_2


@pytest.fixture(params=["nothing", "text", "empty"])
def unreadable(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    path = tmp_path / "bundle.pem"
    if request.param != "nothing":
        path.write_text("no certificate\n" if request.param == "text" else "")
    return str(path)


def test_a_file_that_is_no_bundle_is_an_os_error(unreadable: str) -> None:
    with pytest.raises(OSError):  # noqa: PT011 - every kind of it
        outgoing.trust(unreadable, {})
    with pytest.raises(OSError):  # noqa: PT011 - every kind of it
        outgoing.trust(None, {"REQUESTS_CA_BUNDLE": unreadable})


def test_a_python_that_knows_no_cas_at_all_has_those_of_certifi(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nothing = ssl.DefaultVerifyPaths("", "", "", "", "", "")
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: nothing)
    assert len(outgoing.trust(None, {}).get_ca_certs()) > 50


@pytest.mark.parametrize(
    ("given", "url", "expected"),
    [
        ({}, "https://a.example/x", None),
        ({"HTTPS_PROXY": "http://p:1"}, "https://a.example/x", "http://p:1"),
        ({"HTTPS_PROXY": "p:1"}, "https://a.example/x", "http://p:1"),
        ({"HTTPS_PROXY": "http://p:1"}, "http://a.example/x", None),
        ({"ALL_PROXY": "http://p:1"}, "http://a.example/x", "http://p:1"),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "a.example"}, "https://a.example/x", None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": ".example"}, "https://a.example/x", None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "b"}, "https://a.example/x", "http://p:1"),
    ],
)
def test_the_environments_proxies_are_read_as_other_programs_read_them(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], url: str, expected: str | None
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        for spelled in (name, name.lower()):
            monkeypatch.delenv(spelled, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert outgoing.proxy_of(url) == expected


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ('{"a": 1}', {"a": 1}),
        (b'{"a": 1}', {"a": 1}),
        (b"{}", {}),
        (b"[]", None),
        (b"null", None),
        (b"<html>", None),
        (b"", None),
        (b'"\xff"', None),
        (b'{"a":' * 100_000, None),
    ],
    ids=["text", "bytes", "empty", "list", "null", "page", "nothing", "no-utf-8", "too-deep"],
)
def test_an_answer_is_a_json_object_or_nothing(
    content: str | bytes, found: dict[str, int] | None
) -> None:
    assert outgoing.json_object(content) == found
