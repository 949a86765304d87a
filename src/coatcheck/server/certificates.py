"""The server's own certificate authority and certificates, for this machine only; and a check of those the operator brings.

Promises: keys readable by their owner alone, files replaced whole or not at all, and certificates renewed a month
before they run out. The authority is constrained to localhost and loopback addresses (RFC 5280, section 4.2.1.10), so
trusting it gives nobody power over any other name. Leaves serving to `edge`.
"""

import fcntl
import ipaddress
import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from coatcheck.server.errors import CertificateError, StartError

__all__ = [
    "ADDRESSES",
    "LOCALHOST",
    "CertificateFiles",
    "Subject",
    "check_certificate",
    "ensure_data_dir",
    "local_certificate",
    "new_authority",
    "new_certificate",
]

_AUTHORITY_LIFETIME = timedelta(days=3650)
_CERTIFICATE_LIFETIME = timedelta(days=90)
_RENEW_BEFORE = timedelta(days=30)
_SKEW = timedelta(hours=1)
"""Certificates begin a little in the past, for clients whose clocks are behind."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What a certificate of our own is for, and the name of its files."""

    stem: str
    common_name: str
    names: tuple[x509.GeneralName, ...]


# Two, because BoringSSL, and so gRPC, knows no constraints on addresses: it refuses whatever has both an address of its own
# and an authority that is constrained to some. Constraints on kinds of names that a certificate does not have are passed over.
LOCALHOST = Subject("localhost", "localhost", (x509.DNSName("localhost"),))
"""For clients that ask for localhost by name."""
ADDRESSES = Subject(
    "address",
    # With spaces: verifiers and Envoy take a common name that could be a host's for one where there is no DNS name.
    "Coatcheck on loopback",
    (x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.IPAddress(ipaddress.ip_address("::1"))),
)
"""For clients that ask for an address, which they cannot say in SNI (RFC 6066, section 3)."""


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """Which files the edge serves TLS with; `authority` is None where the operator brought the certificate."""

    certificate: Path
    key: Path
    authority: Path | None
    expires_at: datetime
    """When the first of them runs out."""
    for_addresses: tuple[Path, Path] | None = None
    """Certificate and key for clients that name no host; None where one certificate serves all."""

    def pairs(self) -> tuple[tuple[Path, Path], ...]:
        """Each certificate with its key, the one for clients that name a host first."""
        named = (self.certificate, self.key)
        return (named,) if self.for_addresses is None else (named, self.for_addresses)


def ensure_data_dir(path: Path) -> None:
    """Make the data directory, which only its owner may enter. Raises StartError."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.stat().st_mode & 0o077:
            if any(path.iterdir()):  # perhaps somebody's home: not ours to shut
                raise StartError(
                    f"others may enter the data directory {path}; chmod 700 it, or choose another with --data-dir"
                )
            path.chmod(0o700)
    except OSError as error:
        raise StartError(
            f"the data directory {path} cannot be used: {error.strerror}; choose another with --data-dir"
        ) from None


def local_certificate(data_dir: Path, now: datetime | None = None) -> CertificateFiles:
    """The files of this server's own certificates, made or renewed if need be.

    Raises CertificateError when the authority's files are there but of no use: a new one would silently lose the
    trust that browsers were given.
    """
    now = now or datetime.now(UTC)
    folder = data_dir / "tls"
    folder.mkdir(mode=0o700, exist_ok=True)
    ca_file, ca_key_file = folder / "ca.pem", folder / "ca.key"
    with _alone(folder):
        if ca_file.exists() or ca_key_file.exists():
            authority, authority_key = _read_authority(ca_file, ca_key_file, now)
        else:
            authority, authority_key = new_authority(now)
            _write(ca_key_file, _key_bytes(authority_key))
            _write(ca_file, authority.public_bytes(serialization.Encoding.PEM), 0o644)
        leaves: list[x509.Certificate] = []
        pairs: list[tuple[Path, Path]] = []
        for subject in (LOCALHOST, ADDRESSES):
            file, key_file = folder / f"{subject.stem}.pem", folder / f"{subject.stem}.key"
            leaf = _usable(file, key_file, subject, authority, now)
            if leaf is None:
                leaf, key = new_certificate(authority, authority_key, now, subject)
                # Both are replaced before anyone is told to read them again.
                _write(key_file, _key_bytes(key))
                _write(file, leaf.public_bytes(serialization.Encoding.PEM), 0o644)
            leaves.append(leaf)
            pairs.append((file, key_file))
    (certificate, private), for_addresses = pairs
    return CertificateFiles(
        certificate, private, ca_file, min(leaf.not_valid_after_utc for leaf in leaves), for_addresses
    )


def check_certificate(certificate: Path, key: Path) -> CertificateFiles:
    """The operator's own files, if a server can use them. Raises CertificateError, one line that says which is wrong."""
    chain = _load_chain(certificate)
    private = _load_key(key)
    if private.public_key() != chain[0].public_key():
        raise CertificateError(f"{key} is not the key of {certificate}; give the two that were made together")
    curves = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
    known = isinstance(private, rsa.RSAPrivateKey) or (
        isinstance(private, ec.EllipticCurvePrivateKey) and isinstance(private.curve, curves)
    )
    if not known:
        raise CertificateError(f"{key} is of a kind that the edge cannot use; use ECDSA on P-256 or RSA")
    return CertificateFiles(certificate, key, None, chain[0].not_valid_after_utc)


