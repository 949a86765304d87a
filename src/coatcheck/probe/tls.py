"""What TLS says of itself: client contexts, facts of a connection and its certificate, and errors in words. No I/O of its own.

Needs cryptography to read a certificate that cannot be trusted, which the ssl module does not show.
"""

import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec
from cryptography import x509
from cryptography.x509.oid import NameOID

from coatcheck.probe.errors import Failure, ProbeUsageError
from coatcheck.probe.words import printable, shortened

__all__ = ["Certificate", "Distrust", "certificate_of", "client_context", "distrust_of", "tls_failure"]

Distrust: TypeAlias = Literal["unknown issuer", "expired", "not yet valid", "another name", "unusable"]
"""Why a certificate was not trusted."""

_DISTRUST: dict[int, Distrust] = {
    # OpenSSL's X509_V_ERR_* numbers, which have been stable for decades.
    2: "unknown issuer",
    9: "not yet valid",
    10: "expired",
    18: "unknown issuer",
    19: "unknown issuer",
    20: "unknown issuer",
    21: "unknown issuer",
    62: "another name",
    64: "another name",
}
_NO_ALPN = ("NO_APPLICATION_PROTOCOL",)
_NO_TLS = (
    "WRONG_VERSION_NUMBER",
    "HTTP_REQUEST",
    "PACKET_LENGTH_TOO_LONG",
    "RECORD_LAYER_FAILURE",
    "UNEXPECTED_MESSAGE",
)
_OLD_TLS = ("PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL")
_MOST_NAMES = 20


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """What the server's own certificate says, and whether it was trusted."""

    subject: str
    issuer: str
    names: tuple[str, ...]
    """The host names and addresses that it is for."""
    not_before: str
    not_after: str
    """Moments, as RFC 3339 writes them."""
    days_left: float
    trusted: bool
    distrust: Distrust | None = None
    """Why it was not trusted."""


def client_context(alpn: tuple[str, ...], *, verify: bool, ca: Path | None) -> ssl.SSLContext:
    """A context that offers these protocols. Raises ProbeUsageError if the file of authorities is no use."""
    try:
        context = ssl.create_default_context(cafile=str(ca) if ca else None)
    except (OSError, ssl.SSLError) as error:
        what = error.strerror or "it holds no certificate in PEM form"
        if isinstance(error, ssl.SSLError):
            what = "it holds no certificate in PEM form"
        raise ProbeUsageError(f"the file of authorities {ca} cannot be used: {what}") from None
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(list(alpn))
    return context


def distrust_of(error: ssl.SSLCertVerificationError) -> Distrust:
    """The reason as one of few words."""
    return _DISTRUST.get(error.verify_code, "unusable")


def certificate_of(der: bytes, distrust: Distrust | None, now: datetime | None = None) -> Certificate | None:
    """Read a certificate; None if it cannot be read at all."""
    now = now or datetime.now(UTC)
    try:
        certificate = x509.load_der_x509_certificate(der)
        names = _names(certificate)
        subject, issuer = _common_name(certificate.subject), _common_name(certificate.issuer)
    except ValueError:
        return None
    return Certificate(
        subject=subject,
        issuer=issuer,
        names=names,
        not_before=certificate.not_valid_before_utc.isoformat().replace("+00:00", "Z"),
        not_after=certificate.not_valid_after_utc.isoformat().replace("+00:00", "Z"),
        days_left=round((certificate.not_valid_after_utc - now).total_seconds() / 86400, 1),
        trusted=distrust is None,
        distrust=distrust,
    )


def tls_failure(error: ssl.SSLError) -> Failure:
    """The error as a line that says what to try."""
    reason = error.reason or ""
    if isinstance(error, ssl.SSLCertVerificationError):
        return Failure(f"its certificate is not trusted: {_distrust_words(error)}", "certificate")
    if any(each in reason for each in _NO_ALPN):
        return Failure("it does not offer this protocol in TLS (ALPN)", "not-spoken")
    if any(each in reason for each in _NO_TLS):
        return Failure("what it answered is no TLS; does it speak plain http:// on this port?", "tls")
    if any(each in reason for each in _OLD_TLS):
        return Failure("it offers neither TLS 1.2 nor 1.3", "tls")
    if "CERTIFICATE_REQUIRED" in reason:
        return Failure("it asks for a client certificate, which this program cannot show", "tls")
    if isinstance(error, ssl.SSLEOFError):
        return Failure("it closed the connection in the middle of the TLS handshake", "closed")
    words = reason.replace("_", " ").lower() or printable(str(error))
    return Failure(f"TLS failed: {shortened(words)}", "tls")


def _distrust_words(error: ssl.SSLCertVerificationError) -> str:
    message = error.verify_message.strip().rstrip(".")
    return printable(message[:1].lower() + message[1:]) if message else "it could not be verified"


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    names = [*extension.get_values_for_type(x509.DNSName)]
    names += [str(address) for address in extension.get_values_for_type(x509.IPAddress)]
    return tuple(printable(name) for name in names[:_MOST_NAMES])


def _common_name(name: x509.Name) -> str:
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return shortened(str(found[0].value) if found else name.rfc4514_string(), 80)
