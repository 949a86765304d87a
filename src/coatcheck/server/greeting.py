"""What a start says: where which HTTP version is served, in a few lines."""

import ipaddress
from datetime import UTC, datetime
from importlib.metadata import version

from coatcheck.server.certificates import CertificateFiles
from coatcheck.server.settings import Settings

__all__ = ["greeting"]


def greeting(settings: Settings, certificate: CertificateFiles | None, metrics: str = "") -> list[str]:
    """The lines to show once everything serves; `certificate` is None where there is no edge, `metrics` a line of its own."""
    lines = [f"Coatcheck {version('coatcheck')}, {settings.workers} workers, data in {settings.data_dir}"]
    local = settings.is_loopback()
    name = "localhost" if local or ipaddress.ip_address(settings.host).is_unspecified else settings.host
    name = f"[{name}]" if ":" in name else name
    tls, plain = f"https://{name}:{settings.https_port}", f"http://{name}:{settings.http_port}"
    if certificate is None:
        lines.append(f"  {plain}  HTTP/1.1 only: without the edge there is no TLS, and no gRPC")
    else:
        lines.append(f"  {tls}  HTTP/1.0, 1.1, 2 and 3")
        lines.append(f"  {plain}  HTTP/1.0, 1.1 and 2{'' if local else '; for others than this machine, on to TLS'}")
        if certificate.authority is not None:
            lines.append(f"  curl --cacert {certificate.authority} {tls}/v1/connection")
        if certificate.expires_at < datetime.now(UTC):
            lines.append(f"  warning: {certificate.certificate} ran out on {certificate.expires_at:%Y-%m-%d}")
    lines += [f"  {origin}" for origin in settings.public_origins]
    lines += [metrics] if metrics else []
    if not local and not settings.public_origins:
        lines.append("  warning: only loopback's names are answered; give others with --public-origin")
    lines.append("Stop it with Ctrl-C.")
    return lines