def new_authority(now: datetime) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A certificate authority that can vouch for localhost and loopback addresses, and for nothing else."""
    key = ec.generate_private_key(ec.SECP256R1())
    # A name of its own each, or browsers that trusted an earlier one would take this for a forgery of it.
    name = _name(f"Coatcheck local CA {os.urandom(4).hex()}")
    permitted: list[x509.GeneralName] = [
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_network("127.0.0.0/8")),
        x509.IPAddress(ipaddress.ip_network("::1/128")),
    ]
    builder = (
        _builder(name, name, now, _AUTHORITY_LIFETIME, key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.NameConstraints(permitted, None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return builder.sign(key, hashes.SHA256()), key


def new_certificate(
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    now: datetime,
    subject: Subject = LOCALHOST,
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A certificate for `subject`, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    issuer_key_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    builder = (
        _builder(_name(subject.common_name), authority.subject, now, _CERTIFICATE_LIFETIME, key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(subject.names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(issuer_key_id, critical=False)
    )
    return builder.sign(authority_key, hashes.SHA256()), key


def _builder(
    subject: x509.Name, issuer: x509.Name, now: datetime, lifetime: timedelta, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + lifetime)
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _key_usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _read_authority(file: Path, key_file: Path, now: datetime) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    mend = f"delete {file.parent} to have a new one made (browsers must then be told to trust it again)"
    try:
        certificate, key = _load_chain(file)[0], _load_key(key_file)
    except CertificateError as error:
        raise CertificateError(f"{error}; {mend}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise CertificateError(f"{key_file} is not the key of {file}; {mend}")
    if certificate.not_valid_after_utc - _RENEW_BEFORE < now:
        raise CertificateError(f"{file} has run out; {mend}")
    return certificate, key


def _usable(
    file: Path, key_file: Path, subject: Subject, authority: x509.Certificate, now: datetime
) -> x509.Certificate | None:
    try:
        leaf = _load_chain(file)[0]
        leaf.verify_directly_issued_by(authority)
        same = _load_key(key_file).public_key() == leaf.public_key()
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (CertificateError, InvalidSignature, x509.ExtensionNotFound, ValueError, TypeError):
        return None
    current = leaf.not_valid_before_utc <= now and now + _RENEW_BEFORE < leaf.not_valid_after_utc
    # Earlier servers made one certificate for localhost and the addresses.
    return leaf if same and current and set(names) == set(subject.names) else None


def _load_chain(file: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(_read(file))
    except (ValueError, UnsupportedAlgorithm):
        raise CertificateError(f"{file} is not a certificate in PEM form") from None


def _load_key(file: Path) -> CertificateIssuerPrivateKeyTypes:
    try:
        key = serialization.load_pem_private_key(_read(file), password=None)
    except TypeError:
        raise CertificateError(f"{file} is encrypted; give a key without a passphrase") from None
    except (ValueError, UnsupportedAlgorithm):
        raise CertificateError(f"{file} is not a private key in PEM form") from None
    if not hasattr(key, "sign"):
        raise CertificateError(f"{file} is a key that cannot sign")
    return key  # pyright: ignore[reportReturnType] - those that sign are those that can issue


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise CertificateError(f"{file} cannot be read: {error.strerror}") from None


def _key_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Whole or not at all: a crash leaves the file as it was, or as it shall be."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


@contextmanager
def _alone(folder: Path) -> Generator[None]:
    """Keeps two servers that start at once from each making half of what the other serves."""
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
