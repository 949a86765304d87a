"""An authority and certificates of its, for servers on localhost and for clients alike, as files."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

__all__ = ["write_pair"]

_PEM = serialization.Encoding.PEM


def write_pair(directory: Path) -> None:
    """Write `ca.pem`, and of one certificate `cert.pem` and `key.pem`."""
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority, name = (
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in ("authority", "localhost")
    )
    basic = x509.BasicConstraints(ca=True, path_length=None)
    for file, subject, of, extension in (
        ("ca.pem", authority, authority_key, basic),
        ("cert.pem", name, key, x509.SubjectAlternativeName([x509.DNSName("localhost")])),
    ):
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(authority)
            .public_key(of.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(extension, critical=extension is basic)
            .sign(authority_key, hashes.SHA256())
        )
        (directory / file).write_bytes(certificate.public_bytes(_PEM))
    plain = key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (directory / "key.pem").write_bytes(plain)
