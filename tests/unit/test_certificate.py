"""A client certificate is read in every form that people have it in."""

import datetime as dt
import traceback
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    pkcs12,
)
from cryptography.x509.oid import NameOID

from relay.connections import ClientCertificate
from relay.entra import certificate
from relay.errors import CredentialRefused

PASSWORD = "canary~password"


def make(name: str, key: RSAPrivateKey) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )


KEY, OTHER_KEY = (generate_private_key(65537, 2048) for _ in range(2))
LEAF, OTHER = make("relay", KEY), make("issuer", OTHER_KEY)


def key_pem(
    encryption: KeySerializationEncryption | None = None,
    form: PrivateFormat = PrivateFormat.PKCS8,
    key: RSAPrivateKey = KEY,
) -> str:
    return key.private_bytes(Encoding.PEM, form, encryption or NoEncryption()).decode()


def cert_pem(*certificates: x509.Certificate) -> str:
    return "".join(each.public_bytes(Encoding.PEM).decode() for each in certificates)


LOCKED = BestAvailableEncryption(PASSWORD.encode())

FORMS = {
    "key-then-certificate": (key_pem() + cert_pem(LEAF), None),
    "certificate-then-key": (cert_pem(LEAF) + key_pem(), None),
    "issuer-before-leaf": (cert_pem(OTHER, LEAF) + key_pem(), None),
    "traditional-key": (key_pem(form=PrivateFormat.TraditionalOpenSSL) + cert_pem(LEAF), None),
    "encrypted-key": (key_pem(LOCKED) + cert_pem(LEAF), PASSWORD),
    "encrypted-traditional-key": (
        key_pem(LOCKED, PrivateFormat.TraditionalOpenSSL) + cert_pem(LEAF),
        PASSWORD,
    ),
    "one-line-with-spaces": ((key_pem() + cert_pem(LEAF)).replace("\n", " "), None),
    "one-line-with-nothing": ((key_pem() + cert_pem(LEAF)).replace("\n", ""), None),
    "one-line-with-escapes": ((key_pem() + cert_pem(LEAF)).replace("\n", "\\n"), None),
    "windows-lines": ((key_pem() + cert_pem(LEAF)).replace("\n", "\r\n"), None),
    "bag-attributes": (f"Bag Attributes\n  friendlyName: x\n{key_pem()}\n{cert_pem(LEAF)}", None),
}


def is_the_pair(loaded: tuple[str, str]) -> bool:
    key, chain = loaded
    found = load_pem_private_key(key.encode(), None)
    assert isinstance(found, RSAPrivateKey)
    return (
        found.private_numbers() == KEY.private_numbers()
        and x509.load_pem_x509_certificates(chain.encode())[0] == LEAF
    )


@pytest.mark.parametrize("form", FORMS)
def test_text_is_read_in_every_form_it_comes_in(form: str) -> None:
    text, password = FORMS[form]
    assert is_the_pair(certificate.load(ClientCertificate(text, password)))


@pytest.mark.parametrize("form", FORMS)
def test_a_file_may_hold_the_same(form: str, tmp_path: Path) -> None:
    text, password = FORMS[form]
    path = tmp_path / "client.pem"
    path.write_text(text, newline="")
    assert is_the_pair(certificate.load(ClientCertificate(str(path), password)))


def pfx(path: Path, password: str | None, *others: x509.Certificate) -> str:
    lock = BestAvailableEncryption(password.encode()) if password else NoEncryption()
    path.write_bytes(pkcs12.serialize_key_and_certificates(b"relay", KEY, LEAF, list(others), lock))
    return str(path)


@pytest.mark.parametrize("password", [None, PASSWORD], ids=["open", "locked"])
def test_a_pfx_is_opened_with_its_passphrase(tmp_path: Path, password: str | None) -> None:
    path = pfx(tmp_path / "client.pfx", password, OTHER)
    loaded = certificate.load(ClientCertificate(path, password))
    assert is_the_pair(loaded)
    assert loaded[1] == cert_pem(LEAF, OTHER)


def test_the_chain_goes_along_behind_the_certificate_of_the_key() -> None:
    source = cert_pem(OTHER, LEAF) + key_pem()
    assert certificate.load(ClientCertificate(source))[1] == cert_pem(LEAF, OTHER)


def broken(folder: Path) -> dict[str, ClientCertificate]:
    """Return certificates that cannot be used, each for another reason."""
    folder.joinpath("empty.pfx").write_bytes(b"")
    folder.joinpath("half.pem").write_text((cert_pem(LEAF) + key_pem())[:-200])
    keyless = folder / "keyless.pfx"
    keyless.write_bytes(
        pkcs12.serialize_key_and_certificates(None, None, LEAF, None, NoEncryption())
    )
    locked = pfx(folder / "locked.pfx", PASSWORD)
    return {
        "no-file": ClientCertificate(str(folder / "none.pem")),
        "a-folder": ClientCertificate(str(folder)),
        "an-empty-file": ClientCertificate(str(folder / "empty.pfx")),
        "half-a-file": ClientCertificate(str(folder / "half.pem")),
        "pfx-without-key": ClientCertificate(str(keyless)),
        "pfx-without-password": ClientCertificate(locked),
        "pfx-with-another-password": ClientCertificate(locked, PASSWORD + "x"),
        "locked-key-without-password": ClientCertificate(key_pem(LOCKED) + cert_pem(LEAF)),
        "locked-key-with-another": ClientCertificate(key_pem(LOCKED) + cert_pem(LEAF), "x"),
        "password-for-an-open-key": ClientCertificate(key_pem() + cert_pem(LEAF), PASSWORD),
        "certificate-of-another-key": ClientCertificate(key_pem() + cert_pem(OTHER)),
        "no-certificate": ClientCertificate(key_pem()),
        "no-key": ClientCertificate(cert_pem(LEAF)),
        "no-base64": ClientCertificate(key_pem().replace("M", "!") + cert_pem(LEAF)),
    }


CASES = sorted(
    [
        *("no-file", "a-folder", "an-empty-file", "half-a-file", "pfx-without-key"),
        *("pfx-without-password", "pfx-with-another-password", "locked-key-without-password"),
        *("locked-key-with-another", "password-for-an-open-key", "certificate-of-another-key"),
        *("no-certificate", "no-key", "no-base64"),
    ]
)


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_used_is_refused_without_a_word_of_it(case: str, tmp_path: Path) -> None:
    made = broken(tmp_path)
    assert sorted(made) == CASES
    with pytest.raises(CredentialRefused) as refused:
        certificate.load(made[case])
    assert refused.value.reason == "certificate_unreadable"
    assert "ENTRA_CLIENT_CERTIFICATE" in str(refused.value)
    told = "".join(traceback.format_exception(refused.value))
    assert "canary" not in told
    assert str(tmp_path) not in told
